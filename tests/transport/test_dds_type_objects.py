"""What is known beforehand of the types: exactly what cyclonedds computes, for every type with a definition here."""

from __future__ import annotations

import base64
import json
import zlib

import pytest
from cyclonedds.idl import types

from inference_service.transport.dds import type_objects
from inference_service.transport.dds.idl import message_layout

KNOWN = json.loads(type_objects.FILE.read_text())

pytestmark = pytest.mark.skipif(not hasattr(types, "byte"), reason="cyclonedds 0.10 does not tell of types")


def test_every_type_is_known_and_as_cyclonedds_computes_it() -> None:
    """When a definition was changed: python -m inference_service.transport.dds.type_objects"""
    layouts = type_objects.layouts()
    assert set(layouts) == set(KNOWN)
    for name, layout in layouts.items():
        known = tuple(zlib.decompress(base64.b64decode(text)) for text in KNOWN[name])
        idl = layout.__idl__
        idl._xt_data = (None, None)
        assert known == type_objects.computed(layout), name


def test_what_is_known_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = message_layout("std_msgs/msg/UInt8MultiArray")
    idl = layout.__idl__
    idl._xt_bytedata = (None, None)
    monkeypatch.setattr(type(idl), "fill_type_data", None)
    idl.fill_type_data()
    assert len(idl._xt_bytedata[0]) > 100

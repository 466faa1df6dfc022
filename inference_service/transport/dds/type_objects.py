"""XTypes descriptions of the types that the nodes use, computed beforehand.

cyclonedds describes every topic's type to its peers (OMG DDS-XTypes 1.3: TypeInformation and TypeMapping). Computing
that in Python takes an eighth of a node's start; it is the same each time. ``wire/msg/type_objects.json`` holds it, by
the type's name and fields, and a test compares it with what cyclonedds computes. After a change of a definition:
``python -m inference_service.transport.dds.type_objects``. A type that is not in it is computed as ever.
"""

from __future__ import annotations

import base64
import json
import sys
import zlib
from collections.abc import Iterable
from functools import cache, partial
from typing import Any

from inference_service.wire.definitions import FOLDER

FILE = FOLDER / "type_objects.json"
_ACTION_PARTS = ("_SendGoal_Request", "_SendGoal_Response", "_GetResult_Request", "_GetResult_Response")


def key_of(type_name: str, fields: Iterable[str]) -> str:
    """Two distributions of ROS may mean different types by one name on DDS, and a service's message has a header."""
    return f"{type_name}({','.join(fields)})"


def take_known(layout: Any, type_name: str, fields: Iterable[str]) -> None:
    """Have cyclonedds use what is known of the class ``layout``; nothing where it is not."""
    idl = layout.__idl__
    texts = _known().get(key_of(type_name, fields))
    if texts is not None and hasattr(idl, "_xt_bytedata"):
        idl.fill_type_data = partial(_fill, idl, texts)


def _fill(idl: Any, texts: list[str]) -> None:
    if idl._xt_bytedata[0] is None:
        idl._xt_bytedata = tuple(zlib.decompress(base64.b64decode(text)) for text in texts)


@cache
def _known() -> dict[str, list[str]]:
    known: dict[str, list[str]] = json.loads(FILE.read_text(encoding="ascii")) if FILE.is_file() else {}
    return known


def computed(layout: Any) -> tuple[bytes, bytes]:
    """TypeInformation and TypeMapping as cyclonedds computes them, XCDR2 without a header."""
    idl = layout.__idl__
    idl.populate()
    type(idl).fill_type_data(idl)
    return idl._xt_bytedata  # type: ignore[no-any-return]


def layouts() -> dict[str, Any]:
    """The class of every type with a definition file that can be a topic's, by its key in the file."""
    from inference_service.transport.dds.idl import message_layout, service_layout

    found: dict[str, Any] = {}
    for path in sorted(FOLDER.glob("*/*/*")):
        package, kind, name = path.parent.parent.name, path.parent.name, path.stem
        stem = f"{package}/{kind}/{name}"
        if kind == "msg":
            found[stem] = message_layout(stem)
        elif kind == "srv":
            found.update({f"{stem}_{part}": service_layout(f"{stem}_{part}") for part in ("Request", "Response")})
        else:
            found.update({stem + part: service_layout(stem + part) for part in _ACTION_PARTS})
            found[f"{stem}_FeedbackMessage"] = message_layout(f"{stem}_FeedbackMessage")
    return {key_of(name, layout.__annotations__): layout for name, layout in found.items()}


def main() -> int:
    """Compute the file anew."""
    lines = []
    for name, layout in sorted(layouts().items()):
        texts = [base64.b64encode(zlib.compress(data, 9)).decode("ascii") for data in computed(layout)]
        lines.append(f"{json.dumps(name)}: {json.dumps(texts)}")
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The base of every section of a robot file, and the small types its fields are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    WithJsonSchema,
    model_validator,
)
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic_core import core_schema

from robot_config.errors import Problem
from robot_config.yaml_source import Origin, Path_

_TOPIC = re.compile(r"(/|~/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
_TYPE = re.compile(r"[a-z][a-z0-9_]*/(msg|srv|action)/[A-Z][A-Za-z0-9]*")
_ENCODING = re.compile(r"f32|f16|u8|jpeg(:([1-9]|[1-8][0-9]|9[0-5]))?")


def _text_of_number(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _tuple_of_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _topic(value: str) -> str:
    if not _TOPIC.fullmatch(value):
        raise ValueError(f"{value!r} is not a ROS topic name: letters, digits, _ and /, no part starting with a digit")
    return value


def _ros_type(value: str) -> str:
    if not _TYPE.fullmatch(value):
        raise ValueError(f"{value!r} is not a ROS type: write package/msg/Name, such as sensor_msgs/msg/Image")
    return value


def _encoding(value: str) -> str:
    if not _ENCODING.fullmatch(value):
        raise ValueError(f"{value!r} is no encoding: u8, jpeg, jpeg:<quality from 1 to 95>, f16 or f32")
    return value


def _scalar(value: Any) -> Any:
    if not isinstance(value, (str, int, float, bool)):
        raise ValueError("expected text, a number or true/false")
    return value


Name = Annotated[
    str, BeforeValidator(_text_of_number), Field(min_length=1), WithJsonSchema({"type": ["string", "integer"]})
]
"""A name; YAML's ``1`` is taken for ``"1"``, as joints are often numbered."""
Names = Annotated[tuple[Name, ...], BeforeValidator(_tuple_of_list)]
Topic = Annotated[str, AfterValidator(_topic)]
RosType = Annotated[str, AfterValidator(_ros_type)]
Encoding = Annotated[str, AfterValidator(_encoding)]
"""How a picture travels, as the wire's codecs are written."""
Scalar = Annotated[Any, AfterValidator(_scalar)]
AsTuple = BeforeValidator(_tuple_of_list)
"""Marks a tuple field that YAML writes as a list."""


class Section(BaseModel):
    """A section: frozen, strict types, unknown keys forbidden, foreign keys (:mod:`robot_config.foreign`) dropped.

    A key without a value (``inference:``) counts as left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    foreign: ClassVar[Mapping[str, str]] = {}
    """Keys that are somebody else's, with whose."""
    derived: ClassVar[tuple[str, ...]] = ()
    """Keys without a default of their own that :meth:`complete` fills in."""

    _origin: Origin = PrivateAttr(default_factory=lambda: Origin("<built in code>"))
    _path: Path_ = PrivateAttr(default=())

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return cls.complete({k: v for k, v in data.items() if v is not None and k not in cls.foreign})

    @classmethod
    def complete(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Fill in defaults that depend on other keys. ``data`` may hold anything: it is not validated yet."""
        return data

    def where(self, *keys: str | int) -> str:
        """``file:line`` of this section, or of a key in it."""
        return self._origin.where((*self._path, *keys))

    def problem(self, message: str, *keys: str | int) -> Problem:
        """A problem of this section, or of a key in it, with its file and line."""
        return self._origin.problem((*self._path, *keys), message)

    def was_written(self, *keys: str | int) -> bool:
        """Whether the file holds this key (and it was not filled in)."""
        return self._origin.has((*self._path, *keys))

    def attach(self, origin: Origin, path: Path_ = ()) -> None:
        """Tell this section and those below it where they were written."""
        self._origin, self._path = origin, path
        for name in type(self).model_fields:
            _attach(getattr(self, name), origin, (*path, name))

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        from robot_config.descriptions import descriptions

        found = handler.resolve_ref_schema(handler(schema))
        for key, text in descriptions(cls).items():
            if key in found.get("properties", {}):
                found["properties"][key].setdefault("description", text)
        for key, why in cls.foreign.items():
            found.setdefault("properties", {})[key] = {"description": f"Accepted and ignored: {why}."}
        if "required" in found:
            found["required"] = [key for key in found["required"] if key not in cls.derived]
        return found


class OpenSection(Section):
    """A section that belongs to a driver or plugin: we read a few keys and leave the others to it."""

    model_config = ConfigDict(extra="ignore")


def _attach(value: Any, origin: Origin, path: Path_) -> None:
    if isinstance(value, Section):
        value.attach(origin, path)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _attach(item, origin, (*path, key))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            _attach(item, origin, (*path, index))

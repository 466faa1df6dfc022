"""Parameter values of the stand-in."""

from __future__ import annotations

_TYPES = (str, int, float, bool)


class ParameterValue:
    def __init__(self, value: object, *, value_type: type | None = None) -> None:
        if value_type not in (*_TYPES, None):
            raise ValueError(f"unsupported type {value_type}")
        if value_type is not None and type(value) is not value_type:
            raise TypeError(f"{value!r} is not of type {value_type}")
        self.value, self.value_type = value, value_type

"""``rclpy.parameter``: a parameter whose value is not of its type is refused."""

from __future__ import annotations

from enum import Enum


class Parameter:
    class Type(Enum):
        NOT_SET = 0
        BOOL = 1
        INTEGER = 2
        DOUBLE = 3
        STRING = 4

        def check(self, value):
            wanted = {"NOT_SET": type(None), "BOOL": bool, "INTEGER": int, "DOUBLE": float, "STRING": str}
            return isinstance(value, wanted[self.name])

    def __init__(self, name, type_=None, value=None):
        if not isinstance(type_, Parameter.Type):
            raise TypeError(f"type must be an instance of '{Parameter.Type!r}'")
        if not type_.check(value):
            raise ValueError(f"Type '{type_}' and value '{value}' do not agree")
        self.name, self.type_, self.value = name, type_, value

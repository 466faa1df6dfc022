"""Actions of the stand-in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from launch import require_text


class Action:
    def __init__(self, *, condition: object = None) -> None:
        self.condition = condition


class DeclareLaunchArgument(Action):
    def __init__(
        self,
        name: str,
        *,
        default_value: str | None = None,
        description: str | None = None,
        choices: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if default_value is not None:
            require_text(default_value, "default_value")
        if choices is not None and (not choices or (default_value is not None and default_value not in choices)):
            raise RuntimeError("Provided default_value is not in provided choices")
        self.name, self.default_value, self.description = name, default_value, description or "no description given"


class OpaqueFunction(Action):
    def __init__(
        self,
        *,
        function: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **left_over_kwargs: Any,
    ) -> None:
        super().__init__(**left_over_kwargs)
        if not callable(function):
            raise TypeError("OpaqueFunction expected a callable for 'function'")
        self._call = lambda context: function(context, *(args or ()), **(kwargs or {}))

    def execute(self, context: Any) -> list[Any] | None:
        return self._call(context)


class LogInfo(Action):
    def __init__(self, *, msg: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_text(msg, "msg")
        self.msg = msg

"""A node's parameters for ``ros2 param list|get|describe|set``: the six services of rcl_interfaces and the events.

Every parameter can be read. Those that an app declares changeable can be set, checked by their declared type and
by the app; the others are refused with what to do instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from inference_service.core.errors import InferenceServiceError
from inference_service.nodes.diagnostics import stamp_message
from inference_service.transport.protocol import Message, Node, QoS
from inference_service.wire.interfaces import new_message

EVENTS_TOPIC = "/parameter_events"
EVENTS_QOS = QoS(depth=1000)
"""``rmw_qos_profile_parameter_events`` of rmw."""
NOT_SET, BOOL, INTEGER, DOUBLE, STRING = range(5)
"""``rcl_interfaces/msg/ParameterType``; ours are of no other type."""
_FIELDS = {BOOL: "bool_value", INTEGER: "integer_value", DOUBLE: "double_value", STRING: "string_value"}


@dataclass(frozen=True)
class Changeable:
    """A parameter that is safe to change while the node runs.

    ``get`` tells the value in force. ``set`` is given a value of the parameter's own type and puts it in force before
    it returns, or raises ValueError or InferenceServiceError with the reason why not. Both run on the thread of the
    services.
    """

    get: Callable[[], Any]
    set: Callable[[Any], None]


class ParameterServices:
    """Serves the parameters of one node, for as long as the node lives."""

    def __init__(self, node: Node, parameters: BaseModel, changeable: Mapping[str, Changeable]) -> None:
        self._node = node
        self._logger = logging.getLogger(node.name)
        self._parameters = parameters
        self._fields = type(parameters).model_fields
        self._changeable = changeable
        self._events = node.create_publisher(EVENTS_TOPIC, "rcl_interfaces/msg/ParameterEvent", EVENTS_QOS)
        for service, serve in (
            ("ListParameters", self._list),
            ("GetParameters", self._get),
            ("GetParameterTypes", self._get_types),
            ("DescribeParameters", self._describe),
            ("SetParameters", self._set),
            ("SetParametersAtomically", self._set_atomically),
        ):
            self._serve(service, serve)
        self._tell(new_parameters=list(self._fields))

    def _serve(self, service: str, answer: Callable[[Message], dict[str, Any]]) -> None:
        kind = f"rcl_interfaces/srv/{service}"

        def callback(request: Message) -> Message:
            return new_message(f"{kind}_Response", **answer(request))

        name = "".join(f"_{c.lower()}" if c.isupper() else c for c in service).lstrip("_")
        self._node.create_service(f"{self._node.name}/{name}", kind, callback, group="parameters")

    # -- reading ------------------------------------------------------------------------------------------------

    def value(self, name: str) -> Any:
        """The value in force; None for a parameter that is not set, or does not exist."""
        known = self._changeable.get(name)
        return known.get() if known else getattr(self._parameters, name, None) if name in self._fields else None

    def _list(self, request: Message) -> dict[str, Any]:
        prefixes = set(request.prefixes)
        names = [name for name in self._fields if not prefixes or name in prefixes]  # ours have no dots
        return {"result": new_message("rcl_interfaces/msg/ListParametersResult", names=names)}

    def _get(self, request: Message) -> dict[str, Any]:
        return {"values": [to_value(self.value(name)) for name in request.names]}

    def _get_types(self, request: Message) -> dict[str, Any]:
        types = [int(to_value(self.value(name)).type) for name in request.names]
        return {"types": np.array(types, np.uint8)}

    def _describe(self, request: Message) -> dict[str, Any]:
        return {"descriptors": [self._descriptor(name) for name in request.names]}

    def _descriptor(self, name: str) -> Message:
        kind = "rcl_interfaces/msg/ParameterDescriptor"
        if name not in self._fields:
            return new_message(kind, name=name)
        fixed = name not in self._changeable
        return new_message(
            kind,
            name=name,
            type=to_value(self.value(name)).type,
            description=self._fields[name].description or "",
            additional_constraints="set when the node is started" if fixed else "",
            read_only=fixed,
        )

    # -- setting ------------------------------------------------------------------------------------------------

    def _set(self, request: Message) -> dict[str, Any]:
        return {"results": [self._set_all([parameter]) for parameter in request.parameters]}

    def _set_atomically(self, request: Message) -> dict[str, Any]:
        return {"result": self._set_all(request.parameters)}

    def _set_all(self, parameters: Sequence[Message]) -> Message:
        """All of them or none."""
        before: list[tuple[str, Any]] = []
        try:
            wanted = [(one.name, self._check(one.name, from_value(one.value))) for one in parameters]
            for name, value in wanted:
                old = self.value(name)
                self._changeable[name].set(value)
                before.append((name, old))
        except (ValueError, InferenceServiceError) as error:
            for name, old in reversed(before):
                self._changeable[name].set(old)
            return new_message("rcl_interfaces/msg/SetParametersResult", successful=False, reason=str(error))
        for name, value in wanted:
            self._logger.info("parameter %s set to %r", name, value)
        self._tell(changed_parameters=[name for name, _ in wanted])
        return new_message("rcl_interfaces/msg/SetParametersResult", successful=True)

    def _check(self, name: str, value: Any) -> Any:
        """The value as the parameter's own type. Raises ValueError with the reason for a refusal."""
        if name not in self._fields:
            raise ValueError(f"no parameter {name!r} here: there are {', '.join(self._fields)}")
        if name not in self._changeable:
            can = ", ".join(self._changeable) or "none can"
            raise ValueError(f"{name} cannot be changed while the node runs: restart it with {name}:=… (can be: {can})")
        if value is None:
            raise ValueError(f"{name} cannot be unset while the node runs")
        try:
            return _adapter(self._fields[name]).validate_python(value, strict=True)
        except ValidationError as error:
            raise ValueError(f"{name}: {error.errors()[0]['msg']}, not {value!r}") from error

    def _tell(self, **names: list[str]) -> None:
        lists = {field: [self._parameter(name) for name in given] for field, given in names.items()}
        if not any(lists.values()):
            return
        kind = "rcl_interfaces/msg/ParameterEvent"
        stamp = stamp_message(self._node.now_ns())
        self._events.publish(new_message(kind, stamp=stamp, node=f"/{self._node.name}", **lists))

    def _parameter(self, name: str) -> Message:
        return new_message("rcl_interfaces/msg/Parameter", name=name, value=to_value(self.value(name)))


def to_value(value: Any) -> Message:
    """A ``rcl_interfaces/msg/ParameterValue``; what ROS has no type for is told as a string."""
    kind = "rcl_interfaces/msg/ParameterValue"
    if value is None:
        return new_message(kind)
    types = {bool: BOOL, int: INTEGER, float: DOUBLE}
    number = types.get(type(value), STRING)
    return new_message(kind, **{"type": number, _FIELDS[number]: value if number != STRING else str(value)})


def from_value(value: Message) -> Any:
    """The Python value. None where it is not set.

    Raises:
        ValueError: an array, which no parameter of ours is.
    """
    if value.type == NOT_SET:
        return None
    if value.type not in _FIELDS:
        raise ValueError(f"parameter type {value.type}: no parameter here is an array")
    return getattr(value, _FIELDS[value.type])


def _adapter(field: FieldInfo) -> TypeAdapter[Any]:
    annotation: Any = field.annotation
    kind: Any = getitem(Annotated, (annotation, *field.metadata)) if field.metadata else annotation
    return TypeAdapter(kind)

"""Run one node as one process: parameters, logging, signals, exit status."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from inference_service.core.errors import InferenceServiceError
from inference_service.core.stop_signals import StopSignals
from inference_service.nodes.parameter_services import ParameterServices
from inference_service.nodes.ros_arguments import ParameterError, parse_arguments
from inference_service.nodes.rosout import RosoutHandler
from inference_service.transport import create_node
from inference_service.transport.protocol import Node
from inference_service.wire.type_description import SERVICE, answer_type_request

EXIT_BAD_PARAMETERS = 2
EXIT_FAILED = 1

_logger = logging.getLogger("inference_service.runtime")


class NodeParameters(BaseModel):
    """Parameters that every node takes; each is also a ROS parameter of that name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node_name: str
    namespace: str = "/"
    use_sim_time: bool = False
    transport: str = "dds"
    log_level: Literal["debug", "info", "warn", "warning", "error", "fatal"] = "info"

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


class App(Protocol):
    """What runs on a node. ``failure`` is set when the process has to end with an error.

    An app may have ``changeable: Mapping[str, Changeable]``, the parameters that can be set while it runs.
    """

    @property
    def failure(self) -> str | None: ...

    def close(self) -> None: ...


P = TypeVar("P", bound=NodeParameters)


def build_parameters(parameters_type: type[P], values: dict[str, str]) -> P:
    """Typed parameters out of raw strings.

    Raises:
        ParameterError: every problem, one a line, with the nearest valid name for an unknown key.
    """
    known = list(parameters_type.model_fields)
    try:
        return parameters_type(**values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = str(problem["loc"][0]) if problem["loc"] else ""
            if problem["type"] == "extra_forbidden":
                near = get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
                lines.append(f"unknown parameter {key!r}: {hint}")
            elif problem["type"] == "missing":
                lines.append(f"parameter {key!r} is required: add {key}:=…")
            else:
                lines.append(f"parameter {key!r} = {problem['input']!r}: {problem['msg']}")
        raise ParameterError("\n".join(lines)) from error


def describe_parameters(parameters_type: type[NodeParameters]) -> str:
    """The parameters with their defaults, one a line, for people."""
    lines = ["parameters, as KEY:=VALUE or --ros-args -p KEY:=VALUE:"]
    for name, field in parameters_type.model_fields.items():
        lines.append(f"  {name}: {'required' if field.is_required() else repr(field.default)}")
    return "\n".join(lines) + "\n"


class _RosFormatter(logging.Formatter):
    """``[INFO] [1700000000.123456789] [node]: message``, as rcutils prints it."""

    def format(self, record: logging.LogRecord) -> str:
        level = "WARN" if record.levelno == logging.WARNING else record.levelname
        text = f"[{level}] [{record.created:.9f}] [{record.name}]: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def configure_logging(level: int = logging.INFO) -> None:
    """Send every log record to standard error, one line each, in ROS's own form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_RosFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("OpenGL").setLevel(logging.WARNING)  # tells of its optional accelerator at INFO


def run_node(parameters_type: type[P], start: Callable[[Node, P], App], argv: Sequence[str]) -> int:
    """Start a node, wait for SIGINT or SIGTERM, stop it; the process's exit status.

    0 after a signal, 1 when the app failed, 2 for bad parameters or a configuration that cannot work.
    """
    if any(word in ("-h", "--help") for word in argv):
        sys.stdout.write(describe_parameters(parameters_type))
        return 0
    configure_logging()
    faulthandler.enable()
    stop = StopSignals()
    stop.listen(signal.SIGINT, signal.SIGTERM)
    try:
        default_name = parameters_type.model_fields["node_name"].default
        parameters = build_parameters(parameters_type, parse_arguments(argv, default_name))
        logging.getLogger().setLevel(parameters.log_level.upper())
        node = create_node(
            parameters.node_name,
            parameters.transport,
            use_sim_time=parameters.use_sim_time,
            namespace=parameters.namespace,
        )
    except InferenceServiceError as error:
        _report(error)
        return EXIT_BAD_PARAMETERS
    rosout = RosoutHandler(node)
    logging.getLogger().addHandler(rosout)
    try:
        return _run(node, start, parameters, stop)
    finally:
        logging.getLogger().removeHandler(rosout)
        rosout.close()
        node.close()


def _report(error: Exception) -> None:
    for line in str(error).splitlines():
        _logger.error("%s", line)


def _run(node: Node, start: Callable[[Node, P], App], parameters: P, stop: StopSignals) -> int:
    try:
        app = start(node, parameters)
    except (InferenceServiceError, ValueError, OSError) as error:
        _report(error)
        return EXIT_BAD_PARAMETERS
    ParameterServices(node, parameters, getattr(app, "changeable", {}))
    if not node.describes_types:
        node.create_service(f"{node.name}/get_type_description", SERVICE, answer_type_request, group="parameters")
    # What lives now lives as long as the process: keep the collector from walking it during control ticks.
    gc.collect()
    gc.freeze()
    try:
        while not stop.wait(0.2):
            if app.failure:
                _logger.error("%s", app.failure)
                return EXIT_FAILED
    finally:
        app.close()
    return 0


def yield_to_control(niceness: int = 10) -> None:
    """Lower the calling thread's priority, and that of the threads it starts from now on.

    For model and picture threads: where they share cores with a dispatcher, its tick goes first. Linux keeps
    a niceness per thread, and anyone may raise it; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


def monotonic_ms() -> float:
    """Monotonic time in milliseconds, for durations."""
    return time.perf_counter() * 1e3

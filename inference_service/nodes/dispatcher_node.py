"""``action_dispatcher``: asks for chunks of actions and sends them, one a tick, on the robot's command topics.

The control tick has a thread of its own and waits for nothing: answers, service calls and joint states are left for
it by other threads and taken up when it begins; log lines and diagnostics are left by it for another thread to write.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from inference_service.core.errors import MalformedMessage, TransportError
from inference_service.dispatch.config import DispatcherConfig, check_control_rate
from inference_service.dispatch.dispatcher import MILLISECOND_NS, ActionDispatcher
from inference_service.dispatch.report import Event, State, TickResult
from inference_service.dispatch.requests import InferenceRequest
from inference_service.dispatch.timing import TickClock
from inference_service.nodes.diagnostics import DiagnosticsPublisher, Level, Status, stamp_message
from inference_service.nodes.dispatcher_parameters import DEVICE_MARGIN_S, Order, changeable
from inference_service.nodes.dispatcher_robot import Commands, Joints, safety_limits
from inference_service.nodes.dispatcher_status import Outlook, judge, values
from inference_service.nodes.parameter_services import Changeable
from inference_service.nodes.runtime import NodeParameters, run_node
from inference_service.nodes.scheduling import Scheduling
from inference_service.transport.protocol import ClientGoal, GoalStatus, Message, Node
from inference_service.wire.interfaces import new_message
from inference_service.wire.variants import from_variants
from robot_config import RobotConfig, load_robot_config

ACTION_TYPE = "ibrobot_msgs/action/DispatchInfer"
EMPTY = "std_srvs/srv/Empty"
STATS_PERIOD_S = 5.0
REPORT_PERIOD_S = 0.1
SERVICE_WAIT_S = 1.0
KEPT_EVENTS = 1000

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class DispatcherParameters(NodeParameters):
    """What is left out comes from the robot's file: ``control_mode`` its default, executor values those of the mode.

    ``policy_fps``: rate that the policy was trained at; default the contract's ``rate_hz``. ``prompt``: sent with each
    request. ``start_ramp_s``: how long the first commands take from where the robot is to where the policy wants it.
    ``real_time_priority``, ``cpu_affinity`` (cores, ``"2,3"``): of the control thread, see :mod:`.scheduling`.
    """

    node_name: str = "action_dispatcher"
    robot_config_path: str
    control_mode: str = ""
    inference_action_server: str = "/act_inference_node/DispatchInfer"
    queue_size: int | None = None
    watermark_threshold: int | None = None
    control_frequency: float | None = None
    temporal_smoothing_enabled: bool | None = None
    temporal_ensemble_coeff: float | None = None
    request_timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    policy_fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    prompt: str = ""
    start_ramp_s: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    real_time_priority: int | None = Field(default=None, ge=0, le=99)
    cpu_affinity: str | None = Field(default=None, pattern=r"^(\d+(,\d+)*)?$")


V = TypeVar("V")


def _given(value: V | None, default: V) -> V:
    return default if value is None else value


def dispatcher_config(robot: RobotConfig, parameters: DispatcherParameters) -> DispatcherConfig:
    """Parameters where given, the robot's file where not.

    Raises:
        RobotConfigError: no such control mode, or actions that make up no vector.
        ValueError: values that cannot work, named by their key.
    """
    mode = robot.control_mode(parameters.control_mode)
    executor = mode.executor
    timeout_s = parameters.request_timeout or mode.inference.request_timeout
    return DispatcherConfig(
        safety=safety_limits(robot, parameters.start_ramp_s),
        control_hz=_given(parameters.control_frequency, executor.control_frequency),
        session=uuid.uuid4().hex[:8],
        queue_size=_given(parameters.queue_size, executor.queue_size),
        watermark=_given(parameters.watermark_threshold, executor.watermark_threshold),
        request_timeout_s=timeout_s + DEVICE_MARGIN_S,
        smoothing=_given(parameters.temporal_smoothing_enabled, executor.temporal_smoothing_enabled),
        ensemble_coeff=_given(parameters.temporal_ensemble_coeff, executor.temporal_ensemble_coeff),
    )


def control_scheduling(robot: RobotConfig, parameters: DispatcherParameters) -> Scheduling:
    """Of the control thread: parameters where given, the robot's file where not."""
    executor = robot.control_mode(parameters.control_mode).executor
    cpus = executor.cpu_affinity
    if parameters.cpu_affinity is not None:
        cpus = tuple(int(cpu) for cpu in parameters.cpu_affinity.split(",") if cpu)
    return Scheduling(_given(parameters.real_time_priority, executor.real_time_priority), cpus)


class DispatcherNode:
    """Runs an :class:`ActionDispatcher` on a node. ``close`` leaves the robot as its safe behaviour says."""

    def __init__(self, node: Node, parameters: DispatcherParameters) -> None:
        self._node = node
        self._parameters = parameters
        self._logger = logging.getLogger(node.name)
        robot = load_robot_config(parameters.robot_config_path)
        self._policy_fps = _given(parameters.policy_fps, robot.contract.rate_hz)
        self._dispatcher = ActionDispatcher(dispatcher_config(robot, parameters))
        self._scheduling = control_scheduling(robot, parameters)
        self._scheduling.check()
        self._control_thread: int | None = None
        self._rate_problem = check_control_rate(self._config.control_hz, self._policy_fps)
        self._prompt = parameters.prompt
        self._commands = Commands(node, robot)
        self._joints = Joints(node, robot)
        self._client = node.create_action_client(parameters.inference_action_server, ACTION_TYPE, group="answers")
        self._goal: tuple[str, ClientGoal] | None = None
        self._inbox: deque[Callable[[], None]] = deque()
        self._events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._clock = TickClock()
        self._tick_lock = threading.Lock()
        self._stopped = False
        self._stats = self._dispatcher.stats(time.monotonic_ns())
        self._told: tuple[Level, State] | None = None
        self._queue_size = node.create_publisher(f"{node.name}/queue_size", "std_msgs/msg/Int32")
        self._smoothing = node.create_publisher(f"{node.name}/smoothing_enabled", "std_msgs/msg/Bool")
        node.create_service(f"{node.name}/reset", EMPTY, self._on_reset, group="services")
        node.create_service(f"{node.name}/toggle_smoothing", EMPTY, self._on_toggle, group="services")
        self._say_ready()
        self._diagnostics = DiagnosticsPublisher(node, lambda: [self._status()])
        self._timers = [
            node.create_timer(REPORT_PERIOD_S, self._report, group="diagnostics"),
            node.create_timer(STATS_PERIOD_S, self._log_stats, group="diagnostics"),
        ]
        self.changeable = {
            **changeable(lambda: self._config, lambda config: self._at_next_tick(partial(self._reconfigure, config))),
            "prompt": Changeable(lambda: self._prompt, partial(setattr, self, "_prompt")),
        }
        node.on_clock_jump(lambda _back_ns: self._inbox.append(self._dispatcher.on_clock_jump))
        self._start_ticking()

    @property
    def _config(self) -> DispatcherConfig:
        return self._dispatcher.config

    def _start_ticking(self) -> None:
        self._tick_timer = self._node.create_timer(1.0 / self._config.control_hz, self._on_tick, group="control")

    @property
    def failure(self) -> str | None:
        """Never: what breaks is shown in diagnostics, and the robot holds or behaves safely."""
        return None

    def _say_ready(self) -> None:
        config = self._config
        if self._rate_problem:
            self._logger.warning("%s", self._rate_problem)
        if not self._joints.topics:
            self._logger.warning(
                "no joint state in the contract: the first command cannot lead from where the robot is"
            )
        self._logger.info(
            "Dispatcher ready. Hz: %g, Watermark: %d, Smoothing: %s",
            config.control_hz,
            config.watermark,
            "ON" if config.smoothing else "OFF",
        )
        self._logger.info("Waiting for inference server: %s", self._parameters.inference_action_server)

    # -- the control tick, on its own thread --------------------------------------------------------------------

    def _on_tick(self) -> None:
        if self._control_thread != threading.get_ident():
            self._control_thread = threading.get_ident()
            self._scheduling.apply()
        with self._tick_lock:  # contended only by close()
            if not self._stopped:
                self._tick(time.monotonic_ns())

    def _tick(self, now_ns: int) -> None:
        self._clock.record(now_ns)
        self._take_in(now_ns)
        result = self._dispatcher.tick(now_ns, self._node.now_ns())
        if result.command is not None:
            self._commands.send(result.command)
        if result.request is not None:
            self._send_goal(result.request)
        self._cancel(result.cancel)
        self._events.extend(result.events)
        self._stats = self._dispatcher.stats(now_ns)
        self._publish_tick(result)

    def _take_in(self, now_ns: int) -> None:
        """What other threads left since the last tick."""
        self._dispatcher.on_server_state(self._client.server_is_ready, now_ns)
        positions = self._joints.latest()
        if positions is not None:
            self._dispatcher.on_joint_state(*positions)
        if self._commands.rival is not None:
            self._dispatcher.on_rival(*self._commands.rival)
        for _ in range(len(self._inbox)):
            self._inbox.popleft()()

    def _publish_tick(self, result: TickResult) -> None:
        try:
            self._queue_size.publish(new_message("std_msgs/msg/Int32", data=result.remaining))
            self._smoothing.publish(new_message("std_msgs/msg/Bool", data=self._dispatcher.smoothing))
        except TransportError as error:
            self._events.append(Event("debug", f"queue size not published: {error}"))

    # -- goals --------------------------------------------------------------------------------------------------

    def _send_goal(self, request: InferenceRequest) -> None:
        message = new_message(
            f"{ACTION_TYPE}_Goal",
            obs_timestamp=stamp_message(request.obs_stamp_ns),
            prompt=self._prompt,
            inference_id=request.request_id,
        )
        try:
            goal = self._client.send_goal(message, partial(self._on_result, request.request_id))
        except TransportError as error:
            self._dispatcher.on_failure(request.request_id, f"goal not sent: {error}", request.sent_ns)
        else:
            self._goal = request.request_id, goal

    def _cancel(self, request_ids: Sequence[str]) -> None:
        if self._goal is not None and self._goal[0] in request_ids:
            self._goal[1].cancel()
            self._goal = None

    def _on_result(self, request_id: str, status: GoalStatus, result: Message | None) -> None:
        """On the client's thread: decode here, apply at the next tick."""
        received_ns = time.monotonic_ns()
        fail = partial(self._dispatcher.on_failure, request_id, now_ns=received_ns)
        if status is not GoalStatus.SUCCEEDED or result is None or not result.success:
            self._inbox.append(partial(fail, _reason(status, result)))
            return
        try:
            actions = chunk_of(result)
        except MalformedMessage as error:
            self._inbox.append(partial(fail, str(error)))
            return
        latency_ms = float(result.inference_latency_ms)
        self._inbox.append(partial(self._dispatcher.on_result, request_id, actions, latency_ms, received_ns))

    # -- services, on their own thread --------------------------------------------------------------------------

    def _on_reset(self, _request: Message) -> Message:
        self._obey("reset", self._dispatcher.reset)
        return new_message(f"{EMPTY}_Response")

    def _on_toggle(self, _request: Message) -> Message:
        self._obey("toggle_smoothing", self._toggle)
        return new_message(f"{EMPTY}_Response")

    def _toggle(self) -> None:
        self._dispatcher.set_smoothing(not self._dispatcher.smoothing)
        self._events.append(
            Event("info", f"Temporal smoothing {'ENABLED' if self._dispatcher.smoothing else 'DISABLED'}")
        )

    def _reconfigure(self, config: DispatcherConfig) -> None:
        """On the control thread."""
        before = self._config
        self._dispatcher.reconfigure(config)
        if config.control_hz != before.control_hz:
            self._rate_problem = check_control_rate(config.control_hz, self._policy_fps)
            self._clock = TickClock()
            self._tick_timer.cancel()
            self._start_ticking()

    def _obey(self, name: str, change: Callable[[], None]) -> None:
        try:
            self._at_next_tick(change)
        except ValueError as error:
            self._logger.error("%s: %s", name, error)

    def _at_next_tick(self, change: Callable[[], None]) -> None:
        """Leave ``change`` for the control thread and see it done, so that the answer means something.

        Raises:
            ValueError: from ``change``, or the control tick has not taken it up in time; it is not done then.
        """
        order = Order(change)
        self._inbox.append(order)
        order.wait(SERVICE_WAIT_S)

    # -- telling, on the thread of the diagnostics --------------------------------------------------------------

    def _report(self) -> None:
        """Log what happened, and publish the status at once when it changed."""
        for _ in range(len(self._events)):
            event = self._events.popleft()
            self._logger.log(_LEVELS[event.level], "%s", event.message)
        level, _ = self._judge()
        now = level, self._stats.state
        if now != self._told:
            self._told = now
            self._diagnostics.publish_now()

    def _log_stats(self) -> None:
        stats = self._stats
        self._logger.info(
            "[stats] inferences=%d, avg_latency=%.1fms, queue=%d, hold=%d",
            stats.counters.inferences,
            stats.avg_latency_ms,
            stats.queue,
            stats.counters.hold_ticks,
        )

    def _judge(self) -> tuple[Level, str]:
        return judge(Outlook(self._stats, time.monotonic_ns(), self._rate_problem or "", self._commands.last_failure))

    def _status(self) -> Status:
        level, message = self._judge()
        numbers = values(self._stats, self._clock.times(), self._config.period_ns / MILLISECOND_NS)
        numbers.update(
            incomplete_joint_states=str(self._joints.incomplete),
            unsent_commands=str(self._commands.failures),
            callback_errors=str(self._node.errors),
        )
        return Status(level, self._node.name, message, numbers)

    # -- the end ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop ticking, leave the robot as the safe behaviour says (two seconds at most), cancel the goal in flight."""
        self._tick_timer.cancel()
        if self._stopped or not self._tick_lock.acquire(timeout=SERVICE_WAIT_S):
            return
        self._stopped = True
        self._tick_lock.release()
        for command in self._dispatcher.final_commands():
            self._commands.send(command)
            time.sleep(1.0 / self._config.control_hz)
        if self._goal is not None:
            self._goal[1].cancel()
        for timer in self._timers:
            timer.cancel()
        self._diagnostics.close()
        self._logger.info("Dispatcher stopped: %s", self._config.safety.on_timeout.value)


def chunk_of(result: Message) -> NDArray[np.floating]:
    """The actions of a DispatchInfer result, (steps, joints) in robot units; a single action may come flat.

    Raises:
        MalformedMessage: no tensor of floats named ``action`` in it.
    """
    actions = from_variants(result.action_chunk).get("action")
    if not isinstance(actions, np.ndarray) or not np.issubdtype(actions.dtype, np.floating):
        raise MalformedMessage("the result has no tensor of floats named 'action' in its action_chunk")
    return actions[None, :] if actions.ndim == 1 else actions


def _reason(status: GoalStatus, result: Message | None) -> str:
    if result is None:
        return "the inference server rejected the goal"
    return str(result.message) or f"the goal ended {status.name}"


def main(argv: Sequence[str]) -> int:
    """Entry point of ``action_dispatcher_node``."""
    return run_node(DispatcherParameters, DispatcherNode, argv)

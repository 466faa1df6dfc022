"""``act_inference_node``: the device's node, in both modes.

A goal names a stamp; the node samples the robot's streams at that stamp, puts the state into the policy's motor units,
preprocesses, infers (in this process when monolithic, over the wire when distributed), postprocesses and answers with
a chunk in robot units. The dispatcher cannot tell the modes apart.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field

from inference_service.core.batch import Observation
from inference_service.core.errors import InferenceServiceError, PolicyError, RequestRejected
from inference_service.core.motor_units import NormMode
from inference_service.core.policy_folder import PolicyFolder
from inference_service.nodes.device_budget import budget, dds_interfaces, history_line
from inference_service.nodes.device_identity import DeviceIdentity
from inference_service.nodes.device_setup import SCHEME, DeviceSetup
from inference_service.nodes.diagnostics import DiagnosticsPublisher, Level, Status, stamp_to_ns
from inference_service.nodes.motor_units import motor_units
from inference_service.nodes.observations import CLOCK_AHEAD_NS, ObservationSampler, SampleClock
from inference_service.nodes.parameter_services import Changeable
from inference_service.nodes.policy_runner import LONGEST_TIMEOUT_S, RemoteRunner, Runner
from inference_service.nodes.runtime import App, NodeParameters, monotonic_ms, run_node
from inference_service.transport.protocol import GoalStatus, Message, Node, ServerGoal
from inference_service.wire.interfaces import get_message
from inference_service.wire.shared_memory import DEFAULT_DIRECTORY
from inference_service.wire.variants import to_variants
from robot_config import load_robot_config

ACTION_TYPE = "ibrobot_msgs/action/DispatchInfer"
VARIANTS = "ibrobot_msgs/msg/VariantsList"
STAGES = ("total", "sample", "preprocess", "wire", "queue", "decode", "inference", "encode", "postprocess")
"""Stages of a request, in milliseconds, on ``/actions/<policy>`` as ``timing.stages`` and ``timing.ms``."""


class PolicyParameters(NodeParameters):
    """``checkpoint`` is the policy directory, or ``engine://``: then the engine is asked for its files, and given
    ``fetch_timeout`` seconds. An empty ``control_mode`` takes the YAML's default. ``shared_memory``: directory through
    which pictures go to an engine that sees it too; empty: never. ``device_id``: who this device is to engines; empty:
    the robot file's, else derived from machine and node (:mod:`.device_identity`)."""

    node_name: str = "act_inference_node"
    checkpoint: str
    robot_config_path: str
    control_mode: str = ""
    lerobot_norm_mode: NormMode = "none"
    device: str = "auto"
    execution_mode: Literal["monolithic", "distributed"] = "monolithic"
    request_timeout: float = Field(default=5.0, gt=0, le=LONGEST_TIMEOUT_S, allow_inf_nan=False)
    cloud_inference_topic: str = "/preprocessed/batch"
    cloud_result_topic: str = "/inference/action"
    threads: int = 0
    shared_memory: str = str(DEFAULT_DIRECTORY)
    device_id: str = ""
    fetch_timeout: float = Field(default=120.0, gt=0, allow_inf_nan=False)


class PolicyNode:
    """Serves ``DispatchInfer``."""

    def __init__(self, node: Node, parameters: PolicyParameters, folder: PolicyFolder | None = None) -> None:
        """``folder``: the policy, where it was loaded already."""
        self._node = node
        self._parameters = parameters
        self._logger = logging.getLogger(node.name)
        robot = load_robot_config(parameters.robot_config_path)
        self._folder = folder or PolicyFolder.load(parameters.checkpoint)
        self._setup = DeviceSetup.check(self._folder, robot, parameters.control_mode)
        config, specs = self._folder.config, self._setup.specs
        self._units = motor_units(robot, specs, parameters.lerobot_norm_mode)
        self._logger.info("Motor units: %s", self._units.description)
        self._count = 0
        self._failed = 0
        self._last_error = ""
        self._last_ms: dict[str, float] = {}
        self._lock = threading.Lock()
        self._look_back = self._setup.look_back()
        kept = history_line(config, self._look_back, specs)
        if kept is not None:
            self._logger.info("%s", kept)
        clock = SampleClock(node, parameters.use_sim_time)
        self._sampler = ObservationSampler(
            node, specs, config.input_features, self._undecoded(), self._look_back.keep_ns, clock
        )
        self._actions = node.create_publisher(f"/actions/{config.type}", VARIANTS)
        self._health = node.create_publisher(f"/{node.name}/health", "diagnostic_msgs/msg/DiagnosticStatus")
        self._diagnostics = DiagnosticsPublisher(node, self._collect)
        self._identity: DeviceIdentity | None = None
        self._runner = self._make_runner()
        self._servers = self._serve(self._setup.mode.inference.action_server)
        node.create_timer(1.0, self._publish_health, group="diagnostics")
        self._logger.info(
            "act node ready (%s): policy_type=%s, chunk_size=%d, fingerprint=%s",
            "distributed (edge proxy)" if self._distributed else "monolithic",
            config.type,
            config.chunk_size,
            self._folder.fingerprint,
        )

    @property
    def changeable(self) -> dict[str, Changeable]:
        """Parameters that can be set while the node runs."""
        runner = self._runner
        if not isinstance(runner, RemoteRunner):
            return {}
        return {"request_timeout": Changeable(lambda: runner.timeout_s, runner.set_timeout)}

    @property
    def failure(self) -> str | None:
        """Never: what breaks is answered and shown in diagnostics, and the robot holds."""
        return None

    @property
    def _distributed(self) -> bool:
        return self._parameters.execution_mode == "distributed"

    def _make_runner(self) -> Runner:
        p = self._parameters
        if self._distributed:
            self._logger.info(
                "Distributed mode: publishing to %s, subscribed to %s", p.cloud_inference_topic, p.cloud_result_topic
            )
            self._tell_budget()
            wanted = p.device_id or self._setup.mode.inference.device_id
            self._identity = DeviceIdentity(f"{p.namespace.rstrip('/')}/{self._node.name}", wanted, self._logger)
            device_id = self._identity.device_id
            return RemoteRunner(self._node, self._setup, p, self._diagnostics.publish_now, device_id)
        from inference_service.nodes.policy_runner_local import LocalRunner

        return LocalRunner(self._setup, p.device, p.threads, self._logger, self._diagnostics.publish_now)

    def _undecoded(self) -> list[str]:
        """Cameras whose JPEG pictures go to the engine as they came."""
        encodings = self._setup.encodings(self._logger)
        return [spec.key for spec in self._setup.specs if self._distributed and encodings.is_jpeg(spec.key)]

    def _tell_budget(self) -> None:
        setup = self._setup
        cost = budget(self._folder.config, setup.encodings(self._logger), setup.mode.executor, setup.early_resize)
        interfaces = dds_interfaces()
        self._logger.info("%s", cost.line(interfaces))
        excess = cost.excess(interfaces)
        if excess is not None:
            self._logger.warning("%s", excess)

    def _serve(self, alias: str | None) -> list[Any]:
        names = [f"/{self._node.name}/DispatchInfer"]
        if alias and alias not in names:
            names.append(alias)
        return [self._node.create_action_server(name, ACTION_TYPE, self._execute) for name in names]

    # -- one goal -----------------------------------------------------------------------------------------------

    def _execute(self, goal: ServerGoal) -> tuple[GoalStatus, Message]:
        started = monotonic_ms()
        try:
            actions, timing = self._infer(goal, started)
        except InferenceServiceError as error:
            self._fail(error)
            return GoalStatus.ABORTED, _result(None, f"{error.wire_name}: {error}", monotonic_ms() - started)
        except Exception as error:
            self._logger.exception("Inference failed")
            self._fail(error)
            message = f"internal: {type(error).__name__}: {error}"
            return GoalStatus.ABORTED, _result(None, message, monotonic_ms() - started)
        self._succeed(timing)
        if goal.cancel_requested:  # whoever gave the goal up must not be handed a chunk for it
            return GoalStatus.CANCELED, _result(None, "cancelled: the chunk is withheld", timing["total"])
        self._publish_chunk(goal.request.inference_id, actions, timing)
        return GoalStatus.SUCCEEDED, _result(actions, "", timing["total"])

    def _infer(self, goal: ServerGoal, started: float) -> tuple[Any, dict[str, float]]:
        request = goal.request
        stamp = check_goal(request, self._node.now_ns())
        session = self._runner.begin(request.inference_id)
        task = {"task": request.prompt} if request.prompt else {}
        observation = {**self._units.observation(self._sampler.sample(stamp)), **task}
        earlier = [{**before, **task} for before in self._earlier(session, stamp)]
        sampled = monotonic_ms()
        answer = self._runner.run(observation, stamp, earlier)
        actions = self._units.actions(answer.actions)
        timing = dict.fromkeys(STAGES, 0.0)
        timing.update(answer.timing_ms, sample=sampled - started, total=monotonic_ms() - started)
        return actions, timing

    def _earlier(self, session: str, stamp: int) -> list[Observation]:
        """What the policy looks back on from the observation that was sampled last."""
        stamps = self._look_back.stamps(session, stamp, self._sampler.given_ns, self._runner.looks_back)
        return [self._units.observation(self._sampler.sample_earlier(earlier)) for earlier in stamps]

    def _succeed(self, timing: dict[str, float]) -> None:
        with self._lock:
            self._count += 1
            self._last_ms = timing
            first = self._count == 1
            recovered, self._last_error = bool(self._last_error), ""
        if first:
            mode = self._parameters.execution_mode
            self._logger.info(
                "✓ First inference complete (%s): total=%.1fms (pre=%.1fms, inf=%.1fms, post=%.1fms)",
                mode,
                timing["total"],
                timing["preprocess"],
                timing["inference"],
                timing["postprocess"],
            )
        elif recovered:
            self._logger.info("Inference recovered")
        if recovered:
            self._diagnostics.publish_now()

    def _fail(self, error: Exception) -> None:
        text = str(error)
        with self._lock:
            self._failed += 1
            news, self._last_error = _gist(text) != _gist(self._last_error), text
        if news:
            self._logger.error("Inference failed: %s", text)
            self._diagnostics.publish_now()

    def _publish_chunk(self, request_id: str, actions: Any, timing: dict[str, float]) -> None:
        items = {
            "action": actions,
            "action.request_id": [request_id],
            "timing.stages": list(STAGES),
            "timing.ms": np.array([timing[s] for s in STAGES], np.float64),
        }
        self._actions.publish(to_variants(items))

    # -- telling ------------------------------------------------------------------------------------------------

    def _status(self) -> Status:
        """ERROR when a goal sent now would fail, or the last one did; the message names the thing at fault."""
        streams = self._sampler.problems()
        problems = [p for p in (self._runner.problem(),) if p] + streams
        with self._lock:
            if self._last_error and not problems:
                problems = [self._last_error]
            values = {
                "execution_mode": self._parameters.execution_mode,
                "fingerprint": self._folder.fingerprint,
                **({"device_id": self._identity.device_id} if self._identity else {}),
                "count": str(self._count),
                "failed": str(self._failed),
                "last_error": self._last_error,
                "callback_errors": str(self._node.errors),
                **{f"{stage}_ms": f"{ms:.3f}" for stage, ms in self._last_ms.items()},
                **self._runner.values(),
            }
        for stream in self._sampler.streams:
            age = stream.age_ms()
            values[f"age_ms {stream.spec.key}"] = "never" if age is None else f"{age:.0f}"
        level = Level.ERROR if problems else Level.OK
        ready = not streams and (self._distributed or not self._runner.problem())
        return Status(level, self._node.name, "; ".join(problems) or "ready", values, self._parameters.device, ready)

    def _collect(self) -> list[Status]:
        return [self._status()]

    def _publish_health(self) -> None:
        self._health.publish(self._status().to_message())

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self._diagnostics.close()
        self._runner.close()
        if self._identity is not None:
            self._identity.close()


def _gist(text: str) -> str:
    """``text`` without its figures, so that an error whose age counts up is told once."""
    return "".join(c for c in text if not c.isdigit())


def _result(actions: Any, message: str, latency_ms: float) -> Message:
    items = {} if actions is None else {"action": actions}
    return get_message("ibrobot_msgs/action/DispatchInfer_Result")(
        action_chunk=to_variants(items),
        chunk_size=0 if actions is None else len(actions),
        success=actions is not None,
        message=message,
        inference_latency_ms=latency_ms,
    )


def check_goal(request: Message, now_ns: int) -> int:
    """The stamp that a goal asks for, nanoseconds of ROS time; now where it names none.

    Raises:
        RequestRejected: no id, a stamp further in the future than clocks may differ, or no time at all: without
            ``/clock`` every sample would be as old as the last.
    """
    if now_ns <= 0:
        raise RequestRejected(
            "use_sim_time is set and no /clock has come: start what publishes it, or leave use_sim_time out"
        )
    if not request.inference_id:
        raise RequestRejected("the goal's inference_id is empty: give each goal an id of its own")
    stamp_ns = stamp_to_ns(request.obs_timestamp)
    if stamp_ns > now_ns + CLOCK_AHEAD_NS:
        raise RequestRejected(
            f"the goal's obs_timestamp is {(stamp_ns - now_ns) / 1e9:.1f} s in the future: synchronise the clocks, "
            "or set use_sim_time alike on both nodes"
        )
    return stamp_ns or now_ns


def start(node: Node, parameters: PolicyParameters) -> App:
    """The device node, at once or as soon as its engine has sent the policy's files.

    Raises:
        PolicyError: the policy cannot be used, or is to be fetched where this process has to compute it.
    """
    if not parameters.checkpoint.startswith(SCHEME):
        return PolicyNode(node, parameters)
    if parameters.execution_mode != "distributed":
        raise PolicyError(f"checkpoint {parameters.checkpoint} needs execution_mode:=distributed: weights stay there")
    from inference_service.nodes.device_fetching import FetchingDevice

    make = partial(PolicyNode, node, parameters)
    return FetchingDevice(node, parameters.checkpoint, parameters.fetch_timeout, make)


def main(argv: Sequence[str]) -> int:
    """Entry point of ``lerobot_policy_node``."""
    return run_node(PolicyParameters, start, argv)

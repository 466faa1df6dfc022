"""Episodes in one process and in simulated time: the same pictures, processors and engine as a robot's, no network.

Deterministic for a seed, and as fast as the machine allows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from inference_service.backends import registry
from inference_service.core.batch import AffineImage, Batch
from inference_service.core.engine import PureInferenceEngine
from inference_service.core.errors import InvalidObservation
from inference_service.core.policy import NO_CONTEXT, InferenceContext
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.dispatch.queue import ActionQueue, Chunk
from inference_service.evaluation.result import Episode
from inference_service.sim.renderer import Renderer, RendererKind, make_renderer
from inference_service.sim.task import EPISODE_S, tip_distance
from inference_service.sim.world import SimWorld
from inference_service.wire.envelope import Request, decode_request, encode_request

Mistake = Literal["none", "cameras", "bgr", "joints", "late"]
MISTAKES: tuple[Mistake, ...] = get_args(Mistake)
"""``cameras``: each shows the other's picture. ``bgr``: red and blue exchanged. ``joints``: the actions of joints 2 and
3 exchanged. ``late``: every chunk comes :data:`LATE_TICKS` after its observation and is played from its beginning."""

RATE_HZ = 20.0
REPLAN_TICKS = 10
"""Ticks between observations, as with a watermark of 40 steps of 50."""
LATENCY_TICKS = 1
LATE_TICKS = 40
_NEVER_NS = 2**62

Observation = dict[str, Any]
Infer = Callable[[Observation, Sequence[Observation]], NDArray[np.float32]]
"""Actions (chunk, joints) in robot units for an observation, and those of the ticks before that it looks back on."""


class Pilot:
    """A policy with all that is between an observation and robot units; ``encoding``: the pictures take the wire's way
    (``u8``, ``f16``, ``f32``, ``jpeg:90``…), encoded, decoded, and computed on as an engine would. None: by reference.

    Raises:
        UnknownBackend, BackendUnavailable, ModelLoadFailed, PolicyError: as loading does.
        ValueError: an unknown encoding, at the first observation.
    """

    def __init__(self, folder: PolicyFolder, device: str = "auto", encoding: str | None = None) -> None:
        self._before, self._after = TensorPreprocessor(folder), TensorPostprocessor(folder)
        self._engine = PureInferenceEngine(registry.load_policy(folder, device))
        self._encoding = encoding

    @property
    def backend(self) -> str:
        return self._engine.spec.backend_type

    @property
    def looks_back(self) -> int:
        """How many earlier observations the policy takes, a tick apart."""
        return self._engine.spec.earlier_observations

    def __call__(self, observation: Observation, earlier: Sequence[Observation] = ()) -> NDArray[np.float32]:
        """Actions (chunk, joints) in robot units. ``earlier``: oldest first, where the policy looks back."""
        prepared = self._before(observation)
        context = InferenceContext(earlier=self._inputs(earlier)) if self.looks_back else NO_CONTEXT
        return self._after(self._engine.infer(self._sent(prepared.batch), context).action, prepared.context)

    def _inputs(self, earlier: Sequence[Observation]) -> tuple[Batch, ...]:
        batches = (self._sent(self._before(observation).batch) for observation in earlier)
        return tuple({key: batch[key] for key in self._before.features} for batch in batches)

    def _sent(self, batch: Batch) -> Batch:
        if self._encoding is None:
            return batch
        pictures = [key for key, value in batch.items() if isinstance(value, AffineImage)]
        request = Request("evaluate:1", batch, device_id="evaluate", session="1")
        codecs = dict.fromkeys(pictures, self._encoding)
        return decode_request(encode_request(request, extended=True, codecs=codecs)).batch

    def close(self) -> None:
        self._engine.close()


def mistaken(observation: Observation, mistake: Mistake) -> Observation:
    """The observation as a wrongly wired robot gives it."""
    pictures = [key for key in observation if key.startswith("observation.images.")]
    if mistake == "cameras":
        return observation | {a: observation[b] for a, b in zip(pictures, reversed(pictures), strict=True)}
    if mistake == "bgr":
        return observation | {key: np.ascontiguousarray(observation[key][..., ::-1]) for key in pictures}
    return observation


class Stage:
    """The simulated robot that an episode is played on."""

    def __init__(self, folder: PolicyFolder, renderer: RendererKind = "auto") -> None:
        """
        Raises:
            InvalidObservation: the policy wants a camera that the simulated robot does not have.
        """
        self.world = SimWorld()
        features = folder.config.input_features
        self._cameras = {key: key.rpartition(".")[2] for key in features if key.startswith("observation.images.")}
        known = [self.world.model.camera(i).name for i in range(self.world.model.ncam)]
        for key, camera in self._cameras.items():
            if camera not in known:
                raise InvalidObservation(f"{folder.path}: wants {key!r}; the simulated robot has {', '.join(known)}")
        self._renderer: Renderer = make_renderer(renderer, self.world.model)

    def observe(self) -> Observation:
        pictures = {key: self._renderer.render(self.world.qpos, camera) for key, camera in self._cameras.items()}
        return {"observation.state": self.world.joint_positions.astype(np.float32), **pictures}

    def play(self, infer: Infer, seed: int, mistake: Mistake = "none") -> Episode:
        """One episode, from home, with the cube where ``seed`` puts it."""
        world, plan = self.world, ActionQueue()
        world.reset(seed)
        coming: deque[Chunk] = deque()
        looks_back: int = getattr(infer, "looks_back", 0)
        seen: deque[Observation] = deque(maxlen=looks_back + 1)
        distances = []
        for tick in range(round(EPISODE_S * RATE_HZ)):
            until_next = -tick % REPLAN_TICKS
            if until_next <= looks_back:
                seen.append(mistaken(self.observe(), mistake))
            if until_next == 0:
                actions = np.asarray(infer(seen[-1], tuple(seen)[:-1]), np.float64)
                coming.append(_chunk(actions, tick, mistake))
            latency = LATE_TICKS if mistake == "late" else LATENCY_TICKS
            while coming and coming[0].observed_ns + latency <= tick:
                plan.push(coming.popleft(), tick)
            step = plan.take(tick)
            if step is not None:
                world.set_targets(step.action)
            world.step(1 / RATE_HZ)
            distances.append(tip_distance(world))
        return Episode.of(seed, distances, RATE_HZ)

    def close(self) -> None:
        self._renderer.close()


def _chunk(actions: NDArray[np.float64], tick: int, mistake: Mistake) -> Chunk:
    """Its first action is due when it was observed, not when it comes; that is what ``late`` gets wrong. Time is
    counted in ticks here."""
    if mistake == "joints":
        actions = actions[:, [0, 2, 1, *range(3, actions.shape[1])]]
    first = tick + LATE_TICKS if mistake == "late" else tick
    return Chunk(str(tick), first, tick, _NEVER_NS, actions)


@contextmanager
def opened(folder: PolicyFolder, device: str, encoding: str | None, renderer: RendererKind) -> Iterator[Any]:
    """A stage and a pilot, closed in the end."""
    stage = Stage(folder, renderer)
    try:
        pilot = Pilot(folder, device, encoding)
        try:
            yield stage, pilot
        finally:
            pilot.close()
    finally:
        stage.close()


def play_all(
    folder: PolicyFolder,
    seeds: Sequence[int],
    device: str = "auto",
    encoding: str | None = None,
    mistake: Mistake = "none",
    renderer: RendererKind = "auto",
) -> tuple[str, list[Episode]]:
    """The backend's name, and an episode for each seed. Raises what :class:`Pilot` and :class:`Stage` raise."""
    with opened(folder, device, encoding, renderer) as (stage, pilot):
        return pilot.backend, [stage.play(pilot, seed, mistake) for seed in seeds]

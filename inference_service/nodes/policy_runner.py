"""Where an observation becomes a chunk: with the engine behind the wire, or in this process
(:mod:`.policy_runner_local`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from inference_service.core.batch import Batch, Float32, Observation
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.nodes.device_encodings import Encodings
from inference_service.nodes.device_setup import DeviceSetup
from inference_service.nodes.engine_client import EngineClient
from inference_service.nodes.runtime import monotonic_ms
from inference_service.transport.protocol import Node
from inference_service.wire.card import EngineCard

LONGEST_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Answer:
    """A chunk in the policy's units, float32 (chunk, action_dim), and its stages (ms): preprocess, wire, queue,
    decode, inference, encode, postprocess; those that do not apply are absent."""

    actions: Float32
    timing_ms: dict[str, float]


def prepare_earlier(preprocessor: TensorPreprocessor, earlier: Sequence[Observation]) -> tuple[Batch, ...]:
    """The inputs alone: a prompt is the same now as it was then."""
    batches = (preprocessor(observation).batch for observation in earlier)
    return tuple({key: batch[key] for key in preprocessor.features} for batch in batches)


class Runner(Protocol):
    def begin(self, inference_id: str) -> str:
        """The session that a goal belongs to; a new one after a reset of the dispatcher, known by the goal's id."""
        ...

    @property
    def looks_back(self) -> int:
        """How many earlier observations a request made now can bring."""
        ...

    def run(self, observation: Observation, obs_stamp_ns: int, earlier: Sequence[Observation] = ()) -> Answer:
        """A chunk for an observation of the session that was begun last. ``earlier``: those of the control ticks
        before, oldest first; disregarded where nothing looks back.

        Raises an :class:`InferenceServiceError`; returns within the request's deadline when distributed."""
        ...

    def problem(self) -> str | None:
        """Why a batch given now would be refused, or None."""
        ...

    def values(self) -> dict[str, str]:
        """For diagnostics."""
        ...

    def close(self) -> None: ...


class WireParameters(Protocol):
    @property
    def cloud_inference_topic(self) -> str: ...
    @property
    def cloud_result_topic(self) -> str: ...
    @property
    def request_timeout(self) -> float: ...
    @property
    def shared_memory(self) -> str: ...


class RemoteRunner:
    """Distributed: pre- and postprocessing here, an asynchronous proxy of the engine on the other side."""

    def __init__(
        self,
        node: Node,
        setup: DeviceSetup,
        parameters: WireParameters,
        on_change: Callable[[], None],
        device_id: str = "",
    ) -> None:
        self._logger = logger = logging.getLogger(node.name)
        self._preprocessor = TensorPreprocessor(setup.folder)
        self._shrinking = TensorPreprocessor(setup.folder, shrink_images=True) if setup.early_resize else None
        self._resize = setup.folder.config.model_resize
        self._n_obs_steps = setup.folder.config.n_obs_steps
        self._told = False
        self._postprocessor = TensorPostprocessor(setup.folder)
        self._continuity = setup.continuity(logger)
        self.timeout_s = parameters.request_timeout
        self._client = EngineClient(
            node,
            setup.handshake(),
            setup.encodings(logger),
            parameters.cloud_inference_topic,
            parameters.cloud_result_topic,
            on_change,
            parameters.shared_memory,
            device_id,
        )

    def set_timeout(self, seconds: float) -> None:
        """For requests from now on. Raises ValueError for what cannot work."""
        if not 0 < seconds <= LONGEST_TIMEOUT_S:
            raise ValueError(f"request_timeout {seconds} s must be above 0 and at most {LONGEST_TIMEOUT_S:g} s")
        self.timeout_s = seconds

    def set_encodings(self, wanted: Mapping[str, str]) -> None:
        """For requests from now on, as ``inference.encodings``. Raises ValueError for an unknown codec."""
        self._client.encodings = Encodings(wanted, self._logger)

    def begin(self, inference_id: str) -> str:
        self._continuity.begin(inference_id)
        return self._continuity.session

    @property
    def looks_back(self) -> int:
        card = self._client.card()
        count = card.earlier_observations if card else 0
        if self._n_obs_steps > 1 and not count and not self._told and self._client.problem() is None:
            self._told = True
            self._logger.warning(
                "The policy looks back on %d observations, one control tick apart in its training; this engine takes "
                "none with a request (%s). It looks back on the requests before instead: ask once per tick, or start "
                "an engine of this version",
                self._n_obs_steps,
                f"version {card.version or 'unknown'}" if card else "it speaks the plain form",
            )
        return count

    def run(self, observation: Observation, obs_stamp_ns: int, earlier: Sequence[Observation] = ()) -> Answer:
        started = monotonic_ms()
        card = self._client.card()
        preprocessor = self._preprocessor_for(card)
        prepared = preprocessor(observation)
        context = self._continuity.context(obs_stamp_ns, prepared.context, card is not None and card.supports_rtc)
        if card is not None and card.earlier_observations:
            context = replace(context, earlier=prepare_earlier(preprocessor, earlier))
        preprocessed = monotonic_ms()
        answer = self._client.infer(
            prepared.batch,
            prompt=observation.get("task"),
            obs_stamp_ns=obs_stamp_ns,
            timeout_s=self.timeout_s,
            context=context,
        )
        answered = monotonic_ms()
        actions = self._postprocessor(answer.action, prepared.context)
        wire = max(0.0, answer.round_trip_ms - sum(answer.timing_ms.values()))
        finished = monotonic_ms()
        self._continuity.remember(context.session, obs_stamp_ns, answer.action, actions, finished - started)
        here = {"preprocess": preprocessed - started, "postprocess": finished - answered}
        return Answer(actions, {**answer.timing_ms, **here, "wire": wire})

    def _preprocessor_for(self, card: EngineCard | None) -> TensorPreprocessor:
        """The one that shrinks pictures as the model would, where it is wanted and the engine takes them so."""
        if self._shrinking is None or self._resize is None or card is None:
            return self._preprocessor
        fits = card.image_size == (self._resize.height, self._resize.width)
        return self._shrinking if fits else self._preprocessor

    def problem(self) -> str | None:
        return self._client.problem()

    def values(self) -> dict[str, str]:
        return {f"dropped_{kind}": str(n) for kind, n in self._client.dropped.items()}

    def close(self) -> None:
        self._client.close()

"""The robot's streams, sampled on demand at a goal's timestamp.

Nothing is decoded before it is asked for: a stream keeps the newest messages as they came. What a sample
may be is the contract's alignment:

========  ==========================================================================================
strategy  the sample taken for stamp *t*
========  ==========================================================================================
hold      the newest at or before *t*
asof      the same; the tolerance is required
drop      the newest at or before *t*, and newer than the sample given before
========  ==========================================================================================

Each is refused when it is older than the tolerance (``tol_ms``, or :data:`DEFAULT_TOLERANCE_NS`), at the stamp asked
for or at the moment it is taken (a goal may have waited): no action is computed from a stale or missing stream, and
the error names it. The age now is the greatest that any clock shows (:class:`SampleClock`).

A policy that looks back is given the samples of earlier stamps too (*hold*, whatever the strategy): a stream keeps as
much of its past as ``keep_ns`` says. What is not there any more is refused; nothing stands in for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference_service.core.batch import Feature, FeatureType
from inference_service.core.errors import InvalidObservation, MissingObservation, ObservationError, StaleObservation
from inference_service.nodes.decoding import (
    decode_compressed_image,
    decode_image,
    decode_joint_state,
    decode_multi_array,
    jpeg_picture,
)
from inference_service.nodes.diagnostics import stamp_to_ns
from inference_service.nodes.transit import Transit
from inference_service.transport.protocol import Message, Node, QoS, Subscription
from robot_config import ObservationSpec

DEFAULT_TOLERANCE_NS = 1_000_000_000
CLOCK_AHEAD_NS = 1_000_000_000
"""A header stamp further in the future than this is another clock, not a fresh picture."""
_COMPRESSED = "sensor_msgs/msg/CompressedImage"
_IMAGES_KEPT, MOST_IMAGES = 3, 64
_VECTORS_KEPT, _MOST_VECTORS = 64, 4096
"""Messages that a stream keeps: at least, and at most where the policy looks back far."""
_ASPECT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Sample:
    """A message as it came, with the stamp it is aligned by (ROS time, ns) and when it came (monotonic, ns)."""

    stamp_ns: int
    message: Message
    came_ns: int = 0


class SampleClock:
    """How old a sample is now, in nanoseconds.

    By ROS time, and where that is the system's by the monotonic clock since it came, too: a camera's clock that is
    ahead or a system clock that was set back would make it younger. A simulation runs at a pace of its own, so with
    ``use_sim_time`` what counts besides is how long ``/clock`` has stood still.
    """

    def __init__(
        self, node: Node, use_sim_time: bool = False, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._node = node
        self._use_sim_time = use_sim_time
        self.monotonic_ns = monotonic_ns
        self._lock = threading.Lock()
        self._moved = (-1, 0)

    def now_ns(self) -> int:
        """ROS time. To be called often: whether it stands still is seen from one call to the next."""
        return self._look()[0]

    def standing_ns(self) -> int:
        """How long ``/clock`` has stood still; 0 for the system clock."""
        return self._look()[1] if self._use_sim_time else 0

    def _look(self) -> tuple[int, int]:
        with self._lock:
            now, monotonic = self._node.now_ns(), self.monotonic_ns()
            if now != self._moved[0]:
                self._moved = now, monotonic
            return now, monotonic - self._moved[1]

    def age_ns(self, sample: Sample) -> int:
        by_ros_time = self.now_ns() - sample.stamp_ns
        if self._use_sim_time:
            return by_ros_time + self.standing_ns()
        return max(by_ros_time, self.monotonic_ns() - sample.came_ns)


class ObservationStream:
    """One subscribed topic of the contract. ``keep_jpeg``: hand over a JPEG picture as it came, not decoded.
    ``keep_ns``: how far back samples may be asked for."""

    def __init__(
        self,
        node: Node,
        spec: ObservationSpec,
        feature: Feature,
        clock: SampleClock,
        keep_jpeg: bool = False,
        keep_ns: int = 0,
    ) -> None:
        self.spec = spec
        self._clock = clock
        self._keep_jpeg = keep_jpeg and spec.type == _COMPRESSED
        self.feature = feature
        self.is_image = feature.type is FeatureType.VISUAL
        self.frozen = 0
        self.received = 0
        self._node = node
        self._logger = logging.getLogger(node.name)
        self._lock = threading.Lock()
        self._samples: deque[Sample] = deque(maxlen=MOST_IMAGES if self.is_image else _MOST_VECTORS)
        self._fewest = _IMAGES_KEPT if self.is_image else _VECTORS_KEPT
        self._keep_ns = keep_ns
        self._given_ns = -1
        self._header_ns = 0
        self._warned_size: tuple[int, int] | None = None
        self._tolerance_ns = int(spec.align.tol_ms * 1_000_000) or DEFAULT_TOLERANCE_NS
        self._transit = Transit()
        self.subscription: Subscription | None = None  # what waits already comes before it is known here
        qos = QoS(depth=spec.qos.depth, reliability=spec.qos.reliability, durability=spec.qos.durability)
        self.subscription = node.create_subscription(spec.topic, spec.type, self.push, qos, group="observations")

    def push(self, message: Message) -> None:
        """Keep a message. One that repeats its predecessor's header stamp is a frozen source, not news."""
        header_ns = stamp_to_ns(message.header.stamp) if hasattr(message, "header") else 0
        came_ns, now_ns = self._clock.monotonic_ns(), self._clock.now_ns()
        waited_ns = self._transit.waited_ns(self.subscription.sent_ns if self.subscription else 0, came_ns)
        stamp = header_ns if header_ns and self.spec.align.stamp == "header" else now_ns - waited_ns
        with self._lock:
            self.received += 1
            if header_ns and header_ns == self._header_ns:
                self.frozen += 1
                return
            if self._samples and stamp < self._samples[-1].stamp_ns:
                self._samples.clear()  # the source or its clock started again
            self._header_ns = header_ns
            self.frozen = 0
            self._samples.append(Sample(stamp, message, came_ns - waited_ns))
            while len(self._samples) > self._fewest and self._samples[1].stamp_ns <= stamp - self._keep_ns:
                self._samples.popleft()

    def forget_after(self, now_ns: int) -> None:
        """The clock jumped back to ``now_ns``: what is stamped later belongs to a time that has not come yet."""
        with self._lock:
            kept = [sample for sample in self._samples if sample.stamp_ns <= now_ns]
            self._samples.clear()
            self._samples.extend(kept)
            self._given_ns = min(self._given_ns, now_ns)
            self._header_ns = 0

    def age_ms(self) -> float | None:
        """Age of the newest sample, or None where nothing came yet."""
        with self._lock:
            newest = self._samples[-1] if self._samples else None
        return None if newest is None else self._clock.age_ns(newest) / 1e6

    def sample(self, stamp_ns: int) -> Any:
        """The decoded value for ``stamp_ns``.

        Raises:
            MissingObservation: nothing came yet, or a part of it is missing.
            StaleObservation: the newest is older than the tolerance at ``stamp_ns`` or now, or the source is frozen.
            InvalidObservation: what came cannot be used.
        """
        chosen = self.choose_now(stamp_ns)
        if self.spec.align.strategy == "drop" and chosen.stamp_ns <= self._given_ns:
            raise StaleObservation(
                f"{self.spec.key} ({self.spec.topic}): no new sample since the last one given (align.strategy: drop)"
            )
        self._given_ns = chosen.stamp_ns
        return self._decode(chosen.message)

    def sample_earlier(self, stamp_ns: int) -> Any:
        """The decoded value of a moment before: the newest at or before ``stamp_ns``, never a later one. Raises as
        :meth:`sample` does."""
        chosen = self.choose(stamp_ns)
        if chosen.stamp_ns > stamp_ns:
            raise MissingObservation(
                f"{self.spec.key} ({self.spec.topic}): nothing is kept of {(self._node.now_ns() - stamp_ns) / 1e6:.0f} "
                "ms ago, which the policy looks back on: the stream began anew, or brings more than "
                f"{self._samples.maxlen} messages in that time"
            )
        return self._decode(chosen.message)

    @property
    def given_ns(self) -> int:
        """Stamp of the sample given last; -1 before the first."""
        return self._given_ns

    def choose(self, stamp_ns: int) -> Sample:
        """The message that stands for ``stamp_ns``, not decoded. Raises as :meth:`sample` does for the stream."""
        name = f"{self.spec.key} ({self.spec.topic})"
        with self._lock:
            samples = list(self._samples)
            frozen = self.frozen
        if not samples:
            publishers = self.subscription.matched if self.subscription else 0
            hint = "nobody publishes it: start the driver or check the topic" if not publishers else "no message yet"
            raise MissingObservation(f"{name}: {hint}")
        chosen = next((s for s in reversed(samples) if s.stamp_ns <= stamp_ns), samples[0])
        age = stamp_ns - chosen.stamp_ns
        if age < -CLOCK_AHEAD_NS:
            raise InvalidObservation(
                f"{name}: stamped {-age / 1e9:.1f} s in the future: synchronise the clocks or set align.stamp: receive"
            )
        if age > self._tolerance_ns:
            why = f"frozen, {frozen} messages repeat its stamp" if frozen else "the stream has stopped or is too slow"
            raise StaleObservation(
                f"{name}: newest sample is {age / 1e6:.0f} ms old, tolerance {self._tolerance_ns / 1e6:.0f} ms: {why}"
            )
        return chosen

    def choose_now(self, stamp_ns: int) -> Sample:
        """As :meth:`choose`, and not older than the tolerance at this moment either."""
        chosen = self.choose(stamp_ns)
        age = self._clock.age_ns(chosen)
        if age > self._tolerance_ns:
            standing, waited = self._clock.standing_ns(), self._clock.now_ns() - stamp_ns
            why = "the stream has stopped or is too slow"
            if standing > self._tolerance_ns // 2:
                why = f"/clock has stood still for {standing / 1e6:.0f} ms: start what publishes it"
            elif waited > self._tolerance_ns // 2:
                why = f"the request is of {waited / 1e6:.0f} ms ago: it waited for a busy machine"
            raise StaleObservation(
                f"{self.spec.key} ({self.spec.topic}): the sample is {age / 1e6:.0f} ms old now, tolerance "
                f"{self._tolerance_ns / 1e6:.0f} ms: {why}"
            )
        return chosen

    def _decode(self, message: Message) -> Any:
        topic = self.spec.topic
        if not self.is_image:
            names = self.spec.selector.names if self.spec.selector else ()
            if self.spec.type == "sensor_msgs/msg/JointState":
                return decode_joint_state(message, names, topic)
            return decode_multi_array(message, names, topic)
        jpeg = jpeg_picture(message, topic) if self._keep_jpeg else None
        if jpeg is not None:
            self._check_size(jpeg.height, jpeg.width)
            return jpeg
        compressed = self.spec.type == _COMPRESSED
        image = decode_compressed_image(message, topic) if compressed else decode_image(message, topic)
        self._check_size(image.shape[0], image.shape[1])
        return image

    def _check_size(self, height: int, width: int) -> None:
        """Refuse a picture of another aspect than the contract's; say once that one of another size is resized."""
        declared = self.spec.image.resize if self.spec.image else None
        expected = tuple(declared) if declared else self.feature.shape[1:]
        if (height, width) == expected:
            return
        got, want = width / height, expected[1] / expected[0]
        if abs(got - want) > _ASPECT_TOLERANCE * want:
            raise InvalidObservation(
                f"{self.spec.key} ({self.spec.topic}): picture is {width}x{height}, the contract says "
                f"{expected[1]}x{expected[0]}: set the camera to that size, or image.resize to the camera's"
            )
        if declared and self._warned_size != (height, width):
            self._warned_size = (height, width)
            self._logger.warning("%s: %dx%d instead of %dx%d, resized", self.spec.topic, width, height, *expected[::-1])


class ObservationSampler:
    """All streams that a policy needs. ``sample`` is called per goal, from any thread. ``jpeg``: the keys whose JPEG
    pictures are handed over as they came (:class:`~inference_service.core.batch.JpegPicture`). ``keep_ns``: how far
    back :meth:`sample_earlier` may reach. ``clock``: default that of a node on the system's clock."""

    def __init__(
        self,
        node: Node,
        specs: Sequence[ObservationSpec],
        features: Mapping[str, Feature],
        jpeg: Collection[str] = (),
        keep_ns: int = 0,
        clock: SampleClock | None = None,
    ) -> None:
        self._node = node
        self._clock = clock = clock or SampleClock(node)
        self.streams = [
            ObservationStream(node, spec, features[spec.key], clock, spec.key in jpeg, keep_ns) for spec in specs
        ]
        node.on_clock_jump(self._on_clock_jump)

    def _on_clock_jump(self, _back_ns: int) -> None:
        now_ns = self._node.now_ns()
        for stream in self.streams:
            stream.forget_after(now_ns)

    def sample(self, stamp_ns: int) -> dict[str, Any]:
        """An observation for ``stamp_ns``; streams that share a key are concatenated in the contract's order.

        Raises:
            ObservationError: with every stream at fault, not only the first.
        """
        return self._gather(lambda stream: stream.sample(stamp_ns))

    def sample_earlier(self, stamp_ns: int) -> dict[str, Any]:
        """The observation of an earlier moment, as :meth:`ObservationStream.sample_earlier`. Raises as
        :meth:`sample` does."""
        return self._gather(lambda stream: stream.sample_earlier(stamp_ns))

    @property
    def given_ns(self) -> int:
        """Stamp of the latest sample in the observation given last."""
        return max((stream.given_ns for stream in self.streams), default=-1)

    def _gather(self, take: Callable[[ObservationStream], Any]) -> dict[str, Any]:
        parts: dict[str, list[Any]] = {}
        problems: list[ObservationError] = []
        for stream in self.streams:
            try:
                parts.setdefault(stream.spec.key, []).append(take(stream))
            except ObservationError as error:
                problems.append(error)
        if problems:
            raise type(problems[0])("; ".join(str(p) for p in problems))
        return {key: values[0] if len(values) == 1 else np.concatenate(values) for key, values in parts.items()}

    def problems(self) -> list[str]:
        """What a goal stamped now would be refused for; for diagnostics and readiness."""
        now = self._clock.now_ns()
        found = []
        for stream in self.streams:
            try:
                stream.choose_now(now)
            except ObservationError as error:
                found.append(str(error))
        return found

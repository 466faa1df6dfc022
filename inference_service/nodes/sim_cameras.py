"""The cameras of the simulated robot: rendered on a thread of their own, published as messages."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inference_service.core.errors import TransportError
from inference_service.nodes.diagnostics import stamp_message
from inference_service.nodes.runtime import yield_to_control
from inference_service.sim.faults import Faults
from inference_service.sim.pictures import FileFormat, RawEncoding, encode_file, encode_raw
from inference_service.sim.renderer import Renderer, RendererKind, make_renderer
from inference_service.sim.wiring import CameraWire
from inference_service.sim.world import SimWorld
from inference_service.transport.protocol import Message, Node, Publisher, QoS
from inference_service.wire.interfaces import new_message

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"


@dataclass(frozen=True)
class Snapshot:
    """The world at a moment of ROS time."""

    stamp_ns: int
    qpos: NDArray[np.float64]
    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]


class Watched(Protocol):
    """Whoever has the newest state of the world."""

    @property
    def snapshot(self) -> Snapshot: ...


class Camera:
    """One camera's topic: turns pictures into messages, and counts them."""

    def __init__(self, node: Node, wire: CameraWire, encoding: str, faults: Faults) -> None:
        as_file = wire.compressed or encoding in ("jpeg", "png")
        self.wire = wire
        self.sent = 0
        self.due = time.monotonic()
        self._faults = faults
        self._raw: RawEncoding | None = None if as_file else encoding  # type: ignore[assignment]
        self._file: FileFormat = "png" if encoding == "png" else "jpeg"
        self._kept: Message | None = None
        topic = wire.topic if wire.compressed or not as_file else f"{wire.topic}/compressed"
        kind = COMPRESSED_IMAGE if as_file else IMAGE
        # Reliable serves every subscriber: a best-effort one gets what it asked for all the same.
        self._publisher: Publisher = node.create_publisher(topic, kind, QoS(depth=2))

    def shoot(self, renderer: Renderer, snapshot: Snapshot) -> None:
        """Render and publish, if anybody listens.

        Raises:
            TransportError: a subscriber does not take the picture in time.
        """
        if self._faults.mute(self.wire.name) or not self._publisher.matched:
            return
        if self._kept is None or not self._faults.frozen(self.wire.name):
            picture = renderer.render(snapshot.qpos, self.wire.name)
            self._kept = self._message(picture, header(snapshot.stamp_ns, self.wire.frame_id))
        self._publisher.publish(self._kept)
        self.sent += 1

    def _message(self, picture: NDArray[np.uint8], header: Message) -> Message:
        if self._raw is None:
            data = np.frombuffer(encode_file(picture, self._file), np.uint8)
            return new_message(COMPRESSED_IMAGE, header=header, format=self._file, data=data)
        pixels = encode_raw(picture, self._raw)
        height, width, channels = pixels.shape
        return new_message(
            IMAGE,
            header=header,
            height=height,
            width=width,
            encoding=self._raw,
            step=width * channels,
            data=pixels.reshape(-1),
        )


class CameraSide:
    """Renders every camera at its rate on one thread. ``failure`` is set when that thread had to give up."""

    def __init__(
        self, cameras: Sequence[Camera], world: SimWorld, arm: Watched, kind: RendererKind, logger: logging.Logger
    ) -> None:
        self.cameras = tuple(cameras)
        self.renderer_name = ""
        self.render_s = 0.0
        self.lost = 0
        self.failure: str | None = None
        self._model = world.model
        self._arm = arm
        self._kind = kind
        self._logger = logger
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cameras", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        yield_to_control()
        renderers: dict[tuple[int, int], Renderer] = {}
        try:
            for size in {camera.wire.size for camera in self.cameras}:
                renderers[size] = make_renderer(self._kind, self._model, size, warn=self._logger.warning)
                self.renderer_name = renderers[size].name
            self._logger.info("Cameras %s on: renderer %s", [c.wire.name for c in self.cameras], self.renderer_name)
            while not self._closing.is_set():
                self._next(renderers)
        except Exception as error:
            self._logger.exception("Cameras stopped")
            self.failure = f"cameras stopped: {error}"
        finally:
            for renderer in renderers.values():
                renderer.close()

    def _next(self, renderers: dict[tuple[int, int], Renderer]) -> None:
        camera = min(self.cameras, key=lambda c: c.due)
        if self._closing.wait(max(0.0, camera.due - time.monotonic())):
            return
        started = time.monotonic()
        try:
            camera.shoot(renderers[camera.wire.size], self._arm.snapshot)
        except TransportError as error:
            self.lost += 1
            self._logger.log(logging.WARNING if self.lost == 1 else logging.DEBUG, "Picture lost: %s", error)
        self.render_s += time.monotonic() - started
        period = 1.0 / camera.wire.fps
        camera.due += period * max(1, math.ceil((time.monotonic() - camera.due) / period))

    def close(self) -> None:
        """Stop the thread; it releases its OpenGL context."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=3.0)


def header(stamp_ns: int, frame_id: str) -> Message:
    """A ``std_msgs/msg/Header``."""
    return new_message("std_msgs/msg/Header", stamp=stamp_message(stamp_ns), frame_id=frame_id)


def spread(cameras: Sequence[Camera]) -> None:
    """Let the cameras take turns instead of all at once."""
    for place, camera in enumerate(cameras):
        camera.due += place / len(cameras) / camera.wire.fps

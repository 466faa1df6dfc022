"""What a device's requests cost on the wire, beside what the network interface carries. Said once, at the start."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inference_service.core.batch import FeatureType
from inference_service.core.policy_config import PolicyConfig
from inference_service.nodes.device_encodings import Encodings
from inference_service.nodes.device_history import LookBack
from inference_service.wire.encodings import Codec
from robot_config import ObservationSpec
from robot_config.schema import ExecutorConfig

_INTERFACES = Path("/sys/class/net")
_ELEMENT = re.compile(r"<NetworkInterface\b[^>]*?\bname\s*=\s*[\"']([^\"']+)[\"']")
_BYTES_A_VALUE = {"u8": 1.0, "f16": 2.0, "f32": 4.0, "jpeg": 0.1}
"""Of a picture's value (one channel of one pixel). JPEG's is what a photo takes at quality 90: an estimate."""


@dataclass(frozen=True)
class Interface:
    """A network interface, and what it carries: ``mbit_s`` is None where the kernel does not know (lo, Wi-Fi)."""

    name: str
    mbit_s: float | None


@dataclass(frozen=True)
class Budget:
    """Bytes of an observation by picture, and of the rest under ``other``; ``observations`` in a request, the latest
    and those that the policy looks back on; ``requests_s`` while the robot moves."""

    pictures: Mapping[str, tuple[str, float]]
    other: float
    requests_s: float
    observations: int = 1

    @property
    def request_bytes(self) -> float:
        return (sum(size for _, size in self.pictures.values()) + self.other) * self.observations

    @property
    def mbit_s(self) -> float:
        return self.request_bytes * self.requests_s * 8 / 1e6

    def line(self, interfaces: list[Interface]) -> str:
        """Cameras x bytes x rate = Mbit/s, for people."""
        parts = [f"{key.rpartition('.')[2]} {codec} {_kb(size)}" for key, (codec, size) in self.pictures.items()]
        over = ", ".join(_shown(i) for i in interfaces) or "no network interface"
        sizes = " + ".join([*parts, f"other {_kb(self.other)}"])
        if self.observations > 1:
            sizes = f"({sizes}) x {self.observations} observations"
        return (
            f"Wire budget: {sizes} = {_kb(self.request_bytes)} a request, "
            f"x {self.requests_s:.3g} requests/s = {self.mbit_s:.3g} Mbit/s over {over}"
        )

    def excess(self, interfaces: list[Interface]) -> str | None:
        """Why this is too much for an interface, and what to change; None where it fits, or its speed is unknown."""
        for interface in interfaces:
            if interface.mbit_s is not None and self.mbit_s > interface.mbit_s:
                return (
                    f"the pictures need {self.mbit_s:.3g} Mbit/s and {interface.name} carries {interface.mbit_s:g}: "
                    f"one request takes {self.request_bytes * 8e-3 / interface.mbit_s:.0f} ms there. Send jpeg "
                    "(inference.encodings), smaller pictures where the model shrinks them (inference.early_resize), or "
                    "fewer requests (executor.watermark_threshold)"
                )
        return None


def budget(config: PolicyConfig, encodings: Encodings, executor: ExecutorConfig, early_resize: bool) -> Budget:
    """Of a policy's requests, encoded as wanted. A chunk is asked for when ``watermark_threshold`` actions of the one
    before are left."""
    resize = config.model_resize if early_resize else None
    pictures, other = {}, 0.0
    for key, feature in config.input_features.items():
        values = float(math.prod(feature.shape))
        if feature.type is not FeatureType.VISUAL:
            other += values * 4
            continue
        if resize is not None:
            values = min(values, feature.shape[0] * resize.height * resize.width)
        codec = encodings.wanted(key)
        pictures[key] = codec, values * _BYTES_A_VALUE[Codec.parse(codec).name]
    steps = max(1, config.chunk_size - executor.watermark_threshold)
    return Budget(pictures, other, executor.control_frequency / steps, config.n_obs_steps)


def history_line(config: PolicyConfig, look_back: LookBack, specs: Sequence[ObservationSpec]) -> str | None:
    """What the streams keep for a policy that looks back, for people; None for one that does not. Pictures as the
    contract says the cameras send them, one a control tick."""
    if not look_back.count:
        return None
    kept = look_back.keep_ns / look_back.period_ns
    sizes = [
        (spec.image.resize if spec.image else None) or config.input_features[spec.key].shape[1:]
        for spec in specs
        if config.input_features[spec.key].type is FeatureType.VISUAL
    ]
    memory = sum(3.0 * height * width for height, width in sizes) * kept
    return (
        f"Looks back on {look_back.count} observations, {look_back.period_ns / 1e6:.0f} ms apart: the last "
        f"{look_back.keep_ns / 1e9:.2f} s of each stream are kept, {memory / 1e6:.1f} MB of pictures where each camera "
        f"brings {1e9 / look_back.period_ns:.3g} a second"
    )


def dds_interfaces(environment: Mapping[str, str] | None = None, sys_class_net: Path = _INTERFACES) -> list[Interface]:
    """Those that DDS is told to use by ``CYCLONEDDS_URI`` (which the transport sets); where it names none, all that are
    up, loopback apart."""
    uri = (os.environ if environment is None else environment).get("CYCLONEDDS_URI", "")
    names = _ELEMENT.findall(_text_of(uri)) or _up(sys_class_net)
    return [Interface(name, _speed(sys_class_net / name / "speed")) for name in names]


def _text_of(uri: str) -> str:
    """The XML, of which Cyclone also takes the file's name."""
    if not uri or "<" in uri:
        return uri
    try:
        return Path(uri.removeprefix("file://")).read_text(encoding="utf-8")
    except (OSError, ValueError):  # the transport says what is wrong with it
        return ""


def _up(sys_class_net: Path) -> list[str]:
    found = sorted(sys_class_net.glob("*/operstate"))
    return [f.parent.name for f in found if f.parent.name != "lo" and _first_line(f) == "up"]


def _speed(file: Path) -> float | None:
    text = _first_line(file)
    return float(text) if text.isdigit() and int(text) > 0 else None


def _first_line(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # the kernel answers so where a device has no such thing
        return ""


def _shown(interface: Interface) -> str:
    return interface.name if interface.mbit_s is None else f"{interface.name} ({interface.mbit_s:g} Mbit/s)"


def _kb(size: float) -> str:
    return f"{size / 1e3:.3g} kB"

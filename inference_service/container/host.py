"""Whether this host has the accelerator that ``ENGINE`` names: a check before Docker's own, less telling error.

The host's ``/dev``, ``/sys`` and libraries are mounted read-only below ``/host``. Devices and files are those that
the vendors' documentation asks for (docs/containers.md).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

HOST = Path("/host")
_OTHERWISE = "or set ENGINE=cpu in .env"


def _cuda(host: Path) -> list[str]:
    places = ("dev/nvidiactl", "dev/nvidia0", "dev/dxg", "dev/nvhost-gpu")
    if any((host / place).exists() for place in places):
        return []
    return [
        "no NVIDIA GPU on this host (/dev/nvidia0, /dev/dxg): install its driver and the NVIDIA Container Toolkit, "
        f"{_OTHERWISE}"
    ]


def _ascend(host: Path) -> list[str]:
    devices = ("davinci0", "davinci_manager")
    missing = [f"/dev/{name}" for name in devices if not (host / "dev" / name).exists()]
    if not missing:
        return []
    return [
        f"{' and '.join(missing)} not on this host: install the Ascend driver (`npu-smi info` must work), {_OTHERWISE}"
    ]


def _rknn(host: Path) -> list[str]:
    found = []
    if not (host / "dev/dri").is_dir():
        found.append(f"/dev/dri not on this host: boot Rockchip's own kernel (5.10 or 6.1) with rknpu, {_OTHERWISE}")
    elif not (host / "dev/dri/renderD129").exists():
        found.append("/dev/dri/renderD129, the NPU, not on this host: boot a kernel with the rknpu driver")
    compatible = host / "sys/firmware/devicetree/base/compatible"
    if not compatible.exists() or b"rockchip,rk35" not in compatible.read_bytes():
        found.append(f"/proc/device-tree/compatible names no rockchip,rk35…: this host is no RK3588, {_OTHERWISE}")
    return found


def _cpu(_host: Path) -> list[str]:
    return []


_CHECKS: dict[str, Callable[[Path], list[str]]] = {"cpu": _cpu, "cuda": _cuda, "ascend": _ascend, "rknn": _rknn}


def missing(engine: str, host: Path = HOST) -> list[str]:
    """What this host lacks for ``engine``, one line each."""
    check = _CHECKS.get(engine)
    if check is None:
        return [f"ENGINE={engine}: wants one of {', '.join(_CHECKS)}; set it in .env"]
    return [f"ENGINE={engine}: {problem}" for problem in check(host)]

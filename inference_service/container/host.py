"""Whether this host has the accelerator that ``ENGINE`` names: a check before Docker's own, less telling error.

The host's ``/dev``, ``/sys`` and libraries are mounted read-only below ``/host``. Devices and files are those that
the vendors' documentation asks for (docs/containers.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

HOST = Path("/host")
_OTHERWISE = "or set ENGINE=cpu in .env"

# The devices of compose/engine/ascend/ASCEND_BOARD=….yaml; of cards the first is ASCEND_DEVICE.
_CARD = "davinci0"
ASCEND_BOARDS = {
    "310p": (_CARD, "davinci_manager", "devmm_svm", "hisi_hdc"),
    "310b": (
        *("davinci0", "davinci_manager", "svm0", "ts_aisle", "upgrade", "sys", "vdec", "vpc", "pngd", "venc"),
        *("dvpp_cmdlist", "log_drv"),
    ),
    "sd3403": ("svp_npu", "mmz_userdev"),
}


def _cuda(host: Path, _env: Mapping[str, str]) -> list[str]:
    places = ("dev/nvidiactl", "dev/nvidia0", "dev/dxg")
    if any((host / place).exists() for place in places):
        return []
    if (host / "dev/nvhost-gpu").exists():
        return [f"this is a Jetson, and the image engine-cuda is for PCs and servers (amd64): {_OTHERWISE[3:]}"]
    return [
        "no NVIDIA GPU on this host (/dev/nvidia0, /dev/dxg): install its driver and the NVIDIA Container Toolkit, "
        f"{_OTHERWISE}"
    ]


def _ascend(host: Path, env: Mapping[str, str]) -> list[str]:
    board = env.get("ASCEND_BOARD") or "310p"
    if board not in ASCEND_BOARDS:
        return [f"ASCEND_BOARD={board}: wants one of {', '.join(ASCEND_BOARDS)}; set it in .env"]
    devices = list(ASCEND_BOARDS[board])
    if board == "310p" and env.get("ASCEND_DEVICE"):
        devices[0] = env["ASCEND_DEVICE"].removeprefix("/dev/")
    missing = [f"/dev/{name}" for name in devices if not (host / "dev" / name).exists()]
    if not missing:
        return []
    hint = "load ot_svp_npu.ko" if board == "sd3403" else "install the Ascend driver (`npu-smi info` must work)"
    others = ", ".join(other for other in ASCEND_BOARDS if other != board)
    return [
        f"{', '.join(missing)} not on this host: {hint}, set ASCEND_BOARD in .env where this is no {board} but "
        f"{others}, {_OTHERWISE}"
    ]


def _rknn(host: Path, _env: Mapping[str, str]) -> list[str]:
    found = []
    if not (host / "dev/dri").is_dir():
        found.append(f"/dev/dri not on this host: boot Rockchip's own kernel (5.10 or 6.1) with rknpu, {_OTHERWISE}")
    elif not (host / "dev/dri/renderD129").exists():
        found.append("/dev/dri/renderD129, the NPU, not on this host: boot a kernel with the rknpu driver")
    compatible = host / "sys/firmware/devicetree/base/compatible"
    if not compatible.exists() or b"rockchip,rk35" not in compatible.read_bytes():
        found.append(f"/proc/device-tree/compatible names no rockchip,rk35…: this host is no RK3588, {_OTHERWISE}")
    return found


def _cpu(_host: Path, _env: Mapping[str, str]) -> list[str]:
    return []


_CHECKS: dict[str, Callable[[Path, Mapping[str, str]], list[str]]] = {
    "cpu": _cpu,
    "cuda": _cuda,
    "ascend": _ascend,
    "rknn": _rknn,
}


def missing(engine: str, env: Mapping[str, str], host: Path = HOST) -> list[str]:
    """What this host lacks for ``engine``, one line each. Of ``env``: ``ASCEND_BOARD``, ``ASCEND_DEVICE``."""
    check = _CHECKS.get(engine)
    if check is None:
        return [f"ENGINE={engine}: wants one of {', '.join(_CHECKS)}; set it in .env"]
    return [f"ENGINE={engine}: {problem}" for problem in check(host, env)]

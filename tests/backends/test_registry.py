"""Backends by name: nothing imported early, every mistake answered with a name and a fix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints

import pytest

from inference_service.backends import registry
from inference_service.core.errors import BackendUnavailable, UnknownBackend
from inference_service.core.policy import PolicySpec, PolicyWrapper

ROOT = Path(__file__).resolve().parents[2]


class Distributions:
    """Puts made-up installed distributions, with backends, on ``sys.path``."""

    def __init__(self, site: Path) -> None:
        self.site = site

    def add(self, name: str, backends: dict[str, str], source: str = "", extras: tuple[str, ...] = ()) -> None:
        info = self.site / f"{name}-1.0.dist-info"
        info.mkdir()
        provided = "".join(f"Provides-Extra: {extra}\n" for extra in extras)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{provided}")
        lines = "".join(f"{key} = {value}\n" for key, value in backends.items())
        (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{lines}")
        (self.site / f"{name}_backend.py").write_text(source)


@pytest.fixture
def distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distributions:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    return Distributions(site)


def folder(path: Path, *files: str) -> SimpleNamespace:
    """As much of a PolicyFolder as choosing a backend looks at."""
    path.mkdir(exist_ok=True)
    for name in files:
        (path / name).touch()
    return SimpleNamespace(path=path)


def test_builtin_entry_points_lead_to_factories() -> None:
    pytest.importorskip("tomllib")
    import tomllib

    from inference_service.backends import lerobot_torch, onnx

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][registry.GROUP]
    for module in (onnx, lerobot_torch):
        assert f"{module.__name__}:load" in declared.values()
        assert callable(module.load)


def test_nothing_is_imported_before_it_is_chosen(distributions: Distributions, tmp_path: Path) -> None:
    distributions.add("acme", {"acme": "acme_backend:load"})
    script = (
        f"import sys; sys.path.insert(0, {str(distributions.site)!r})\n"
        "from inference_service.backends import registry, onnx, lerobot_torch\n"
        "from types import SimpleNamespace; from pathlib import Path\n"
        "assert 'acme' in registry.available()\n"
        f"registry.resolve('acme', SimpleNamespace(path=Path({str(tmp_path)!r})))\n"
        "heavy = {'torch', 'lerobot', 'onnxruntime', 'acme_backend'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)


def test_choosing_automatically_leaves_torch_alone_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_nvidia_device_present", lambda root: False)
    monkeypatch.setattr(registry, "_installed", lambda *modules: True)
    monkeypatch.setattr(registry.importlib, "import_module", lambda name: pytest.fail(f"imported {name}"))
    both = folder(tmp_path / "both", "model.onnx", "model.safetensors")
    assert registry.resolve("auto", both) == ("onnx", "cpu")
    assert registry.resolve("auto", folder(tmp_path / "weights", "model.safetensors")) == ("lerobot", "cpu")


def test_choosing_automatically_prefers_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_installed", lambda *modules: True)
    monkeypatch.setattr(registry, "_torch_finds_gpu", lambda: True)
    both = folder(tmp_path / "both", "model.onnx", "model.safetensors")
    assert registry.resolve("auto", both) == ("lerobot", "cuda")
    assert registry.resolve("auto", folder(tmp_path / "graph", "model.onnx")) == ("onnx", "cpu")


@pytest.mark.parametrize(
    ("files", "installed", "says"),
    [
        ((), ("onnxruntime", "lerobot", "torch"), "neither model.safetensors nor model.onnx"),
        (("model.onnx",), (), r"inference-service\[onnx\]"),
        (("model.safetensors",), ("onnxruntime",), r"inference_service\.export"),
    ],
)
def test_choosing_automatically_says_what_is_missing(
    files: tuple[str, ...], installed: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_nvidia_device_present", lambda root: False)
    monkeypatch.setattr(registry, "_installed", lambda *modules: set(modules) <= set(installed))
    with pytest.raises(BackendUnavailable, match=says):
        registry.resolve("auto", folder(tmp_path / "policy", *files))


@pytest.mark.parametrize("place", ["dev/nvidia1", "proc/driver/nvidia/version", "dev/dxg"])
def test_a_gpu_is_seen_by_its_device_files(place: str, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert not registry._nvidia_device_present(tmp_path)
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).touch()
    assert registry._nvidia_device_present(tmp_path)


def test_device_strings(distributions: Distributions, tmp_path: Path) -> None:
    distributions.add("acme", {"acme_npu": "acme_backend:load"})
    policy = folder(tmp_path)
    assert registry.resolve("cpu", policy) == ("lerobot", "cpu")
    assert registry.resolve("cuda:1", policy) == ("lerobot", "cuda:1")
    assert registry.resolve("acme_npu", policy) == ("acme_npu", "cpu")
    assert registry.resolve("acme_npu:2", policy) == ("acme_npu", "2")


def test_an_unknown_name_lists_the_known_and_the_nearest(distributions: Distributions, tmp_path: Path) -> None:
    distributions.add("acme", {"acme_npu": "acme_backend:load"})
    with pytest.raises(UnknownBackend, match=r"did you mean 'acme_npu'\?.*acme_npu.*cuda:N"):
        registry.resolve("acme_nup", folder(tmp_path))
    with pytest.raises(UnknownBackend, match=r"did you mean 'cuda'\?"):
        registry.resolve("CUDA", folder(tmp_path))


def test_two_owners_of_one_name_are_both_named(distributions: Distributions, tmp_path: Path) -> None:
    distributions.add("acme", {"npu": "acme_backend:load"})
    distributions.add("bolt", {"npu": "bolt_backend:load"})
    with pytest.raises(BackendUnavailable, match=r"acme \(acme_backend:load\) and bolt \(bolt_backend:load\)"):
        registry.resolve("npu", folder(tmp_path))


def test_a_missing_library_names_what_to_install(distributions: Distributions, tmp_path: Path) -> None:
    source = "def load(folder, options):\n    import acme_vendor_runtime\n"
    distributions.add("acme", {"npu": "acme_backend:load"}, source, extras=("npu",))
    with pytest.raises(BackendUnavailable, match=r"acme_vendor_runtime.*pip install 'acme\[npu\]'") as caught:
        registry.load_policy(folder(tmp_path), "npu")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert caught.value.__cause__.name == "acme_vendor_runtime"


def test_a_wrapper_without_a_member_is_told_which(distributions: Distributions, tmp_path: Path) -> None:
    source = "class Half:\n    spec = None\n    def close(self): ...\ndef load(folder, options):\n    return Half()\n"
    distributions.add("bolt", {"half": "bolt_backend:load"}, source)
    with pytest.raises(BackendUnavailable, match=r"'half' of bolt .* Half without predict_action_chunk"):
        registry.load_policy(folder(tmp_path), "half")


def test_members_are_those_of_the_interface() -> None:
    public = {name for name in vars(PolicyWrapper) if not name.startswith("_")}
    assert set(registry.MEMBERS) == public
    assert get_type_hints(PolicyWrapper.spec.fget)["return"] is PolicySpec


def test_options_reach_the_factory(distributions: Distributions, tmp_path: Path) -> None:
    source = (
        "class Wrapper:\n    spec = None\n    def close(self): ...\n    def predict_action_chunk(self, batch): ...\n"
        "def load(folder, options):\n    wrapper = Wrapper()\n    wrapper.options = options\n    return wrapper\n"
    )
    distributions.add("volt", {"volt": "volt_backend:load"}, source)
    options = registry.load_policy(folder(tmp_path), "volt:3", threads=2, core="a").options  # type: ignore[attr-defined]
    assert (options.device, options.threads, dict(options.extra)) == ("3", 2, {"core": "a"})

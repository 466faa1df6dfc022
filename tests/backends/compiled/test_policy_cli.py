"""``inference-service policy``: what is in a directory, whether it runs, whether it agrees."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from compiled_models import ACT, CHUNK, DIM, IMAGE, STATE, TOP, WRIST, make_act, make_pi05, save

from inference_service import cli
from inference_service.backends import registry
from inference_service.core.policy_folder import PolicyFolder


@pytest.fixture(autouse=True)
def backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backends of pyproject.toml, also where the installed metadata is older."""
    modules = {"ascend_om": "compiled.ascend", "rknn": "compiled.rknn", "onnx": "onnx", "lerobot": "lerobot_torch"}
    points = [
        EntryPoint(name, f"inference_service.backends.{module}:load", registry.GROUP)
        for name, module in modules.items()
    ]
    monkeypatch.setattr(
        registry, "entry_points", lambda group, name=None: [p for p in points if name in (None, p.name)]
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An ACT-shaped policy as ``model.onnx`` and as ``om/act.om``."""
    path = make_act(tmp_path / "policy")
    shutil.copy(path / "om" / "act.om", path / "model.onnx")
    return path


def run(*words: Any) -> int:
    return cli.main(["policy", *map(str, words)])


def test_inspect_shows_what_was_understood(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bindings = [
        {"name": STATE, "index": 0, "dtype": "float32", "shape": [1, 6]},
        {"name": TOP, "index": 1, "layout": "NCHW"},
        {"name": WRIST, "index": 2},
    ]
    make_act(directory, bindings={"policy": {"inputs": bindings}}, backend_config={"device_id": 1})
    assert run("inspect", directory) == 0
    shown = capsys.readouterr().out
    for part in (
        "family       act",
        f"chunk        {CHUNK} actions of {DIM}",
        PolicyFolder.load(directory).fingerprint,
        "model.onnx: ",
        "backend ascend_om: config.om.json",
        f"artifact   policy: {directory / 'om' / 'act.om'}",
        f"order      {STATE}, {TOP}, {WRIST} (by the bindings)",
        "binding    policy input 0 observation.state float32 [1, 6]",
        "binding    policy input 1 observation.images.top NCHW",
        "option     device_id = 1",
    ):
        assert part in shown, part


def test_inspect_shows_the_order_that_counts(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", directory) == 0
    assert f"order      {STATE}, {TOP}, {WRIST} (by config.json" in capsys.readouterr().out
    turned = [{"name": name, "index": index} for index, name in enumerate((WRIST, STATE, TOP))]
    make_act(directory, bindings={"policy": {"inputs": turned[::-1]}})
    assert run("inspect", directory) == 0
    assert f"order      {WRIST}, {STATE}, {TOP} (by the bindings)" in capsys.readouterr().out


def test_inspect_looks_for_the_usual_artifact_where_there_is_no_sidecar(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", directory, "--device", "rknn") == 1
    said = capsys.readouterr().out
    assert f"{directory}, without config.rknn.json: {directory / 'model.rknn'} is missing" in said
    (directory / "model.rknn").write_bytes(b"0" * 1500)
    assert run("inspect", directory, "--device", "rknn") == 0
    assert f"policy: {directory / 'model.rknn'} (1.5 kB, no sha256 declared)" in capsys.readouterr().out


def test_inspect_shows_who_integrates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", make_pi05(tmp_path / "policy"), "--device", "ascend_om") == 0
    shown = capsys.readouterr().out
    assert "execution  vlm → action_expert" in shown and "denoising  euler, the host integrates" in shown


def test_inspect_reports_a_bad_sidecar(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = directory / "config.om.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"execution": ["vlm"]}))
    assert run("inspect", directory) == 1
    assert f"{file}: key 'execution' must be ['policy']" in capsys.readouterr().out


def test_check_loads_and_runs_it(acl: Any, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", directory, "--device", "ascend_om") == 0
    shown = capsys.readouterr().out
    assert "loaded act with backend ascend_om" in shown and "soc Ascend310B4" in shown and "ok: 4 actions of 6" in shown


def test_check_says_why_it_does_not_run(acl: Any, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    acl.simulator.fail("mdl.execute", 2, 507015)
    assert run("check", directory, "--device", "ascend_om") == 1
    assert "507015" in capsys.readouterr().err


def test_parity_with_the_reference(acl: Any, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("parity", directory, "--device", "ascend_om", "--reference", "onnx", "--count", 3, "--tolerance", 1e-6)
    assert run(*words) == 0
    assert "on 3 observations: max 0.00e+00, mean 0.00e+00, cosine 1.0" in capsys.readouterr().out


def test_parity_sees_swapped_cameras(acl: Any, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(ACT, directory / "om" / "act.om", {"state": STATE, "top": WRIST, "wrist": TOP})
    recorded = {STATE: np.zeros((9, DIM), np.float32)}
    recorded |= {name: np.full((9, *IMAGE, 3), value, np.uint8) for name, value in ((TOP, 10), (WRIST, 200))}
    np.savez(directory / "recorded.npz", **recorded)
    words = ("parity", directory, "--device", "ascend_om", "--reference", "onnx", "--count", 4)
    assert run(*words, "--observations", directory / "recorded.npz") == 1
    assert "on 4 observations" in (shown := capsys.readouterr().out) and "NOT OK: tolerance" in shown


def test_parity_refuses_what_is_no_recording(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    junk = directory / "recorded.npz"
    words = ("parity", directory, "--device", "onnx", "--reference", "onnx", "--observations", junk)
    assert run(*words) == 1 and f"{junk} cannot be read: No such file" in capsys.readouterr().err
    junk.write_bytes(b"PK\x03\x04 junk")
    assert run(*words) == 1 and "no .npz of plain arrays" in capsys.readouterr().err
    np.savez(junk, a=np.zeros(2), b=np.zeros(3))
    assert run(*words) == 1 and "one equal number of rows" in capsys.readouterr().err


def test_wrong_usage_is_status_2(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("parity", directory) == 2
    for tolerance in ("nan", "inf", "-1", "small"):
        assert run("parity", directory, "--device", "onnx", "--tolerance", tolerance) == 2
    assert run() == 2
    assert run("inspect", "--help") == 0
    assert run("inspect", directory / "nowhere") == 1
    assert "no such directory" in capsys.readouterr().err

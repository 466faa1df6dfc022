"""config.om.json and config.rknn.json: every mistake answered with file, key and what was expected."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from inference_service.backends.compiled.sidecar import load_sidecar
from inference_service.core.errors import ModelLoadFailed, PolicyFolderError
from inference_service.core.policy_folder import PolicyFolder
from policies import make_plain_folder

GOOD: dict[str, Any] = {
    "schema_version": 1,
    "policy_type": "act",
    "backend": "ascend_om",
    "artifact_dir": "om",
    "artifacts": {"policy": "act.om"},
    "execution": ["policy"],
    "backend_config": {},
}


@pytest.fixture
def folder(tmp_path: Path) -> PolicyFolder:
    path = make_plain_folder(tmp_path / "policy", image=(8, 8))
    (path / "om").mkdir()
    (path / "om" / "act.om").write_bytes(b"model")
    return PolicyFolder.load(path)


def write(folder: PolicyFolder, document: Any, name: str = "config.om.json") -> None:
    (folder.path / name).write_text(document if isinstance(document, str) else json.dumps(document))


def test_the_documents_own_example_is_understood(folder: PolicyFolder) -> None:
    write(folder, GOOD)
    sidecar = load_sidecar(folder, "ascend_om")
    assert (sidecar.backend, sidecar.policy_type) == ("ascend_om", "act")
    assert sidecar.artifacts["policy"].path == folder.path / "om" / "act.om"
    assert sidecar.bindings_of("policy").inputs == ()


@pytest.mark.parametrize("execution", [None, []])
def test_execution_and_directory_may_be_left_out(folder: PolicyFolder, execution: list[str] | None) -> None:
    document = {key: value for key, value in GOOD.items() if key not in ("execution", "artifact_dir")}
    if execution is not None:
        document["execution"] = execution
    write(folder, document | {"backend": "Ascend-OM", "artifacts": {"policy": {"path": "om/act.om"}}})
    assert load_sidecar(folder, "ascend_om").artifacts["policy"].path.name == "act.om"


def test_pi05_wants_both_models_and_may_state_its_schedule(tmp_path: Path) -> None:
    path = make_plain_folder(tmp_path / "policy", image=(8, 8), type="pi05")
    for name in ("vlm.om", "action_expert.om"):
        (path / name).write_bytes(b"model")
    document = GOOD | {
        "policy_type": "pi05",
        "artifacts": {"action_expert": "action_expert.om", "vlm": "vlm.om"},
        "execution": ["vlm", "action_expert"],
        "denoising": {"algorithm": "euler", "model_output": "velocity", "timesteps": [1.0, 0.5, 0.0]},
    }
    del document["artifact_dir"]
    folder = PolicyFolder.load(path)
    write(folder, document)
    sidecar = load_sidecar(folder, "ascend_om")
    assert list(sidecar.artifacts) == ["vlm", "action_expert"]
    assert sidecar.denoising is not None and sidecar.denoising.timesteps == (1.0, 0.5, 0.0)
    for times in ([1.0], [1.0, 0.5], [1.0, 0.5, 0.5, 0.0], [0.9, 0.0]):
        write(folder, document | {"denoising": {"model_output": "velocity", "timesteps": times}})
        with pytest.raises(PolicyFolderError, match=r"config\.om\.json: key 'denoising': timesteps must fall"):
            load_sidecar(folder, "ascend_om")


def test_rknn_needs_no_sidecar(folder: PolicyFolder) -> None:
    with pytest.raises(ModelLoadFailed, match=r"model\.rknn is missing"):
        load_sidecar(folder, "rknn")
    (folder.path / "model.rknn").write_bytes(b"model")
    assert load_sidecar(folder, "rknn").artifacts["policy"].path == folder.path / "model.rknn"
    write(folder, GOOD | {"backend": "rknn", "artifacts": {"policy": "act.rknn"}}, "config.rknn.json")
    with pytest.raises(ModelLoadFailed, match=r"act\.rknn is missing"):
        load_sidecar(folder, "rknn")


def test_a_worker_must_be_executable(folder: PolicyFolder) -> None:
    worker = folder.path / "om" / "main"
    worker.write_text("#!/bin/sh\n")
    document = GOOD | {
        "backend": "ascend_om_3403",
        "artifacts": {"policy": "act.om", "worker": "main"},
        "execution": ["policy", "worker"],
    }
    write(folder, document)
    worker.chmod(0o644)
    with pytest.raises(ModelLoadFailed, match=r"artifacts\.worker.*chmod \+x"):
        load_sidecar(folder, "ascend_om_3403")
    worker.chmod(0o755)
    assert load_sidecar(folder, "ascend_om_3403").artifacts["worker"].path == worker


def _binding(**change: Any) -> dict[str, Any]:
    return {"bindings": {"policy": {"inputs": [{"name": "observation.state", "index": 0} | change]}}}


BAD: dict[str, tuple[Any, str]] = {
    "not JSON": ("{", r"not valid JSON"),
    "not an object": ("[1]", r"holds a JSON list, expected an object"),
    "no version": ({"schema_version": None}, r"'schema_version'"),
    "another version": ({"schema_version": 2}, r"'schema_version'.*1.*found 2"),
    "version as text": ({"schema_version": "1"}, r"'schema_version'"),
    "another backend": ({"backend": "rknn"}, r"'backend' is 'rknn', expected 'ascend_om'.*device:=rknn"),
    "another family": ({"policy_type": "pi05"}, r"'policy_type' is 'pi05', expected 'act'"),
    "artifacts empty": ({"artifacts": {}}, r"'artifacts'"),
    "artifacts a list": ({"artifacts": ["act.om"]}, r"'artifacts'"),
    "artifact a number": ({"artifacts": {"policy": 3}}, r"'artifacts\.policy': must be a path or an object"),
    "artifact without path": ({"artifacts": {"policy": {}}}, r"'artifacts\.policy\.path' is missing"),
    "artifact with junk": ({"artifacts": {"policy": {"path": "a.om", "sha": "0"}}}, r"artifacts\.policy\.sha' is unk"),
    "digest too short": ({"artifacts": {"policy": {"path": "act.om", "sha256": "ab"}}}, r"artifacts\.policy\.sha256"),
    "role missing": ({"artifacts": {"vlm": "act.om"}}, r"'artifacts' lacks 'policy'"),
    "role unknown": ({"artifacts": {"policy": "act.om", "vlm": "act.om"}}, r"'artifacts\.vlm' is unknown"),
    "execution no list": ({"execution": "policy"}, r"'execution'"),
    "execution other": ({"execution": ["vlm"]}, r"'execution' must be \['policy'\], found \['vlm'\]"),
    "config no object": ({"backend_config": []}, r"'backend_config'"),
    "key misspelt": ({"artefacts": {}}, r"'artefacts' is unknown"),
    "absolute": ({"artifacts": {"policy": "/etc/act.om"}}, r"'artifacts\.policy'.*stays in the policy directory"),
    "upwards": ({"artifacts": {"policy": "../act.om"}}, r"'artifacts\.policy'.*stays in the policy directory"),
    "upwards inside": ({"artifacts": {"policy": "a/../../act.om"}}, r"stays in the policy directory"),
    "directory upwards": ({"artifact_dir": ".."}, r"'artifact_dir'.*stays in the policy directory"),
    "drive": ({"artifacts": {"policy": "C:\\act.om"}}, r"'artifacts\.policy'.*stays in the policy directory"),
    "denoising for act": ({"denoising": {"model_output": "velocity"}}, r"'denoising' is for policy_type 'pi05'"),
    "bindings of nothing": ({"bindings": {"worker": {}}}, r"'bindings\.worker' is unknown"),
    "binding index": (_binding(index=1), r"'bindings\.policy': inputs: the indices must be 0 to 0"),
    "binding dtype": (_binding(dtype="float64"), r"'bindings\.policy\.inputs\.0\.dtype'"),
    "binding layout": (_binding(layout="CHW"), r"'bindings\.policy\.inputs\.0\.layout'"),
    "binding shape": (_binding(shape=[1, -1]), r"'bindings\.policy\.inputs\.0\.shape\.1'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_sidecar_is_refused_by_file_and_key(folder: PolicyFolder, name: str) -> None:
    change, message = BAD[name]
    write(folder, change if isinstance(change, str) else GOOD | change)
    with pytest.raises(PolicyFolderError, match=message) as caught:
        load_sidecar(folder, "ascend_om")
    assert str(folder.path / "config.om.json") in str(caught.value)


def test_without_sidecar_the_error_says_what_makes_it(folder: PolicyFolder) -> None:
    with pytest.raises(PolicyFolderError, match=r"config\.om\.json: no such file; backend 'ascend_om'.*policy"):
        load_sidecar(folder, "ascend_om")


def test_a_family_that_no_session_runs_is_refused(tmp_path: Path) -> None:
    folder = PolicyFolder.load(make_plain_folder(tmp_path / "policy", image=(8, 8), type="diffusion"))
    with pytest.raises(PolicyFolderError, match=r"config\.json: key 'type' is 'diffusion'.*supports act, pi05"):
        load_sidecar(folder, "ascend_om")


def test_artifacts_must_be_there_and_be_themselves(folder: PolicyFolder) -> None:
    digest = hashlib.sha256(b"model").hexdigest()
    write(folder, GOOD | {"artifacts": {"policy": {"path": "act.om", "sha256": digest.upper()}}})
    assert load_sidecar(folder, "ascend_om").artifacts["policy"].sha256 == digest
    (folder.path / "om" / "act.om").write_bytes(b"other")
    with pytest.raises(ModelLoadFailed, match=r"artifacts\.policy.*another SHA-256"):
        load_sidecar(folder, "ascend_om")
    (folder.path / "om" / "act.om").write_bytes(b"")
    with pytest.raises(ModelLoadFailed, match=r"is empty"):
        load_sidecar(folder, "ascend_om")
    write(folder, GOOD | {"artifacts": {"policy": "act.bin"}})
    with pytest.raises(ModelLoadFailed, match=r"act\.bin is no \.om file"):
        load_sidecar(folder, "ascend_om")


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    device_id: int = 0


def test_backend_config_is_checked_by_its_backend(folder: PolicyFolder) -> None:
    write(folder, GOOD | {"backend_config": {"device_id": 2}})
    assert load_sidecar(folder, "ascend_om").options(_Options).device_id == 2
    for config, message in (({"device_id": "2"}, "device_id'"), ({"devcie_id": 2}, "devcie_id' is unknown")):
        write(folder, GOOD | {"backend_config": config})
        with pytest.raises(PolicyFolderError, match=rf"config\.om\.json: key 'backend_config\.{message}"):
            load_sidecar(folder, "ascend_om").options(_Options)

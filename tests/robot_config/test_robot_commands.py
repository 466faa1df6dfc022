"""``python -m robot_config``: validate, schema, plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from robot_files import FULL

from robot_config.__main__ import json_schema, main

Write = Callable[..., Path]


def test_validate_looks_at_every_file_and_reports_every_problem(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = write(name="good.yaml"), write("rate_hz: 20", "rate_hz: 0\n    rate: 1", name="bad.yaml")
    assert main(["validate", str(bad), "so101_smi", str(good)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(bad), str(bad), "so101_smi", str(good)]
    assert lines[-1].endswith(": ok")


def test_validate_accepts_names_and_shows_warnings(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write("control_frequency: 20", "control_frequency: 40")
    assert main(["validate", "so101_sim", str(path)]) == 0
    assert f"warning: {path}:" in capsys.readouterr().out


def test_plan_prints_processes_or_says_why_not(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write()
    (tmp_path / "policies/reach").mkdir(parents=True)
    assert main(["plan", f"config_path:={path}", "use_sim:=true"]) == 0
    assert "action_dispatcher (inference_service action_dispatcher_node)" in capsys.readouterr().out
    assert main(["plan", f"config_path:={path}", "usesim:=true"]) == 1
    assert "did you mean 'use_sim'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["validate"], ["nonsense"]])
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "usage:" in capsys.readouterr().err


def test_schema_is_json_with_a_description_of_every_key_of_a_robot(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    definitions: dict[str, Any] = schema["$defs"]
    assert definitions["ControlMode"]["additionalProperties"] is False
    assert definitions["InferenceConfig"]["properties"]["execution_mode"]["enum"] == ["monolithic", "distributed"]
    assert "MoveIt" in definitions["RobotConfig"]["properties"]["moveit"]["description"]
    assert definitions["ObservationSpec"]["required"] == ["key"]
    assert "name" not in definitions["RobotConfig"].get("required", [])


def test_the_schema_agrees_with_the_loader(write: Write) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    yaml = pytest.importorskip("yaml")
    validator = jsonschema.Draft202012Validator(json_schema())
    assert not list(validator.iter_errors(yaml.safe_load(write(text=FULL).read_text())))
    wrong = yaml.safe_load(write("queue_size: 50", "queue_sise: 50").read_text())
    assert list(validator.iter_errors(wrong))

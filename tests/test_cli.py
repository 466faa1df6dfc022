"""The ``inference-service`` command."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inference_service import cli


def test_without_a_command_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage:" in capsys.readouterr().err
    assert cli.main(["--help"]) == 0
    assert "inference-service cloud_inference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lanch"], "unknown command 'lanch': did you mean 'launch'?"),
        (["run", "policy_node"], "unknown executable 'policy_node': did you mean 'lerobot_policy_node'?"),
        (["run"], "unknown executable '': known: lerobot_policy_node, pure_inference_node"),
        (["launch", "robot_confg:=x"], "unknown argument 'robot_confg'; did you mean 'robot_config'?"),
        (["launch", "robot_config:=so101_smi"], "no robot of that name: did you mean 'so101_sim'?"),
        (["launch", "robot_config:=so101_sim", "control_mode:=x"], "no control mode 'x'"),
        (["cloud_inference"], "policy_path:= is required"),
        (["cloud_inference", "policy_path:=/no/such/policy"], "policy_path:=/no/such/policy does not exist here"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("command", "argument"), [("launch", "cloud_local:="), ("cloud_inference", "input_topic:=")])
def test_arguments_are_listed(command: str, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--show-args"]) == 0
    assert argument in capsys.readouterr().out


def test_a_mode_with_nothing_to_start_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["launch", "robot_config:=so101_single_arm", "control_mode:=teleop"]) == 2
    captured = capsys.readouterr()
    assert "Control mode 'teleop' runs no policy" in captured.out
    assert "Nothing to start" in captured.err


def test_run_hands_the_words_to_the_nodes_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stand_in_node.py").write_text("seen = []\ndef main(argv):\n    seen.extend(argv)\n    return 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.EXECUTABLES, "sim_robot", "stand_in_node")
    assert cli.main(["run", "sim_robot", "seed:=1", "--ros-args"]) == 7
    assert sys.modules["stand_in_node"].seen == ["seed:=1", "--ros-args"]


def test_the_command_imports_no_node_and_no_runtime() -> None:
    program = (
        "import sys; from inference_service.cli import main; main(['version'])\n"
        "heavy = {'numpy', 'torch', 'onnxruntime', 'mujoco', 'cyclonedds', 'rosbags'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_node_that_is_given_nonsense_ends_with_the_reason() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "inference_service.cli", "run", "sim_robot", "sede:=1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean 'seed'" in done.stderr


@pytest.mark.parametrize(
    ("imported", "status"),
    [
        ("robot_config", -signal.SIGINT),  # by the command itself
        ("inference_service.nodes.sim_robot", 130),  # by `run`
    ],
)
def test_ctrl_c_while_it_starts_ends_it_without_a_traceback(imported: str, status: int) -> None:
    program = (
        "import os, runpy, signal, sys\n"
        "class Press:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        if name == {imported!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Press())\n"
        "sys.argv[1:] = ['run', 'sim_robot', 'no_such_parameter:=1']\n"
        "runpy.run_module('inference_service', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")

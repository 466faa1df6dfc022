"""``inference-service evaluate``: its exit status, its JSON, and the whole stack as one row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("mujoco")
pytest.importorskip("onnxruntime")

from inference_service.cli import main
from inference_service.evaluation.over_dds import TaskWatch, play_all
from inference_service.evaluation.result import Episode, summary
from inference_service.sim.task import TOLERANCE_M
from inference_service.wire.interfaces import new_message

DEMO = Path(__file__).resolve().parents[2] / "policies" / "so101_act_demo"
COMMAND = "std_msgs/msg/Float64MultiArray"


def test_a_good_policy_is_0_and_every_episode_is_in_the_json(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "result.json"
    words = ["evaluate", str(DEMO), "--device", "onnx", "--seeds", "1", "--json", str(file)]
    assert main(words) == 0
    result = json.loads(file.read_text())
    assert (result["succeeded"], result["of"], result["rate"]) == (1, 1, 1.0)
    assert [episode["seed"] for episode in result["episodes"]] == [1000]
    assert (result["backend"], result["mode"], result["mistake"]) == ("onnx", "in_process", "none")
    assert len(result["fingerprint"]) == 64
    assert capsys.readouterr().out.startswith("  1 of 1  in_process, onnx, default")


def test_too_few_successes_are_1() -> None:
    assert main(["evaluate", str(DEMO), "--device", "onnx", "--seeds", "1", "--mistake", "bgr"]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([str(DEMO), "--seeds", "0"], "must be 1 or more"),
        ([str(DEMO), "--encoding", "gif"], "unknown codec 'gif'"),
        (["/no/such/policy"], "/no/such/policy"),
        ([str(DEMO), "--mode", "distributed", "--mistake", "bgr"], "--mode in_process"),
    ],
)
def test_what_cannot_be_tried_is_2_and_a_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_a_camera_that_the_simulated_robot_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("model.*"))
    for file in folder.glob("*.json"):
        file.write_text(file.read_text().replace("images.wrist", "images.side"))
    assert main(["evaluate", str(folder), "--seeds", "1"]) == 2
    assert "observation.images.side" in capsys.readouterr().err


def test_episodes_are_counted_by_seed_and_only_from_the_first_command_to_the_end() -> None:
    watch = TaskWatch()
    for seed, elapsed in ((7, 0.0), (7, 0.05), (7, 6.0), (7, 6.1), (8, 0.05)):
        watch.take(new_message(COMMAND, data=[seed, elapsed, elapsed / 10, 0.0, 0.0]))
    assert watch.read() == {7: [0.005, 0.6], 8: [0.005]}


def test_an_episode_tells_when_the_cube_was_reached_first() -> None:
    episode = Episode.of(3, [1.0] * 30 + [TOLERANCE_M] * 30, 20.0)
    assert (episode.success, episode.reached_s, episode.end_m) == (True, 1.55, TOLERANCE_M)
    lost = Episode.of(3, [TOLERANCE_M] + [1.0] * 30, 20.0)
    assert (lost.success, lost.reached_s) == (False, 0.05)
    assert summary([episode, lost])["rate"] == 0.5


def test_seeds_of_the_whole_stack_follow_one_another() -> None:
    with pytest.raises(ValueError, match="gaps"):
        play_all(DEMO, [1, 3])


def test_the_whole_stack_comes_to_the_cube_on_jpeg_over_dds(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    words = ["--mode", "distributed", "--device", "onnx", "--encoding", "jpeg:90", "--seeds", "1"]
    assert main(["evaluate", str(DEMO), *words, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["episodes"][0]["success"]

"""Prompts and relative actions without LeRobot: where the tokenizer comes from, what is refused, whose state it is."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.core.engine import check_batch
from inference_service.core.errors import (
    InferenceFailed,
    InvalidObservation,
    MissingObservation,
    PolicyFolderError,
    UnsupportedStep,
)
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from tests.core.test_imports import FORBIDDEN, PROGRAM
from tests.families import make_plain_language_folder, make_tokenizer
from tests.policies import make_observation

pytest.importorskip("tokenizers")

PRE, POST = "policy_preprocessor.json", "policy_postprocessor.json"
TOKENS, MASK, STATE = "observation.language.tokens", "observation.language.attention_mask", "observation.state"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_plain_language_folder(tmp_path / "policy")


def observation(**more: Any) -> dict[str, Any]:
    return {**make_observation(image=(32, 32), cameras=("top",)), "task": "pick up the cube", **more}


def preprocessor(path: Path) -> TensorPreprocessor:
    return TensorPreprocessor(PolicyFolder.load(path))


def edit_step(path: Path, file: str, index: int, **changes: Any) -> None:
    pipeline = json.loads((path / file).read_text())
    pipeline["steps"][index] |= changes
    (path / file).write_text(json.dumps(pipeline))


def edit_tokenizer(path: Path, **config: Any) -> None:
    options = json.loads((path / PRE).read_text())["steps"][2]["config"]
    edit_step(path, PRE, 2, config=options | config)


def test_a_prompt_becomes_tokens_of_one_length(path: Path) -> None:
    prepare = preprocessor(path)
    for prompt in ("pick up the cube", "go"):
        batch = prepare(observation(task=prompt)).batch
        assert batch["task"] == [f"{prompt}\n"]
        assert (batch[TOKENS].dtype, batch[TOKENS].shape) == (np.int64, (1, 48))
        assert (batch[MASK].dtype, batch[MASK].shape) == (np.bool_, (1, 48))
        assert batch[TOKENS][0, 0] == 2
        assert (batch[TOKENS][~batch[MASK]] == 0).all()
        check_batch(batch, PolicyFolder.load(path).config.input_features)


def test_padding_and_cutting_that_a_tokenizer_was_saved_with_do_not_count(path: Path) -> None:
    """The step says how long; what a training left in the file would count as words of the prompt."""
    from tokenizers import Tokenizer

    expected = preprocessor(path)(observation()).batch
    tokenizer = Tokenizer.from_file(str(path / "tokenizer/tokenizer.json"))
    tokenizer.enable_padding(pad_id=0, pad_token="<pad>", length=40)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(path / "tokenizer/tokenizer.json"))
    batch = preprocessor(path)(observation()).batch
    for key in (TOKENS, MASK):
        assert np.array_equal(batch[key], expected[key])


def test_longest_padding_has_one_length_too(path: Path) -> None:
    expected = preprocessor(path)(observation()).batch[TOKENS]
    edit_tokenizer(path, padding="longest")
    assert np.array_equal(preprocessor(path)(observation()).batch[TOKENS], expected)


@pytest.mark.parametrize("place", ["artifact", "absolute", "relative", "the policy's directory"])
def test_where_the_tokenizer_may_lie(path: Path, tmp_path: Path, place: str) -> None:
    expected = preprocessor(path)(observation()).batch[TOKENS]
    if place == "artifact":
        (path / "tokenizer").rename(path / "saved")
        make_tokenizer(path / "tokenizer", pad_token="<eos>")  # another one, which must not be taken
        edit_step(path, PRE, 2, artifacts={"tokenizer_name": "saved"})
    elif place == "absolute":
        (path / "tokenizer").rename(tmp_path / "elsewhere")
        edit_tokenizer(path, tokenizer_name=str(tmp_path / "elsewhere"))
    elif place == "relative":
        (path / "google").mkdir()
        (path / "tokenizer").rename(path / "google/paligemma-3b-pt-224")
    else:
        for file in (path / "tokenizer").iterdir():
            file.rename(path / file.name)
    assert np.array_equal(preprocessor(path)(observation()).batch[TOKENS], expected)


def test_a_tokenizer_that_only_a_hub_has_is_named_with_the_way_to_save_it(path: Path) -> None:
    shutil.rmtree(path / "tokenizer")
    with pytest.raises(PolicyFolderError) as caught:
        preprocessor(path)
    for word in (str(path / PRE), "step 2", "tokenizer.json", "google/paligemma-3b-pt-224", "save_pretrained"):
        assert word in str(caught.value)


def test_a_missing_artifact_is_not_replaced_by_another_tokenizer(path: Path) -> None:
    edit_step(path, PRE, 2, artifacts={"tokenizer_name": "saved"})
    with pytest.raises(PolicyFolderError, match=r"no tokenizer\.json in .*saved"):
        preprocessor(path)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", 3])
def test_an_artifact_outside_the_folder(path: Path, name: Any) -> None:
    edit_step(path, PRE, 2, artifacts={"tokenizer_name": name})
    with pytest.raises(PolicyFolderError, match=r"artifacts\.tokenizer_name"):
        preprocessor(path)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"version": "1.0", "model": {"type": "Oracle"}}'])
def test_a_corrupt_tokenizer(path: Path, data: bytes) -> None:
    (path / "tokenizer/tokenizer.json").write_bytes(data)
    with pytest.raises(PolicyFolderError, match=r"tokenizer\.json: not a tokenizer"):
        preprocessor(path)


@pytest.mark.parametrize(("token", "word"), [(None, "no 'pad_token'"), ("<unheard>", "'<unheard>'")])
def test_a_tokenizer_that_says_not_what_pads(path: Path, token: str | None, word: str) -> None:
    make_tokenizer(path / "tokenizer", pad_token=token)
    with pytest.raises(PolicyFolderError, match=rf"tokenizer_config\.json.*{word}"):
        preprocessor(path)


def test_a_pad_token_written_as_an_object_or_in_the_older_file(path: Path) -> None:
    expected = preprocessor(path)(observation()).batch[TOKENS]
    make_tokenizer(path / "tokenizer", pad_token={"content": "<pad>", "special": True})
    assert np.array_equal(preprocessor(path)(observation()).batch[TOKENS], expected)
    (path / "tokenizer/tokenizer_config.json").unlink()
    (path / "tokenizer/special_tokens_map.json").write_text('{"pad_token": "<pad>"}')
    assert np.array_equal(preprocessor(path)(observation()).batch[TOKENS], expected)


def test_without_the_library_the_error_names_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setitem(sys.modules, "lerobot", None)  # would import a transformers that remembers there are none
    with pytest.raises(UnsupportedStep, match=r"inference-service\[language\]"):
        preprocessor(path)


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"max_length": 0}, PolicyFolderError, "max_length"),
        ({"max_length": "48"}, PolicyFolderError, "max_length"),
        ({"padding": "do_not_pad"}, UnsupportedStep, "padding: 'do_not_pad'"),
        ({"padding_side": "top"}, UnsupportedStep, "padding_side: 'top'"),
        ({"truncation": "yes"}, PolicyFolderError, "truncation"),
        ({"stride": 3}, UnsupportedStep, "option stride"),
    ],
)
def test_a_tokenizer_step_configured_wrong(
    path: Path, options: dict[str, Any], error: type[Exception], word: str
) -> None:
    edit_tokenizer(path, **options)
    with pytest.raises(error, match=word):
        preprocessor(path)


def test_a_missing_prompt_is_refused(path: Path) -> None:
    prepare = preprocessor(path)
    with pytest.raises(MissingObservation, match=r"lacks 'task'.*'pi0' needs a prompt"):
        prepare(observation(task=None))


def test_a_prompt_longer_than_the_policys_limit(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_tokenizer(path, max_length=8)
    prepare, long = preprocessor(path), "put " * 40
    with caplog.at_level(logging.WARNING):
        batch = prepare(observation(task=long)).batch
        prepare(observation(task=long))
    assert batch[TOKENS].shape == (1, 8)
    assert batch[MASK].all()
    (record,) = caplog.records
    assert "the policy takes 8" in record.getMessage()
    edit_tokenizer(path, truncation=False)
    with pytest.raises(InvalidObservation, match=r"has \d\d+ tokens, the policy takes 8; shorten it"):
        preprocessor(path)(observation(task=long))


def test_requests_under_way_together_keep_their_own_state(path: Path) -> None:
    folder = PolicyFolder.load(path)
    pre, post = TensorPreprocessor(folder), TensorPostprocessor(folder)
    states = [np.full(6, value, np.float32) for value in (1, 2)]
    contexts = [pre(observation() | {STATE: state}).context for state in states]
    chunk = np.full((10, 6), 0.5, np.float32)
    for state, context in zip(states, contexts, strict=True):
        expected, state[:] = chunk + state, 9  # a robot may reuse its buffer
        assert np.array_equal(post(chunk, context), expected)


def test_relative_actions_without_their_state_are_refused(path: Path) -> None:
    post = TensorPostprocessor(PolicyFolder.load(path))
    with pytest.raises(InferenceFailed, match=r"policy_postprocessor\.json: step 0.*no state"):
        post(np.zeros((10, 6), np.float32), {})


def test_excluded_joints_stay_absolute(path: Path) -> None:
    names = ["Gripper.pos", "left_gripper", "lift", "pan", "roll", "yaw"]
    config = {"enabled": True, "exclude_joints": ["GRIPPER", "pan", ""], "action_names": names}
    edit_step(path, PRE, 3, config=config)
    folder = PolicyFolder.load(path)
    context = TensorPreprocessor(folder)(observation() | {STATE: np.ones(6, np.float32)}).context
    moved = TensorPostprocessor(folder)(np.zeros((1, 6), np.float32), context)
    assert moved.tolist() == [[0, 0, 1, 0, 1, 1]]


def test_absolute_actions_left_out_change_nothing(path: Path) -> None:
    edit_step(path, POST, 0, config={"enabled": False})
    chunk = np.ones((10, 6), np.float32)
    assert np.array_equal(TensorPostprocessor(PolicyFolder.load(path))(chunk), chunk)


def test_a_prompt_needs_neither_torch_nor_transformers_nor_lerobot(path: Path) -> None:
    program = PROGRAM.replace('"task": ""', '"task": "go"')
    run = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.strip(" []\n").replace("'", "").split(", "))
    assert "tokenizers" in loaded
    assert not loaded & (FORBIDDEN - {"tokenizers"})

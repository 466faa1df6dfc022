"""LeRobot's steps for prompts: their wording, and their tokens."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from inference_service.core.batch import Feature
from inference_service.core.errors import InvalidObservation, MissingObservation, PolicyFolderError, UnsupportedStep
from inference_service.core.files import check, plain_name
from inference_service.core.policy_config import STATE
from inference_service.core.processing.step import ProcessorStep, Transition, check_options, register
from inference_service.core.processing.tokenizer import TOKENIZER, PromptTokenizer
from inference_service.core.processor_files import StepEntry

TOKENS = "observation.language.tokens"
ATTENTION_MASK = "observation.language.attention_mask"
MAX_TOKENS = 2**16
_log = logging.getLogger(__name__)


@register("pi0_new_line_processor")
@register("smolvla_new_line_processor")
class NewLine(ProcessorStep):
    """Ends the prompt with a newline where it has none."""

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> NewLine:
        check_options(entry, [])
        return cls()

    def __call__(self, transition: Transition) -> None:
        task = transition.complementary.get("task")
        if isinstance(task, str):
            transition.complementary["task"] = _ended(task)
        elif task is not None:
            transition.complementary["task"] = [_ended(text) for text in task]


def _ended(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"


class _StateInPrompt(ProcessorStep):
    """Writes the normalised state into the prompt, in 256 bins from -1 to 1; below -1 is bin -1, as in LeRobot.

    Formula: ``lerobot/policies/pi05/processor_pi05.py`` (0.6.1).
    """

    needs_prompt = True
    _ending: ClassVar[str]
    _edges: ClassVar[Any] = np.linspace(-1, 1, 257)[:-1]

    def __init__(self, task_key: str) -> None:
        self._task_key = task_key

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> _StateInPrompt:
        check_options(entry, ["max_state_dim", "task_key"])
        if STATE not in features:
            raise PolicyFolderError(f"{entry.where}: needs '{STATE}', which config.json does not declare as an input")
        return cls(_task_key(entry))

    def __call__(self, transition: Transition) -> None:
        state: Any = transition.observation[STATE]
        bins: Any = np.digitize(state, self._edges) - 1
        transition.complementary[self._task_key] = [
            f"Task: {text.strip().replace('_', ' ').replace(chr(10), ' ')}, "
            f"State: {' '.join(map(str, row.tolist()))};\n{self._ending}"
            for text, row in zip(_prompts(transition, self._task_key), bins, strict=True)
        ]


@register("pi05_prepare_state_tokenizer_processor_step")
class Pi05Prompt(_StateInPrompt):
    _ending = "Action: "


@register("pi0_fast_prepare_state_tokenizer_processor_step")
class Pi0FastPrompt(_StateInPrompt):
    _ending = ""


@register("action_tokenizer_processor")
class TokenizeActions(ProcessorStep):
    """Tokenises demonstrated actions while training. At inference there are none yet."""

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> TokenizeActions:
        return cls()

    def __call__(self, transition: Transition) -> None:
        pass


@register("tokenizer_processor")
class Tokenize(ProcessorStep):
    """Adds token ids int64 (1, max_length) and their mask bool (1, max_length).

    Every prompt is padded to ``max_length``, also where the step says ``longest``: LeRobot's tokens of a batch of one
    would then have the prompt's own length, and every new length would compile a new graph. The padding is masked out,
    so the policy's answer is the same but for rounding.

    A prompt longer than ``max_length`` is cut as LeRobot cuts it, with a warning; where the step forbids cutting
    (``truncation`` false) it is refused.
    """

    needs_prompt = True

    def __init__(self, tokenizer: PromptTokenizer, max_length: int, task_key: str, truncation: bool) -> None:
        self.max_length = max_length
        self._tokenizer = tokenizer
        self._task_key = task_key
        self._truncation = truncation
        self._warned = False

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> Tokenize:
        check_options(entry, ["tokenizer_name", "max_length", "task_key", "padding_side", "padding", "truncation"])
        max_length = check(entry.config.get("max_length", 512), int, f"{entry.where}.max_length")
        if not 1 <= max_length <= MAX_TOKENS:
            raise PolicyFolderError(f"{entry.where}.max_length: {max_length} must be from 1 to {MAX_TOKENS}")
        side = _choice(entry, "padding_side", "right", ("right", "left"))
        _choice(entry, "padding", "max_length", ("max_length", "longest"))
        truncation = check(entry.config.get("truncation", True), bool, f"{entry.where}.truncation")
        tokenizer = PromptTokenizer(tokenizer_directory(entry), max_length, pad_left=side == "left")
        return cls(tokenizer, max_length, _task_key(entry), truncation)

    def __call__(self, transition: Transition) -> None:
        prompts = _prompts(transition, self._task_key)
        if len(prompts) != 1:
            raise InvalidObservation(f"'{self._task_key}': expected one prompt, got {len(prompts)}")
        tokens = self._tokenizer(prompts[0])
        if tokens.length > self.max_length:
            self._too_long(prompts[0], tokens.length)
        transition.observation[TOKENS] = tokens.ids
        transition.observation[ATTENTION_MASK] = tokens.mask

    def _too_long(self, prompt: str, length: int) -> None:
        words = f"'{self._task_key}': the prompt {prompt!r:.80} has {length} tokens, the policy takes {self.max_length}"
        if not self._truncation:
            raise InvalidObservation(f"{words}; shorten it")
        if not self._warned:
            self._warned = True
            _log.warning("%s: the rest is cut off, as in LeRobot; shorten it", words)


def _task_key(entry: StepEntry) -> str:
    return check(entry.config.get("task_key", "task"), str, f"{entry.where}.task_key")


def _prompts(transition: Transition, key: str) -> list[str]:
    """The prompts, one per row of the batch."""
    value = transition.complementary.get(key)
    if value is None:
        raise MissingObservation(f"observation lacks '{key}', the prompt, which the policy needs; give it one")
    return [value] if isinstance(value, str) else list(value)


def _choice(entry: StepEntry, key: str, default: str, known: tuple[str, ...]) -> str:
    value = entry.config.get(key, default)
    if value not in known:
        raise UnsupportedStep(f"{entry.where}.{key}: {value!r:.40} cannot be done here; known: {', '.join(known)}")
    return str(value)


def tokenizer_directory(entry: StepEntry) -> Path:
    """Where the tokenizer's files are: the saved artifact, ``tokenizer_name`` as a directory (absolute, or in the
    policy's), ``tokenizer/`` in the policy's directory, or that itself.

    Raises:
        PolicyFolderError: no ``tokenizer.json`` there; says how to save one.
    """
    folder = entry.source.parent
    artifact = entry.artifacts.get("tokenizer_name")
    if artifact is not None:
        places = [folder / plain_name(artifact, f"{entry.where}.artifacts.tokenizer_name")]
        name = str(artifact)
    else:
        name = check(entry.config.get("tokenizer_name") or "", str, f"{entry.where}.tokenizer_name")
        places = [*([folder / name] if name else []), folder / "tokenizer", folder]
    for place in places:
        if (place / TOKENIZER).is_file():
            return place
    raise PolicyFolderError(
        f"{entry.where}: no {TOKENIZER} in {' or '.join(map(str, places))}, and nothing is downloaded at run time. "
        f"Save the files of tokenizer '{name}' once, where a network is: python -c \"from transformers import "
        f"AutoTokenizer as T; T.from_pretrained('{name}').save_pretrained('{folder / 'tokenizer'}')\""
    )

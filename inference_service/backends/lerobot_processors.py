"""LeRobot's own pipelines, for policies with a step that does not run in numpy. Needs torch, on the device too."""

from __future__ import annotations

import importlib
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from inference_service.backends.foreign_code import refuse_foreign_code
from inference_service.core.batch import materialise
from inference_service.core.errors import InferenceFailed, InvalidObservation, PolicyFolderError, UnsupportedStep
from inference_service.core.processing.language import tokenizer_directory
from inference_service.core.processing.step import Transition

if TYPE_CHECKING:
    from inference_service.core.policy_folder import PolicyFolder

# What the steps of the preprocessor remembered of a request, for those of the postprocessor.
_MEMORY = "lerobot_memory"
_TASK = "task"
# A transition's own entries, which are no inputs of a policy.
_NO_INPUTS = frozenset({"action", "next.reward", "next.done", "next.truncated", "info", "robot_type"})
_log = logging.getLogger(__name__)


def load(folder: PolicyFolder) -> LeRobotProcessors:
    """Build LeRobot's processors of ``folder`` on the CPU, without a network.

    Raises:
        ImportError: LeRobot, or what it needs for these steps, is not installed.
        UnsupportedStep: LeRobot does not know a step either, or the step is code from outside LeRobot.
    """
    _refuse_foreign_code(folder)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import draccus
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import make_pre_post_processors

    refuse_foreign_code()
    _import_steps(folder.config.type)
    fields = dict(folder.config.raw) | {"device": "cpu"}
    with folder.runtime_config_copy("cpu") as copy:
        try:
            pre, post = make_pre_post_processors(
                draccus.decode(PreTrainedConfig.get_choice_class(fields.pop("type")), fields),
                pretrained_path=str(copy),
                preprocessor_overrides=_overrides(folder, "preprocessor"),
                postprocessor_overrides=_overrides(folder, "postprocessor"),
            )
        except Exception as error:
            raise UnsupportedStep(f"{folder.path}: LeRobot cannot run its processors either: {error}") from error
    _log.info("%s: its processors run by LeRobot itself", folder.path)
    return LeRobotProcessors(pre, post)


class LeRobotProcessors:
    """A :class:`~inference_service.core.processing.foreign.ForeignProcessors` over LeRobot's live pipelines.

    Their steps keep what they saw of the last request. It is taken along in each request's context, and put back for
    its postprocessing.
    """

    def __init__(self, pre: Any, post: Any) -> None:
        self._pre = pre
        self._post = post
        self._lock = threading.Lock()

    def preprocess(self, transition: Transition) -> None:
        import torch

        batch: dict[str, Any] = {
            name: torch.from_numpy(materialise(value).copy()) for name, value in transition.observation.items()
        }
        batch[_TASK] = transition.complementary.get(_TASK, "")
        with self._lock:
            before = [dict(vars(step)) for step in self._pre.steps]
            try:
                result = self._pre(batch)
            except Exception as error:
                raise InvalidObservation(f"LeRobot's preprocessor failed: {error}") from error
            transition.context[_MEMORY] = [
                {key: value for key, value in vars(step).items() if key not in old or old[key] is not value}
                for step, old in zip(self._pre.steps, before, strict=True)
            ]
        inputs = {name: value for name, value in result.items() if name not in _NO_INPUTS and value is not None}
        transition.complementary = {}
        transition.observation = {name: _to_numpy(torch, value) for name, value in inputs.items()}

    def postprocess(self, transition: Transition) -> None:
        import torch

        with self._lock:
            for step, memory in zip(self._pre.steps, transition.context.get(_MEMORY, ()), strict=False):
                vars(step).update(memory)
            try:
                result = self._post(torch.from_numpy(transition.action.copy()))
            except Exception as error:
                raise InferenceFailed(f"LeRobot's postprocessor failed: {error}") from error
        transition.action = _to_numpy(torch, result)


def _to_numpy(torch: Any, value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    # numpy has no bfloat16; float32 holds its values exactly.
    return (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()


def _refuse_foreign_code(folder: PolicyFolder) -> None:
    """A step may name any class by its path, which LeRobot would import and call: only its own are let through."""
    for entry in (*folder.preprocessor.steps, *folder.postprocessor.steps):
        if "." in entry.name and not entry.name.startswith("lerobot."):
            raise UnsupportedStep(f"{entry.where}: code from outside LeRobot, which a policy's files may not start")


def _import_steps(family: str) -> None:
    """Steps enter LeRobot's registry when their module is imported."""
    name = f"lerobot.policies.{family}.processor_{family}"
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        _log.debug("%s is not there; the processors of '%s' are built of LeRobot's general steps", name, family)


def _overrides(folder: PolicyFolder, which: str) -> dict[str, dict[str, str]]:
    """The processors run on the CPU, and find their tokenizer in the folder."""
    overrides: dict[str, dict[str, str]] = {}
    for entry in getattr(folder, which).steps:
        if entry.name == "device_processor":
            overrides[entry.name] = {"device": "cpu"}
        if entry.name == "tokenizer_processor":
            try:
                overrides[entry.name] = {"tokenizer_name": str(tokenizer_directory(entry))}
            except PolicyFolderError as error:
                _log.warning("%s; LeRobot looks for it in the hub's cache", error)
    return overrides

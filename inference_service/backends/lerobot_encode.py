"""Steps of a preprocessor that belong to the model: they turn images and prompt into a vision-language model's tokens.

They need that model's processor, which a device has no use for; so the device leaves them out
(:mod:`inference_service.core.processing.vla`), and the engine runs LeRobot's own on what arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inference_service.backends.lerobot_bases import local_bases
from inference_service.core.errors import ModelLoadFailed

if TYPE_CHECKING:
    from inference_service.core.policy_folder import PolicyFolder

# The step's name, and which of its options names the model: by a key of config.json.
ENGINE_STEPS: Mapping[str, Mapping[str, str]] = {
    "eo1_conversation_template_processor": {},
    "eo1_qwen_processor": {"processor_name": "vlm_base"},
}


class Encoder:
    """LeRobot's own steps of those names, in the preprocessor's order."""

    def __init__(self, steps: list[Any]) -> None:
        self._steps = steps

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """``row`` with what the steps add to it; unchanged where there are none. Tensors on the row's device."""
        if not self._steps:
            return row
        from lerobot.lerobot_types import TransitionKey
        from lerobot.processor.converters import create_transition

        inputs = {name: value for name, value in row.items() if name != "task"}
        device = next(iter(inputs.values())).device
        # Their processors compute on the CPU.
        transition = create_transition(
            observation={name: value.cpu() for name, value in inputs.items()},
            complementary_data={"task": row["task"]},
        )
        for step in self._steps:
            transition = step(transition)
        added = transition[TransitionKey.COMPLEMENTARY_DATA]
        return row | {name: value.to(device) if hasattr(value, "to") else value for name, value in added.items()}


def encoder_of(folder: PolicyFolder) -> Encoder:
    """Those of ``folder``; it has none in most families.

    Raises:
        ModelLoadFailed: a step cannot be built as the file has it.
        ImportError: what it needs is not installed.
    """
    entries = [entry for entry in folder.preprocessor.steps if entry.name in ENGINE_STEPS]
    if not entries:
        return Encoder([])
    import importlib

    from lerobot.processor import ProcessorStepRegistry

    importlib.import_module(f"lerobot.policies.{folder.config.type}.processor_{folder.config.type}")
    places = local_bases(folder)
    steps = []
    for entry in entries:
        bases = {option: places[key] for option, key in ENGINE_STEPS[entry.name].items() if key in places}
        try:
            steps.append(ProcessorStepRegistry.get(entry.name)(**dict(entry.config) | bases))
        except ImportError:
            raise
        except Exception as error:
            raise ModelLoadFailed(f"{entry.where}: {error}") from error
    return Encoder(steps)

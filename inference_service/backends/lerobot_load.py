"""LeRobot's policy object from a policy directory: offline, and what cannot be read told by version."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference_service.backends.foreign_code import refuse_foreign_code
from inference_service.backends.lerobot_bases import local_bases, missing_bases
from inference_service.backends.lerobot_fast import without_foreign_code
from inference_service.backends.replaced import replaced
from inference_service.core.errors import BackendUnavailable, InferenceServiceError, ModelLoadFailed

if TYPE_CHECKING:
    from inference_service.core.policy_folder import PolicyFolder

OUT_OF_MEMORY = (
    "the GPU is out of memory; end other processes on it (nvidia-smi lists them), choose another one "
    "(device:=cuda:N), or run on the CPU (device:=cpu or device:=onnx)"
)


def load_lerobot_policy(
    folder: PolicyFolder,
    device: str,
    strict: bool = True,
    override: Mapping[str, Any] | None = None,
    extra: str = "lerobot",
) -> Any:
    """LeRobot's policy object of ``folder`` on ``device``, in evaluation mode.

    Weights stored in half precision are widened as they are read, unless the family's configuration says otherwise.
    ``override``: fields of config.json that shall be different. ``extra``: of this package, what the family needs.
    The folder is not modified.

    Raises:
        ModelLoadFailed: weights missing, corrupt or foreign, a checkpoint of another version of LeRobot, or a base
            model that is not here.
        BackendUnavailable: what the family needs is not installed.
    """
    weights = folder.path / "model.safetensors"
    if not weights.is_file():
        raise ModelLoadFailed(f"{weights} is missing; a LeRobot policy directory has it beside config.json")
    stay_offline()
    import torch
    from lerobot.policies.factory import get_policy_class

    refuse_foreign_code()
    try:
        with folder.runtime_config_copy(device) as copy:
            config = _config(copy, folder, _local(folder) | dict(override or {}))
            backbone_in_half = _without_backbone_download(config)
            kind = get_policy_class(config.type)
            policy = _load(torch, lambda: kind.from_pretrained(copy, config=config, strict=strict), config.type)
    except ImportError as error:
        raise BackendUnavailable(
            f"policy type '{folder.config.type}' needs more than LeRobot itself ({error}); "
            f"install it with: pip install 'inference-service[{extra}]'"
        ) from error
    except InferenceServiceError:
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise ModelLoadFailed(f"{weights}: {OUT_OF_MEMORY}. {error}") from error
    except Exception as error:
        reasons = ". ".join(filter(None, (str(error), missing_bases(folder))))
        raise ModelLoadFailed(
            f"{folder.path} does not load as '{folder.config.type}' with lerobot {_version()}: {reasons}"
        ) from error
    if backbone_in_half:
        policy.model.vlm_with_expert.vlm.to(torch.bfloat16)
    return policy.eval()


def stay_offline() -> None:
    """Belt and braces for families that would ask the hub for a backbone: local files only, unless told otherwise. Read
    when ``huggingface_hub`` is imported."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _local(folder: PolicyFolder) -> dict[str, Any]:
    """What of config.json is here and not on a hub."""
    bases: dict[str, Any] = dict(local_bases(folder))
    if folder.config.type == "eo1":
        # Else it fetches its language model first, to replace each of its weights by the policy's own.
        bases["pretrained_path"] = str(folder.path)
    return bases


def _config(directory: Path, folder: PolicyFolder, override: Mapping[str, Any]) -> Any:
    """LeRobot's configuration object. Its own ``from_pretrained`` would leave a temporary file behind at every load."""
    import draccus
    from lerobot.configs import PreTrainedConfig

    written = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    name, where = written.pop("type"), folder.path / "config.json"
    known = PreTrainedConfig.get_known_choices()
    if name not in known:
        raise ModelLoadFailed(
            f"{where}: policy type '{name}' is not in lerobot {_version()}, which is installed here "
            f"(it has {', '.join(sorted(known))}); the checkpoint needs another version"
        )
    _check_fields(where, name, written, {field.name for field in fields(known[name])})
    return draccus.decode(known[name], written | dict(override))


def _check_fields(where: Path, name: str, written: Mapping[str, Any], known: Collection[str]) -> None:
    if unknown := sorted(written.keys() - known):
        raise ModelLoadFailed(
            f"{where}: the configuration of '{name}' in lerobot {_version()}, which is installed here, has no "
            f"{', '.join(unknown)}; the checkpoint was saved by another version: install that one"
        )


def _version() -> str:
    import lerobot

    return str(lerobot.__version__)


def _without_backbone_download(config: Any) -> bool:
    """SmolVLA may want its language model's weights from the hub first, in half precision, to replace each of them by
    the policy's own. Whether it would have: the precision must be the same without."""
    wanted = bool(getattr(config, "load_vlm_weights", False))
    if wanted:
        config.load_vlm_weights = False
    return wanted


# Their from_pretrained prints what went wrong, and returns a policy with random weights.
_SILENT = frozenset({"pi0", "pi05", "pi0_fast"})


def _load(torch: Any, load: Callable[[], Any], name: str) -> Any:
    """What ``load`` returns, unless weights were not taken over: some families print that and go on."""
    outcomes: list[Exception | None] = []
    original = torch.nn.Module.load_state_dict

    def watched(module: Any, *arguments: Any, **options: Any) -> Any:
        try:
            result = original(module, *arguments, **options)
        except Exception as error:
            outcomes.append(error)
            raise
        outcomes.append(None)
        return result

    said = io.StringIO()
    own_tokenizers = without_foreign_code() if name == "pi0_fast" else contextlib.nullcontext()
    with replaced(torch.nn.Module, "load_state_dict", watched), contextlib.redirect_stdout(said), own_tokenizers:
        policy = load()
    failed = next((error for error in outcomes if error is not None), None)
    if failed is not None or (name in _SILENT and not outcomes):
        raise ModelLoadFailed(f"the weights were not taken over: {failed or said.getvalue()}") from failed
    return policy

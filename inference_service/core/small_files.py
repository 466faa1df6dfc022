"""The files that a device needs of a policy: everything but the weights."""

from __future__ import annotations

from pathlib import Path

from inference_service.core.errors import PolicyFolderError
from inference_service.core.files import MAX_JSON_BYTES, MAX_STATE_BYTES, read_bytes
from inference_service.core.policy_folder import CONFIG, POSTPROCESSOR, PREPROCESSOR, TRAINING, WEIGHTS, PolicyFolder
from inference_service.core.processing.language import tokenizer_directory
from inference_service.core.processing.tokenizer import MAX_TOKENIZER_BYTES, TOKENIZER, TOKENIZER_FILES

_TOKENIZER_STEP = "tokenizer_processor"
_TOKENIZER_PLACE = "tokenizer"


def small_files(folder: PolicyFolder) -> dict[str, bytes]:
    """Contents by name, as they have to stand in a directory for it to load as the same policy: ``config.json``, the
    training's configuration where it is there, the processor files, their states, and the files of tokenizers as
    ``<artifact>/<name>`` or ``tokenizer/<name>``.

    Raises:
        PolicyFolderError: a file is gone or too large, or the policy cannot be had without its weights: a legacy
            checkpoint keeps its statistics among them.
    """
    if folder.legacy:
        raise PolicyFolderError(
            f"{folder.path / WEIGHTS}: a legacy checkpoint keeps its statistics among the weights, so its devices "
            "need the whole directory; or convert it with a LeRobot of version 0.4 or later"
        )
    limits = {CONFIG: MAX_JSON_BYTES, PREPROCESSOR: MAX_JSON_BYTES, POSTPROCESSOR: MAX_JSON_BYTES}
    if (folder.path / TRAINING).exists():
        limits[TRAINING] = MAX_JSON_BYTES
    paths = {name: folder.path / name for name in limits}
    for processor in (folder.preprocessor, folder.postprocessor):
        for step in processor.steps:
            if step.state_file is not None and step.state_file != WEIGHTS:
                paths[step.state_file] = folder.path / step.state_file
    files = {name: read_bytes(path, limits.get(name, MAX_STATE_BYTES)) for name, path in paths.items()}
    for name, path in _tokenizers(folder).items():
        files[name] = read_bytes(path, MAX_TOKENIZER_BYTES if path.name == TOKENIZER else MAX_JSON_BYTES)
    return files


def _tokenizers(folder: PolicyFolder) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for processor in (folder.preprocessor, folder.postprocessor):
        for step in processor.steps:
            if step.name != _TOKENIZER_STEP:
                continue
            directory = tokenizer_directory(step)
            place = str(step.artifacts.get("tokenizer_name", _TOKENIZER_PLACE))
            for path in (directory / name for name in TOKENIZER_FILES):
                if not path.is_file():
                    continue
                if paths.setdefault(f"{place}/{path.name}", path) != path:
                    raise PolicyFolderError(f"{step.where}: two tokenizers, and no artifacts that tell them apart")
    return paths

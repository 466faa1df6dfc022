"""A LeRobot policy directory, read as data: nothing of LeRobot or torch is imported."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from inference_service.core.errors import PolicyFolderError, UnsupportedStep
from inference_service.core.files import check, read_json_object
from inference_service.core.fingerprint import fingerprint
from inference_service.core.hub import fetch, is_hub_id
from inference_service.core.legacy import is_legacy, legacy_processors, write_without_statistics
from inference_service.core.policy_config import PolicyConfig, read_config
from inference_service.core.processing import Pipeline
from inference_service.core.processing.foreign import load_foreign
from inference_service.core.processor_files import ProcessorFile, read_processor

CONFIG = "config.json"
PREPROCESSOR = "policy_preprocessor.json"
POSTPROCESSOR = "policy_postprocessor.json"
TRAINING = "train_config.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class PolicyFolder:
    """What LeRobot's ``save_pretrained`` left in a directory, checked. Weights are the backend's to load.

    ``legacy``: the weights also hold the statistics (LeRobot 0.3 or older), from which the processors were made.
    """

    path: Path
    config: PolicyConfig
    preprocessor: ProcessorFile
    postprocessor: ProcessorFile
    legacy: bool = False

    @classmethod
    def load(cls, path: str | Path) -> PolicyFolder:
        """Read ``config.json``, both processor files and their statistics; of a legacy checkpoint those in its weights.

        ``path``: a directory; or ``owner/name[@revision]`` on a hub, see :mod:`.hub`.

        Raises:
            PolicyFolderError: what is missing or wrong; names file, key and fix.
            MissingStatistics: a legacy checkpoint lacks those of a feature that it normalises.
        """
        folder = fetch(str(path)) if is_hub_id(path) else _expanded(Path(path))
        _require_policy_directory(folder)
        config = read_config(folder / CONFIG)
        missing = [name for name in (PREPROCESSOR, POSTPROCESSOR) if not (folder / name).exists()]
        if len(missing) == 2 and is_legacy(folder / WEIGHTS):
            return cls(folder, config, *legacy_processors(folder / WEIGHTS, config), legacy=True)
        if missing:
            raise PolicyFolderError(_no_processor(folder / missing[0]))
        return cls(folder, config, read_processor(folder / PREPROCESSOR), read_processor(folder / POSTPROCESSOR))

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits, equal where this policy would compute the same; see :mod:`.fingerprint`."""
        return fingerprint(self.config.raw, self.preprocessor, self.postprocessor)

    @cached_property
    def fps(self) -> float | None:
        """Actions a second of the data that the policy was trained on: ``fps`` of ``config.json`` where somebody added
        it, or of the ``env`` or ``dataset`` in LeRobot's ``train_config.json``; None where neither says.

        Raises:
            PolicyFolderError: that file is corrupt, or the rate is none.
        """
        found = {f"{self.path / CONFIG}: key 'fps'": self.config.raw.get("fps")}
        path = self.path / TRAINING
        training = read_json_object(path) if path.exists() else {}
        for section in ("env", "dataset"):
            where = f"{path}: key '{section}'"
            found[f"{where[:-1]}.fps'"] = check(training.get(section) or {}, dict, where).get("fps")
        for where, rate in found.items():
            if rate is not None and (not isinstance(rate, (int, float)) or not 0 < rate < math.inf):
                raise PolicyFolderError(f"{where} must be a rate above 0, found {rate!r:.40}")
        return next((float(rate) for rate in found.values() if rate is not None), None)

    @cached_property
    def pipelines(self) -> tuple[Pipeline, Pipeline]:
        """Pre- and postprocessor, ready to run: in numpy, or where a step cannot be, both by LeRobot itself.

        Both, because they may share what the first one saw.

        Raises:
            UnsupportedStep: a step that needs LeRobot, which is not installed.
            PolicyError: a pipeline cannot be executed exactly as LeRobot would.
        """
        inputs, outputs = self.config.input_features, self.config.output_features
        try:
            return Pipeline(self.preprocessor, inputs), Pipeline(self.postprocessor, outputs)
        except UnsupportedStep as error:
            if self.legacy:
                raise
            foreign = load_foreign(self, error)
        return (
            Pipeline(self.preprocessor, inputs, run=foreign.preprocess),
            Pipeline(self.postprocessor, outputs, run=foreign.postprocess),
        )

    @contextmanager
    def runtime_config_copy(self, device: str) -> Iterator[Path]:
        """A temporary directory like this one, whose ``config.json`` names ``device`` (``cpu``, ``cuda:0``…).

        It also names no backbone weights to start from: LeRobot would download them although the policy's own
        are at hand. Every other file is a link, but the weights of a legacy checkpoint: they are written without the
        statistics, which today's policy classes do not know. The policy's directory is not touched.
        """
        config = dict(self.config.raw) | {"device": device}
        if "pretrained_backbone_weights" in config:
            config["pretrained_backbone_weights"] = None
        with tempfile.TemporaryDirectory(prefix="policy-") as name:
            copy = Path(name)
            for entry in self.path.resolve().iterdir():
                if self.legacy and entry.name == WEIGHTS:
                    write_without_statistics(entry, copy / WEIGHTS)
                elif entry.name != CONFIG:
                    (copy / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
            (copy / CONFIG).write_text(json.dumps(config, indent=4), encoding="utf-8")
            yield copy


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise PolicyFolderError(
            f"{path}: {path.parts[0]} is nobody's home directory here: write the whole path"
        ) from error


def _require_policy_directory(folder: Path) -> None:
    if not folder.exists():
        raise PolicyFolderError(
            f"{folder}: no such directory; give the path of a saved policy (one on a hub must be downloaded first)"
        )
    if not folder.is_dir():
        raise PolicyFolderError(f"{folder}: is a file; give the directory that holds {CONFIG}")
    if not (folder / CONFIG).exists():
        inner = next((f for f in _usual_places(folder) if (f / CONFIG).exists()), None)
        hint = f"did you mean {inner}?" if inner else "LeRobot saves one under checkpoints/last/pretrained_model"
        raise PolicyFolderError(f"{folder}: not a policy directory, it has no {CONFIG}; {hint}")


def _usual_places(folder: Path) -> list[Path]:
    return [
        folder / place for place in ("pretrained_model", "last/pretrained_model", "checkpoints/last/pretrained_model")
    ]


def _no_processor(file: Path) -> str:
    return (
        f"{file}: no such file; without it inputs or actions would stay unnormalised. Copy it from where the policy "
        "was saved, or save the processors again (make_pre_post_processors, save_pretrained)"
    )

"""``config.om.json`` and ``config.rknn.json``: what a conversion tool says of the artifacts it made.

::

    {
      "schema_version": 1,
      "policy_type": "act",
      "backend": "ascend_om",
      "artifact_dir": "om",
      "artifacts": {"policy": {"path": "act.om", "sha256": "…"}},
      "execution": ["policy"],
      "backend_config": {},
      "bindings": {"policy": {"inputs": [
        {"name": "observation.state", "index": 0, "dtype": "float32", "shape": [1, 6]}]}}
    }

Everything after ``execution`` may be left out, as may ``artifact_dir``, ``sha256`` and ``execution`` itself. An
unknown key is an error: a misspelt one would otherwise be ignored in silence. Nothing is read from environment
variables or guessed from what lies about, and no path may leave the policy directory.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from inference_service.backends.compiled.artifacts import Artifact, Kind
from inference_service.backends.compiled.session import Layout
from inference_service.core.errors import PolicyFolderError
from inference_service.core.files import read_json_object

if TYPE_CHECKING:
    from inference_service.core.policy_folder import PolicyFolder

FILES = {"ascend_om": "config.om.json", "ascend_om_3403": "config.om.json", "rknn": "config.rknn.json"}
"""Name of the sidecar by backend."""

ROLES: Mapping[tuple[str, str], Mapping[str, Kind]] = {
    ("ascend_om", "act"): {"policy": ".om"},
    ("ascend_om", "pi05"): {"vlm": ".om", "action_expert": ".om"},
    ("ascend_om_3403", "act"): {"policy": ".om", "worker": "executable"},
    ("rknn", "act"): {"policy": ".rknn"},
}
"""What each backend needs of each policy family, in the order of execution."""

# A policy directory may come without it: RKNNLite has one artifact and a usual place for it.
_DEFAULTS: Mapping[str, dict[str, str]] = {"rknn": {"policy": "model.rknn"}}

DType = Literal["float32", "float16", "int64", "int32", "uint8", "int8", "bool"]
_M = TypeVar("_M", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Binding(_Strict):
    """One tensor: what it means (``name``, a feature of config.json or a name of :mod:`.adapters`), where it stands
    (``index``), and optionally what the artifact must say of it."""

    name: str = Field(min_length=1)
    index: int = Field(ge=0, lt=64)
    runtime_name: str | None = None
    dtype: DType | None = None
    shape: Annotated[tuple[Annotated[int, Field(gt=0)], ...] | None, Field(strict=False)] = None
    layout: Layout | None = None


class Bindings(_Strict):
    """Tensors of one artifact, by index. An empty tuple: not declared."""

    inputs: Annotated[tuple[Binding, ...], Field(strict=False)] = ()
    outputs: Annotated[tuple[Binding, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _contiguous(self) -> Bindings:
        for kind, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            if sorted(tensor.index for tensor in tensors) != list(range(len(tensors))):
                raise ValueError(f"{kind}: the indices must be 0 to {len(tensors) - 1}, each once")
            if len({tensor.name for tensor in tensors}) != len(tensors):
                raise ValueError(f"{kind}: every name must stand once")
        return self


class Denoising(_Strict):
    """What PI0.5's action expert returns, and the times it is asked for; the graph itself does not tell.

    ``model_output``: ``velocity`` (the host adds ``dt`` times it), or ``x_t`` (the graph made the Euler step).
    ``timesteps``: N + 1 times from 1.0 down to 0.0 for N steps; where left out, the ``num_inference_steps`` of
    config.json in equal steps. (``pi05-denoising-schedule-v1``)
    """

    algorithm: Literal["euler"] = "euler"
    model_output: Literal["velocity", "x_t"]
    timesteps: Annotated[tuple[float, ...] | None, Field(strict=False, max_length=1001)] = None

    @model_validator(mode="after")
    def _descending(self) -> Denoising:
        times = self.timesteps
        if times is None:
            return self
        falling = all(later < earlier for earlier, later in itertools.pairwise(times))
        if len(times) < 2 or times[0] != 1.0 or times[-1] != 0.0 or not falling:
            raise ValueError("timesteps must fall strictly from 1.0 to 0.0")
        return self


class _ArtifactEntry(_Strict):
    path: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")


def _normalised(name: Any) -> Any:
    return name.strip().lower().replace("-", "_") if isinstance(name, str) else name


def _entry(value: Any) -> Any:
    if isinstance(value, str):
        return {"path": value}
    if not isinstance(value, dict):
        raise ValueError('must be a path or an object with "path"')
    return value


class _Document(_Strict):
    schema_version: Literal[1]
    policy_type: str
    backend: Annotated[str, BeforeValidator(_normalised)]
    artifact_dir: str = "."
    artifacts: dict[str, Annotated[_ArtifactEntry, BeforeValidator(_entry)]] = Field(min_length=1)
    execution: list[str] = []
    backend_config: dict[str, Any] = {}
    bindings: dict[str, Bindings] = {}
    denoising: Denoising | None = None


@dataclass(frozen=True)
class Sidecar:
    """A checked sidecar. ``file`` is where it stands; for ``rknn`` it need not exist."""

    file: Path
    backend: str
    policy_type: str
    artifacts: Mapping[str, Artifact]
    bindings: Mapping[str, Bindings] = field(default_factory=dict)
    denoising: Denoising | None = None
    backend_config: Mapping[str, Any] = field(default_factory=dict)

    def bindings_of(self, role: str) -> Bindings:
        """The declared tensors of ``role``; empty where not declared."""
        return self.bindings.get(role, Bindings())

    def options(self, model: type[_M]) -> _M:
        """``backend_config`` as the backend's own ``model`` (a pydantic model that forbids unknown keys).

        Raises:
            PolicyFolderError: naming file and key.
        """
        return _parsed(model, dict(self.backend_config), self.file, "backend_config.")


def load_sidecar(folder: PolicyFolder, backend: str) -> Sidecar:
    """Read and check the sidecar of ``backend`` in ``folder``. Artifacts are checked to be there, not opened.

    Raises:
        PolicyFolderError: missing, or a key at fault; names file, key and what was expected.
        ModelLoadFailed: an artifact is missing, is of another kind, or has another digest.
    """
    file = folder.path / FILES[backend]
    roles = _roles(folder, backend)
    if file.exists():
        document = _parsed(_Document, read_json_object(file), file)
    elif backend in _DEFAULTS:
        identity = {"schema_version": 1, "policy_type": folder.config.type, "backend": backend}
        document = _Document.model_validate(identity | {"artifacts": _DEFAULTS[backend]})
    else:
        raise PolicyFolderError(
            f"{file}: no such file; backend '{backend}' needs it beside config.json. The tool that converted the "
            f"model writes it; its artifacts are {', '.join(roles)}"
        )
    _check_agreement(document, folder, backend, roles, file)
    return Sidecar(
        file=file,
        backend=backend,
        policy_type=document.policy_type,
        artifacts={role: _artifact(document, role, kind, file) for role, kind in roles.items()},
        bindings=document.bindings,
        denoising=document.denoising,
        backend_config=document.backend_config,
    )


def _roles(folder: PolicyFolder, backend: str) -> Mapping[str, Kind]:
    roles = ROLES.get((backend, folder.config.type))
    if roles is None:
        families = ", ".join(family for name, family in ROLES if name == backend)
        raise PolicyFolderError(
            f"{folder.path / 'config.json'}: key 'type' is '{folder.config.type}', which backend '{backend}' does not "
            f"support; it supports {families}"
        )
    return roles


def _parsed(model: type[_M], raw: Mapping[str, Any], file: Path, prefix: str = "") -> _M:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise PolicyFolderError("\n".join(_complaint(file, prefix, problem) for problem in error.errors())) from error


def _complaint(file: Path, prefix: str, problem: Any) -> str:
    key = prefix + ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{file}: key '{key}' is unknown; remove it or correct its spelling"
    if problem["type"] == "missing":
        return f"{file}: key '{key}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{file}: key '{key.rstrip('.')}': {message} (found {problem['input']!r:.80})"


def _check_agreement(
    document: _Document, folder: PolicyFolder, backend: str, roles: Mapping[str, Kind], file: Path
) -> None:
    if document.backend != backend:
        raise PolicyFolderError(
            f"{file}: key 'backend' is '{document.backend}', expected '{backend}', which was asked for; "
            f"pass device:={document.backend}, or convert for {backend}"
        )
    if document.policy_type != folder.config.type:
        raise PolicyFolderError(
            f"{file}: key 'policy_type' is '{document.policy_type}', expected '{folder.config.type}' as in config.json"
        )
    order = list(roles)
    if document.execution and document.execution != order:
        raise PolicyFolderError(f"{file}: key 'execution' must be {order}, found {document.execution}")
    if missing := [role for role in order if role not in document.artifacts]:
        raise PolicyFolderError(f"{file}: key 'artifacts' lacks '{missing[0]}'; expected {order}")
    if foreign := [role for role in document.artifacts if role not in roles]:
        raise PolicyFolderError(f"{file}: key 'artifacts.{foreign[0]}' is unknown; expected {order}")
    models = [role for role, kind in roles.items() if kind != "executable"]
    if foreign := [role for role in document.bindings if role not in models]:
        raise PolicyFolderError(f"{file}: key 'bindings.{foreign[0]}' is unknown; expected among {models}")
    if document.denoising is not None and document.policy_type != "pi05":
        raise PolicyFolderError(f"{file}: key 'denoising' is for policy_type 'pi05', not '{document.policy_type}'")


def _artifact(document: _Document, role: str, kind: Kind, file: Path) -> Artifact:
    entry = document.artifacts[role]
    directory = _inside(document.artifact_dir, file, "artifact_dir")
    path = file.parent / directory / _inside(entry.path, file, f"artifacts.{role}")
    where = f"{file}: key 'artifacts.{role}'" if file.exists() else f"{file.parent}, without {file.name}"
    return Artifact.check(path, kind, entry.sha256, where)


def _inside(text: str, file: Path, key: str) -> PurePosixPath:
    """``text`` as a path below the policy directory. Links are the directory's owner's, and are followed."""
    path = PurePosixPath(text)
    windows = PureWindowsPath(text)
    if not text or "\0" in text or path.is_absolute() or ".." in path.parts or windows.drive or "\\" in text:
        raise PolicyFolderError(
            f"{file}: key '{key}' is {text!r:.80}; expected a relative path with '/' that stays in the policy directory"
        )
    return path

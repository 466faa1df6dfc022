"""``$(env VAR)``, ``$(optenv VAR default)`` and ``$(find package)`` in values, resolved where a value is used.

A robot file may thus be checked on a machine that has neither the variable nor the package nor the model.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from robot_config.errors import SubstitutionError, suggest

_PATTERN = re.compile(r"\$\(([^()]*)\)")
_KNOWN = ("env", "optenv", "find")
_OUR_PACKAGES = ("robot_config", "inference_service")


def resolve(text: str, where: str) -> str:
    """``text`` with its substitutions replaced. ``where`` (``file:line``) is for error messages.

    Raises:
        SubstitutionError: an unknown kind, an unset variable or an unknown package.
    """
    resolved = _PATTERN.sub(lambda match: _value(match.group(1), where), text)
    if "$(" in resolved:
        raise SubstitutionError(f"{where}: {text!r}: a $( without its closing bracket")
    return resolved


def resolve_path(text: str, beside: Path, where: str) -> tuple[Path | None, tuple[Path, ...]]:
    """An existing path, and every place that was tried, in this order.

    Relative paths are tried in the directory ``beside``, the current directory, and the directory that holds our
    packages (the repository's root in a checkout).

    Raises:
        SubstitutionError: a ``$(…)`` in it cannot be resolved.
    """
    path = expanded(resolve(text, where))
    roots = dict.fromkeys((beside, Path.cwd(), Path(__file__).resolve().parent.parent))
    tried = (path,) if path.is_absolute() else tuple(Path(os.path.normpath(root / path)) for root in roots)
    return next((place for place in tried if _is_there(place)), None), tried


def expanded(text: str) -> Path:
    """A path with its ``~`` replaced; as it stands where nobody knows that home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False


def find_package(name: str) -> Path | None:
    """Share directory of an installed ROS package (ament index), or the directory of one of our own packages.

    The index is ament's: a prefix of ``AMENT_PREFIX_PATH`` holds ``share/ament_index/resource_index/packages/<name>``.
    """
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        if (Path(prefix) / "share/ament_index/resource_index/packages" / name).is_file():
            return Path(prefix) / "share" / name
    spec = find_spec(name) if name in _OUR_PACKAGES else None
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def _value(inside: str, where: str) -> str:
    kind, _, rest = inside.strip().partition(" ")
    first, _, default = rest.strip().partition(" ")
    if kind not in _KNOWN:
        raise SubstitutionError(
            f"{where}: $({inside}) is not known: {suggest(kind, _KNOWN)} (known: {', '.join(_KNOWN)})"
        )
    if not first:
        raise SubstitutionError(f"{where}: $({inside}) names nothing: write $({kind} NAME)")
    if kind == "optenv":
        return os.environ.get(first, default.strip())
    return _environment(first, where) if kind == "env" else _package(first, where)


def _environment(name: str, where: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise SubstitutionError(
            f"{where}: $(env {name}): the variable is not set; export {name}=… or write $(optenv {name} <default>)"
        )
    return value


def _package(name: str, where: str) -> str:
    found = find_package(name)
    if found is None:
        raise SubstitutionError(
            f"{where}: $(find {name}): no such ROS package in AMENT_PREFIX_PATH; source its workspace or write the path"
        )
    return str(found)

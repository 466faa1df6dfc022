"""pydantic's findings as problems with file, line, key and what is accepted instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from robot_config.errors import Problem, nearest
from robot_config.section import Section
from robot_config.yaml_source import Origin, Path_, dotted, kind_of

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a section of names and values",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "mapping_type": "a section of names and values",
    "model_type": "a section",
    "string_type": "text",
    "tuple_type": "a list",
}


def explain(root: type[Section], error: ValidationError, origin: Origin) -> list[Problem]:
    """Every finding as a problem. Values that were filled in are only reported when nothing written is at fault."""
    misspelt = {(*path[:-1], meant) for path, meant in unknown_keys(root, error)}
    findings = [f for f in error.errors(include_url=False) if f["type"] != "missing" or _path(f) not in misspelt]
    written = [f for f in findings if f["type"] == "missing" or origin.has(_path(f))]
    return [_problem(root, finding, origin) for finding in written or findings]


def unknown_keys(root: type[Section], error: ValidationError) -> list[tuple[Path_, str | None]]:
    """Unknown keys with the name that each most likely stands for."""
    findings = [f for f in error.errors(include_url=False) if f["type"] == "extra_forbidden"]
    return [(_path(f), nearest(str(f["loc"][-1]), _accepted(section_at(root, _path(f)[:-1])))) for f in findings]


def section_at(root: type[Section], path: Path_) -> type[Section] | None:
    """The section class that stands at ``path`` of a robot file."""
    annotation: Any = root
    for part in path:
        section = _as_section(annotation)
        if section is not None:
            field = section.model_fields.get(str(part))
            annotation = field.annotation if field else None
        else:
            # A list's or a table's items: the last argument that is a type.
            arguments = [a for a in get_args(annotation) if a is not Ellipsis]
            annotation = arguments[-1] if arguments else None
        annotation = _without_none(annotation)
    return _as_section(annotation)


def _as_section(annotation: Any) -> type[Section] | None:
    # Python 3.10 takes `list[int]` for a type: only what has no origin is a class.
    plain = get_origin(annotation) is None and isinstance(annotation, type)
    return annotation if plain and issubclass(annotation, Section) else None


def _without_none(annotation: Any) -> Any:
    """``X`` of ``X | None`` and of ``Annotated[X, …]``."""
    if hasattr(annotation, "__metadata__"):
        return _without_none(annotation.__origin__)
    arguments = get_args(annotation)
    if type(None) in arguments and get_origin(annotation) not in (tuple, Mapping):
        return _without_none(next(a for a in arguments if a is not type(None)))
    return annotation


def _path(finding: ErrorDetails) -> Path_:
    return tuple(part for part in finding["loc"] if part != "[key]")


def _accepted(section: type[Section] | None) -> list[str]:
    return [*section.model_fields, *section.foreign] if section else []


def _problem(root: type[Section], finding: ErrorDetails, origin: Origin) -> Problem:
    path = _path(finding)
    if finding["type"] == "missing":
        return origin.problem(path[:-1], _missing(root, path))
    return origin.problem(path, _message(root, finding, path))


def _missing(root: type[Section], path: Path_) -> str:
    from robot_config.descriptions import descriptions

    section = section_at(root, path[:-1])
    description = descriptions(section).get(str(path[-1]), "") if section else ""
    meaning = " ".join(description.split()).partition(". ")[0].rstrip(".")
    return f"`{path[-1]}:` is missing" + (f" ({meaning.replace('``', '')})" if meaning else "")


def _message(root: type[Section], finding: ErrorDetails, path: Path_) -> str:
    kind, value = finding["type"], finding["input"]
    if kind == "extra_forbidden":
        return _unknown(root, path)
    if kind == "literal_error":
        allowed = finding["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        close = nearest(str(value), allowed)
        hint = f" (did you mean {close}?)" if close else ""
        return f"{_shown(value)} is not accepted: one of {', '.join(allowed)}{hint}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, found {kind_of(value)}"
    text = finding["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return text if kind == "value_error" else f"{_shown(value)}: {text}"


def _unknown(root: type[Section], path: Path_) -> str:
    section = section_at(root, path[:-1])
    close = nearest(str(path[-1]), _accepted(section))
    if close is not None:
        return f"unknown key {path[-1]!r}; did you mean {close!r}?"
    place = dotted(path[:-1]) or "robot"
    return f"unknown key {path[-1]!r}; {place} takes {', '.join(section.model_fields if section else ())}"


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, (str, int, float)) else kind_of(value)

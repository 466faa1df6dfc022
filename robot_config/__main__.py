"""``python -m robot_config validate FILE…``, ``schema`` and ``plan key:=value…``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from robot_config.errors import ConfigError, RobotConfigError
from robot_config.loader import check_file, find_robot
from robot_config.plan import LaunchArguments, describe, plan_launch
from robot_config.schema import RobotConfig

USAGE = f"""usage:
  python -m robot_config validate FILE|NAME…    check robot files; every problem with file, line and key
  python -m robot_config schema                 JSON Schema of robot files, for editors
  python -m robot_config plan key:=value…       what a launch would start, with all parameters

plan takes:
{describe(LaunchArguments)}"""


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 fine, 1 a problem in a file or plan, 2 wrong usage."""
    command, words = (argv[0], list(argv[1:])) if argv else ("", [])
    if command in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if command == "schema" and not words:
        print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        return 0
    if command == "validate" and words:
        good = [_validate(word) for word in words]
        return 0 if all(good) else 1
    if command == "plan":
        return _plan(words)
    print(USAGE, file=sys.stderr)
    return 2


def json_schema() -> dict[str, object]:
    """JSON Schema of a robot file: the robot under ``robot:``, or its keys at the top."""
    schema = RobotConfig.model_json_schema()
    definitions = schema.pop("$defs")
    definitions["RobotConfig"] = schema
    reference = {"$ref": "#/$defs/RobotConfig"}
    nested = {"type": "object", "properties": {**schema["properties"], "robot": reference}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Robot file",
        "if": {"required": ["robot"]},
        "then": {**nested, "additionalProperties": False},
        "else": reference,
        "$defs": definitions,
    }


def _validate(word: str) -> bool:
    try:
        path = find_robot(word)
    except ConfigError as error:
        print(error)
        return False
    checked = check_file(path)
    for problem in checked.problems:
        print(problem)
    if checked.config is None:
        return False
    for warning in checked.config.warnings:
        print(f"warning: {warning}")
    print(f"{path}: ok")
    return True


def _plan(words: list[str]) -> int:
    try:
        print(plan_launch(LaunchArguments.parse(words)))
    except RobotConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

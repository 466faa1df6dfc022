"""No Python file of a model's directory or of a hub runs here, whatever a checkpoint's files say about trusting it."""

from __future__ import annotations

import importlib
from typing import Any, NoReturn

from inference_service.core.errors import BackendUnavailable, ModelLoadFailed


def refuse_foreign_code() -> None:
    """From now on ``transformers`` refuses in this process to run such a file. LeRobot itself asks for it in places
    (``trust_remote_code=True``), and a policy's files may come from another machine.

    Call it once LeRobot is imported; without ``transformers`` there is nothing to refuse.

    Raises:
        BackendUnavailable: a version of ``transformers`` that this does not know how to stop.
    """
    try:
        # By its name: mypy would follow transformers' whole tree.
        modules = importlib.import_module("transformers.dynamic_module_utils")
    except ImportError:
        return
    if not hasattr(modules, "get_class_in_module"):
        raise BackendUnavailable("this version of transformers runs the code of a directory in a way not known here")
    modules.__dict__["get_class_in_module"] = _refuse


def _refuse(class_name: str, module_path: Any, **_: Any) -> NoReturn:
    raise ModelLoadFailed(
        f"{module_path}: a class '{class_name}' in a Python file of a model's directory, which a policy's files may "
        "not start; only LeRobot's and transformers' own classes are used"
    )

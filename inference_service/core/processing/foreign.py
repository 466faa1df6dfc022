"""Processors that this package cannot run in numpy, run by whoever can: entry points of the group below.

An entry point leads to a factory ``(PolicyFolder) -> ForeignProcessors``. It raises ImportError where its library is
not installed.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

from inference_service.core.errors import UnsupportedStep
from inference_service.core.processing.step import Transition

if TYPE_CHECKING:
    from inference_service.core.policy_folder import PolicyFolder

GROUP = "inference_service.processors"


class ForeignProcessors(Protocol):
    """Both processor files of a policy, run elsewhere. Any thread may call them."""

    def preprocess(self, transition: Transition) -> None:
        """Run ``policy_preprocessor.json`` in place; remember for the postprocessor in ``transition.context``."""
        ...

    def postprocess(self, transition: Transition) -> None:
        """Run ``policy_postprocessor.json`` in place."""
        ...


def load_foreign(folder: PolicyFolder, reason: UnsupportedStep) -> ForeignProcessors:
    """Processors of ``folder`` by the first entry point that is installed.

    Raises:
        UnsupportedStep: none is; ``reason``, and what to install.
    """
    reasons = []
    for point in entry_points(group=GROUP):
        try:
            return point.load()(folder)  # type: ignore[no-any-return]
        except ImportError as error:
            reasons.append(f"pip install 'inference-service[{point.name}]' ({error})")
        except UnsupportedStep as error:
            raise UnsupportedStep(f"{reason}. {error}") from error
    words = " or ".join(reasons) or "install this package (pip install -e .), so that its entry points are found"
    raise UnsupportedStep(f"{reason}. What runs it is not installed here: {words}") from reason

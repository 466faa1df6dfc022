"""Every error this package raises on purpose, in one tree.

::

    InferenceServiceError
    ├── PolicyError                 the policy directory or what it promises
    │   ├── PolicyFolderError       a file or key is missing, unreadable or inconsistent
    │   ├── MissingStatistics       normalisation asked for, statistics absent
    │   ├── UnsupportedStep         a processor step that this installation cannot run
    │   └── PolicyMismatch          device and engine do not hold the same policy
    ├── CalibrationError            a calibration file, or a joint of it, that motor units need
    ├── BackendError                the runtime that computes
    │   ├── UnknownBackend          no backend of that name
    │   ├── BackendUnavailable      its library or device is not here
    │   ├── ModelLoadFailed         the artifact is missing, corrupt or of another shape
    │   ├── InferenceFailed         a forward pass failed; the next one may well succeed
    │   │   └── EngineFault         the runtime is gone, and so are the next ones until it was started again
    │   └── NonFiniteAction         the model returned NaN or infinity
    ├── ObservationError            what the robot sent
    │   ├── MissingObservation      a required stream never sent, or lacks a part
    │   ├── StaleObservation        newest sample too old for the requested stamp
    │   └── InvalidObservation      wrong shape, encoding or type, or not finite
    ├── TransportError              the other side of the wire
    │   ├── EngineUnavailable       no ready engine
    │   └── RequestTimeout          no reply before the deadline
    ├── ProtocolError               what came over the wire
    │   ├── MalformedMessage        outside the bounds or the layout
    │   └── VersionMismatch         another version of the extended form
    ├── RequestRejected             an engine's ordinary refusals
    │   ├── Superseded              a newer request of the same device took its place
    │   └── Expired                 its deadline passed before the engine got to it
    └── SafetyError                 a command that must not leave the dispatcher

Each class has a ``wire_name``: what stands in ``action.status`` of a reply (WIRE.md), and what
:func:`error_from_wire` turns back into the class on the device.
"""

from __future__ import annotations


class InferenceServiceError(Exception):
    """Base of the tree. The message names the thing at fault and the fix."""

    wire_name = "internal"


class PolicyError(InferenceServiceError):
    wire_name = "policy"


class PolicyFolderError(PolicyError):
    wire_name = "policy_folder"


class MissingStatistics(PolicyError):
    wire_name = "missing_statistics"


class UnsupportedStep(PolicyError):
    wire_name = "unsupported_step"


class PolicyMismatch(PolicyError):
    wire_name = "policy_mismatch"


class CalibrationError(InferenceServiceError):
    wire_name = "calibration"


class BackendError(InferenceServiceError):
    wire_name = "backend"


class UnknownBackend(BackendError):
    wire_name = "unknown_backend"


class BackendUnavailable(BackendError):
    wire_name = "backend_unavailable"


class ModelLoadFailed(BackendError):
    wire_name = "model_load_failed"


class InferenceFailed(BackendError):
    wire_name = "inference_failed"


class EngineFault(InferenceFailed):
    wire_name = "engine_fault"


class NonFiniteAction(BackendError):
    wire_name = "non_finite_action"


class ObservationError(InferenceServiceError):
    wire_name = "observation"


class MissingObservation(ObservationError):
    wire_name = "missing_observation"


class StaleObservation(ObservationError):
    wire_name = "stale_observation"


class InvalidObservation(ObservationError):
    wire_name = "invalid_observation"


class TransportError(InferenceServiceError):
    wire_name = "transport"


class EngineUnavailable(TransportError):
    wire_name = "engine_unavailable"


class RequestTimeout(TransportError):
    wire_name = "timeout"


class ProtocolError(InferenceServiceError):
    wire_name = "protocol"


class MalformedMessage(ProtocolError):
    wire_name = "malformed"


class VersionMismatch(ProtocolError):
    wire_name = "version_mismatch"


class RequestRejected(InferenceServiceError):
    wire_name = "rejected"


class Superseded(RequestRejected):
    wire_name = "superseded"


class Expired(RequestRejected):
    wire_name = "expired"


class SafetyError(InferenceServiceError):
    wire_name = "safety"


def _tree(root: type[InferenceServiceError]) -> dict[str, type[InferenceServiceError]]:
    found = {root.wire_name: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


_BY_WIRE_NAME = _tree(InferenceServiceError)


def error_from_wire(wire_name: str, message: str) -> InferenceServiceError:
    """The exception that a reply's ``action.status`` and ``action.message`` stand for.

    A name that this version does not know becomes the base class, its name kept in the message.
    """
    cls = _BY_WIRE_NAME.get(wire_name)
    if cls is None:
        return InferenceServiceError(f"{wire_name}: {message}")
    return cls(message)

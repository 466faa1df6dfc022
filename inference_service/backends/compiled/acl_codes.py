"""pyACL's numbers: return codes, data types, formats. From CANN's ``acl/acl_base_rt.h`` and its error code list."""

from __future__ import annotations

from typing import Any

import numpy as np

from inference_service.backends.compiled.session import Layout

SUCCESS = 0
REPEAT_INITIALIZE = 100002
REPEAT_FINALIZE = 100037

_MEMORY = "the device is out of memory; end other processes on it (npu-smi info lists them)"
_ARTIFACT = "the artifact is damaged, was converted for another chip (ATC --soc_version), or is newer than this CANN"
_DRIVER = "wrong or missing driver; in a container mount it from the host"
_GONE = "the device is busy, was reset, or is not mapped into the container"
_BUFFER = "a buffer does not match the model"

_CODES: dict[int, tuple[str, str]] = {
    100000: ("INVALID_PARAM", ""),
    100001: ("UNINITIALIZE", ""),
    100002: ("REPEAT_INITIALIZE", ""),
    100003: ("INVALID_FILE", ""),
    100011: ("INVALID_MODEL_ID", ""),
    100012: ("MODEL_DESERIALIZE", _ARTIFACT),
    100013: ("PARSE_MODEL", _ARTIFACT),
    100014: ("READ_MODEL", _ARTIFACT),
    100015: ("MODEL_SIZE_INVALID", _ARTIFACT),
    100037: ("REPEAT_FINALIZE", ""),
    107000: ("RT_PARAM_INVALID", ""),
    107001: ("INVALID_DEVICEID", "no device of that number; npu-smi info lists them"),
    107002: ("CONTEXT_NULL", ""),
    107003: ("STREAM_CONTEXT", ""),
    107004: ("MODEL_CONTEXT", ""),
    107019: ("WAIT_TIMEOUT", ""),
    145000: ("GE_PARAM_INVALID", _BUFFER),
    145001: ("GE_EXEC_NOT_INIT", ""),
    145002: ("MODEL_PATH_INVALID", _ARTIFACT),
    145003: ("MODEL_ID_INVALID", ""),
    145006: ("DATA_SIZE_INVALID", _BUFFER),
    145007: ("DATA_ADDR_INVALID", _BUFFER),
    200000: ("BAD_ALLOC", _MEMORY),
    207001: ("MEMORY_ALLOCATION", _MEMORY),
    207004: ("NO_DEVICE", _GONE),
    207005: ("RESOURCE_ALLOC_FAIL", _MEMORY),
    207018: ("DEV_MEMORY_ALLOCATION", _MEMORY),
    245000: ("GE_MEMORY", _MEMORY),
    245001: ("GE_MEMORY", _MEMORY),
    245002: ("GE_MEMORY", _MEMORY),
    500000: ("INTERNAL", ""),
    500002: ("GE_FAILURE", ""),
    507007: ("CONTEXT_RELEASED", _GONE),
    507008: ("SOC_VERSION", _DRIVER),
    507011: ("MODEL_EXECUTE", ""),
    507014: ("AICORE_TIMEOUT", ""),
    507015: ("AICORE_EXCEPTION", ""),
    507033: ("DEVICE_SETUP", _GONE),
    507046: ("STREAM_SYNC_TIMEOUT", ""),
    507899: ("DRV_INTERNAL", _DRIVER),
    507901: ("HDC_DISCONNECT", _GONE),
    545000: ("GE_INTERNAL", ""),
    545001: ("MODEL_LOAD", _ARTIFACT),
    545009: ("MODEL_UNLOAD", ""),
}

DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    2: np.dtype(np.int8),
    3: np.dtype(np.int32),
    4: np.dtype(np.uint8),
    6: np.dtype(np.int16),
    7: np.dtype(np.uint16),
    8: np.dtype(np.uint32),
    9: np.dtype(np.int64),
    10: np.dtype(np.uint64),
    11: np.dtype(np.float64),
    12: np.dtype(np.bool_),
}
"""``aclDataType`` of the types that NumPy has too."""

LAYOUTS: dict[int, Layout] = {0: "NCHW", 1: "NHWC"}
"""``aclFormat`` of 4-D tensors; every other format is plain."""

MALLOC_HUGE_FIRST = 0
HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3


def describe(code: int) -> str:
    """``code`` with its name and what usually causes it."""
    name, cause = _CODES.get(code, ("", ""))
    return f"{code}{' ' + name if name else ''}{': ' + cause if cause else ''}"

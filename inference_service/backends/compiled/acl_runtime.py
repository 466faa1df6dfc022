"""Who owns Ascend's runtime in this process, and a context that keeps its rules.

``acl.init`` and ``acl.finalize`` are the process's, devices and contexts are counted. The runtime goes with its last
context, on an explicit ``close`` and never from a destructor or at exit, where CANN's libraries may be gone already.
State in pyACL is per thread: a thread that never set the context gets 107002, so it is bound before every operation.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from inference_service.backends.compiled import acl_codes
from inference_service.core.errors import BackendError, BackendUnavailable, InferenceFailed

_log = logging.getLogger(__name__)
_MAX_MESSAGE = 600


class _Runtime:
    """The process's one runtime. ``lock`` guards the rest."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._references = 0
        self._initialised_here = False

    def retain(self) -> Any:
        """The ``acl`` module, initialised. Call with the lock held.

        Raises:
            BackendUnavailable: not installed, or the driver does not answer.
        """
        acl = _import()
        if self._references == 0:
            code = acl.init()
            if code not in (acl_codes.SUCCESS, acl_codes.REPEAT_INITIALIZE):
                raise BackendUnavailable(_complaint(acl, "acl.init", code))
            # Whoever was first ends it: finalize ignores the count and would pull the runtime from under them.
            self._initialised_here = code == acl_codes.SUCCESS
        self._references += 1
        return acl

    def release(self, acl: Any) -> None:
        """Finalize with the last reference. Call with the lock held."""
        self._references -= 1
        if self._references == 0 and self._initialised_here:
            self._initialised_here = False
            code = acl.finalize()
            if code != acl_codes.SUCCESS:
                _log.warning("acl.finalize returned %s", acl_codes.describe(code))


_runtime = _Runtime()


@contextmanager
def runtime_kept() -> Iterator[None]:
    """Inside, the runtime is not finalized, even when its last context goes."""
    with _runtime.lock:
        acl = _runtime.retain()
    try:
        yield
    finally:
        with _runtime.lock:
            _runtime.release(acl)


class AclContext:
    """A context of one device, and everything allocated in it. Not thread-safe; usable from any thread.

    Raises:
        BackendUnavailable: CANN is not installed, the driver does not answer, or there is no such device.
    """

    def __init__(self, device_id: int = 0) -> None:
        self.device_id = device_id
        self.failure = ""
        """What the first call that failed said; empty where none did."""
        self._handle = 0
        self._owned: list[tuple[str, Callable[[], int]]] = []
        self._closed = False
        with _runtime.lock:
            self.acl = _runtime.retain()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        rt, device = self.acl.rt, self.device_id
        self.check(rt.set_device(device), f"acl.rt.set_device({device})", BackendUnavailable)
        self.own("reset_device", lambda: rt.reset_device(device))
        self._handle, code = rt.create_context(device)
        self.check(code, f"acl.rt.create_context({device})", BackendUnavailable)
        self.own("destroy_context", lambda: rt.destroy_context(self._handle))

    @property
    def versions(self) -> Mapping[str, str]:
        """What pyACL tells of itself and of the chip."""
        soc = getattr(self.acl, "get_soc_name", lambda: None)()
        return {
            "pyacl": str(getattr(self.acl, "__version__", None) or "unknown"),
            "soc": str(soc or "unknown"),
            "npu": str(self.device_id),
        }

    def bind(self) -> None:
        """Make this the calling thread's context. Before every operation: callers come on any thread."""
        self.check(self.acl.rt.set_context(self._handle), "acl.rt.set_context")

    def check(self, code: int, call: str, error: type[BackendError] = InferenceFailed) -> None:
        """Raise ``error``, and remember it as this context's ``failure``, when ``code`` of ``call`` is not success."""
        if code != acl_codes.SUCCESS:
            complaint = _complaint(self.acl, call, code)
            self.failure = self.failure or complaint
            raise error(complaint)

    def own(self, what: str, release: Callable[[], int]) -> None:
        """Call ``release`` on close; the last owned goes first."""
        self._owned.append((what, release))

    def close(self) -> None:
        """Release what is owned, the context, and the runtime with its last context. Idempotent; reports failures in
        the log and goes on, so that one does not leak the rest."""
        if self._closed:
            return
        self._closed = True
        if self._handle:
            self._report("set_context", self.acl.rt.set_context(self._handle))
        while self._owned:
            what, release = self._owned.pop()
            self._report(what, release())
        with _runtime.lock:
            _runtime.release(self.acl)

    def _report(self, what: str, code: int) -> None:
        if code != acl_codes.SUCCESS:
            _log.warning("releasing device %d: %s returned %s", self.device_id, what, acl_codes.describe(code))


def _import() -> Any:
    try:
        acl = importlib.import_module("acl")
    except ImportError as error:
        raise BackendUnavailable(
            f"CANN's Python package 'acl' cannot be imported ({error}); install CANN for this Python and load its "
            "environment (source /usr/local/Ascend/ascend-toolkit/set_env.sh); in a container mount the host's driver"
        ) from error
    if not hasattr(acl, "mdl"):
        raise BackendUnavailable(f"package 'acl' at {getattr(acl, '__file__', '?')} is not CANN's; uninstall it")
    return acl


def _complaint(acl: Any, call: str, code: int) -> str:
    # Per thread, and cleared by reading.
    detail = acl.get_recent_err_msg()
    return f"{call} returned {acl_codes.describe(code)}{f' ({detail[:_MAX_MESSAGE].strip()})' if detail else ''}"

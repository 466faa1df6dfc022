"""``rclpy.context``: a context is initialised once and shut down once."""

from __future__ import annotations

import threading
import weakref

from rclpy._rclpy_pybind11 import Destroyable, RCLError


class Context:
    def __init__(self):
        self._lock = threading.Lock()
        self._callbacks = []
        self._handle = None
        self._valid = False
        self.domain_id = None

    @property
    def handle(self):
        return self._handle

    def init(self, args=None, *, initialize_logging=True, domain_id=None):
        if args is None:
            raise NotImplementedError("the simulator reads no command line: give args=[]")
        if args:
            raise NotImplementedError(f"the simulator knows no ROS arguments: {args}")
        with self._lock:
            if domain_id is not None and domain_id < 0:
                raise RuntimeError(f"Domain id ({domain_id}) should not be lower than zero.")
            if self._handle is not None:
                raise RuntimeError("Context.init() must only be called once")
            self._handle = Destroyable()
            self._valid = True
            self.domain_id = domain_id

    def ok(self):
        with self._lock:
            return self._valid

    def shutdown(self):
        if self._handle is None:
            raise RuntimeError("Context must be initialized before it can be shutdown")
        with self._handle, self._lock:
            if not self._valid:
                raise RCLError("failed to shutdown: rcl_shutdown already called on the given context")
            self._valid = False
            callbacks, self._callbacks = self._callbacks, []
            for reference in callbacks:
                callback = reference()
                if callback is not None:
                    callback()

    def on_shutdown(self, callback):
        with self._lock:
            self._callbacks.append(weakref.WeakMethod(callback))


_default = Context()


def get_default_context():
    return _default

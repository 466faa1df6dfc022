"""``rclpy.executors``: one thread at a time takes messages and runs callbacks, one a ``spin_once``."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import ExitStack

from rclpy._rclpy_pybind11 import InvalidHandle
from rclpy.context import get_default_context
from rclpy.task import Task

_SLICE_S = 0.05  # how often QoS events are looked for


class ExternalShutdownException(Exception):
    def __init__(self, *args):
        super().__init__("External shutdown", *args)


class SingleThreadedExecutor:
    def __init__(self, *, context=None):
        self._context = get_default_context() if context is None else context
        self._lock = threading.Lock()
        self._spinning = threading.Lock()
        self._nodes = []
        self._tasks = deque()
        self._ready = deque()
        self._woken = threading.Event()
        self._is_shutdown = False
        self.thread = None
        """Not of rclpy: the thread that spins, for the simulator to tell misuse."""
        self._context.on_shutdown(self.wake)

    def add_node(self, node):
        with self._lock:
            if node in self._nodes:
                return False
            self._nodes.append(node)
        node.executor = self
        self.wake()
        return True

    def remove_node(self, node):
        with self._lock:
            if node in self._nodes:
                self._nodes.remove(node)
        self.wake()

    def wake(self):
        self._woken.set()
        for node in list(self._nodes):
            node.wake_waiting()

    def create_task(self, callback, *args, **kwargs):
        task = Task(callback, args, kwargs, executor=self)
        self._tasks.append(task)
        self.wake()
        return task

    def shutdown(self, timeout_sec=None):
        self._is_shutdown = True
        self.wake()
        with self._lock:
            self._nodes.clear()
        return True

    def spin_once(self, timeout_sec=None):
        """Raises ExternalShutdownException once the context is shut down; what a callback raised comes out of here."""
        if not self._spinning.acquire(blocking=False):
            raise ValueError("generator already executing")  # what two spinning threads get from rclpy
        try:
            self.thread = threading.current_thread()
            self._spin_once(timeout_sec)
        finally:
            self.thread = None
            self._spinning.release()

    def _spin_once(self, timeout_sec):
        deadline = None if timeout_sec is None or timeout_sec < 0 else time.monotonic() + timeout_sec
        while not self._is_shutdown:
            if self._step_task() or self._run_ready():
                return
            left = _SLICE_S if deadline is None else deadline - time.monotonic()
            if left <= 0 and timeout_sec != 0:
                return
            self._wait(max(0.0, min(left, _SLICE_S)))
            if self._is_shutdown:
                return
            if not self._context.ok():
                raise ExternalShutdownException
            if timeout_sec == 0 and not self._ready and not self._tasks:
                return

    def _step_task(self):
        if not self._tasks:
            return False
        task = self._tasks.popleft()
        task()
        if not task.done():
            self._tasks.append(task)
        elif task.exception() is not None:
            raise task.exception()
        return True

    def _run_ready(self):
        if not self._ready:
            return False
        node, work = self._ready.popleft()
        if node in self._nodes:
            try:
                work()
            except InvalidHandle as error:
                if not str(error).startswith("cannot use Destroyable"):
                    raise  # destroyed since it was found ready: rclpy skips it
        return True

    def _wait(self, seconds):
        nodes = list(self._nodes)
        if not nodes:
            self._woken.wait(seconds)
        self._woken.clear()
        for node in nodes:
            with ExitStack() as held:  # what is waited on is destroyed only after the wait
                try:
                    node.hold(held)
                    self._ready += [(node, work) for work in node.wait(seconds if node is nodes[0] else 0)]
                except InvalidHandle:
                    continue

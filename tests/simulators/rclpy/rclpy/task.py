"""``rclpy.task``: futures whose callbacks run on the executor, and tasks that it steps."""

from __future__ import annotations

import inspect
import threading
import weakref


class Future:
    def __init__(self, *, executor=None):
        self._lock = threading.Lock()
        self._done = False
        self._result = None
        self._exception = None
        self._callbacks = []
        self._executor = lambda: None
        self._set_executor(executor)

    def _set_executor(self, executor):
        self._executor = (lambda: None) if executor is None else weakref.ref(executor)

    def __await__(self):
        while not self._done:
            yield
        return self.result()

    def done(self):
        return self._done

    def result(self):
        if self._exception:
            raise self._exception
        return self._result

    def exception(self):
        return self._exception

    def set_result(self, result):
        self._finish(result, None)

    def set_exception(self, exception):
        self._finish(None, exception)

    def _finish(self, result, exception):
        with self._lock:
            self._result, self._exception, self._done = result, exception, True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._call(callback)

    def _call(self, callback):
        executor = self._executor()
        if executor is None:
            callback(self)
        else:
            executor.create_task(callback, self)

    def add_done_callback(self, callback):
        with self._lock:
            if not self._done:
                self._callbacks.append(callback)
                return
        self._call(callback)


class Task(Future):
    """A function or coroutine; each call is one step of it."""

    def __init__(self, handler, args=(), kwargs=None, executor=None):
        super().__init__(executor=executor)
        self._handler = partial_call(handler, args, kwargs or {})

    def __call__(self):
        if self._done:
            return
        try:
            if inspect.iscoroutine(self._handler):
                self._handler.send(None)
                return
            result = self._handler()
        except StopIteration as end:
            self.set_result(end.value)
        except Exception as error:  # noqa: BLE001  # kept, and raised by the executor
            self.set_exception(error)
        else:
            self.set_result(result)


def partial_call(handler, args, kwargs):
    return handler(*args, **kwargs) if inspect.iscoroutinefunction(handler) else lambda: handler(*args, **kwargs)


async def await_or_execute(callback, *args):
    """``rclpy.executors.await_or_execute``."""
    return await callback(*args) if inspect.iscoroutinefunction(callback) else callback(*args)

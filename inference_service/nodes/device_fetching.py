"""A device node whose policy comes from its engine: it waits for the files, then is the node it was asked to be."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from inference_service.core.errors import InferenceServiceError
from inference_service.core.policy_folder import PolicyFolder
from inference_service.nodes.device_files import PolicyFetch
from inference_service.nodes.diagnostics import DiagnosticsPublisher, Level, Status
from inference_service.nodes.parameter_services import Changeable
from inference_service.transport.protocol import Node


class DeviceApp(Protocol):
    @property
    def failure(self) -> str | None: ...
    @property
    def changeable(self) -> Mapping[str, Changeable]: ...
    def close(self) -> None: ...


class FetchingDevice:
    """Fetches on a thread of its own, so that the node answers signals and tells its state meanwhile."""

    def __init__(
        self,
        node: Node,
        source: str,
        timeout_s: float,
        make: Callable[[PolicyFolder], DeviceApp],
    ) -> None:
        """``make``: the device node, once the policy is here.

        Raises:
            PolicyError: ``source`` is no ``engine://…``.
        """
        self._node = node
        self._make = make
        self._timeout_s = timeout_s
        self._logger = logging.getLogger(node.name)
        self._stop = threading.Event()
        self.changeable: dict[str, Changeable] = {}
        self._failure: str | None = None
        self._app: DeviceApp | None = None
        self._fetch = PolicyFetch(node, source)
        self._diagnostics = DiagnosticsPublisher(node, self._collect)
        self._logger.info("Policy files: waiting for an engine, %g s at most", timeout_s)
        self._thread = threading.Thread(target=self._run, name="policy files", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str | None:
        """Why there is no policy, or what the device node itself says."""
        return self._failure or (self._app.failure if self._app else None)

    def _run(self) -> None:
        try:
            folder = self._fetch.wait(self._timeout_s, self._stop)
            if folder is not None:
                self._diagnostics.close()
                self._app = self._make(folder)
                self.changeable.update(self._app.changeable)
        except (InferenceServiceError, ValueError, OSError) as error:
            self._failure = str(error)
        except Exception as error:
            self._logger.exception("The device could not start")
            self._failure = f"{type(error).__name__}: {error}"
        finally:
            self._fetch.close()

    def _collect(self) -> list[Status]:
        return [
            Status(Level.WARN, self._node.name, self._fetch.state(), {"execution_mode": "distributed"}, ready=False)
        ]

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)
        self._diagnostics.close()
        if self._app is not None:
            self._app.close()

"""Publishes a policy's small files, so that a device needs no copy of the policy's directory."""

from __future__ import annotations

import logging

from inference_service.core.errors import InferenceServiceError, TransportError
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.small_files import small_files
from inference_service.transport.protocol import Message, Node, QoS
from inference_service.wire.policy_files import POLICY_DEPTH, POLICY_TOPIC, PolicyFiles, encode_policy_files
from inference_service.wire.variants import VARIANTS_LIST

_PERIOD_S = 0.02
_GIVE_UP_AFTER = 500


class PolicyFilePublisher:
    """Sends part after part on a timer of its own group: large files hold up neither cards nor requests. DDS keeps
    them for devices that come later."""

    def __init__(self, node: Node, folder: PolicyFolder, engine_id: str) -> None:
        self._logger = logging.getLogger(node.name)
        self._waiting = self._parts(folder, engine_id)
        self._failed = 0
        qos = QoS(depth=POLICY_DEPTH, durability="transient_local")
        self._publisher = node.create_publisher(POLICY_TOPIC, VARIANTS_LIST, qos)
        self._timer = node.create_timer(_PERIOD_S, self._send_next, group="policy_files")

    def _parts(self, folder: PolicyFolder, engine_id: str) -> list[Message]:
        try:
            parts = encode_policy_files(PolicyFiles(folder.fingerprint, small_files(folder)), engine_id)
        except InferenceServiceError as error:
            self._logger.warning("Devices need a policy directory of their own: %s", error)
            return []
        return parts[::-1]

    @property
    def done(self) -> bool:
        return not self._waiting

    def _send_next(self) -> None:
        if not self._waiting:
            self._timer.cancel()
            return
        try:
            self._publisher.publish(self._waiting[-1])
        except TransportError as error:  # a subscriber is slow; the same part again at the next tick
            self._failed += 1
            if self._failed == _GIVE_UP_AFTER:
                self._logger.error("The policy's files cannot be sent: %s", error)
                self._waiting.clear()
            return
        self._waiting.pop()

"""``engine://`` as a checkpoint: a policy's small files fetched from the engine, so that a device keeps no copy.

Config, processors, statistics and tokenizer, never weights (:mod:`inference_service.wire.policy_files`). What came is
used only after its fingerprint, computed here, is the one it was sent under. It is kept in
``$XDG_CACHE_HOME/inference-service/policies/<fingerprint>`` (default ``~/.cache``) for the next start.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
import time
from pathlib import Path

from inference_service.core.errors import (
    EngineUnavailable,
    InferenceServiceError,
    MalformedMessage,
    PolicyError,
    PolicyMismatch,
)
from inference_service.core.policy_folder import PolicyFolder
from inference_service.transport.protocol import Message, Node, QoS
from inference_service.wire.policy_files import POLICY_TOPIC, SUBSCRIPTION_DEPTH, PolicyAssembler, PolicyFiles

_VARIANTS = "ibrobot_msgs/msg/VariantsList"
_SOURCE = re.compile(r"engine://([0-9a-f]{0,64})/?")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def wanted_fingerprint(source: str) -> str:
    """The (beginning of a) fingerprint in ``engine://<fingerprint>``; empty for whatever policy an engine has.

    Raises:
        PolicyError: ``source`` is of another form.
    """
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise PolicyError(f"checkpoint {source!r}: write engine://, or engine://<fingerprint> in hex digits")
    return match[1]


def cache_directory() -> Path:
    """Where fetched policies are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "inference-service" / "policies"


def cached(fingerprint: str, cache: Path) -> PolicyFolder | None:
    """The policy as it was kept, where it still has its fingerprint."""
    path = cache / fingerprint
    if not _FINGERPRINT.fullmatch(fingerprint) or not path.is_dir():
        return None
    try:
        folder = PolicyFolder.load(path)
        return folder if folder.fingerprint == fingerprint else None
    except PolicyError:  # damaged: it is fetched again
        return None


def keep(files: PolicyFiles, cache: Path) -> PolicyFolder:
    """Write what came to the cache, all or nothing.

    Raises:
        PolicyMismatch: the files make up another policy than they were sent as.
        PolicyError: they make up none.
        OSError: the cache cannot be written.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as name:
        fresh = Path(name) / "policy"
        files.write(fresh)
        computed = PolicyFolder.load(fresh).fingerprint
        if computed != files.fingerprint:
            raise PolicyMismatch(
                f"the engine's files were sent as fingerprint {files.fingerprint}, but make up {computed}: device and "
                "engine run versions that differ; install the same one on both"
            )
        return _place(fresh, cache / files.fingerprint)


def _place(fresh: Path, place: Path) -> PolicyFolder:
    """Move ``fresh`` to ``place``, unless another process was faster; damaged contents there give way."""
    present = cached(place.name, place.parent)
    if present is not None:
        return present
    if place.exists():
        place.rename(fresh.parent / "damaged")
    fresh.rename(place)
    return PolicyFolder.load(place)


class PolicyFetch:
    """Listens for the files from the moment it is made. ``close`` it when done."""

    def __init__(self, node: Node, source: str, cache: Path | None = None) -> None:
        """
        Raises:
            PolicyError: ``source`` is no ``engine://…``.
        """
        self._wanted = wanted_fingerprint(source)
        self._cache = cache_directory() if cache is None else cache
        self._logger = logging.getLogger(node.name)
        self._assembler = PolicyAssembler()
        self._others: set[str] = set()
        self._malformed = ""
        self._error: Exception | None = None
        self._folder = cached(self._wanted, self._cache)
        self._done = threading.Event()
        self._progress = (0, 0)
        if self._folder is not None:
            self._done.set()
        qos = QoS(depth=SUBSCRIPTION_DEPTH, durability="transient_local")
        self._subscription = node.create_subscription(POLICY_TOPIC, _VARIANTS, self._on_part, qos, group="policy_files")

    def wait(self, timeout_s: float, stop: threading.Event) -> PolicyFolder | None:
        """The policy, from the cache or from an engine; None once ``stop`` is set.

        Raises:
            EngineUnavailable: not complete within ``timeout_s``.
            PolicyMismatch: the files make up another policy than they were sent as.
            PolicyError: they make up none.
            OSError: the cache cannot be written.
        """
        deadline = time.monotonic() + timeout_s
        while not self._done.wait(0.1):
            if stop.is_set():
                return None
            if time.monotonic() > deadline:
                raise EngineUnavailable(f"{self.state()}; given up after {timeout_s:g} s (fetch_timeout)")
        if self._error is not None:
            raise self._error
        return self._folder

    def state(self) -> str:
        """What is being waited for, for people."""
        here, count = self._progress
        if count:
            text = f"policy files: {here} of {count} parts are here"
        elif self._subscription.matched:
            text = "policy files: an engine is there, nothing came yet"
        else:
            text = "policy files: no engine offers them; start pure_inference, or give a policy directory"
        if self._others:
            text += f" (other policies are offered: {', '.join(sorted(self._others))})"
        return text + (f" (dropped: {self._malformed})" if self._malformed else "")

    def close(self) -> None:
        self._subscription.close()

    def _on_part(self, message: Message) -> None:
        if self._done.is_set():
            return
        try:
            files = self._take(message)
        except MalformedMessage as error:
            self._malformed = str(error)
            self._logger.warning("Policy files: dropped a part: %s", error)
            return
        if files is None:
            return
        try:
            self._folder = keep(files, self._cache)
            self._logger.info("Policy files fetched: %d files, kept in %s", len(files.files), self._folder.path)
        except (InferenceServiceError, OSError, ValueError) as error:  # told by wait(), on the thread that cares
            self._error = error
        self._done.set()

    def _take(self, message: Message) -> PolicyFiles | None:
        fingerprint = _fingerprint_of(message)
        if not fingerprint.startswith(self._wanted):
            self._others.add(fingerprint)
            return None
        self._folder = cached(fingerprint, self._cache)
        if self._folder is not None:
            self._done.set()
            return None
        files = self._assembler.add(message)
        self._progress = self._assembler.progress()
        return files


def _fingerprint_of(message: Message) -> str:
    """Of the policy that a part belongs to; raises MalformedMessage."""
    for variant in message.variants:
        if variant.key == "policy.fingerprint" and len(variant.string_array) == 1:
            text = str(variant.string_array[0])
            if _FINGERPRINT.fullmatch(text):
                return text
    raise MalformedMessage("a part of policy files names no fingerprint")

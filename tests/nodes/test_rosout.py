"""Log lines on /rosout, as a real ROS 2 writes them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from inference_service.nodes.rosout import LOG, QOS, TOPIC, RosoutHandler, to_log
from inference_service.transport import create_node
from inference_service.wire.interfaces import serialize
from tests.nodes.harness import wait_until

GOLDEN = Path(__file__).parents[1] / "golden" / "rosout_log.cdr"


def _record(level: int = logging.INFO, text: str = "ready", *arguments: Any) -> logging.LogRecord:
    record = logging.LogRecord("pure_inference", level, "/a/n.py", 7, text, arguments, None, "main")
    record.created = 1700000000.123456
    return record


def test_a_record_becomes_the_bytes_of_rclpy():
    message = to_log(_record())
    message.stamp.nanosec = 123456789  # a float of seconds ends at the microsecond
    assert bytes(serialize(message, LOG)) == GOLDEN.read_bytes()


@pytest.mark.parametrize(
    ("ours", "theirs"), [(logging.DEBUG, 10), (logging.WARNING, 30), (35, 30), (logging.CRITICAL, 50), (5, 10)]
)
def test_levels_are_those_of_ros(ours: int, theirs: int):
    assert to_log(_record(ours)).level == theirs


def test_a_traceback_is_part_of_the_message():
    try:
        raise RuntimeError("fell over")
    except RuntimeError as error:
        record = _record()
        record.exc_info = (type(error), error, error.__traceback__)
    assert "RuntimeError: fell over" in to_log(record).msg


def test_lines_reach_a_late_listener_once_and_close_sends_the_rest(domain_id: int):
    node, listener = create_node("teller"), create_node("listener")
    logger = logging.getLogger("teller")
    handler = RosoutHandler(node)
    logger.addHandler(handler)
    got: list[str] = []
    try:
        logger.warning("first %d", 1)
        listener.create_subscription(TOPIC, LOG, lambda m: got.append(m.msg), QOS)
        assert wait_until(lambda: got)
        logger.warning("last")
        handler.close()
        assert wait_until(lambda: len(got) == 2)
        assert got == ["first 1", "last"]
    finally:
        logger.removeHandler(handler)
        listener.close()
        node.close()


def test_logging_never_waits_and_a_transport_that_complains_is_not_heard_for_ever():
    """The publisher logs on every publish, as a broken one would."""
    sent: list[str] = []
    logger = logging.getLogger("teller")

    class Complaining:
        def publish(self, message: Any) -> None:
            sent.append(message.msg)
            logger.warning("cannot send")

    class StandIn:
        def create_publisher(self, *_: Any) -> Complaining:
            return Complaining()

        def create_timer(self, *_: Any, **__: Any) -> Any:
            return type("Timer", (), {"cancel": lambda self: None})()

    handler = RosoutHandler(StandIn())  # type: ignore[arg-type]
    logger.addHandler(handler)
    try:
        for number in range(1500):
            logger.warning("%d", number)
        assert sent == []
        handler.send_waiting()
        handler.send_waiting()
    finally:
        logger.removeHandler(handler)
    assert (len(sent), sent[0], sent[-1]) == (1000, "500", "1499")

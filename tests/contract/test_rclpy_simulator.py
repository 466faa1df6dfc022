"""The simulator of rclpy is as strict as rclpy: what rclpy refuses it refuses, with the same exceptions.

Where rclpy itself can be imported these run on rclpy, which is how the simulator is checked against it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from transport_rig import wait_for

from tests.simulators.rclpy.rig import REAL, rclpy_importable


class Ros:
    """A context, a node and an executor of rclpy."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from std_msgs.msg import String

        self.rclpy, self.String = rclpy, String
        self.context = Context()
        rclpy.init(args=[], context=self.context)
        self.node = self.make_node("node")
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def make_node(self, name: str, **options: Any) -> Any:
        plain = {"enable_rosout": False, "start_parameter_services": False, "use_global_arguments": False}
        return self.rclpy.create_node(name, context=self.context, **plain, **options)

    def spin_until(self, condition: Any) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        if self.context.ok():
            self.node.destroy_node()
            self.rclpy.shutdown(context=self.context)


@pytest.fixture
def ros(domain_id: int) -> Iterator[Ros]:
    with rclpy_importable():
        made = Ros()
        yield made
        made.close()


def test_a_publisher_takes_its_own_class_or_bytes_and_nothing_else(ros: Ros) -> None:
    publisher = ros.node.create_publisher(ros.String, "/text", 10)
    publisher.publish(ros.String(data="x"))
    publisher.publish(b"\0\1\0\0\2\0\0\0x\0\0\0")
    for wrong in (bytearray(8), memoryview(b""), "text", None):
        with pytest.raises(TypeError):
            publisher.publish(wrong)


def test_messages_check_their_fields(ros: Ros) -> None:
    from unique_identifier_msgs.msg import UUID

    for wrong in ({"data": 1}, {"text": "x"}):
        with pytest.raises(AssertionError):
            ros.String(**wrong)
    with pytest.raises(AssertionError):
        UUID(uuid=[1, 2])
    assert bytes(UUID(uuid=list(range(16))).uuid) == bytes(range(16))


def test_serialisation_wants_bytes_and_the_class(ros: Ros) -> None:
    from rclpy.serialization import deserialize_message, serialize_message

    cdr = serialize_message(ros.String(data="abc"))
    assert deserialize_message(cdr, ros.String).data == "abc"
    with pytest.raises(TypeError):
        deserialize_message(memoryview(cdr), ros.String)


def test_text_that_is_no_utf_8_is_read_all_the_same(ros: Ros) -> None:
    from rclpy.serialization import deserialize_message

    text = deserialize_message(b"\0\1\0\0\5\0\0\0a\xff\xfe\xfd\0", ros.String).data
    assert (text[0], len(text)) == ("a", 4)


def test_a_raw_subscription_gets_bytes_and_only_while_the_executor_spins(ros: Ros) -> None:
    raw, typed = [], []
    ros.node.create_subscription(ros.String, "/text", raw.append, 10, raw=True)
    ros.node.create_subscription(ros.String, "/text", typed.append, 10)
    publisher = ros.node.create_publisher(ros.String, "/text", 10)
    wait_for(lambda: publisher.get_subscription_count() == 2, "a match")
    publisher.publish(ros.String(data="abc"))
    time.sleep(0.2)
    assert not raw and not typed
    ros.spin_until(lambda: raw and typed)
    assert isinstance(raw[0], bytes)
    assert typed[0].data == "abc"


def test_what_a_callback_raises_leaves_spin_once(ros: Ros) -> None:
    def fail(_: object) -> None:
        raise KeyError("lost")

    ros.node.create_subscription(ros.String, "/text", fail, 10)
    publisher = ros.node.create_publisher(ros.String, "/text", 10)
    wait_for(lambda: publisher.get_subscription_count(), "a match")
    publisher.publish(ros.String(data="x"))
    with pytest.raises(KeyError):
        ros.spin_until(lambda: False)


def test_a_destroyed_entity_is_an_invalid_handle_and_destroyed_once(ros: Ros) -> None:
    from rclpy.exceptions import InvalidHandle

    publisher = ros.node.create_publisher(ros.String, "/text", 10)
    guard = ros.node.create_guard_condition(lambda: None)
    assert ros.node.destroy_publisher(publisher)
    assert not ros.node.destroy_publisher(publisher)
    ros.node.destroy_guard_condition(guard)
    for use in (lambda: publisher.publish(ros.String()), publisher.get_subscription_count, guard.trigger):
        with pytest.raises(InvalidHandle):
            use()
    ros.node.destroy_node()
    with pytest.raises(InvalidHandle):
        ros.node.create_publisher(ros.String, "/text", 10)


def test_a_context_begins_and_ends_once_and_its_end_ends_the_spinning(ros: Ros) -> None:
    from rclpy.executors import ExternalShutdownException

    with pytest.raises(RuntimeError):
        ros.rclpy.init(args=[], context=ros.context)
    raised: list[BaseException] = []

    def spin() -> None:
        try:
            ros.executor.spin_once(timeout_sec=20)
        except ExternalShutdownException as error:
            raised.append(error)

    spinner = threading.Thread(target=spin)
    spinner.start()
    time.sleep(0.2)
    publisher = ros.node.create_publisher(ros.String, "/text", 10)
    ros.rclpy.shutdown(context=ros.context)
    spinner.join(10)
    assert raised
    with pytest.raises(RuntimeError):
        publisher.publish(ros.String())
    with pytest.raises(RuntimeError):
        ros.rclpy.shutdown(context=ros.context)


def test_bad_names_values_and_profiles_are_refused(ros: Ros) -> None:
    from rclpy.clock import JumpThreshold
    from rclpy.duration import Duration
    from rclpy.exceptions import InvalidNodeNameException, InvalidTopicNameException
    from rclpy.parameter import Parameter
    from rclpy.qos import HistoryPolicy, InvalidQoSProfileException, QoSProfile

    with pytest.raises(InvalidTopicNameException):
        ros.node.create_publisher(ros.String, "/my-topic", 10)
    with pytest.raises(InvalidNodeNameException):
        ros.make_node("my-node")
    with pytest.raises(ValueError, match="do not agree"):
        Parameter("use_sim_time", Parameter.Type.BOOL, "yes")
    with pytest.raises(InvalidQoSProfileException):
        QoSProfile(history=HistoryPolicy.KEEP_LAST)
    with pytest.raises(AssertionError):
        QoSProfile(depth=1, lifespan=2.0)
    with pytest.raises(ValueError, match="min_backward"):
        JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=1))


def _goals(ros: Ros, **options: Any) -> tuple[Any, Any, list[Any]]:
    from ibrobot_msgs.action import DispatchInfer
    from rclpy.action import ActionClient, ActionServer

    handles: list[Any] = []
    ActionServer(
        ros.node, DispatchInfer, "/infer", lambda handle: None, handle_accepted_callback=handles.append, **options
    )
    client = ActionClient(ros.node, DispatchInfer, "/infer")
    ros.spin_until(client.server_is_ready)
    return client, DispatchInfer, handles


def test_a_goal_changes_state_only_as_it_may(ros: Ros) -> None:
    client, action, handles = _goals(ros)
    client.send_goal_async(action.Goal())
    ros.spin_until(lambda: handles)
    handle = handles[0]
    for illegal in (handle.succeed, handle.abort, handle.canceled):
        with pytest.raises(RuntimeError):  # accepted only
            illegal()
    handle.execute(lambda one: (one.succeed(), action.Result())[1])
    assert handle.status == 2
    with pytest.raises(RuntimeError):  # executing already
        handle.execute()
    ros.spin_until(lambda: not handle.is_active)
    assert handle.status == 4
    with pytest.raises(TypeError):
        handle.publish_feedback(action.Result())


def test_a_goal_without_an_end_is_aborted_and_its_result_told(ros: Ros) -> None:
    client, action, handles = _goals(ros)
    sent = client.send_goal_async(action.Goal())
    ros.spin_until(sent.done)
    result = sent.result().get_result_async()
    handles[0].execute(lambda _: action.Result(message="forgot"))
    ros.spin_until(result.done)
    assert (result.result().status, result.result().result.message) == (6, "forgot")


def test_goals_are_not_cancelled_unless_the_server_agrees(ros: Ros) -> None:
    client, action, handles = _goals(ros)
    sent = client.send_goal_async(action.Goal())
    ros.spin_until(sent.done)
    canceled = sent.result().cancel_goal_async()
    ros.spin_until(canceled.done)
    assert not canceled.result().goals_canceling
    assert not handles[0].is_cancel_requested
    with pytest.raises(TypeError):
        client.send_goal_async(action.Result())


@pytest.mark.skipif(REAL, reason="rclpy lets these pass, and now and then they go wrong")
def test_what_goes_wrong_now_and_then_is_refused_always(ros: Ros) -> None:
    client, action, _ = _goals(ros)
    entered, release = threading.Event(), threading.Event()
    guard = ros.node.create_guard_condition(lambda: (entered.set(), release.wait(20)))
    spinner = threading.Thread(target=ros.spin_until, args=(release.is_set,))
    spinner.start()
    guard.trigger()
    assert entered.wait(10)
    with pytest.raises(AssertionError, match="another thread"):
        client.send_goal_async(action.Goal())
    with pytest.raises(ValueError, match="already executing"):
        ros.executor.spin_once(timeout_sec=0)
    release.set()
    spinner.join(10)

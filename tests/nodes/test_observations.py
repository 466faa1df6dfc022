"""Streams sampled at a stamp: what is missing, stale, frozen or of another size is refused and named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inference_service.core.batch import Feature, FeatureType
from inference_service.core.errors import InvalidObservation, MissingObservation, ObservationError, StaleObservation
from inference_service.nodes.observations import ObservationSampler, SampleClock
from robot_config import ObservationSpec

MS = 1_000_000
TOP = "observation.images.top"
STATE = "observation.state"
FEATURES = {
    TOP: Feature(TOP, FeatureType.VISUAL, (3, 96, 128)),
    STATE: Feature(STATE, FeatureType.STATE, (2,)),
}


class FakeNode:
    """A clock set by hand, and subscriptions fed by hand."""

    name = "act_inference_node"
    errors = 0

    def __init__(self) -> None:
        self.now = 10_000 * MS
        self.sent = 0
        """When the message was sent that comes next, by its sender's own clock; 0 where the transport does not tell."""
        self.behind = 0
        """How much less the ROS clock has moved than the monotonic one."""
        self.callbacks: dict[str, Any] = {}
        self.publishers = 1

    def now_ns(self) -> int:
        return self.now

    def monotonic_ns(self) -> int:
        return self.now + self.behind

    def on_clock_jump(self, callback: Any) -> None:
        self.jumped = callback

    def create_subscription(self, topic: str, msg_type: str, callback: Any, qos: Any, *, group: str) -> Any:
        self.callbacks[topic] = callback
        node = self

        class Sub:
            malformed = 0

            @property
            def sent_ns(self) -> int:
                return node.sent

            @property
            def matched(self) -> int:
                return node.publishers

        return Sub()


def header(stamp_ns: int) -> SimpleNamespace:
    return SimpleNamespace(stamp=SimpleNamespace(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000))


def picture(stamp_ns: int, value: int = 7, size: tuple[int, int] = (480, 640), encoding: str = "rgb8") -> Any:
    height, width = size
    data = np.full(height * width * 3, value, np.uint8)
    return SimpleNamespace(
        header=header(stamp_ns), height=height, width=width, encoding=encoding, step=width * 3, data=data
    )


def joints(stamp_ns: int, a: float = 1.0, names: tuple[str, ...] = ("1", "2")) -> Any:
    return SimpleNamespace(header=header(stamp_ns), name=list(names), position=[a, 2.0][: len(names)])


def make(
    strategy: str = "hold", stamp: str = "header", tol_ms: float = 200, keep_ms: int = 0, use_sim_time: bool = False
) -> tuple[FakeNode, ObservationSampler]:
    align = {"strategy": strategy, "stamp": stamp, "tol_ms": tol_ms}
    specs = [
        ObservationSpec.model_validate(
            {
                "key": TOP,
                "topic": "/camera/top/image_raw",
                "type": "sensor_msgs/msg/Image",
                "image": {"resize": [480, 640]},
                "align": align,
            }
        ),
        ObservationSpec.model_validate(
            {
                "key": STATE,
                "topic": "/joint_states",
                "type": "sensor_msgs/msg/JointState",
                "selector": {"names": ["position.1", "position.2"]},
                "align": align,
            }
        ),
    ]
    node = FakeNode()
    clock = SampleClock(node, use_sim_time, node.monotonic_ns)  # type: ignore[arg-type]
    return node, ObservationSampler(node, specs, FEATURES, keep_ns=keep_ms * MS, clock=clock)  # type: ignore[arg-type]


def feed(node: FakeNode, *, top: Any = None, state: Any = None) -> None:
    if top is not None:
        node.callbacks["/camera/top/image_raw"](top)
    if state is not None:
        node.callbacks["/joint_states"](state)


def test_the_newest_sample_at_the_stamp_is_taken() -> None:
    node, sampler = make()
    for i, ms in enumerate((9800, 9900, 10_000)):
        feed(node, top=picture(ms * MS, value=i), state=joints(ms * MS, a=float(i)))
    observation = sampler.sample(9950 * MS)
    assert observation[TOP][0, 0, 0] == 1
    assert observation[STATE].tolist() == [1.0, 2.0]


def test_every_stream_at_fault_is_named() -> None:
    node, sampler = make()
    node.publishers = 0
    with pytest.raises(MissingObservation) as caught:
        sampler.sample(node.now)
    assert "/camera/top/image_raw" in str(caught.value) and "/joint_states" in str(caught.value)
    assert "nobody publishes" in str(caught.value)
    assert len(sampler.problems()) == 2


def test_a_stream_that_stopped_is_stale() -> None:
    node, sampler = make()
    feed(node, top=picture(node.now), state=joints(node.now))
    node.now += 500 * MS
    feed(node, state=joints(node.now))
    with pytest.raises(StaleObservation, match=r"top/image_raw.*500 ms old, tolerance 200 ms") as caught:
        sampler.sample(node.now)
    assert "/joint_states" not in str(caught.value)


@pytest.mark.parametrize("stamp", ["header", "receive"])
def test_a_frozen_camera_is_stale_although_it_keeps_sending(stamp: str) -> None:
    node, sampler = make(stamp=stamp)
    frozen = node.now
    for _ in range(10):
        feed(node, top=picture(frozen), state=joints(node.now))
        node.now += 50 * MS
    with pytest.raises(StaleObservation, match=r"frozen, 9 messages repeat its stamp"):
        sampler.sample(node.now)


def test_a_goal_that_waited_is_not_computed_from_what_grew_old_meanwhile() -> None:
    """Fault: a starved device takes a goal up late. Its sample was fresh at the goal's stamp and is not any more."""
    node, sampler = make()
    asked = node.now
    for _ in range(12):
        feed(node, top=picture(node.now), state=joints(node.now))
        node.now += 20 * MS
    sampler.sample(node.now - 100 * MS)
    with pytest.raises(StaleObservation, match=r"/joint_states\): the sample is 240 ms old now.*of 240 ms ago"):
        sampler.sample(asked)
    assert sampler.problems() == []


@pytest.mark.parametrize(("pace", "standing"), [(0.1, 0), (1.0, 0), (1.0, 250)])
def test_a_clock_that_stands_still_does_not_keep_a_picture_fresh(pace: float, standing: int) -> None:
    """Fault: /clock stops and then a camera dies. A simulation that is merely slow is no fault."""
    node, sampler = make(use_sim_time=True)
    feed(node, top=picture(node.now), state=joints(node.now))
    for _ in range(10):
        node.now += int(10 * MS * pace)
        node.behind += int(10 * MS * (1 / pace - pace))
        sampler.problems()
    sampler.sample(node.now)
    node.behind += standing * MS
    if not standing:
        sampler.sample(node.now)
        return
    assert "/clock has stood still for 250 ms" in sampler.problems()[0]
    with pytest.raises(StaleObservation, match=r"top/image_raw.*350 ms old now.*/clock has stood still for 250 ms"):
        sampler.sample(node.now)


def test_a_clock_that_is_ahead_or_set_back_does_not_make_a_picture_younger() -> None:
    """Fault: the camera dies and the machine finds its time server, which sets it back. The monotonic clock tells."""
    node, sampler = make()
    feed(node, top=picture(node.now), state=joints(node.now))
    node.now += MS
    node.behind += 900 * MS
    feed(node, state=joints(node.now))
    with pytest.raises(StaleObservation, match=r"top/image_raw.*901 ms old now") as caught:
        sampler.sample(node.now)
    assert "/joint_states" not in str(caught.value)


def test_what_waited_in_a_starved_nodes_queue_is_not_fresh_when_it_is_taken() -> None:
    """Fault: the device gets no processor for a second. The sender's clock is an hour ahead, which says nothing."""
    node, sampler = make(stamp="receive")
    ahead = 3_600_000 * MS
    for _ in range(5):
        node.now += 20 * MS
        node.sent = node.now + ahead
        feed(node, top=picture(node.now), state=joints(node.now))
    sampler.sample(node.now)
    node.now += 1000 * MS
    node.sent += 30 * MS
    feed(node, top=picture(node.now), state=joints(node.now))
    with pytest.raises(StaleObservation, match=r"top/image_raw.*9\d\d ms old.*tolerance 200 ms"):
        sampler.sample(node.now)
    node.sent = node.now + ahead
    feed(node, top=picture(node.now + MS), state=joints(node.now + MS))
    sampler.sample(node.now)


def test_messages_that_wait_for_different_times_are_no_stream_that_began_anew() -> None:
    node, sampler = make(stamp="receive", keep_ms=300)
    start = node.now
    for waited in (100, 70, 100, 62, 90):
        start += 40 * MS
        node.now, node.sent = start + waited * MS, start
        feed(node, top=picture(start), state=joints(start))
    assert [len(stream._samples) for stream in sampler.streams] == [5, 5]


def test_a_senders_clock_that_was_set_back_is_followed() -> None:
    node, sampler = make(stamp="receive")
    for back in (0, 0, 5000 * MS, 5000 * MS, 5000 * MS):
        node.now += 20 * MS
        node.sent = node.now - back
        feed(node, top=picture(node.now), state=joints(node.now))
        sampler.sample(node.now)


def test_a_stream_that_recovers_is_used_again() -> None:
    node, sampler = make()
    feed(node, top=picture(node.now), state=joints(node.now))
    node.now += 1000 * MS
    with pytest.raises(StaleObservation):
        sampler.sample(node.now)
    feed(node, top=picture(node.now, value=9), state=joints(node.now))
    assert sampler.sample(node.now)[TOP][0, 0, 0] == 9


def test_a_source_that_starts_again_with_earlier_stamps_is_followed() -> None:
    node, sampler = make(tol_ms=20_000)
    feed(node, top=picture(node.now, value=1), state=joints(node.now))
    feed(node, top=picture(node.now - 5000 * MS, value=2))
    assert sampler.sample(node.now)[TOP][0, 0, 0] == 2


def test_a_camera_on_another_clock_is_refused() -> None:
    node, sampler = make()
    feed(node, top=picture(node.now + 3600_000 * MS), state=joints(node.now))
    with pytest.raises(InvalidObservation, match="in the future: synchronise the clocks"):
        sampler.sample(node.now)


def test_without_a_header_stamp_the_time_of_arrival_counts() -> None:
    node, sampler = make()
    feed(node, top=picture(0), state=joints(0))
    assert sampler.sample(node.now)[TOP].shape == (480, 640, 3)


def test_drop_gives_each_sample_once() -> None:
    node, sampler = make(strategy="drop")
    feed(node, top=picture(node.now), state=joints(node.now))
    sampler.sample(node.now)
    with pytest.raises(StaleObservation, match="no new sample"):
        sampler.sample(node.now)
    node.now += 50 * MS
    feed(node, top=picture(node.now), state=joints(node.now))
    sampler.sample(node.now)


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ({"top": picture(10_000 * MS, size=(480, 480))}, InvalidObservation, "480x480.*says 640x480"),
        ({"top": picture(10_000 * MS, encoding="nv12")}, InvalidObservation, "nv12"),
        ({"state": joints(10_000 * MS, names=("1",))}, MissingObservation, "joint '2'"),
        ({"state": joints(10_000 * MS, a=float("nan"))}, InvalidObservation, "position.1 is not finite"),
    ],
)
def test_a_message_that_cannot_be_used(fault: dict[str, Any], error: type[ObservationError], says: str) -> None:
    node, sampler = make()
    feed(node, **{"top": picture(node.now), "state": joints(node.now), **fault})
    with pytest.raises(error, match=says):
        sampler.sample(node.now)


def test_a_picture_of_the_same_aspect_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    node, sampler = make()
    for _ in range(3):
        node.now += 50 * MS
        feed(node, top=picture(node.now, size=(240, 320)), state=joints(node.now))
        assert sampler.sample(node.now)[TOP].shape == (240, 320, 3)
    assert sum("320x240 instead of 640x480" in r.getMessage() for r in caplog.records) == 1


def test_after_a_clock_jump_samples_of_the_future_are_gone() -> None:
    """A simulation that starts again: the old pictures are stamped later than now."""
    node, sampler = make()
    node.callbacks["/camera/top/image_raw"](picture(node.now))
    node.callbacks["/joint_states"](joints(node.now))
    assert sampler.problems() == []
    node.now = 1_000 * MS
    node.jumped(9_000 * MS)
    with pytest.raises(MissingObservation, match=TOP):
        sampler.sample(node.now)
    node.callbacks["/camera/top/image_raw"](picture(node.now, value=3))
    node.callbacks["/joint_states"](joints(node.now, a=4.0))
    observation = sampler.sample(node.now)
    assert (observation[TOP].max(), observation[STATE][0]) == (3, 4.0)


def values(observation: dict[str, Any]) -> tuple[int, float]:
    return int(observation[TOP][0, 0, 0]), float(observation[STATE][0])


def test_what_a_policy_looks_back_on_is_kept_and_no_more() -> None:
    node, sampler = make(keep_ms=300)
    for tick in range(20):
        stamp = node.now + tick * 50 * MS
        feed(node, top=picture(stamp, value=tick, size=(48, 64)), state=joints(stamp, a=float(tick)))
    last = node.now + 19 * 50 * MS
    assert [values(sampler.sample_earlier(last - ms * MS)) for ms in (0, 50, 99, 101, 300)] == [
        *[(19, 19.0), (18, 18.0), (17, 17.0), (16, 16.0), (13, 13.0)]
    ]
    assert len(sampler.streams[0]._samples) == 7
    with pytest.raises(MissingObservation, match=r"top/image_raw\): nothing is kept of .*looks back on"):
        sampler.sample_earlier(last - 401 * MS)


def test_a_camera_that_is_slower_than_the_control_ticks_is_held_at_each() -> None:
    node, sampler = make(keep_ms=300)
    for tick in range(10):
        stamp = node.now + tick * 50 * MS
        feed(node, top=picture(stamp, value=tick) if tick % 3 == 0 else None, state=joints(stamp, a=float(tick)))
    last = node.now + 9 * 50 * MS
    assert [values(sampler.sample_earlier(last - ms * MS)) for ms in (0, 50, 100, 150, 200)] == [
        *[(9, 9.0), (6, 8.0), (6, 7.0), (6, 6.0), (3, 5.0)]
    ]


def test_a_later_sample_never_stands_in_for_an_earlier_one() -> None:
    """Fault: a camera's driver starts again. Expected: refused until the streams hold enough, however small the gap."""
    node, sampler = make(keep_ms=300)
    for ms in (0, 50, 100):
        feed(node, top=picture(node.now + ms * MS), state=joints(node.now + ms * MS))
    feed(node, top=picture(node.now + 60 * MS, value=9))
    stamp = node.now + 100 * MS
    assert values(sampler.sample(stamp))[0] == 9
    with pytest.raises(MissingObservation, match=r"top/image_raw.*the stream began anew") as caught:
        sampler.sample_earlier(stamp - 50 * MS)
    assert "/joint_states" not in str(caught.value)
    assert values(sampler.sample_earlier(stamp - 40 * MS))[0] == 9


def test_an_earlier_sample_is_refused_where_it_was_stale_then() -> None:
    node, sampler = make(keep_ms=300, tol_ms=100)
    for ms in (0, 200, 250):
        feed(node, top=picture(node.now + ms * MS), state=joints(node.now + ms * MS))
    sampler.sample_earlier(node.now + 200 * MS)
    with pytest.raises(StaleObservation, match="150 ms old"):
        sampler.sample_earlier(node.now + 150 * MS)


def test_looking_back_leaves_what_is_given_next_alone() -> None:
    node, sampler = make("drop", keep_ms=300)
    for ms in (0, 50):
        feed(node, top=picture(node.now + ms * MS), state=joints(node.now + ms * MS))
    sampler.sample(node.now)
    assert sampler.given_ns == node.now
    sampler.sample_earlier(node.now + 50 * MS)
    sampler.sample_earlier(node.now)
    sampler.sample(node.now + 50 * MS)
    assert sampler.given_ns == node.now + 50 * MS

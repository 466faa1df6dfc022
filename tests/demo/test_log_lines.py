"""The documentation's log lines, to the letter."""

from __future__ import annotations

import pytest

from inference_service.demo.log_lines import NOT_APPLICABLE, PROMISED_LINES, LogWatch

PRINTED = [
    ("pure_inference", "Waiting for preprocessed batches from edge node..."),
    ("pure_inference", "✓ First inference completed: latency=15.2ms"),
    ("pure_inference", "[stats] count=12, avg=15.4ms, last=15.0ms"),
    ("act_inference_node", "✓ First inference complete (distributed): total=21.9ms"),
    ("action_dispatcher", "✓ First inference received: chunk=50, latency=22.4ms"),
    ("action_dispatcher", "[stats] inferences=12, avg_latency=22.0ms, queue=31, hold=2"),
]


def ros(node: str, text: str) -> str:
    return f"[INFO] [1700000000.123456789] [{node}]: {text}\n"


def seen(node: str, line: str, mode: str = "distributed") -> list[str]:
    watch = LogWatch(mode)
    watch.see(node, line)
    return [text for text, state in watch.result().items() if state is True]


@pytest.mark.parametrize("index", range(len(PRINTED)))
def test_each_line_is_known_with_and_without_the_ros_prefix(index: int) -> None:
    node, text = PRINTED[index]
    promised = PROMISED_LINES[index].text
    assert seen(node, ros(node, text)) == [promised]
    assert seen(node, text) == [promised]


@pytest.mark.parametrize("index", range(len(PRINTED)))
def test_a_line_of_another_process_or_another_wording_does_not_count(index: int) -> None:
    node, text = PRINTED[index]
    assert seen("sim_robot", ros("sim_robot", text)) == []
    assert seen(node, ros(node, text[:-3])) == []
    assert seen(node, ros(node, text.replace("a", "o"))) == []
    assert seen(node, ros(node, f"once more: {text}")) == []


def test_more_may_follow_a_line_but_not_run_into_it() -> None:
    text = "✓ First inference complete (distributed): total=21.9ms"
    assert seen("act_inference_node", f"{text} (pre=4.0ms)")
    assert not seen("act_inference_node", f"{text}econds")


def test_lines_of_the_link_do_not_apply_to_one_process() -> None:
    result = LogWatch("monolithic").result()
    assert [text for text, state in result.items() if state != NOT_APPLICABLE] == [p.text for p in PROMISED_LINES[4:]]

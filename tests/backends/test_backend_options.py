"""Options and CPU counting."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inference_service.backends import options
from inference_service.core.errors import BackendError


def test_an_unknown_option_names_the_nearest() -> None:
    options.check_extra("onnx", {"providers": []}, {"providers"})
    with pytest.raises(BackendError, match=r"'onnx' has no option 'provider'; did you mean 'providers'\?"):
        options.check_extra("onnx", {"provider": []}, {"providers"})


def test_options_of_a_nodes_parameter() -> None:
    assert options.parse_extra("") == options.parse_extra(" ") == {}
    assert options.parse_extra('{"seed": 1, "autocast": "bfloat16"}') == {"seed": 1, "autocast": "bfloat16"}
    for text in ("seed", "[1]", '{"seed": 1'):
        with pytest.raises(
            BackendError, match=r"'backend_options' must be a JSON object such as \{\"seed\": 1\}, found"
        ):
            options.parse_extra(text)


@pytest.mark.parametrize(("content", "cpus"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("50000 100000", 0.5)])
def test_a_containers_quota_is_read(content: str, cpus: float | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert options._cgroup_quota(tmp_path / "cpu.max") == cpus
    assert options._cgroup_quota(tmp_path / "absent") is None


def test_a_quota_lowers_the_number_of_cpus_but_never_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for quota, cpus in ((None, 8), (2.0, 2), (0.2, 1), (64.0, 8)):
        monkeypatch.setattr(options, "_cgroup_quota", lambda file, quota=quota: quota)
        assert options.available_cpus() == cpus

"""The stand-in for rknnlite objects to every broken rule; else its empty journal would mean nothing.

The rules are those of the measured behaviour of rknn-toolkit-lite2 2.3.2 and 2.5.0.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.simulators.rknnlite.rig import LIBRARY, RKNNSimulator, installed, tiny_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

GRAPH = {"state": (1, 6), "top": (1, 3, 8, 10), "mask": (1, 2, 5, 5)}
FORMATS = ["nchw", "nhwc", "nchw"]


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[RKNNSimulator]:
    with installed(tmp_path / "rknn") as simulator:
        yield simulator


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(tiny_model(tmp_path / "model.rknn", GRAPH))


@pytest.fixture
def lite(simulator: RKNNSimulator, model: str) -> Iterator[Any]:
    lite = new()
    assert lite.load_rknn(model) == 0
    assert lite.init_runtime() == 0
    yield lite
    lite.release()


def new() -> Any:
    from rknnlite.api import RKNNLite

    return RKNNLite()


def good() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in ((1, 6), (1, 8, 10, 3), (1, 2, 5, 5))]


def test_proper_use_is_not_journalled(simulator: RKNNSimulator, lite: Any) -> None:
    first = lite.inference(inputs=good(), data_format=FORMATS)
    assert [output.dtype for output in first] == [np.float32]
    assert np.array_equal(lite.inference(inputs=good(), data_format=FORMATS)[0], first[0])
    lite.release()
    lite.release()
    assert simulator.journal == [] and simulator.unreleased == []


@pytest.mark.breaks_rules("rknnlite load")
def test_rule_1_load_before_init_and_of_a_file_that_exists(simulator: RKNNSimulator, tmp_path: Path) -> None:
    lite = new()
    assert lite.init_runtime() == -1
    assert lite.load_rknn(str(tmp_path / "absent.rknn")) == -1
    assert simulator.rules_broken == ["load", "load"]


@pytest.mark.breaks_rules("rknnlite target")
def test_rule_2_no_target_on_the_board(simulator: RKNNSimulator, model: str) -> None:
    lite = new()
    lite.load_rknn(model)
    assert lite.init_runtime(target="rk3588") == -1
    assert simulator.rules_broken == ["target"]


@pytest.mark.parametrize(
    ("soc", "mask", "reaches"),
    [
        ("rk3566", 0, 0),
        ("rk3576", 4, 1),
        ("rk3576", 7, 3),
        ("rk3576", 0xFFFF, 3),
        ("rk3588", 0xFFFF, 7),
    ],
)
def test_core_masks_as_they_reach_the_library(
    simulator: RKNNSimulator, model: str, soc: str, mask: int, reaches: int
) -> None:
    simulator.set(soc=soc)
    lite = new()
    lite.load_rknn(model)
    assert lite.init_runtime(core_mask=mask) == 0
    assert lite.mask == reaches
    assert simulator.rules_broken == []
    lite.release()


@pytest.mark.breaks_rules("rknnlite core mask")
@pytest.mark.parametrize(("soc", "mask"), [("rk3566", 1), *(("rk3588", mask) for mask in (5, 6, 8, -1, None, "auto"))])
def test_rule_3_core_masks(simulator: RKNNSimulator, model: str, soc: str, mask: Any) -> None:
    simulator.set(soc=soc)
    lite = new()
    lite.load_rknn(model)
    assert lite.init_runtime(core_mask=mask) == -1
    assert lite.mask is None
    assert simulator.rules_broken == ["core mask"]
    lite.release()


@pytest.mark.breaks_rules("rknnlite ignored -1", "rknnlite inference")
def test_rule_4_the_code_of_init_runtime_is_looked_at(simulator: RKNNSimulator, model: str) -> None:
    simulator.set(faults={"init_runtime": {"1": "core mask", "2": "fail"}})
    lite = new()
    lite.load_rknn(model)
    assert lite.init_runtime(core_mask=7) == -1
    assert lite.inference(inputs=good(), data_format=FORMATS) is not None, "the real one infers all the same"
    assert lite.init_runtime() == -1
    assert lite.inference(inputs=good(), data_format=FORMATS) is None
    assert simulator.rules_broken == ["ignored -1", "inference"]


@pytest.mark.breaks_rules("rknnlite list")
@pytest.mark.parametrize("wrong", [tuple, dict, np.array])
def test_rule_5_inputs_are_a_list(simulator: RKNNSimulator, lite: Any, wrong: Any) -> None:
    given = wrong(enumerate(good())) if wrong is dict else good()[0] if wrong is np.array else tuple(good())
    assert lite.inference(inputs=given, data_format=FORMATS) is None
    assert simulator.rules_broken == ["list"]


@pytest.mark.breaks_rules("rknnlite fresh list", "rknnlite layout")
def test_rule_5_the_list_is_a_fresh_one(simulator: RKNNSimulator, lite: Any) -> None:
    given = good()
    given[1] = np.ascontiguousarray(given[1].transpose(0, 3, 1, 2))
    first = lite.inference(inputs=given, data_format="nchw")
    assert given[1].shape == (1, 8, 10, 3), "the real one replaces what it transposes"
    again = lite.inference(inputs=given, data_format="nchw")
    assert not np.array_equal(first[0], again[0])
    assert simulator.rules_broken == ["fresh list", "layout"]


@pytest.mark.parametrize(
    ("index", "shape", "rules", "answered"),
    [
        pytest.param(0, (6,), ["rank"], False, marks=pytest.mark.breaks_rules("rknnlite rank")),
        pytest.param(1, (8, 10, 3), ["rank"], False, marks=pytest.mark.breaks_rules("rknnlite rank")),
        pytest.param(0, (1, 5), ["layout"], False, marks=pytest.mark.breaks_rules("rknnlite layout")),
        pytest.param(0, (1, 7), ["layout"], True, marks=pytest.mark.breaks_rules("rknnlite layout")),
        pytest.param(0, (2, 6), ["layout"], True, marks=pytest.mark.breaks_rules("rknnlite layout")),
    ],
)
def test_rule_6_ranks_and_sizes(
    simulator: RKNNSimulator, lite: Any, index: int, shape: tuple[int, ...], rules: list[str], answered: bool
) -> None:
    given = good()
    given[index] = np.zeros(shape, np.float32)
    assert (lite.inference(inputs=given, data_format=FORMATS) is not None) == answered
    assert simulator.rules_broken == rules


@pytest.mark.breaks_rules("rknnlite input count")
@pytest.mark.parametrize("count", [2, 4])
def test_rule_6_number_of_inputs(simulator: RKNNSimulator, lite: Any, count: int) -> None:
    given = [*good(), good()[0]][:count]
    assert lite.inference(inputs=given, data_format="nchw") is None
    assert simulator.rules_broken == ["input count"]


@pytest.mark.breaks_rules("rknnlite layout")
@pytest.mark.parametrize("picture", ["NCHW passed as nhwc", "NHWC passed as nchw"])
def test_rule_7_layout_and_format_agree(simulator: RKNNSimulator, lite: Any, picture: str) -> None:
    right = lite.inference(inputs=good(), data_format=FORMATS)
    given = good()
    formats = FORMATS
    if picture == "NCHW passed as nhwc":
        given[1] = np.ascontiguousarray(given[1].transpose(0, 3, 1, 2))
    else:
        formats = ["nchw", "nchw", "nchw"]
    wrong = lite.inference(inputs=given, data_format=formats)
    assert wrong[0].shape == right[0].shape and not np.allclose(wrong[0], right[0]), "garbage, as from the real one"
    assert simulator.rules_broken == ["layout"]


@pytest.mark.breaks_rules("rknnlite no picture", "rknnlite layout")
def test_rule_8_only_pictures_are_nhwc(simulator: RKNNSimulator, lite: Any) -> None:
    right = lite.inference(inputs=good(), data_format=FORMATS)
    wrong = lite.inference(inputs=good())
    assert not np.allclose(wrong[0], right[0])
    assert simulator.rules_broken[0] == "no picture"


@pytest.mark.breaks_rules("rknnlite data_format")
@pytest.mark.parametrize("data_format", [["nchw", "nhwc"], ["nchw", "nhwc", None], "NCHW", ["NCHW"] * 3])
def test_rule_8_formats_that_rknnlite_refuses(simulator: RKNNSimulator, lite: Any, data_format: Any) -> None:
    assert lite.inference(inputs=good(), data_format=data_format) is None
    assert simulator.rules_broken == ["data_format"]


@pytest.mark.breaks_rules("rknnlite dtype")
@pytest.mark.parametrize("dtype", ["float64", "uint64", "complex64", "object", ">f4"])
def test_rule_9_dtypes(simulator: RKNNSimulator, lite: Any, dtype: str) -> None:
    given = good()
    given[0] = given[0].astype(dtype)
    assert lite.inference(inputs=given, data_format=FORMATS) is None
    assert simulator.rules_broken == ["dtype"]


@pytest.mark.breaks_rules("rknnlite finite")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rule_10_finite_inputs(simulator: RKNNSimulator, lite: Any, value: float) -> None:
    given = good()
    given[0][0, 0] = value
    assert lite.inference(inputs=given, data_format=FORMATS) is not None
    assert simulator.rules_broken == ["finite"]


@pytest.mark.breaks_rules("rknnlite in flight")
def test_rule_11_one_call_in_flight(simulator: RKNNSimulator, lite: Any) -> None:
    simulator.set(faults={"inference": {"1": "slow", "2": "slow"}})
    threads = [threading.Thread(target=lambda: lite.inference(inputs=good(), data_format=FORMATS)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert simulator.rules_broken == ["in flight"]


@pytest.mark.breaks_rules("rknnlite in flight")
def test_rule_11_no_release_during_an_inference(simulator: RKNNSimulator, lite: Any) -> None:
    simulator.set(faults={"inference": {"1": "slow"}})
    thread = threading.Thread(target=lambda: lite.inference(inputs=good(), data_format=FORMATS))
    thread.start()
    while not lite._busy.locked():
        assert thread.is_alive()
    lite.release()
    thread.join(30)
    assert simulator.rules_broken == ["in flight"]


@pytest.mark.breaks_rules("rknnlite reused output")
def test_rule_12_reused_outputs_are_read_before_the_next_call(simulator: RKNNSimulator, lite: Any) -> None:
    held = lite.inference(inputs=good(), data_format=FORMATS, reuse_outputs=True)
    assert np.isfinite(held[0]).all()
    copied = lite.inference(inputs=good(), data_format=FORMATS)
    assert np.isnan(held[0]).all() and np.isfinite(copied[0]).all()
    assert simulator.rules_broken == ["reused output"]


@pytest.mark.parametrize("fault", ["none", "nan", "zeros", "stale"])
def test_rule_13_faults_strike_at_the_call_they_are_set_for(simulator: RKNNSimulator, lite: Any, fault: str) -> None:
    simulator.set(faults={"inference": {"2": fault}})
    other = [array + 1 for array in good()]
    first, second, third = (lite.inference(inputs=list(given), data_format=FORMATS) for given in (good(), other, other))
    assert third is not None and np.isfinite(third[0]).all() and third[0].any()
    struck = {
        "none": second is None,
        "nan": second is not None and not np.isfinite(second[0]).all(),
        "zeros": second is not None and not second[0].any(),
        "stale": second is not None and np.array_equal(second[0], first[0]),
    }
    assert struck[fault] and sum(struck.values()) == 1
    assert simulator.journal == []


@pytest.mark.breaks_rules("rknnlite inference")
def test_rule_14_no_inference_after_release(simulator: RKNNSimulator, lite: Any) -> None:
    lite.release()
    assert lite.inference(inputs=good(), data_format=FORMATS) is None
    assert simulator.rules_broken == ["inference"]


@pytest.mark.breaks_rules("rknnlite release")
def test_rule_14_what_is_never_released_is_journalled_at_exit(simulator: RKNNSimulator, model: str) -> None:
    program = f"""
import sys; sys.path.insert(0, {str(LIBRARY)!r})
from rknnlite.api import RKNNLite
lite = RKNNLite(); lite.load_rknn({model!r}); lite.init_runtime()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert simulator.rules_broken == ["release"]


def test_rule_15_none_is_no_list_of_outputs(simulator: RKNNSimulator, lite: Any) -> None:
    """Who takes the result without a test gets Python's own error."""
    simulator.set(faults={"inference": {"1": "none"}})
    with pytest.raises(TypeError):
        lite.inference(inputs=good(), data_format=FORMATS)[0]


@pytest.mark.breaks_rules("rknnlite async")
def test_frames_of_the_past_are_not_for_control(simulator: RKNNSimulator, model: str) -> None:
    lite = new()
    lite.load_rknn(model)
    lite.init_runtime(async_mode=True)
    lite.release()
    assert simulator.rules_broken == ["async"]


@pytest.mark.breaks_rules("rknnlite pass through")
def test_what_passes_through_is_as_the_model_has_it(simulator: RKNNSimulator, lite: Any) -> None:
    lite.inference(inputs=good(), data_format=FORMATS, inputs_pass_through=[1, 1, 1])
    assert simulator.rules_broken == []
    given = good()
    given[1] = (given[1] * 10).astype(np.uint8)
    lite.inference(inputs=given, data_format=FORMATS, inputs_pass_through=[0, 1, 0])
    assert simulator.rules_broken == ["pass through"]

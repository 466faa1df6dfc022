"""What the preprocessor accepts, refuses and passes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.core.batch import AffineImage
from inference_service.core.engine import check_batch
from inference_service.core.errors import InvalidObservation, MissingObservation, PolicyFolderError
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.core.resize import resize_bilinear
from tests.policies import make_observation, make_plain_folder

TOP, WRIST, STATE = "observation.images.top", "observation.images.wrist", "observation.state"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> PolicyFolder:
    return PolicyFolder.load(make_plain_folder(tmp_path_factory.mktemp("policy")))


@pytest.fixture(scope="module")
def preprocessor(folder: PolicyFolder) -> TensorPreprocessor:
    return TensorPreprocessor(folder)


def test_pixels_travel_by_reference(preprocessor: TensorPreprocessor) -> None:
    observation = make_observation()
    batch = preprocessor(observation).batch
    for name in (TOP, WRIST):
        assert np.shares_memory(batch[name].pixels, observation[name])


def test_pixels_of_a_strided_view_travel_by_reference(preprocessor: TensorPreprocessor) -> None:
    bgr = make_observation()[TOP]
    batch = preprocessor(make_observation() | {TOP: bgr[:, :, ::-1]}).batch
    assert np.shares_memory(batch[TOP].pixels, bgr)


def test_the_observation_is_left_alone(preprocessor: TensorPreprocessor) -> None:
    observation = make_observation(image=(480, 640))
    before = {key: np.copy(value) for key, value in observation.items()}
    preprocessor(observation)
    assert observation.keys() == before.keys()
    assert all(np.array_equal(observation[key], before[key]) for key in before)


def test_batch_keeps_the_policys_order_of_features(folder: PolicyFolder, preprocessor: TensorPreprocessor) -> None:
    observation = dict(reversed(make_observation().items()))
    assert list(preprocessor(observation).batch) == list(folder.config.input_features)


def test_images_of_another_size_are_resized(preprocessor: TensorPreprocessor) -> None:
    observation = make_observation(image=(480, 640))
    image = preprocessor(observation).batch[TOP]
    assert isinstance(image, AffineImage)
    assert image.pixels.dtype == np.uint8
    assert np.array_equal(image.pixels, resize_bilinear(observation[TOP], 96, 128))


def test_the_context_holds_the_raw_state(preprocessor: TensorPreprocessor) -> None:
    observation = make_observation()
    context = preprocessor(observation).context
    expected = observation[STATE].copy()
    observation[STATE][:] = 0  # a robot may reuse its buffer before the answer comes
    assert np.array_equal(context["raw_state"], expected)


def test_double_precision_joint_states_become_float32(preprocessor: TensorPreprocessor) -> None:
    observation = make_observation()
    batch = preprocessor(observation | {STATE: observation[STATE].astype(np.float64)}).batch
    assert batch[STATE].dtype == np.float32
    assert np.array_equal(batch[STATE], preprocessor(observation).batch[STATE])


def test_the_prompt_becomes_a_list_of_one(tmp_path: Path) -> None:
    """Whether a family that we do not know reads it in its model, nobody can tell: it travels along."""
    preprocessor = TensorPreprocessor(PolicyFolder.load(make_plain_folder(tmp_path, type="vla_jepa")))
    assert preprocessor(make_observation() | {"task": "fold"}).batch["task"] == ["fold"]
    assert "task" not in preprocessor(make_observation()).batch


def test_a_prompt_for_a_policy_that_takes_none_is_refused(preprocessor: TensorPreprocessor) -> None:
    with pytest.raises(InvalidObservation, match=r"'task': policy type 'act' takes no prompt, got 'fold'.*Leave"):
        preprocessor(make_observation() | {"task": "fold"})
    preprocessor(make_observation() | {"task": ""})


def test_an_empty_camera_is_the_models_business(tmp_path: Path) -> None:
    cameras = ("top", "empty_camera_0")
    path = make_plain_folder(tmp_path / "some", cameras=cameras, empty_cameras=1)
    batch = TensorPreprocessor(PolicyFolder.load(path))(make_observation(cameras=("top",))).batch
    assert list(batch) == [STATE, TOP]
    path = make_plain_folder(tmp_path / "none", cameras=cameras)
    with pytest.raises(MissingObservation, match="empty_camera_0"):
        TensorPreprocessor(PolicyFolder.load(path))(make_observation(cameras=("top",)))


def test_streams_that_the_policy_does_not_know_are_ignored(preprocessor: TensorPreprocessor) -> None:
    assert "observation.images.side" not in preprocessor(make_observation() | {"observation.images.side": 3}).batch


@pytest.mark.parametrize("name", [TOP, WRIST, STATE])
@pytest.mark.parametrize("absent", ["no key", "None"])
def test_a_missing_stream_is_named(preprocessor: TensorPreprocessor, name: str, absent: str) -> None:
    observation: dict[str, Any] = make_observation()
    if absent == "None":
        observation[name] = None
    else:
        del observation[name]
    with pytest.raises(MissingObservation, match=rf"lacks '{name}'.*contract"):
        preprocessor(observation)


@pytest.mark.parametrize(
    ("family", "config", "shape"),
    [
        ("pi0", {}, (1, 3, 224, 224)),
        ("pi05", {"image_resolution": [112, 150]}, (1, 3, 112, 150)),
        ("smolvla", {"resize_imgs_with_padding": [200, 100]}, (1, 3, 100, 200)),
        ("smolvla", {"resize_imgs_with_padding": None}, (1, 3, 480, 640)),
        ("pi0", {"image_resolution": [512, 640]}, (1, 3, 480, 640)),
        ("act", {}, (1, 3, 480, 640)),
    ],
)
def test_images_are_shrunk_as_the_model_would_when_asked(
    tmp_path: Path, family: str, config: dict[str, Any], shape: tuple[int, ...]
) -> None:
    norm = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    path = make_plain_folder(tmp_path, image=(480, 640), type=family, norm=norm, **config)
    folder, observation = PolicyFolder.load(path), make_observation(image=(480, 640))
    assert TensorPreprocessor(folder)(observation).batch[TOP].shape == (1, 3, 480, 640)
    batch = TensorPreprocessor(folder, shrink_images=True)(observation).batch
    assert batch[TOP].shape == shape
    features = folder.config.input_features
    check_batch(batch, features, shape[2:])
    if shape[2:] != (480, 640):
        with pytest.raises(InvalidObservation, match="expected shape"):
            check_batch(batch, features)


def test_normalised_images_are_not_shrunk(tmp_path: Path) -> None:
    """The model would pad them with 0 after normalisation, which no pixel stands for."""
    folder = PolicyFolder.load(make_plain_folder(tmp_path, image=(480, 640), type="pi0"))
    batch = TensorPreprocessor(folder, shrink_images=True)(make_observation(image=(480, 640))).batch
    assert batch[TOP].shape == (1, 3, 480, 640)


def test_a_size_that_is_none(tmp_path: Path) -> None:
    folder = PolicyFolder.load(make_plain_folder(tmp_path, type="pi0", image_resolution=[0, 224]))
    with pytest.raises(PolicyFolderError, match="'image_resolution' must be two sizes"):
        TensorPreprocessor(folder, shrink_images=True)


IMAGE = np.zeros((96, 128, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "value", "got"),
    [
        (TOP, IMAGE.astype(np.float32), r"float32 \(96, 128, 3\)"),
        (TOP, IMAGE.transpose(2, 0, 1), r"uint8 \(3, 96, 128\)"),
        (TOP, IMAGE[..., 0], r"uint8 \(96, 128\)"),
        (TOP, np.zeros((96, 128, 4), np.uint8), r"uint8 \(96, 128, 4\)"),
        (TOP, IMAGE[:0], "empty"),
        (TOP, IMAGE.tolist(), "list"),
        (STATE, np.zeros(5, np.float32), r"\(6,\).*got float32 \(5,\)"),
        (STATE, np.zeros((1, 6), np.float32), r"float32 \(1, 6\)"),
        (STATE, np.zeros(6, np.int32), r"int32 \(6,\)"),
        (STATE, "up", "str 'up'"),
        (STATE, [0.0] * 6, "list"),
        (STATE, np.array([0, 1, np.nan, 3, np.inf, 5], np.float32), r"not finite at \[2, 4\]"),
        (STATE, np.array([0, 1e39, 2, 3, 4, 5]), r"not finite at \[1\]"),
        ("task", 3, "expected a string, got int"),
    ],
)
def test_an_invalid_value_is_named_with_what_was_expected(
    preprocessor: TensorPreprocessor, name: str, value: Any, got: str
) -> None:
    with pytest.raises(InvalidObservation, match=rf"'{name}'.*{got}"):
        preprocessor(make_observation() | {name: value})

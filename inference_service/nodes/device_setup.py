"""What a device node is started with: the robot's file and the policy, checked against each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference_service.core.batch import Feature, FeatureType
from inference_service.core.errors import PolicyMismatch
from inference_service.core.policy_config import PolicyConfig
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.reanchor import Reanchor
from inference_service.nodes.device_encodings import Encodings
from inference_service.nodes.device_handshake import Handshake, Row, rate_row, side_by_side
from inference_service.nodes.device_history import LookBack
from inference_service.nodes.device_rtc import Continuity
from robot_config import ObservationSpec, RobotConfig
from robot_config.contract import PICTURES
from robot_config.errors import RobotConfigError
from robot_config.schema import ControlMode, ModelConfig, RtcConfig

SCHEME = "engine://"
"""Beginning of a policy's path that means: the engine's, whose small files the device fetches."""
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class DeviceSetup:
    """``specs``: the streams that the policy reads, in its order. ``mode`` and ``model`` are the robot file's."""

    folder: PolicyFolder
    robot: RobotConfig
    mode: ControlMode
    model: ModelConfig | None
    specs: tuple[ObservationSpec, ...]

    @classmethod
    def check(cls, folder: PolicyFolder, robot: RobotConfig, control_mode: str) -> DeviceSetup:
        """Whether this robot can run this policy.

        Raises:
            ContractError: the policy has an input that the robot does not give.
            PolicyMismatch: they disagree in type, dimensions or rate; both lists and the lines to change.
            ConfigError: no such control mode.
        """
        mode = robot.control_mode(control_mode) if robot.control_modes else ControlMode()
        model = robot.models.get(mode.inference.model or "")
        specs = robot.contract.select(folder.config.input_features)
        problem = _misfit(folder, robot, mode, model, specs)
        if problem is not None:
            raise PolicyMismatch(problem)
        return cls(folder, robot, mode, model, specs)

    @classmethod
    def without_robot(cls, folder: PolicyFolder) -> DeviceSetup:
        """For whoever feeds observations by hand: every setting at its default."""
        return cls(folder, RobotConfig(name="none"), ControlMode(), None, ())

    @property
    def early_resize(self) -> bool:
        return self.mode.inference.early_resize

    def handshake(self) -> Handshake:
        return Handshake(
            self.folder,
            self.mode.executor.control_frequency if self.robot.control_modes else None,
            f"{self.model.where('path')}: path" if self.model else "",
            _rate_place(self.mode),
        )

    @property
    def backend_options(self) -> dict[str, str | float | int | bool]:
        """The runtime's own, for an engine in this process."""
        return dict(self.model.backend_options) if self.model else {}

    def encodings(self, logger: logging.Logger) -> Encodings:
        inference = self.mode.inference
        return Encodings(inference.encodings, logger, f"{inference.where('encodings')}: encodings")

    def look_back(self) -> LookBack:
        """As far as the policy's ``n_obs_steps`` says, one action's time apart: the policy's rate, else the robot's."""
        rate = self.folder.fps or self.mode.executor.control_frequency
        return LookBack(self.folder.config.n_obs_steps - 1, round(_SECOND_NS / rate))

    def continuity(self, logger: logging.Logger) -> Continuity:
        rtc = self.model.rtc if self.model else RtcConfig()
        return Continuity(
            rtc,
            round(_SECOND_NS / self.mode.executor.control_frequency),
            self.model.seed if self.model else None,
            Reanchor.needed(self.folder) if rtc.enabled else None,
            logger,
        )


def _misfit(
    folder: PolicyFolder,
    robot: RobotConfig,
    mode: ControlMode,
    model: ModelConfig | None,
    specs: Sequence[ObservationSpec],
) -> str | None:
    config = folder.config
    typed = model if _in_effect(folder, robot, model) else None
    rows = [*_type_row(config, typed), *_input_rows(config.input_features, robot, specs), *_action_rows(config, robot)]
    if folder.fps is not None and robot.control_modes:
        rows.append(rate_row(folder.fps, mode.executor.control_frequency, f"{_rate_place(mode)}: write {folder.fps:g}"))
    if not any(row.differs for row in rows):
        return None
    table = side_by_side(rows, "policy", "robot")
    advice = dict.fromkeys(row.advice for row in rows if row.differs)
    return "\n".join([f"{folder.path} does not fit robot {robot.name!r}:", *table, *advice])


def _rate_place(mode: ControlMode) -> str:
    return f"{mode.executor.where('control_frequency')}: control_frequency"


def _in_effect(folder: PolicyFolder, robot: RobotConfig, model: ModelConfig | None) -> bool:
    """Whether it is this model of the file that was loaded; a launch may name another directory."""
    for name, candidate in robot.models.items():
        if candidate is model:
            if candidate.path.startswith(SCHEME):
                return True
            try:
                return robot.model_path(name).samefile(folder.path)
            except (RobotConfigError, OSError):
                return False
    return False


def _type_row(config: PolicyConfig, model: ModelConfig | None) -> list[Row]:
    if model is None or model.policy_type is None:
        return []
    advice = f"{model.where('policy_type')}: write policy_type: {config.type}, or give another path"
    return [Row("policy_type", config.type, model.policy_type, advice)]


def _input_rows(features: Mapping[str, Feature], robot: RobotConfig, specs: Sequence[ObservationSpec]) -> list[Row]:
    rows = []
    for key, feature in features.items():
        streams = [spec for spec in specs if spec.key == key]
        if not streams:  # the prompt comes from no stream
            continue
        index = robot.contract.observations.index(streams[0])
        place = robot.contract.where("observations", index)
        wanted, given = _wanted(feature), _given(streams, feature)
        advice = f"{place}: {key}: give the {wanted} that the policy was trained with (type, selector.names)"
        rows.append(Row(key, wanted, given, advice))
    return rows


def _wanted(feature: Feature) -> str:
    return "picture" if feature.type is FeatureType.VISUAL else f"{feature.shape[0]} values"


def _given(streams: Sequence[ObservationSpec], feature: Feature) -> str:
    """What the streams of a key make up; where no selector says how long a vector is, the messages will tell."""
    if any(spec.type in PICTURES for spec in streams):
        return "picture"
    lengths = [len(spec.selector.names) for spec in streams if spec.selector is not None]
    return f"{sum(lengths)} values" if len(lengths) == len(streams) else f"{feature.shape[0]} values"


def _action_rows(config: PolicyConfig, robot: RobotConfig) -> list[Row]:
    if not robot.contract.actions:
        return []
    advice = f"{robot.contract.where('actions')}: name as many action.N as the policy gives, {config.action_dim}"
    return [Row("action", f"{config.action_dim} values", f"{robot.action_map().dim} values", advice)]

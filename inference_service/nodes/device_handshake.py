"""Whether device and engine hold the same policy. Asked before the first action, and for each engine that comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference_service.core.policy_folder import PolicyFolder
from inference_service.wire.card import EngineCard

RATE_TOLERANCE = 0.01
"""Rates that differ by less are the same."""


@dataclass(frozen=True)
class Row:
    """One thing that both sides say. ``advice`` is what to change where they differ."""

    name: str
    here: str
    there: str
    advice: str = ""

    @property
    def differs(self) -> bool:
        return self.here != self.there


@dataclass(frozen=True)
class Handshake:
    """What this device holds. ``rate_hz``: actions a second that are executed; None leaves rates uncompared.

    ``policy_place`` and ``rate_place`` are ``file:line: key`` of the robot's file, where the device's policy and its
    rate are written.
    """

    folder: PolicyFolder
    rate_hz: float | None = None
    policy_place: str = ""
    rate_place: str = ""

    @property
    def fingerprint(self) -> str:
        return self.folder.fingerprint

    def problem(self, card: EngineCard) -> str | None:
        """Why an engine with this card must not move this robot: both sides' lists and the line to change, over
        several lines. None where it may."""
        rows = self._rows(card)
        if not any(row.differs for row in rows):
            return None
        advice = list(dict.fromkeys(row.advice for row in rows if row.differs and row.advice))
        return "\n".join(
            [
                f"device and engine hold different policies ({card.engine_id}):",
                *side_by_side(rows, "device", "engine"),
                *_explained(rows),
                *advice,
            ]
        )

    def _rows(self, card: EngineCard) -> list[Row]:
        config = self.folder.config
        same = f"{self.policy_place or 'the policy directory'}: use the directory that the engine loaded, or engine://"
        inputs = {name: feature.shape for name, feature in config.input_features.items()}
        rows = [
            Row("policy_type", config.type, card.policy_type, same),
            Row("fingerprint", self.fingerprint, card.fingerprint, same),
            *_features(inputs, card.input_features, same),
            Row("action", _shape((config.action_dim,)), _shape((card.action_dim,)), same),
            Row("chunk_size", str(config.chunk_size), str(card.chunk_size), same),
        ]
        if card.fps is not None and self.rate_hz is not None:
            rows.append(rate_row(self.rate_hz, card.fps, f"{self.rate_place}: write {card.fps:g}"))
        return rows


def side_by_side(rows: Sequence[Row], here: str, there: str) -> list[str]:
    """A table of two columns; rows that differ are marked."""
    name = max(len(row.name) for row in rows)
    left = max(len(here), *(len(row.here) for row in rows))
    lines = [f"    {'':<{name}}  {here:<{left}}  {there}"]
    for row in rows:
        lines.append(f"  {'≠' if row.differs else ' '} {row.name:<{name}}  {row.here:<{left}}  {row.there}")
    return lines


def _features(here: Mapping[str, Sequence[int]], there: Mapping[str, Sequence[int]], advice: str) -> list[Row]:
    """One row per input of either side, with its place in the order where that differs: it is the model's."""
    names = list(dict.fromkeys((*here, *there)))
    common_here = [name for name in here if name in there]
    common_there = [name for name in there if name in here]
    ordered = common_here == common_there
    return [Row(name, _feature(name, here, ordered), _feature(name, there, ordered), advice) for name in names]


def _feature(name: str, features: Mapping[str, Sequence[int]], ordered: bool) -> str:
    if name not in features:
        return "-- none --"
    place = "" if ordered else f", input {list(features).index(name) + 1}"
    return _shape(features[name]) + place


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def rate_row(here: float, there: float, place: str) -> Row:
    """Actions a second: as the policy was trained and as they are executed, in whichever order the table has."""
    close = abs(here - there) <= RATE_TOLERANCE * there
    advice = f"{place}: one action of the policy lasts as long as one of its training data"
    return Row("actions a second", f"{there if close else here:g}", f"{there:g}", advice)


def _explained(rows: Sequence[Row]) -> list[str]:
    if [row.name for row in rows if row.differs] == ["fingerprint"]:
        return ["their inputs are alike: statistics, processor steps or another setting of config.json differ"]
    return []

"""One forward pass of each kind of LeRobot family: what ``predict_action_chunk`` gets, and what it must find."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from inference_service.backends.lerobot_families import Family, Noise
from inference_service.backends.lerobot_history import Frame, Histories, History
from inference_service.backends.lerobot_noise import flow_noise, generators, seeded
from inference_service.backends.lerobot_rtc import GuidedDenoising
from inference_service.core.policy import InferenceContext

Row: TypeAlias = dict[str, Any]
"""A batch of one on the device: tensors, and lists of one string."""


class Forward:
    """One pass over ``rows`` of equal shapes; stateless. Noise, if any, is drawn inside, from the first row's seed."""

    def __init__(self, torch: Any, policy: Any, device: Any, seed: int) -> None:
        self._torch = torch
        self._policy = policy
        self._device = device
        self._seed = seed

    def __call__(self, rows: Sequence[Row], contexts: Sequence[InferenceContext]) -> Any:
        """Normalised actions, a tensor (len(rows), chunk_size, action_dim)."""
        with seeded(self._torch, self._device, self._seeds(contexts)[0]):
            return self._policy.predict_action_chunk(self._joined(rows))

    def forget(self, session: str) -> None:
        """Drop what is remembered of ``session``."""

    def _seeds(self, contexts: Sequence[InferenceContext]) -> list[int]:
        return [self._seed if context.seed is None else context.seed for context in contexts]

    def _joined(self, rows: Sequence[Row]) -> Row:
        if len(rows) == 1:
            return rows[0]
        return {
            key: [text for row in rows for text in row[key]]
            if isinstance(first, list)
            else self._torch.cat([row[key] for row in rows])
            for key, first in rows[0].items()
        }


class SeedInBatchForward(Forward):
    """FastWAM: a generator of its own, seeded by the batch, else always by the same number of its configuration."""

    def __call__(self, rows: Sequence[Row], contexts: Sequence[InferenceContext]) -> Any:
        return self._policy.predict_action_chunk(self._joined(rows) | {"seed": self._seeds(contexts)[0]})


class DeterministicForward(Forward):
    """ACT: the chunk follows from the observation alone."""

    def __call__(self, rows: Sequence[Row], contexts: Sequence[InferenceContext]) -> Any:
        return self._policy.predict_action_chunk(self._joined(rows))


class FlowForward(Forward):
    """pi0, pi05, SmolVLA: noise from us, denoised under the guidance of what is left over."""

    def __init__(self, torch: Any, policy: Any, device: Any, seed: int, guided: GuidedDenoising) -> None:
        super().__init__(torch, policy, device, seed)
        self._guided = guided

    def __call__(self, rows: Sequence[Row], contexts: Sequence[InferenceContext]) -> Any:
        config = self._policy.config
        noise = flow_noise(self._torch, self._device, (config.chunk_size, config.max_action_dim), self._seeds(contexts))
        self._guided.aim([context.left_over for context in contexts])
        return self._policy.predict_action_chunk(self._joined(rows), noise=noise)


class GuidedForward(Forward):
    """Evo-1: draws its noise inside, one robot per pass, and denoises under the guidance of what is left over."""

    def __init__(self, torch: Any, policy: Any, device: Any, seed: int, guided: GuidedDenoising) -> None:
        super().__init__(torch, policy, device, seed)
        self._guided = guided

    def __call__(self, rows: Sequence[Row], contexts: Sequence[InferenceContext]) -> Any:
        left_over = [context.left_over for context in contexts]
        self._guided.aim(left_over)
        # It asks its hook only where it is told of a delay; the hook knows its own.
        told = {"inference_delay": 0} if any(left_over) else {}
        with seeded(self._torch, self._device, self._seeds(contexts)[0]):
            return self._policy.predict_action_chunk(self._joined(rows), **told)


class RememberingForward(Forward):
    """VQ-BeT, multi-task DiT: LeRobot's queues are filled before each call, so that they hold what ``select_action``
    would have put there, and emptied after it. What they are filled with comes with the request, and else from the
    session's history."""

    def __init__(self, torch: Any, policy: Any, device: Any, seed: int, histories: Histories) -> None:
        super().__init__(torch, policy, device, seed)
        self._histories = histories
        policy.reset()
        self._queued = [key for key in policy._queues if key != "action"]

    def __call__(self, rows: Sequence[Row], contexts: Sequence[InferenceContext]) -> Any:
        before = [self._histories.look_up(context.session, context.stamp_ns) for context in contexts]
        frames = [self._frame(row) for row in rows]
        windows = [self._window(*each) for each in zip(contexts, before, frames, strict=True)]
        try:
            self._fill(windows)
            actions, memories = self._predict(self._joined(rows) | self._joined(frames), contexts, before)
        finally:
            self._policy.reset()
        # Only now: a pass that failed leaves no trace, and may be tried again.
        for frame, context, history, memory in zip(frames, contexts, before, memories, strict=True):
            if context.earlier is not None and memory is None:
                continue  # whoever brings what it looks back on needs nothing kept
            # Stacked cameras are ours already; the rest may be the caller's memory.
            kept = {key: value if key == "observation.images" else value.clone() for key, value in frame.items()}
            self._histories.remember(context.session, kept, context.stamp_ns, history, memory)
        return actions

    def forget(self, session: str) -> None:
        self._histories.forget(session)

    def _window(self, context: InferenceContext, before: History, frame: Frame) -> list[Frame]:
        if context.earlier is not None:
            before = History(tuple(self._frame(row) for row in context.earlier))
        return self._histories.window(before, frame)

    def _frame(self, row: Row) -> Row:
        """What the queues hold of one observation, each (1, ...); cameras stacked as ``select_action`` does."""
        frame = {key: row[key] for key in self._queued if key in row}
        cameras = list(self._policy.config.image_features)
        if "observation.images" in self._queued and cameras:
            frame["observation.images"] = self._torch.stack([row[camera] for camera in cameras], dim=-4)
        return frame

    def _fill(self, windows: Sequence[Sequence[Frame]]) -> None:
        for key in windows[0][0]:
            steps = [self._torch.cat([window[step][key] for window in windows]) for step in range(len(windows[0]))]
            self._policy._queues[key] = deque(steps, maxlen=len(steps))

    def _predict(
        self, batch: Row, contexts: Sequence[InferenceContext], before: Sequence[History]
    ) -> tuple[Any, Sequence[Any]]:
        """Actions (B, T, A), and what to remember beside the observation, one per row."""
        with seeded(self._torch, self._device, self._seeds(contexts)[0]):
            return self._policy.predict_action_chunk(batch), [None] * len(contexts)


class DiffusionForward(RememberingForward):
    """Diffusion: each row's noise, the first and that of every step, from its own generator."""

    def _predict(
        self, batch: Row, contexts: Sequence[InferenceContext], before: Sequence[History]
    ) -> tuple[Any, Sequence[Any]]:
        torch, config = self._torch, self._policy.config
        drawing = generators(torch, self._device, self._seeds(contexts))
        shape = (1, config.horizon, config.action_feature.shape[0])
        dtype = next(self._policy.diffusion.parameters()).dtype
        noise = torch.cat([torch.randn(shape, dtype=dtype, device=self._device, generator=g) for g in drawing])
        with _drawing_from(self._policy.diffusion, drawing):
            return self._policy.predict_action_chunk(batch, noise=noise), [None] * len(contexts)


class PlanningForward(RememberingForward):
    """TD-MPC: remembers the mean that its last plan arrived at, and acts as ``select_action`` would on its plan."""

    def _frame(self, row: Row) -> Row:
        frame = super()._frame(row)
        if "observation.image" in self._queued:
            frame["observation.image"] = row[next(iter(self._policy.config.image_features))]
        return frame

    def _predict(
        self, batch: Row, contexts: Sequence[InferenceContext], before: Sequence[History]
    ) -> tuple[Any, Sequence[Any]]:
        policy, config = self._policy, self._policy.config
        policy._prev_mean = before[0].memory
        with seeded(self._torch, self._device, self._seeds(contexts)[0]):
            plan = policy.predict_action_chunk(batch)
        mean = policy._prev_mean
        if config.n_action_repeats > 1:
            plan = plan[:1].expand(config.n_action_repeats, -1, -1)
        return plan[: max(config.n_action_steps, config.n_action_repeats)].transpose(0, 1), [mean]


@contextlib.contextmanager
def _drawing_from(diffusion: Any, drawing: list[Any]) -> Iterator[None]:
    """LeRobot passes no generator on to its scheduler, though it could."""
    diffusion.conditional_sample = partial(diffusion.conditional_sample, generator=drawing)
    try:
        yield
    finally:
        del diffusion.conditional_sample


_REMEMBERING: Mapping[str, type[RememberingForward]] = {"diffusion": DiffusionForward, "tdmpc": PlanningForward}


def forward_of(
    torch: Any,
    policy: Any,
    device: Any,
    seed: int,
    *,
    name: str,
    family: Family,
    histories: Histories,
    guided: GuidedDenoising | None,
) -> Forward:
    """The forward pass of the family ``name``."""
    if guided is not None:
        kind_of_flow = FlowForward if family.noise is Noise.GIVEN else GuidedForward
        return kind_of_flow(torch, policy, device, seed, guided)
    if family.remembers:
        return _REMEMBERING.get(name, RememberingForward)(torch, policy, device, seed, histories)
    if family.seed_in_batch:
        return SeedInBatchForward(torch, policy, device, seed)
    kind = DeterministicForward if family.noise is Noise.NONE else Forward
    return kind(torch, policy, device, seed)

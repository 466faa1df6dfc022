"""Random numbers by request: equal seeds give equal chunks, alone or in a pass with others.

A generator seeded with N draws the numbers that LeRobot draws after ``torch.manual_seed(N)``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any


def generators(torch: Any, device: Any, seeds: Sequence[int]) -> list[Any]:
    """One generator per seed, on ``device``."""
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def flow_noise(torch: Any, device: Any, shape: tuple[int, ...], seeds: Sequence[int]) -> Any:
    """float32 (len(seeds), *shape), standard normal, each row from its own seed: LeRobot's ``sample_noise``."""
    rows = [
        torch.normal(0.0, 1.0, (1, *shape), dtype=torch.float32, device=device, generator=generator)
        for generator in generators(torch, device, seeds)
    ]
    return torch.cat(rows)


@contextlib.contextmanager
def seeded(torch: Any, device: Any, seed: int) -> Iterator[None]:
    """torch's own generators seeded inside, as they were outside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.random.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield

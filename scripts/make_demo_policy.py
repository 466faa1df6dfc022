#!/usr/bin/env python3
"""Make the demo policy: a small LeRobot ACT that sweeps the simulated SO-101 arm along a closed path.

Behaviour cloning on a synthetic motion: the arm goes round a closed curve in joint space once in eight
seconds. Joints 1 and 2 trace an ellipse, so the phase can be read from the state alone; every other
joint follows the phase. States beside the curve are labelled with a slow return to it, so the curve
attracts. Pictures take part in the computation, but the training shows random ones: the motion does not
depend on them.

Everything is made by LeRobot's own classes (config, policy, loss, processors). The backbone keeps its
random weights; its batch statistics are measured once, so its features are well scaled, and the
features of the training pictures are computed once and reused, which is what makes training take minutes.
Needs the extras ``lerobot`` and ``export``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.factory import make_pre_post_processors
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE_BYTES = 25_000_000
SEED = 7
STATE, ACTION = "observation.state", "action"
CAMERAS = ("observation.images.top", "observation.images.wrist")
IMAGE_SHAPE = (3, 96, 128)
CHUNK = 50
DT = 1 / 20  # s, the dispatcher's control period for this robot

# The path: q(phase) = CENTRE + AMPLITUDE * sin(HARMONIC * phase + SHIFT), rad. Phase 0 is the arm's home pose.
CENTRE = torch.tensor([0.0, -0.35, 0.6, 0.8, 0.0, 0.6])
AMPLITUDE = torch.tensor([0.5, 0.25, 0.3, 0.2, 0.35, 0.25])
HARMONIC = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 2.0])
SHIFT = torch.tensor([0.0, -np.pi / 2, np.pi / 2, -np.pi / 2, 0.0, 0.0], dtype=torch.float32)
PERIOD = 8.0  # s
RETURN_SPEED = 0.25  # rad/s, from beside the path back to it
JOINT_LOW = torch.tensor([-1.7, -1.7, -1.6, -1.6, -1.7, 0.0])
JOINT_HIGH = torch.tensor([1.7, 1.7, 1.6, 1.6, 1.7, 1.7])
SPEED_LIMIT = 0.8  # rad/s


def on_path(phase: Tensor) -> Tensor:
    """Joint positions (…, 6) in rad for phases (…) in rad."""
    return CENTRE + AMPLITUDE * torch.sin(HARMONIC * phase[..., None] + SHIFT)


def phase_of(state: Tensor) -> Tensor:
    """Phase (B,) in rad read from the ellipse of joints 1 and 2 of states (B, 6)."""
    scaled = (state - CENTRE) / AMPLITUDE
    return torch.atan2(scaled[:, 0], -scaled[:, 1])


def labels(state: Tensor) -> Tensor:
    """What to do from states (B, 6): joint positions (B, CHUNK, 6) for the next CHUNK control ticks."""
    ahead = DT * torch.arange(1, CHUNK + 1)
    phase = phase_of(state)
    away = (state - on_path(phase))[:, None]
    left = away.sign() * (away.abs() - RETURN_SPEED * ahead[:, None]).clamp_min(0)
    target = on_path(phase[:, None] + 2 * np.pi / PERIOD * ahead) + left
    return target.clamp(JOINT_LOW, JOINT_HIGH)


def sample_states(count: int, rng: torch.Generator) -> Tensor:
    """States (count, 6): most near the path, some well beside it, some anywhere within the limits."""
    phase = 2 * np.pi * torch.rand(count, generator=rng)
    width = torch.tensor([0.03, 0.1, 0.4])[torch.randint(3, (count, 1), generator=rng)]
    state = on_path(phase) + width * torch.randn(count, 6, generator=rng)
    anywhere = JOINT_LOW + (JOINT_HIGH - JOINT_LOW) * torch.rand(count, 6, generator=rng)
    state = torch.where(torch.rand(count, 1, generator=rng) < 0.15, anywhere, state)
    return state.clamp(JOINT_LOW, JOINT_HIGH)


def random_pictures(count: int, rng: np.random.Generator) -> Tensor:
    """Pictures (count, 3, H, W) float32 in 0..1: a shaded ground, coloured rectangles, noise."""
    _, height, width = IMAGE_SHAPE
    pictures = np.empty((count, *IMAGE_SHAPE), np.float32)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    for picture in pictures:
        ground, slope = rng.random((3, 1, 1)), rng.normal(0, 0.4, (2, 3, 1, 1))
        picture[:] = ground + slope[0] * x + slope[1] * y
        for _ in range(rng.integers(0, 9)):
            top, left = rng.integers(0, height), rng.integers(0, width)
            rows, columns = rng.integers(4, 60, 2)
            picture[:, top : top + rows, left : left + columns] = rng.random((3, 1, 1))
        picture += rng.normal(0, rng.random() * 0.1, IMAGE_SHAPE)
    return torch.from_numpy((pictures.clip(0, 1) * 255).round() / 255)


def statistics(state: Tensor, action: Tensor) -> dict[str, dict[str, Tensor]]:
    """Dataset statistics as LeRobot keeps them; pictures get ImageNet's, as LeRobot does for ACT."""

    def of(x: Tensor) -> dict[str, Tensor]:
        return {"mean": x.mean(0), "std": x.std(0), "min": x.amin(0), "max": x.amax(0), "count": torch.tensor([len(x)])}

    image = {
        "mean": torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1),
        "std": torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1),
        "min": torch.zeros(3, 1, 1),
        "max": torch.ones(3, 1, 1),
        "count": torch.tensor([len(state)]),
    }
    return {STATE: of(state), ACTION: of(action.reshape(-1, 6)), **dict.fromkeys(CAMERAS, image)}


def make_config() -> ACTConfig:
    config = ACTConfig(
        device="cpu",
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        input_features={
            STATE: PolicyFeature(FeatureType.STATE, (6,)),
            **{camera: PolicyFeature(FeatureType.VISUAL, IMAGE_SHAPE) for camera in CAMERAS},
        },
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (6,))},
        pretrained_backbone_weights=None,
        dim_model=128,
        n_heads=4,
        dim_feedforward=512,
        n_encoder_layers=2,
        n_decoder_layers=1,
        use_vae=False,
        dropout=0.0,
        push_to_hub=False,
        license="apache-2.0",
    )
    config.validate_features()
    return config


@torch.no_grad()
def measure_batch_statistics(backbone: nn.Module, pictures: Tensor) -> None:
    """Set every frozen batch norm of ``backbone`` to the statistics of ``pictures`` (normalised, NCHW), in one pass."""

    def set_statistics(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)).clamp_min(1e-2))

    norms = [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
    backbone(pictures)
    for hook in hooks:
        hook.remove()


class _Ready(nn.Module):
    """Stands in for the backbone while the inputs are feature maps already."""

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"feature_map": features}


@contextmanager
def ready_features(policy: ACTPolicy) -> Iterator[None]:
    backbone, policy.model.backbone = policy.model.backbone, _Ready()
    try:
        yield
    finally:
        policy.model.backbone = backbone


@torch.no_grad()
def picture_features(policy: ACTPolicy, preprocess: Any, pictures: Tensor) -> Tensor:
    """Feature maps (N, 512, H/32, W/32) of ``pictures``, all normalised by the policy's own preprocessor."""
    normalised = torch.cat([preprocess({CAMERAS[0]: part})[CAMERAS[0]] for part in pictures.split(32)])
    measure_batch_statistics(policy.model.backbone, normalised[:64])
    return torch.cat([policy.model.backbone(part)["feature_map"] for part in normalised.split(32)])


def train(policy: ACTPolicy, preprocess: Any, steps: int, batch_size: int) -> None:
    rng = torch.Generator().manual_seed(SEED)
    features = picture_features(policy, preprocess, random_pictures(256, np.random.default_rng(SEED)))
    learned = [p for name, p in policy.named_parameters() if not name.startswith("model.backbone.")]
    optimizer = torch.optim.AdamW(learned, lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps, pct_start=0.1)
    policy.train()
    started = time.monotonic()
    with ready_features(policy):
        for step in range(steps):
            state = sample_states(batch_size, rng)
            batch = dict(preprocess({STATE: state, ACTION: labels(state)}))
            for camera in CAMERAS:
                batch[camera] = features[torch.randint(len(features), (batch_size,), generator=rng)]
            batch["action_is_pad"] = torch.zeros(batch_size, CHUNK, dtype=torch.bool)
            loss, _ = policy.forward(batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            schedule.step()
            if step % 200 == 0 or step == steps - 1:
                print(f"step {step:5d}  L1 {loss.item():.4f}  {time.monotonic() - started:6.1f} s", flush=True)
    policy.eval()


@torch.no_grad()
def drive(policy: ACTPolicy, preprocess: Any, postprocess: Any, chunks: int, replan: int) -> Tensor:
    """Joint positions (ticks, 6) of an arm that follows perfectly, replanning every ``replan`` ticks, from home."""
    pictures = random_pictures(2 * chunks, np.random.default_rng(SEED + 1))
    driven = [on_path(torch.zeros(1))[0]]
    for i in range(chunks):
        observation = {STATE: driven[-1], CAMERAS[0]: pictures[2 * i], CAMERAS[1]: pictures[2 * i + 1]}
        actions = postprocess(policy.predict_action_chunk(preprocess(observation)))[0]
        driven.extend(actions[:replan])
    return torch.stack(driven)


def check_motion(policy: ACTPolicy, preprocess: Any, postprocess: Any) -> None:
    """Print how the policy drives an arm that follows perfectly, and refuse one that is too fast or stands still."""
    driven = drive(policy, preprocess, postprocess, chunks=40, replan=20)
    speed = (driven.diff(dim=0).abs() / DT).amax(0)
    lap = driven[-round(PERIOD / DT) :]
    span = lap.amax(0) - lap.amin(0)
    beside = (driven - on_path(phase_of(driven))).abs().amax()
    jump = (driven[1::20] - driven[:-1:20]).abs().amax()
    print("top speed  rad/s", [round(v, 2) for v in speed.tolist()])
    print("span       rad  ", [round(v, 2) for v in span.tolist()])
    print(f"beside the path at most {beside:.3f} rad; first step of a chunk at most {jump:.3f} rad")
    if speed.amax() > SPEED_LIMIT or (span < AMPLITUDE).any() or beside > 0.15:
        sys.exit("the trained policy does not follow the path: train for longer (--steps)")


def save(policy: ACTPolicy, preprocess: Any, postprocess: Any, directory: Path) -> None:
    """Write LeRobot's own files, weights in half precision."""
    directory.mkdir(parents=True, exist_ok=True)
    policy.half().save_pretrained(directory)
    policy.float()  # in place: now holds the weights as rounded on disk
    preprocess.save_pretrained(directory)
    postprocess.save_pretrained(directory)
    for file in directory.iterdir():
        file.chmod(0o644)  # safetensors writes 0600, which another user's container cannot read


def check_sizes(directory: Path) -> None:
    for file in sorted(directory.iterdir()):
        size = file.stat().st_size
        print(f"{size:>10,}  {oct(file.stat().st_mode & 0o777)}  {file.name}")
        if size > MAX_FILE_BYTES:
            sys.exit(f"{file} is larger than {MAX_FILE_BYTES:,} bytes: make the model smaller")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=ROOT / "policies" / "so101_act_demo")
    parser.add_argument("--steps", type=int, default=3000, help="training steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=48)
    arguments = parser.parse_args()

    torch.manual_seed(SEED)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = make_config()
    policy = ACTPolicy(config)
    states = sample_states(20_000, torch.Generator().manual_seed(SEED))
    preprocess, postprocess = make_pre_post_processors(config, dataset_stats=statistics(states, labels(states)))
    train(policy, preprocess, arguments.steps, arguments.batch_size)
    save(policy, preprocess, postprocess, arguments.directory)
    check_motion(policy, preprocess, postprocess)

    sys.path.insert(0, str(ROOT))
    from inference_service.export import export

    print(f"largest difference between torch and onnx: {export(arguments.directory):.2e}")
    check_sizes(arguments.directory)


if __name__ == "__main__":
    main()

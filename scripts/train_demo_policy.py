#!/usr/bin/env python3
"""Train the demo policy: a small LeRobot ACT that brings the simulated arm's finger tips to the cube.

Four stages, each seeded; the first two leave a file in --work and are skipped where it is there already:

1. Record demonstrations in the simulator (``inference_service.sim.demonstrations``).
2. Teach the backbone to see: from one picture, where the cube is. The policy shares one backbone among its cameras,
   so each picture counts. Batch norm learns here; LeRobot's backbone keeps it frozen.
3. Train the policy by behaviour cloning, on the backbone's features of the recorded pictures, computed once.
4. Save in half precision, export to ONNX, and let the result drive the arm.

The policy adds the same positions to both cameras' features, so all that tells the cameras apart is that each is
normalised by its own statistics. Some pictures are exchanged in training, and what is shown then is to go home.

Needs the extras ``lerobot``, ``export`` and ``sim``, OpenGL off screen, and less than an hour on two cores.
Whether all of it works shows in minutes, with a policy that is good for nothing: into another directory, and
``--work /tmp/trial --episodes 6 --backbone-steps 2 --steps 2 --batch-size 4``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.factory import make_pre_post_processors
from torch import Tensor, nn
from torchvision.models import resnet18

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from inference_service.export import export  # noqa: E402
from inference_service.sim.demonstrations import Frames, record  # noqa: E402

MAX_FILE_BYTES = 25_000_000
SEED = 7
STATE, ACTION = "observation.state", "action"
CAMERAS = ("observation.images.top", "observation.images.wrist")
IMAGE_SIZE = (96, 128)
CHUNK = 50
EXCHANGED = 0.2
"""Of the training samples, so many have their pictures exchanged."""
SHOWN_EVERY, EXCHANGED_EVERY = 2, 8
"""Of the recorded frames, one in so many teaches the policy its motion; one, its pictures exchanged, to go home."""
HOME = torch.tensor([0.0, -0.6, 0.9, 0.6, 0.0, 0.6])
REPORT_STEPS = 50

Pictures = dict[str, Tensor]
"""By camera: (N, 3, H, W) uint8, or their features (N, 512, H/32, W/32) float16."""


def make_config() -> ACTConfig:
    config = ACTConfig(
        device="cpu",
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        input_features={
            STATE: PolicyFeature(FeatureType.STATE, (6,)),
            **{camera: PolicyFeature(FeatureType.VISUAL, (3, *IMAGE_SIZE)) for camera in CAMERAS},
        },
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (6,))},
        pretrained_backbone_weights=None,
        dim_model=128,
        n_heads=4,
        dim_feedforward=512,
        n_encoder_layers=2,
        n_decoder_layers=1,
        use_vae=False,
        push_to_hub=False,
        license="apache-2.0",
    )
    config.validate_features()
    return config


def recorded(episodes: int, work: Path) -> Frames:
    """The demonstrations, recorded now unless they are in ``work``."""
    file = work / f"frames-{episodes}.npz"
    if not file.exists():
        np.savez(file, **asdict(record(episodes, CHUNK, IMAGE_SIZE, SEED)))
    with np.load(file) as saved:
        return Frames(**saved)


def statistics(frames: Frames, pictures: Pictures) -> dict[str, dict[str, Tensor]]:
    """Dataset statistics as LeRobot keeps them; each camera has its own, by channel, of values 0..1."""

    def of(x: Tensor, dims: tuple[int, ...]) -> dict[str, Tensor]:
        keep = len(dims) > 1
        bounds = {"min": x.amin(dims, keep).squeeze(0), "max": x.amax(dims, keep).squeeze(0)}
        mean, std = x.mean(dims, keep).squeeze(0), x.std(dims, keepdim=keep).squeeze(0)
        return {"mean": mean, "std": std, **bounds, "count": torch.tensor([len(x)])}

    actions = torch.from_numpy(frames.actions).float().reshape(-1, 6)
    seen = {camera: of(pictures[camera][::8].float() / 255, (0, 2, 3)) for camera in CAMERAS}
    return {STATE: of(torch.from_numpy(frames.state).float(), (0,)), ACTION: of(actions, (0,)), **seen}


class Normaliser:
    """(N, 3, H, W) uint8 pictures as the policy sees them: by the statistics of a camera; in training, varied a
    little in brightness and noise."""

    def __init__(self, stats: dict[str, dict[str, Tensor]], rng: torch.Generator) -> None:
        self._stats, self._rng = stats, rng

    def __call__(self, pictures: Tensor, camera: str, vary: bool) -> Tensor:
        x = pictures.float() / 255
        if vary:
            light = 1 + 0.04 * torch.randn(len(x), 1, 1, 1, generator=self._rng)
            grain = 0.03 * torch.rand(len(x), 1, 1, 1, generator=self._rng)
            x = (x * light + grain * torch.randn(x.shape, generator=self._rng)).clamp(0, 1)
        return (x - self._stats[camera]["mean"]) / self._stats[camera]["std"]

    def some(self, pictures: Tensor, camera: str, exchanged: Tensor) -> Tensor:
        """Varied; those that are ``exchanged`` (N,) bool by the other camera's statistics."""
        own, other = (self(pictures, by, vary=True) for by in (camera, CAMERAS[camera == CAMERAS[0]]))
        return torch.where(exchanged[:, None, None, None], other, own)


class Seeker(nn.Module):
    """A ResNet-18 with batch norm and heads that say of a picture where the cube is, and whether the picture is
    normalised as the other camera's."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*list(resnet18().children())[:-2])
        cells = (IMAGE_SIZE[0] // 32) * (IMAGE_SIZE[1] // 32)
        heads = {"top": 2, "wrist": 3, "exchanged": 1}
        self.heads = nn.ModuleDict(
            {name: nn.Sequential(nn.Conv2d(512, 64, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * cells, size))
             for name, size in heads.items()}
        )  # fmt: skip

    def forward(self, top: Tensor, wrist: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.body(torch.cat([top, wrist]).contiguous(memory_format=torch.channels_last))
        of_top, of_wrist = features.chunk(2)
        return self.heads["top"](of_top), self.heads["wrist"](of_wrist), self.heads["exchanged"](features)[:, 0]


def shows_cube(pictures: Tensor) -> Tensor:
    """(N,) whether a few pixels of pictures (N, 3, H, W) uint8 are as red as nothing but the cube."""
    red, green, blue = pictures.int().unbind(1)
    return (red > 2 * torch.maximum(green, blue) + 20).sum((1, 2)) >= 4


def learn_to_see(frames: Frames, pictures: Pictures, stats: Any, steps: int, batch: int) -> dict[str, Tensor]:
    """Weights of a ResNet-18's body, by torchvision's names."""
    rng = torch.Generator().manual_seed(SEED)
    normalise = Normaliser(stats, rng)
    seeker = Seeker().to(memory_format=torch.channels_last)
    places = [torch.from_numpy(x).float() for x in (frames.cube[:, :2], frames.cube_from_hand)]
    seen = [shows_cube(pictures[camera]).float()[:, None] for camera in CAMERAS]
    scales = [x[s[:, 0] > 0].std(0) for x, s in zip(places, seen, strict=True)]
    centres = [x[s[:, 0] > 0].mean(0) for x, s in zip(places, seen, strict=True)]
    optimizer = torch.optim.AdamW(seeker.parameters(), lr=1e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.5e-3, total_steps=steps, pct_start=0.15)
    watch = Watch(steps)
    for _ in range(steps):
        rows = torch.randint(len(frames.state), (batch // 2,), generator=rng)
        exchanged = torch.rand(len(rows), generator=rng) < EXCHANGED
        inputs = [normalise.some(pictures[camera][rows], camera, exchanged) for camera in CAMERAS]
        *guesses, told = seeker(*inputs)
        errors = [
            (seen[i][rows] * (guesses[i] - (places[i][rows] - centres[i]) / scales[i]).abs()).mean() for i in (0, 1)
        ]
        doubt = nn.functional.binary_cross_entropy_with_logits(told, exchanged.float().repeat(2))
        loss = sum(errors) + 0.3 * doubt
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        watch(doubt=doubt, top_mm=errors[0] * scales[0].mean() * 1e3, wrist_mm=errors[1] * scales[1].mean() * 1e3)
    return body_weights(seeker.body)


def body_weights(body: nn.Sequential) -> dict[str, Tensor]:
    """By the names that torchvision's ResNet gives its children."""
    names = [name for name, _ in resnet18().named_children()]
    weights = {f"{names[int(k.split('.')[0])]}.{k.partition('.')[2]}": v for k, v in body.state_dict().items()}
    return {k: v.clone().contiguous() for k, v in weights.items() if not k.endswith("num_batches_tracked")}


class Watch:
    """Prints means of what is shown to it, now and then."""

    def __init__(self, steps: int) -> None:
        self._steps, self._step = steps, 0
        self._seen: dict[str, list[float]] = {}
        self._started = time.monotonic()

    def __call__(self, **values: Tensor) -> None:
        self._step += 1
        for name, value in values.items():
            self._seen.setdefault(name, []).append(float(value.detach()))
        if self._step % REPORT_STEPS == 0 or self._step == self._steps:
            means = "  ".join(f"{name} {np.mean(seen):.4f}" for name, seen in self._seen.items())
            print(f"step {self._step:5d}/{self._steps}  {means}  {time.monotonic() - self._started:6.1f} s", flush=True)
            self._seen.clear()


@torch.no_grad()
def features(backbone: nn.Module, pictures: Pictures, normalise: Normaliser, exchanged: bool) -> Pictures:
    """The backbone's feature maps of every picture, in half precision."""
    norms = CAMERAS[::-1] if exchanged else CAMERAS
    found = {}
    for camera, norm in zip(CAMERAS, norms, strict=True):
        parts = (normalise(part, norm, vary=True) for part in pictures[camera].split(64))
        maps = [backbone(part.contiguous(memory_format=torch.channels_last))["feature_map"].half() for part in parts]
        found[camera] = torch.cat(maps).contiguous()
    return found


def tell_cameras_apart(policy: ACTPolicy, maps: list[Pictures]) -> None:
    """Start the policy's view of the features with one channel per camera that tells whether its picture is the other
    camera's: a logistic regression on the mean feature. Found by training alone, that takes it much longer."""
    view = policy.model.encoder_img_feat_input_proj
    for channel, camera in enumerate(CAMERAS):
        means = [kind[camera].float().mean((2, 3)) for kind in maps]
        inputs = torch.cat(means)
        wanted = torch.cat([torch.full((len(x),), float(i)) for i, x in enumerate(means)])
        centre, scale = inputs.mean(0), inputs.std(0) + 1e-3
        weights, bias = nn.Parameter(torch.zeros(512)), nn.Parameter(torch.zeros(()))
        optimizer = torch.optim.Adam([weights, bias], 1e-2)
        for _ in range(600):
            guess = (inputs - centre) / scale @ weights + bias
            loss = nn.functional.binary_cross_entropy_with_logits(guess, wanted, pos_weight=1 / wanted.mean() - 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        spread = guess.detach().std()
        with torch.no_grad():
            view.weight[channel, :, 0, 0] = weights / scale / spread
            view.bias[channel] = (bias - (centre / scale) @ weights) / spread
        print(f"{camera}: exchanged or not, {loss.item():.3f}", flush=True)


class _Ready(nn.Module):
    """Stands in for the backbone while the inputs are feature maps already."""

    def forward(self, maps: Tensor) -> dict[str, Tensor]:
        return {"feature_map": maps}


@contextmanager
def ready_features(policy: ACTPolicy) -> Iterator[None]:
    backbone, policy.model.backbone = policy.model.backbone, _Ready()
    try:
        yield
    finally:
        policy.model.backbone = backbone


def learn_to_act(policy: ACTPolicy, preprocess: Any, frames: Frames, maps: list[Pictures], arguments: Any) -> None:
    """Behaviour cloning. ``maps``: features of the pictures of every SHOWN_EVERY-th frame, and of every
    EXCHANGED_EVERY-th with the cameras exchanged."""
    rng = torch.Generator().manual_seed(SEED)
    states, actions = torch.from_numpy(frames.state).float(), torch.from_numpy(frames.actions).float()
    learned = [p for name, p in policy.named_parameters() if not name.startswith("model.backbone.")]
    optimizer = torch.optim.AdamW(learned, lr=1e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=arguments.steps, pct_start=0.1)
    watch = Watch(arguments.steps)
    policy.train()
    # Many small operations: a second thread would mostly wait for the first.
    torch.set_num_threads(1)
    with ready_features(policy):
        for _ in range(arguments.steps):
            exchanged = bool(torch.rand(1, generator=rng) < EXCHANGED)
            chosen, every = (maps[1], EXCHANGED_EVERY) if exchanged else (maps[0], SHOWN_EVERY)
            rows = torch.randint(len(chosen[CAMERAS[0]]), (arguments.batch_size,), generator=rng)
            state, action = states[rows * every], actions[rows * every]
            if exchanged:
                action = HOME.expand_as(action)
            batch = dict(preprocess({STATE: state, ACTION: action}))
            batch |= {camera: chosen[camera][rows].float() for camera in CAMERAS}
            batch["action_is_pad"] = torch.zeros(action.shape[:2], dtype=torch.bool)
            loss, _ = policy.forward(batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            schedule.step()
            watch(**{"exchanged" if exchanged else "L1": loss})
    policy.eval()
    torch.set_num_threads(len(os.sched_getaffinity(0)))


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


def train(arguments: argparse.Namespace) -> tuple[ACTPolicy, Any, Any]:
    """All that comes before saving: the policy and its two processors."""
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    frames = recorded(arguments.episodes, work)
    pictures = {
        camera: torch.from_numpy(seen).permute(0, 3, 1, 2).contiguous()
        for camera, seen in zip(CAMERAS, (frames.top, frames.wrist), strict=True)
    }
    stats = statistics(frames, pictures)
    sight = work / f"backbone-{arguments.episodes}-{arguments.backbone_steps}.pt"
    if not sight.exists():
        torch.save(learn_to_see(frames, pictures, stats, arguments.backbone_steps, arguments.backbone_batch), sight)
    config = make_config()
    policy = ACTPolicy(config)
    policy.model.backbone.load_state_dict(torch.load(sight, weights_only=True))
    preprocess, postprocess = make_pre_post_processors(config, dataset_stats=stats)
    normalise = Normaliser(stats, torch.Generator().manual_seed(SEED))
    backbone = policy.model.backbone.to(memory_format=torch.channels_last)
    shown, exchanged = ({c: x[::n] for c, x in pictures.items()} for n in (SHOWN_EVERY, EXCHANGED_EVERY))
    maps = [features(backbone, shown, normalise, False), features(backbone, exchanged, normalise, True)]
    print("features are there", flush=True)
    tell_cameras_apart(policy, maps)
    learn_to_act(policy, preprocess, frames, maps, arguments)
    backbone.to(memory_format=torch.contiguous_format)
    return policy, preprocess, postprocess


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=ROOT / "policies" / "so101_act_demo")
    parser.add_argument("--work", type=Path, default=ROOT / ".demo-training", help="what the first stages leave")
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--backbone-steps", type=int, default=1500)
    parser.add_argument("--backbone-batch", type=int, default=32, help="pictures, half of each camera")
    parser.add_argument("--steps", type=int, default=2000, help="training steps of the policy (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=48)
    arguments = parser.parse_args()

    torch.manual_seed(SEED)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    started = time.monotonic()
    save(*train(arguments), arguments.directory)
    print(f"trained in {(time.monotonic() - started) / 60:.0f} minutes")
    print(f"largest difference between torch and onnx: {export(arguments.directory):.2e}")
    check_sizes(arguments.directory)


if __name__ == "__main__":
    main()

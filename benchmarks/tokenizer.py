"""Do small moving things survive the image tokenizer? The ball of Pong and Breakout, after equal training time.

    python benchmarks/tokenizer.py --games Pong Breakout --sizes small --seconds 600
    python benchmarks/tokenizer.py --sizes full --tokenizer image_fsq --variants rarity --batch-size 32 --updates 2000

The learning rate cools down over the second half. Frames come from random play under the protocol of the preset; the
last tenth is held out. How the ball is counted: its pixels on the raw screen are those of its colour in the part of the
field where nothing else has it (Breakout: between bricks and paddle). They are resized like the frame and weigh its
pixels there. The ball's contrast is the weighted mean difference of brightness to the median of all frames. A held-out
frame contains the ball when this contrast is at least 10 of 255, and its reconstruction shows the ball when it has
between half and twice of that contrast, with the same sign, at the same place. ``chance_share`` is the share that the
reconstructions of other frames reach at that place: a ``ball_share`` means nothing where it is not far above that.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from records import merge, provenance

from worldstream.config import Config
from worldstream.environments import make_environment
from worldstream.models import choose_device
from worldstream.options import at, choose, put
from worldstream.presets import PRESETS
from worldstream.runs.estimate import peak_bytes
from worldstream.tokenizers.bundle import TokenizerBundle
from worldstream.tokenizers.lpips import LpipsConfig
from worldstream.tokenizers.perceptual import EfficientNetLite0Config, NoPerceptualConfig
from worldstream.training.learner import Learner
from worldstream.training.updates import update_tokenizers

PRESET_OF = {"small": "atari-small", "full": "atari100k"}
VARIANTS: dict[str, dict[str, Any]] = {
    "preset": {},
    "even": {"perceptual": NoPerceptualConfig(), "rarity": 0.0},
    "overlapping": {"local": False},
    "rarity": {"perceptual": NoPerceptualConfig(), "rarity": 0.5},
    "local+rarity": {"perceptual": NoPerceptualConfig(), "rarity": 0.5, "local": True, "batch_norm": False},
    "efficientnet_lite0": {"perceptual": EfficientNetLite0Config(), "rarity": 0.0},
    "efficientnet_lite0+rarity": {"perceptual": EfficientNetLite0Config(), "rarity": 0.5},
    "lpips": {"perceptual": LpipsConfig(), "rarity": 0.0},
}
LEAST_CONTRAST = 10.0
HELD_OUT = 0.1


@dataclass(frozen=True)
class Ball:
    """Where on the raw screen everything of a colour is the ball."""

    colour: tuple[int, int, int]
    rows: tuple[int, int]


BALLS = {"Pong": Ball((236, 236, 236), (35, 193)), "Breakout": Ball((200, 72, 72), (94, 188))}


@dataclass(frozen=True)
class Frames:
    """Random play."""

    pictures: np.ndarray  # (N, h, w, 3) uint8, as stored
    balls: np.ndarray  # (N, h, w) uint8, share of the ball in each pixel times 255


def play(game: str, config: Config, count: int, seed: int) -> Frames:
    """Random play of a game under the training protocol of a configuration."""
    environment = make_environment(game, config.environment, render_mode="rgb_array")
    ball, rng = BALLS[game], np.random.default_rng(seed)
    pictures, balls = [], []
    observation, _ = environment.reset(seed=seed)
    while len(pictures) < count:
        observation, _, terminated, truncated, _ = environment.step(rng.integers(environment.action_spec.sizes))
        picture = observation["observation"]
        raw = environment.render()
        mask = np.zeros(raw.shape[:2], np.uint8)
        rows = slice(*ball.rows)
        mask[rows] = 255 * (raw[rows] == ball.colour).all(-1)
        height, width, _ = picture.shape
        pictures.append(picture)
        balls.append(np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.BILINEAR)))
        if terminated or truncated:
            environment.reset()
    return Frames(np.stack(pictures), np.stack(balls))


def contrasts(pictures: np.ndarray, background: np.ndarray, balls: np.ndarray) -> np.ndarray:
    """(N,) mean difference of brightness to the background, weighted by the ball."""
    difference = pictures.mean(-1) - background
    weights = balls.astype(np.float64)
    mean: np.ndarray = (difference * weights).sum((1, 2)) / np.maximum(weights.sum((1, 2)), 1.0)
    return mean


def ball_shares(frames: Frames, decoded: np.ndarray, background: np.ndarray) -> dict[str, float]:
    """Share of the frames with a ball whose reconstruction shows it, and what chance gives."""
    true = contrasts(frames.pictures, background, frames.balls)
    contains = np.abs(true) >= LEAST_CONTRAST
    order = np.roll(np.arange(len(true)), len(true) // 2)

    def share(pictures: np.ndarray) -> float:
        found = contrasts(pictures, background, frames.balls)
        ratio = found[contains] / true[contains]
        return float(((ratio >= 0.5) & (ratio <= 2.0)).mean())

    return {
        "frames_with_ball": float(contains.sum()),
        "ball_share": share(decoded),
        "chance_share": share(decoded[order]),
        "ball_contrast": float(np.abs(true[contains]).mean()),
    }


def train(
    tokenizers: TokenizerBundle, config: Config, pictures: np.ndarray, *, seconds: float, updates: int, seed: int
) -> Iterator[dict[str, float]]:
    """Train for so many seconds, or updates where these are given; yields metrics now and then, and at the end.

    On the CPU they are seconds of one core: on a busy machine, equal wall time would not be an equal budget.
    """
    on_cpu = next(tokenizers.parameters()).device.type == "cpu"

    def clock() -> float:
        return time.process_time() / torch.get_num_threads() if on_cpu else time.monotonic()

    tokenizers.prepare_training()
    learner = Learner(tokenizers, replace(config.tokenizer_learner, cooldown=0.5, stop_steps=0))
    rng = np.random.default_rng(seed)
    began, done = clock(), 0
    while True:
        progress = done / updates if updates else (clock() - began) / seconds
        learner.schedule(1 + int(1000 * progress), 1000)
        rows = rng.integers(len(pictures), size=config.tokenizer_learner.batch_size)
        metrics = update_tokenizers(tokenizers, learner, {"observation": pictures[rows][:, None]})
        done += 1
        passed = clock() - began
        finished = done >= updates if updates else passed >= seconds
        if finished or done % 100 == 0:
            yield {"updates": done, "seconds": passed, **{name: float(value) for name, value in metrics.items()}}
        if finished:
            return


def decode(tokenizers: TokenizerBundle, pictures: np.ndarray) -> np.ndarray:
    """Reconstructions."""
    parts = []
    for start in range(0, len(pictures), 256):
        tokens = tokenizers.encode({"observation": pictures[start : start + 256]})
        parts.append(tokenizers.modalities["observation"].unload(tokenizers.decode(tokens)["observation"]))
    return np.concatenate(parts)


def measure(game: str, size: str, variant: str, options: argparse.Namespace) -> dict[str, float]:
    """Train one tokenizer and look for the ball."""
    config: Config = PRESETS[PRESET_OF[size]]()
    place = "tokenizers.by_modality.image"
    if options.tokenizer is not None:
        config = choose(config, place, options.tokenizer)
    config = put(config, place, replace(at(config, place), **VARIANTS[variant]))
    learner = config.tokenizer_learner
    learner = replace(
        learner,
        batch_size=options.batch_size or learner.batch_size,
        learning_rate=options.learning_rate or learner.learning_rate,
    )
    config = replace(config, tokenizer_learner=learner)
    frames = play(game, config, options.frames, options.seed)
    held_out = int(options.frames * (1 - HELD_OUT))
    background = np.median(frames.pictures[:: max(1, options.frames // 1000)].mean(-1), axis=0)
    torch.manual_seed(options.seed)
    specs = make_environment(game, config.environment).observation_specs
    tokenizers = TokenizerBundle(config.tokenizers, specs).to(choose_device(options.device))
    last: dict[str, float] = {}
    for last in train(
        tokenizers, config, frames.pictures[:held_out], seconds=options.seconds, updates=options.updates,
        seed=options.seed,
    ):  # fmt: skip
        if not options.quiet:
            print(json.dumps(last), flush=True)
    test = Frames(frames.pictures[held_out:], frames.balls[held_out:])
    decoded = decode(tokenizers, test.pictures)
    if options.pictures is not None:
        save_pictures(options.pictures / f"{game}-{size}-{variant}.png", test, decoded)
    error = float(np.square((decoded.astype(np.float64) - test.pictures) / 127.5).mean())
    return {
        **ball_shares(test, decoded, background),
        "squared_error": error,
        "perplexity": last["perplexity"],
        "updates": last["updates"],
        "pictures": last["updates"] * learner.batch_size,
        "training_seconds": last["seconds"],
        "seconds_per_1000_updates": 1000 * last["seconds"] / last["updates"],
    }


def save_pictures(path: Path, frames: Frames, decoded: np.ndarray) -> None:
    """Twelve held-out frames with a ball above their reconstructions, three times enlarged."""
    chosen = np.flatnonzero(frames.balls.any((1, 2)))[::7][:12]
    rows = [np.concatenate(list(pictures[chosen]), axis=1) for pictures in (frames.pictures, decoded)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows).repeat(3, axis=0).repeat(3, axis=1)).save(path)


def main() -> None:
    """Measure, and append one JSON object for each metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", choices=BALLS, nargs="+", default=list(BALLS))
    parser.add_argument("--sizes", choices=PRESET_OF, nargs="+", default=list(PRESET_OF))
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=["even", "rarity", "efficientnet_lite0"])
    parser.add_argument("--tokenizer", choices=("image_vq", "image_fsq"), help="instead of the preset's")
    parser.add_argument("--batch-size", type=int, help="instead of the preset's")
    parser.add_argument("--learning-rate", type=float, help="instead of the preset's")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=600.0, help="of training, for each; on the CPU, of one core")
    parser.add_argument("--updates", type=int, default=0, help="train for so many updates instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quiet", action="store_true", help="print nothing while training")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of reconstructions")
    parser.add_argument("--output", type=Path, help="JSON file to append to; default: print")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    records: list[dict[str, Any]] = []
    for game in options.games:
        for size in options.sizes:
            for variant in options.variants:
                records += described(game, size, variant, options, measure(game, size, variant, options))
                if options.output is not None:
                    merge(records, options.output)
    if options.output is None:
        merge(records, None)


def described(
    game: str, size: str, variant: str, options: argparse.Namespace, values: dict[str, float]
) -> list[dict[str, Any]]:
    """One record for each value, in the schema of the other benchmarks."""
    given = {
        "updates" if options.updates else "seconds": options.updates or options.seconds,
        "tokenizer": options.tokenizer,
        "batch-size": options.batch_size,
        "learning-rate": options.learning_rate,
    }
    changed = " ".join(f"--{name} {value}" for name, value in given.items() if value is not None)
    label = variant if options.tokenizer is None else f"{options.tokenizer}, {variant}"
    return [
        {
            "benchmark": "tokenizer",
            "environment": game,
            "preset": PRESET_OF[size],
            "variant": label,
            "seed": options.seed,
            "steps": options.frames,
            "metric": metric,
            "value": value,
            "episodes": 0,
            "training_seconds": values["training_seconds"],
            "peak_memory_bytes": peak_bytes(choose_device(options.device)),
            "command": f"python benchmarks/tokenizer.py --games {game} --sizes {size} --variants {variant}"
            f" --frames {options.frames} {changed} --seed {options.seed} --threads {options.threads}"
            f" --device {options.device}",
            **provenance(),
        }
        for metric, value in values.items()
    ]


if __name__ == "__main__":
    main()

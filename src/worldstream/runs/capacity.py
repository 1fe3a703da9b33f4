"""Whether there is enough memory and disk for a run, before it starts."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from worldstream.config import Config
from worldstream.errors import ConfigError
from worldstream.models import Models, num_parameters
from worldstream.replay.rows import RowFormat
from worldstream.replay.token_cache import cached_bytes_per_row

TRAINING_BYTES = 16
"""A weight, its gradient and two moments of AdamW, 4 bytes each."""
_KEPT_BYTES = 12
"""What of that a checkpoint keeps."""


@dataclass(frozen=True)
class ReplaySize:
    """Replay at the end of a run."""

    rows: int
    """Rows, one an environment step."""
    stored: int
    """Bytes of a row."""
    cached: int
    """Bytes of the tokens of a row."""

    @staticmethod
    def of(config: Config, models: Models, steps: int) -> ReplaySize:
        """Size after ``steps`` environment steps."""
        stored = RowFormat(models.key_specs, models.action_spec).bytes_per_row
        rows = min(steps, config.replay.max_steps, config.replay.max_bytes // stored)
        return ReplaySize(rows, stored, cached_bytes_per_row(models.tokenizers.specs))

    @property
    def bytes_per_row(self) -> int:
        """Bytes of a row and of its tokens."""
        return self.stored + self.cached

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows and their tokens."""
        return self.rows * self.bytes_per_row


def require_capacity(config: Config, models: Models, steps: int, output: Path) -> None:
    """Raises ConfigError, with what to lower, when replay, weights or checkpoints of a run need more than is free.

    Models are on their device; the run folder need not exist.
    """
    replay, weights = ReplaySize.of(config, models, steps), num_parameters(models)
    needed = replay.rows * replay.cached if config.replay.memory_map else replay.num_bytes
    # What is new in replay is copied while a checkpoint is written.
    needed += 2 * replay.stored * min(replay.rows, config.checkpoint.every_steps or replay.rows)
    if models.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(models.device)
        trained = "the weights, gradients and optimisers"
        _require(trained, TRAINING_BYTES * weights, free, str(models.device), "Choose smaller models")
    else:
        needed += TRAINING_BYTES * weights
    remedy = f"Lower replay.max_steps ({config.replay.max_steps}) or replay.max_bytes ({config.replay.max_bytes})"
    if (available := available_memory()) is not None:
        on_disk = f"{remedy}, or keep replay on disk with replay.memory_map"
        _require("replay, when full, and the models", needed, available, "memory", on_disk)
    kept = replay.rows * replay.stored + (config.checkpoint.keep + 2) * _KEPT_BYTES * weights
    existing = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    free, elsewhere = shutil.disk_usage(existing).free, f"{remedy}, or choose another --output"
    _require("checkpoints with replay", kept, free, f"the disk of {existing}", elsewhere)


def _require(what: str, needed: int, free: int, where: str, remedy: str) -> None:
    if needed > free:
        raise ConfigError(
            f"{what} need {needed / 1e9:.2f} GB, but {where} has {free / 1e9:.2f} GB free. {remedy}; "
            "or start anyway with --force."
        )


def available_memory() -> int | None:
    """Bytes that this process may still use, by the system and by the limit of its control group; None: unknown."""
    bounds = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        bounds += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        if "SC_PHYS_PAGES" in os.sysconf_names:  # not Linux: all there is
            bounds.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    bounds += _group_bounds()
    return min(bounds, default=None)


def _group_bounds() -> list[int]:
    """What the control group of this process, and those around it, leave to it (Linux)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    bounds = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, files = _GROUPS[bool(controllers)]
        place = top / name.lstrip("/")
        for group in (place, *place.parents):
            if not group.is_relative_to(top):
                break
            with contextlib.suppress(OSError, ValueError):  # no such file, or no limit ("max")
                limit, used, stat = ((group / file).read_text() for file in files)
                cached = sum(int(row.split()[1]) for row in stat.splitlines() if "inactive_file " in row)
                bounds.append(max(int(limit) - int(used) + cached, 0))
    return bounds


_GROUPS = {
    False: (Path("/sys/fs/cgroup"), ("memory.max", "memory.current", "memory.stat")),
    True: (Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")),
}
"""Whether the group is of the first version: where such groups are, and their limit, use and details."""

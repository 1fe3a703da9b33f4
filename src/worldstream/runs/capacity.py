"""Whether a run fits into memory and onto the disk, before it starts."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import torch

from worldstream.config import Config
from worldstream.errors import ConfigError
from worldstream.models import Models, num_parameters
from worldstream.replay.rows import RowFormat, smallest_dtype
from worldstream.specs import ActionSpec, KeySpec, TokenSpec

TRAINING_BYTES = 16
"""A weight, its gradient and two moments of AdamW, 4 bytes each."""
STAMP_BYTES = 16
"""What the token cache notes about each row."""
_KEPT_BYTES = 12
"""What of that a checkpoint keeps."""


def replay_row_bytes(
    key_specs: dict[str, KeySpec], token_specs: dict[str, TokenSpec], action_spec: ActionSpec
) -> tuple[int, int]:
    """Bytes of one environment step in replay: what is stored, and the tokens that are cached beside it."""
    stored = RowFormat(key_specs, action_spec).bytes_per_row
    return stored, sum(map(token_bytes, token_specs.values())) + STAMP_BYTES


def token_bytes(spec: TokenSpec) -> int:
    """Bytes of the cached tokens of one observation of a key."""
    return spec.num_tokens * spec.num_channels * smallest_dtype(max(spec.vocabulary)).itemsize


def replay_rows(config: Config, steps: int, row_bytes: int) -> int:
    """Environment steps that replay holds at the end of a run of ``steps``."""
    return min(steps, config.replay.max_steps, config.replay.max_bytes // row_bytes)


def require_room(config: Config, models: Models, steps: int, output: Path) -> None:
    """Raises ConfigError, with what to lower, when replay, weights or checkpoints of a run will not fit.

    Args:
        config: of the run.
        models: on their device.
        steps: planned environment steps.
        output: run folder, which need not exist.
    """
    stored, tokens = replay_row_bytes(models.key_specs, models.tokenizers.specs, models.action_spec)
    rows = replay_rows(config, steps, stored)
    in_memory = rows * (tokens if config.replay.memory_map else stored + tokens)
    in_memory += 2 * stored * min(rows, config.checkpoint.every_steps or rows)  # copies, while a checkpoint is written
    weights = num_parameters(models)
    device = models.device
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        _require("the weights, gradients and optimisers", TRAINING_BYTES * weights, free, str(device),
                 "Choose smaller models")  # fmt: skip
    else:
        in_memory += TRAINING_BYTES * weights
    remedy = f"Lower replay.max_steps ({config.replay.max_steps}) or replay.max_bytes ({config.replay.max_bytes})"
    free_memory = available_memory()
    if free_memory is not None:
        _require("replay, when full, and the models", in_memory, free_memory, "memory",
                 f"{remedy}, or keep replay on disk with replay.memory_map")  # fmt: skip
    kept = rows * stored + (config.checkpoint.keep + 2) * _KEPT_BYTES * weights
    existing = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    _require("checkpoints with replay", kept, shutil.disk_usage(existing).free, f"the disk of {existing}",
             f"{remedy}, or choose another --output")  # fmt: skip


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

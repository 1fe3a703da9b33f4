"""Replay: the newest episodes in bounded arrays, and samplers that choose what is learned from.

Three words say where something is:

    row       position in the arrays, of whatever was written there last
    serial    number of one thing that was written, never given again: it outlives eviction and growth
    segment   T consecutive rows of one episode, named by its anchor: the serial number of its first or last row

    ReplayStore ---> Anchors ---> Sampler ---> gather ---> Segments ---> TokenCache ---> Batch
    writes rows      may be       draws B      (B, T)      B, T rows     tokens of
                     drawn        anchors      rows                      their rows
                                     ^                                                     |
                                     +------------ update(anchors, values) <---------------+

Batches carry their anchors and priorities come back as (anchors, values); nothing remembers "the last sample", so
batches may be prepared ahead and rows may be evicted meanwhile.

Reading order: ``rows``, ``store``, ``segments``, ``samplers``, ``token_cache``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from worldstream.options import Between, OneOf
from worldstream.registry import Registry
from worldstream.replay.samplers import PrioritizedConfig, SamplerConfig, UniformConfig

SAMPLERS = Registry(
    "sampler",
    {
        "prioritized": "worldstream.replay.samplers:PrioritizedConfig",
        "uniform": "worldstream.replay.samplers:UniformConfig",
    },
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayConfig:
    """Bounds of replay, and what is drawn from it."""

    max_steps: Annotated[int, Between(1)] = 1_000_000
    """Environment steps kept; the oldest are dropped."""
    max_bytes: Annotated[int, Between(1, 2**53)] = 4 * 1024**3
    """Bytes of observations, actions and rewards kept."""
    memory_map: str | None = None
    """Folder of a fast disk that keeps the observations instead of memory; room for all of them is reserved at once."""
    sampler: Annotated[SamplerConfig, OneOf(SAMPLERS)] = field(default_factory=PrioritizedConfig)
    """Sampler of world-model segments; their losses are their priorities."""
    correction: Annotated[float, Between(0, 1)] = 0.0
    """Exponent of importance weights 1 / (N P) on the losses of those segments (Schaul et al. 2016, arXiv 1511.05952):
    1 undoes the bias of the draws, so that what is drawn often is not believed to be frequent; 0 leaves it."""
    start_sampler: Annotated[SamplerConfig, OneOf(SAMPLERS)] = field(default_factory=UniformConfig)
    """Sampler of the observations that imagined trajectories begin at; logarithms of mean absolute advantages are
    their priorities, so that a start is as likely as the critic was mistaken there.
    Prioritised: those from where the critic was most mistaken come back, which helps where rewards are rare."""

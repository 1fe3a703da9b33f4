"""Replay: episodes in bounded ring buffers, and samplers that give stable ids into them.

Samplers give ids, the store turns ids into data, batches carry their ids, and priorities come back as (ids, values);
nothing remembers "the last sample", so batches may be prepared ahead and rows may be evicted meanwhile.

Reading order: ``ring`` (ids and rows), ``store`` (data), ``eligibility`` (which rows may be drawn), ``samplers``,
``prioritized``, ``token_cache``.
"""

from __future__ import annotations

from worldstream.registry import Registry

SAMPLERS = Registry(
    "sampler",
    {
        "prioritized": "worldstream.replay.prioritized:PrioritizedSampler",
        "uniform": "worldstream.replay.samplers:UniformSampler",
    },
)

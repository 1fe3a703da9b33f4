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

from worldstream.registry import Registry

SAMPLERS = Registry(
    "sampler",
    {
        "prioritized": "worldstream.replay.samplers:PrioritizedSampler",
        "uniform": "worldstream.replay.samplers:UniformSampler",
    },
)

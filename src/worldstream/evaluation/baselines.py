"""What can be said of the next frame without a model: which ids a place of the block showed before, and how often one
stays. Predictions without learning, to measure a world model by.

A place is one channel of one token of one observation key; its ids are counted over all frames of some episodes::

    marginal   p(v)     = (n_v + 1 / V) / (N + 1)                   n_v of N frames showed v, one of V ids
    copy       p(v | u) = s                     where v = u         s = (stayed + 1) / (steps + 2)
                        = (1 - s) p(v) / (1 - p(u))      else       u: the id of the frame before
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldstream.specs import TokenSpec
from worldstream.types import Tokens

_HASH_SEED = 1


@dataclass(frozen=True)
class KeyStatistics:
    """How often which tokens (K, C) of one observation key occurred, and how often they stayed."""

    marginals: list[Tensor]
    """For each channel (K, V): probability of each id."""
    stays: Tensor
    """(K, C) probability that an id stays for a step."""
    seen: list[Tensor]
    """For each token: the codes (see ``_codes``) that it showed."""

    @staticmethod
    def of(spec: TokenSpec, episodes: list[Tensor]) -> KeyStatistics:
        """Count the ids (T, K, C) of episodes."""
        frames = torch.cat(episodes)
        marginals = []
        for channel, size in enumerate(spec.vocabulary):
            counts = torch.zeros(spec.num_tokens, size, dtype=torch.float64, device=frames.device)
            ids = frames[..., channel].T
            counts.scatter_add_(1, ids, torch.ones_like(ids, dtype=torch.float64))
            marginals.append((counts + 1 / size) / (len(frames) + 1))
        stayed = torch.stack([(ids[1:] == ids[:-1]).sum(0) for ids in episodes]).sum(0)
        steps = sum(len(ids) - 1 for ids in episodes)
        codes = _codes(frames)
        return KeyStatistics(
            marginals, (stayed + 1) / (steps + 2), [codes[:, k].unique() for k in range(codes.shape[1])]
        )

    def marginal_nats(self, ids: Tensor) -> Tensor:
        """(...) minus log-probability of ids (..., K, C) by their frequencies, summed over K and C."""
        return -torch.stack([p.log().sum(-1) for p in self._marginal(ids)]).sum(0)

    def copy_nats(self, ids: Tensor, before: Tensor) -> Tensor:
        """(...) minus log-probability of ids (..., K, C) after those of the frame before, summed over K and C."""
        now, then = self._marginal(ids), self._marginal(before)
        nats = torch.zeros(ids.shape[:-2], dtype=torch.float64, device=ids.device)
        for channel, marginals in enumerate(self.marginals):
            if marginals.shape[1] == 1:  # a constant is always right
                continue
            stay, same = self.stays[:, channel], ids[..., channel] == before[..., channel]
            nats -= torch.where(same, stay, (1 - stay) * now[channel] / (1 - then[channel])).log().sum(-1)
        return nats

    def known(self, ids: Tensor) -> Tensor:
        """(..., K) bool: whether the token at this place showed this id, all channels of it, before."""
        codes = _codes(ids)
        return torch.stack([torch.isin(codes[..., k], seen) for k, seen in enumerate(self.seen)], -1)

    def _marginal(self, ids: Tensor) -> list[Tensor]:
        """For each channel (..., K): the probability of the ids (..., K, C)."""
        place = torch.arange(ids.shape[-2], device=ids.device)
        return [p[place, ids[..., channel]] for channel, p in enumerate(self.marginals)]


@dataclass(frozen=True)
class PlayStatistics:
    """Statistics of every observation key, from the tokens of some episodes."""

    by_key: dict[str, KeyStatistics]

    @staticmethod
    def of(specs: dict[str, TokenSpec], episodes: list[Tokens]) -> PlayStatistics:
        """Count the ids (T, K, C) by key of episodes."""
        return PlayStatistics(
            {key: KeyStatistics.of(spec, [tokens[key] for tokens in episodes]) for key, spec in specs.items()}
        )

    def marginal_nats(self, tokens: Tokens) -> Tensor:
        """(B, T) nats of frames (B, T, K, C) by key."""
        return torch.stack([each.marginal_nats(tokens[key]) for key, each in self.by_key.items()]).sum(0)

    def copy_nats(self, tokens: Tokens) -> Tensor:
        """(B, T - 1) nats of frames 1..T - 1, each after the one before."""
        of_keys = [each.copy_nats(tokens[key][:, 1:], tokens[key][:, :-1]) for key, each in self.by_key.items()]
        return torch.stack(of_keys).sum(0)

    def valid(self, tokens: Tokens) -> Tensor:
        """(B, T) bool: whether every token of a frame was seen at its place."""
        return torch.stack([each.known(tokens[key]).all(-1) for key, each in self.by_key.items()]).all(0)


def _codes(ids: Tensor) -> Tensor:
    """(..., K) one number for the channels (..., K, C) of a token. It is a hash: two of n differing tokens share one
    with a probability of about n^2 / 2^64."""
    generator = torch.Generator().manual_seed(_HASH_SEED)
    weights = torch.randint(2**62, (ids.shape[-1],), generator=generator).to(ids.device) * 2 + 1
    return (ids * weights).sum(-1)

"""Replay as the learners read it: what is drawn, tokenized and on the device; and what they report back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from worldstream.config import Config
from worldstream.errors import ConfigError
from worldstream.models import Models
from worldstream.replay.rows import RowFormat
from worldstream.replay.samplers import Sampler
from worldstream.replay.segments import Segments, gather, is_held_out
from worldstream.replay.store import ReplayStore
from worldstream.replay.token_cache import TokenCache
from worldstream.types import Batch, Observations

MOST_REDRAWS = 64
"""Times that rows of held-out episodes are drawn again: these are at most half of all, unless one goes on for ever."""
FIT_ROWS = 20_000
"""Most observations that data-fitted tokenizers look at."""

CODED_ROWS = 64
"""Newest observations of which is logged what their tokens lose."""


class Experience:
    """Everything that was collected: stored observations, and their tokens beside them.

    ``rng`` draws the observations that tokenizers learn from.
    """

    def __init__(self, config: Config, models: Models, rng: np.random.Generator) -> None:
        replay = config.replay
        self.config, self.models, self.rng = config, models, rng
        self.store = ReplayStore(
            RowFormat(*models.specs),
            config.collection.num_environments,
            max_steps=replay.max_steps,
            max_bytes=replay.max_bytes,
            memory_map=None if replay.memory_map is None else Path(replay.memory_map),
        )
        self.cache = TokenCache(self.store, models.tokenizers.specs)

    def observations(self, batch_size: int) -> Observations:
        """Stored observations (B, 1, *shape) of the keys whose tokenizers are trained, uniformly from all of replay."""
        rows = self._trained_rows(batch_size)
        return self.store.observations(rows[:, None], self.models.tokenizers.trained_keys)

    def _trained_rows(self, count: int) -> np.ndarray:
        """(count,) random rows of episodes that are not held out, as long as there are others."""
        rows, share = self.store.ring.draw(self.rng, count), self.config.held_out.share
        for _ in range(MOST_REDRAWS if share else 0):
            held_out = is_held_out(self.store, rows, share)
            if not held_out.any():
                break
            rows[held_out] = self.store.ring.draw(self.rng, int(held_out.sum()))
        return rows

    def segments(
        self,
        sampler: Sampler,
        batch_size: int,
        length: int,
        anchor: Literal["first", "last"],
        *,
        correction: float = 0.0,
    ) -> Batch:
        """Tokenized segments of ``length`` steps, of which a sampler draws the first or the last.

        They weigh as their importance weights to the power of ``correction``.

        Raises ConfigError when there is none to draw.
        """
        if sampler.num_anchors == 0:
            context = self.config.world_model.context_length
            raise ConfigError(
                f"no episode has {context + 1} observations after {self.store.total_steps} steps, so there is nothing "
                "to learn from. Lower world_model.context_length or held_out.share, or raise replay.max_steps or "
                "start_steps of both learners."
            )
        if not correction:
            return self.batch(gather(self.store, sampler.sample(batch_size), length, anchor))
        anchors, weights = sampler.sample_weighted(batch_size)
        batch = self.batch(gather(self.store, anchors, length, anchor))
        return replace(batch, weights=torch.as_tensor(weights**correction, dtype=torch.float32).to(self.models.device))

    def batch(self, segments: Segments) -> Batch:
        """Segments with their tokens, on the device of the models."""
        device, tokenizers = self.models.device, self.models.tokenizers
        tokens = self.cache.tokens(segments.rows, int(tokenizers.version), tokenizers.encode_arrays)
        return Batch(
            anchors=segments.anchors,
            tokens={key: torch.as_tensor(array.astype(np.int64)).to(device) for key, array in tokens.items()},
            actions=torch.as_tensor(segments.actions.astype(np.int64)).to(device),
            rewards=torch.as_tensor(segments.rewards).to(device),
            terminated=torch.as_tensor(segments.terminated).to(device),
            observed=torch.as_tensor(segments.observed).to(device),
            acted=torch.as_tensor(segments.acted).to(device),
            padded=not segments.acted[:, :-1].all(),
        )

    def fit_tokenizers(self) -> None:
        """Show stored observations to the tokenizers that adapt to data."""
        if not (keys := self.models.tokenizers.adaptive_keys):
            return
        rows = self.store.ring.rows_of(self.store.ring.stored_serials())
        trained = rows[~is_held_out(self.store, rows, self.config.held_out.share)]
        rows = trained if len(trained) else rows
        if len(rows) > FIT_ROWS:
            rows = self.rng.choice(rows, FIT_ROWS, replace=False)
        self.models.tokenizers.fit(self.store.observations(rows, keys))

    def coding(self) -> dict[str, Tensor]:
        """What tokenizers that are not trained tell about themselves and the newest observations."""
        serials = self.store.ring.stored_serials()[-CODED_ROWS:]
        return self.models.tokenizers.coding(self.store.observations(self.store.ring.rows_of(serials)))

    def state_dict(self) -> dict[str, Any]:
        """The state, beside the stored rows. Tokens by networks are part of it: batched differently, the same
        observation may round to another id."""
        tokenizers = self.models.tokenizers
        return {
            "replay": self.store.state_dict(),
            "tokens": self.cache.state_dict(int(tokenizers.version)) if tokenizers.trainable else None,
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict`` and, as "rows", the parts of replay; load the models first."""
        self.store.load_state_dict(state["replay"], state["rows"])
        self.cache.clear()
        if state["tokens"] is not None:
            self.cache.load_state_dict(state["tokens"], int(self.models.tokenizers.version))
        self.rng.bit_generator.state = state["rng"]

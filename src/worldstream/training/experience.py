"""Replay as the learners read it: what is drawn, tokenized and on the device; and what they report back."""

from __future__ import annotations

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
from worldstream.replay.segments import Segments, gather
from worldstream.replay.store import ReplayStore
from worldstream.replay.token_cache import TokenCache
from worldstream.types import Batch, Observations

FIT_ROWS = 20_000
"""Most observations that data-fitted tokenizers look at."""


class Experience:
    """Everything that was collected: stored observations, and their tokens beside them.

    Args:
        config: of the run.
        models: whose tokenizers encode the observations.
        rng: draws the observations that tokenizers learn from.
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
        if len(rows) > FIT_ROWS:
            rows = self.rng.choice(rows, FIT_ROWS, replace=False)
        self.models.tokenizers.fit(self.store.observations(rows, keys))

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


class Draws:
    """What the updates of one phase learn from."""

    def draw(self) -> Any:
        """What the next update learns from."""
        raise NotImplementedError

    def learned(self, drawn: Any, priorities: Tensor | None) -> None:
        """Take back what an update found out about what was drawn: priorities (B,), where it has any."""

    def state_dict(self) -> dict[str, Any]:
        """The state; empty where there is none but that of the experience."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""


class ObservationDraws(Draws):
    """Stored observations (B, 1, *shape), uniformly from all that replay holds, for the tokenizers that are trained."""

    def __init__(self, experience: Experience, batch_size: int) -> None:
        self._experience, self._batch_size = experience, batch_size

    def draw(self) -> Observations:
        store = self._experience.store
        rows = store.ring.draw(self._experience.rng, self._batch_size)
        return store.observations(rows[:, None], self._experience.models.tokenizers.trained_keys)


class SegmentDraws(Draws):
    """Tokenized segments, each where a sampler says.

    Args:
        experience: to draw from.
        sampler: draws their anchors.
        batch_size: segments.
        length: steps of each.
        anchor: which step of a segment its anchor is.
    """

    def __init__(
        self, experience: Experience, sampler: Sampler, batch_size: int, length: int, anchor: Literal["first", "last"]
    ) -> None:
        self._experience, self.sampler, self._batch_size = experience, sampler, batch_size
        self._length, self._anchor = length, anchor

    def draw(self) -> Batch:
        store = self._experience.store
        if self.sampler.num_anchors == 0:
            context = self._experience.config.world_model.context_length
            raise ConfigError(
                f"no episode has {context + 1} observations after {store.total_steps} steps, so there is nothing to "
                "learn from. Lower world_model.context_length, or raise start_steps of both learners."
            )
        anchors = self.sampler.sample(self._batch_size)
        return self._experience.batch(gather(store, anchors, self._length, self._anchor))

    def learned(self, drawn: Batch, priorities: Tensor | None) -> None:
        if self.sampler.learns and priorities is not None:
            self.sampler.update(drawn.anchors, priorities.cpu().numpy())

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state)

"""The trainer: collect, learn the world model, learn to act inside it. The loop reads like the algorithm box."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldstream.config import Config
from worldstream.environments.factory import EnvironmentFactory
from worldstream.environments.pool import OnFault
from worldstream.environments.vector import VectorEnvironment
from worldstream.errors import ConfigError, DivergedError
from worldstream.models import Models
from worldstream.replay.rows import RowFormat
from worldstream.replay.samplers import Sampler
from worldstream.replay.segments import AnchorRule, Segments, gather
from worldstream.replay.store import ReplayStore
from worldstream.replay.token_cache import TokenCache
from worldstream.training import randomness
from worldstream.training.cadence import Cadence, Doubling, Every
from worldstream.training.collector import Collector
from worldstream.training.learner import Learner
from worldstream.training.memory import enough_memory
from worldstream.training.metrics import MetricMeans
from worldstream.training.updates import (
    SkippedUpdate,
    past_length,
    update_actor_critic,
    update_tokenizers,
    update_world_model,
)
from worldstream.types import Batch, Observations

FIT_ROWS = 20_000
"""Most observations that data-fitted tokenizers look at."""


class Trainer:
    """Owns the parts of a run and the order in which they act.

    Args:
        config: everything that decides the run.
        environment: makes those that experience is gathered in.
        seed: of environments, networks, replay and policy.
        device: where networks live.
        on_metrics: called with each record of metrics, a flat dict that holds "steps".
        on_evaluation: called with the steps when an evaluation is due.
        on_fault: called with the number of an environment and its error before it is made anew.
        on_skipped: called with each update that was skipped because its loss was not finite.
        after_step: called with the steps when all that a step brought is done, which is the moment for a checkpoint;
            True ends the run there.
    """

    def __init__(
        self,
        config: Config,
        environment: EnvironmentFactory,
        *,
        seed: int,
        device: torch.device,
        on_metrics: Callable[[dict[str, Any]], None],
        on_evaluation: Callable[[int], Any],
        on_fault: OnFault = lambda index, error: None,
        on_skipped: Callable[[SkippedUpdate], Any] = lambda update: None,
        after_step: Callable[[int], bool] = lambda steps: False,
    ) -> None:
        torch.set_num_threads(config.num_threads)
        torch.manual_seed(seed)
        streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4)]
        self.config = config
        self._frames_per_step = environment.action_repeat
        self.generator = torch.Generator(device).manual_seed(seed)
        collection = config.collection
        self.environments = VectorEnvironment(
            environment, collection.num_environments, seed, collection, on_fault=on_fault
        )
        self.clock = 0
        self.num_skipped = 0
        self._metrics = MetricMeans()
        self._on_metrics = on_metrics
        self._on_evaluation = on_evaluation
        self._on_skipped = on_skipped
        self._after_step = after_step
        self._saved_cadences: list[int] = []
        try:
            with enough_memory("models"):
                self._build(streams, device)
        except BaseException:
            self.close()
            raise

    def _build(self, streams: list[np.random.Generator], device: torch.device) -> None:
        """Models, replay and learners for the specs of the environments."""
        config, collection = self.config, self.config.collection
        specs, actions = self.environments.observation_specs, self.environments.action_spec
        self.models = Models(config, specs, actions).to(device)
        self.models.tokenizers.prepare_training()
        self.store = ReplayStore(
            RowFormat(specs, actions),
            collection.num_environments,
            max_steps=config.replay.max_steps,
            max_bytes=config.replay.max_bytes,
            memory_map=None if config.replay.memory_map is None else Path(config.replay.memory_map),
        )
        self.cache = TokenCache(self.store, self.models.tokenizers.specs)
        context = config.world_model.context_length
        replay = config.replay
        self.segment_starts = replay.sampler.build(self.store, streams[0], AnchorRule.first(context))
        self.segment_ends = replay.start_sampler.build(self.store, streams[1], AnchorRule.last(max(context - 1, 0)))
        self.collector = Collector(
            self.environments,
            self.store,
            self.models.tokenizers,
            self.models.actor_critic,
            collection,
            rng=streams[2],
            generator=self.generator,
        )
        self._fit_rng = streams[3]
        self.tokenizer_learner = Learner(self.models.tokenizers, config.tokenizer_learner)
        self.world_model_learner = Learner(self.models.world_model, config.world_model_learner)
        self.actor_critic_learner = Learner(self.models.actor_critic, config.actor_critic_learner)

    def run(self, steps: int) -> None:
        """Train until the clock shows ``steps`` environment steps, and then, without new ones, ``Config.last_step``."""
        config = self.config
        last = config.last_step(steps)
        learners = (self.tokenizer_learner, self.world_model_learner, self.actor_critic_learner)
        tokenizer_updates, world_model_updates, actor_critic_updates = (
            learner.cadence() for learner in learners
        )
        # A refit changes what ids mean: never in the second half, so that the models settle before the end.
        fit = Doubling(config.world_model_learner.start_steps, min(config.fit_until_steps, steps // 2))
        log, evaluation = Every(config.log_every_steps), Every(config.evaluation.every_steps)
        updates = [tokenizer_updates, world_model_updates, actor_critic_updates]
        self._cadences: list[Cadence] = [*updates, fit, log, evaluation]
        for cadence, saved in zip(self._cadences, self._saved_cadences, strict=False):
            cadence.load_state_dict(saved)
        while self.clock < last:
            self._advance(steps)
            clock = self.clock
            if fit.due(clock):
                self._timed("fit", self.fit_tokenizers)
            for turn in tokenizer_updates.due(clock) if self.models.tokenizers.trainable else ():
                self.tokenizer_learner.schedule(turn, last)
                self._timed("tokenizers", self.update_tokenizers)
            for turn in world_model_updates.due(clock):
                self.world_model_learner.schedule(turn, last)
                self._timed("world_model", self.update_world_model)
            for turn in actor_critic_updates.due(clock):
                self.actor_critic_learner.schedule(turn, last)
                self._timed("actor_critic", self.update_actor_critic)
            if log.due(clock) or clock >= last:
                self.log(clock)
            if evaluation.due(clock):
                self._on_evaluation(clock)
            if self._after_step(clock):
                return

    def _advance(self, steps: int) -> None:
        """Step the environments and the clock; after the last environment step, the clock alone."""
        if self.collector.steps >= steps:
            self.clock += 1
            return
        for episode in self._timed("collect", self.collector.step):
            self._metrics.add("episode", episode)
        self.clock = self.collector.steps

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the run goes on, beside the rows of replay; from within ``after_step``.

        Tokens by networks are part of it: batched differently, the same observation may round to another id.
        """
        tokenizers = self.models.tokenizers
        version = int(tokenizers.version)
        return {
            "clock": self.clock,
            "models": dict(self.models.state_dict()),
            "tokenizer_learner": self.tokenizer_learner.state_dict(),
            "world_model_learner": self.world_model_learner.state_dict(),
            "actor_critic_learner": self.actor_critic_learner.state_dict(),
            "replay": self.store.state_dict(),
            "tokens": self.cache.state_dict(version) if tokenizers.trainable else None,
            "segment_starts": self.segment_starts.state_dict(),
            "segment_ends": self.segment_ends.state_dict(),
            "collector": self.collector.state_dict(),
            "cadences": [cadence.state_dict() for cadence in self._cadences],
            "metrics": self._metrics.state_dict(),
            "num_skipped": self.num_skipped,
            "fit_rng": self._fit_rng.bit_generator.state,
            "random": randomness.capture(self.generator),
            "process_random": randomness.capture_process(),
        }

    def load_state_dict(self, state: dict[str, Any], replay: Iterable[dict[str, np.ndarray]]) -> int:
        """Continue from ``state_dict`` and the parts of replay, in a trainer that was made with the same arguments.

        Returns:
            number of episodes that had to be closed as truncated; see ``Collector.load_state_dict``.

        Raises ConfigError for the replay of another environment.
        """
        self.clock = int(state["clock"])
        self.models.load_state_dict(state["models"])
        self.tokenizer_learner.load_state_dict(state["tokenizer_learner"])
        self.world_model_learner.load_state_dict(state["world_model_learner"])
        self.actor_critic_learner.load_state_dict(state["actor_critic_learner"])
        self.store.load_state_dict(state["replay"], replay)
        self.cache.clear()
        if state["tokens"] is not None:
            self.cache.load_state_dict(state["tokens"], int(self.models.tokenizers.version))
        self.segment_starts.load_state_dict(state["segment_starts"])
        self.segment_ends.load_state_dict(state["segment_ends"])
        closed = self.collector.load_state_dict(state["collector"])
        self._saved_cadences = state["cadences"]
        self._metrics.load_state_dict(state["metrics"])
        self.num_skipped = int(state["num_skipped"])
        self._fit_rng.bit_generator.state = state["fit_rng"]
        randomness.restore(state["random"], self.generator)
        randomness.restore_process(state["process_random"])
        return closed

    def fit_tokenizers(self) -> None:
        """Show stored observations to the tokenizers that adapt to data."""
        keys = self.models.tokenizers.adaptive_keys
        if not keys:
            return
        rows = self.store.ring.rows_of(self.store.ring.stored_serials())
        if len(rows) > FIT_ROWS:
            rows = self._fit_rng.choice(rows, FIT_ROWS, replace=False)
        self.models.tokenizers.fit(self.store.observations(rows, keys))

    def tokenized(self, segments: Segments) -> Batch:
        """Segments with their tokens, on the device."""
        device = self.models.device
        tokenizers = self.models.tokenizers
        tokens = self.cache.tokens(segments.rows, int(tokenizers.version), tokenizers.encode_arrays)
        return Batch(
            anchors=segments.anchors,
            tokens={key: torch.as_tensor(ids.astype(np.int64)).to(device) for key, ids in tokens.items()},
            actions=torch.as_tensor(segments.actions.astype(np.int64)).to(device),
            rewards=torch.as_tensor(segments.rewards).to(device),
            terminated=torch.as_tensor(segments.terminated).to(device),
            observed=torch.as_tensor(segments.observed).to(device),
            acted=torch.as_tensor(segments.acted).to(device),
            padded=not segments.acted[:, :-1].all(),
        )

    def update_tokenizers(self) -> None:
        """One gradient step of the tokenizers on observations drawn uniformly from replay."""
        rows = self.store.ring.draw(self._fit_rng, self.config.tokenizer_learner.batch_size)
        observations = self.store.observations(rows[:, None], self.models.tokenizers.trained_keys)
        random = randomness.capture(self.generator)
        metrics = update_tokenizers(self.models.tokenizers, self.tokenizer_learner, observations)
        self._succeeded("tokenizers", observations, random, metrics)

    def update_world_model(self) -> None:
        """One gradient step on replayed segments; their losses become their priorities."""
        anchors = self._sample(self.segment_starts, self.config.world_model_learner.batch_size)
        batch = self.tokenized(gather(self.store, anchors, self.config.segment_length, "first"))
        random = randomness.capture(self.generator)
        metrics, priorities = update_world_model(self.models, self.world_model_learner, batch)
        if self._succeeded("world_model", batch, random, metrics):
            self.segment_starts.update(batch.anchors, priorities.cpu().numpy())

    def update_actor_critic(self) -> None:
        """One gradient step on trajectories imagined from observations of replay."""
        anchors = self._sample(self.segment_ends, self.config.actor_critic_learner.batch_size)
        batch = self.tokenized(gather(self.store, anchors, past_length(self.config.imagination) + 1, "last"))
        random = randomness.capture(self.generator)
        metrics, priorities = update_actor_critic(
            self.models, self.actor_critic_learner, batch, self.config, self.generator
        )
        if self._succeeded("actor_critic", batch, random, metrics) and self.segment_ends.learns:
            self.segment_ends.update(batch.anchors, priorities.cpu().numpy())

    def _succeeded(
        self, component: str, batch: Batch | Observations, random: dict[str, Any], metrics: dict[str, Tensor]
    ) -> bool:
        """Count an update, or report that it was skipped. Raises DivergedError beyond the limit.

        This reads one number from the device, once an update.
        """
        if bool(metrics["gradient_norm"].isfinite()):
            self._metrics.add(component, metrics)
            return True
        self.num_skipped += 1
        values = {name: float(value) for name, value in metrics.items()}
        steps = self.clock
        self._on_skipped(SkippedUpdate(component, steps, self.num_skipped, batch, random, values))
        if self.num_skipped > self.config.max_skipped_updates:
            raise DivergedError(
                f"the loss or the gradient of the {component} is not finite after {steps} steps, and "
                f"{self.num_skipped} updates were skipped for that reason (max_skipped_updates is "
                f"{self.config.max_skipped_updates}). "
                f"Lower {component.rstrip('s')}_learner.learning_rate, or look at the range of rewards and "
                "observations."
            )
        return False

    def _sample(self, sampler: Sampler, batch_size: int) -> np.ndarray:
        if sampler.num_anchors == 0:
            context = self.config.world_model.context_length
            raise ConfigError(
                f"no episode has {context + 1} observations after {self.collector.steps} steps, so there is nothing to "
                "learn from. Lower world_model.context_length, or raise start_steps of both learners."
            )
        return sampler.sample(batch_size)

    def log(self, clock: int) -> None:
        """Read the metrics from the device and report them."""
        totals = {
            "replay/steps": self.store.num_steps,
            "replay/bytes": self.store.num_bytes,
            "faults/restarted_environments": self.environments.num_restarts,
            "faults/skipped_updates": self.num_skipped,
        }
        taken = {"environment_steps": self.collector.steps, "frames": self.collector.steps * self._frames_per_step}
        self._on_metrics({"steps": clock, **taken, **self._metrics.pop(), **totals})

    def close(self) -> None:
        """Close the environments."""
        self.environments.close()

    def _timed(self, name: str, part: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        with enough_memory(name):
            result = part()
        self.note_seconds(name, time.perf_counter() - began)
        return result

    def note_seconds(self, name: str, seconds: float) -> None:
        """Add to the metrics how long something took."""
        self._metrics.add("seconds", {name: seconds})

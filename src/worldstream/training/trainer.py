"""The trainer: collect, learn the world model, learn to act inside it. The loop reads like the algorithm box."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldstream.environments.vector import VectorEnvironment
from worldstream.errors import DivergedError
from worldstream.models import Models
from worldstream.training.cadence import Doubling, Every
from worldstream.training.collector import Collector
from worldstream.training.events import Events, SkippedUpdate
from worldstream.training.experience import Experience
from worldstream.training.experiment import Experiment
from worldstream.training.held_out import HeldOut
from worldstream.training.memory import MODEL_SETTINGS, enough_memory
from worldstream.training.metrics import MetricMeans
from worldstream.training.phases import PHASES, Phase
from worldstream.training.randomness import RandomState, random_stream


class Trainer:
    """Owns the parts of a run and the order in which they act; ``events`` is told what happens."""

    def __init__(self, experiment: Experiment, events: Events | None = None) -> None:
        config, seed = experiment.config, experiment.seed
        torch.set_num_threads(config.num_threads)
        torch.manual_seed(seed)
        self.experiment, self.config = experiment, config
        self.events = events or Events()
        self.clock = self.num_skipped = 0
        self.within_step = False  # left between two updates
        collection = config.collection
        self.environments = VectorEnvironment(
            experiment.environment, collection.num_environments, seed, collection, on_fault=self.events.incident
        )
        try:
            with enough_memory("models", MODEL_SETTINGS):
                self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        """Everything but the environments: models, replay, phases, and when what else happens."""
        config, experiment, seed = self.config, self.experiment, self.experiment.seed
        generator = torch.Generator(experiment.device).manual_seed(seed)
        self.models = Models(config, *self.environments.specs).to(experiment.device)
        needed = [phase for phase in PHASES.values() if phase.is_needed(self.models)]
        self.phases = [phase(config, self.models, generator) for phase in needed]
        self.experience = Experience(config, self.models, random_stream(seed, 3))
        for phase in self.phases:
            phase.learn_from(self.experience, seed)
        rng, store = random_stream(seed, 2), self.experience.store
        self.collector = Collector(
            self.environments, store, self.models, config.collection, rng=rng, generator=generator
        )
        self.held_out = HeldOut(config, self.experience, self.phases, seed)
        self.random = RandomState(generator)
        self.metrics = MetricMeans()
        # A refit changes what tokens mean: none in the second half, so that the models settle before the end.
        self.fit = Doubling(config.world_model_learner.start_steps, min(config.fit_until_steps, experiment.steps // 2))
        self.log, self.evaluation = Every(config.log_every_steps), Every(config.evaluation.every_steps)

    def run(self) -> None:
        """Train until the clock shows the last step, or ``events`` say that it is enough: after a step or an update."""
        last = self.experiment.last_step
        while self.clock < last or self.within_step:
            clock = self.clock if self.within_step else self.collect()
            self.within_step = True
            if self.fit.due(clock):
                with self.timed("fit", "replay.max_steps"):
                    self.experience.fit_tokenizers()
            for phase in self.phases:
                for turn in phase.cadence.due(clock):
                    with self.timed(phase.name, phase.memory_settings):
                        self.metrics.add(phase.name, self.update(phase, turn))
                    if self.events.after_update():
                        return
            if self.held_out.due():
                with self.timed("held_out", "world_model_learner.batch_size or segment_length"):
                    self.metrics.add("held_out", self.held_out.measure())
            if self.log.due(clock) or clock >= last:
                self.events.metrics(self.pop_metrics())
            if self.evaluation.due(clock):
                self.events.evaluate(clock)
            self.within_step = False
            if self.events.after_step(clock):
                return

    def collect(self) -> int:
        """Step the environments and the clock; after the last environment step, the clock alone. Returns the clock."""
        if self.collector.steps >= self.experiment.steps:
            self.clock += 1
            return self.clock
        with self.timed("collect", "collection.num_environments, replay.max_steps or replay.max_bytes"):
            episodes = self.collector.step()
        for episode in episodes:
            self.metrics.add("episode", episode)
        if self.clock < self.config.collection.random_steps <= self.collector.steps:
            for verdict in filter(None, (tokenizer.verdict() for tokenizer in self.models.tokenizers.by_key.values())):
                self.events.unsuited(verdict)
        self.clock = self.collector.steps
        return self.clock

    def update(self, phase: Phase, turn: float) -> dict[str, Tensor]:
        """One gradient step of a phase, at the learning rate of the steps at which its turn began.

        Returns metrics, () each; none when the update was skipped. Raises DivergedError when too many were.
        """
        phase.learner.schedule(turn, self.experiment.last_step)
        drawn = phase.draw()
        random = self.random.networks()
        metrics, priorities = phase.update(drawn)
        if bool(metrics["gradient_norm"].isfinite()):  # the one number that an update reads from the device
            phase.learned(drawn, priorities)
            return metrics
        self.num_skipped += 1
        values = {name: float(value) for name, value in metrics.items()}
        self.events.skipped(SkippedUpdate(phase.name, self.clock, self.num_skipped, drawn, random, values))
        if self.num_skipped > self.config.max_skipped_updates:
            raise DivergedError(
                f"the loss or the gradient of the {phase.name} is not finite after {self.clock} steps, and "
                f"{self.num_skipped} updates were skipped for that reason (max_skipped_updates is "
                f"{self.config.max_skipped_updates}). Lower {phase.settings}.learning_rate, or look at the "
                "range of rewards and observations."
            )
        return {}

    def pop_metrics(self) -> dict[str, Any]:
        """The record of everything since the last one; this reads the device."""
        steps, store = self.collector.steps, self.experience.store
        return {
            "steps": self.clock,
            "environment_steps": steps,
            "frames": steps * self.experiment.environment.action_repeat,
            **self.metrics.pop(),
            **{f"tokenizers/{name}": float(value) for name, value in self.experience.coding().items()},
            "replay/steps": store.num_steps,
            "replay/bytes": store.num_bytes,
            "faults/restarted_environments": self.environments.num_restarts,
            "faults/skipped_updates": self.num_skipped,
        }

    @property
    def num_updates(self) -> int:
        """Updates of all phases so far."""
        return sum(phase.cadence.mark for phase in self.phases)

    @property
    def _parts(self) -> dict[str, Any]:
        """Whatever has a state, in the order in which it is loaded: some states go into those before."""
        others = ("collector", "fit", "log", "evaluation", "held_out", "metrics", "random")
        return {
            "models": self.models,
            "experience": self.experience,
            **{phase.name: phase for phase in self.phases},
            **{name: getattr(self, name) for name in others},
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the run goes on, beside the rows of replay; after a step or an update."""
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        return {"clock": self.clock, "num_skipped": self.num_skipped, "within_step": self.within_step, **parts}

    def load_state_dict(self, state: dict[str, Any], rows: Iterable[dict[str, np.ndarray]]) -> int:
        """Continue from ``state_dict`` and the parts of replay, in a trainer of the same experiment.

        Returns the number of episodes that had to be closed as truncated; see ``Collector.load_state_dict``. Raises
        ConfigError for the replay of another environment.
        """
        state = {**state, "experience": {**state["experience"], "rows": rows}}
        self.clock, self.num_skipped = int(state["clock"]), int(state["num_skipped"])
        self.within_step = bool(state["within_step"])
        loaded = {name: part.load_state_dict(state[name]) for name, part in self._parts.items()}
        return int(loaded["collector"])

    def close(self) -> None:
        """Close the environments."""
        self.environments.close()

    @contextmanager
    def timed(self, part: str, settings: str) -> Iterator[None]:
        """Add to the metrics how long a part of the run took; where memory runs out, its settings are named."""
        began = time.perf_counter()
        with enough_memory(part, settings):
            yield
        self.metrics.add("seconds", {part: time.perf_counter() - began})

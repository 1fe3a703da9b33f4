"""Small replay stores for tests, and fake clocks that drive them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldstream.replay.rows import RowFormat
from worldstream.replay.segments import AnchorRule
from worldstream.replay.store import ReplayStore
from worldstream.specs import ActionComponent, ActionSpec, KeySpec

Shapes = dict[str, tuple[tuple[int, ...], str]]


def row_format(shapes: Shapes | None = None, num_action_tokens: int = 1) -> RowFormat:
    """Rows of the given keys, or of one number "x", and actions of tokens with 256 values."""
    shapes = {"x": ((), "int64")} if shapes is None else shapes
    keys = {
        key: KeySpec(key=key, modality="vector", shape=shape, dtype=dtype) for key, (shape, dtype) in shapes.items()
    }
    sizes = (256,) * num_action_tokens
    component = ActionComponent(path="action", kind="multi_discrete", sizes=sizes, shape=(len(sizes),), dtype="int64")
    return RowFormat(keys, ActionSpec(components=(component,), structure="action"))


def make_store(num_environments: int = 1, max_steps: int = 1000, **options: Any) -> ReplayStore:
    """Rows of one number "x" and actions of one token."""
    return ReplayStore(row_format(), num_environments, max_steps, **options)


def extend(store: ReplayStore, num_steps: int, episode: int = 10) -> None:
    """Steps in all environments; an episode is truncated after ``episode`` of them."""
    num_environments = store.num_environments
    observations = {"x": np.arange(num_environments)}
    no = np.zeros(num_environments, np.bool_)
    for step in range(num_steps):
        if step % episode == 0:
            store.start(observations)
        actions = np.zeros((num_environments, 1), np.int64)
        store.append(actions, np.zeros(num_environments), no, no | (step % episode == episode - 1), observations)


def anchors_of(store: ReplayStore, rule: AnchorRule) -> np.ndarray:
    """All anchors by the definition, increasing."""
    serials = store.ring.stored_serials()
    return serials[rule.accepts(store, serials)]


def make_clock_store(num_environments: int = 3, max_steps: int = 60, **options: Any) -> ReplayStore:
    """Rows as a ``Clock`` writes them."""
    shapes: Shapes = {"clock": ((3,), "int32"), "pixel": ((1,), "uint8")}
    return ReplayStore(row_format(shapes, num_action_tokens=2), num_environments, max_steps, **options)


def play(store: ReplayStore, length: int, terminated: bool, truncated: bool) -> None:
    """One episode in a clock store with one environment."""
    end, no = np.array([True]), np.array([False])
    observations = {"clock": np.zeros((1, 3), np.int32), "pixel": np.zeros((1, 1), np.uint8)}
    store.start(observations, end)
    for t in range(length):
        last = t == length - 1
        ends = (end if last and terminated else no, end if last and truncated else no)
        store.append(np.ones((1, 2), np.int64), np.ones(1, np.float32), *ends, observations)


@dataclass
class Clock:
    """Drives a store with N fake clocks: observation = (environment, episode, steps since its start)."""

    store: ReplayStore
    seed: int = 0
    mean_length: float = 5.0
    history: list[list[dict]] = field(default_factory=list)  # per environment: all rows ever written

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.history = [[] for _ in range(self.store.num_environments)]
        self.clock = np.zeros((self.store.num_environments, 3), np.int32)
        self.clock[:, 0] = np.arange(self.store.num_environments)
        self.needs_start = np.ones(self.store.num_environments, np.bool_)

    def _record(self, where: np.ndarray, terminal: np.ndarray) -> None:
        for environment in np.flatnonzero(where):
            row = {"clock": tuple(self.clock[environment]), "acted": False, "terminal": bool(terminal[environment])}
            self.history[environment].append(row)

    def observation(self) -> dict[str, np.ndarray]:
        return {"clock": self.clock.copy(), "pixel": (self.clock[:, 2:] % 256).astype(np.uint8)}

    def run(self, num_steps: int, abandon: float = 0.2) -> Clock:
        """Random episode ends, and episodes that are abandoned without an end."""
        num_environments = self.store.num_environments
        for _ in range(num_steps):
            begin = self.needs_start | (self.rng.random(num_environments) < abandon)
            self.clock[begin, 1] += 1
            self.clock[begin, 2] = 0
            self.store.start(self.observation(), begin)
            self._record(begin, np.zeros(num_environments, np.bool_))
            self.step()
        return self

    def step(self) -> None:
        num_environments = self.store.num_environments
        ends = self.rng.random((2, num_environments)) < 0.5 / self.mean_length
        actions = self.rng.integers(1, 9, (num_environments, 2))
        rewards = self.rng.random(num_environments).astype(np.float32)
        for environment, rows in enumerate(self.history):
            facts = {"action": tuple(actions[environment]), "ends": tuple(ends[:, environment])}
            rows[-1].update(facts, reward=rewards[environment], acted=True)
        self.clock[:, 2] += 1
        self.store.append(actions, rewards, *ends, self.observation())
        self._record(np.ones(num_environments, np.bool_), ends[0])
        self.needs_start = ends.any(0)

    def stored(self) -> Iterator[tuple[int, dict]]:
        """(serial number, row) of what the store must still keep."""
        num_environments = self.store.num_environments
        for environment, rows in enumerate(self.history):
            for number in range(max(0, len(rows) - self.store.ring.capacity // num_environments), len(rows)):
                yield number * num_environments + environment, rows[number]

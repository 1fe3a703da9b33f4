"""Token cache: never stale, and each observation is encoded once per version."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_replay import make_store
from worldstream.replay.segments import gather
from worldstream.replay.store import ReplayStore
from worldstream.replay.token_cache import TokenCache
from worldstream.specs import TokenSpec

SPECS = {
    "small": TokenSpec(num_tokens=2, vocabulary=(256, 100)),
    "large": TokenSpec(num_tokens=1, vocabulary=(60_000,)),
    "huge": TokenSpec(num_tokens=1, vocabulary=(100_000,)),
}


class CountingTokenizer:
    """Tokens that show the observation and the version; remembers what it was given."""

    def __init__(self) -> None:
        self.version = 0
        self.encoded: list[tuple[int, int]] = []

    def expected(self, x: np.ndarray) -> dict[str, np.ndarray]:
        value = x.astype(np.int64) + 7 * self.version
        small = np.stack([value % 256, value % 100], axis=-1)[..., None, :].repeat(2, axis=-2)
        return {"small": small, "large": value[..., None, None], "huge": value[..., None, None] + 30_000}

    def __call__(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = observations["x"]
        self.encoded += [(self.version, int(value)) for value in x]
        return self.expected(x)


def extend(store: ReplayStore, num_steps: int, clock: int) -> int:
    """Observations 0, 1, 2, ... over all environments and episodes, so that each occurs once."""
    num_environments = store.num_environments
    no = np.zeros(num_environments, np.bool_)
    for step in range(num_steps):
        observations = {"x": clock + np.arange(num_environments)}
        clock += num_environments
        if step % 5 == 0:
            store.start(observations)
        else:
            store.append(np.zeros((num_environments, 1), np.int64), np.zeros(num_environments), no, no, observations)
    return clock


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), num_environments=st.integers(1, 3), rows=st.integers(3, 30))
def test_fresh_and_encoded_once(seed: int, num_environments: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    store = make_store(num_environments, rows * num_environments)
    cache, tokenizer, clock = TokenCache(store, SPECS), CountingTokenizer(), 0
    for _ in range(20):
        clock = extend(store, int(rng.integers(1, 8)), clock)
        tokenizer.version += int(rng.random() < 0.2)
        segments = gather(store, rng.choice(store.ring.stored_serials(), 4), 5, "first")
        tokens = cache.tokens(segments.rows, tokenizer.version, tokenizer)
        expected = tokenizer.expected(store.observations(segments.rows)["x"])
        for key, spec in SPECS.items():
            assert tokens[key].shape == (4, 5, spec.num_tokens, spec.num_channels)
            np.testing.assert_array_equal(tokens[key], expected[key])
    assert len(tokenizer.encoded) == len(set(tokenizer.encoded))


def test_smallest_dtypes_and_growth() -> None:
    store = make_store(1, 10_000)
    cache, tokenizer = TokenCache(store, SPECS), CountingTokenizer()
    assert cache._tokens.num_bytes == 0
    extend(store, 10, 0)
    tokens = cache.tokens(np.arange(10), 0, tokenizer)
    assert {key: array.dtype.name for key, array in tokens.items()} == {
        "small": "uint8", "large": "uint16", "huge": "int32",
    }  # fmt: skip
    few = cache._tokens.num_bytes
    extend(store, 5_000, 10)
    cache.tokens(np.array([5_000, 3]), 0, tokenizer)
    assert cache._tokens.num_bytes > 2 * few
    assert len(tokenizer.encoded) == 11  # row 3 was kept over the growth


def test_clear_forgets() -> None:
    store = make_store(1, 100)
    cache, tokenizer = TokenCache(store, SPECS), CountingTokenizer()
    extend(store, 4, 0)
    cache.tokens(np.arange(4), 0, tokenizer)
    cache.clear()
    cache.tokens(np.arange(4), 0, tokenizer)
    assert len(tokenizer.encoded) == 8


def test_tokens_survive_a_checkpoint() -> None:
    """Fresh tokens come back as they were, even where encoding anew would give others; stale ones do not."""
    store = make_store(2, 12)
    cache, tokenizer = TokenCache(store, SPECS), CountingTokenizer()
    clock = extend(store, 4, 0)
    cache.tokens(store.ring.rows_of(store.ring.stored_serials()), 0, tokenizer)
    extend(store, 5, clock)  # the ring wraps: some tokens are of observations that are gone
    tokenizer.version = 1
    fresh = store.ring.rows_of(store.ring.stored_serials()[::2])
    tokens = cache.tokens(fresh, 1, tokenizer)
    saved = cache.state_dict(1)
    again, other = TokenCache(store, SPECS), CountingTokenizer()
    again.load_state_dict(saved, 1)
    restored = again.tokens(fresh, 1, other)
    assert other.encoded == [] and saved.keys() == {"serials", "tokens"}
    for key in SPECS:
        np.testing.assert_array_equal(restored[key], tokens[key])
    again.tokens(store.ring.rows_of(store.ring.stored_serials()), 1, other)
    assert len(other.encoded) == len(store.ring.stored_serials()) - len(fresh)


@pytest.mark.parametrize("fault", ["key", "shape", "vocabulary"])
def test_wrong_tokens_are_refused(fault: str) -> None:
    store = make_store(1, 100)
    extend(store, 4, 0)

    def encode(observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tokens = CountingTokenizer().expected(observations["x"])
        if fault == "key":
            del tokens["huge"]
        elif fault == "shape":
            tokens["large"] = tokens["large"][..., 0]
        else:
            tokens["small"] = tokens["small"] + np.array([0, 100])  # legal for channel 0 only
        return tokens

    with pytest.raises(ValueError, match={"key": "keys", "shape": "shape", "vocabulary": "vocabulary"}[fault]):
        TokenCache(store, SPECS).tokens(np.arange(4), 0, encode)

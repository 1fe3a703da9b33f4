"""Exact tokens: what is looked up, what grows and when, what is lost, and that a run goes on with the same ids."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tiny import Recorded, tiny_config
from worldstream.config import Config
from worldstream.errors import ConfigError
from worldstream.specs import KeySpec
from worldstream.tokenizers.base import Tokenizer
from worldstream.tokenizers.bundle import TokenizerConfig
from worldstream.tokenizers.exact import (
    ExactOptions,
    ExactTokenizer,
    GrowingTable,
    ImagePaletteConfig,
    ImagePatchesConfig,
)
from worldstream.training.experiment import Experiment
from worldstream.training.trainer import Trainer

SPEC = KeySpec(key="front", modality="image", shape=(8, 12, 3), dtype="uint8")
PATCHES = ImagePatchesConfig(patch_size=(4, 6), codes=64)
PALETTE = ImagePaletteConfig(patch_size=(4, 6), colours=8)
PLACES = 5 * 9
"""Positions of the square in ``frames``."""


def frames(count: int, seed: int = 0) -> Tensor:
    """(count, 3, 8, 12) pictures of one green square of 4 x 4 pixels on blue."""
    rng = np.random.default_rng(seed)
    pictures = np.zeros((count, 8, 12, 3), np.uint8) + np.array([0, 0, 90], np.uint8)
    for picture in pictures:
        row, column = rng.integers(0, 5), rng.integers(0, 9)
        picture[row : row + 4, column : column + 4] = (0, 200, 0)
    return torch.from_numpy(pictures).movedim(-1, 1)


def made(options: ExactOptions) -> ExactTokenizer:
    tokenizer = options.build(SPEC)
    assert isinstance(tokenizer, ExactTokenizer)
    return tokenizer


def lossless(tokenizer: Tokenizer, x: Tensor) -> bool:
    return torch.equal(tokenizer.decode(tokenizer.encode(x)), x)


@pytest.mark.parametrize("options", [replace(PATCHES, codes=256), PALETTE], ids=["patches", "palette"])
def test_nothing_is_lost_of_what_was_seen(options: ExactOptions) -> None:
    tokenizer, x = made(options), frames(1000)
    assert not lossless(tokenizer, x)
    tokenizer.grow(x)
    assert lossless(tokenizer, x) and tokenizer.closes
    assert float(tokenizer.statistics()["inexact"]) == 0


def test_one_new_palette_colour_is_one_id_and_new_patches_are_one_each() -> None:
    patches, palette = made(PATCHES), made(PALETTE)
    for tokenizer in (patches, palette):
        tokenizer.grow(frames(1))
    assert int(palette.table.size) == 3  # black, which is always there, blue and green
    assert palette.encode(frames(1)).unique().tolist() == [1, 2]
    first = patches.encode(frames(1)).flatten().tolist()
    assert sorted(set(first)) == list(range(1, len(set(first)) + 1)) and first[0] == 1
    assert int(patches.table.size) == 1 + len(set(first))


def test_every_id_survives_decoding() -> None:
    tokenizer = made(PATCHES)
    tokenizer.grow(frames(500))
    ids = torch.arange(int(tokenizer.table.size)).reshape(-1, 1, 1).expand(-1, 4, 1)
    assert len(ids) > 20 and torch.equal(tokenizer.encode(tokenizer.decode(ids)), ids)


def test_features_are_what_the_token_shows() -> None:
    for options in (PATCHES, PALETTE):
        tokenizer, x = made(options), frames(3)
        tokenizer.grow(x)
        shown = tokenizer.features(tokenizer.encode(x)).unflatten(-1, (4, 6, 3))
        expected = x[:, :, 4:, :6].movedim(1, -1) / 127.5 - 1.0
        torch.testing.assert_close(shown[:, 2], expected)  # the token of the second row and first column


def test_ids_of_old_frames_stay_while_ten_thousand_new_ones_come() -> None:
    tokenizer, old = made(PATCHES), frames(20)
    tokenizer.grow(old)
    ids = tokenizer.encode(old)
    for seed in range(1, 11):
        tokenizer.grow(frames(1000, seed))
    assert torch.equal(tokenizer.encode(old), ids) and lossless(tokenizer, old)


def test_a_full_table_grows_no_more_and_says_what_it_loses() -> None:
    tokenizer = made(replace(PATCHES, codes=10))
    tokenizer.grow(frames(100))
    rows, share = tokenizer.table.rows.clone(), float(tokenizer.statistics()["inexact"])
    assert int(tokenizer.table.size) == 10 and 0 < share < 1 and not tokenizer.closes
    tokenizer.grow(frames(100, seed=1))
    assert torch.equal(tokenizer.table.rows, rows) and int(tokenizer.table.size) == 10
    known = tokenizer.decode(tokenizer.encode(frames(100, seed=1))) == frames(100, seed=1)
    assert not known.all()


def test_it_makes_no_difference_in_what_portions_frames_come() -> None:
    together, alone = made(PATCHES), made(PATCHES)
    together.grow(frames(60))
    for frame in frames(60):
        alone.grow(frame.unsqueeze(0))
    for name, value in together.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name])


ROWS = st.lists(st.lists(st.sampled_from([0, 1, 128, 255]), min_size=3, max_size=3), min_size=1, max_size=30)


@given(seen=st.lists(ROWS, max_size=4), asked=ROWS, capacity=st.integers(1, 40))
def test_the_table_agrees_with_a_brute_force_search(
    seen: list[list[list[int]]], asked: list[list[int]], capacity: int
) -> None:
    table, known, lost = GrowingTable(capacity, 3), [[0, 0, 0]], 0
    for rows in seen:
        found_no_room = 0
        for row in rows:
            if row not in known and len(known) < capacity:
                known.append(row)
            found_no_room += row not in known
        assert int(table.append(torch.tensor(rows, dtype=torch.uint8))) == found_no_room
        lost += found_no_room
    assert table.rows[: table.size].tolist() == known
    twin = GrowingTable(capacity, 3)
    twin.load_state_dict(table.state_dict())
    distance = [[sum((a - b) ** 2 for a, b in zip(row, other, strict=True)) for other in known] for row in asked]
    for each in (table, twin):
        ids, exact = each.find(torch.tensor(asked, dtype=torch.uint8))
        assert exact.tolist() == [row in known for row in asked]
        nearest = each.nearest(torch.tensor(asked, dtype=torch.uint8)).tolist()
        assert nearest == [row.index(min(row)) for row in distance]
        assert all(
            place == known.index(row) for place, row, there in zip(ids.tolist(), asked, exact, strict=True) if there
        )


def test_a_palette_is_judged_by_what_it_loses_and_patches_also_by_the_room_that_is_left() -> None:
    verdicts = {}
    for options in (
        PALETTE,
        replace(PALETTE, colours=3),
        replace(PALETTE, colours=2),
        replace(PATCHES, codes=256),
        replace(PATCHES, codes=128),
    ):
        tokenizer = made(options)
        tokenizer.grow(frames(400))
        verdicts[options.capacity, type(options)] = tokenizer.verdict()
    assert verdicts[8, ImagePaletteConfig] == verdicts[3, ImagePaletteConfig] == verdicts[256, ImagePatchesConfig] == ""
    assert "key 'front': 2 of 2 codes of 'image_palette' are taken" in verdicts[2, ImagePaletteConfig]
    assert "65 of 128 codes of 'image_patches' are taken, and 0.00%" in verdicts[128, ImagePatchesConfig]


def test_patches_that_do_not_divide_the_picture_are_refused() -> None:
    with pytest.raises(ConfigError, match="patches of 4 x 5 pixels do not divide pictures of 8 x 12"):
        made(replace(PATCHES, patch_size=(4, 5)))


def exact_config(**options: int) -> Config:
    """The tiny configuration with exact tokens of pictures."""
    tokenizers = TokenizerConfig(by_modality={"image": ImagePatchesConfig(patch_size=(4, 4), **options)})
    return replace(tiny_config(), tokenizers=tokenizers, log_every_steps=20)


def test_a_run_grows_with_what_it_collects_and_only_then() -> None:
    events = Recorded()
    trainer = Trainer(Experiment.of("cameras", exact_config(codes=4096), steps=60), events)
    tokenizers = trainer.models.tokenizers
    grown: list[int] = []
    grow = tokenizers.grow
    tokenizers.grow = lambda observations: (grown.append(len(observations["left"])), grow(observations))  # type: ignore[method-assign]
    trainer.run()
    trainer.close()
    store, version = trainer.experience.store, int(tokenizers.version)
    assert version == 1  # one fit of the vector's levels; growth changes no id
    stored = store.observations(store.ring.rows_of(store.ring.stored_serials()))
    assert sum(grown) == len(stored["left"]) - 1  # the very first came before we listened
    for key, tokenizer in tokenizers.by_key.items():
        if isinstance(tokenizer, ExactTokenizer):
            assert lossless(tokenizer, tokenizers.load(stored, [key])[key])
    cached = trainer.experience.cache.tokens(
        store.ring.rows_of(store.ring.stored_serials()), version, tokenizers.encode_arrays
    )
    for key, ids in tokenizers.encode_arrays(stored).items():
        assert np.array_equal(cached[key], ids)
    last = events.records[-1]
    assert last["tokenizers/inexact"] == 0 and last["tokenizers/codes"] > 1
    assert last["tokenizers/left/coding_error"] == 0


def test_a_table_that_is_too_small_is_told_once_at_the_end_of_the_random_phase() -> None:
    class Told(Recorded):
        verdicts: list[tuple[int, str]] = []

        def unsuited(self, verdict: str) -> None:
            self.verdicts.append((trainer.collector.steps, verdict))

    config = exact_config(codes=4)
    config = replace(config, collection=replace(config.collection, random_steps=15))
    trainer = Trainer(Experiment.of("cameras", config, steps=30), Told())
    trainer.run()
    trainer.close()
    assert [steps for steps, _ in Told.verdicts] == [15, 15]
    assert "key 'left'" in Told.verdicts[0][1] and "worldstream tokens" in Told.verdicts[0][1]

"""Embeddings at the start of training."""

from __future__ import annotations

import pytest
import torch

from worldstream.nn.layers import FactoredEmbedding, smooth_rows
from worldstream.specs import TokenSpec


def test_ordered_rows_begin_alike_in_proportion_to_their_distance() -> None:
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(smooth_rows(61, 4096), dim=1)
    alike = rows @ rows.T
    assert alike[30, 31] > 0.95  # neighbours
    assert alike[30, 33].item() == pytest.approx(0.8, abs=0.1)  # a twentieth of the line apart
    assert alike[30, 40].item() == pytest.approx(0.15, abs=0.1)  # a sixth
    assert abs(alike[0, 60]) < 0.1
    assert smooth_rows(61, 4096).var().item() == pytest.approx(1.0, abs=0.05)


def test_spread_frequencies_tell_neighbours_apart() -> None:
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(smooth_rows(61, 4096, 20.0), dim=1)
    alike = rows @ rows.T
    assert 0.3 < alike[30, 31] < 0.8 and alike[30, 31] > alike[30, 33] + 0.1
    assert smooth_rows(61, 4096, 20.0).var().item() == pytest.approx(1.0, abs=0.05)


def test_only_ordered_channels_begin_alike() -> None:
    torch.manual_seed(0)
    for ordered in (False, True):
        embedding = FactoredEmbedding(TokenSpec(num_tokens=1, vocabulary=(61,), ordered=ordered), 4096)
        first, second = embedding(torch.tensor([[30], [31]]))
        likeness = torch.nn.functional.cosine_similarity(first, second, dim=0)
        assert likeness > 0.9 if ordered else abs(likeness) < 0.1


@pytest.mark.parametrize("channels", [1, 4, 21])
def test_embeddings_have_unit_scale_whatever_the_number_of_channels(channels: int) -> None:
    torch.manual_seed(0)
    embedding = FactoredEmbedding(TokenSpec(num_tokens=1, vocabulary=(5,) * channels), 1024)
    embedded = embedding(torch.randint(5, (64, 1, channels)))
    assert embedded.shape == (64, 1, 1024)
    assert embedded.std().item() == pytest.approx(1.0, abs=0.1)

"""A checkpoint with any one tensor missing, of another shape, type or value is refused by the name of that tensor."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch

from parity.golden import FILES
from parity.golden import read as read_golden
from parity.published import golden_models
from parity.reference.checkpoint import AgentSize, Checkpoint, arrays, settings_of
from worldstream.errors import WeightsError
from worldstream.importers.tensors import ForeignTensors

ALIKE = re.compile(r"ensemble\.[1-9]|layers\.0\.(?!retention)|critic_latent|critic_action|critic\.lstm")
"""Tensors of parts that are read like others."""
INTEGERS = ("num_batches_tracked", "fsq._levels", "fsq._basis")
CONSTANTS = ("thetas", "inv_freq", "fsq._levels", "fsq._basis")

UNREAD = ("world_model.obs_emb_map.weight", "world_model.action_encoder.action_projection.bias")
QUICK = ("missing", "enlarged", "flattened", "of another type")
FAULTS: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {
    "missing": lambda x: None,
    "enlarged": lambda x: np.zeros([size + 1 for size in x.shape] or [3], x.dtype),
    "doubled": lambda x: np.concatenate((x, x)) if x.ndim else np.stack((x, x)),
    "of one axis more": lambda x: x[None],
    "flattened": lambda x: x.reshape(-1) if x.ndim != 1 else x.reshape(1, -1),
    "complex": lambda x: x.astype(np.complex64),
    "of another type": lambda x: x.astype(np.float32 if x.dtype.kind == "i" else np.int64),
    "not finite": lambda x: np.full(x.shape, np.nan, np.float32),
}


def read(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    golden = read_golden(name)
    return golden.weights, golden.settings


def refusal(weights: dict[str, Any], settings: dict[str, Any]) -> str:
    with pytest.raises(WeightsError) as error:
        golden_models(weights, settings, num_blocks=2)
    return str(error.value)


def accepted(name: str, faults: Iterable[str], *, alike: bool) -> list[str]:
    """Faults that are not refused by the name of their tensor; ``alike``: tensors of all parts."""
    weights, settings = read(name)
    golden_models(weights, settings, num_blocks=2)
    found = []
    for key, array in weights.items():
        for fault in faults if alike or not ALIKE.search(key) else ():
            changed = FAULTS[fault](array)
            rest = {other: x for other, x in weights.items() if other != key}
            try:
                golden_models(rest if changed is None else {**rest, key: changed}, settings, num_blocks=2)
            except WeightsError as error:
                if key not in str(error):
                    found.append(f"{key} {fault}: {error}")
            else:
                found.append(f"{key} {fault}: accepted")
    return found


@pytest.mark.parametrize("name", ["atari_attention", "dmc_retnet"])
def test_a_fault_is_refused_by_its_name(name: str) -> None:
    assert accepted(name, QUICK, alike=False) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_fault_of_every_tensor_is_refused_by_its_name(name: str) -> None:
    assert accepted(name, FAULTS, alike=True) == []


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("craftax_attention", "world_model._model.pred_tokens"),
        ("craftax_retnet", "actor_critic.obs_latent_fuser.3.weight"),
        ("craftax_retnet", "world_model.obs_embeddings.token_2d.embeddings.embeddings.2.weight"),
        ("atari_retnet", "actor_critic.obs_encoders.image.model.0.0.weight"),
        ("atari_retnet", "tokenizer.tokenizers.image.decoder.cnn.0.0.running_mean"),
        ("atari_retnet", "tokenizer.tokenizers.image.embedding.weight"),
    ],
)
def test_what_gives_the_structure_is_missed_by_its_name(name: str, key: str) -> None:
    weights, settings = read(name)
    del weights[key]
    assert key in refusal(weights, settings)


@pytest.mark.parametrize("name", FILES)
def test_several_faults_are_listed_together(name: str) -> None:
    """Whichever tensors they are of, also those from which sizes follow: and nothing else is listed."""
    weights, settings = read(name)
    draw = random.Random(name)
    for _ in range(12):
        missing, enlarged = draw.sample(sorted(weights), 2)
        faulty = {key: x for key, x in weights.items() if key != missing}
        faulty[enlarged] = FAULTS["enlarged"](weights[enlarged])
        message = refusal({**faulty, "extra.x": np.zeros(1, np.float32)}, settings)
        assert all(key in message for key in (missing, enlarged, "Unknown: extra.x.")), message
        listed = set(re.findall(r"(?:tokenizer|world_model|actor_critic)\.[\w.]*\w", message.split(" The tensors")[0]))
        assert listed == {missing, enlarged}, message


def test_several_may_be_missing() -> None:
    weights, settings = read("dmc_attention")
    gone = (
        "world_model.head_ends.0.weight",
        "world_model.head_rewards.model.0.bias",
        "world_model._model.rotary_emb.inv_freq",
        "actor_critic.actor_action_projection.weight",
        "actor_critic.obs_latent_fuser.0.weight",
    )
    rest = {key: x for key, x in weights.items() if key not in gone}
    message = refusal({**rest, "extra.x": np.zeros(1, np.float32)}, settings)
    assert re.search(r"Missing: ([^:]+)\. Unknown: extra\.x\.", message)
    assert message.count("world_model.") + message.count("actor_critic.") == len(gone)
    assert all(key in message for key in gone)


@pytest.mark.parametrize("fault", ["complex", "of another type", "not finite"])
@pytest.mark.parametrize("name", ["dmc_retnet", "dmc_attention"])
def test_values_that_are_no_weights_are_refused(name: str, fault: str) -> None:
    weights, settings = read(name)
    for key in ("world_model.head_ends.0.weight", "actor_critic.actor.lstm.weight_hh_l0", *UNREAD):
        assert key in refusal({**weights, key: FAULTS[fault](weights[key])}, settings)


def test_weights_of_other_precisions_are_taken() -> None:
    weights, settings = read("dmc_retnet")
    for dtype in (np.float16, np.float64):
        models, _ = golden_models({key: x.astype(dtype) for key, x in weights.items()}, settings, num_blocks=2)
        assert {parameter.dtype for parameter in models.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", FILES)
def test_constants_of_other_values_are_refused(name: str) -> None:
    weights, settings = read(name)
    for key in weights:
        if key.endswith(CONSTANTS):
            other = weights[key][::-1].copy() if "fsq" in key else weights[key] * 1.01
            assert key in refusal({**weights, key: other}, settings)


def test_constants_may_differ_in_their_last_bit_only() -> None:
    weights, settings = read("dmc_retnet")
    key = "world_model._model.layers.0.retention.thetas"
    last_bit = np.nextafter(weights[key], np.float32(2))
    golden_models({**weights, key: last_bit}, settings, num_blocks=2)
    assert key in refusal({**weights, key: weights[key] * np.float32(1 + 1e-6)}, settings)


@pytest.mark.parametrize("levels", [[-4, -4, 2], [0, 4, 8], [10**6] * 3, [4, 8], [32], [1, 32, 1], [2, 4, 4]])
def test_levels_that_make_no_vocabulary_are_refused(levels: list[int]) -> None:
    weights, settings = read("atari_attention")
    key = "tokenizer.tokenizers.image.fsq._levels"
    assert key in refusal({**weights, key: np.array(levels)}, settings)


def test_a_number_that_is_left_out_is_named() -> None:
    """Layers are counted by the settings: one of a number that they do not reach is unknown, one between is missing."""
    weights, settings = read("dmc_retnet")
    layer = "world_model._model.layers."
    message = refusal({**weights, f"{layer}10000000000.norm1.weight": np.zeros(1, np.float32)}, settings)
    assert f"Unknown: {layer}10000000000.norm1.weight." in message
    message = refusal({key.replace(f"{layer}1.", f"{layer}2."): x for key, x in weights.items()}, settings)
    missing, unknown = message.split("Unknown: ")
    assert f"{layer}1.norm1.weight (32,)" in missing and f"{layer}2.norm1.weight" in unknown


def test_widths_that_do_not_split_into_heads_are_refused() -> None:
    weights, settings = read("dmc_retnet")
    part = dict(settings["world_model"]["retnet"])
    for heads in (3, 5, 32):  # the features of a head are rotated in pairs
        stated = {**settings, "world_model": {**settings["world_model"], "retnet": {**part, "num_heads": heads}}}
        message = refusal(weights, stated)
        assert "sequence width 32 must be a multiple" in message, message
    keys = [f"world_model._model.layers.{i}.retention.thetas" for i in range(2)]
    for size in (17, 12, 64, 1):
        message = refusal({**weights, **dict.fromkeys(keys, np.ones(size, np.float32))}, settings)
        assert all(f"{key} is ({size},), not" in message for key in keys), message


def test_tensors_that_are_no_plain_arrays_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"These are: world_model\.odd\."):
        ForeignTensors({"world_model.odd": torch.eye(3).to_sparse(), "world_model.even": torch.zeros(1)}, "x")


def test_the_map_of_unread_codes_is_there_where_settings_say_so() -> None:
    size = AgentSize(spaces={"vector": [3]}, actions={"discrete": 2}, code_width=16)
    weights, settings = arrays(Checkpoint(size).weights), settings_of(size)
    golden_models(weights, settings, num_blocks=2)
    without = {key: x for key, x in weights.items() if "obs_emb_map" not in key}
    assert "obs_emb_map.weight (32, 16)" in refusal(without, settings)
    del settings["world_model"]["obs_emb_dim"]
    golden_models(without, settings, num_blocks=2)

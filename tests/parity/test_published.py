"""Parity: with the published agent's weights, our modules compute its numbers (``tests/golden/README.md``)."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from parity.arrays import Arrays
from parity.golden import FILES, read
from parity.published import recompute
from worldstream.errors import WeightsError
from worldstream.importers.names import logit_order
from worldstream.importers.tensors import ForeignTensors
from worldstream.nn.outputs import FactoredCategorical
from worldstream.nn.rotary import rotary_frequencies

COMPARED = {
    "token_embeddings", "latents", "imagination_latents", "reward", "termination_logits", "policy_logits", "values",
    "lambda_returns", "return_scale",
    *(f"world_model_loss/{name}" for name in ("loss_obs", "loss_rewards", "curiosity_loss", "per_segment")),
}  # fmt: skip
OF_EACH_KIND = {"tokens", "codes", "observation_logits", "ensemble_logits"}


@cache
def results(name: str) -> tuple[Arrays, Arrays]:
    """(ours, published)."""
    weights, inputs, outputs, settings = read(name)
    return recompute(weights, inputs, settings), outputs


def test_there_are_golden_files() -> None:
    published = {f"{agent}_{model}" for agent in ("atari", "dmc", "craftax") for model in ("retnet", "attention")}
    assert set(FILES) == published


@pytest.mark.parametrize("name", FILES)
def test_every_number_agrees(name: str) -> None:
    ours, published = results(name)
    for output, value in ours.items():
        expected = published[output]
        assert value.shape == expected.shape, output
        if output.startswith("tokens/"):
            np.testing.assert_array_equal(value, expected, err_msg=output)
        else:
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5, err_msg=output)


@pytest.mark.parametrize("name", FILES)
def test_nothing_that_must_agree_is_left_out(name: str) -> None:
    ours, published = results(name)
    wanted = {
        output
        for output in published
        if output in COMPARED or output.split("/")[0] in OF_EACH_KIND | {"reconstruction"}
    }
    assert wanted <= set(ours)
    assert {output.split("/")[0] for output in wanted} >= OF_EACH_KIND
    assert wanted >= COMPARED
    kinds = read(name)[3]["modalities"]
    assert {f"disagreement/{kind}" for kind in kinds if kind != "token_2d"} <= set(ours)
    assert {output for output in published if output.startswith("tokenizer_loss/")} <= set(ours)


@pytest.mark.parametrize("name", ["craftax_retnet", "craftax_attention"])
def test_impossible_values_that_make_channels_equal_change_nothing(name: str) -> None:
    """Our heads lay out channels of one size value by value: two more values in the second, which never occur."""
    weights, inputs, published, settings = read(name)
    sizes = settings["spaces"]["token_2d"][0]
    assert sizes[2] == sizes[1] + 2
    settings["spaces"]["token_2d"] = [[sizes[0], sizes[2], *sizes[2:]] for _ in settings["spaces"]["token_2d"]]
    place = sizes[0] + sizes[1]  # behind the last value of the second channel
    for key, array in weights.items():
        if "token_2d" in key and key.endswith((".3.weight", ".3.bias")) and "embeddings" not in key:
            added = np.zeros((2, *array.shape[1:]), np.float32) - (1e4 if key.endswith("bias") else 0)
            weights[key] = np.insert(array, [place], added, 0)
        elif "token_2d" in key and key.endswith("embeddings.1.weight"):
            weights[key] = np.concatenate((array, np.full((2, array.shape[1]), 7, np.float32)))
    ours = recompute(weights, inputs, settings)
    for output in COMPARED:
        np.testing.assert_allclose(ours[output], published[output], rtol=1e-4, atol=1e-5, err_msg=output)
    for output in ("observation_logits/token_2d", "ensemble_logits/token_2d"):
        kept = np.delete(ours[output], [place, place + 1], -1)
        np.testing.assert_allclose(kept, published[output], rtol=1e-4, atol=1e-5, err_msg=output)


@pytest.mark.parametrize("name", FILES)
def test_rotary_tables_are_the_published_ones_to_the_last_bit(name: str) -> None:
    tables = {key: torch.as_tensor(x) for key, x in read(name).weights.items() if key.endswith(("thetas", "inv_freq"))}
    assert tables
    for key, table in tables.items():
        if key.endswith("thetas"):
            ours = rotary_frequencies(len(table) // 2, last_included=True).repeat_interleave(2)
        else:
            ours = rotary_frequencies(len(table))
        assert torch.equal(ours, table), key


def test_logits_of_equal_channels_change_their_order() -> None:
    vocabulary = (2, 3, 3, 4)
    one_after_the_other = torch.randn(5, sum(vocabulary))
    ours = FactoredCategorical(one_after_the_other[:, logit_order(vocabulary)], vocabulary)
    expected = [part.softmax(-1) for part in one_after_the_other.split(vocabulary, -1)]
    torch.testing.assert_close(ours.mean, torch.cat(expected, -1))


def test_what_a_set_of_weights_lacks_is_listed() -> None:
    weights, inputs, _, settings = read(FILES[-1])
    weights["world_model.head_rewards.model.0.weight"] = np.zeros((3, 3), np.float32)
    del weights["world_model.head_rewards.model.0.bias"]
    weights["world_model.surprise"] = np.zeros(2, np.float32)
    with pytest.raises(WeightsError) as error:
        recompute(weights, inputs, settings)
    message = str(error.value)
    assert "Missing: world_model.head_rewards.model.0.bias (" in message
    assert "Of another shape: world_model.head_rewards.model.0.weight is (3, 3), not (" in message
    assert "Unknown: world_model.surprise." in message


@pytest.mark.parametrize(
    ("name", "part", "option", "value"),
    [
        ("dmc_retnet", "retnet", "mask_type", "causal"),
        ("dmc_attention", "transformer", "pos_enc", "sinusoidal"),
        ("dmc_retnet", "", "shared_prediction_token", True),
        ("dmc_retnet", "", "tokenize_actions", False),
        ("craftax_retnet", "", "include_action_inputs", False),
        ("craftax_retnet", "", "rnn_type", "gru"),
    ],
)
def test_unknown_options_are_refused(name: str, part: str, option: str, value: Any) -> None:
    weights, inputs, _, settings = read(name)
    (settings["world_model"][part] if part else settings["world_model"])[option] = value
    with pytest.raises(WeightsError, match=f"{option} '{value}'"):
        recompute(weights, inputs, settings)


@pytest.mark.parametrize("name", ["craftax_retnet", "dmc_attention"])
def test_inputs_of_other_types_give_the_same(name: str) -> None:
    weights, inputs, _, settings = read(name)
    kinds = {"f": np.float64, "b": np.int64, "i": np.int32, "u": np.int32}
    converted = recompute(weights, {key: x.astype(kinds[x.dtype.kind]) for key, x in inputs.items()}, settings)
    for output, value in results(name)[0].items():
        np.testing.assert_allclose(converted[output], value, rtol=1e-5, atol=1e-6, err_msg=output)


@pytest.mark.parametrize(
    ("absent", "lost"),
    [
        (("rewards",), {"world_model_loss"}),
        (("mask_padding",), {"world_model_loss"}),
        (("returns_ends", "return_scale_inputs"), {"lambda_returns", "return_scale"}),
        (("observations/token",), {"tokens/token", "codes/token"}),
        (("actions",), {"token_embeddings", "latents", "values", "world_model_loss"}),
    ],
)
def test_outputs_whose_inputs_are_absent_are_left_out(absent: tuple[str, ...], lost: set[str]) -> None:
    weights, inputs, _, settings = read("craftax_attention")
    found = recompute(weights, {name: x for name, x in inputs.items() if name not in absent}, settings)
    whole = results("craftax_attention")[0]
    missing = whole.keys() - found.keys()
    assert all(any(output.startswith(name) for output in missing) for name in lost)
    assert found and all(np.array_equal(found[output], whole[output]) for output in found)
    assert not any(output.startswith(("tokens/vector", "tokens/token_2d")) for output in missing)


@pytest.mark.parametrize("name", FILES)
def test_of_segments_that_members_cannot_share_only_their_loss_is_left_out(name: str) -> None:
    weights, inputs, _, settings = read(name)
    fewer = {key: x if key.startswith("return") else x[:3] for key, x in inputs.items()}
    found, whole = recompute(weights, fewer, settings), results(name)[0]
    assert whole.keys() - found.keys() == {"world_model_loss/curiosity_loss"}
    for output in ("latents", "values", "world_model_loss/per_segment"):
        np.testing.assert_allclose(found[output], whole[output][:3], rtol=1e-4, atol=1e-5, err_msg=output)


def reversed_twice(x: np.ndarray) -> np.ndarray:
    """The same array, with negative strides."""
    return np.flip(np.ascontiguousarray(np.flip(x)))


@pytest.mark.parametrize("name", ["atari_attention", "craftax_retnet"])
def test_arrays_of_other_layouts_give_the_same(name: str) -> None:
    weights, inputs, _, settings = read(name)
    layouts: list[Callable[[np.ndarray], np.ndarray]] = [
        reversed_twice,
        lambda x: x.astype(x.dtype.newbyteorder(">")),
        np.asfortranarray,
    ]
    for layout in layouts:
        arrays = [{key: layout(x) for key, x in part.items()} for part in (weights, inputs)]
        found = recompute(*arrays, settings)
        assert all(np.array_equal(found[output], x) for output, x in results(name)[0].items())


def test_returns_of_one_step_are_the_value_itself() -> None:
    weights, inputs, _, settings = read("dmc_attention")
    cut = {key: x[:, :1] if key.startswith("returns_") else x for key, x in inputs.items()}
    np.testing.assert_array_equal(recompute(weights, cut, settings)["lambda_returns"], cut["returns_values"])


@pytest.mark.parametrize(
    ("name", "part", "kind", "value", "message"),
    [
        ("craftax_retnet", "spaces", "vector", 6, "space of vector is 6; it must be [features]"),
        ("craftax_retnet", "spaces", "vector", [6.5], "space of vector is [6.5]"),
        ("craftax_retnet", "spaces", "vector", [2, 3], "space of vector is [2, 3]"),
        ("craftax_retnet", "spaces", "vector", [10**12], "each a whole number from 1 to 65536"),
        ("craftax_retnet", "spaces", "token", [], "space of token is []"),
        ("craftax_retnet", "spaces", "token", [True], "space of token is [True]"),
        ("craftax_retnet", "spaces", "token_2d", [7, 3, 5, 4], "space of token_2d is [7, 3, 5, 4]"),
        ("craftax_retnet", "spaces", "token_2d", [[7, 3], [7]], "space of token_2d is [[7, 3], [7]]"),
        (
            "craftax_retnet",
            "spaces",
            "sound",
            [4],
            "'spaces' of the kind 'sound'. Known: image, vector, token, token_2d",
        ),
        ("atari_attention", "spaces", "image", [64], "space of image is [64]; it must be [1, channels, height, width]"),
        ("atari_attention", "spaces", "image", [2, 3, 64, 64], "space of image is [2, 3, 64, 64]"),
        ("craftax_retnet", "action_space", "discrete", "9", "action space is discrete '9'; it must be a whole number"),
        ("craftax_retnet", "action_space", "discrete", [9], "action space is discrete [9]"),
        ("dmc_retnet", "action_space", "continuous", 0, "action space is continuous 0"),
        ("dmc_retnet", "action_space", "discrete", 2, "several kinds of actions, continuous, discrete: name one"),
    ],
)
def test_sizes_that_are_none_are_refused(name: str, part: str, kind: str, value: Any, message: str) -> None:
    weights, inputs, _, settings = read(name)
    settings[part][kind] = value
    with pytest.raises(WeightsError, match=re.escape(message)):
        recompute(weights, inputs, settings)


def changed(x: np.ndarray, value: float) -> np.ndarray:
    """The array with another first value."""
    x = x.copy()
    x[(0,) * x.ndim] = value
    return x


@pytest.mark.parametrize(
    ("name", "key", "change", "message"),
    [
        ("dmc_retnet", "actions", lambda x: x[0, 0], "'actions' has the shape (2,); it must be (segments, blocks, 2)"),
        ("dmc_retnet", "actions", lambda x: x[..., :1], "'actions' has the shape (4, 6, 1)"),
        (
            "dmc_retnet",
            "actions",
            lambda x: changed(x, np.nan),
            "'actions' holds complex numbers, or some that are not",
        ),
        ("craftax_retnet", "actions", lambda x: x[0], "'actions' has the shape (6,)"),
        (
            "craftax_retnet",
            "actions",
            lambda x: changed(x, 9),
            "'actions' holds 9; its values are whole numbers, 0 to 8",
        ),
        ("craftax_retnet", "actions", lambda x: changed(x, -1), "'actions' holds -1"),
        ("craftax_retnet", "observations/vector", lambda x: x[..., :5], "it must be (segments, blocks, 6)"),
        ("craftax_retnet", "observations/token", lambda x: changed(x, 4), "'observations/token' holds 4"),
        ("craftax_retnet", "observations/token", lambda x: x + 0.5, "its values are whole numbers"),
        ("craftax_retnet", "observations/token_2d", lambda x: changed(x, 7), "'observations/token_2d' holds 7"),
        ("craftax_retnet", "observations/token_2d", lambda x: x[..., :3], "it must be (segments, blocks, 12, 4)"),
        ("craftax_retnet", "mask_padding", lambda x: x[:, :5], "(4, 5); it must be (4, 6) in its first two axes"),
        ("craftax_retnet", "mask_padding", lambda x: x * 2, "'mask_padding' holds other values than 0 and 1"),
        ("craftax_retnet", "rewards", lambda x: x[:, None], "'rewards' has the shape (4, 1, 6)"),
        ("craftax_retnet", "rewards", lambda x: x.astype(str), "'rewards' is an array of <U32, not of numbers"),
        ("craftax_retnet", "returns_ends", lambda x: x[:, :3], "'returns_ends' has the shape (4, 3)"),
        ("craftax_retnet", "returns_values", lambda x: x[:, :0], "'returns_values' has the shape (4, 0)"),
        ("craftax_retnet", "return_scale_inputs", lambda x: x[:0], "'return_scale_inputs' has the shape (0, 64)"),
        ("atari_retnet", "observations/image", lambda x: (255 * x).astype(np.uint8), "Divide them by 255"),
        (
            "atari_retnet",
            "observations/image",
            lambda x: np.moveaxis(x, 2, -1),
            "must be (segments, blocks, 3, 64, 64)",
        ),
    ],
)
def test_inputs_that_cannot_be_are_refused(
    name: str, key: str, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    weights, inputs, _, settings = read(name)
    with pytest.raises(WeightsError, match=re.escape(message)):
        recompute(weights, {**inputs, key: change(inputs[key])}, settings)


def test_pictures_of_whole_numbers_are_no_bytes() -> None:
    weights, inputs, _, settings = read("atari_attention")
    black_and_white = inputs["observations/image"].round()
    found = [
        recompute(weights, {"observations/image": black_and_white.astype(dtype)}, settings)["reconstruction/image"]
        for dtype in (np.float32, np.uint8, bool)
    ]
    assert all(np.array_equal(found[0], x) for x in found)


def test_weights_that_are_no_numbers_are_refused() -> None:
    weights, inputs, _, settings = read("dmc_retnet")
    key = "world_model.head_ends.0.weight"
    with pytest.raises(WeightsError, match=key):
        recompute({**weights, key: weights[key].astype(str)}, inputs, settings)


def test_settings_without_sizes_are_refused() -> None:
    weights, inputs, _, settings = read("dmc_retnet")
    for name in ("spaces", "action_space"):
        with pytest.raises(WeightsError, match=f"describe no '{name}'"):
            recompute(weights, inputs, {key: x for key, x in settings.items() if key != name})


def test_long_lists_are_cut() -> None:
    tensors = ForeignTensors({f"t{i}": torch.zeros(1) for i in range(25)}, "x")
    with pytest.raises(WeightsError, match="and 5 more"):
        tensors.check("")

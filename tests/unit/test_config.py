"""Configurations survive JSON, and whatever is wrong with one is named."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest

from worldstream.config import Config
from worldstream.errors import ConfigError
from worldstream.options import Between, hints
from worldstream.presets import PRESETS


def plain(**changes: Any) -> dict[str, Any]:
    """The default configuration as JSON values, with values replaced at paths that are joined by "__"."""
    data = json.loads(json.dumps(Config().to_json()))
    for path, value in changes.items():
        *parents, name = path.split("__")
        target = data
        for parent in parents:
            target = target[parent]
        target[name] = value
    return data


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = PRESETS[name]()
    assert isinstance(config, Config)
    text = json.dumps(config.to_json())
    assert Config.from_json(json.loads(text)) == config
    assert json.dumps(Config.from_json(json.loads(text)).to_json()) == text


def test_from_json_reads_every_field() -> None:
    """Each number of the default configuration, changed one at a time, arrives at its place."""

    def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        if isinstance(node, dict):
            return [leaf for key, value in node.items() for leaf in leaves(value, (*path, key))]
        return [path] if isinstance(node, int | float) and not isinstance(node, bool) else []

    original = plain()
    paths = leaves(original)
    assert len(paths) > 40
    for path in paths:
        changed: Any = copy.deepcopy(original)
        target = changed
        for part in path[:-1]:
            target = target[part]
        number = target[path[-1]]
        # Shares stay within [0, 1]; whole numbers stay multiples of the ensemble's size.
        target[path[-1]] = (number + 0.3) / 2 if isinstance(number, float) and 0 <= number <= 1 else number * 4 + 4
        if path[-1] in ("num_members", "context_length", "horizon", "level_frequency", "num_logits", "pace"):
            continue  # contradict other fields, or have a choice of values; see below
        assert Config.from_json(changed) != Config(), path
        assert Config.from_json(changed).to_json() != Config().to_json()


def bounds(cls: type, path: str = "") -> dict[str, Between]:
    """Bounds of the numbers of a class of options, by place."""
    found: dict[str, Between] = {}
    for name, hint in hints(cls).items():
        metadata, bare = getattr(hint, "__metadata__", ()), getattr(hint, "__origin__", hint)
        if dataclasses.is_dataclass(bare):
            found |= bounds(bare, f"{path}{name}.")
        elif bare in (int, float):
            found |= {f"{path}{name}": item for item in metadata if isinstance(item, Between)}
    return found


def test_there_are_bounds() -> None:
    expected = {"segment_length", "losses.discount", "world_model.sequence.width", "evaluation.episodes"}
    assert expected <= set(bounds(Config))


@pytest.mark.parametrize("path", bounds(Config))
def test_numbers_out_of_bounds_are_named(path: str) -> None:
    low, high = bounds(Config)[path].low, bounds(Config)[path].high
    for value in (low - 1, *([high + 1] if high < 1e9 else [])):
        with pytest.raises(ConfigError, match=path.replace(".", r"\.")):
            Config.from_json(plain(**{path.replace(".", "__"): value}))


def test_missing_fields_take_their_defaults() -> None:
    assert Config.from_json({}) == Config()
    data = plain()
    del data["replay"]["max_steps"]
    assert Config.from_json(data) == Config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, r"config: unknown field 'colour'.*segment_length"),
        ({"replay__colour": "red"}, r"config\.replay: unknown field 'colour'"),
        ({"world_model__sequence__depth": 3}, r"config\.world_model\.sequence: unknown field 'depth'"),
    ],
)
def test_unknown_fields_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_json(plain(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segment_length": "long"}, r'config\.segment_length: expected int, got "long"'),
        ({"segment_length": 16.0}, r"config\.segment_length: expected int"),
        ({"segment_length": True}, r"config\.segment_length: expected int, got true"),
        ({"segment_length": None}, r"config\.segment_length: expected int, got null"),
        ({"actor_critic__separate_networks": 1}, r"config\.actor_critic\.separate_networks: expected bool"),
        ({"losses__discount": "0.9"}, r"config\.losses\.discount: expected float"),
        ({"losses": 3}, r"config\.losses: expected an object .*ActorCriticLossConfig"),
        ({"actor_critic__hidden": 128}, r"config\.actor_critic\.hidden"),
        ({"actor_critic__hidden": [128, "x"]}, r"config\.actor_critic\.hidden\[1\]: expected int"),
        ({"world_model__sequence__decay_blocks": [1.0]}, r"decay_blocks: expected 2 values, got 1"),
        ({"world_model__loss_weights": {"reward": "x"}}, r"config\.world_model\.loss_weights\.reward: expected float"),
        ({"world_model__sequence": {"kind": "attention", "norm": "no"}}, r"norm: expected one of 'pre', 'post'"),
        ({"world_model__heads__termination__num_logits": True}, r"num_logits: expected one of 1, 2, got true"),
        ({"environment__max_episode_steps": 1.5}, r"config\.environment\.max_episode_steps: expected int"),
    ],
)
def test_values_of_a_wrong_type_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_json(plain(**changes))


def test_missing_required_fields_are_named() -> None:
    data = plain()
    del data["world_model_learner"]["learning_rate"]
    with pytest.raises(ConfigError, match=r"config\.world_model_learner: .*'learning_rate'"):
        Config.from_json(data)


def test_json_integers_are_floats_where_floats_are_expected() -> None:
    config = Config.from_json(plain(losses__discount=1, environment__max_episode_steps=7))
    assert config.losses.discount == 1.0 and isinstance(config.losses.discount, float)
    assert config.environment.max_episode_steps == 7
    assert Config.from_json(plain(environment__max_episode_steps=None)) == Config()


def test_free_options_are_kept_as_they_are() -> None:
    kwargs = {"size": [1, {"a": None}], "name": "x"}
    assert Config.from_json(plain(environment__kwargs=kwargs)).environment.kwargs == kwargs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world_model_learner__batch_size": 18}, "must be a multiple of 4: members of an ensemble"),
        ({"segment_length": 1}, "segment_length 1 must exceed world_model.context_length 1"),
        ({"world_model__context_length": 16}, "segment_length 16 must exceed world_model.context_length 16"),
        (
            {"imagination__horizon": 14},
            "context_length 2 and imagination.horizon 14 would make predictions after 16 blocks.*after 15 at most",
        ),
        ({"losses__reward_weights__x": 1.0}, r"reward_weights names \['x'\].*\['disagreement', 'extrinsic'\]"),
        ({"environment__action_repeat": 0}, "action_repeat"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_json(plain(**changes))


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_imagines_beyond_what_was_trained(name: str) -> None:
    """Defect 13: ``Config`` itself refuses it; the longest trajectory that it allows is the one that it names."""
    config = PRESETS[name]()
    assert config.imagination.context_length + config.imagination.horizon < config.segment_length
    longer = dataclasses.replace(config.imagination, horizon=config.segment_length - config.imagination.context_length)
    with pytest.raises(ConfigError, match="would make predictions after"):
        dataclasses.replace(config, imagination=longer)


def test_no_ensemble_and_no_intrinsic_reward_agree() -> None:
    data = plain(losses__reward_weights={"extrinsic": 1.0})
    del data["world_model"]["heads"]["disagreement"], data["world_model"]["loss_weights"]["disagreement"]
    assert Config.from_json(data).world_model.rewards == ("extrinsic",)

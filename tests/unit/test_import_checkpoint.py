"""Published checkpoints become run folders that compute the published numbers; what does not fit is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

import published_environments
from parity.golden import FILES, Golden, read
from parity.published import recompute
from parity.reference.agent import reference
from parity.reference.checkpoint import AgentSize, Checkpoint, arrays, inputs_of, settings_of
from worldstream.api import Agent, evaluate, import_checkpoint
from worldstream.cli import main
from worldstream.errors import ConfigError
from worldstream.importers.names import logit_order
from worldstream.importers.settings import merged
from worldstream.models import Models
from worldstream.presets import PRESETS
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import read_lines
from worldstream.runs.weights import load_run
from worldstream.types import Tokens

KEYS = {
    "dmc": {"observation": "vector"},
    "craftax": {"stats": "vector", "direction": "token", "map": "token_2d"},
    "atari": {"observation": "image"},
}


def checkpoint(name: str, folder: Path, **changes: Any) -> Path:
    """A state dict on disk; ``changes`` replace tensors, None removes one."""
    state = {key: torch.as_tensor(x) for key, x in read(name).weights.items()}
    state = {key: x for key, x in {**state, **changes}.items() if x is not None}
    path = folder / f"{name}.pt"
    torch.save(state, path)
    return path


def settings_file(name: str, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})) -> list[str]:
    """Option that states the sizes of a golden file's agent, with some settings changed."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(merged({**read(name).settings, "policy_convolutions": [8, 4]}, changes)))
    return ["--settings", str(path)]


def imported(name: str, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})) -> Path:
    config = name.split("_")[0]
    file, output = checkpoint(name, folder), folder / "run"
    environment = ["--env", f"published_environments:{config}", "--output", str(output)]
    main(["import-checkpoint", str(file), "--config", config, *environment, *settings_file(name, folder, changes)])
    return output


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as error:
        main(["import-checkpoint", *arguments])
    assert error.value.code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err + captured.out


def expected_outputs(golden: Golden) -> dict[str, Tensor]:
    """What the published agent computes if it executes the levels of its continuous actions, as agents do."""
    outputs = golden.outputs
    if "continuous" in golden.settings["action_space"]:
        levels = ((golden.inputs["actions"] + 1) * 25).round() / 25 - 1
        executed = reference(golden.weights, {**golden.inputs, "actions": levels}, golden.settings)
        outputs = {**outputs, **{name: executed[name] for name in ("policy_logits", "values")}}
    return {name: torch.as_tensor(x) for name, x in outputs.items()}


def compare(models: Models, tokens: Tokens, ids: Tensor, expected: dict[str, Tensor]) -> None:
    """Predictions, rewards, policy and values after tokens, when the actions ``ids`` (B, T, M) are executed."""

    def close(ours: Tensor, published: Tensor) -> None:
        torch.testing.assert_close(ours, published.to(ours.dtype), rtol=1e-4, atol=1e-5)

    model, agent = models.world_model, models.actor_critic
    with torch.no_grad():
        predictions = model.sequence.parallel(model.embed(tokens, ids), model.init_state(len(ids)))[1]
        latents = expected["latents"].unflatten(1, (ids.shape[1], -1))
        close(predictions, latents[:, :, : predictions.shape[2]])
        close(model.heads_of("reward")[0].predict(predictions[:, :, -1:], {}, None)["extrinsic"], expected["reward"])
        act, carry, order = agent.policy(), agent.initial_carry(len(ids)), logit_order(agent.sizes).argsort()
        for t in range(ids.shape[1]):
            features = models.tokenizers.features({key: x[:, t] for key, x in tokens.items()})
            _, carry, info = act(features, carry, None)
            close(info["policy_logits"][:, order], expected["policy_logits"][:, t].flatten(1))
            close(agent.value_output(info["value_logits"]).mean, expected["values"][:, t])
            carry = replace(carry, action=ids[:, t])  # what was executed then


@pytest.mark.parametrize("name", FILES)
def test_an_imported_run_computes_the_published_numbers(name: str, tmp_path: Path) -> None:
    """From observations to tokens, predictions and what the policy does about them."""
    models, golden = load_run(imported(name, tmp_path), "cpu").models, read(name)
    kinds, expected = KEYS[name.split("_")[0]], expected_outputs(golden)
    assert list(models.key_specs) == list(kinds)  # in the order of the published agent
    tokens = {}
    for key, kind in kinds.items():
        x = torch.as_tensor(golden.inputs[f"observations/{kind}"])
        x = 255 * x if kind == "image" else x.unsqueeze(-1) if kind == "token" else x
        tokens[key] = models.tokenizers.by_key[key].encode(x)
        published = expected[f"tokens/{kind}"]
        assert torch.equal(tokens[key], published if kind == "token_2d" else published.unsqueeze(-1))
    actions = torch.as_tensor(golden.inputs["actions"])
    ids = actions.unsqueeze(-1) if actions.ndim == 2 else ((actions + 1) * 25).round().long()
    compare(models, tokens, ids, expected)


@pytest.mark.parametrize("name", FILES)
def test_an_imported_run_is_evaluated_and_reported(name: str, tmp_path: Path) -> None:
    run = imported(name, tmp_path)
    main(["evaluate", str(run), "--episodes", "2", "--device", "cpu"])
    (record,) = read_lines(RunFolder(run).evaluations)
    assert (record["steps"], record["final"], record["episodes"], record["return_mean"]) == (0, True, 2, 10.0)
    main(["report", str(run)])
    text = RunFolder(run).report.read_text()
    assert text.count('src="data:image/png') >= 3  # returns, errors, and an episode beside the dreamed one
    assert "<td>10</td>" in text and "was imported" in text
    assert not re.search("ended before|No evaluation|No recorded|Every recorded", text)
    assert Agent.load(run, device="cpu").models.world_model.config.slot_embedding is False


def test_reports_of_imported_runs_say_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = imported("dmc_retnet", tmp_path)
    main(["report", str(run)])
    text = RunFolder(run).report.read_text()
    assert "No evaluation was recorded yet" in text and "when an imported one is evaluated" in text
    with pytest.raises(SystemExit):
        main(["evaluate", str(run), "--best"])
    assert "it was imported, and has one set of them" in capsys.readouterr().err


def test_reports_of_imported_runs_state_no_training(tmp_path: Path) -> None:
    run = imported("dmc_retnet", tmp_path)
    main(["report", str(run)])
    (protocol,) = re.findall("<h2>Protocol</h2>.*?</section>", RunFolder(run).report.read_text(), re.DOTALL)
    told = ("imported (published-dmc); their training is not recorded here", "discount per step", "&quot;width&quot;: ")
    assert all(text in protocol for text in (*told, "&quot;temperature&quot;: 0.5", "torch "))
    training = (
        "updates|seed|device|steps<|wall time|preset|learn|replay|collection|epsilon|sampler|entropy|every_|at the end"
    )
    assert not re.search(training, protocol), re.search(training, protocol)


ELSEWHERE = "the environment is 'published_environments:dmc_again', not 'published_environments:dmc'"
WARMER = "the temperature is 1.0, not 0.5"


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (["--temperature", "1"], f"not noted in the run: {WARMER}."),
        (["--env", "published_environments:dmc_again"], f"not noted in the run: {ELSEWHERE}."),
        (
            ["--env", "published_environments:dmc_again", "--temperature", "1"],
            f"not noted in the run: {ELSEWHERE} and {WARMER}.",
        ),
        (["--env", "published_environments:dmc", "--temperature", "0.5"], "noted, with episodes."),
    ],
)
def test_an_evaluation_is_noted_where_it_is_the_one_of_the_run(
    options: list[str], note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = imported("dmc_retnet", tmp_path)
    capsys.readouterr()
    main(["evaluate", str(run), "--episodes", "1", "--device", "cpu", *options])
    shown = " ".join(capsys.readouterr().out.split())
    assert note in shown and ("not noted" in note) == ("not noted" in shown)
    assert len(read_lines(RunFolder(run).evaluations)) == ("not noted" not in note)


def test_python_evaluates_as_the_command_line_does(tmp_path: Path) -> None:
    run = imported("dmc_retnet", tmp_path)
    result = evaluate(run, environment=published_environments.dmc, episodes=2, temperature=0.5, device="cpu")
    assert (result.environment, result.evaluation.returns) == ("published_environments:dmc", [10.0, 10.0])
    (record,) = read_lines(RunFolder(run).evaluations)
    assert result.evaluation.summary.items() <= record.items() and "noted, with episodes" in result.note
    for mistake in ({"episodes": 0}, {"seed": -1}, {"temperature": -1.0}, {"environment": "CartPole-v1"}):
        with pytest.raises(ConfigError):
            evaluate(run, device="cpu", **mistake)


def test_a_folder_that_cannot_be_written_costs_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    run = imported("dmc_retnet", tmp_path)
    monkeypatch.setattr("worldstream.runs.files.os.replace", full)
    result = evaluate(run, episodes=1, device="cpu")
    assert result.evaluation.returns == [10.0]
    assert re.search(r"not noted in the run: .*episodes\.safetensors: No space left", result.note)


def test_several_vectors_are_read_one_behind_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, run = checkpoint("dmc_retnet", tmp_path), tmp_path / "run"
    environment, settings = "published_environments:dmc_in_two_keys", settings_file("dmc_retnet", tmp_path)
    main(["import-checkpoint", str(file), "--config", "dmc", "--env", environment, "--output", str(run), *settings])
    printed = " ".join(capsys.readouterr().out.split())
    assert "reads a_position, b_velocity one behind the other as one vector, in this order" in printed
    models, golden = load_run(run, "cpu").models, read("dmc_retnet")
    ids = torch.as_tensor(golden.outputs["tokens/vector"]).unsqueeze(-1)
    tokens = {"a_position": ids[:, :, :3], "b_velocity": ids[:, :, 3:]}
    actions = ((torch.as_tensor(golden.inputs["actions"]) + 1) * 25).round().long()
    embedded = models.world_model.embed(tokens, actions)
    torch.testing.assert_close(embedded, torch.as_tensor(golden.outputs["token_embeddings"]), rtol=1e-4, atol=1e-5)


def test_a_matrix_of_cells_is_read_row_by_row(tmp_path: Path) -> None:
    file, run = checkpoint("craftax_attention", tmp_path), tmp_path / "run"
    environment, settings = "published_environments:craftax_in_a_matrix", settings_file("craftax_attention", tmp_path)
    main(["import-checkpoint", str(file), "--config", "craftax", "--env", environment, "--output", str(run), *settings])
    assert load_run(run, "cpu").models.key_specs["map"].vocabulary == (7, 3, 5, 4)
    main(["evaluate", str(run), "--episodes", "1", "--device", "cpu"])


def test_settings_of_other_agents_are_read(tmp_path: Path) -> None:
    given = {
        "world_model": {"transformer": {"pred_self_mask": "full"}},
        "actor_critic": {"intrinsic_reward_weight": 3},
        "gamma": 0.9,
    }
    config = load_run(imported("dmc_attention", tmp_path, given), "cpu").config
    assert config.world_model.sequence.slots == "full"
    assert (config.losses.discount, config.losses.lambda_) == (0.9, 0.95)
    assert config.losses.reward_weights == {"extrinsic": 1.0, "disagreement": 3.0}
    spans = {"decay_scale_max_num_blocks": 5}
    (tmp_path / "retention").mkdir()
    other = load_run(imported("dmc_retnet", tmp_path / "retention", {"world_model": {"retnet": spans}}), "cpu").config
    assert other.world_model.sequence.decay_blocks == (2.0, 5.0)  # what is not given is as published


@pytest.mark.parametrize(("size", "value", "shown"), [("embed_dim", 65536, 32), ("num_layers", 1000, 2)])
@pytest.mark.parametrize("name", ["dmc_retnet", "atari_attention"])
def test_settings_far_beyond_the_tensors_are_refused_before_they_take_memory(
    name: str, size: str, value: int, shown: int, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("worldstream.importers.checkpoint.MOST_UNLIKE", 0)
    monkeypatch.setattr("worldstream.importers.checkpoint.load_published", None)  # not reached
    config, part = name.split("_")[0], "transformer" if "attention" in name else "retnet"
    stated = settings_file(name, tmp_path, {"world_model": {part: {size: value}}})
    environment = ["--env", f"published_environments:{config}", "--output", str(tmp_path / "run")]
    message = fails(capsys, str(checkpoint(name, tmp_path)), "--config", config, *environment, *stated)
    message = " ".join(message.split())
    assert f"world_model.{part}.{size} {shown} instead of {value}" in message and "does not fit" in message


def test_sizes_that_are_not_as_published_are_named_with_their_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the message says to state is all that it takes."""
    for name in ("dmc_retnet", "atari_retnet", "craftax_attention"):
        config, part = name.split("_")[0], "transformer" if "attention" in name else "retnet"
        file, environment = checkpoint(name, tmp_path), f"published_environments:{name.split('_')[0]}"
        arguments = [str(file), "--config", config, "--env", environment, "--output", str(tmp_path / name)]
        message = " ".join(fails(capsys, *arguments).split())
        assert f"world_model.{part}.embed_dim 32 instead of" in message
        assert f"world_model.{part}.num_layers 2 instead of" in message
        given: dict[str, Any] = {}
        for place, value in re.findall(r"([\w.]+) (\d+|\[[\d, ]+\]) instead of", message):
            *parents, last = place.split(".")
            below = given
            for parent in parents:
                below = below.setdefault(parent, {})
            below[last] = json.loads(value)
        settings = tmp_path / "settings.json"
        settings.write_text(json.dumps(given))
        main(["import-checkpoint", *arguments, "--settings", str(settings)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "holds no object of settings"),
        ('{"world_model": 3}', "settings.world_model: expected an object"),
        ('{"gamma": "much"}', 'settings.gamma: expected float, got "much"'),
        ('{"gamma": 7}', "gamma must be between 0 and 1, not 7"),
        ('{"gamma": NaN}', "gamma must be a finite number, not nan"),
        (f'{{"actor_critic": {{"real_reward_weight": 1{400 * "0"}}}}}', "real_reward_weight: expected float, got 1000"),
        ('{"world_model": {"context_length": 0}}', "context_length must be between 1 and 1000, not 0"),
        ('{"world_model": {"context_length": 1.5}}', "context_length: expected int, got 1.5"),
        (
            '{"world_model": {"retnet": {"decay_scale_min_num_blocks": 0}}}',
            "decay_scale_min_num_blocks must be at least 1, not 0",
        ),
        (
            '{"world_model": {"transformer": {"pred_self_mask": "none"}}}',
            "pred_self_mask: expected one of 'causal', 'full'",
        ),
        ('{"world_model": {"tokenize_actions": false}}', "tokenize_actions 'False' cannot be read"),
        ('{"actor_critic": {"rnn_type": "gru"}}', "rnn_type 'gru' cannot be read, only those with 'lstm'"),
        ('{"world_model": {"shared_embeddings": "false"}}', 'shared_embeddings: expected bool, got "false"'),
        ('{"world_model": {"tokenize_actions": 1}}', "tokenize_actions: expected bool, got 1"),
        ('{"world_model": {"context_lenght": 3}}', "have 'context_lenght' below 'world_model'. Did you mean"),
        ('{"world_model": {"context_lenght": 3}}', "Did you mean 'context_length' below 'world_model'?"),
        ('{"worldmodel": {}}', "Did you mean 'world_model' at the top?"),
        ('{"colour": 1}', "'colour' at the top. No published agent has that; those that are read are action_repeat,"),
        (
            '{"decay_scale_min_num_blocks": 1}',
            "at the top. 'decay_scale_min_num_blocks' belongs below 'world_model.retnet'",
        ),
        ('{"actor_critic": {"gamma": 0.9}}', "'gamma' below 'actor_critic'. 'gamma' belongs at the top"),
        ('{"retnet": {"decay_scale_min_num_blocks": 1}}', "'retnet' at the top. 'retnet' belongs below 'world_model'"),
        ('{"world_model.context_length": 3}', "'context_length' belongs below 'world_model'"),
        (
            '{"world_model": {"retnet": {"decay_scale_min_num_blocks": 8}}}',
            "min_num_blocks is 8, more than decay_scale_max",
        ),
        ('{"horizon": 0}', "horizon must be between 1 and 1000, not 0"),
        ('{"burn_in": 1.5}', "burn_in: expected int, got 1.5"),
        ('{"batch_size": 30}', "batch_size is 30; it must be a multiple of the 4 members"),
        ('{"segment_length": 3, "world_model": {"context_length": 3}}', "segment_length 3 must exceed"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(text)
    file = checkpoint("dmc_retnet", tmp_path)
    environment = "published_environments:dmc"
    found = fails(capsys, str(file), "--config", "dmc", "--env", environment, "--settings", str(settings))
    assert message in " ".join(found.split())


def test_settings_of_training_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"segment_length": 7, "batch_size": 12, "horizon": 3, "burn_in": 4, "action_repeat": 1}
    config = load_run(imported("dmc_retnet", tmp_path, given), "cpu").config
    assert (config.segment_length, config.world_model_learner.batch_size) == (7, 12)
    assert (config.imagination.horizon, config.imagination.burn_in) == (3, 4)
    assert config.environment.action_repeat == 1
    assert "repeated" not in capsys.readouterr().out


def test_repeated_actions_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_run(imported("dmc_retnet", tmp_path), "cpu").config.environment.action_repeat == 2
    assert "each action is repeated for 2 frames, as in training" in " ".join(capsys.readouterr().out.split())


def test_a_column_of_cells_is_told_from_a_list_of_tokens(tmp_path: Path) -> None:
    """With the same number of channels, the shape of the space decides."""
    size = AgentSize(spaces={"token": [4] * 3, "token_2d": [[6]] * 5}, actions={"discrete": 2}, attention=True)
    file = tmp_path / "checkpoint.pt"
    torch.save(Checkpoint(size).weights, file)
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(settings_of(size)))
    environment, run = "published_environments:columns", tmp_path / "run"
    import_checkpoint(file, published="craftax", environment=environment, settings=settings, output=run, quiet=True)
    specs = load_run(run, "cpu").models.key_specs
    assert {key: spec.vocabulary for key, spec in specs.items()} == {"row": (4,), "column": (6,)}


LISTS = {"spaces": {"vector": [3], "token": [5] * 4}, "actions": {"discrete": 2}}


@pytest.mark.parametrize("attention", [False, True])
def test_lists_of_categories_are_tokens(attention: bool, tmp_path: Path) -> None:
    """Each of their entries is a token, and several keys of them stand one behind the other."""
    size = AgentSize(**LISTS, attention=attention)
    weights, inputs = Checkpoint(size).weights, inputs_of(size)
    file, run = tmp_path / "checkpoint.pt", tmp_path / "run"
    torch.save(weights, file)
    settings = tmp_path / "settings.json"  # the published ones of --config craftax are others
    settings.write_text(json.dumps(settings_of(size)))
    environment = "published_environments:lists"
    import_checkpoint(file, published="craftax", environment=environment, settings=settings, output=run, quiet=True)
    models = load_run(run, "cpu").models
    assert list(models.key_specs) == ["table", "cards", "suit"]
    ids = inputs["observations/token"].unsqueeze(-1)
    observed = {"table": inputs["observations/vector"], "cards": ids[:, :, :3], "suit": ids[:, :, 3:]}
    tokens = {key: models.tokenizers.by_key[key].encode(x) for key, x in observed.items()}
    expected = recompute(arrays(weights), arrays(inputs), settings_of(size))
    expected_tensors = {name: torch.as_tensor(x) for name, x in expected.items()}
    compare(models, tokens, inputs["actions"].unsqueeze(-1), expected_tensors)
    main(["evaluate", str(run), "--episodes", "1", "--device", "cpu"])
    main(["report", str(run)])


def test_lists_of_other_categories_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, settings = tmp_path / "checkpoint.pt", tmp_path / "settings.json"
    torch.save(Checkpoint(AgentSize(**LISTS)).weights, file)
    settings.write_text(json.dumps(settings_of(AgentSize(**LISTS))))
    environment = ["--env", "published_environments:longer_lists"]
    found = fails(capsys, str(file), "--config", "craftax", *environment, "--settings", str(settings))
    assert "obs_embeddings.token.weight is (5, 32), not (6, 32)" in " ".join(found.split())


def test_tensors_that_are_no_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "world_model.head_ends.0.weight"
    settings = settings_file("dmc_retnet", tmp_path)
    for odd in (torch.eye(32).to_sparse(), torch.full((32, 32), torch.nan), torch.eye(32, dtype=torch.complex64)):
        file = checkpoint("dmc_retnet", tmp_path, **{name: odd})
        assert name in fails(capsys, str(file), "--config", "dmc", "--env", "published_environments:dmc", *settings)


def test_training_of_an_imported_run_cannot_be_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = imported("dmc_retnet", tmp_path)
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(run)])
    assert "was imported" in capsys.readouterr().err


def test_an_imported_run_claims_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = RunFolder(imported("dmc_retnet", tmp_path)).read_description()
    assert [description[name] for name in ("origin", "seed", "steps", "device")] == ["imported", None, None, None]
    file = checkpoint("dmc_retnet", tmp_path)
    monkeypatch.chdir(tmp_path)
    environment, settings = "published_environments:dmc", settings_file("dmc_retnet", tmp_path)[1]
    path = import_checkpoint(file, published="dmc", environment=environment, settings=settings, quiet=True)
    assert path == tmp_path / "runs" / "published_environments_dmc-published-dmc"


def test_an_imported_run_cannot_be_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(imported("dmc_retnet", tmp_path))])
    assert "was imported" in capsys.readouterr().err


def test_tensors_that_do_not_fit_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {
        "world_model.head_ends.1.bias": None,
        "world_model.head_rewards.head.linear.weight": torch.zeros(3, 2),
        "actor_critic.oracle": torch.zeros(1),
    }
    file = checkpoint("dmc_attention", tmp_path, **changes)
    arguments = [str(file), "--config", "dmc", "--env", "published_environments:dmc", "--output", str(tmp_path / "r")]
    message = fails(capsys, *arguments, *settings_file("dmc_attention", tmp_path))
    assert "Missing: world_model.head_ends.1.bias (32,)." in message
    assert "world_model.head_rewards.head.linear.weight is (3, 2), not (129, 64)" in message
    assert "Unknown: actor_critic.oracle." in message
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("name", "config", "environment", "message"),
    [
        ("dmc_retnet", "dmc", "published_environments:craftax", r"observes vector; .*'direction' \(token"),
        ("dmc_retnet", "dmc", "CartPole-v1", r"chooses levels of 2 dimensions; 'CartPole-v1' takes discrete \(2,\)"),
        ("dmc_retnet", "dmc", "Pendulum-v1", r"chooses levels of 2 dimensions; .* takes continuous \(51,\)"),
        ("dmc_retnet", "atari", "published_environments:dmc", r"observes vector and chooses levels.* Use --config dmc"),
        ("craftax_retnet", "dmc", "published_environments:craftax", r"chooses categories.* Use --config craftax"),
        ("atari_retnet", "craftax", "published_environments:atari", r"observes image .* Use --config atari"),
        ("craftax_retnet", "craftax", "CartPole-v1", "observes vector, token, token_2d; the keys of 'CartPole-v1'"),
        ("dmc_retnet", "doom", "CartPole-v1", "unknown published configuration 'doom'. Available: atari, dmc, craftax"),
        ("dmc_retnet", "dmc", "CartPol-v1", "Nearest names: CartPole"),
    ],
)
def test_what_does_not_match_is_named(
    name: str, config: str, environment: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkpoint(name, tmp_path)
    found = fails(capsys, str(file), "--config", config, "--env", environment, "--output", str(tmp_path / "run"))
    assert re.search(message, " ".join(found.split()))


def test_files_that_are_no_state_dict_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "executed").touch, ())

    def message(content: Any) -> str:
        file = tmp_path / "file.pt"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        return fails(capsys, str(file), "--config", "dmc", "--env", "published_environments:dmc")

    assert "holds more than tensors" in message(Code())
    assert not (tmp_path / "executed").exists()
    assert "no state dict of PyTorch" in message(b"not at all")
    assert "no state dict of PyTorch" in message(b"")
    assert "not tensors by name" in message([torch.zeros(1)])
    assert "'epoch' (int)" in message({"w": torch.zeros(1), "epoch": 3})
    assert "no published agent's checkpoint" in message({"w": torch.zeros(1)})
    assert "No such file" in fails(capsys, str(tmp_path / "none.pt"), "--config", "dmc", "--env", "clock")


def test_games_are_played_as_published(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    file = checkpoint("atari_attention", tmp_path)  # six actions, as the minimal set of Pong has
    arguments = [str(file), "--config", "atari", "--env", "Pong", "--output", str(tmp_path / "run")]
    main(["import-checkpoint", *arguments, *settings_file("atari_attention", tmp_path)])
    run = load_run(tmp_path / "run", "cpu")
    assert run.config.environment == PRESETS["atari100k"]().environment
    protocol = RunFolder(tmp_path / "run").read_description()["protocol"]
    assert protocol["evaluation"]["temperature"] == 0.5
    assert run.models.action_spec.sizes == (6,)


def test_games_with_other_actions_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ale_py")
    file = checkpoint("atari_attention", tmp_path)
    message = fails(capsys, str(file), "--config", "atari", "--env", "Breakout", "--output", str(tmp_path / "run"))
    assert "chooses one of 6 actions; 'Breakout' takes discrete (4,)" in " ".join(message.split())

"""Diagnosis of a world model: baselines in closed form, a perfect model passes, an untrained one is flagged."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tiny import tiny_config
from worldstream.environments import VectorEnvironment, make_environment, resolve
from worldstream.errors import ConfigError
from worldstream.evaluation import simulator, verdicts
from worldstream.evaluation.baselines import KeyStatistics, PlayStatistics
from worldstream.evaluation.calibration import calibrate, correlation
from worldstream.evaluation.diagnose import diagnose_play, diagnose_plays
from worldstream.evaluation.diagnosis import AGENT, RANDOM, Diagnosis, DiagnosisConfig
from worldstream.evaluation.episodes import RecordedEpisode, record_episodes
from worldstream.evaluation.openloop import cut_windows, follow
from worldstream.evaluation.random_play import RandomActor
from worldstream.evaluation.simulator import TrueWorld, learn_in_truth
from worldstream.evaluation.verdicts import findings, remedies
from worldstream.models import Models
from worldstream.specs import TokenSpec
from worldstream.training.experiment import Experiment
from worldstream.types import EXTRINSIC, Batch
from worldstream.world_model.model import Imagined, WorldModelLosses

TINY = tiny_config()
CONFIG = replace(TINY, actor_critic_learner=replace(TINY.actor_critic_learner, batch_size=3))
EXPERIMENT = Experiment.of("clock", CONFIG)
FEW = DiagnosisConfig(episodes=4, min_steps=1, steps=3, samples=12)


@pytest.fixture(scope="module")
def models() -> Models:
    torch.manual_seed(0)
    with VectorEnvironment(resolve("clock")) as vector:
        models = Models(CONFIG, vector.observation_specs, vector.action_spec).eval()
    models.tokenizers.fit({"step": np.arange(11, dtype=np.float32)[:, None], "phase": np.zeros((11, 1), np.uint8)})
    return models


@pytest.fixture(scope="module")
def episodes(models: Models) -> list[RecordedEpisode]:
    config = replace(CONFIG, evaluation=replace(CONFIG.evaluation, num_environments=2))
    return record_episodes(models, Experiment.of("clock", config), 8)  # half of them terminate


class PerfectClock:
    """Stands in for a world model: knows the rules of the clock, and when the episodes at hand end."""

    def __init__(self, models: Models, *, terminates: bool) -> None:
        self.models, self.terminates = models, terminates

    def train(self, mode: bool = True) -> PerfectClock:
        return self

    def losses(self, batch: Batch) -> WorldModelLosses:
        return WorldModelLosses(torch.zeros(()), {"observation": torch.zeros(())}, torch.zeros(len(batch.anchors)))

    def warm_up(self, tokens: dict[str, Tensor], actions: Tensor) -> None:
        return None

    def foresee(self, tokens: dict[str, Tensor], actions: Tensor, state: None, **_: Any) -> tuple[Imagined, None]:
        decoded = self.models.tokenizers.decode(tokens)
        raw = {key: self.models.tokenizers.modalities[key].unload(x) for key, x in decoded.items()}
        step = np.rint(raw["step"])
        reward = torch.as_tensor(step[:, 0]) + actions[:, 0] / 10
        ends = torch.as_tensor((step[:, 0] == 9) & self.terminates)
        following = {"step": step + 1, "phase": (raw["phase"] + 1) % 4}
        return Imagined(self.models.tokenizers.encode(following), {EXTRINSIC: reward}, ends.float()), None

    def step(
        self, tokens: dict[str, Tensor], actions: Tensor, state: None, generator: Any, **_: Any
    ) -> tuple[Imagined, None]:
        return self.foresee(tokens, actions, state)


def test_the_copy_of_a_static_stream_has_its_closed_form() -> None:
    spec = TokenSpec(num_tokens=3, vocabulary=(5, 2, 1))
    still = torch.tensor([[4, 1, 0], [0, 0, 0], [2, 1, 0]]).expand(11, 3, 3)
    statistics = KeyStatistics.of(spec, [still, still[:6]])  # 17 frames, 15 steps
    assert statistics.copy_nats(still[1:], still[:-1]).tolist() == pytest.approx([-6 * math.log(16 / 17)] * 10)
    marginal = -3 * (math.log((17 + 1 / 5) / 18) + math.log((17 + 1 / 2) / 18))
    assert statistics.marginal_nats(still).tolist() == pytest.approx([marginal] * 11)
    assert statistics.known(still).all()
    assert statistics.known(still.flip(1)).tolist() == [[False, True, False]] * 11, "seen, but at another place"


def test_baselines_are_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    spec, ids = TokenSpec(num_tokens=1, vocabulary=(7,)), torch.arange(7).view(7, 1, 1)
    statistics = KeyStatistics.of(spec, [torch.randint(5, (20, 1, 1), generator=generator)])
    assert float((-statistics.marginal_nats(ids)).exp().sum()) == pytest.approx(1.0)
    for before in range(7):
        nats = statistics.copy_nats(ids, torch.full_like(ids, before))
        assert float((-nats).exp().sum()) == pytest.approx(1.0)


def test_keys_add_up() -> None:
    specs = {key: TokenSpec(num_tokens=2, vocabulary=(3,)) for key in "ab"}
    ids = torch.randint(3, (9, 2, 1), generator=torch.Generator().manual_seed(0))
    both = PlayStatistics.of(specs, [dict.fromkeys("ab", ids)])
    alone = KeyStatistics.of(specs["a"], [ids])
    frames = dict.fromkeys("ab", ids[None])
    assert torch.allclose(both.marginal_nats(frames), 2 * alone.marginal_nats(ids[None]))
    assert torch.allclose(both.copy_nats(frames), 2 * alone.copy_nats(ids[None, 1:], ids[None, :-1]))
    assert both.valid(frames).all()


def test_calibration() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(4000)
    came = (rng.random(4000) < probability).astype(float)
    found = calibrate(probability, came)
    assert found.error < 0.03 and sum(count for count, _, _ in found.bins) == found.count == 4000
    assert calibrate(np.clip(probability + 0.3, 0, 1.3), came).error == pytest.approx(0.3, abs=0.03)
    constant = calibrate(np.full(10, 2.0), np.full(10, 1.0))
    assert constant.bins == ((10, 2.0, 1.0),) and constant.error == 1.0 and math.isnan(constant.correlation)
    assert correlation(np.ones(5), np.arange(5.0)) == 0.0, "what does not vary foretells nothing"


def test_a_perfect_model_passes(
    models: Models, episodes: list[RecordedEpisode], monkeypatch: pytest.MonkeyPatch
) -> None:
    for terminates in (True, False):
        monkeypatch.setitem(models._modules, "world_model", PerfectClock(models, terminates=terminates))
        chosen = [episode for episode in episodes if episode.terminated == terminates]
        play = diagnose_play(models, CONFIG, chosen, DiagnosisConfig(samples=1000))
        assert play.nats == 0.0 < play.baseline_nats
        for errors in (play.wrong_tokens, *play.observations.values()):
            reached = [not math.isnan(x) for x in errors.copy]
            assert np.allclose(np.array(errors.sampled)[reached], 0.0, atol=1e-4)
            assert np.allclose(np.array(errors.likeliest)[reached], 0.0, atol=1e-4)
        assert all(value == pytest.approx(1.0) or math.isnan(value) for value in play.reward_correlation)
        assert play.rewards.error == pytest.approx(0.0, abs=1e-4)
        assert play.ends.error == play.imagined_ends.error == 0.0
        assert play.ends.true == (pytest.approx(1 / 8, abs=0.1) if terminates else 0.0)
        lines = findings(Diagnosis("clock", FEW, {AGENT: play}, None))
        assert not remedies(lines), lines


def test_an_untrained_model_is_flagged(models: Models) -> None:
    plays = diagnose_plays(models, EXPERIMENT, FEW)
    assert list(plays) == [AGENT, RANDOM]
    lines = {line.name: line for line in findings(Diagnosis("clock", FEW, plays, None))}
    assert lines["nats a frame / best baseline"].verdict == "bad"
    assert lines["valid frames, step 1 / real"].verdict == "bad"
    assert lines["mean reward / true, real frames"].verdict == "bad"
    again = diagnose_plays(models, EXPERIMENT, FEW)
    assert repr(again) == repr(plays), "the same seed says the same"
    other = diagnose_plays(models, replace(EXPERIMENT, seed=1), FEW)
    assert repr(other) != repr(plays)


@pytest.mark.parametrize(
    ("chance", "believed", "verdict"),
    [(1 / 50, 0.0, "bad"), (1 / 50, 1 / 50, "good"), (0.0, 0.12, "bad"), (0.0, 0.0, "good"), (1 / 50, 0.05, "weak")],
)
def test_ends_that_are_never_or_always_expected_are_flagged(chance: float, believed: float, verdict: str) -> None:
    came = (np.arange(1000) % 50 == 7) if chance else np.zeros(1000, bool)
    found = calibrate(np.full(1000, believed), came.astype(float))
    assert verdicts._ends(found)[1] == verdict


def test_play_is_as_in_training(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """The world model has learned no other protocol than that, such as clipped rewards."""
    config = replace(CONFIG, environment=replace(CONFIG.environment, evaluation_kwargs={"episode_length": 4}))
    lengths = []
    monkeypatch.setattr(
        "worldstream.evaluation.diagnose.diagnose_play",
        lambda models, config, episodes, *rest: lengths.extend(episode.length for episode in episodes),
    )
    diagnose_plays(models, Experiment.of("clock", config), FEW)
    assert len(lengths) >= 8 and 4 not in lengths


def test_settings_that_are_named_exist() -> None:
    meanings = [value for name, value in vars(verdicts).items() if name.isupper() and isinstance(value, str)]
    named = {word for text in meanings for word in re.findall(r"[a-z_]+\.[a-z_.]*[a-z_]", text)}
    assert len(meanings) >= 8 and len(named) >= 6
    for setting in named:
        found: Any = CONFIG
        for part in setting.split("."):
            found = getattr(found, part)


def test_nats_are_those_of_the_loss(models: Models, episodes: list[RecordedEpisode]) -> None:
    play = diagnose_play(models, CONFIG, episodes[:2], FEW)
    length, unread = CONFIG.segment_length, CONFIG.world_model.context_length
    shares = CONFIG.world_model.batch_shares
    whole = cut_windows(models, [episodes[1]], [(0, 0)] * shares, before=0, after=length - 1)
    with torch.no_grad():
        mean = models.world_model.losses(whole).means["observation"]
    assert play.frames == episodes[1].length + 1 - unread
    assert play.nats == pytest.approx(2 * float(mean), rel=1e-4), "two tokens a frame"


def test_forced_steps_see_the_real_frames(models: Models, episodes: list[RecordedEpisode]) -> None:
    windows = cut_windows(models, episodes, [(0, 3), (1, 3)], before=2, after=4)
    forced = follow(models.world_model, windows, context=2, likeliest=True, forced=True)
    later = follow(models.world_model, windows, context=4, likeliest=True)
    assert torch.allclose(forced.rewards[EXTRINSIC][:, 2], later.rewards[EXTRINSIC][:, 0], atol=1e-5)
    assert torch.allclose(forced.terminated[:, 2], later.terminated[:, 0], atol=1e-5)
    assert all(torch.equal(forced.tokens[key][:, 2], later.tokens[key][:, 0]) for key in later.tokens)


def test_what_is_foreseen_is_most_often_sampled(models: Models, episodes: list[RecordedEpisode]) -> None:
    windows = cut_windows(models, episodes, [(0, 3)] * 4000, before=2, after=1)
    generator = torch.Generator().manual_seed(0)
    sampled = follow(models.world_model, windows, context=2, generator=generator)
    foreseen = follow(models.world_model, windows, context=2, likeliest=True)
    assert float(sampled.terminated.float().mean()) == pytest.approx(float(foreseen.terminated[0, 0]), abs=0.03)
    ids, phase = sampled.tokens["phase"].flatten(), foreseen.tokens["phase"][0].flatten()
    assert ids.bincount().max() - (ids == phase).sum() < 200


def test_where_episodes_are_short_there_are_more(models: Models) -> None:
    play = diagnose_plays(models, EXPERIMENT, replace(FEW, min_steps=80))[AGENT]
    assert play.frames == 4 * (11 - CONFIG.world_model.context_length), "8 episodes of 10 steps, half of them measure"


def test_short_episodes_are_refused(models: Models, episodes: list[RecordedEpisode]) -> None:
    with pytest.raises(ConfigError, match="held-out episode"):
        brief = [
            dataclasses.replace(
                episode,
                observations={key: x[:2] for key, x in episode.observations.items()},
                actions=episode.actions[:1],
                rewards=episode.rewards[:1],
            )
            for episode in episodes
        ]
        diagnose_play(models, CONFIG, brief, FEW)


@pytest.mark.parametrize("hold", [False, True])
def test_random_play(hold: bool) -> None:
    device = torch.device("cpu")
    policy = RandomActor((3, 2), hold=hold, seed=0, device=device).policy(0.5)
    carry, played = RandomActor((3, 2), hold=hold, seed=0, device=device).initial_carry(50), []
    for _ in range(40):
        action, carry, _ = policy({}, carry, None)
        played.append(action)
    actions = torch.stack(played)
    assert (actions >= 0).all() and (actions < torch.tensor([3, 2])).all()
    assert all(abs(float((actions[..., 0] == value).float().mean()) - 1 / 3) < 0.1 for value in range(3))
    same = float((actions[1:] == actions[:-1]).all(-1).float().mean())
    assert same > 0.4 if hold else abs(same - 1 / 6) < 0.03


def test_the_true_world_follows_the_environment(models: Models) -> None:
    environment = make_environment("clock")
    first, _ = environment.reset(seed=3)
    tokens = models.tokenizers.encode({key: np.stack([value] * 2) for key, value in first.items()})
    world, state = TrueWorld(environment, models.tokenizers), [environment.saved_state] * 2
    for step in range(12):
        imagined, state = world.step(tokens, torch.tensor([[0], [2]]), state)
        expected = [step, step + 0.2] if step < 10 else [0.0, 0.0]
        assert imagined.rewards[EXTRINSIC].tolist() == pytest.approx(expected)
        assert imagined.terminated.tolist() == [step == 9] * 2, "the first episode terminates"
        tokens = imagined.tokens
    shown = models.tokenizers.modalities["step"].unload(models.tokenizers.decode(tokens)["step"])
    assert shown.flatten().tolist() == pytest.approx([10, 10], abs=0.2), "what has ended stays"


def test_an_agent_learns_in_the_true_environment(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator, "NUM_MOMENTS", 12)
    options = DiagnosisConfig(simulator_updates=2, simulator_episodes=2)
    before = {name: x.clone() for name, x in models.state_dict().items()}
    result = learn_in_truth(models, EXPERIMENT, options)
    assert result.updates == 2 and 45 <= result.before <= 47.01 and 45 <= result.after <= 47.01
    assert all(torch.equal(x, before[name]) for name, x in models.state_dict().items()), "a copy learned"
    assert learn_in_truth(models, EXPERIMENT, options) == result


def test_an_environment_without_a_state_is_refused(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldstream.environments.state.save", lambda environment: None)
    with pytest.raises(ConfigError, match="cannot give its state"):
        learn_in_truth(models, EXPERIMENT, DiagnosisConfig(simulator_updates=1, simulator_episodes=1))

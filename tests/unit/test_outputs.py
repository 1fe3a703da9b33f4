"""Distributions that heads return, against torch.distributions and the golden values of the published code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from worldstream.agent.actor_critic import VALUE_LIMIT
from worldstream.errors import ConfigError
from worldstream.nn import SCALAR_OUTPUTS
from worldstream.nn.numerics import symexp, symlog
from worldstream.nn.outputs import Bernoulli, FactoredCategorical, channel_groups, draw_index
from worldstream.nn.scalars import HLGaussHead, SquaredError, SquaredErrorHead, SymlogHLGauss, SymlogHLGaussHead
from worldstream.world_model.heads.reward import REWARD_LIMIT

VOCABULARIES = st.lists(st.integers(1, 6), min_size=1, max_size=6).map(tuple)


def references(logits: Tensor, vocabulary: tuple[int, ...]) -> list[torch.distributions.Categorical]:
    groups = channel_groups(vocabulary)
    runs = logits.split([count * size for count, size in groups], -1)
    return [
        torch.distributions.Categorical(logits=run.unflatten(-1, (size, count))[..., channel])
        for run, (count, size) in zip(runs, groups, strict=True)
        for channel in range(count)
    ]


# Factored categoricals.


@given(vocabulary=VOCABULARIES, seed=st.integers(0, 999))
def test_factored_categorical_equals_independent_categoricals(vocabulary: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(4, 2, sum(vocabulary), generator=generator)
    ours, theirs = FactoredCategorical(logits, vocabulary), references(logits, vocabulary)
    x = ours.sample(generator)
    assert x.shape == (4, 2, len(vocabulary)) and x.dtype == torch.int64
    assert (x >= 0).all() and (x < torch.tensor(vocabulary)).all()
    log_prob = sum(reference.log_prob(x[..., c]) for c, reference in enumerate(theirs))
    torch.testing.assert_close(ours.log_prob(x), log_prob, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.loss(x), -log_prob, rtol=1e-5, atol=1e-5)
    entropy = torch.stack([reference.entropy() for reference in theirs]).sum(0)
    torch.testing.assert_close(ours.entropy(), entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.mean, torch.cat([reference.probs for reference in theirs], -1))
    assert torch.equal(ours.mode, torch.stack([reference.probs.argmax(-1) for reference in theirs], -1))


def test_channels_of_equal_size_are_grouped() -> None:
    assert channel_groups((3, 3, 5, 3)) == [(2, 3), (1, 5), (1, 3)]


def test_sampling_frequencies(generator: torch.Generator) -> None:
    vocabulary = (3, 3, 5)
    logits = torch.randn(sum(vocabulary), generator=generator)
    samples = FactoredCategorical(logits.expand(20_000, -1), vocabulary).sample(generator)
    for c, reference in enumerate(references(logits, vocabulary)):
        frequencies = samples[:, c].bincount(minlength=vocabulary[c]) / len(samples)
        torch.testing.assert_close(frequencies, reference.probs, atol=0.015, rtol=0)
    together = (samples[:, 0] == 0) & (samples[:, 1] == 0)  # channels are drawn independently
    expected = (samples[:, 0] == 0).float().mean() * (samples[:, 1] == 0).float().mean()
    assert together.float().mean().item() == pytest.approx(expected.item(), abs=0.015)


def test_same_generator_same_sample() -> None:
    output = FactoredCategorical(torch.zeros(50, 8), (4, 4))
    first, second = (output.sample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(output.sample(torch.Generator().manual_seed(4)), first)


def test_extreme_logits_stay_finite(generator: torch.Generator) -> None:
    """C12: no probability is turned into a logarithm."""
    output = FactoredCategorical(torch.tensor([[0.0, 500.0, -1000.0, 0.0]]), (2, 2))
    assert output.log_prob(torch.tensor([[1, 1]])).item() == pytest.approx(-1500)
    assert output.entropy().item() == pytest.approx(0, abs=1e-6)
    assert output.sample(generator).tolist() == [[0, 0]]


def test_temperature_divides_the_logits() -> None:
    output = FactoredCategorical(torch.tensor([[0.0, 1.0, 2.0]]), (3,))
    assert output.with_temperature(0.5).logits.tolist() == [[0.0, 2.0, 4.0]]
    assert output.with_temperature(0.1).entropy() < output.entropy() < output.with_temperature(10.0).entropy()


@given(
    weights=st.lists(st.sampled_from([0.0, 0.0, 1e-30, 1e-3, 0.3, 1.0, 7.0]), min_size=1, max_size=40).filter(any),
    uniform=st.sampled_from([0.0, 2.0**-24, 0.25, 0.5, 1 - 2.0**-23, 1 - 2.0**-24]) | st.floats(0, 0.5, width=32),
)
def test_a_draw_is_in_range_and_possible(weights: list[float], uniform: float) -> None:
    """Whatever number the generator gives in [0, 1), zero probabilities at either end included."""
    probs = torch.tensor(weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, uniform))
        index = draw_index(probs, None)
    assert 0 <= index < len(weights)
    assert probs[index] > 0


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_draws_have_the_leading_shape(shape: tuple[int, ...], generator: torch.Generator) -> None:
    assert draw_index(torch.full((*shape, 4), 0.25), generator).shape == shape


# Bernoulli.


def test_bernoulli_equals_the_reference(generator: torch.Generator) -> None:
    logit = 4 * torch.randn(50, generator=generator)
    ours, theirs = Bernoulli(logit), torch.distributions.Bernoulli(logits=logit)
    for x in (torch.ones(50), torch.zeros(50)):
        torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
        torch.testing.assert_close(ours.loss(x.bool()), -theirs.log_prob(x))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.mean, theirs.probs)
    assert torch.equal(ours.mode, theirs.probs > 0.5)
    sample = Bernoulli(torch.tensor([-1.0, 0.0, 2.0]).expand(20_000, 3)).sample(generator)
    assert sample.dtype == torch.bool
    torch.testing.assert_close(sample.float().mean(0), torch.tensor([-1.0, 0.0, 2.0]).sigmoid(), atol=0.015, rtol=0)


def test_bernoulli_of_extreme_logits_is_finite() -> None:
    output = Bernoulli(torch.tensor([-200.0, 200.0]))
    assert output.loss(torch.tensor([True, False])).tolist() == pytest.approx([200, 200])
    assert output.entropy().isfinite().all()


# docs/method.md, "HL-Gauss".


def reward_head() -> HLGaussHead:
    return HLGaussHead(8, limit=REWARD_LIMIT)


def critic_head() -> HLGaussHead:
    return HLGaussHead(8, limit=VALUE_LIMIT)


def output_for(head: SymlogHLGaussHead, value: float) -> SymlogHLGauss:
    """The output whose prediction is exactly the target distribution of ``value``, after that was seen."""
    head.remember(torch.tensor(value))
    target = head.output(torch.zeros(head.num_logits)).target(torch.tensor(value))
    return head.output(target.clamp(min=1e-30).log())


def test_bins_of_the_reward_head() -> None:
    head = reward_head()
    assert head.num_logits == 129 and head.edges.shape == (130,)
    assert head.edges[0].item() == pytest.approx(-10.39486) and head.edges[-1].item() == pytest.approx(10.39486)
    assert head.edges.diff().tolist() == pytest.approx([0.1611605] * 129, abs=2e-6)
    assert head.sigma == pytest.approx(0.1208704, abs=1e-7)
    assert symexp(head.edges[-1]).item() == pytest.approx(32_690, rel=1e-4)


def test_bins_and_bias_of_the_critic() -> None:
    head = critic_head()
    assert head.edges.diff().tolist() == pytest.approx([0.2325583] * 129, abs=2e-6)
    assert head.sigma == pytest.approx(0.1744187, abs=1e-7)
    bias = head.linear.bias.detach()
    assert bias[[0, 64, 128]].tolist() == pytest.approx([-3, 0, -3])
    torch.testing.assert_close(bias, bias.flip(0))


@pytest.mark.parametrize("num_bins", [65, 128])
def test_other_numbers_of_bins(num_bins: int) -> None:
    head = HLGaussHead(8, limit=VALUE_LIMIT, num_bins=num_bins)
    assert head.num_logits == num_bins and head.edges.shape == (num_bins + 1,)
    assert head.sigma == pytest.approx(0.75 * 2 * VALUE_LIMIT / num_bins)
    for value in (0.0, 1.0, -40.0):
        assert output_for(head, value).mean.item() == pytest.approx(value, rel=1e-2, abs=1e-2)


def test_published_bias_of_the_reward_head() -> None:
    support = symlog(symexp(torch.linspace(-15, 15, 129, dtype=torch.float64)) / 100).float()
    head = HLGaussHead(8, limit=REWARD_LIMIT, bias_support=support)
    assert head.linear.bias[[0, 64, 128]].tolist() == pytest.approx([-2.078972, 0, -2.078972], abs=1e-5)


@pytest.mark.parametrize("make", [reward_head, critic_head])
def test_zero_is_predicted_at_first(make) -> None:
    head = make()
    with torch.no_grad():
        head.linear.weight.zero_()
        value = head(torch.randn(5, 8)).mean
    torch.testing.assert_close(value, torch.zeros(5), atol=1e-5, rtol=0)


def test_target_of_zero() -> None:
    target = reward_head().output(torch.zeros(129)).target(torch.tensor(0.0))
    assert target.argmax() == 64
    largest = target.sort(descending=True).values[:5]
    assert largest.tolist() == pytest.approx([0.4950, 0.2297, 0.2297, 0.0223, 0.0223], abs=5e-5)
    entropy = -(target * target.clamp(min=1e-30).log()).sum()
    assert entropy.item() == pytest.approx(1.2, abs=0.01)


def test_decoding_the_target_of_one() -> None:
    assert output_for(reward_head(), 1.0).mean.item() == pytest.approx(1.0, abs=1e-3)
    published = SymlogHLGaussHead(8, limit=REWARD_LIMIT)
    assert output_for(published, 1.0).mean.item() == pytest.approx(0.99990, abs=1.1e-4)


@pytest.mark.parametrize("chance", [0.5, 0.03, 0.001])
@pytest.mark.parametrize("reward", [1.0, 0.2, -100.0])
def test_rare_rewards_are_read_at_their_expected_value(chance: float, reward: float) -> None:
    """Defect 14: in symlog space a reward of 1 with probability 0.03 was read as 0.02."""
    head = reward_head()
    target = chance * head.output(torch.zeros(129)).target(torch.tensor(reward))
    target += (1 - chance) * head.output(torch.zeros(129)).target(torch.tensor(0.0))
    head.remember(torch.tensor([0.0, reward]))
    assert head.output(target.clamp(min=1e-30).log()).mean.item() == pytest.approx(chance * reward, rel=4e-3, abs=2e-5)


@pytest.mark.parametrize("limit", [REWARD_LIMIT, VALUE_LIMIT])
def test_reading_a_target_neither_gains_nor_loses(limit: float) -> None:
    """symexp of the centres read values 1.8 % too high, which a discount of 0.99 does not stop from growing."""
    head = HLGaussHead(8, limit=limit)
    x = symexp(torch.linspace(-0.8 * limit, 0.8 * limit, 301))
    head.remember(x)
    output = head.output(head.output(torch.zeros(129)).target(x).clamp(min=1e-30).log())
    assert ((output.mean - x).abs() / (1 + x.abs())).max() < 2.5e-3


def test_tails_beyond_what_was_seen_do_not_count() -> None:
    head = reward_head()
    logits = torch.zeros(129)
    logits[64], logits[128] = 10.0, 5.0  # 0.7 % on a reward of 30,000
    assert head.output(logits).mean.abs() < 1e-3
    head.remember(torch.tensor([3e4]))
    assert head.output(logits).mean > 100
    head.remember(torch.tensor([float("nan"), float("inf"), -float("inf")]))
    assert not head.readable[:40].any() and head.readable[-1]
    head.expect(torch.tensor(-1.0), torch.tensor(2.0))  # a range that is forgotten closes again
    assert head.output(logits).mean.abs() < 1e-3
    head.expect(torch.tensor(float("-inf")), torch.tensor(float("inf")))
    assert head.readable.all()


def test_few_bins_are_refused_where_values_between_them_would_grow() -> None:
    with pytest.raises(ConfigError, match="33 bins.*at least 65.*hl_gauss_symlog"):
        HLGaussHead(8, limit=VALUE_LIMIT, num_bins=33)
    assert SymlogHLGaussHead(8, limit=VALUE_LIMIT, num_bins=33).num_logits == 33


def test_what_was_seen_is_part_of_the_state() -> None:
    head, twin = reward_head(), reward_head()
    head.remember(torch.tensor([-2.0, 7.0]))
    twin.load_state_dict(head.state_dict())
    logits = torch.randn(5, 129)
    assert torch.equal(head.output(logits).mean, twin.output(logits).mean)


@pytest.mark.parametrize("make", [reward_head, critic_head])
@given(x=st.floats(-1e4, 1e4, width=32))
def test_targets_decode_to_what_they_encode(make, x: float) -> None:
    output = output_for(make(), x)
    assert symlog(output.mean).item() == pytest.approx(symlog(torch.tensor(x)).item(), abs=2e-3)
    width = 2 * VALUE_LIMIT / 129
    assert symlog(output.mode).item() == pytest.approx(symlog(torch.tensor(x)).item(), abs=width / 2 + 1e-3)


@pytest.mark.parametrize("make", [reward_head, critic_head])
@given(x=st.floats(width=32, allow_nan=False))
def test_targets_far_outside_are_finite(make, x: float) -> None:
    """C13: clamped into the range instead of 0/0, at the end that is nearest."""
    head = make()
    output = head.output(torch.zeros(129))
    target = output.target(torch.tensor([x]))
    assert target.isfinite().all() and (target >= 0).all()
    torch.testing.assert_close(target.sum(-1), torch.ones(1))
    assert output.loss(torch.tensor([x])).isfinite().all()
    if abs(x) > 1e7:
        assert target.argmax() == (128 if x > 0 else 0)


def test_loss_is_cross_entropy_with_the_target(generator: torch.Generator) -> None:
    logits = torch.randn(6, 129, generator=generator)
    x = 20 * torch.randn(6, generator=generator)
    output = reward_head().output(logits)
    expected = torch.nn.functional.cross_entropy(logits, output.target(x), reduction="none")
    torch.testing.assert_close(output.loss(x), expected)
    torch.testing.assert_close(output.entropy(), torch.distributions.Categorical(logits=logits).entropy())
    gap = output_for(reward_head(), 5.0)
    assert gap.loss(torch.tensor(5.0)) < min(gap.loss(torch.tensor(4.0)), gap.loss(torch.tensor(6.0)))


def test_samples_scatter_around_the_target(generator: torch.Generator) -> None:
    head = reward_head()
    logits = output_for(head, 3.0).logits
    samples = symlog(head.output(logits.expand(5000, -1)).sample(generator))
    assert samples.mean().item() == pytest.approx(math.log(4), abs=0.02)
    assert samples.std().item() == pytest.approx(math.hypot(head.sigma, 0.1611605 / math.sqrt(12)), abs=0.01)


# Squared error.


def test_squared_error_in_symlog_space() -> None:
    output = SquaredError(symlog(torch.tensor([[3.0], [-50.0]])))
    torch.testing.assert_close(output.mean, torch.tensor([3.0, -50.0]))
    assert torch.equal(output.mode, output.mean) and torch.equal(output.sample(), output.mean)
    expected = [0.0, (math.log(51) - math.log(3)) ** 2]
    assert output.loss(torch.tensor([3.0, -2.0])).tolist() == pytest.approx(expected)
    assert output.entropy().tolist() == [0, 0]
    assert SquaredErrorHead(8, limit=5.0)(torch.randn(3, 8)).mean.tolist() == [0, 0, 0]


# What all scalar heads share.


@pytest.mark.parametrize("name", SCALAR_OUTPUTS)
def test_scalar_heads_learn_large_and_small_numbers(name: str) -> None:
    head = SCALAR_OUTPUTS[name](16, limit=REWARD_LIMIT)
    x, y = torch.randn(6, 16), torch.tensor([0.0, 1.0, -1.0, 0.1, 500.0, -20.0])
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(400):
        optimizer.zero_grad()
        head.remember(y)
        head(x).loss(y).mean().backward()
        optimizer.step()
    with torch.no_grad():
        output = head(x)
        if name == "hl_gauss":  # whose mean is in raw space, where what is left of other bins counts by its value
            torch.testing.assert_close(output.mean, y, atol=1e-3 * (y.max() - y.min()).item(), rtol=1e-3)
        else:
            torch.testing.assert_close(symlog(output.mean), symlog(y), atol=0.03, rtol=0)
        assert head.linear(x).shape == (6, head.num_logits)
        assert torch.equal(head.output(head.linear(x)).mean, output.mean)

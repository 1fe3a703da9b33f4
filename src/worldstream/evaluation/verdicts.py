"""Verdicts on a diagnosis: each number against what it must beat, what a bad one means, and which setting moves it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from worldstream.evaluation.calibration import Calibration
from worldstream.evaluation.diagnosis import Diagnosis, PlayDiagnosis, StepErrors, TrueSimulator

Verdict = Literal["good", "weak", "bad", "-"]
"""The last: nothing to tell, such as no reward that varies."""

SHOWN_STEPS = (1, 3, 5, 9)
"""Imagined steps that have a line of their own."""
_CORRELATIONS = {1: 0.5, 3: 0.3, 5: 0.2, 9: 0.1}
"""Correlation of rewards from which on a step is good; half of it is weak."""


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis."""

    name: str
    values: dict[str, str]
    """In words, by who played. Errors: sampled, likeliest / copy; others: of the model / what it is measured by."""
    verdict: Verdict
    """Verdict on the first play that can tell."""
    meaning: str
    """What a bad value means, and which setting moves it."""


Judged = tuple[str, Verdict]
"""A value in words, and the verdict on it."""

NATS = (
    "bad: the model predicts frames it has not seen no better than counting does. It learned too little "
    "(world_model_learner.updates_per_step up), or recordings by heart (updates_per_step down, "
    "world_model.sequence.dropout up, more environment steps)."
)
TOKENS = (
    "bad: a copy of the start is nearer to what comes than the imagined frame; the agent learns from noise. "
    "world_model_learner.updates_per_step and world_model.sequence.width up; weak: only the likeliest frame is nearer, "
    "samples are too noisy: imagination.horizon down."
)
OBSERVATIONS = (
    "bad: what is imagined shows something else than a copy of the start would, and is farther off. Where the tokens "
    "are right nevertheless, neighbouring ids look different: more levels or codes (tokenizers.by_modality)."
)
REWARDS = (
    "bad: the agent is paid for the wrong things. Also bad given the real frames: the reward head has not learned "
    "(world_model.loss_weights reward up), or tokens do not show what the reward depends on "
    "(tokenizers.by_modality). Bad only some steps ahead: frames go wrong first (wrong tokens above), or "
    "imagination.horizon is too long."
)
VALID = (
    "bad: imagined frames hold tokens that real play never shows at their places. world_model_learner.updates_per_step "
    "up, imagination.horizon down. (Valid: every token was seen at its place in the other episodes of this play; "
    "real frames that were not seen either are the bound.)"
)
CALIBRATED_REWARDS = (
    "bad: rewards are promised that do not come, or denied. Given the real frames: "
    "world_model_learner.updates_per_step or world_model.loss_weights reward up; only imagined: "
    "imagination.horizon down."
)
CALIBRATED_ENDS = (
    "bad: episodes end in imagination too often, or never; values are off by all that follows. "
    "world_model.loss_weights termination up; is the environment reporting termination, or truncation?"
)
SIMULATOR = (
    "bad: the agent learns nothing in the true environment either: the world model is not what holds it back, but "
    "actor_critic_learner, losses or exploration (or it is as good as it gets). good: a better world model would pay."
)


def findings(diagnosis: Diagnosis) -> list[Finding]:
    """Every line of a diagnosis, in the order in which they are to be read."""
    found = [_joined(diagnosis, *line) for line in _lines(diagnosis)]
    if diagnosis.simulator is not None:
        text, verdict = _of_simulator(diagnosis.simulator)
        name = f"return, {diagnosis.simulator.updates} updates in the truth"
        found.append(Finding(name, {"agent": text}, verdict, SIMULATOR))
    return found


def remedies(found: list[Finding]) -> dict[str, list[str]]:
    """What lines that are not good mean -> their names."""
    named: dict[str, list[str]] = {}
    for finding in found:
        if finding.verdict in ("weak", "bad"):
            named.setdefault(finding.meaning, []).append(finding.name)
    return named


def _lines(diagnosis: Diagnosis) -> Iterator[tuple[str, Callable[[PlayDiagnosis], Judged], str]]:
    """Name of each line, how it is judged, and what it means."""
    plays = list(diagnosis.plays.values())
    horizon = max(len(play.counts) for play in plays)
    steps = [step for step in SHOWN_STEPS if step <= horizon]
    yield "nats a frame / best baseline", _nats, NATS
    for step in steps:
        yield f"wrong tokens, step {step} / copy", partial(_wrong_tokens, step=step), TOKENS
    for key in plays[0].observations:
        yield f"error of {key} / copy", partial(_observation, key=key), OBSERVATIONS
    yield "reward correlation, real frames", _correlation_given_frames, REWARDS
    for step in steps:
        yield f"reward correlation, step {step}", partial(_correlation, step=step), REWARDS
    for step in steps:
        yield f"valid frames, step {step} / real", partial(_valid, step=step), VALID
    yield "mean reward / true, real frames", lambda play: _calibration(play.rewards), CALIBRATED_REWARDS
    yield "mean reward / true, imagined", lambda play: _calibration(play.imagined_rewards), CALIBRATED_REWARDS
    yield "ends / true, real frames", lambda play: _ends(play.ends), CALIBRATED_ENDS
    yield "ends / true, imagined", lambda play: _ends(play.imagined_ends), CALIBRATED_ENDS


def _joined(diagnosis: Diagnosis, name: str, judge: Callable[[PlayDiagnosis], Judged], meaning: str) -> Finding:
    judged = {who: judge(play) for who, play in diagnosis.plays.items()}
    verdict: Verdict = next((verdict for _, verdict in judged.values() if verdict != "-"), "-")
    return Finding(name, {who: text for who, (text, _) in judged.items()}, verdict, meaning)


def _nats(play: PlayDiagnosis) -> Judged:
    text = f"{play.nats:.3g} / {play.baseline_nats:.3g}"
    return text, _least(play.nats, good=0.9 * play.baseline_nats, weak=play.baseline_nats)


def _wrong_tokens(play: PlayDiagnosis, step: int) -> Judged:
    return _error(play.wrong_tokens, lambda values: _at(values, step))


def _observation(play: PlayDiagnosis, key: str) -> Judged:
    return _error(play.observations[key], _mean)


def _error(errors: StepErrors, of: Callable[[tuple[float, ...]], float]) -> Judged:
    """Error at one step, or the mean over all that are reached."""
    sampled, likeliest, copy = of(errors.sampled), of(errors.likeliest), of(errors.copy)
    if math.isnan(sampled):
        return "-", "-"
    text, bound = f"{sampled:.2g} {likeliest:.2g} / {copy:.2g}", copy + 1e-6
    return text, "good" if sampled <= bound else "weak" if likeliest <= bound else "bad"


def _correlation_given_frames(play: PlayDiagnosis) -> Judged:
    return _high(play.rewards.correlation, _CORRELATIONS[1])


def _correlation(play: PlayDiagnosis, step: int) -> Judged:
    return _high(_at(play.reward_correlation, step), _CORRELATIONS[step])


def _high(value: float, bound: float) -> Judged:
    return ("-", "-") if math.isnan(value) else (f"{value:.2f}", _least(-value, good=-bound, weak=-bound / 2))


def _valid(play: PlayDiagnosis, step: int) -> Judged:
    share, real = _at(play.valid, step), play.valid_real
    if math.isnan(share):
        return "-", "-"
    return f"{share:.2f} / {real:.2f}", _least(-share, good=-0.9 * real, weak=-0.5 * real)


def _calibration(found: Calibration) -> Judged:
    """The distance of means in units of the spread of what came; where that is constant, of its size or 1."""
    unit = found.spread or abs(found.true) or 1.0
    text = f"{found.predicted:.3g} / {found.true:.3g}"
    return text, _least(found.error / unit, good=0.15, weak=0.4)


def _ends(found: Calibration) -> Judged:
    """How many times too many or too few ends, with one added to both numbers: they are rare, and a distance in units
    of their spread would find a model good that predicts none."""
    predicted, true = (1 + found.count * mean for mean in (found.predicted, found.true))
    verdict = _least(abs(math.log(predicted / true)), good=math.log(1.5), weak=math.log(3.0))
    return f"{found.predicted:.3g} / {found.true:.3g}", verdict


def _of_simulator(result: TrueSimulator) -> Judged:
    gain = result.after - result.before
    verdict: Verdict = _least(-gain, good=-2 * result.deviation, weak=-result.deviation)
    return f"{result.before:.4g} -> {result.after:.4g}", verdict if gain > 0 else "bad"


def _least(value: float, *, good: float, weak: float) -> Verdict:
    """Small is good. NaN is bad: it cannot come from what is missing, which is not judged at all."""
    return "good" if value <= good else "weak" if value <= weak else "bad"


def _at(values: tuple[float, ...], step: int) -> float:
    return values[step - 1] if step <= len(values) else math.nan


def _mean(values: tuple[float, ...]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan

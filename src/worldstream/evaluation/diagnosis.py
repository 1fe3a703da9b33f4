"""What a diagnosis of a world model says: numbers alone. ``diagnose`` measures them, ``verdicts`` judges them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from worldstream.evaluation.calibration import Calibration
from worldstream.options import Between

AGENT, RANDOM = "agent", "random"
"""Who played: the agent at temperature 1, as in imagination; random actions, held where collection holds them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosisConfig:
    """How much is measured."""

    episodes: Annotated[int, Between(2)] = 8
    """Fresh episodes of each kind of play; every second one fits the baselines."""
    min_steps: Annotated[int, Between(1)] = 400
    """Steps that these episodes have together at least; where they are shorter, there are more of them."""
    steps: Annotated[int, Between(1)] = 9
    """Imagined steps; at most as many as the world model was trained to look ahead."""
    samples: Annotated[int, Between(1)] = 256
    """Most starting points of imagination."""
    max_episode_steps: Annotated[int, Between(2)] = 500
    """Steps after which an episode is cut."""
    simulator_updates: Annotated[int, Between(0)] = 0
    """Updates of a copy of the agent in the true environment; 0: none."""
    simulator_episodes: Annotated[int, Between(1)] = 10
    """Episodes of the evaluation before and of that after."""


@dataclass(frozen=True)
class StepErrors:
    """Mean error at imagined steps 1..H; NaN where no episode reaches so far."""

    sampled: tuple[float, ...]
    likeliest: tuple[float, ...]
    copy: tuple[float, ...]
    """Error of the forecast that the frame at the start stays."""


@dataclass(frozen=True)
class PlayDiagnosis:
    """What the world model knows about one kind of play."""

    frames: int
    """Held-out frames that nats are means over."""
    nats: float
    """What the ids of a frame cost the world model, given the real frames before."""
    copy_nats: float
    marginal_nats: float
    counts: tuple[int, ...]
    """Starting points whose episode reaches imagined steps 1..H."""
    wrong_tokens: StepErrors
    """Share of tokens of which any id is wrong."""
    observations: dict[str, StepErrors]
    """Error of decoded observations by key: share of wrong values where these are categories, else mean absolute error
    in the unit in which they are stored. Quantisation is no part of it."""
    reward_correlation: tuple[float, ...]
    """Correlation of the predicted with the real reward at imagined steps 1..H, sampled."""
    valid: tuple[float, ...]
    """Share of sampled frames at steps 1..H all of whose tokens were seen at their places in the other episodes."""
    valid_real: float
    """The same share of real frames."""
    rewards: Calibration
    """One step ahead, given the real frames."""
    imagined_rewards: Calibration
    """At all imagined steps, sampled."""
    ends: Calibration
    """Probability of termination one step ahead, given the real frames."""
    imagined_ends: Calibration
    """The same at all imagined steps, among the likeliest frames."""

    @property
    def baseline_nats(self) -> float:
        """Of the better baseline."""
        return min(self.copy_nats, self.marginal_nats)


@dataclass(frozen=True)
class TrueSimulator:
    """Mean returns before and after a copy of the agent learned from the true environment instead of imagination."""

    updates: int
    before: float
    after: float
    deviation: float
    """Standard error of the difference."""


@dataclass(frozen=True)
class Diagnosis:
    """What a diagnosis found about the world model of one run."""

    environment: str
    options: DiagnosisConfig
    plays: dict[str, PlayDiagnosis]
    """By who played: ``AGENT`` and ``RANDOM``."""
    simulator: TrueSimulator | None
    """None: not asked for."""

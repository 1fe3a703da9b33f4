"""What the tensors of a published agent do not show: spans of memory, contexts, weights of rewards."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from sys import float_info
from typing import Any

from worldstream.errors import WeightsError
from worldstream.tokenizers.image_networks import NUM_GROUPS


@dataclass(frozen=True, kw_only=True)
class PublishedSettings:
    """Settings of a published agent."""

    decay_blocks: tuple[float, float] = (2.0, 16.0)
    """Retention: shortest and longest memory span, in blocks."""
    slots: str = "causal"
    """Attention: which prediction tokens of a block see each other, "causal" or "full"."""
    context_length: int = 1
    """Blocks before the first whose observation is trained."""
    segment_length: int = 20
    """Blocks of a training segment."""
    batch_size: int = 32
    """Segments of a world-model update."""
    horizon: int = 20
    """Imagined steps."""
    burn_in: int = 20
    """Real steps before the first imagined one."""
    action_repeat: int | None = None
    """Frames for which each action is repeated. None: as is usual for the suite of the environment."""
    discount: float = 0.99
    lambda_: float = 0.95
    extrinsic_weight: float = 1.0
    intrinsic_weight: float = 1.0
    shared_embeddings: bool | None = None
    """Whether pictures are embedded by their codes. None: as the tensors show."""
    code_width: int | None = None
    """Width of the codes that can be embedded; an agent whose width is another has a map between them even where it
    never reads it. None: as the tensors show."""
    tokenized_actions: bool = True
    """Whether the world model reads continuous actions as levels."""

    @staticmethod
    def from_json(settings: Mapping[str, Any], base: PublishedSettings | None = None) -> PublishedSettings:
        """Settings of a published configuration, in its own words; those that are absent are as in ``base``.

        What else the published configuration holds is not read. Raises WeightsError for settings that no agent of ours
        computes, and values that make no sense.
        """
        base = base if base is not None else PublishedSettings()
        for name, known in COMPUTED.items():
            for value in values_of(settings, name):
                _require(name, value, known)
        model, agent = _part(settings, "world_model"), _part(settings, "actor_critic")
        retention, attention = _part(model, "retnet"), _part(model, "transformer")
        slots = attention.get("pred_self_mask", base.slots)
        if slots not in ("causal", "full"):
            raise WeightsError(f"prediction tokens see each other 'causal' or 'full', not '{slots}'.")
        spans = (
            _number(retention, "decay_scale_min_num_blocks", base.decay_blocks[0], 1),
            _number(retention, "decay_scale_max_num_blocks", base.decay_blocks[1], 1),
        )
        if spans[0] > spans[1]:
            raise WeightsError(
                f"decay_scale_min_num_blocks is {spans[0]:g}, more than decay_scale_max_num_blocks, {spans[1]:g}. Give "
                "both."
            )
        return replace(
            base,
            decay_blocks=spans,
            slots=slots,
            context_length=_whole(model, "context_length", base.context_length, 1, 1000),
            discount=_number(settings, "gamma", base.discount, 0, 1),
            lambda_=_number(settings, "lambda_", base.lambda_, 0, 1),
            extrinsic_weight=_number(agent, "real_reward_weight", base.extrinsic_weight),
            intrinsic_weight=_number(agent, "intrinsic_reward_weight", base.intrinsic_weight),
            shared_embeddings=_flag(model, "shared_embeddings", base.shared_embeddings),
            code_width=_whole(model, "obs_emb_dim", base.code_width or 0, 0) or None,
            tokenized_actions=bool(_flag(model, "tokenize_actions", base.tokenized_actions)),
        )

    @staticmethod
    def from_user(settings: Mapping[str, Any], base: PublishedSettings) -> PublishedSettings:
        """Settings that a user gives in order to change those of ``base``: nothing is accepted and not read.

        Raises WeightsError, beside the cases of ``from_json``, for names that are none of a published agent.
        """
        _require_known(settings)
        changes: dict[str, Any] = {name: _whole(settings, name, 0, 1, 1000) for name in TRAINING if name in settings}
        return replace(PublishedSettings.from_json(settings, base), **changes)


COMPUTED: dict[str, Any] = {
    "norm_num_groups": NUM_GROUPS,
    "downsample_use_conv": True,
    "mask_type": "autoregressive",
    "pos_enc": "rotary",
    "shared_prediction_token": False,
    "include_action_inputs": True,
    "rnn_type": "lstm",
}
"""Options of the published code of which we compute one value, the one that the published agents use."""

TRAINING = ("segment_length", "batch_size", "horizon", "burn_in", "action_repeat")
"""Fields of ``PublishedSettings`` that users may give by these names."""

PARTS = ("world_model", "world_model.retnet", "world_model.transformer", "actor_critic")
"""Names that hold settings by name."""

READ = frozenset(
    {"gamma", "lambda_", *TRAINING, *(f"world_model.retnet.decay_scale_{end}_num_blocks" for end in ("min", "max"))}
    | {"world_model.transformer.pred_self_mask", "actor_critic.real_reward_weight"}
    | {"actor_critic.intrinsic_reward_weight"}
    | {f"world_model.{name}" for name in ("context_length", "shared_embeddings", "obs_emb_dim", "tokenize_actions")}
)
"""Paths of the settings that are read."""

SEQUENCE_SIZES = ("max_blocks", "num_layers", "num_heads", "embed_dim", "dropout", "blocks_per_chunk", "pred_pass_mode")
TOLERATED = frozenset(
    {"config", "variant", "checkout", "modalities", "tokens_per_observation", "tokens_per_action", "seed"}
    | {"spaces", "action_space", "tokenizer"}
    | {f"world_model.{part}.{name}" for part in ("retnet", "transformer") for name in SEQUENCE_SIZES}
    | {f"world_model.{name}" for name in ("max_blocks", "compute_states_parallel", "enable_curiosity")}
    | {"world_model.curiosity_ensemble_size", "actor_critic.name", "actor_critic.obs_mlp_layer_sizes"}
    | {f"actor_critic.{name}" for name in ("num_layers", "separate_networks", "num_value_bins", "tokens_embed_dim")}
    | {"actor_critic.n_action_quant_levels"}
)
"""Paths of a published configuration that need not be read, as tensors show the same, or as nothing depends on them."""

SETTINGS: dict[str, PublishedSettings] = {
    "atari": PublishedSettings(decay_blocks=(4.0, 16.0), context_length=2, segment_length=10, batch_size=32, horizon=9),
    "dmc": PublishedSettings(
        decay_blocks=(2.0, 2.0),
        context_length=1,
        segment_length=20,
        batch_size=16,
        horizon=20,
        intrinsic_weight=10.0,
        action_repeat=2,
    ),
    "craftax": PublishedSettings(
        decay_blocks=(8.0, 40.0), context_length=2, segment_length=20, batch_size=8, horizon=19, extrinsic_weight=100.0
    ),
}
"""The three published configurations."""


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON file of settings. Raises WeightsError when it is none."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(settings, dict):
        raise WeightsError(f"{path} holds no object of settings, such as {{'world_model': {{...}}, 'gamma': 0.99}}.")
    return settings


def _part(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Settings below a name; none where it is absent. Raises WeightsError when it is something else."""
    part = settings.get(name, {})
    if not isinstance(part, Mapping):
        raise WeightsError(f"the settings say that {name} is {part!r}; it must hold settings by name.")
    return part


def _number(settings: Mapping[str, Any], name: str, default: float, low: float = -inf, high: float = inf) -> float:
    """A setting, or the default where it is absent. Raises WeightsError when it is no number between the limits."""
    value = settings.get(name, default)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or abs(value) > float_info.max:  # whole numbers may be larger
        limits = f" between {low} and {high}" if high < inf else f" from {low} up" if low > -inf else ""
        raise WeightsError(f"the settings say that {name} is {value!r}; it must be a number{limits}.")
    return value


def _whole(settings: Mapping[str, Any], name: str, default: int, low: float, high: float = inf) -> int:
    """A whole number; see ``_number``."""
    value = _number(settings, name, default, low, high)
    if value != int(value):
        raise WeightsError(f"the settings say that {name} is {value!r}; it must be a whole number.")
    return int(value)


def _flag(settings: Mapping[str, Any], name: str, default: bool | None) -> bool | None:
    """A setting that is on or off, or the default where it is absent or null."""
    value = settings.get(name)
    if value is not None and not isinstance(value, bool):
        raise WeightsError(f"the settings say that {name} is {value!r}; it must be true or false.")
    return default if value is None else value


def _require_known(settings: Mapping[str, Any], part: str = "") -> None:
    """Raises WeightsError, with the nearest name, for a setting that no published agent has, or has elsewhere."""
    for name, value in settings.items():
        path = f"{part}.{name}" if part else name
        if "." not in name and path in PARTS:
            if isinstance(value, Mapping):  # anything else is refused where it is read
                _require_known(value, path)
        elif "." in name or (path not in READ and path not in TOLERATED and name not in COMPUTED):
            raise WeightsError(f"the settings have '{name}' {_place(part)}. {_nearest(name)}")


def _nearest(name: str) -> str:
    """Where a setting belongs, or which others there are."""
    by_name = {path.rpartition(".")[2]: path for path in (*sorted(READ), *PARTS)}
    last = name.rpartition(".")[2]
    if last in by_name:
        return f"'{last}' belongs {_place(by_name[last].rpartition('.')[0])}."
    guesses = difflib.get_close_matches(last, by_name, n=1)
    if guesses:
        return f"Did you mean '{guesses[0]}' {_place(by_name[guesses[0]].rpartition('.')[0])}?"
    return f"No published agent has that; those that are read are {', '.join(sorted(READ))}."


def _place(part: str) -> str:
    return f"below '{part}'" if part else "at the top"


def values_of(settings: Any, name: str) -> Iterator[Any]:
    """Values of a setting at any depth."""
    if isinstance(settings, Mapping):
        if name in settings:
            yield settings[name]
        for part in settings.values():
            yield from values_of(part, name)


def _require(name: str, value: Any, known: Any) -> None:
    """Raises WeightsError for an option of the published code that we do not compute."""
    if value is not None and value != known:
        raise WeightsError(f"agents with {name} '{value}' cannot be read, only those with '{known}'.")

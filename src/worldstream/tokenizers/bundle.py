"""TokenizerBundle: the only loop over observation keys. Stored arrays go in, tokens and features come out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from worldstream.errors import ConfigError
from worldstream.modalities import MODALITIES, Modality, build
from worldstream.options import OneOf
from worldstream.specs import KeySpec, TokenSpec
from worldstream.tokenizers import TOKENIZERS
from worldstream.tokenizers.base import Tokenizer, TokenizerOptions
from worldstream.types import Features, Observations, Tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """Which tokenizer each modality gets, with its options."""

    by_modality: dict[str, Annotated[TokenizerOptions, OneOf(TOKENIZERS)]] = field(default_factory=dict)
    """Tokenizer of each modality; those that are not named here get the one that the modality names."""
    loss_weights: dict[str, float] = field(default_factory=dict)
    """Weights of named losses of tokenizers that are trained, instead of the tokenizers' own."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.by_modality) - set(MODALITIES)):
            MODALITIES[unknown[0]]  # raises, with the names that there are
        own = {name: TOKENIZERS[modality.tokenizer]() for name, modality in MODALITIES.items()}
        object.__setattr__(self, "by_modality", {**own, **self.by_modality})


class TokenizerBundle(nn.Module):
    """All tokenizers of an environment, by observation key, in block order.

    Raises ConfigError when options do not suit a key, or a loss weight names no loss of the tokenizers.
    """

    version: Tensor

    def __init__(self, config: TokenizerConfig, specs: dict[str, KeySpec]) -> None:
        super().__init__()
        self.key_specs = specs
        self.modalities: dict[str, Modality] = {key: build(spec) for key, spec in specs.items()}
        self._tokenizers = nn.ModuleList(config.by_modality[spec.modality].build(spec) for spec in specs.values())
        self.register_buffer("version", torch.zeros((), dtype=torch.int64))
        self._loss_weights = config.loss_weights
        names = {name for tokenizer in self.by_key.values() for name in tokenizer.loss_weights}
        if names and (unknown := sorted(set(config.loss_weights) - names)):
            raise ConfigError(f"tokenizers.loss_weights names {unknown}, but the tokenizers have {sorted(names)}.")

    @property
    def by_key(self) -> dict[str, Tokenizer]:
        """The tokenizers (a ModuleList holds them because keys may contain dots and slashes)."""
        return dict(zip(self.key_specs, self._tokenizers, strict=True))  # type: ignore[arg-type]

    @property
    def trainable(self) -> bool:
        """Whether any tokenizer is trained."""
        return any(tokenizer.trainable for tokenizer in self.by_key.values())

    @property
    def specs(self) -> dict[str, TokenSpec]:
        """Token specs by key, in block order."""
        return {key: tokenizer.spec for key, tokenizer in self.by_key.items()}

    def load(self, observations: Observations, keys: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Stored arrays (..., *shape) -> modality tensors on the bundle's device. None: of all keys."""
        device, keys = self.version.device, self.modalities if keys is None else keys
        return {key: self.modalities[key].load(observations[key]).to(device) for key in keys}

    @torch.no_grad()
    def encode(self, observations: Observations) -> Tokens:
        """Stored arrays (..., *shape) by key -> int64 ids (..., K, C) by key."""
        tensors = self.load(observations)
        return {key: tokenizer.encode(tensors[key]) for key, tokenizer in self.by_key.items()}

    def encode_arrays(self, observations: Observations) -> dict[str, np.ndarray]:
        """``encode`` with NumPy results, for the token cache of replay."""
        return {key: ids.cpu().numpy() for key, ids in self.encode(observations).items()}

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> dict[str, Tensor]:
        """ids (..., K, C) by key -> modality tensors by key."""
        return {key: tokenizer.decode(tokens[key]) for key, tokenizer in self.by_key.items()}

    @torch.no_grad()
    def features(self, tokens: Tokens) -> Features:
        """What the agent reads, for the keys of ``tokens``."""
        by_key = self.by_key
        return {key: by_key[key].features(ids) for key, ids in tokens.items()}

    @property
    def trained_keys(self) -> list[str]:
        """Keys whose tokenizers are trained."""
        return [key for key, tokenizer in self.by_key.items() if tokenizer.trainable]

    @property
    def adaptive_keys(self) -> list[str]:
        """Keys whose tokenizers are fitted to data."""
        return [key for key, tokenizer in self.by_key.items() if tokenizer.adaptive]

    def fit(self, observations: Observations) -> bool:
        """Let tokenizers adapt to stored arrays (N, *shape) of all ``adaptive_keys``; counts ``version`` up when any id
        changed its meaning."""
        tensors = self.load(observations, self.adaptive_keys)
        changed = [self.by_key[key].fit(x) for key, x in tensors.items()]
        self.version += any(changed)
        return any(changed)

    def grow(self, observations: Observations) -> None:
        """Show stored arrays (N, *shape), just collected, to the tokenizers that grow; see ``Tokenizer.grow``."""
        growing = [key for key, tokenizer in self.by_key.items() if tokenizer.growing]
        for key, x in self.load(observations, growing).items():
            self.by_key[key].grow(x)

    def prepare_training(self, *, pretrained: bool = True) -> None:
        """See ``Tokenizer.prepare_training``; call it when the bundle is on its device."""
        for tokenizer in self.by_key.values():
            tokenizer.prepare_training(pretrained=pretrained)

    def losses(self, observations: Observations) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of the trained tokenizers for stored arrays (B, T, *shape) of all ``trained_keys``.

        They are the weighted sum (), and the mean of each named loss (), summed over keys; where there are several
        keys, also of each key alone, as "key/name".
        """
        by_key = self.by_key
        found = {
            key: {name: loss.mean() for name, loss in by_key[key].losses(x).items()}
            for key, x in self.load(observations, self.trained_keys).items()
        }
        weights = {key: {**by_key[key].loss_weights, **self._loss_weights} for key in found}
        weighted = {key: {name: weights[key][name] * x for name, x in losses.items()} for key, losses in found.items()}
        total = torch.stack([torch.stack(values).sum() for values in _by_name(weighted).values()]).sum()
        means = {name: torch.stack(values).sum() for name, values in _by_name(found).items()}
        return total, {name: mean.detach() for name, mean in (means | _alone(found)).items()}

    def statistics(self) -> dict[str, Tensor]:
        """What the trained tokenizers tell about themselves, () each: the mean over keys; where there are several, also
        of each key alone, as "key/name"."""
        return _means({key: self.by_key[key].statistics() for key in self.trained_keys})

    @torch.no_grad()
    def coding(self, observations: Observations) -> dict[str, Tensor]:
        """As ``statistics``, of the tokenizers that are not trained, with the "coding_error" of stored arrays
        (N, *shape): the root mean square of what decoding their ids changes, in the unit of the modality's tensors."""
        by_key, found = self.by_key, {}
        for key, x in self.load(observations, [key for key in by_key if key not in self.trained_keys]).items():
            changed = by_key[key].decode(by_key[key].encode(x)).float() - x.float()
            found[key] = {**by_key[key].statistics(), "coding_error": changed.square().mean().sqrt()}
        return _means(found)

    def written_while_training(self) -> list[Tensor]:
        """See ``Tokenizer.written_while_training``, of all keys."""
        return [tensor for tokenizer in self.by_key.values() for tensor in tokenizer.written_while_training()]

    def relearned(self) -> None:
        """Weights have changed: ids have another meaning from now on."""
        self.version += 1


def _by_name(found: dict[str, dict[str, Tensor]]) -> dict[str, list[Tensor]]:
    """Values by name, each of all keys."""
    names = dict.fromkeys(name for values in found.values() for name in values)
    return {name: [values[name] for values in found.values() if name in values] for name in names}


def _means(found: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Means over keys by name; where there are several keys, also of each alone."""
    return {name: torch.stack(values).mean() for name, values in _by_name(found).items()} | _alone(found)


def _alone(found: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Values by "key/name" where there are several keys."""
    several = found if len(found) > 1 else {}
    return {f"{key}/{name}": value for key, values in several.items() for name, value in values.items()}

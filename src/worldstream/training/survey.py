"""Which exact tokens suit an environment, measured on its random phase before a run fixes the shape of its tokens.

Tokens must be chosen before models are built, so the rule is applied to a random phase of its own: of a codebook of
large patches, one of small patches and a palette the first is taken whose table holds all that was seen, patches with
as much room again (``ExactTokenizer.closes``). Where none does, tokens have to be learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from worldstream.errors import ConfigError
from worldstream.specs import KeySpec
from worldstream.tokenizers import TOKENIZERS
from worldstream.tokenizers.bundle import TokenizerConfig
from worldstream.tokenizers.exact import ExactOptions, ExactTokenizer, ImagePaletteConfig, ImagePatchesConfig
from worldstream.training.experience import Experience
from worldstream.training.experiment import Experiment
from worldstream.training.trainer import Trainer

GRIDS = (4, 8)
"""Patches along a side of a picture, about: few large tokens, or more smaller ones."""
CODES, COLOURS = 4096, 32
"""Sizes of the tables that are tried."""
PARTS = 4
"""Marks at which the growth of the tables is noted."""
GROWN_TOGETHER = 256
"""Observations that tables take in at once."""


@dataclass(frozen=True)
class Growth:
    """What became of one table."""

    key: str
    modality: str
    options: ExactOptions
    num_tokens: int
    codes: tuple[int, ...]
    """Rows that were taken after each of ``PARTS`` equal parts of the observations."""
    inexact: float
    """Share of what was looked up that found no room."""
    closes: bool

    @property
    def name(self) -> str:
        """Of the tokenizer."""
        return TOKENIZERS.name_of(type(self.options))


@dataclass(frozen=True)
class Survey:
    """Tables by what was tried, and what follows."""

    label: str
    """Of the environment."""
    steps: int
    growths: list[Growth]

    @property
    def chosen(self) -> dict[str, ExactOptions | None]:
        """By modality, the first options whose tables close for every key, with sizes to suit; None where none do."""
        tried: dict[str, dict[ExactOptions, list[Growth]]] = {}
        for growth in self.growths:
            tried.setdefault(growth.modality, {}).setdefault(growth.options, []).append(growth)
        return {
            modality: next((_sized(growths) for growths in by_options.values() if all(g.closes for g in growths)), None)
            for modality, by_options in tried.items()
        }

    @property
    def advice(self) -> list[str]:
        """A line for each modality, with the flags to give."""
        return [_flags(modality, options) for modality, options in self.chosen.items()]


def survey(experiment: Experiment) -> Survey:
    """Play ``experiment.steps`` random steps as a run would, and let the tables grow on what they show.

    Raises ConfigError when no key can have exact tokens, or there are no steps.
    """
    if experiment.steps < 1:
        raise ConfigError(f"steps must be at least 1, not {experiment.steps}.")
    made = experiment.environment.make()
    specs = made.observation_specs
    made.close()
    candidates = dict(_candidates(specs))
    if not candidates:
        raise ConfigError(f"'{experiment.environment.label}' shows no pictures: exact tokens are for these.")
    config = experiment.config
    config = replace(
        config,
        tokenizers=TokenizerConfig(by_modality={modality: options[0] for modality, options in candidates.items()}),
        collection=replace(config.collection, random_steps=experiment.steps),
    )
    trainer = Trainer(replace(experiment, config=config))
    try:
        while trainer.clock < experiment.steps:
            trainer.collect()
    finally:
        trainer.close()
    growths = [
        _grown(trainer.experience, spec, options)
        for spec in specs.values()
        for options in candidates.get(spec.modality, [])
    ]
    return Survey(experiment.environment.label, trainer.clock, growths)


def _candidates(specs: dict[str, KeySpec]) -> Iterator[tuple[str, list[ExactOptions]]]:
    """What is tried, by modality, in the order in which it is preferred: patches that divide all keys alike."""
    for modality in dict.fromkeys(spec.modality for spec in specs.values() if ExactOptions.reads(spec)):
        shapes = [spec.shape for spec in specs.values() if spec.modality == modality]
        height, width = gcd(*(shape[0] for shape in shapes)), gcd(*(shape[1] for shape in shapes))
        large, small = ((_part(height, grid), _part(width, grid)) for grid in GRIDS)
        patches = [ImagePatchesConfig(patch_size=patch, codes=CODES) for patch in dict.fromkeys((large, small))]
        yield modality, [*patches, ImagePaletteConfig(patch_size=small, colours=COLOURS)]


def _part(pixels: int, grid: int) -> int:
    """The divisor of a side that cuts it into the number of parts nearest to ``grid``, rather more than fewer."""
    return min(
        (side for side in range(1, pixels + 1) if pixels % side == 0), key=lambda side: abs(pixels / side - grid)
    )


def _grown(experience: Experience, spec: KeySpec, options: ExactOptions) -> Growth:
    """A table that has seen all that is stored of one key, in the order of collection."""
    tokenizer = options.build(spec)
    assert isinstance(tokenizer, ExactTokenizer)
    store, codes = experience.store, []
    rows = store.ring.rows_of(store.ring.stored_serials())
    for part in np.array_split(rows, PARTS):
        for start in range(0, len(part), GROWN_TOGETHER):
            observations = store.observations(part[start : start + GROWN_TOGETHER], [spec.key])
            tokenizer.grow(experience.models.tokenizers.load(observations, [spec.key])[spec.key])
        codes.append(int(tokenizer.table.size))
    return Growth(
        key=spec.key,
        modality=spec.modality,
        options=options,
        num_tokens=tokenizer.spec.num_tokens,
        codes=tuple(codes),
        inexact=float(tokenizer.statistics()["inexact"]),
        closes=tokenizer.closes,
    )


def _sized(growths: list[Growth]) -> ExactOptions:
    """The options with a table of a power of two: four times what was seen of patches, the colours that there are."""
    taken, options = max(growth.codes[-1] for growth in growths), growths[0].options
    if isinstance(options, ImagePatchesConfig):
        return replace(options, codes=max(256, 1 << (4 * taken - 1).bit_length()))
    assert isinstance(options, ImagePaletteConfig)
    return replace(options, colours=max(8, 1 << (taken - 1).bit_length()))


def _flags(modality: str, options: ExactOptions | None) -> str:
    """What to give ``worldstream train``."""
    place = f"--tokenizers.by-modality.{modality}"
    if options is None:
        return (
            f"no exact tokens suit: there are too many patches and colours. Learn them: {place} image_vq or image_fsq"
        )
    sizes = {"codes": options.codes} if isinstance(options, ImagePatchesConfig) else {"colours": options.capacity}
    (size,) = (f"{place}.{name} {value}" for name, value in sizes.items())
    height, width = options.patch_size
    return f"take {place} {TOKENIZERS.name_of(type(options))} {place}.patch-size {height} {width} {size}"

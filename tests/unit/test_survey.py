"""Which exact tokens are advised: the rule, what is tried, and the advice as flags that the command line takes."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest

import worldstream
from tiny import tiny_config
from worldstream.cli import main, parse
from worldstream.errors import ConfigError
from worldstream.options import at
from worldstream.tokenizers.exact import ExactOptions, ExactTokenizer, ImagePaletteConfig, ImagePatchesConfig
from worldstream.training.experiment import Experiment
from worldstream.training.survey import Growth, Survey, _part
from worldstream.training.trainer import Trainer

LARGE, SMALL = ImagePatchesConfig(patch_size=(26, 20), codes=4096), ImagePatchesConfig(patch_size=(13, 10), codes=4096)
PALETTE = ImagePaletteConfig(patch_size=(13, 10), colours=32)


def growth(options: ExactOptions, taken: int, *, closes: bool, key: str = "front") -> Growth:
    return Growth(key, "image", options, 16, (1, 2, 3, taken), 0.0, closes)


@pytest.mark.parametrize(
    ("close", "chosen"),
    [
        ((True, True, True), replace(LARGE, codes=2048)),
        ((False, True, True), replace(SMALL, codes=2048)),
        ((False, False, True), replace(PALETTE, colours=16)),
        ((False, False, False), None),
    ],
)
def test_the_first_that_closes_is_taken(close: tuple[bool, ...], chosen: ExactOptions | None) -> None:
    taken = (300, 300, 11)
    tried = zip((LARGE, SMALL, PALETTE), taken, close, strict=True)
    survey = Survey("a game", 9, [growth(options, size, closes=closes) for options, size, closes in tried])
    assert survey.chosen == {"image": chosen}
    (line,) = survey.advice
    if chosen is None:
        assert "no exact tokens suit" in line
        return
    command = parse(["train", "--preset", "cameras", *line.removeprefix("take ").split()])
    assert at(command.options["config"], "tokenizers.by_modality.image") == chosen


def test_it_must_close_for_every_key() -> None:
    left, right = growth(LARGE, 9, closes=True, key="left"), growth(LARGE, 9, closes=False, key="right")
    palettes = [growth(PALETTE, 20, closes=True, key=key) for key in ("left", "right")]
    assert Survey("a game", 9, [left, right, *palettes]).chosen == {"image": PALETTE}


def test_patches_divide_the_picture_into_about_the_asked_number() -> None:
    assert [_part(side, 4) for side in (104, 80, 64, 6, 7)] == [26, 20, 16, 2, 1]
    assert [_part(side, 8) for side in (104, 80, 64)] == [13, 10, 8]


def test_the_command_plays_and_says_what_suits(capsys: pytest.CaptureFixture[str]) -> None:
    main(["tokens", "cameras", "--preset", "cameras", "--steps", "40", "--modality", "left=image:16,16",
          "--modality", "right=image:16,16"])  # fmt: skip
    shown = " ".join(capsys.readouterr().out.split())
    assert "40 random steps" in shown and "by-modality.image" in shown


def test_without_pictures_there_is_nothing_to_choose() -> None:
    with pytest.raises(ConfigError, match="'clock' shows no pictures"):
        worldstream.survey_tokens("clock", steps=5, config=tiny_config())


@pytest.mark.skipif(not find_spec("ale_py"), reason="needs ale-py")
def test_the_preset_of_exact_tokens_loses_nothing_of_a_game() -> None:
    config = worldstream.PRESETS["atari-exact"]()
    learners = {
        name: replace(getattr(config, name), start_steps=40, updates_per_step=1.0, batch_size=4)
        for name in ("world_model_learner", "actor_critic_learner")
    }
    trainer = Trainer(Experiment.of("Breakout", replace(config, **learners), steps=41))
    trainer.run()
    trainer.close()
    (tokenizer,) = trainer.models.tokenizers.by_key.values()
    assert isinstance(tokenizer, ExactTokenizer) and tokenizer.closes and int(tokenizer.table.size) > 16
    reported = trainer.pop_metrics()
    assert reported["tokenizers/coding_error"] == reported["tokenizers/inexact"] == 0

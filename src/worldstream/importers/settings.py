"""A file of settings: what is otherwise in an agent than in the published one, in the published words."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast

from worldstream import options
from worldstream.errors import ConfigError, WeightsError
from worldstream.importers.published import COMPUTED, UNREAD, Settings


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


def settings_from(base: Mapping[str, Any], changes: Mapping[str, Any], *, strict: bool = True) -> Settings:
    """Settings as in ``base``, but for the changes.

    Raises WeightsError for a value that makes no sense, for an option of the published code that we do not compute, and
    where it is to be strict for a name that no published agent has.
    """
    if strict:
        _require_known(changes)
    for name, known in COMPUTED.items():
        for value in values_of(changes, name):
            if value is not None and value != known:
                raise WeightsError(f"agents with {name} '{value}' cannot be read, only those with '{known}'.")
    try:
        settings = options.from_plain(Settings, merged(base, _known(changes)), "the settings")
        options.check(settings)
    except ConfigError as error:
        raise WeightsError(str(error)) from error
    spans = settings.world_model.retnet
    if spans.decay_scale_min_num_blocks > spans.decay_scale_max_num_blocks:
        raise WeightsError(
            f"decay_scale_min_num_blocks is {spans.decay_scale_min_num_blocks:g}, more than "
            f"decay_scale_max_num_blocks, {spans.decay_scale_max_num_blocks:g}. Give both."
        )
    return settings


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with some of them changed."""
    both = dict(base)
    for name, value in changes.items():
        both[name] = merged(both.get(name, {}), value) if isinstance(value, Mapping) else value
    return both


def _known(settings: Mapping[str, Any], cls: type = Settings) -> dict[str, Any]:
    """Those that are read and say something: neither null nor a reference to others ("${...}")."""
    known: dict[str, Any] = options.hints(cls)
    return {
        name: _known(value, known[name]) if is_dataclass(known[name]) and isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name in known and value is not None and not (isinstance(value, str) and value.startswith("${"))
    }


def values_of(settings: Any, name: str) -> Iterator[Any]:
    """Values of a setting at any depth."""
    if isinstance(settings, Mapping):
        if name in settings:
            yield settings[name]
        for part in settings.values():
            yield from values_of(part, name)


def _require_known(settings: Mapping[str, Any], cls: type = Settings, part: str = "") -> None:
    """Raises WeightsError, with the nearest name, for a setting that no published agent has, or has elsewhere."""
    known = options.hints(cls)
    for name, value in settings.items():
        path = f"{part}.{name}" if part else name
        if name not in known and path not in UNREAD and name not in COMPUTED:
            raise WeightsError(f"the settings have '{name}' {_place(part)}. {_nearest(name)}")
        if is_dataclass(known.get(name)) and isinstance(value, Mapping):  # anything else is refused where it is read
            _require_known(value, cast(type, known[name]), path)


def _nearest(name: str) -> str:
    """Where a setting belongs, or which others there are."""
    last, places = name.rpartition(".")[2], dict(_places(Settings))
    if last in places:
        return f"'{last}' belongs {_place(places[last])}."
    if guesses := difflib.get_close_matches(last, places, n=1):
        return f"Did you mean '{guesses[0]}' {_place(places[guesses[0]])}?"
    return f"No published agent has that; those that are read are {', '.join(sorted(places))}."


def _places(cls: type, part: str = "") -> Iterator[tuple[str, str]]:
    """(name, part that it stands below) of all settings that are read; the last of a name is the likeliest."""
    for name, hint in reversed(options.hints(cls).items()):
        if is_dataclass(hint):
            yield from _places(cast(type, hint), f"{part}.{name}" if part else name)
        yield name, part


def _place(part: str) -> str:
    return f"below '{part}'" if part else "at the top"

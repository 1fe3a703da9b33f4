"""Options: frozen dataclasses beside the components that they configure.

A bound is an annotation of its field, a choice between components is the base class of their options and the registry
that knows them, and one walk checks all that is nested::

    @dataclass(frozen=True, kw_only=True, slots=True)
    class ModelConfig:
        width: Annotated[int, Between(2)] = 64
        sequence: Annotated[SequenceConfig, OneOf(SEQUENCE_MODELS)] = field(default_factory=RetentionConfig)

As JSON, options are nested objects; those of a chosen component say under ``"kind"`` which one it is.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, isfinite
from sys import float_info
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from worldstream.errors import ConfigError
from worldstream.registry import Registry

T = TypeVar("T")
KIND = "kind"
"""Field of JSON objects that names the chosen component."""
LARGEST = {int: 2**31 - 1, float: 1e15}
"""Bounds of the size of numbers by type, where a field has no upper bound of its own: far beyond what makes sense, and
within what the libraries below take."""


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both included."""

    low: float
    high: float = inf
    """inf: as ``LARGEST`` says."""

    def __str__(self) -> str:
        return f"at least {self.low}" if self.high == inf else f"between {self.low} and {self.high}"


@dataclass(frozen=True, eq=False)
class OneOf:
    """A choice between the components of a registry, whose entries are the classes of their options."""

    registry: Registry
    by_flag: bool = True
    """Whether one may be exchanged for another by itself; else other options have to change along with it."""


def hints(cls: type) -> dict[str, Any]:
    """Types of the fields of a dataclass by name, with their annotations."""
    types_of = typing.get_type_hints(cls, include_extras=True)
    return {field.name: types_of[field.name] for field in dataclasses.fields(cls)}


def check(options: Any, path: str = "") -> None:
    """Raises ConfigError for the first field, anywhere in nested options, that is not finite or out of its bounds.

    Values of fields of type Any are not looked at. Messages name fields below ``path``.
    """
    for place, hint, value in _fields(options, path):
        _check_value(place, hint, value)


def choices(options: Any) -> dict[str, Registry]:
    """Where one component of nested options may be exchanged, as in "world_model.sequence", and for which."""
    found = {place: _choice(hint) for place, hint, _ in _fields(options)}
    return {place: choice.registry for place, choice in found.items() if choice and choice.by_flag}


def choose(options: T, place: str, name: str) -> T:
    """Options with another component at a place; what both components have as options keeps its value, unless that is
    the default of the one and not of the other.

    Raises ConfigError when there is no such component.
    """
    try:
        chosen = choices(options)[place][name]
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    present = at(options, place)
    shared, fields = set(hints(chosen)), dataclasses.fields(present)
    values = {field.name: getattr(present, field.name) for field in fields if field.name in shared}
    given = {field.name for field in fields if field.name in shared and values[field.name] != field.default}
    return put(options, place, chosen(**{name: values[name] for name in given}))


def at(options: Any, place: str) -> Any:
    """What nested options hold at a place such as "world_model.sequence.width"."""
    for name in place.split("."):
        options = options[name] if isinstance(options, dict) else getattr(options, name)
    return options


def put(options: T, place: str, value: Any) -> T:
    """Options with another value at a place."""
    name, _, rest = place.partition(".")
    if rest:
        value = put(at(options, name), rest, value)
    return {**options, name: value} if isinstance(options, dict) else dataclasses.replace(options, **{name: value})  # type: ignore


def _fields(options: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(place, type, value) of everything in nested options."""
    for name, hint in hints(type(options)).items():
        yield from _values(hint, getattr(options, name), f"{path}.{name}" if path else name)


def _values(hint: Any, value: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """(place, hint, value) of a value and of everything in it; unions are narrowed to the member that is there."""
    bare, metadata = _bare(hint)
    if get_origin(bare) in (typing.Union, types.UnionType):
        if value is not None:
            member = next(argument for argument in get_args(bare) if argument is not type(None))
            yield from _values(Annotated[member, *metadata] if metadata else member, value, path)
    elif dataclasses.is_dataclass(value):
        yield path, hint, value
        yield from _fields(value, path)
    elif isinstance(value, dict) and bare is not Any:
        inner = get_args(bare)[1]
        for name, item in value.items():
            yield from _values(inner, item, f"{path}.{name}")
    elif isinstance(value, tuple | list) and bare is not Any:
        yield path, hint, value
        arguments = get_args(bare)
        for i, item in enumerate(value):
            yield from _values(arguments[0 if Ellipsis in arguments else i], item, f"{path}[{i}]")
    else:
        yield path, hint, value


def _check_value(path: str, hint: Any, value: Any) -> None:
    bare, metadata = _bare(hint)
    if bare is not Any and isinstance(value, float) and not isfinite(value):
        raise ConfigError(f"{path} must be a finite number, not {value}.")
    bounded = any(isinstance(item, Between) and item.high < inf for item in metadata)
    largest = None if bare is Any or bounded else LARGEST.get(type(value))
    if largest is not None and abs(value) > largest:
        raise ConfigError(f"{path} must be between {-largest} and {largest}, not {value}.")
    if get_origin(bare) is Literal and value not in get_args(bare):
        raise ConfigError(f"{path} must be one of {', '.join(map(str, get_args(bare)))}, not {value}.")
    for bounds in metadata:
        if isinstance(bounds, Between):
            number = len(value) if isinstance(value, tuple | list) else value
            if not bounds.low <= number <= bounds.high:
                what = f"{path} must have {bounds} entries" if number is not value else f"{path} must be {bounds}"
                raise ConfigError(f"{what}, not {value}.")


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without its annotations, and these."""
    return (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def _choice(hint: Any) -> OneOf | None:
    """The choice between components that the type is, if it is one."""
    return next((item for item in _bare(hint)[1] if isinstance(item, OneOf)), None)


def to_plain(options: Any) -> dict[str, Any]:
    """Nested dictionaries of plain values, which ``from_plain`` reads."""
    return {name: _to_plain_value(hint, getattr(options, name)) for name, hint in hints(type(options)).items()}


def _to_plain_value(hint: Any, value: Any) -> Any:
    bare, _ = _bare(hint)
    if dataclasses.is_dataclass(value):
        choice = _choice(hint)
        return {**({KIND: choice.registry.name_of(type(value))} if choice else {}), **to_plain(value)}
    if isinstance(value, dict):
        inner = get_args(bare)[1] if get_args(bare) else Any
        return {name: _to_plain_value(inner, item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_to_plain_value(Any, item) for item in value]
    return value


def from_plain(cls: type[T], data: Any, where: str) -> T:
    """Options of a class from plain values. Raises ConfigError that names an unknown, missing or ill-typed field."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected an object with the fields of {cls.__name__}, got {json.dumps(data)}.")
    known = hints(cls)
    if unknown := sorted(set(data) - set(known)):
        raise ConfigError(f"{where}: unknown field '{unknown[0]}'; known: {', '.join(sorted(known))}.")
    values = {name: _from_plain_value(known[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}.") from error


def _from_plain_value(hint: Any, data: Any, where: str) -> Any:
    if (choice := _choice(hint)) is not None:
        if not isinstance(data, dict) or not isinstance(data.get(KIND), str):
            raise ConfigError(f"{where}: expected an object with the field '{KIND}', got {json.dumps(data)}.")
        try:
            chosen = choice.registry[data[KIND]]
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        return from_plain(chosen, {name: x for name, x in data.items() if name != KIND}, where)
    hint, _ = _bare(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return data
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, data, where)
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        return _from_plain_value(next(a for a in arguments if a is not type(None)), data, where)
    if origin is Literal:
        if any(type(data) is type(choice) and data == choice for choice in arguments):
            return data
        raise ConfigError(f"{where}: expected one of {', '.join(map(repr, arguments))}, got {json.dumps(data)}.")
    if origin is tuple and isinstance(data, list | tuple):
        inner = [arguments[0]] * len(data) if Ellipsis in arguments else list(arguments)
        if len(inner) != len(data):
            raise ConfigError(f"{where}: expected {len(inner)} values, got {len(data)}.")
        return tuple(_from_plain_value(h, x, f"{where}[{i}]") for i, (h, x) in enumerate(zip(inner, data, strict=True)))
    if origin is dict and isinstance(data, dict):
        return {key: _from_plain_value(arguments[1], value, f"{where}.{key}") for key, value in data.items()}
    if hint is float and isinstance(data, int) and not isinstance(data, bool) and abs(data) <= float_info.max:
        return float(data)
    if isinstance(hint, type) and isinstance(data, hint) and not (hint is int and isinstance(data, bool)):
        return data
    raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {json.dumps(data)}.")

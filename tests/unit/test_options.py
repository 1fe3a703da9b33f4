"""Options: bounds, choices between components, and plain values; whatever is wrong is named with its place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from math import inf, nan
from typing import Annotated, Any, Literal

import pytest

from worldstream.errors import ConfigError
from worldstream.options import Between, OneOf, at, check, choices, choose, from_plain, put, to_plain
from worldstream.registry import Registry


class Animal:
    """Options of one animal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cat(Animal):
    legs: Annotated[int, Between(0, 4)] = 4
    lives: Annotated[int, Between(1)] = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Fish(Animal):
    legs: Annotated[int, Between(0, 4)] = 0
    scales: tuple[float, ...] = (0.5, 1.5)


ANIMALS = Registry("animal", {"cat": f"{__name__}:Cat", "fish": f"{__name__}:Fish"})


@dataclass(frozen=True, kw_only=True, slots=True)
class House:
    pet: Annotated[Animal, OneOf(ANIMALS)] = field(default_factory=Cat)
    by_room: dict[str, Annotated[Animal, OneOf(ANIMALS)]] = field(default_factory=lambda: {"pond": Fish()})
    colour: Literal["red", "green"] = "red"
    doors: Annotated[int, Between(1)] | None = None
    floors: Annotated[tuple[float, float], Between(2, 2)] = (1.0, 2.0)
    herd: dict[str, Annotated[Animal, OneOf(ANIMALS, by_flag=False)]] = field(default_factory=lambda: {"one": Cat()})
    notes: dict[str, Any] = field(default_factory=dict)


def test_plain_values_give_the_options_back() -> None:
    house = House(pet=Fish(scales=(3.0,)), by_room={"hall": Cat(legs=3)}, doors=2, notes={"a": [1, {"b": None}]})
    plain = json.loads(json.dumps(to_plain(house)))
    assert plain["pet"] == {"kind": "fish", "legs": 0, "scales": [3.0]}
    assert plain["by_room"] == {"hall": {"kind": "cat", "legs": 3, "lives": 9}}
    assert from_plain(House, plain, "x") == house
    assert from_plain(House, {}, "x") == House()


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ([], r"x: expected an object with the fields of House"),
        ({"chimney": 1}, r"x: unknown field 'chimney'; known: by_room, colour"),
        ({"pet": {"legs": 4}}, r"x\.pet: expected an object with the field 'kind'"),
        ({"pet": "cat"}, r"x\.pet: expected an object with the field 'kind', got \"cat\""),
        ({"pet": {"kind": "dog"}}, r"x\.pet: unknown animal 'dog'.*cat, fish"),
        ({"pet": {"kind": "cat", "scales": []}}, r"x\.pet: unknown field 'scales'; known: legs, lives"),
        ({"by_room": {"hall": {"kind": "dog"}}}, r"x\.by_room\.hall: unknown animal 'dog'"),
        ({"by_room": {"hall": {"kind": "fish", "scales": ["a"]}}}, r"x\.by_room\.hall\.scales\[0\]: expected float"),
        ({"colour": "blue"}, r"x\.colour: expected one of 'red', 'green', got \"blue\""),
        ({"doors": 1.5}, r"x\.doors: expected int, got 1.5"),
        ({"doors": True}, r"x\.doors: expected int, got true"),
        ({"floors": [1.0]}, r"x\.floors: expected 2 values, got 1"),
    ],
)
def test_wrong_plain_values_are_named(plain: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_plain(House, plain, "x")


def test_plain_integers_are_floats_where_floats_are_expected() -> None:
    floors = from_plain(House, {"floors": [1, 2]}, "x").floors
    assert floors == (1.0, 2.0) and all(isinstance(floor, float) for floor in floors)


@pytest.mark.parametrize(
    ("house", "message"),
    [
        (House(pet=Cat(legs=5)), r"pet\.legs must be between 0 and 4, not 5"),
        (House(pet=Cat(lives=0)), r"pet\.lives must be at least 1, not 0"),
        (House(by_room={"hall": Cat(), "pond": Fish(legs=-1)}), r"by_room\.pond\.legs must be between"),
        (House(pet=Fish(scales=(1.0, inf))), r"pet\.scales\[1\] must be a finite number"),
        (House(floors=(1.0, nan)), r"floors\[1\] must be a finite number"),
        (House(floors=(1.0,)), r"floors must have between 2 and 2 entries"),  # type: ignore[arg-type]
        (House(doors=0), r"doors must be at least 1, not 0"),
        (House(colour="blue"), r"colour must be one of red, green, not blue"),  # type: ignore[arg-type]
    ],
)
def test_values_out_of_bounds_are_named(house: House, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(house)


def test_what_is_within_bounds_or_of_any_type_passes() -> None:
    check(House(doors=1, notes={"a": nan}))


def test_choices_are_found_wherever_they_are_but_for_those_of_several_options() -> None:
    assert choices(House()) == {"pet": ANIMALS, "by_room.pond": ANIMALS}


def test_choosing_another_component_keeps_what_both_have() -> None:
    house = choose(House(pet=Cat(legs=2, lives=3)), "pet", "fish")
    assert house.pet == Fish(legs=2)
    assert choose(house, "by_room.pond", "cat").by_room == {"pond": Cat(legs=4)}  # no legs are a fish's default
    assert choose(put(house, "by_room.pond.legs", 1), "by_room.pond", "cat").by_room == {"pond": Cat(legs=1)}
    assert choose(house, "pet", "fish") == house
    with pytest.raises(ConfigError, match=r"by_room\.pond: unknown animal 'dog'"):
        choose(house, "by_room.pond", "dog")


def test_values_are_read_and_replaced_by_their_place() -> None:
    house = House()
    assert at(house, "by_room.pond.legs") == 0
    changed = put(house, "by_room.pond.legs", 1)
    assert changed == replace(house, by_room={"pond": Fish(legs=1)}) and house == House()
    assert put(house, "doors", 3).doors == 3

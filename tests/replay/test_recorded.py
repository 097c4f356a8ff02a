"""The recorded files: all of it is equal, and a record that says otherwise is noticed, at its step."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import pytest

from pvmmio_uc.replay.bus_level import BusLevel
from pvmmio_uc.replay.runner import perform
from pvmmio_uc.replay.steps import GuestAccess, Result, Scenario

from .recorded import recorded

COMPARED = {"rc", "at", "ring", "ex", "ev"}


@pytest.mark.parametrize(("name", "without_tx"), [("open", 22), ("named", 29)])
def test_everything_is_equal(name: str, without_tx: int) -> None:
    outcomes = [perform(scenario, BusLevel) for scenario in recorded(name)]
    assert [outcome.scenario.id for outcome in outcomes if outcome.mismatches] == []
    left_out = [
        step.step
        for outcome in outcomes
        for step in outcome.steps
        if step.expected is None or step.got is None
    ]
    assert len(left_out) == without_tx
    assert all(isinstance(step, GuestAccess) and step.transactions is None for step in left_out)
    assert [len(outcome.steps) for outcome in outcomes] == [len(s.recorded) for s in recorded(name)]


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every number and text in a result."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*place, index))
    else:
        yield place


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, int):
        return value + 1 if value >= 0 else value - 1
    return f"{int(value, 16) ^ 1:0{len(value)}x}" if value.strip("0123456789abcdef") == "" else value + "?"


def with_recorded(scenario: Scenario, step: int, result: Result) -> Scenario:
    results = [*scenario.recorded[:step], result, *scenario.recorded[step + 1 :]]
    return dataclasses.replace(scenario, recorded=tuple(results))


def candidates(scenario: Scenario) -> list[tuple[int, tuple[Any, ...]]]:
    """Every value of the record that the bus level compares."""
    return [
        (number, place)
        for number, (step, result) in enumerate(zip(scenario.steps, scenario.recorded, strict=True))
        if not (isinstance(step, GuestAccess) and step.transactions is None)
        for place in leaves(result)
        if place[0] in COMPARED
    ]


def mutated(scenario: Scenario, number: int, place: tuple[Any, ...]) -> Scenario:
    result = copy.deepcopy(scenario.recorded[number])
    target: Any = result
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = other(target[place[-1]])
    return with_recorded(scenario, number, result)


@pytest.mark.parametrize(("name", "every"), [("named", 1), ("open", 6)])
def test_one_changed_value_is_reported_at_its_step(name: str, every: int) -> None:
    choose = random.Random(20130404)
    tried = 0
    for scenario in recorded(name)[::every]:
        possible = candidates(scenario)
        if not possible:
            continue  # nothing in it has a tx
        number, place = choose.choice(possible)
        outcome = perform(mutated(scenario, number, place), BusLevel)
        assert outcome.mismatches == [number], (scenario.id, number, place)
        tried += 1
    assert tried > 180


def test_every_value_of_one_scenario() -> None:
    scenario = next(scenario for scenario in recorded("open") if len(candidates(scenario)) > 60)
    for number, place in candidates(scenario):
        assert perform(mutated(scenario, number, place), BusLevel).mismatches == [number], (number, place)


@pytest.mark.parametrize("key", ["ex", "ev", "ring"])
def test_a_missing_entry_and_one_too_many(key: str) -> None:
    scenario, number = next(
        (scenario, number)
        for scenario in recorded("named")
        for number, (step, result) in enumerate(zip(scenario.steps, scenario.recorded, strict=True))
        if result.get(key) and getattr(step, "transactions", ()) is not None
    )
    recorded_value = scenario.recorded[number][key]
    if isinstance(recorded_value, dict):
        values: list[Any] = [{}, {**recorded_value, "77": 1}]
    else:
        values = [recorded_value[1:], [*recorded_value, recorded_value[-1]]]
    for value in values:
        changed = with_recorded(scenario, number, {**scenario.recorded[number], key: value})
        assert perform(changed, BusLevel).mismatches == [number]


def test_registers_and_the_end_are_not_the_bus_levels() -> None:
    scenario = next(s for s in recorded("named") if any(result.get("rg") for result in s.recorded))
    number = next(number for number, result in enumerate(scenario.recorded) if result.get("rg"))
    changed = {**scenario.recorded[number], "rg": {"rax": 0x77}, "end": "exc13"}
    assert perform(with_recorded(scenario, number, changed), BusLevel).mismatches == []

"""The recorded machine code on the engine: exits, eventfds, registers and RAM as on the real KVM."""

from __future__ import annotations

import pytest

from pvmmio_uc.replay.guest_level import GuestLevel
from pvmmio_uc.replay.runner import Outcome, perform
from pvmmio_uc.replay.schema import parse_scenario
from pvmmio_uc.replay.steps import GuestAccess
from tests.replay.recorded import raw, recorded

EVERY = {"named": 1, "open": 8}
A = 0x1000000


def performed(outcome: Outcome) -> int:
    return sum(isinstance(step.step, GuestAccess) and step.expected is not None for step in outcome.steps)


@pytest.mark.parametrize(("name", "at_least"), [("named", 430), ("open", 1000)])
def test_what_the_guest_level_performs_is_what_kvm_did(name: str, at_least: int) -> None:
    outcomes = [perform(scenario, GuestLevel) for scenario in recorded(name)[:: EVERY[name]]]

    assert [outcome.scenario.id for outcome in outcomes if outcome.mismatches] == []
    assert sum(map(performed, outcomes)) >= at_least


def test_a_wrong_register_is_noticed() -> None:
    load = {"o": "x", "k": "load4", "c": "8b03", "r": {"rbx": A}, "tx": [["r", A, 4]]}
    result = {"end": "hlt", "ex": [["R", A, 4, "5af79431"]], "rg": {"rax": 0x3194F75A}}

    right = perform(parse_scenario(raw((load, result))), GuestLevel)
    wrong = perform(parse_scenario(raw((load, {**result, "rg": {"rax": 1}}))), GuestLevel)

    assert (right.mismatches, wrong.mismatches) == ([], [0])


def test_an_instruction_that_is_left_out_still_reaches_the_bus() -> None:
    zone = {"o": "cz", "a": A, "n": 16}, {"rc": 0}
    xadd = {"o": "x", "k": "xadd", "c": "0fc103", "r": {"rbx": A}, "tx": [["w", A, 4, "01020304"]]}
    ring = {"o": "ring"}, {"ring": [[0, A, 4, "01020304"]]}

    outcome = perform(parse_scenario(raw(zone, (xadd, {"end": "hlt"}), ring)), GuestLevel)

    assert outcome.mismatches == []
    assert performed(outcome) == 0

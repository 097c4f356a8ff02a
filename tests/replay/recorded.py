"""The recorded files, and scenarios written by hand for the tests of the replay."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from pvmmio_uc.replay.bus_level import BusLevel
from pvmmio_uc.replay.runner import Outcome, perform
from pvmmio_uc.replay.scenario import load
from pvmmio_uc.replay.schema import parse_scenario
from pvmmio_uc.replay.steps import Scenario

DATA = Path(__file__).parent.parent / "data" / "kvm"
A = 0x1000000

Json = dict[str, Any]


@functools.cache
def recorded(name: str) -> tuple[Scenario, ...]:
    """The scenarios of ``open`` or ``named``."""
    return tuple(load(DATA / f"{name}.jsonl.gz"))


def raw(*pairs: tuple[Json, Json], **more: Any) -> Json:
    """A scenario as it stands in a file: steps, each with its result."""
    return {
        "id": "made",
        "steps": [step for step, _ in pairs],
        "out": [result for _, result in pairs],
        **more,
    }


def run(*pairs: tuple[Json, Json], **more: Any) -> Outcome:
    """Perform a scenario on the bus level."""
    return perform(parse_scenario(raw(*pairs, **more)), BusLevel)


def line(scenario: Json) -> bytes:
    """A scenario as a line of a file."""
    return json.dumps(scenario).encode() + b"\n"


def io(
    addr: int = A, length: int = 4, flags: int = 0, eventfd: int | str = 0, rc: int = 0
) -> tuple[Json, Json]:
    """KVM_IOEVENTFD."""
    return {"o": "io", "a": addr, "l": length, "f": flags, "e": eventfd}, {"rc": rc}


def store(addr: int, data: str, *exits: list[Any], **events: int) -> tuple[Json, Json]:
    """A guest's write; ``events`` by id with an e in front: ``e0=1``."""
    step = {"o": "x", "k": "store", "c": "90", "r": {}, "tx": [["w", addr, len(data) // 2, data]]}
    return step, {"end": "hlt", "ex": list(exits), "ev": {name[1:]: count for name, count in events.items()}}

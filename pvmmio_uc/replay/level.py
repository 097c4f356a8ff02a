"""What a level of the replay is: a VM, a way to let the guest do one access, and what of it can be compared.

The bus level is in `bus_level`. Another level is a class of the same face in a module of its own, named
in `LEVELS`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Protocol

from ..vm import Vm
from .eventfds import EventFds
from .steps import GuestAccess, Result, VmOptions

__all__ = ["LEVELS", "Level", "LevelFactory", "Recorder", "available_levels", "find_level"]


class Recorder:
    """Writes down the exits of one access, and what the eventfds had counted when each arrived."""

    def __init__(self, eventfds: EventFds) -> None:
        self._eventfds = eventfds
        self._exits: list[list[object]] = []
        self._events: dict[str, int] = {}

    def exit(self, *entry: object) -> None:
        """One exit to user space, an entry of ``ex`` in SCHEMA.md; every eventfd is read before it."""
        signalled = self._drain()
        if signalled:
            self._exits.append(["V", signalled])
        self._exits.append(list(entry))

    def result(self) -> Result:
        """The access is over: its ``ex`` and ``ev``."""
        self._drain()
        return {"ex": self._exits, "ev": self._events}

    def _drain(self) -> dict[str, int]:
        signalled = self._eventfds.drain()
        for name, count in signalled.items():
            self._events[name] = self._events.get(name, 0) + count
        return signalled


class Level(Protocol):
    """One way of performing a scenario's guest accesses. Made anew for each scenario."""

    @property
    def vm(self) -> Vm:
        """The VM that the scenario's calls go to."""

    def access(self, step: GuestAccess, recorder: Recorder) -> Result | None:
        """Let the guest do it; its result, or None where this level does not know how."""

    def comparable(self, step: GuestAccess, recorded: Result) -> Result:
        """What of the recorded result `access` foretells, in the same form."""

    def close(self) -> None:
        """Give everything back."""


LevelFactory = Callable[[VmOptions], Level]

LEVELS = {"bus": ("bus_level", "BusLevel"), "guest": ("guest_level", "GuestLevel")}
"""The levels that have a name: the module of this folder, and its `LevelFactory`."""


def available_levels() -> list[str]:
    """The levels whose module is there."""
    return [
        name for name, (module, _) in LEVELS.items() if importlib.util.find_spec(f"{__package__}.{module}")
    ]


def find_level(name: str) -> LevelFactory | None:
    """The level of that name, or None where its module is not there."""
    if name not in available_levels():
        return None
    module, factory = LEVELS[name]
    found: LevelFactory = getattr(importlib.import_module(f"{__package__}.{module}"), factory)
    return found

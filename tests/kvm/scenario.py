"""The steps of a scenario, the guest code of its accesses, and how many scenarios are drawn."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pvmmio_uc.ioeventfd import IoEventFdFlag
from pvmmio_uc.kvm import available, stage2

T = TypeVar("T")
Test = TypeVar("Test", bound=Callable[..., None])

UNAVAILABLE = available()
needs_kvm = pytest.mark.skipif(UNAVAILABLE is not None, reason=f"no KVM: {UNAVAILABLE}")
HAS_FAST_BUS = stage2() != "shadow"

DEPTH = int(os.environ.get("PVMMIO_ORACLE_SCENARIOS", "0"))
"""Scenarios per random test, new ones at each run; 0 is a small fixed set."""


_BATCH = 500


def random_depth(share: float = 1) -> Callable[[Test], Test]:
    """How a random test is run: ``share`` of the scenarios where one takes long.

    A deep run comes in batches, because hypothesis remembers all that it has drawn for a test.
    """
    scenarios = round((DEPTH or 60) * share)
    depth = settings(
        max_examples=min(scenarios, _BATCH),
        derandomize=not DEPTH,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    batches = pytest.mark.parametrize("batch", range(-(-scenarios // _BATCH)))

    def decorate(test: Test) -> Test:
        decorated: Test = batches(depth(test))
        return decorated

    return decorate


def weighted(*weights: tuple[int, st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """One of the strategies, as often as its weight says; st.one_of forgets about repetitions."""
    table = [strategy for weight, strategy in weights for _ in range(weight)]
    return st.integers(0, len(table) - 1).flatmap(table.__getitem__)


def several(elements: st.SearchStrategy[T]) -> st.SearchStrategy[list[T]]:
    """Lists of about twenty; of one long list hypothesis would draw mostly short ones."""
    part = st.lists(elements, max_size=12)
    return st.tuples(part, part, part, part).map(lambda parts: [one for part in parts for one in part])


RESULTS = 0x10000  # where the guest code puts what it loads
SSE_SOURCE = 0x11000


@dataclass(frozen=True)
class Io:
    """KVM_IOEVENTFD. ``eventfd`` is a number, or the name of something that is none."""

    addr: int
    length: int
    flags: int = 0
    datamatch: int = 0
    eventfd: int | str = 0


@dataclass(frozen=True)
class Undo:
    """Deassign what the ``back``-th assign before said, but for what ``change`` names."""

    back: int
    change: str = ""


@dataclass(frozen=True)
class Zone:
    """Register or unregister a coalesced zone."""

    addr: int
    size: int
    pio: int = 0
    remove: bool = False


@dataclass(frozen=True)
class Close:
    """Close the descriptor; a later use makes a new eventfd."""

    eventfd: int


@dataclass(frozen=True)
class Dup:
    """Make ``eventfd`` a duplicate of ``of``."""

    eventfd: int
    of: int


@dataclass(frozen=True)
class Drain:
    """Empty the coalesced ring."""


@dataclass(frozen=True)
class FillUp:
    """Register zones until the bus is full: how many were there is how many no longer fit."""

    pio: int


@dataclass(frozen=True)
class Access:
    """One instruction: ``kind`` is store, load, out or in; ``value`` is what is written."""

    kind: str
    address: int
    size: int
    value: int = 0

    @property
    def data(self) -> bytes:
        return (self.value & (1 << 8 * self.size) - 1).to_bytes(self.size, "little")


@dataclass(frozen=True)
class Run:
    """Guest code of these instructions, one after the other."""

    accesses: tuple[Access, ...]


Step = Io | Undo | Zone | Close | Dup | Drain | FillUp | Run


def undone(step: Io, change: str) -> Io:
    """The deassign of an assign, or one that misses it by the field ``change``."""
    fields = {**step.__dict__, "flags": step.flags | IoEventFdFlag.DEASSIGN}
    if change in ("addr", "datamatch"):
        fields[change] = fields[change] + 1 & (1 << 64) - 1
    elif change == "length":
        fields[change] = {0: 1, 1: 2, 2: 4, 4: 8, 8: 0}.get(step.length, 4)
    elif change == "flags":
        fields[change] ^= IoEventFdFlag.DATAMATCH
    elif change == "eventfd":
        fields[change] = step.eventfd + 1 if isinstance(step.eventfd, int) else 0
    return Io(**fields)


_STORE = {1: "8807", 2: "668907", 4: "8907", 8: "488907"}  # mov [rdi], al/ax/eax/rax
_LOAD = {1: "8a07", 2: "668b07", 4: "8b07", 8: "488b07"}
_OUT = {1: "ee", 2: "66ef", 4: "ef"}  # out dx, al/ax/eax
_IN = {1: "ec", 2: "66ed", 4: "ed"}


def assemble(accesses: tuple[Access, ...]) -> bytes:
    """The machine code of the accesses; what is loaded goes to RESULTS + 8 * index."""
    return b"".join(_instruction(index, accesses) for index in range(len(accesses)))


def _instruction(index: int, accesses: tuple[Access, ...]) -> bytes:
    access = accesses[index]
    rdi = b"\x48\xbf" + access.address.to_bytes(8, "little")
    rdx = b"\x48\xba" + access.address.to_bytes(8, "little")
    rax = b"\x48\xb8" + (access.value & (1 << 64) - 1).to_bytes(8, "little")
    keep = b"\x48\xbe" + (RESULTS + 8 * index).to_bytes(8, "little") + b"\x48\x89\x06"  # mov [rsi], rax
    if access.kind == "store" and access.size == 16:
        source = SSE_SOURCE + 16 * accesses.index(access)
        return b"\x48\xbe" + source.to_bytes(8, "little") + b"\x0f\x10\x06" + rdi + b"\x0f\x11\x07"
    if access.kind == "store":
        return rdi + rax + bytes.fromhex(_STORE[access.size])
    if access.kind == "out":
        return rdx + rax + bytes.fromhex(_OUT[access.size])
    clear = b"\x31\xc0"  # xor eax, eax
    if access.kind == "load":
        return rdi + clear + bytes.fromhex(_LOAD[access.size]) + keep
    return rdx + clear + bytes.fromhex(_IN[access.size]) + keep

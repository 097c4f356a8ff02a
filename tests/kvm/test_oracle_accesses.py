"""Random guest code: the same exits, signals, ring and loaded values from the kernel and from the model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pvmmio_uc.kvm.guest import RAM_SIZE

from .oracle import both_sides
from .scenario import (
    HAS_FAST_BUS,
    Access,
    Close,
    Drain,
    Io,
    Run,
    Step,
    Undo,
    Zone,
    needs_kvm,
    random_depth,
    several,
    weighted,
)

pytestmark = needs_kvm

PAGE = 0x1001000
PORT = 0x40
VALUES = (1, 0x1122334455667788, 0xFFFFFFFFFFFFFFFF)

HOT = st.sampled_from(
    [PAGE - 8, PAGE - 4, PAGE - 2, PAGE - 1, PAGE, PAGE, PAGE, PAGE + 4, PAGE + 8, RAM_SIZE]
)
GPAS = weighted((6, HOT), (1, st.integers(PAGE - 9, PAGE + 12)), (1, st.integers(RAM_SIZE - 5, RAM_SIZE + 4)))
PORTS = st.integers(PORT, PORT + 3)
SIZES = st.sampled_from([1, 2, 4, 8])
STORED = st.sampled_from(VALUES)
MMIO_LENGTHS = st.sampled_from([1, 2, 4, 8] if HAS_FAST_BUS else [0, 1, 2, 4, 8])
EVENTFDS = st.integers(0, 3)
ZONE_SIZES = st.sampled_from([1, 2, 3, 4, 5, 8, 12, 16, 0x20, 0x1000, 0xFFFFFFFF])


def matching(addr: int, length: int, flags: int, value: int, eventfd: int, too_wide: bool) -> Io:
    """A registration with the datamatch that ``value`` has in this length, or one that never fires."""
    datamatch = value & (1 << 8 * length) - 1
    return Io(addr, length, flags | 1, value if too_wide else datamatch, eventfd)


RARELY = st.sampled_from([False, False, False, True])
IOS = weighted(
    (3, st.builds(Io, GPAS, MMIO_LENGTHS, st.sampled_from([0, 0, 16]), st.just(0), EVENTFDS)),
    (3, st.builds(matching, GPAS, SIZES, st.just(0), STORED, EVENTFDS, RARELY)),
    (1, st.builds(Io, PORTS, st.sampled_from([0, 1, 2, 4, 8]), st.just(2), st.just(0), EVENTFDS)),
    (1, st.builds(matching, PORTS, st.sampled_from([1, 2, 4]), st.just(2), STORED, EVENTFDS, RARELY)),
)
ZONES = weighted(
    (2, st.builds(Zone, GPAS, ZONE_SIZES, st.just(0), st.booleans())),
    (1, st.builds(Zone, PORTS, ZONE_SIZES, st.just(1), st.booleans())),
)
CHANGES = weighted(
    (24, IOS), (4, ZONES), (4, st.builds(Undo, st.integers(0, 5))), (1, st.builds(Close, EVENTFDS))
)


def whole_or_halves(address: int, value: int) -> Access:
    """A 16-byte store that lies in one page or is cut into 8 + 8.

    Cut elsewhere, its second piece would start at an odd place of the kernel's buffer, and many kernels
    stop dead (BUG_ON) when they compare that with a datamatch.
    """
    inside = address % 0x1000
    if inside > 0x1000 - 16:
        address += 0x1000 - 8 - inside
    return Access("store", address, 16, value | value << 64)


ACCESSES = weighted(
    (10, st.builds(Access, st.just("store"), GPAS, SIZES, STORED)),
    (2, st.builds(whole_or_halves, GPAS, STORED)),
    (2, st.builds(Access, st.just("load"), GPAS, SIZES)),
    (3, st.builds(Access, st.just("out"), PORTS, st.sampled_from([1, 2, 4]), STORED)),
    (1, st.builds(Access, st.just("in"), PORTS, st.sampled_from([1, 2, 4]))),
)
RUNS = st.builds(Run, several(ACCESSES).map(tuple))
ROUNDS = st.lists(
    st.tuples(several(CHANGES), RUNS, st.lists(st.builds(Drain), max_size=1)), min_size=1, max_size=4
)


@random_depth(0.7)
@given(ROUNDS)
def test_random_accesses_end_alike(batch: int, rounds: list[tuple[list[Step], Run, list[Drain]]]) -> None:
    with both_sides() as both:
        both.play([step for changes, run, drains in rounds for step in (*changes, run, *drains)])


CORE = st.integers(PAGE, PAGE + 3)
NESTED = several(
    weighted(
        (2, st.builds(Io, CORE, MMIO_LENGTHS, st.just(0), st.just(0), EVENTFDS)),
        (1, st.builds(Io, CORE, SIZES, st.just(1), st.just(1), EVENTFDS)),
        (2, st.builds(Zone, st.integers(PAGE - 1, PAGE + 3), st.sampled_from([1, 3, 6, 16, 32]))),
        (1, st.builds(Undo, st.integers(0, 9))),
    )
)
PROBES = Run(tuple(Access("store", PAGE + at, size, 1) for at in range(5) for size in (1, 2, 4, 8)))


@random_depth()
@given(NESTED)
def test_nested_ranges_are_found_and_lost_alike(batch: int, changes: list[Step]) -> None:
    """Every width at every place, so that each entry that the search loses is missed by both."""
    with both_sides() as both:
        both.play([*changes, PROBES])

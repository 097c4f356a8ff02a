"""Random registrations: the kernel and the model answer every call with the same errno."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from .oracle import Both, both_sides
from .scenario import Close, Dup, FillUp, Io, Step, Undo, Zone, needs_kvm, random_depth, several, weighted

pytestmark = needs_kvm

BASE = 0x1000000
ADDRESSES = st.one_of(
    st.integers(BASE, BASE + 4),
    st.sampled_from([0, 0x42, 0x10000, (1 << 64) - 9, (1 << 64) - 8, (1 << 64) - 4, (1 << 64) - 1]),
)
LENGTHS = weighted(
    (9, st.sampled_from([0, 1, 2, 4, 8])), (1, st.sampled_from([3, 5, 16, 1 << 31, (1 << 32) - 1]))
)
FLAGS = weighted(
    (4, st.sampled_from([0, 1, 2, 3])),
    (3, st.integers(0, 31)),
    (1, st.sampled_from([32, 1 << 31, 0xFFFFFFFF])),
)
DATAMATCHES = st.sampled_from([0, 1, 0xFA, 0x1000000FA, (1 << 64) - 1])
EVENTFDS: st.SearchStrategy[int | str] = weighted(
    (9, st.integers(0, 2)), (1, st.sampled_from(["null", "closed", "negative"]))
)
SIZES = st.sampled_from([0, 1, 2, 4, 8, 16, 0x1000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])

IOS = st.builds(Io, ADDRESSES, LENGTHS, FLAGS, DATAMATCHES, EVENTFDS)
PLAIN_IOS = st.builds(
    Io,
    st.integers(BASE, BASE + 2),
    st.sampled_from([0, 2, 4]),
    st.integers(0, 3),
    DATAMATCHES,
    st.integers(0, 1),
)
UNDOS = st.builds(
    Undo, st.integers(0, 9), st.sampled_from(["", "", "", "addr", "length", "flags", "datamatch", "eventfd"])
)
ZONES = st.builds(Zone, ADDRESSES, SIZES, st.sampled_from([0, 0, 1, 2, 0xFFFFFFFF]), st.booleans())
DESCRIPTORS = st.one_of(
    st.builds(Close, st.integers(0, 2)), st.builds(Dup, st.integers(0, 2), st.integers(0, 2))
)


@random_depth()
@given(several(weighted((3, IOS), (6, PLAIN_IOS), (4, UNDOS), (1, ZONES), (2, DESCRIPTORS))))
def test_random_registrations_end_alike(batch: int, steps: list[Step]) -> None:
    with both_sides() as both:
        both.play(steps)


EDGES = [0, 1, 2, BASE, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63), (1 << 64) - 1]
PLACES = st.builds(lambda edge, by: edge + by & (1 << 64) - 1, st.sampled_from(EDGES), st.integers(-3, 2))
ODD_SIZES = st.builds(lambda edge, by: edge + by & (1 << 32) - 1, st.sampled_from(EDGES), st.integers(-3, 2))
ODD_ZONES = st.builds(Zone, PLACES, ODD_SIZES, st.just(1))


def near(zone: Zone, inside: int, less: int) -> list[Step]:
    """The zone, and the removal of a range that lies about inside it."""
    addr, size = zone.addr + inside & (1 << 64) - 1, zone.size - less & (1 << 32) - 1
    return [zone, Zone(addr, size, zone.pio, remove=True)]


@random_depth(0.4)
@given(several(st.builds(near, st.one_of(ODD_ZONES, ZONES), st.integers(-1, 2), st.integers(-2, 5))))
def test_random_zones_are_removed_alike(batch: int, pairs: list[list[Step]]) -> None:
    """Where no guest can look, the room that is left on the bus tells how many zones there are."""
    with both_sides() as both:
        both.play([*(step for pair in pairs for step in pair), FillUp(1)])


def refuse_all(both: Both, step: Io, *expected: str) -> None:
    answers = [both.do(step) for _ in expected]
    assert answers == list(expected)


def test_the_order_of_the_checks() -> None:
    """Each call is wrong in several ways; the first check decides."""
    with both_sides() as both:
        refuse_all(both, Io((1 << 64) - 4, 3, 32, eventfd="closed"), "EINVAL")
        refuse_all(both, Io((1 << 64) - 4, 4, eventfd="closed"), "EINVAL")
        refuse_all(both, Io(BASE, 0, 1, eventfd="closed"), "EINVAL")
        refuse_all(both, Io(BASE, 4, eventfd="closed"), "EBADF")
        refuse_all(both, Io(BASE, 4, eventfd="negative"), "EBADF")
        refuse_all(both, Io(BASE, 4, eventfd="null"), "EINVAL")
        refuse_all(both, Io(BASE, 4), "ok", "EEXIST")
        refuse_all(both, Io(BASE, 4, eventfd="closed"), "EBADF")
        refuse_all(both, Io(BASE, 3, 0xFFFFFFFF), "ENOENT")
        refuse_all(both, Io(BASE, 4, 4), "ok", "ENOENT")


def test_zones_are_limited_to_a_thousand_and_ioeventfds_are_not() -> None:
    with both_sides() as both:
        for index in range(1010):
            assert both.do(Io(BASE + index, 1)) == "ok"
        for index in range(1001):
            assert both.do(Zone(BASE + 8 * index, 8)) == ("ok" if index < 1000 else "ENOSPC")
        assert both.do(Io(BASE + 0x10000, 1)) == "ENOSPC"
        assert both.do(Io(BASE + 0x10000, 1, 2)) == "ok"
        assert both.do(Zone(BASE + 8, 1, remove=True)) == "ok"
        assert both.do(Io(BASE + 0x10000, 1)) == "ok"


def test_a_closed_descriptor_leaves_its_registration() -> None:
    with both_sides() as both:
        assert both.do(Io(BASE, 4, eventfd=0)) == "ok"
        assert both.do(Dup(1, 0)) == "ok"
        assert both.do(Close(0)) == "ok"
        assert both.do(Io(BASE, 4, eventfd=0)) == "EEXIST"
        assert both.do(Io(BASE, 4, 4, eventfd=0)) == "ENOENT"
        assert both.do(Io(BASE, 4, 4, eventfd=1)) == "ok"

"""Cases with a name: what the kernel does is written down, and the model has to do it too."""

from __future__ import annotations

import pytest

from .oracle import Both, both_sides
from .scenario import Access, Drain, Io, Run, Zone, needs_kvm

pytestmark = needs_kvm

PAGE = 0x1001000
ONES = (1 << 128) - 1


def store(address: int, size: int, value: int = ONES) -> Run:
    return Run((Access("store", address, size, value),))


def exit_of(address: int, size: int, value: int = ONES) -> tuple[str, bool, int, bytes]:
    return "mmio", True, address, (value & (1 << 8 * size) - 1).to_bytes(size, "little")


def register(both: Both, *ios: Io) -> None:
    for io in ios:
        assert both.do(io) == "ok"


def test_an_accepted_registration_can_be_out_of_reach() -> None:
    """1@+4, 2@+2, 8@+0 in this order: the search for 8 bytes at +0 turns right and never sees the third."""
    with both_sides() as both:
        register(both, Io(PAGE + 4, 1, eventfd=1), Io(PAGE + 2, 2, eventfd=2), Io(PAGE, 8, eventfd=8))
        assert both.do(store(PAGE, 8)) == [exit_of(PAGE, 8), "hlt"]
        assert both.do(store(PAGE + 2, 2)) == [{2: 1}, "hlt"]

        register(both, Io(PAGE + 0x100, 4), Io(PAGE + 0x200, 4))
        assert both.do(store(PAGE, 8)) == [{8: 1}, "hlt"]
        assert both.do(store(PAGE + 2, 2)) == [exit_of(PAGE + 2, 2), "hlt"]


def test_a_removal_brings_a_lost_registration_back() -> None:
    with both_sides() as both:
        register(both, Io(PAGE + 4, 1, eventfd=1), Io(PAGE + 2, 2, eventfd=2), Io(PAGE, 8, eventfd=8))
        register(both, Io(PAGE + 4, 1, 4, eventfd=1))
        assert both.do(store(PAGE, 8)) == [{8: 1}, "hlt"]


def test_a_datamatch_can_be_out_of_reach_of_its_twin() -> None:
    with both_sides() as both:
        register(both, Io(PAGE, 8, 1, 5, 5), Io(PAGE + 4, 1, eventfd=1), Io(PAGE, 8, 1, 7, 7))
        assert both.do(store(PAGE, 8, 7)) == [exit_of(PAGE, 8, 7), "hlt"]
        assert both.do(store(PAGE, 8, 5)) == [{5: 1}, "hlt"]


@pytest.mark.parametrize(
    ("registered", "expected"),
    [
        ((8,), [exit_of(PAGE, 8), exit_of(PAGE + 8, 8)]),
        ((0,), [{0: 1}, exit_of(PAGE + 8, 8)]),
        ((0, 8), [{0: 1, 8: 1}]),
    ],
    ids=["high", "low", "both"],
)
def test_sixteen_bytes_are_offered_from_the_front_until_a_refusal(
    registered: tuple[int, ...], expected: list[object]
) -> None:
    with both_sides() as both:
        register(both, *(Io(PAGE + at, 8, eventfd=at) for at in registered))
        assert both.do(store(PAGE, 16)) == [*expected, "hlt"]


def test_sixteen_bytes_across_a_page_start_afresh() -> None:
    with both_sides() as both:
        register(both, Io(PAGE, 8, eventfd=8))
        assert both.do(store(PAGE - 8, 16)) == [{8: 1}, exit_of(PAGE - 8, 8), "hlt"]


def test_the_second_page_signals_before_user_space_sees_the_first() -> None:
    with both_sides() as both:
        register(both, Io(PAGE, 4, eventfd=4))
        assert both.do(store(PAGE - 4, 8)) == [{4: 1}, exit_of(PAGE - 4, 4), "hlt"]


def test_a_piece_in_memory_is_stored_and_the_rest_is_mmio() -> None:
    with both_sides() as both:
        register(both, Io(0x40000, 2, eventfd=2))
        assert both.do(store(0x40000 - 2, 4)) == [{2: 1}, "hlt"]
        assert both.do(store(0x40000 - 3, 4)) == [exit_of(0x40000, 1), "hlt"]
        assert both.kernel.ram() == both.model.ram() == bytes(0x1000 - 3) + b"\xff" * 3


def test_a_full_ring_lets_writes_through_until_it_is_drained() -> None:
    with both_sides() as both:
        assert both.do(Zone(PAGE, 0x1000)) == "ok"
        fill = Run(tuple(Access("store", PAGE, 4, value) for value in range(170)))
        assert both.do(fill) == [exit_of(PAGE, 4, 169), "hlt"]
        assert both.do(store(PAGE, 2)) == [exit_of(PAGE, 2), "hlt"]
        drained = both.do(Drain())
        assert isinstance(drained, list)
        assert [int.from_bytes(entry.data, "little") for entry in drained] == list(range(169))
        assert both.do(fill) == [exit_of(PAGE, 4, 169), "hlt"]


def test_unregistering_a_part_removes_every_zone_around_it() -> None:
    with both_sides() as both:
        for size in (0x1000, 0x10):
            assert both.do(Zone(PAGE, size)) == "ok"
        assert both.do(Zone(PAGE, 0x2000, remove=True)) == "ok"
        assert both.do(store(PAGE + 4, 4)) == ["hlt"]
        assert both.do(Zone(PAGE + 8, 0, remove=True)) == "ok"
        assert both.do(store(PAGE + 4, 4)) == [exit_of(PAGE + 4, 4), "hlt"]


@pytest.mark.parametrize(
    ("io", "access", "fires"),
    [
        (Io(0xFEE00300, 4, eventfd=1), Access("store", 0xFEE00300, 4), False),
        (Io(0xFEC00000, 4, eventfd=1), Access("store", 0xFEC00000, 4), True),
        (Io(0xFEC00010, 4, eventfd=1), Access("store", 0xFEC00010, 4), False),
        (Io(0x20, 1, 2, eventfd=1), Access("out", 0x20, 1), True),
        (Io(0x21, 1, 2, eventfd=1), Access("out", 0x21, 1), False),
        (Io(0x22, 1, 2, eventfd=1), Access("out", 0x22, 1), True),
    ],
    ids=["lapic", "ioapic-first", "ioapic-inside", "pic-first", "pic-inside", "next-to-pic"],
)
def test_in_kernel_controllers_stand_in_front(io: Io, access: Access, fires: bool) -> None:
    with both_sides() as both:
        both.kernel.vm.create_irqchip()
        both.model.vm.create_irqchip()
        register(both, io)
        assert both.do(Run((access,))) == [*([{1: 1}] if fires else []), "hlt"]

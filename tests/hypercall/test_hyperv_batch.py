"""Call 0x8030: a list of writes, its checks, and its continuation over several exits."""

from __future__ import annotations

import itertools

import pytest

from pvmmio_uc.hypercall.cpu import Outcome
from pvmmio_uc.hypercall.hyperv import HyperV
from pvmmio_uc.hypercall.hyperv_state import HyperVState

from .fakes import (
    DEVICE,
    DOORBELL_ANY,
    DOORBELL_FOUR,
    NOBODY,
    PAGE,
    RAM,
    RAM_SIZE,
    ROM,
    U64,
    Board,
    element,
)
from .hyperv_guest import INPUT, X32, Guest, control_of, layout_fixture, registers

BATCH = 0x8030
SUCCESS, WRONG, ALIGNMENT, PARAMETER, NOT_FOUND = 0, 3, 4, 5, 0x10

layout = layout_fixture()


def control(count: int, start: int = 0) -> int:
    return BATCH | count << 32 | start << 48


def done(status: int, reps: int) -> int:
    return status | reps << 32


def put(guest: Guest, elements: list[bytes], gpa: int = INPUT, header: bytes = bytes(8)) -> None:
    guest.board.put(gpa, header + b"".join(elements))


def doorbells(count: int) -> list[bytes]:
    return [element(DOORBELL_ANY, index, 4) for index in range(count)]


def until_through(guest: Guest, first: int, gpa: int = INPUT) -> tuple[int, list[int]]:
    """Execute the instruction until it completes: the result, and the control word of every exit."""
    words, word = [], first
    for _ in range(300):
        words.append(word)
        outcome = guest.execute(registers(guest.layout, word, gpa, 0))
        if outcome is Outcome.DONE:
            return guest.result(), words
        assert outcome is Outcome.RETRY
        word = control_of(guest.layout, guest.last.registers)
    raise AssertionError("the call never completes")


class TestOneExit:
    @pytest.mark.parametrize("count", [1, 2, 169, 170])
    def test_doorbells(self, layout: str, count: int) -> None:
        guest = Guest(layout)
        put(guest, doorbells(count), RAM)
        assert guest.call(control(count), RAM) == done(SUCCESS, count)
        assert guest.board.bells[DOORBELL_ANY].count == count
        assert guest.operations.steps.exits == 1
        assert guest.operations.steps.signals == count

    def test_in_order_with_values(self, layout: str) -> None:
        guest = Guest(layout)
        sizes = (1, 2, 4, 8)
        put(guest, [element(DEVICE + 8 * index, U64, size) for index, size in enumerate(sizes)])
        assert guest.call(control(4), INPUT) == done(SUCCESS, 4)
        assert guest.board.device.log == [
            ("W", 8 * index, size, (1 << 8 * size) - 1) for index, size in enumerate(sizes)
        ]

    @pytest.mark.parametrize("start", [0, 1, 4])
    def test_from_the_middle(self, layout: str, start: int) -> None:
        guest = Guest(layout)
        put(guest, doorbells(5))
        assert guest.call(control(5, start), INPUT) == done(SUCCESS, 5)
        assert guest.board.bells[DOORBELL_ANY].count == 5 - start

    @pytest.mark.parametrize(
        ("bad", "status"),
        [
            (element(DEVICE, 0, 3), PARAMETER),
            (element(DEVICE, 0, 0), PARAMETER),
            (element(DEVICE + 1, 0, 2), PARAMETER),
            (element(RAM, 0, 4), PARAMETER),
            (element(U64 - 7, 0, 8), NOT_FOUND),
            (element(DEVICE, 0, 4, flags=1), PARAMETER),
            (element(NOBODY, 0, 4), NOT_FOUND),
            (element(DOORBELL_FOUR, 0, 8), NOT_FOUND),
        ],
    )
    @pytest.mark.parametrize(("at", "start"), [(0, 0), (2, 0), (2, 1), (2, 2), (4, 0)])
    def test_it_stops_at_a_bad_element(
        self, layout: str, bad: bytes, status: int, at: int, start: int
    ) -> None:
        guest = Guest(layout)
        elements = doorbells(5)
        elements[at] = bad
        put(guest, elements)
        assert guest.call(control(5, start), INPUT) == done(status, at)
        assert guest.board.bells[DOORBELL_ANY].count == at - start

    def test_a_bad_element_that_was_done_before_is_not_looked_at(self, layout: str) -> None:
        guest = Guest(layout)
        put(guest, [element(NOBODY, 0, 4), *doorbells(2)])
        assert guest.call(control(3, 1), INPUT) == done(SUCCESS, 3)

    def test_a_list_that_overlaps_itself(self, layout: str) -> None:
        """An element cannot change the list: its target would be memory, and is refused."""
        guest = Guest(layout)
        put(guest, [element(DOORBELL_ANY, 0, 4), element(INPUT + 8 + 48, U64, 8), *doorbells(1)])
        assert guest.call(control(3), INPUT) == done(PARAMETER, 1)
        assert guest.board.memory.writes == []


class TestChecks:
    @pytest.mark.parametrize(
        ("count", "start", "variable"),
        [(0, 0, 0), (0, 1, 0), (1, 1, 0), (3, 4, 0), (4095, 4095, 0), (1, 0, 1), (1, 0, 0x3FF)],
    )
    def test_header_of_the_control_word(self, layout: str, count: int, start: int, variable: int) -> None:
        guest = Guest(layout)
        put(guest, doorbells(5))
        assert guest.call(control(count, start) | variable << 17, INPUT) == WRONG
        assert guest.board.untouched

    @pytest.mark.parametrize("byte", range(8))
    def test_the_reserved_header(self, layout: str, byte: int) -> None:
        guest = Guest(layout)
        put(guest, doorbells(2), header=bytes(byte) + b"\1" + bytes(7 - byte))
        assert guest.call(control(2), INPUT) == done(PARAMETER, 0)
        assert guest.call(control(2, 1), INPUT) == done(PARAMETER, 1)
        assert guest.board.untouched

    @pytest.mark.parametrize("off", range(1, 8))
    def test_unaligned(self, layout: str, off: int) -> None:
        guest = Guest(layout)
        put(guest, doorbells(2), INPUT + off)
        assert guest.call(control(2), INPUT + off) == done(ALIGNMENT, 0)
        assert guest.call(control(2, 1), INPUT + off) == done(ALIGNMENT, 1)
        assert guest.board.untouched

    @pytest.mark.parametrize(
        ("count", "room", "fits"),
        [(1, 24, False), (1, 32, True), (2, 48, False), (2, 56, True), (170, 4088, True), (171, 4096, False)],
    )
    def test_crossing_a_page(self, layout: str, count: int, room: int, fits: bool) -> None:
        guest = Guest(layout)
        gpa = RAM + PAGE - room
        put(guest, doorbells(count), gpa)
        assert guest.call(control(count), gpa) == done(SUCCESS if fits else ALIGNMENT, count if fits else 0)
        assert guest.board.untouched is not fits

    @pytest.mark.parametrize("gpa", [0, RAM + RAM_SIZE, RAM - 8, DEVICE, 1 << 63, U64 & ~0xFFF])
    def test_not_memory(self, layout: str, gpa: int) -> None:
        guest = Guest(layout)
        expected = ALIGNMENT if gpa == RAM - 8 else WRONG
        assert guest.call(control(2), gpa) == done(expected, 0)
        assert guest.board.untouched

    def test_a_list_in_read_only_memory(self, layout: str) -> None:
        guest = Guest(layout)
        guest.board.memory.read_only[ROM][:56] = bytes(8) + b"".join(doorbells(2))
        assert guest.call(control(2), ROM) == done(SUCCESS, 2)


class TestContinuation:
    @pytest.mark.parametrize(
        ("count", "limit"), list(itertools.product([1, 2, 5, 170], [1, 2, 3, 5, 169, 170, 4095]))
    )
    def test_every_limit(self, layout: str, count: int, limit: int) -> None:
        guest = Guest(layout, reps_per_exit=limit)
        put(guest, doorbells(count), RAM)
        result, words = until_through(guest, control(count), RAM)
        assert result == done(SUCCESS, count)
        assert words == [control(count, start) for start in range(0, count, limit)]
        assert guest.board.bells[DOORBELL_ANY].count == count

    def test_only_the_control_register_changes(self, layout: str) -> None:
        guest = Guest(layout, reps_per_exit=2)
        put(guest, doorbells(5))
        file = registers(layout, control(5), INPUT, 0)
        assert guest.execute(file) is Outcome.RETRY
        assert guest.last.registers == {**file, **registers(layout, control(5, 2), INPUT, 0)}
        assert set(guest.last.written) <= {"rcx", "rax", "rdx", "x0", "x1"}
        assert guest.board.bells[DOORBELL_ANY].count == 2

    @pytest.mark.parametrize("at", [0, 1, 2, 3, 4])
    def test_an_error_in_a_later_exit(self, layout: str, at: int) -> None:
        guest = Guest(layout, reps_per_exit=2)
        elements = doorbells(5)
        elements[at] = element(NOBODY, 0, 4)
        put(guest, elements)
        result, words = until_through(guest, control(5))
        assert result == done(NOT_FOUND, at)
        assert len(words) == at // 2 + 1
        assert guest.board.bells[DOORBELL_ANY].count == at

    def test_the_list_may_vanish_in_between(self, layout: str) -> None:
        guest = Guest(layout, reps_per_exit=2)
        put(guest, doorbells(5))
        assert guest.execute(registers(layout, control(5), INPUT)) is Outcome.RETRY
        word = control_of(layout, guest.last.registers)
        del guest.board.memory.slots[RAM]
        assert guest.execute(registers(layout, word, INPUT)) is Outcome.DONE
        assert guest.result() == done(WRONG, 2)

    def test_withdrawn_in_between(self, layout: str) -> None:
        guest = Guest(layout, reps_per_exit=2)
        put(guest, doorbells(5))
        assert guest.execute(registers(layout, control(5), INPUT)) is Outcome.RETRY
        guest.hyperv.offered = False
        word = control_of(layout, guest.last.registers)
        assert guest.call(word, INPUT) == 2
        assert guest.board.bells[DOORBELL_ANY].count == 2

    @pytest.mark.parametrize("limit", [0, -1])
    def test_at_least_one_rep_is_attempted(self, limit: int) -> None:
        with pytest.raises(ValueError, match="1 or more"):
            HyperV(HyperVState(Board().memory), reps_per_exit=limit)

    def test_xens_mark_stays_for_the_next_time(self) -> None:
        """The page marks a call once; the instruction behind it is what is executed again."""
        guest = Guest(X32, state={"xen": True}, reps_per_exit=2)
        put(guest, doorbells(3))
        marked = control(3) | 1 << 31
        result, words = until_through(guest, marked)
        assert words == [marked, control(3, 2) | 1 << 31]
        assert result == done(SUCCESS, 3)

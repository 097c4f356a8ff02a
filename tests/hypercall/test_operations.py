"""The operations behind every convention: checks in their order, routes, lists."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from pvmmio_uc.errors import PvMmioError
from pvmmio_uc.exits import Access, Route, Steps
from pvmmio_uc.hypercall.operations import (
    PVMMIO_RULES,
    Operations,
    Refusal,
    Refused,
    Rules,
)

from .fakes import (
    DEVICE,
    DEVICE_SIZE,
    DOORBELL_ANY,
    DOORBELL_FOUR,
    DOORBELL_MATCH,
    MATCH,
    NOBODY,
    RAM,
    RAM_SIZE,
    ROM,
    U64,
    USER,
    ZONE,
    Board,
    routes,
    user_bytes,
)

NO_CHECKS = Rules(aligned=False, not_memory=False, fast=False)
LIKE_QEMU = Rules(aligned=False, not_memory=False, fast=False, user_memory=True)
SIZES = (1, 2, 4, 8)


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def operations(board: Board) -> Operations:
    return board.operations()


def reason_of(call: Callable[[], object]) -> Refusal | None:
    """Why a call is refused, None where it is not."""
    try:
        call()
    except Refused as refused:
        return refused.refusal
    return None


def refusal(operations: Operations, gpa: int, size: int, rules: Rules = PVMMIO_RULES) -> Refusal | None:
    """Why a read and a write are refused, which is the same reason."""
    reason = reason_of(lambda: operations.read(gpa, size, rules))
    assert reason_of(lambda: operations.write(gpa, size, 0, rules)) is reason
    return reason


# Routes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("gpa", "route"),
    [(DOORBELL_ANY, Route.FAST), (ZONE, Route.COALESCED), (DEVICE, Route.DEVICE), (USER, Route.USERSPACE)],
)
def test_where_a_write_goes(board: Board, operations: Operations, gpa: int, route: Route, size: int) -> None:
    number = 0x8877665544332211
    data = number.to_bytes(8, "little")[:size]
    operations.write(gpa, size, number)
    assert operations.accesses == [Access(True, gpa, size, data, route)]
    seen = board.drain()
    assert seen["bells"] == ([DOORBELL_ANY] if route is Route.FAST else [])
    assert seen["ring"] == ([(ZONE, data)] if route is Route.COALESCED else [])
    assert seen["device"] == (
        [("W", 0, size, int.from_bytes(data, "little"))] if route is Route.DEVICE else []
    )
    assert seen["user"] == ([("W", USER, data)] if route is Route.USERSPACE else [])


@pytest.mark.parametrize("size", SIZES)
def test_an_ioeventfd_of_four_bytes(board: Board, operations: Operations, size: int) -> None:
    reason = reason_of(lambda: operations.write(DOORBELL_FOUR, size, 9))
    assert reason is (None if size == 4 else Refusal.UNCLAIMED)
    assert routes(operations.accesses) == [Route.IOEVENTFD if size == 4 else Route.USERSPACE]
    assert board.bells[DOORBELL_FOUR].count == (size == 4)


@pytest.mark.parametrize("data", [MATCH, MATCH + 1, MATCH << 24, MATCH | 1 << 32, 0])
def test_datamatch_compares_the_bytes_as_a_number(board: Board, operations: Operations, data: int) -> None:
    if data & 0xFFFFFFFF == MATCH:
        operations.write(DOORBELL_MATCH, 4, data)
    else:
        with pytest.raises(Refused, match="nobody"):
            operations.write(DOORBELL_MATCH, 4, data)
    assert board.bells[DOORBELL_MATCH].count == (data & 0xFFFFFFFF == MATCH)


def test_big_endian_data_reaches_the_bus_in_its_bytes(board: Board, operations: Operations) -> None:
    operations.write(DOORBELL_MATCH, 4, MATCH << 24, order="big")
    assert board.bells[DOORBELL_MATCH].count == 1
    operations.write(DEVICE, 4, 0x11223344, order="big")
    assert board.device.log == [("W", 0, 4, 0x44332211)]
    assert operations.read(DEVICE, 4, order="big") == 0x11223344


def test_the_fast_bus_is_asked_only_where_the_rules_say_so(board: Board) -> None:
    for rules, route in ((PVMMIO_RULES, Route.FAST), (NO_CHECKS, Route.IOEVENTFD)):
        operations = board.operations()
        operations.write(DOORBELL_ANY, 2, 7, rules)
        assert routes(operations.accesses) == [route]
    assert board.bells[DOORBELL_ANY].count == 2


def test_a_fast_write_of_any_size_is_one_signal(board: Board) -> None:
    for size in SIZES:
        operations = board.operations()
        operations.write(DOORBELL_ANY, size, 7)
        assert (operations.steps.signals, operations.steps.exits) == (1, 1)
    assert board.bells[DOORBELL_ANY].count == 4


def test_a_full_zone_is_user_spaces(board: Board, operations: Operations) -> None:
    for number in range(board.vm.ring.capacity):
        operations.write(ZONE, 4, number)
    assert routes(operations.accesses) == [Route.COALESCED] * 169
    assert reason_of(lambda: operations.write(ZONE, 4, 169)) is Refusal.UNCLAIMED
    assert board.asked == [("W", ZONE, (169).to_bytes(4, "little"))]


@pytest.mark.parametrize("size", SIZES)
def test_where_a_read_comes_from(board: Board, operations: Operations, size: int) -> None:
    board.device.answer = 0x8877665544332211
    low = board.device.answer & ((1 << 8 * size) - 1)
    assert operations.read(DEVICE, size) == low
    assert operations.read(USER + 0x10, size) == int.from_bytes(user_bytes(USER + 0x10, size), "little")
    for gpa in (NOBODY, ZONE, DOORBELL_ANY):
        with pytest.raises(Refused) as refused:
            operations.read(gpa, size)
        assert refused.value.refusal is Refusal.UNCLAIMED
    assert routes(operations.accesses) == [Route.DEVICE] + [Route.USERSPACE] * 4
    assert operations.accesses[0].data == low.to_bytes(size, "little")
    assert operations.accesses[-1].data == b"\xff" * size


def test_steps_are_counted_where_they_happen(board: Board) -> None:
    steps = Steps()
    operations = Operations(board.vm, board.memory, board.userspace, board.connections, steps)
    operations.write(DOORBELL_FOUR, 4, 1)
    assert operations.steps is steps
    assert steps.signals == 1
    assert steps.bus > 0
    assert (steps.exits, steps.walk, steps.fetch, steps.decode) == (0, 0, 0, 0)


# Checks


@pytest.mark.parametrize("size", [0, 3, 5, 6, 7, 9, 16, 64, 256, 1 << 31, 1 << 32, 1 << 63, U64, -4])
def test_sizes(board: Board, operations: Operations, size: int) -> None:
    assert refusal(operations, DEVICE, size) is Refusal.SIZE
    assert refusal(operations, DEVICE, size, NO_CHECKS) is Refusal.SIZE
    assert board.untouched


@pytest.mark.parametrize(("size", "offset"), [(2, 1), (4, 1), (4, 2), (4, 3), (8, 4), (8, 7)])
def test_alignment(board: Board, operations: Operations, size: int, offset: int) -> None:
    assert refusal(operations, DEVICE + offset, size) is Refusal.ALIGNMENT
    assert board.untouched
    assert refusal(operations, DEVICE + offset, size, NO_CHECKS) is None


@pytest.mark.parametrize(("gpa", "size"), [(U64, 2), (U64, 4), (U64 - 1, 4), (U64 - 6, 8)])
def test_past_the_end_of_all_addresses(board: Board, operations: Operations, gpa: int, size: int) -> None:
    assert refusal(operations, gpa, size, NO_CHECKS) is Refusal.RANGE
    assert board.untouched


def test_the_last_bytes_are_no_wrap(operations: Operations) -> None:
    for size in SIZES:
        assert refusal(operations, U64 + 1 - size, size) is Refusal.UNCLAIMED


@pytest.mark.parametrize("gpa", [RAM, RAM + RAM_SIZE - 8, ROM])
def test_memory(board: Board, operations: Operations, gpa: int) -> None:
    assert refusal(operations, gpa, 8) is Refusal.MEMORY
    assert board.untouched
    assert not board.memory.writes
    assert refusal(operations, gpa, 8, NO_CHECKS) is Refusal.UNCLAIMED
    assert not board.memory.writes


def test_the_edges_of_memory(operations: Operations) -> None:
    assert refusal(operations, RAM - 8, 8) is Refusal.UNCLAIMED
    assert refusal(operations, RAM + RAM_SIZE, 8) is Refusal.UNCLAIMED


ORDER = [
    (Refusal.SIZE, U64 - 2, 3),
    (Refusal.ALIGNMENT, U64 - 2, 4),
    (Refusal.ALIGNMENT, RAM + 1, 2),
    (Refusal.MEMORY, RAM, 2),
    (Refusal.UNCLAIMED, NOBODY, 2),
]


@pytest.mark.parametrize(("reason", "gpa", "size"), ORDER)
def test_the_first_check_that_fails_decides(
    operations: Operations, reason: Refusal, gpa: int, size: int
) -> None:
    assert refusal(operations, gpa, size) is reason


@pytest.mark.parametrize(("aligned", "not_memory"), [*itertools.product((False, True), repeat=2)])
def test_rules_switch_checks_off(operations: Operations, aligned: bool, not_memory: bool) -> None:
    rules = Rules(aligned=aligned, not_memory=not_memory, fast=False)
    assert refusal(operations, DEVICE + 1, 2, rules) is (Refusal.ALIGNMENT if aligned else None)
    assert refusal(operations, RAM, 2, rules) is (Refusal.MEMORY if not_memory else Refusal.UNCLAIMED)


@pytest.mark.parametrize("reason", Refusal)
def test_a_refusal_says_why(reason: Refusal) -> None:
    assert str(Refused(reason)) == reason.value


def test_a_refusal_is_one_of_the_packages_errors() -> None:
    assert issubclass(Refused, PvMmioError)
    assert (Refused(Refusal.SIZE).done, Refused(Refusal.SIZE, 7).done) == (0, 7)


# User space with the guest's memory


def test_a_bus_miss_in_ram_is_user_spaces_own(board: Board, operations: Operations) -> None:
    board.put(RAM + 8, b"\x11\x22\x33\x44")
    assert operations.read(RAM + 8, 4, LIKE_QEMU, "big") == 0x11223344
    operations.write(RAM + 9, 2, 0xAABB, LIKE_QEMU, "big")
    assert board.get(RAM + 8, 4) == b"\x11\xaa\xbb\x44"
    assert routes(operations.accesses) == [Route.USERSPACE] * 2
    assert board.untouched


def test_rom_is_read_and_its_writes_are_offered_on(board: Board, operations: Operations) -> None:
    assert operations.read(ROM, 8, LIKE_QEMU) == 0
    with pytest.raises(Refused):
        operations.write(ROM, 8, 1, LIKE_QEMU)
    assert board.asked == [("W", ROM, b"\1" + bytes(7))]


def test_the_bus_comes_before_memory(board: Board, operations: Operations) -> None:
    board.memory.slots[DEVICE] = bytearray(DEVICE_SIZE)
    operations.write(DEVICE, 4, 5, LIKE_QEMU)
    assert routes(operations.accesses) == [Route.DEVICE]
    assert board.get(DEVICE, 4) == bytes(4)


# Connections


def test_signal(board: Board, operations: Operations) -> None:
    bell = board.connect(7)
    operations.signal(7)
    assert bell.count == 1
    assert operations.steps.signals == 1
    assert operations.accesses == [Access(True, 7, 0, b"", Route.IOEVENTFD)]
    with pytest.raises(Refused) as refused:
        operations.signal(8)
    assert refused.value.refusal is Refusal.CONNECTION

"""PAPR: accesses as a big-endian byte stream, copies, the console."""

from __future__ import annotations

import pytest

from pvmmio_uc.device import DeviceRegion
from pvmmio_uc.exits import Access, Route
from pvmmio_uc.hypercall.cpu import Call, Outcome
from pvmmio_uc.hypercall.papr import Papr, TerminalBuffer

from .fakes import (
    DEVICE,
    DOORBELL_ANY,
    DOORBELL_FOUR,
    DOORBELL_MATCH,
    MATCH,
    NOBODY,
    RAM,
    U64,
    USER,
    ZONE,
    Board,
    FakeCpu,
    Recorder,
    element,
    routes,
    user_bytes,
)
from .papr_guest import (
    CACHE_LOAD,
    CACHE_STORE,
    CI_LOAD,
    CI_STORE,
    DCBF,
    FUNCTION,
    GET_TERM,
    ICBI,
    MMIO_CALLS,
    NOT_FOUND,
    PARAMETER,
    PRIVILEGE,
    PUT_TERM,
    SC1,
    SUCCESS,
    WRITE_LIST,
    call,
)
from .worked import ppc_registers


@pytest.fixture
def board() -> Board:
    return Board()


loads = pytest.mark.parametrize("load", [CI_LOAD, CACHE_LOAD])
stores = pytest.mark.parametrize("store", [CI_STORE, CACHE_STORE])
lengths = pytest.mark.parametrize("length", [1, 2, 4, 8])


def test_worked_example(board: Board) -> None:
    seen = ppc_registers("3860003c388000043ca0100060a5001044000022", 64)
    assert (seen["r3"], seen["r4"], seen["r5"]) == (CI_LOAD, 4, 0x1000_0010)
    device = DeviceRegion(board.vm.mmio, Recorder(0x12345678), 0x1000_0000, 0x1000, lambda: "little")
    board.vm.mmio.register(0x1000_0000, 0x1000, device)
    assert call(board, *(seen[f"r{number}"] for number in range(3, 6))) == {"r3": 0, "r4": 0x78563412}


@stores
@loads
@lengths
def test_the_bytes_on_the_bus_are_those_of_the_big_endian_value(
    board: Board, load: int, store: int, length: int
) -> None:
    data = bytes.fromhex("1122334455667788")[-length:]
    number = 0x1122334455667788
    assert call(board, store, length, DEVICE, number) == {"r3": SUCCESS}
    assert board.accesses == [Access(True, DEVICE, length, data, Route.DEVICE)]
    assert board.device.log == [("W", 0, length, int.from_bytes(data, "little"))]
    low = number & ((1 << 8 * length) - 1)
    assert call(board, load, length, DEVICE) == {"r3": SUCCESS, "r4": low}


def test_the_guests_byte_order_changes_nothing(board: Board) -> None:
    for order in ("big", "little"):
        call(board, CI_STORE, 4, DEVICE, 0x12345678, convention=Papr(order=lambda o=order: o))
    assert board.device.log == [("W", 0, 4, 0x78563412)] * 2


def test_msr_sf_changes_nothing(board: Board) -> None:
    assert call(board, CI_STORE, 8, DEVICE, 0x1122334455667788, bits=32) == {"r3": SUCCESS}
    assert board.device.log == [("W", 0, 8, 0x8877665544332211)]


def test_a_datamatch_sees_the_swapped_number(board: Board) -> None:
    call(board, CI_STORE, 4, DOORBELL_MATCH, MATCH)
    assert board.bells[DOORBELL_MATCH].count == 0
    call(board, CI_STORE, 4, DOORBELL_MATCH, MATCH << 24)
    assert board.bells[DOORBELL_MATCH].count == 1


@stores
@pytest.mark.parametrize(
    ("gpa", "route"),
    [
        (DOORBELL_ANY, Route.IOEVENTFD),
        (DOORBELL_FOUR, Route.IOEVENTFD),
        (ZONE, Route.COALESCED),
        (DEVICE, Route.DEVICE),
        (USER, Route.USERSPACE),
    ],
)
def test_a_store_takes_every_route_but_the_fast_bus(board: Board, store: int, gpa: int, route: Route) -> None:
    assert call(board, store, 4, gpa, 1) == {"r3": SUCCESS}
    assert routes(board.accesses) == [route]


@lengths
def test_user_space_gets_what_no_bus_takes(board: Board, length: int) -> None:
    """H_TOO_HARD."""
    number = int.from_bytes(user_bytes(USER, length), "big")
    assert call(board, CI_LOAD, length, USER) == {"r3": SUCCESS, "r4": number}
    assert call(board, CI_STORE, length, USER, U64) == {"r3": SUCCESS}
    assert board.asked == [("R", USER, b"\xff" * length), ("W", USER, b"\xff" * length)]


@lengths
def test_nobody_is_a_success_all_the_same(board: Board, length: int) -> None:
    assert call(board, CI_LOAD, length, NOBODY) == {"r3": SUCCESS, "r4": (1 << 8 * length) - 1}
    assert call(board, CI_STORE, length, NOBODY, 0) == {"r3": SUCCESS}


@lengths
def test_ram_is_in_user_spaces_address_space(board: Board, length: int) -> None:
    board.put(RAM + 1, bytes.fromhex("1122334455667788"))
    low = 0x1122334455667788 >> 64 - 8 * length
    assert call(board, CI_LOAD, length, RAM + 1) == {"r3": SUCCESS, "r4": low}
    assert call(board, CI_STORE, length, RAM + 1, 0xAABBCCDDEEFF0011) == {"r3": SUCCESS}
    assert board.get(RAM + 1, length) == bytes.fromhex("aabbccddeeff0011")[-length:]
    assert routes(board.accesses) == [Route.USERSPACE]
    assert board.untouched


@loads
@stores
@pytest.mark.parametrize("length", [0, 3, 5, 16, 1 << 31, 1 << 32 | 4, 1 << 63, U64])
def test_bad_sizes(board: Board, load: int, store: int, length: int) -> None:
    assert call(board, load, length, DEVICE) == {"r3": PARAMETER}
    assert call(board, store, length, DEVICE, 1) == {"r3": PARAMETER}
    assert board.untouched


def test_alignment_is_not_checked(board: Board) -> None:
    assert call(board, CI_STORE, 4, DEVICE + 1, 1) == {"r3": SUCCESS}
    assert board.device.log == [("W", 1, 4, 1 << 24)]


@pytest.mark.parametrize(("gpa", "length"), [(U64, 2), (U64 - 2, 4), (U64 - 6, 8)])
def test_wrapping_is_nobodys(board: Board, gpa: int, length: int) -> None:
    assert call(board, CI_LOAD, length, gpa) == {"r3": SUCCESS, "r4": (1 << 8 * length) - 1}
    assert call(board, CI_STORE, length, gpa, 0) == {"r3": SUCCESS}
    assert board.untouched


@pytest.mark.parametrize("number", [ICBI, DCBF])
def test_cache_calls_do_nothing(board: Board, number: int) -> None:
    assert call(board, number, 4, DEVICE) == {"r3": SUCCESS}
    assert board.untouched


@pytest.mark.parametrize(
    "number", [0, 4, 0x38, 0x3D, 0x5C, 0xF000, 0xF002, 0xF0C4, 1 << 32 | CI_LOAD, 1 << 63, U64]
)
def test_unknown_opcodes(board: Board, number: int) -> None:
    assert call(board, number, 4, DEVICE, 1) == {"r3": FUNCTION}
    assert board.untouched


# Privilege and form


@pytest.mark.parametrize("number", [*MMIO_CALLS, PUT_TERM, 0])
@pytest.mark.parametrize(
    ("host", "outcome", "written"),
    [
        ("radix", Outcome.PROTECTION, {}),
        ("hash", Outcome.SYSCALL, {}),
        ("tcg", Outcome.DONE, {"r3": PRIVILEGE}),
    ],
)
def test_user_mode(board: Board, number: int, host: str, outcome: Outcome, written: dict[str, int]) -> None:
    terminal = TerminalBuffer()
    cpu = FakeCpu(board.memory, user_mode=True, r3=number, r4=4, r5=DEVICE, r6=1)
    convention = Papr(host=host, terminal=terminal)
    assert convention.handle(cpu, SC1, board.operations()) is outcome
    assert cpu.written == written
    assert board.untouched
    assert not terminal.output


def test_the_default_host_is_kvm_with_radix(board: Board) -> None:
    cpu = FakeCpu(board.memory, user_mode=True, r3=CI_STORE, r4=4, r5=DEVICE)
    assert Papr().handle(cpu, SC1, board.operations()) is Outcome.PROTECTION
    with pytest.raises(ValueError, match="radix, hash, tcg"):
        Papr(host="pr")


@pytest.mark.parametrize("level", [0, 2, 3, 127])
@pytest.mark.parametrize("user", [False, True])
def test_other_levels_are_the_guests_own(board: Board, level: int, user: bool) -> None:
    cpu = FakeCpu(board.memory, user_mode=user, r3=CI_STORE, r4=4, r5=DEVICE)
    other = Call("sc", 0, 4, level)
    assert not Papr().applies(cpu, other)
    assert Papr(host="tcg").handle(cpu, other, board.operations()) is Outcome.SYSCALL
    assert not cpu.written
    assert board.untouched


def test_which_calls_and_under_which_number() -> None:
    assert Papr().applies(FakeCpu(), SC1)
    assert not Papr().applies(FakeCpu(), Call("hvc", 0, 4, 1))
    assert Papr().number(FakeCpu(r3=1 << 40 | CI_LOAD)) == 1 << 40 | CI_LOAD
    assert Papr().cpuid(0x4000_0000) is None


# Withdrawal


@pytest.mark.parametrize("number", MMIO_CALLS)
def test_withdrawn_calls_are_unknown(board: Board, number: int) -> None:
    convention = Papr(terminal=TerminalBuffer())
    convention.offered = False
    assert call(board, number, 4, DEVICE, 1, convention=convention) == {"r3": FUNCTION}
    assert call(board, PUT_TERM, 0, 1, 0x41 << 56, convention=convention) == {"r3": SUCCESS}
    assert board.untouched


# The console


def test_characters_come_out_of_registers_from_the_left(board: Board) -> None:
    terminal = TerminalBuffer()
    convention = Papr(terminal=terminal)
    first, second = (int.from_bytes(part, "big") for part in (b"Hello, w", b"orld!..."))
    assert call(board, PUT_TERM, 0, 13, first, second, convention=convention) == {"r3": SUCCESS}
    assert call(board, PUT_TERM, 0x7100_0000, 0, first, second, convention=convention) == {"r3": SUCCESS}
    assert call(board, PUT_TERM, 0x7100_0000, 16, first, second, convention=convention) == {"r3": SUCCESS}
    assert terminal.output == b"Hello, world!Hello, world!..."


def test_characters_go_into_registers_from_the_left(board: Board) -> None:
    convention = Papr(terminal=TerminalBuffer(b"0123456789abcdefgh"))
    assert call(board, GET_TERM, 0, convention=convention) == {
        "r3": SUCCESS,
        "r4": 16,
        "r5": int.from_bytes(b"01234567", "big"),
        "r6": int.from_bytes(b"89abcdef", "big"),
    }
    assert call(board, GET_TERM, 0, convention=convention) == {
        "r3": SUCCESS,
        "r4": 2,
        "r5": int.from_bytes(b"gh\0\0\0\0\0\0", "big"),
        "r6": 0,
    }
    assert call(board, GET_TERM, 0, convention=convention) == {"r3": SUCCESS, "r4": 0, "r5": 0, "r6": 0}


@pytest.mark.parametrize("length", [17, 1 << 32, 1 << 63, U64])
def test_too_many_characters(board: Board, length: int) -> None:
    terminal = TerminalBuffer()
    assert call(board, PUT_TERM, 0, length, U64, convention=Papr(terminal=terminal)) == {"r3": PARAMETER}
    assert not terminal.output


def test_other_units_and_no_terminal(board: Board) -> None:
    convention = Papr(terminal=TerminalBuffer(b"x"), unit=0x30000000)
    for unit in (1, 0x7100_0000, 1 << 32):
        assert call(board, PUT_TERM, unit, 1, 0, convention=convention) == {"r3": PARAMETER}
        assert call(board, GET_TERM, unit, convention=convention) == {"r3": PARAMETER}
    assert call(board, GET_TERM, 0x30000000, convention=convention)["r4"] == 1
    assert call(board, PUT_TERM, 0, 1, 0) == {"r3": PARAMETER}
    assert call(board, GET_TERM, 0) == {"r3": PARAMETER}


# The list

LIST = RAM + 0x1000


@pytest.mark.parametrize("order", ["big", "little"])
def test_a_list_has_numbers_and_not_a_byte_stream(board: Board, order: str) -> None:
    convention = Papr(order=lambda: order)
    board.put(LIST, element(DEVICE, 0x1234, 4, order=order) + element(DOORBELL_ANY, 1, 2, order=order))
    assert call(board, WRITE_LIST, LIST, 2, 0, convention=convention) == {"r3": SUCCESS, "r4": 2}
    assert board.device.log == [("W", 0, 4, 0x1234)]
    assert routes(board.accesses) == [Route.DEVICE, Route.FAST]


@pytest.mark.parametrize(
    ("gpa", "elements", "first", "status", "done"),
    [
        (LIST, 171, 0, PARAMETER, 0),
        (LIST, 1, 2, PARAMETER, 0),
        (LIST + 4, 1, 0, PARAMETER, 0),
        (LIST + 0xFF0, 1, 0, PARAMETER, 0),
        (NOBODY, 1, 0, PARAMETER, 0),
        (LIST, 0, 0, SUCCESS, 0),
        (LIST, 3, 0, NOT_FOUND, 1),
        (LIST, 3, 2, PARAMETER, 2),
        (LIST, 3, 3, SUCCESS, 3),
    ],
)
def test_statuses_of_a_list(
    board: Board, gpa: int, elements: int, first: int, status: int, done: int
) -> None:
    parts = (element(DEVICE, 1, 4, order="big"), element(NOBODY, 1, 4, order="big"))
    board.put(LIST, b"".join(parts) + element(RAM, 1, 4, order="big"))
    assert call(board, WRITE_LIST, gpa, elements, first) == {"r3": status, "r4": done}
    assert len(board.device.log) == (status == NOT_FOUND)

"""The GHCB's valid bitmap, the order of its checks, and native calls."""

from __future__ import annotations

import pytest

from pvmmio_uc.exits import Route
from pvmmio_uc.hypercall.cpu import Call, Outcome
from pvmmio_uc.hypercall.ghcb import Ghcb, GhcbError, GhcbState
from pvmmio_uc.hypercall.kvm import KvmX86

from .fakes import (
    DEVICE,
    DOORBELL_ANY,
    NOBODY,
    RAM,
    ROM,
    U64,
    Board,
    FakeCpu,
    element,
    routes,
)
from .ghcb_guest import (
    BUFFER,
    EVENT,
    INPUT,
    MISSING,
    MMIO_READ,
    MMIO_WRITE,
    MSR,
    NOT_REGISTERED,
    PAGE,
    RETURNED,
    SCRATCH,
    USAGE,
    VMGEXIT,
    VMMCALL,
    exit_with,
    get,
    put,
    valid,
)


@pytest.fixture
def board() -> Board:
    return Board()


def call(board: Board, *, convention: Ghcb | None = None, cpl: int = 0, **regs: int) -> dict[str, int]:
    """A native call: the registers in the page behind it."""
    put(board, exit_code=VMMCALL, info_1=0, info_2=0, cpl=cpl, **regs)
    assert exit_with(board, convention) == (0, 0)
    return {name: get(board, name) for name in ("rax", "rbx", "rcx", "rdx")}


MMIO_FIELDS = {"exit_code": MMIO_WRITE, "info_1": DEVICE, "info_2": 4, "scratch": BUFFER}
CALL_FIELDS = {"exit_code": VMMCALL, "info_1": 0, "info_2": 0, "rax": 27, "cpl": 0}


@pytest.mark.parametrize("hidden", MMIO_FIELDS)
def test_every_field_of_mmio_is_needed(board: Board, hidden: str) -> None:
    put(board, hide=(hidden,), **MMIO_FIELDS)
    assert exit_with(board) == (2, MISSING)
    assert board.untouched


@pytest.mark.parametrize("hidden", CALL_FIELDS)
def test_fields_that_a_native_call_needs(board: Board, hidden: str) -> None:
    put(board, hide=(hidden,), **CALL_FIELDS, rbx=DEVICE, rcx=4, rdx=7)
    assert exit_with(board) == (2, MISSING)
    assert board.untouched


def test_a_second_exit_finds_nothing_marked(board: Board) -> None:
    """The bitmap is cleared after reading, and only what is returned is marked."""
    put(board, **MMIO_FIELDS)
    assert exit_with(board) == (0, 0)
    assert valid(board) == set(RETURNED)
    assert exit_with(board) == (2, MISSING)
    assert len(board.device.log) == 1


@pytest.mark.parametrize("usage", [1, 2, 0xFFFFFFFF])
def test_usage_comes_first(board: Board, usage: int) -> None:
    put(board, usage=usage, hide=tuple(MMIO_FIELDS), **MMIO_FIELDS)
    assert exit_with(board) == (2, USAGE)
    assert board.untouched


def test_order_of_checks(board: Board) -> None:
    """Usage, code and infos, the code itself, its fields, the length, the scratch area."""
    fields = {"exit_code": 0x999, "info_1": DEVICE, "info_2": 9, "scratch": NOBODY}
    put(board, usage=1, hide=("info_1", "scratch"), **fields)
    assert exit_with(board) == (2, USAGE)
    put(board, hide=("info_1", "scratch"), **fields)
    assert exit_with(board) == (2, MISSING)
    put(board, hide=("scratch",), **fields)
    assert exit_with(board) == (2, EVENT)
    fields["exit_code"] = MMIO_WRITE
    put(board, hide=("scratch",), **fields)
    assert exit_with(board) == (2, MISSING)
    put(board, **fields)
    assert exit_with(board) == (2, INPUT)
    fields["info_2"] = 8
    put(board, **fields)
    assert exit_with(board) == (2, SCRATCH)
    assert board.untouched


@pytest.mark.parametrize("code", [0, 0x72, 0x7B, 0x7C, 0x80, 0x82, 0x80000000, 0x80000003, 0x8000FFFD, U64])
def test_events_that_are_not_there(board: Board, code: int) -> None:
    put(board, **{**MMIO_FIELDS, "exit_code": code}, rax=0, cpl=0)
    assert exit_with(board) == (2, EVENT)
    assert board.untouched


def test_errors_have_the_numbers_of_the_specification() -> None:
    numbers = (NOT_REGISTERED, USAGE, SCRATCH, MISSING, INPUT, EVENT)
    assert tuple(GhcbError) == numbers


@pytest.mark.parametrize("page", [0, NOBODY, U64 & ~0xFFF, ROM])
def test_a_page_that_is_not_there_does_nothing(board: Board, page: int) -> None:
    """ROM: it could not be answered."""
    convention = Ghcb(GhcbState(msr=page))
    assert convention.handle(FakeCpu(board.memory), VMGEXIT, board.operations()) is Outcome.DONE
    assert convention.read_msr(MSR) == page
    assert board.untouched
    assert not board.memory.writes


def test_user_mode_is_undefined(board: Board) -> None:
    put(board, **MMIO_FIELDS)
    for msr in (PAGE, 0x002):
        cpu = FakeCpu(board.memory, user_mode=True)
        convention = Ghcb(GhcbState(msr=msr))
        assert convention.handle(cpu, VMGEXIT, board.operations()) is Outcome.UNDEFINED
        assert convention.state == GhcbState(msr=msr)
    assert board.untouched
    assert not board.memory.writes


# Native calls


def test_a_native_call(board: Board) -> None:
    assert call(board, rax=27, rbx=DEVICE, rcx=4, rdx=7) == {"rax": 0, "rbx": DEVICE, "rcx": 4, "rdx": 7}
    assert board.device.log == [("W", 0, 4, 7)]
    assert valid(board) == set(RETURNED)
    assert call(board, rax=26, rbx=DEVICE, rcx=4) == {"rax": 0, "rbx": DEVICE, "rcx": 4, "rdx": 7}
    assert call(board, rax=26, rbx=NOBODY, rcx=2)["rdx"] == 0xFFFF
    assert call(board, rax=27, rbx=RAM, rcx=4, rdx=7)["rax"] == U64 - 21
    assert call(board, rax=99)["rax"] == U64 - 999


def test_registers_that_are_not_marked_are_zero(board: Board) -> None:
    put(board, hide=("rdx",), **CALL_FIELDS, rbx=DEVICE, rcx=4, rdx=7)
    assert exit_with(board) == (0, 0)
    assert board.device.log == [("W", 0, 4, 0)]
    assert get(board, "rdx") == 0


@pytest.mark.parametrize("cpl", [1, 3, 255])
def test_the_cpl_of_a_native_call_is_in_the_page(board: Board, cpl: int) -> None:
    assert call(board, cpl=cpl, rax=27, rbx=DEVICE, rcx=4, rdx=7)["rax"] == U64
    assert board.untouched


def test_a_native_list(board: Board) -> None:
    board.put(RAM, element(DEVICE, 1, 4) + element(DOORBELL_ANY, 1, 2))
    assert call(board, rax=28, rbx=RAM, rcx=2, rdx=0)["rdx"] == 2
    assert routes(board.accesses) == [Route.DEVICE, Route.FAST]


def test_options_of_the_native_convention(board: Board) -> None:
    convention = Ghcb(kvm=KvmX86(pkvm=True))
    assert call(board, convention=convention, rax=24, rbx=DEVICE, rcx=4, rdx=7)["rax"] == 0
    assert call(board, convention=convention, rax=23, rbx=DEVICE, rcx=4)["rax"] == 7


# Discovery and withdrawal


def test_discovery() -> None:
    assert Ghcb().cpuid(0x8000001F) == (0b1010, 51, 0, 0)
    assert Ghcb(snp=True, c_bit=47).cpuid(0x8000001F) == (0b11010, 47, 0, 0)
    assert Ghcb().cpuid(0x40000000) is None


def test_withdrawal(board: Board) -> None:
    convention = Ghcb()
    assert convention.offered
    convention.offered = False
    assert not convention.offered
    for code in (MMIO_READ, MMIO_WRITE):
        put(board, hide=("scratch",), **{**MMIO_FIELDS, "exit_code": code})
        assert exit_with(board, convention) == (2, EVENT)
    assert call(board, convention=convention, rax=27, rbx=DEVICE, rcx=4)["rax"] == U64 - 999
    assert board.untouched


def test_which_calls_and_under_which_number(board: Board) -> None:
    put(board, **MMIO_FIELDS)
    cpu = FakeCpu(board.memory)
    assert Ghcb(GhcbState(msr=PAGE)).number(cpu) == MMIO_WRITE
    for msr in (0, 0x002, NOBODY, PAGE | 0x004):
        assert Ghcb(GhcbState(msr=msr)).number(cpu) == msr
    applies = [Ghcb().applies(cpu, Call(name, 0, 4)) for name in ("vmgexit", "vmmcall")]
    assert applies == [True, False]

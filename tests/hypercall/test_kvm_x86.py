"""KVM's convention on x86: vmcall and vmmcall in 64-bit code and in the others."""

from __future__ import annotations

import pytest

from pvmmio_uc.exits import Access, Route
from pvmmio_uc.hypercall.cpu import Call, Outcome
from pvmmio_uc.hypercall.kvm import KvmX86

from .fakes import (
    DEVICE,
    DOORBELL_ANY,
    DOORBELL_FOUR,
    DOORBELL_MATCH,
    MATCH,
    NOBODY,
    RAM,
    ROM,
    U32,
    U64,
    USER,
    ZONE,
    Board,
    FakeCpu,
    routes,
    user_bytes,
)
from .kvm_x86_guest import (
    EINVAL,
    ENOSYS,
    ENXIO,
    EPERM,
    PKVM_READ,
    PKVM_WRITE,
    READ,
    VMCALL,
    VMMCALL,
    WRITE,
    WRITE_LIST,
    both,
    call,
    error,
    registers,
    result,
)
from .worked import x86_registers


@pytest.fixture
def board() -> Board:
    return Board()


def test_worked_example_64(board: Board) -> None:
    seen = x86_registers("b81b00000048bb1000bdfe00000000b904000000ba443322110f01c1", 64)
    assert (seen["rax"], seen["rbx"], seen["rcx"], seen["rdx"]) == (0x1B, 0xFEBD0010, 4, 0x11223344)
    cpu = call(board, **seen)
    assert cpu.get("rax") == 0
    assert board.device.log == [("W", 0x10, 4, 0x11223344)]
    assert cpu.accesses == [Access(True, 0xFEBD0010, 4, b"\x44\x33\x22\x11", Route.DEVICE)]


def test_worked_example_32(board: Board) -> None:
    seen = x86_registers("b81b000000bb1000bdfeb904000000ba4433221131f60f01c1", 32)
    assert seen == {"rax": 0x1B, "rbx": 0xFEBD0010, "rcx": 4, "rdx": 0x11223344, "rsi": 0}
    cpu = call(board, 32, **seen)
    assert cpu.written == {"rax": 0}
    assert board.device.log == [("W", 0x10, 4, 0x11223344)]


@both
@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_what_is_written_is_read_back(board: Board, bits: int, length: int) -> None:
    number = 0x8877_6655_4433_2211
    assert call(board, bits, **registers(bits, WRITE, DEVICE, length, number)).get("rax") == 0
    cpu = call(board, bits, **registers(bits, READ, DEVICE, length))
    assert (cpu.get("rax"), result(cpu)) == (0, number & ((1 << 8 * length) - 1))


@both
@pytest.mark.parametrize(
    ("gpa", "data", "route"),
    [
        (DOORBELL_ANY, 1, Route.FAST),
        (DOORBELL_FOUR, 7, Route.IOEVENTFD),
        (DOORBELL_MATCH, MATCH, Route.IOEVENTFD),
        (ZONE, 5, Route.COALESCED),
        (DEVICE, 5, Route.DEVICE),
        (USER, 5, Route.USERSPACE),
    ],
)
def test_a_write_takes_every_route(board: Board, bits: int, gpa: int, data: int, route: Route) -> None:
    cpu = call(board, bits, **registers(bits, WRITE, gpa, 4, data))
    assert cpu.written == {"rax": 0}
    assert routes(cpu.accesses) == [route]
    assert sum(bell.count for bell in board.bells.values()) == (route in (Route.FAST, Route.IOEVENTFD))


@both
def test_a_datamatch_that_differs_is_nobodys(board: Board, bits: int) -> None:
    cpu = call(board, bits, **registers(bits, WRITE, DOORBELL_MATCH, 4, MATCH + 1))
    assert cpu.written == {"rax": error(ENXIO, bits)}
    assert board.bells[DOORBELL_MATCH].count == 0


@both
def test_upper_bits_of_a_value_are_ignored(board: Board, bits: int) -> None:
    assert call(board, bits, **registers(bits, WRITE, DOORBELL_MATCH, 4, MATCH | 0xAB << 40)).get("rax") == 0
    assert board.bells[DOORBELL_MATCH].count == 1


@both
@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_a_read_of_user_space_and_of_nobody(board: Board, bits: int, length: int) -> None:
    cpu = call(board, bits, **registers(bits, READ, USER + 8, length))
    assert (cpu.get("rax"), result(cpu)) == (0, int.from_bytes(user_bytes(USER + 8, length), "little"))
    cpu = call(board, bits, **registers(bits, READ, NOBODY, length))
    assert (cpu.get("rax"), result(cpu)) == (error(ENXIO, bits), (1 << 8 * length) - 1)
    assert routes(cpu.accesses) == [Route.USERSPACE]


@both
@pytest.mark.parametrize(
    ("gpa", "length"),
    [
        (DEVICE, 0),
        (DEVICE, 3),
        (DEVICE, 16),
        (DEVICE + 1, 2),
        (DEVICE + 2, 4),
        (DEVICE + 4, 8),
        (RAM, 4),
        (RAM + 0x7FF8, 8),
        (ROM, 1),
    ],
)
@pytest.mark.parametrize("number", [READ, WRITE])
def test_bad_arguments(board: Board, bits: int, number: int, gpa: int, length: int) -> None:
    cpu = call(board, bits, **registers(bits, number, gpa, length, 1))
    assert cpu.get("rax") == error(EINVAL, bits)
    if number == READ:
        assert result(cpu) == 0
    assert board.untouched
    assert not board.memory.writes


@pytest.mark.parametrize("length", [1 << 63, U64, 1 << 32 | 4, 256])
def test_large_sizes(board: Board, length: int) -> None:
    assert call(board, rax=WRITE, rbx=DEVICE, rcx=length).written == {"rax": error(EINVAL, 64)}
    assert board.untouched


@pytest.mark.parametrize(("gpa", "length"), [(U64, 2), (U64 - 3, 8), (U64 - 1, 4), (U64, 1 << 63)])
def test_wrapping_is_refused(board: Board, gpa: int, length: int) -> None:
    assert call(board, rax=WRITE, rbx=gpa, rcx=length).written == {"rax": error(EINVAL, 64)}
    assert board.untouched


def test_the_last_byte_of_all(board: Board) -> None:
    assert call(board, rax=WRITE, rbx=U64, rcx=1).written == {"rax": error(ENXIO, 64)}
    assert board.asked == [("W", U64, b"\0")]


def test_order_of_checks(board: Board) -> None:
    """Privilege, number, size, alignment, RAM, bus: each wins over those behind it."""
    cpu = FakeCpu(board.memory, user_mode=True, rax=99, rbx=RAM + 1, rcx=3)
    assert KvmX86().handle(cpu, VMCALL, board.operations()) is Outcome.DONE
    assert cpu.written == {"rax": error(EPERM, 64)}
    assert call(board, rax=99, rbx=RAM + 1, rcx=3).written == {"rax": error(ENOSYS, 64)}
    for gpa, length in ((RAM + 1, 3), (RAM + 1, 4), (RAM, 4)):
        assert call(board, rax=WRITE, rbx=gpa, rcx=length).written == {"rax": error(EINVAL, 64)}
    assert board.untouched
    assert call(board, rax=WRITE, rbx=NOBODY, rcx=4).written == {"rax": error(ENXIO, 64)}


@both
@pytest.mark.parametrize("number", [0, 1, 5, 12, 23, 24, 25, 29, 31, 1000, U32])
def test_unknown_numbers(board: Board, bits: int, number: int) -> None:
    cpu = call(board, bits, rax=number, rbx=DEVICE, rcx=4, rdx=1)
    assert cpu.written == {"rax": error(ENOSYS, bits)}
    assert board.untouched


def test_64_bit_code_uses_all_of_rax(board: Board) -> None:
    assert call(board, rax=1 << 32 | WRITE, rbx=DEVICE, rcx=4).written == {"rax": error(ENOSYS, 64)}
    assert call(board, 32, rax=1 << 32 | WRITE, rbx=DEVICE, rcx=4).written == {"rax": 0}


@both
@pytest.mark.parametrize("number", [READ, WRITE, WRITE_LIST, PKVM_WRITE, 99])
def test_user_mode_is_eperm_before_anything_else(board: Board, bits: int, number: int) -> None:
    cpu = FakeCpu(board.memory, bits=bits, user_mode=True, rax=number, rbx=DEVICE, rcx=4, rdx=1)
    assert KvmX86(pkvm=True).handle(cpu, VMCALL, board.operations()) is Outcome.DONE
    assert cpu.written == {"rax": error(EPERM, bits)}
    assert board.untouched


# 32-bit code: halves of registers


def test_upper_halves_are_not_looked_at(board: Board) -> None:
    junk = 0xDEAD_BEEF << 32
    cpu = call(board, 32, rax=junk | WRITE, rbx=junk | DEVICE, rcx=junk | 4, rdx=junk | 1, rsi=junk)
    assert cpu.written == {"rax": 0}
    assert board.device.log == [("W", 0, 4, 1)]


def test_an_address_above_4_gib(board: Board) -> None:
    gpa = 0x00AB_CDEF_1234_5678
    cpu = call(board, 32, **registers(32, WRITE, gpa, 8, 0x1122334455667788))
    assert cpu.written == {"rax": error(ENXIO, 32)}
    assert board.asked == [("W", gpa, bytes.fromhex("8877665544332211"))]


def test_results_are_zero_extended(board: Board) -> None:
    full = dict.fromkeys(("rdx", "rsi"), U64)
    cpu = call(board, 32, rax=READ, rbx=NOBODY, rcx=8, **full)
    assert cpu.written == {"rax": error(ENXIO, 32), "rdx": U32, "rsi": U32}
    cpu = call(board, 32, rax=READ, rbx=USER, rcx=2, **full)
    assert cpu.written == {"rax": 0, "rdx": 0x0100, "rsi": 0}


# The other instruction


@pytest.mark.parametrize(("native", "other"), [("vmcall", VMMCALL), ("vmmcall", VMCALL)])
def test_the_other_vendors_instruction_is_patched(board: Board, native: str, other: Call) -> None:
    cpu = FakeCpu(board.memory, rax=WRITE, rbx=DEVICE, rcx=4)
    convention = KvmX86(native)
    assert convention.handle(cpu, other, board.operations()) is Outcome.RETRY
    assert cpu.patched == KvmX86.CODE[native]
    assert not cpu.written
    assert board.untouched


@pytest.mark.parametrize(
    ("native", "other", "user", "protected", "outcome"),
    [
        ("vmmcall", VMCALL, True, True, Outcome.PROTECTION),
        ("vmcall", VMMCALL, True, True, Outcome.RETRY),
        ("vmcall", VMMCALL, False, False, Outcome.UNDEFINED),
        ("vmmcall", VMCALL, False, False, Outcome.RETRY),
    ],
)
def test_what_the_emulator_checks_before_it_patches(
    native: str, other: Call, user: bool, protected: bool, outcome: Outcome
) -> None:
    cpu = FakeCpu(user_mode=user, protected_mode=protected)
    assert KvmX86(native).handle(cpu, other, Board().operations()) is outcome
    assert (cpu.patched is not None) == (outcome is Outcome.RETRY)


@pytest.mark.parametrize(("patch", "patchable"), [(False, True), (True, False)])
def test_without_the_quirk_or_in_read_only_code_it_is_undefined(patch: bool, patchable: bool) -> None:
    cpu = FakeCpu(patchable=patchable)
    assert KvmX86(patch=patch).handle(cpu, VMMCALL, Board().operations()) is Outcome.UNDEFINED
    assert cpu.patched is None


def test_an_instruction_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"'vmcall' .* or 'vmmcall'"):
        KvmX86("syscall")


# pKVM, discovery, withdrawal


@both
def test_pkvm_calls_have_the_value_alone(board: Board, bits: int) -> None:
    convention = KvmX86(pkvm=True)
    assert call(board, bits, convention, rax=PKVM_WRITE, rbx=DEVICE, rcx=4, rdx=0x1234).written == {"rax": 0}
    assert call(board, bits, convention, rax=PKVM_READ, rbx=DEVICE, rcx=4).written == {"rax": 0x1234}
    ones = U64 if bits == 64 else U32
    assert call(board, bits, convention, rax=PKVM_READ, rbx=NOBODY, rcx=1).written == {"rax": ones}
    assert call(board, bits, convention, rax=PKVM_WRITE, rbx=RAM, rcx=4).written == {"rax": ones}


def test_pkvm_calls_are_an_option(board: Board) -> None:
    assert call(board, rax=PKVM_READ, rbx=DEVICE, rcx=4).written == {"rax": error(ENOSYS, 64)}


@pytest.mark.parametrize("base", [0x4000_0000, 0x4000_0100])
def test_discovery(base: int) -> None:
    convention = KvmX86(leaf=base)
    assert convention.cpuid(base) == (base | 1, 0x4B4D564B, 0x564B4D56, 0x4D)
    assert convention.cpuid(base | 1) == (1 << 23, 0, 0, 0)
    assert convention.cpuid(base + 2) is None
    assert convention.cpuid(1) is None


@pytest.mark.parametrize("number", [READ, WRITE, WRITE_LIST, PKVM_READ, PKVM_WRITE])
def test_withdrawn_calls_are_unknown_numbers(board: Board, number: int) -> None:
    convention = KvmX86(pkvm=True)
    convention.offered = False
    assert call(board, 64, convention, rax=number, rbx=DEVICE, rcx=4).written == {"rax": error(ENOSYS, 64)}
    assert convention.cpuid(0x4000_0001) == (0, 0, 0, 0)
    assert board.untouched


def test_which_calls_and_under_which_number() -> None:
    cpu = FakeCpu(rax=1 << 40 | WRITE)
    assert KvmX86().number(cpu) == 1 << 40 | WRITE
    cpu.bits = 32
    assert KvmX86().number(cpu) == WRITE
    assert KvmX86().applies(cpu, VMCALL)
    assert KvmX86().applies(cpu, VMMCALL)
    assert not KvmX86().applies(cpu, Call("tdcall", 0, 4))

"""Intel TDX: RequestMMIO, ports and native calls over tdcall, and the mask of registers in RCX."""

from __future__ import annotations

import pytest

from pvmmio_uc.exits import Access, Route
from pvmmio_uc.hypercall.cpu import Call, Outcome
from pvmmio_uc.hypercall.kvm import KvmX86
from pvmmio_uc.hypercall.tdx import Tdx

from .fakes import (
    DEVICE,
    DOORBELL_ANY,
    DOORBELL_FOUR,
    DOORBELL_MATCH,
    MATCH,
    NOBODY,
    NOBODY_PORT,
    PORT,
    PORT_DOORBELL,
    RAM,
    U64,
    USER,
    USER_PORT,
    ZONE,
    Board,
    FakeCpu,
    element,
    routes,
    user_bytes,
)
from .worked import x86_registers

TDCALL = Call("tdcall", 0x1000, 4)
MMIO, IO, GET_INFO = 48, 30, 0x10000
INVALID_OPERAND, SUBFUNC_UNSUPPORTED = 1 << 63, 1 << 63 | 3
MODULE_RAX, MODULE_RCX = 0xC000_0100_0000_0000, 0xC000_0100_0000_0001
SHARED = 1 << 47
R10_TO_R15, LINUX = 0xFC00, 0xFFCC


@pytest.fixture
def board() -> Board:
    return Board()


def call(
    board: Board, convention: Tdx | None = None, *, mask: int = R10_TO_R15, **regs: int
) -> dict[str, int]:
    """What the call has set."""
    cpu = FakeCpu(board.memory, rcx=mask, **regs)
    operations = board.operations()
    assert (convention or Tdx()).handle(cpu, TDCALL, operations) is Outcome.DONE
    board.accesses = operations.accesses
    return cpu.written


def mmio(gpa: int, length: int, data: int | None = None) -> dict[str, int]:
    """R11 to R15 of a write, or without data of a read."""
    write = data is not None
    return {"r11": MMIO, "r12": length, "r13": int(write), "r14": gpa, "r15": data or 0}


def io(port: int, length: int, data: int | None = None) -> dict[str, int]:
    return {**mmio(port, length, data), "r11": IO}


masks = pytest.mark.parametrize("mask", [R10_TO_R15, LINUX, LINUX | 0xFFFF << 16])
lengths = pytest.mark.parametrize("length", [1, 2, 4, 8])


def test_worked_example(board: Board) -> None:
    code = "31c0b900fc00004531d241bb3000000041bc040000004531ed49be1000c0fe00800000660f01cc"
    seen = x86_registers(code, 64)
    assert (seen["rax"], seen["rcx"], seen["r10"], seen["r11"]) == (0, 0xFC00, 0, 0x30)
    assert (seen["r12"], seen["r13"], seen["r14"]) == (4, 0, 0x8000FEC00010)
    cpu = FakeCpu(board.memory, **seen)
    operations = board.operations()
    assert Tdx().handle(cpu, TDCALL, operations) is Outcome.DONE
    assert operations.accesses == [Access(False, 0xFEC00010, 4, b"\xff" * 4, Route.USERSPACE)]
    assert cpu.written == {"r11": 0xFFFFFFFF}


@masks
@lengths
def test_what_is_written_is_read_back(board: Board, mask: int, length: int) -> None:
    number = 0x8877665544332211
    assert call(board, mask=mask, **mmio(SHARED | DEVICE, length, number)) == {}
    low = number & ((1 << 8 * length) - 1)
    assert board.device.log == [("W", 0, length, low)]
    assert call(board, mask=mask, **mmio(SHARED | DEVICE, length)) == {"r11": low}


@pytest.mark.parametrize(
    ("gpa", "data", "route"),
    [
        (DOORBELL_ANY, 1, Route.FAST),
        (DOORBELL_FOUR, 7, Route.IOEVENTFD),
        (DOORBELL_MATCH, MATCH, Route.IOEVENTFD),
        (DOORBELL_MATCH, MATCH + 1, Route.USERSPACE),
        (ZONE, 5, Route.COALESCED),
        (DEVICE, 5, Route.DEVICE),
        (USER, 5, Route.USERSPACE),
        (NOBODY, 5, Route.USERSPACE),
        (RAM, 5, Route.USERSPACE),
    ],
)
def test_a_write_takes_every_route_and_succeeds(board: Board, gpa: int, data: int, route: Route) -> None:
    """R10 stays the 0 that it was, and R11 the function: KVM writes neither."""
    assert call(board, **mmio(SHARED | gpa, 4, data)) == {}
    assert board.accesses == [Access(True, gpa, 4, data.to_bytes(4, "little"), route)]
    assert not board.memory.writes


@lengths
def test_reads_of_user_space_nobody_and_ram(board: Board, length: int) -> None:
    number = int.from_bytes(user_bytes(USER, length), "little")
    assert call(board, **mmio(SHARED | USER, length)) == {"r11": number}
    for gpa in (NOBODY, RAM):
        assert call(board, **mmio(SHARED | gpa, length)) == {"r11": (1 << 8 * length) - 1}


def test_alignment_is_not_checked(board: Board) -> None:
    assert call(board, **mmio(SHARED | DEVICE + 1, 4, 7)) == {}
    assert board.device.log == [("W", 1, 4, 7)]


@pytest.mark.parametrize("length", [0, 3, 5, 16, 1 << 31, 1 << 32 | 4, 1 << 63, U64])
def test_bad_sizes(board: Board, length: int) -> None:
    assert call(board, **mmio(SHARED | DEVICE, length, 7)) == {"r10": INVALID_OPERAND}
    assert call(board, **mmio(SHARED | DEVICE, length)) == {"r10": INVALID_OPERAND}
    assert call(board, **io(PORT, length, 7)) == {"r10": INVALID_OPERAND}
    assert board.untouched


@pytest.mark.parametrize("function", [MMIO, IO])
@pytest.mark.parametrize("direction", [2, 1 << 32, 1 << 63, U64])
def test_bad_directions(board: Board, function: int, direction: int) -> None:
    regs = {**mmio(SHARED | DEVICE, 4, 7), "r11": function, "r13": direction}
    assert call(board, **regs) == {"r10": INVALID_OPERAND}
    assert board.untouched


# The shared bit


@pytest.mark.parametrize("shared_bit", [47, 51])
@pytest.mark.parametrize(
    ("gpa", "good"),
    [
        (DEVICE, False),
        (RAM, False),
        ("shared", True),
        ("the other", False),
        ("the last shared", False),
        ("before the shared", False),
        (U64, False),
        (U64 - 2, False),
    ],
)
def test_private_addresses(board: Board, shared_bit: int, gpa: int | str, good: bool) -> None:
    """At the start, at the end, and where the access wraps."""
    bit = 1 << shared_bit
    place = {
        "shared": bit | DEVICE,
        "the other": 1 << 98 - shared_bit | DEVICE,
        "the last shared": (bit << 1) - 2,
        "before the shared": bit - 2,
    }
    regs = mmio(place[gpa] if isinstance(gpa, str) else gpa, 4, 7)
    assert call(board, Tdx(shared_bit), **regs) == ({} if good else {"r10": INVALID_OPERAND})
    assert board.untouched is not good


def test_other_high_bits_stay_in_the_address(board: Board) -> None:
    assert call(board, **mmio(1 << 60 | SHARED | DEVICE, 4, 7)) == {}
    assert board.asked == [("W", 1 << 60 | DEVICE, b"\7\0\0\0")]


@pytest.mark.parametrize("shared_bit", [0, 46, 48, 52, 63])
def test_there_are_two_shared_bits(shared_bit: int) -> None:
    with pytest.raises(ValueError, match=r"47 .* or 51"):
        Tdx(shared_bit)


# The mask


@pytest.mark.parametrize("name", ["r11", "r12", "r13", "r14", "r15"])
def test_a_hidden_register_reads_as_zero(board: Board, name: str) -> None:
    number = int(name[1:])
    written = call(board, mask=R10_TO_R15 & ~(1 << number), **mmio(SHARED | DEVICE, 4, 0x55))
    if name == "r11":
        assert written == {"r10": SUBFUNC_UNSUPPORTED}
    elif name in ("r12", "r14"):
        assert written == {"r10": INVALID_OPERAND}
    elif name == "r13":
        assert written == {"r11": 0}
        assert board.device.log == [("R", 0, 4, 0)]
    else:
        assert board.device.log == [("W", 0, 4, 0)]


def test_a_hidden_register_is_not_written(board: Board) -> None:
    only_inputs = 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14
    assert call(board, mask=only_inputs, **mmio(DEVICE, 4)) == {}
    board.device.answer = 7
    assert call(board, mask=R10_TO_R15 & ~(1 << 10), **mmio(SHARED | DEVICE, 4)) == {"r11": 7}
    assert call(board, mask=0, **mmio(SHARED | DEVICE, 4)) == {}


def test_a_hidden_r10_makes_no_native_call(board: Board) -> None:
    regs = {**mmio(SHARED | DEVICE, 4, 7), "r10": 27}
    assert call(board, mask=R10_TO_R15 & ~(1 << 10), **regs) == {}
    assert board.device.log == [("W", 0, 4, 7)]


@pytest.mark.parametrize("bit", [0, 1, 4, 32, 47, 63])
def test_a_mask_that_the_module_refuses(board: Board, bit: int) -> None:
    assert call(board, mask=R10_TO_R15 | 1 << bit, **mmio(SHARED | DEVICE, 4, 7)) == {"rax": MODULE_RCX}
    assert board.untouched


@pytest.mark.parametrize("leaf", [1, 3, 22, 255, 1 << 16, 1 << 63])
def test_leaves_of_the_module(board: Board, leaf: int) -> None:
    """The leaf is looked at before the mask."""
    assert call(board, mask=U64, rax=leaf, **mmio(SHARED | DEVICE, 4, 7)) == {"rax": MODULE_RAX}
    assert board.untouched


# Privilege


@pytest.mark.parametrize(("bits", "user"), [(64, True), (32, False), (32, True)])
def test_user_mode_and_32_bit_code_get_a_protection_fault(board: Board, bits: int, user: bool) -> None:
    for regs in (mmio(SHARED | DEVICE, 4, 7), io(PORT, 1, 7), {"r10": 27}, {"rax": 5}):
        cpu = FakeCpu(board.memory, bits=bits, user_mode=user, rcx=LINUX, **regs)
        assert Tdx().handle(cpu, TDCALL, board.operations()) is Outcome.PROTECTION
        assert not cpu.written
    assert board.untouched


# Ports


@pytest.mark.parametrize("length", [1, 2, 4])
def test_ports(board: Board, length: int) -> None:
    number = 0x8877665544332211
    low = number & ((1 << 8 * length) - 1)
    assert call(board, **io(PORT, length, number)) == {}
    assert board.ports.log == [("W", 0, length, low)]
    assert call(board, **io(PORT, length)) == {"r11": low}
    assert routes(board.accesses) == [Route.DEVICE]
    assert call(board, **io(USER_PORT, length)) == {
        "r11": int.from_bytes(user_bytes(USER_PORT, length), "little")
    }
    assert call(board, **io(NOBODY_PORT, length)) == {"r11": (1 << 8 * length) - 1}
    assert not board.asked


def test_a_doorbell_on_a_port(board: Board) -> None:
    assert call(board, **io(PORT_DOORBELL, 2, 1)) == {}
    assert board.bells[PORT_DOORBELL].count == 1


def test_a_port_has_16_bits_and_no_shared_bit(board: Board) -> None:
    assert call(board, **io(SHARED | 0xABCD << 16 | PORT, 1, 7)) == {}
    assert board.ports.log == [("W", 0, 1, 7)]


def test_eight_bytes_are_no_port_access(board: Board) -> None:
    assert call(board, **io(PORT, 8, 7)) == {"r10": INVALID_OPERAND}


# Other calls


@pytest.mark.parametrize("leaf", [0, 1])
def test_information(board: Board, leaf: int) -> None:
    regs = {"r11": GET_INFO, "r12": leaf, "r13": 5, "r14": 6, "r15": 7}
    assert call(board, **regs) == {"r11": 0, "r12": 0, "r13": 0, "r14": 0}
    assert call(board, **{**regs, "r12": 2}) == {"r10": INVALID_OPERAND}


@pytest.mark.parametrize(
    "function", [0, 1, 10, 12, 31, 32, 47, 49, 0x10001, 0x10002, 0x10003, 1 << 32 | MMIO, U64]
)
def test_functions_that_are_not_there(board: Board, function: int) -> None:
    assert call(board, **{**mmio(SHARED | DEVICE, 4, 7), "r11": function}) == {"r10": SUBFUNC_UNSUPPORTED}
    assert board.untouched


def test_a_native_call(board: Board) -> None:
    assert call(board, r10=27, r11=DEVICE, r12=4, r13=0x1234) == {"r10": 0, "r13": 0x1234}
    assert board.device.log == [("W", 0, 4, 0x1234)]
    assert call(board, r10=26, r11=DEVICE, r12=4, r13=9) == {"r10": 0, "r13": 0x1234}
    assert call(board, r10=26, r11=NOBODY, r12=2) == {"r10": U64 - 5, "r13": 0xFFFF}
    assert call(board, r10=27, r11=RAM, r12=4) == {"r10": U64 - 21, "r13": 0}
    assert call(board, r10=99, r11=1) == {"r10": U64 - 999, "r13": 0}
    assert call(board, r10=1 << 32 | 27, r11=DEVICE, r12=4) == {"r10": U64 - 999, "r13": 0}


def test_a_native_list(board: Board) -> None:
    board.put(RAM, element(DEVICE, 1, 4) + element(DOORBELL_ANY, 1, 2) + element(NOBODY, 1, 4))
    assert call(board, r10=28, r11=RAM, r12=2, r13=0) == {"r10": 0, "r13": 2}
    assert call(board, r10=28, r11=RAM, r12=3, r13=1) == {"r10": U64 - 5, "r13": 2}
    assert routes(board.accesses) == [Route.FAST, Route.USERSPACE]


def test_a_native_call_has_no_shared_bit(board: Board) -> None:
    assert call(board, r10=27, r11=SHARED | DEVICE, r12=4)["r10"] == U64 - 5


def test_a_native_call_sees_the_mask(board: Board) -> None:
    assert call(board, mask=R10_TO_R15 & ~(1 << 12), r10=27, r11=DEVICE, r12=4) == {"r10": U64 - 21, "r13": 0}
    assert call(board, mask=R10_TO_R15 & ~(1 << 13), r10=26, r11=DEVICE, r12=4) == {"r10": 0}


def test_options_of_the_native_convention(board: Board) -> None:
    convention = Tdx(kvm=KvmX86("vmmcall", pkvm=True))
    assert call(board, convention, r10=24, r11=DEVICE, r12=4, r13=7) == {"r10": 0, "r13": 7}
    assert call(board, convention, r10=23, r11=DEVICE, r12=4) == {"r10": 7, "r13": 0}


# Discovery and withdrawal


def test_discovery() -> None:
    leaf = Tdx().cpuid(0x21)
    assert leaf is not None
    eax, ebx, ecx, edx = leaf
    assert eax == 0
    assert b"".join(part.to_bytes(4, "little") for part in (ebx, edx, ecx)) == b"IntelTDX    "
    assert Tdx().cpuid(0x4000_0000) is None


def test_withdrawal(board: Board) -> None:
    convention = Tdx()
    assert convention.offered
    convention.offered = False
    assert not convention.offered
    assert call(board, convention, **mmio(SHARED | DEVICE, 4, 7)) == {"r10": SUBFUNC_UNSUPPORTED}
    assert call(board, convention, r10=27, r11=DEVICE, r12=4) == {"r10": U64 - 999, "r13": 0}
    assert board.untouched
    assert call(board, convention, **io(PORT, 1, 7)) == {}
    convention.offered = True
    assert call(board, convention, **mmio(SHARED | DEVICE, 4, 7)) == {}
    assert board.device.log


def test_which_calls_and_under_which_number() -> None:
    convention = Tdx()
    assert convention.number(FakeCpu(r10=27, r11=5)) == 27
    assert convention.number(FakeCpu(r11=MMIO)) == MMIO
    assert [convention.applies(FakeCpu(), Call(name, 0, 4)) for name in ("tdcall", "vmcall")] == [True, False]

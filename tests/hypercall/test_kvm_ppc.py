"""KVM's convention on ppc: ePAPR tokens over sc 1, and the form of KVM PR."""

from __future__ import annotations

import pytest

from pvmmio_uc.exits import Access, Route
from pvmmio_uc.hypercall.cpu import Call, Outcome
from pvmmio_uc.hypercall.kvm import KvmPpc

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
    element,
    routes,
    user_bytes,
)
from .model import PvMmioModel, address, count, fill_list, list_address, size, start, value
from .properties import CALLS, Expected, Trial, generator
from .worked import ppc_registers

READ, WRITE, WRITE_LIST, FEATURES, IDLE = 0x2A001A, 0x2A001B, 0x2A001C, 0x2A0003, 0x10010
SUCCESS, EFAULT, ENODEV, EINVAL, UNIMPLEMENTED = 0, 6, 7, 8, 12
MAGIC = 0x4B564D21
SC, SC1 = Call("sc", 0x1000, 4), Call("sc", 0x1000, 4, 1)


@pytest.fixture
def board() -> Board:
    return Board()


def registers(bits: int, token: int, gpa: int, length: int, data: int = 0) -> dict[str, int]:
    """A read or write, gpa and value in pairs in 32-bit mode."""
    if bits == 64:
        return {"r11": token, "r3": gpa, "r4": length, "r5": data}
    return {
        "r11": token,
        "r3": gpa >> 32,
        "r4": gpa & U32,
        "r5": length,
        "r6": data >> 32,
        "r7": data & U32,
    }


def list_registers(bits: int, gpa: int, elements: int, first: int) -> dict[str, int]:
    values = (gpa, elements, first) if bits == 64 else (gpa >> 32, gpa & U32, elements & U32, first & U32)
    return {"r11": WRITE_LIST, **{f"r{number}": value for number, value in enumerate(values, 3)}}


def call(board: Board, bits: int, regs: dict[str, int], convention: KvmPpc | None = None) -> tuple[int, int]:
    """r3, and r4 (with r5 in 32-bit mode) behind the call."""
    cpu = FakeCpu(board.memory, bits=bits, **regs)
    operations = board.operations()
    assert (convention or KvmPpc()).handle(cpu, SC1, operations) is Outcome.DONE
    board.accesses = operations.accesses
    if bits == 64 or "r5" not in cpu.written:
        assert set(cpu.written) == {"r3", "r4"}
        return cpu.get("r3"), cpu.get("r4")
    assert set(cpu.written) == {"r3", "r4", "r5"}
    return cpu.get("r3"), cpu.get("r4") << 32 | cpu.get("r5")


both = pytest.mark.parametrize("bits", [64, 32])


def test_worked_example_features(board: Board) -> None:
    """In the form of KVM PR: the magic word in r0, and plain sc."""
    seen = ppc_registers("3d60002a616b00033c004b5660004d2144000002", 32)
    assert (seen["r11"], seen["r0"]) == (FEATURES, MAGIC)
    cpu = FakeCpu(board.memory, bits=32, **seen)
    assert KvmPpc(magic=True).handle(cpu, SC, board.operations()) is Outcome.DONE
    assert cpu.written == {"r3": SUCCESS, "r4": 1 << 2}


def test_worked_example_write(board: Board) -> None:
    """64-bit argument registers, with the address in RAM's stead at the board's doorbell."""
    seen = ppc_registers("3d60002a616b001b3c600e00606300503880000438a0000144000022", 64)
    assert (seen["r11"], seen["r3"], seen["r4"], seen["r5"]) == (WRITE, 0x0E000050, 4, 1)
    assert call(board, 64, seen) == (ENODEV, 0)
    assert board.accesses == [Access(True, 0x0E000050, 4, b"\1\0\0\0", Route.USERSPACE)]
    assert call(board, 64, {**seen, "r3": DOORBELL_FOUR}) == (SUCCESS, 0)
    assert board.bells[DOORBELL_FOUR].count == 1


@both
@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_a_value_is_a_number_in_either_byte_order(board: Board, bits: int, length: int) -> None:
    """Devices are little-endian, and nobody swaps."""
    number = 0x8877_6655_4433_2211
    assert call(board, bits, registers(bits, WRITE, DEVICE, length, number)) == (SUCCESS, 0)
    low = number & ((1 << 8 * length) - 1)
    assert board.device.log == [("W", 0, length, low)]
    assert call(board, bits, registers(bits, READ, DEVICE, length)) == (SUCCESS, low)


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
    assert call(board, bits, registers(bits, WRITE, gpa, 4, data)) == (SUCCESS, 0)
    assert routes(board.accesses) == [route]


@both
@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_reads_of_user_space_and_of_nobody(board: Board, bits: int, length: int) -> None:
    number = int.from_bytes(user_bytes(USER, length), "little")
    assert call(board, bits, registers(bits, READ, USER, length)) == (SUCCESS, number)
    assert call(board, bits, registers(bits, READ, NOBODY, length)) == (ENODEV, (1 << 8 * length) - 1)
    assert call(board, bits, registers(bits, WRITE, NOBODY, length, 1)) == (ENODEV, 0)


@both
@pytest.mark.parametrize("token", [READ, WRITE])
@pytest.mark.parametrize(
    ("gpa", "length"),
    [
        (DEVICE, 0),
        (DEVICE, 3),
        (DEVICE, 1 << 31),
        (DEVICE + 2, 4),
        (RAM, 8),
        (ROM, 2),
        (U64, 2),
        (U64 - 3, 8),
    ],
)
def test_bad_arguments(board: Board, bits: int, token: int, gpa: int, length: int) -> None:
    assert call(board, bits, registers(bits, token, gpa, length, 1)) == (EINVAL, 0)
    assert board.untouched


def test_sizes_of_64_bits(board: Board) -> None:
    for length in (1 << 63, 1 << 32 | 4):
        assert call(board, 64, registers(64, WRITE, DEVICE, length, 1)) == (EINVAL, 0)
    assert call(board, 32, registers(32, WRITE, DEVICE, 1 << 32 | 4, 1)) == (SUCCESS, 0)


def test_upper_halves_do_not_count_in_32_bit_mode(board: Board) -> None:
    junk = 0xDEAD_BEEF << 32
    regs = {name: value | junk for name, value in registers(32, WRITE, DEVICE, 4, 7).items()}
    assert call(board, 32, regs) == (SUCCESS, 0)
    assert board.device.log == [("W", 0, 4, 7)]


@both
def test_an_address_above_4_gib(board: Board, bits: int) -> None:
    assert call(board, bits, registers(bits, WRITE, 0x1234_5678_9ABC_DEF0, 8, 1)) == (ENODEV, 0)
    assert board.asked == [("W", 0x1234_5678_9ABC_DEF0, b"\1" + bytes(7))]


LIST = RAM + 0x1000


@both
@pytest.mark.parametrize("order", ["big", "little"])
def test_lists_are_in_the_guests_byte_order(board: Board, bits: int, order: str) -> None:
    convention = KvmPpc(order=lambda: order)
    board.put(LIST, element(DEVICE, 0x1234, 4, order=order) + element(DOORBELL_ANY, 1, 2, order=order))
    assert call(board, bits, list_registers(bits, LIST, 2, 0), convention) == (SUCCESS, 2)
    assert board.device.log == [("W", 0, 4, 0x1234)]
    assert routes(board.accesses) == [Route.DEVICE, Route.FAST]
    assert call(board, bits, list_registers(bits, LIST, 2, 1), convention) == (SUCCESS, 2)
    assert routes(board.accesses) == [Route.FAST]


@both
@pytest.mark.parametrize(
    ("gpa", "elements", "first", "status"),
    [
        (LIST, 171, 0, EINVAL),
        (LIST, 1, 2, EINVAL),
        (LIST + 4, 1, 0, EINVAL),
        (LIST + 0xFF0, 1, 0, EINVAL),
        (NOBODY, 1, 0, EFAULT),
        (U64 - 23, 1, 0, EFAULT),
        (LIST, 0, 0, SUCCESS),
    ],
)
def test_the_shape_of_a_list(
    board: Board, bits: int, gpa: int, elements: int, first: int, status: int
) -> None:
    board.put(LIST, element(DEVICE, 1, 4, order="big") * 170)
    assert call(board, bits, list_registers(bits, gpa, elements, first)) == (status, 0)
    assert board.untouched


@both
def test_a_list_stops_at_the_first_that_fails(board: Board, bits: int) -> None:
    good = element(DEVICE, 1, 4, order="big")
    board.put(LIST, good + element(NOBODY, 1, 4, order="big") + good + element(DEVICE, 1, 4, 1, order="big"))
    assert call(board, bits, list_registers(bits, LIST, 4, 0)) == (ENODEV, 1)
    assert call(board, bits, list_registers(bits, LIST, 4, 2)) == (EINVAL, 3)


# Privilege and form


@pytest.mark.parametrize("level", [0, 2, 127])
def test_other_levels_are_the_guests_own(board: Board, level: int) -> None:
    cpu = FakeCpu(board.memory, r11=WRITE, r3=DEVICE, r4=4)
    assert KvmPpc().handle(cpu, Call("sc", 0, 4, level), board.operations()) is Outcome.SYSCALL
    assert not cpu.written
    assert board.untouched


def test_user_mode_is_a_program_interrupt(board: Board) -> None:
    cpu = FakeCpu(board.memory, user_mode=True, r11=WRITE, r3=DEVICE, r4=4)
    assert KvmPpc().handle(cpu, SC1, board.operations()) is Outcome.PROTECTION
    assert not cpu.written
    assert board.untouched


@pytest.mark.parametrize(
    ("user", "r0", "outcome"),
    [
        (False, MAGIC, Outcome.DONE),
        (False, U64 << 32 & U64 | MAGIC, Outcome.DONE),
        (False, MAGIC + 1, Outcome.SYSCALL),
        (False, 0, Outcome.SYSCALL),
        (True, MAGIC, Outcome.SYSCALL),
    ],
)
def test_the_form_of_kvm_pr(board: Board, user: bool, r0: int, outcome: Outcome) -> None:
    cpu = FakeCpu(board.memory, user_mode=user, r0=r0, r11=WRITE, r3=DEVICE, r4=4, r5=1)
    assert KvmPpc(magic=True).handle(cpu, SC, board.operations()) is outcome
    assert bool(board.device.log) == (outcome is Outcome.DONE)


# Other tokens, discovery, withdrawal


@both
@pytest.mark.parametrize("token", [0, 1, 0x2A0019, 0x2A001D, 0x2A0004, 0x1A, 0x1001A, U32])
def test_unknown_tokens(board: Board, bits: int, token: int) -> None:
    assert call(board, bits, registers(bits, token, DEVICE, 4, 1)) == (UNIMPLEMENTED, 0)
    assert board.untouched


@both
def test_features_and_idle(board: Board, bits: int) -> None:
    assert call(board, bits, {"r11": FEATURES}) == (SUCCESS, 1 << 2)
    assert call(board, bits, {"r11": IDLE}) == (SUCCESS, 0)
    assert call(board, bits, {"r11": 0xABCD << 32 | FEATURES}) == (SUCCESS, 1 << 2)


@both
def test_withdrawal(board: Board, bits: int) -> None:
    convention = KvmPpc()
    convention.offered = False
    assert call(board, bits, {"r11": FEATURES}, convention) == (SUCCESS, 0)
    for token in (READ, WRITE, WRITE_LIST):
        assert call(board, bits, registers(bits, token, DEVICE, 4, 1), convention) == (UNIMPLEMENTED, 0)
    assert board.untouched


def test_which_calls_and_under_which_number() -> None:
    convention = KvmPpc()
    assert convention.number(FakeCpu(r11=1 << 32 | WRITE)) == WRITE
    assert [convention.applies(FakeCpu(), Call(name, 0, 4)) for name in ("sc", "hvc")] == [True, False]
    assert convention.cpuid(0x4000_0000) is None


class Model(PvMmioModel):
    def expect(self, regs: dict[str, int], bits: int, user: bool) -> Expected:
        if user:
            return Outcome.PROTECTION, {}
        token = regs["r11"] % 2**32
        if token not in (READ, WRITE, WRITE_LIST):
            status = 0 if token in (FEATURES, IDLE) else UNIMPLEMENTED
            return Outcome.DONE, {"r3": status, "r4": 4 if token == FEATURES else 0}
        r3, r4, r5, r6, r7 = (regs.get(f"r{number}", 0) % 2**bits for number in range(3, 8))
        if bits == 64:
            a, b, c = r3, r4, r5
        else:
            a, b, c = r3 * 2**32 + r4, r5, (r6 if token == WRITE_LIST else r6 * 2**32 + r7)
        if token == READ:
            reason, second = self.pv_read(a, b)
        elif token == WRITE:
            reason, second = self.pv_write(a, b, c)
        else:
            reason, second = self.pv_write_list(a, b, c, big=True)
        status = {"": SUCCESS, "bad": EINVAL, "nobody": ENODEV, "unreadable": EFAULT}[reason]
        if bits == 64:
            return Outcome.DONE, {"r3": status, "r4": second}
        return Outcome.DONE, {"r3": status, "r4": second >> 32, "r5": second % 2**32}


@both
def test_random_register_files(bits: int) -> None:
    rng, model = generator(), Model()
    trial, convention = Trial(model, "r3"), KvmPpc()
    pool = (*(READ, WRITE, WRITE_LIST) * 4, WRITE | 1 << 40, FEATURES, IDLE, 0, 0x2A0004)
    for _ in range(CALLS):
        token = rng.choice(pool)
        if token == WRITE_LIST:
            gpa, elements = list_address(rng), count(rng)
            regs = list_registers(bits, gpa, elements, start(rng))
            trial.store(gpa, fill_list(rng, model, gpa, elements, big=True))
        else:
            regs = registers(bits, token, address(rng), size(rng), value(rng))
        if rng.random() < 0.1:
            regs["r3"] |= rng.getrandbits(32) << 32
        cpu = FakeCpu(trial.board.memory, bits=bits, user_mode=rng.random() < 0.05, **regs)
        trial.call(convention, cpu, SC1, lambda r=regs, c=cpu: model.expect(r, bits, c.user_mode))
    assert trial.went_everywhere()
    assert set(trial.statuses) == {SUCCESS, EFAULT, ENODEV, EINVAL, UNIMPLEMENTED, None}

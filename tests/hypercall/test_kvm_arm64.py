"""KVM's convention on arm64: SMCCC over hvc and smc."""

from __future__ import annotations

import uuid

import pytest

from pvmmio_uc.exits import Access, Route
from pvmmio_uc.hypercall.cpu import Call, Outcome
from pvmmio_uc.hypercall.kvm import KvmArm64

from .fakes import (
    DEVICE,
    DOORBELL_ANY,
    DOORBELL_FOUR,
    DOORBELL_MATCH,
    MATCH,
    NOBODY,
    RAM,
    ROM,
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
from .worked import arm64_registers

READ, WRITE, WRITE_LIST = 0xC600_0070, 0xC600_0071, 0xC600_0072
SUCCESS, NOT_SUPPORTED, INVALID_PARAMETER, NO_DEVICE = 0, U64, U64 - 2, U64 - 3
HVC, SMC = Call("hvc", 0x1000, 4), Call("smc", 0x1000, 4)


@pytest.fixture
def board() -> Board:
    return Board()


def call(
    board: Board, *arguments: int, convention: KvmArm64 | None = None, instruction: Call = HVC
) -> tuple[int, int, int, int]:
    """x0 to x3 behind the call; the accesses stay in ``board.accesses``."""
    cpu = FakeCpu(board.memory, **{f"x{number}": argument for number, argument in enumerate(arguments)})
    operations = board.operations()
    assert (convention or KvmArm64()).handle(cpu, instruction, operations) is Outcome.DONE
    assert list(cpu.written) == ["x0", "x1", "x2", "x3"]
    board.accesses = operations.accesses
    return tuple(cpu.written.values())


def test_worked_example_write(board: Board) -> None:
    seen = arm64_registers("200e805200c0b872010a80d20140a1f2820080d2230080d2020000d4")
    assert seen == {"x0": WRITE, "x1": 0x0A000050, "x2": 4, "x3": 1}
    assert call(board, *seen.values()) == (SUCCESS, 0, 0, 0)
    assert board.bells[0x0A000050].count == 1
    assert board.accesses == [Access(True, 0x0A000050, 4, b"\1\0\0\0", Route.IOEVENTFD)]


def test_worked_example_guard_page_is_not_an_access(board: Board) -> None:
    seen = arm64_registers("e000805200c0b8720140a1d2020080d2030080d2020000d4")
    assert seen == {"x0": 0xC6000007, "x1": 0x0A000000, "x2": 0, "x3": 0}
    assert call(board, *seen.values()) == (NOT_SUPPORTED, 0, 0, 0)
    assert board.untouched


@pytest.mark.parametrize("instruction", [HVC, Call("hvc", 0, 4, 1), Call("hvc", 0, 4, 0xFFFF), SMC])
def test_the_immediate_of_hvc_does_not_matter(board: Board, instruction: Call) -> None:
    assert call(board, WRITE, DEVICE, 4, 7, instruction=instruction) == (SUCCESS, 0, 0, 0)
    assert board.device.log == [("W", 0, 4, 7)]


def test_smc_with_an_immediate_is_refused(board: Board) -> None:
    cpu = FakeCpu(board.memory, x0=WRITE, x1=DEVICE, x2=4, x3=7)
    assert KvmArm64().handle(cpu, Call("smc", 0, 4, 1), board.operations()) is Outcome.DONE
    assert cpu.written == {"x0": U64}
    assert board.untouched


@pytest.mark.parametrize("instruction", [HVC, SMC, Call("smc", 0, 4, 1)])
def test_el0_is_undefined(board: Board, instruction: Call) -> None:
    cpu = FakeCpu(board.memory, user_mode=True, x0=WRITE, x1=DEVICE, x2=4, x3=7)
    assert KvmArm64().handle(cpu, instruction, board.operations()) is Outcome.UNDEFINED
    assert not cpu.written
    assert board.untouched


def test_only_w0_is_the_function(board: Board) -> None:
    assert call(board, U64 << 32 & U64 | WRITE, DEVICE, 4, 7) == (SUCCESS, 0, 0, 0)


@pytest.mark.parametrize(
    "function",
    [
        0,
        0x4600_0071,
        0x8600_0071,
        0xC500_0071,
        0xC601_0071,
        0xC600_0073,
        0xC600_006F,
        0x8400_0000,
        0xFFFF_FFFF,
    ],
)
def test_unknown_functions(board: Board, function: int) -> None:
    """The yielding form, the 32-bit form, another owner, the SVE hint, the neighbours, PSCI."""
    assert call(board, function, DEVICE, 4, 1) == (NOT_SUPPORTED, 0, 0, 0)
    assert board.untouched


@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_what_is_written_is_read_back(board: Board, length: int) -> None:
    number = 0x8877_6655_4433_2211
    assert call(board, WRITE, DEVICE, length, number)[0] == SUCCESS
    assert call(board, READ, DEVICE, length) == (SUCCESS, number & ((1 << 8 * length) - 1), 0, 0)


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
def test_a_write_takes_every_route(board: Board, gpa: int, data: int, route: Route) -> None:
    assert call(board, WRITE, gpa, 4, data) == (SUCCESS, 0, 0, 0)
    assert routes(board.accesses) == [route]


@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_reads_of_user_space_and_of_nobody(board: Board, length: int) -> None:
    number = int.from_bytes(user_bytes(USER, length), "little")
    assert call(board, READ, USER, length) == (SUCCESS, number, 0, 0)
    assert call(board, READ, NOBODY, length) == (NO_DEVICE, (1 << 8 * length) - 1, 0, 0)
    assert call(board, WRITE, NOBODY, length, 1) == (NO_DEVICE, 0, 0, 0)


@pytest.mark.parametrize("function", [READ, WRITE])
@pytest.mark.parametrize(
    ("gpa", "length"),
    [
        (DEVICE, 0),
        (DEVICE, 3),
        (DEVICE, 1 << 63),
        (DEVICE, 1 << 32 | 4),
        (DEVICE + 2, 4),
        (RAM, 8),
        (ROM, 2),
        (U64 - 1, 4),
        (U64, 2),
    ],
)
def test_bad_arguments(board: Board, function: int, gpa: int, length: int) -> None:
    assert call(board, function, gpa, length, 1) == (INVALID_PARAMETER, 0, 0, 0)
    assert board.untouched


LIST = RAM + 0x1000


def test_lists(board: Board) -> None:
    board.put(LIST, element(DEVICE, 1, 4) + element(DOORBELL_ANY, 2, 2) + element(NOBODY, 3, 8))
    assert call(board, WRITE_LIST, LIST, 2, 0) == (SUCCESS, 2, 0, 0)
    assert routes(board.accesses) == [Route.DEVICE, Route.FAST]
    assert call(board, WRITE_LIST, LIST, 3, 1) == (NO_DEVICE, 2, 0, 0)
    assert routes(board.accesses) == [Route.FAST, Route.USERSPACE]


@pytest.mark.parametrize(
    ("gpa", "elements", "first"),
    [
        (LIST, 171, 0),
        (LIST, 1, 2),
        (LIST + 4, 1, 0),
        (LIST + 0xFF0, 1, 0),
        (NOBODY, 1, 0),
        (LIST, 1 << 63, 0),
    ],
)
def test_the_shape_of_a_list(board: Board, gpa: int, elements: int, first: int) -> None:
    """SMCCC has one status for all of them."""
    board.put(LIST, element(DEVICE, 1, 4) * 170)
    assert call(board, WRITE_LIST, gpa, elements, first) == (INVALID_PARAMETER, 0, 0, 0)
    assert board.untouched


# Discovery and withdrawal


def test_version_and_uid(board: Board) -> None:
    assert call(board, 0x8000_0000) == (0x1_0001, 0, 0, 0)
    words = call(board, 0x8600_FF01)
    raw = b"".join(word.to_bytes(4, "little") for word in words)
    assert uuid.UUID(bytes=raw) == uuid.UUID("28b46fb6-2ec5-11e9-a9ca-4b564d003a74")


def test_features_are_bits_of_function_numbers(board: Board) -> None:
    words = call(board, 0x8600_0000)
    bitmap = sum(word << 32 * index for index, word in enumerate(words))
    assert [bit for bit in range(128) if bitmap >> bit & 1] == [0, 112, 113, 114]


def test_withdrawal(board: Board) -> None:
    convention = KvmArm64()
    convention.offered = False
    assert call(board, 0x8600_0000, convention=convention) == (1, 0, 0, 0)
    for function in (READ, WRITE, WRITE_LIST):
        assert call(board, function, DEVICE, 4, 1, convention=convention) == (NOT_SUPPORTED, 0, 0, 0)
    assert board.untouched


def test_which_calls_and_under_which_number() -> None:
    convention = KvmArm64()
    assert convention.number(FakeCpu(x0=U64 << 32 & U64 | WRITE)) == WRITE
    assert [convention.applies(FakeCpu(), Call(name, 0, 4)) for name in ("hvc", "smc", "svc")] == [
        True,
        True,
        False,
    ]
    assert convention.cpuid(0x4000_0000) is None


class Model(PvMmioModel):
    def expect(self, x: list[int], user: bool, immediate_smc: bool) -> Expected:
        if user:
            return Outcome.UNDEFINED, {}
        if immediate_smc:
            return Outcome.DONE, {"x0": U64}
        function = x[0] % 2**32
        results = (NOT_SUPPORTED, 0, 0, 0)
        if function in (READ, WRITE, WRITE_LIST):
            do = {READ: self.pv_read, WRITE: self.pv_write, WRITE_LIST: self.pv_write_list}[function]
            reason, second = do(*x[1:3]) if function == READ else do(*x[1:4])
            status = {"": SUCCESS, "nobody": NO_DEVICE}.get(reason, INVALID_PARAMETER)
            results = (status, second, 0, 0)
        elif function == 0x8000_0000:
            results = (0x10001, 0, 0, 0)
        elif function == 0x8600_0000:
            results = (1, 0, 0, 7 << 16)
        elif function == 0x8600_FF01:
            results = (0xB66FB428, 0xE911C52E, 0x564BCAA9, 0x743A004D)
        return Outcome.DONE, dict(zip(("x0", "x1", "x2", "x3"), results, strict=True))


def test_random_register_files() -> None:
    rng, model = generator(), Model()
    trial, convention = Trial(model, "x0"), KvmArm64()
    pool = (
        *(READ, WRITE, WRITE_LIST) * 4,
        WRITE | 1 << 40,
        0x8000_0000,
        0x8600_0000,
        0x8600_FF01,
        0x4600_0071,
        0,
    )
    instructions = (HVC,) * 6 + (SMC, Call("hvc", 0, 4, 1), Call("smc", 0, 4, 7))
    for _ in range(CALLS):
        function, instruction = rng.choice(pool), rng.choice(instructions)
        x = [function, address(rng), size(rng), value(rng)]
        if function == WRITE_LIST:
            x[1:] = [list_address(rng), count(rng), start(rng)]
            trial.store(x[1], fill_list(rng, model, x[1], x[2]))
        cpu = FakeCpu(trial.board.memory, user_mode=rng.random() < 0.05, **{f"x{n}": x[n] for n in range(4)})
        smc = instruction.instruction == "smc" and instruction.immediate != 0
        trial.call(
            convention, cpu, instruction, lambda x=x, c=cpu, smc=smc: model.expect(x, c.user_mode, smc)
        )
    assert trial.went_everywhere()
    assert {SUCCESS, NOT_SUPPORTED, INVALID_PARAMETER, NO_DEVICE, None} <= set(trial.statuses)

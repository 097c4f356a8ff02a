"""HvCallGetVpRegisters and -SetVpRegisters: how an arm64 guest finds the calls and announces itself."""

from __future__ import annotations

import pytest

from pvmmio_uc.hypercall.cpu import Outcome

from .fakes import PAGE, RAM, RAM_SIZE, ROM, U64
from .hyperv_guest import FAST, HVC0, HVC1, INPUT, OUTPUT, Guest, control_of, fast_output, with_block

GET, SET = 0x50, 0x51
OS_ID, VERSION, PRIVILEGES, FEATURES = 0x0009_0002, 0x100, 0x200, 0x201
LINUX_ID = 0x8100_0000_0006_0C00
SUCCESS, WRONG, ALIGNMENT, PARAMETER, PARTITION, VP = 0, 3, 4, 5, 0xD, 0xE


@pytest.fixture(params=[HVC0, HVC1], ids=["hvc-0", "hvc-1"])
def guest(request: pytest.FixtureRequest) -> Guest:
    made = Guest(request.param)
    made.state.guest_os_id = 0
    return made


def header(partition: int = U64, vp: int = 0xFFFF_FFFE, rest: int = 0) -> bytes:
    return partition.to_bytes(8, "little") + vp.to_bytes(4, "little") + rest.to_bytes(4, "little")


def named(*names: int, at: bytes | None = None) -> bytes:
    return (header() if at is None else at) + b"".join(name.to_bytes(4, "little") for name in names)


def assigned(*pairs: tuple[int, int], at: bytes | None = None) -> bytes:
    block = header() if at is None else at
    for name, value in pairs:
        block += name.to_bytes(16, "little") + value.to_bytes(16, "little")
    return block


def word(code: int, count: int, start: int = 0) -> int:
    return code | count << 32 | start << 48


def get(guest: Guest, *names: int) -> tuple[int, bytes]:
    guest.board.put(INPUT, named(*names))
    result = guest.call(word(GET, len(names)), INPUT, OUTPUT)
    return result, guest.board.get(OUTPUT, 16 * len(names))


class TestAsLinuxDoesIt:
    def test_the_os_id(self) -> None:
        """hv_set_vpreg: x4 the name, x5 zero, x6 the value, x7 zero."""
        guest = Guest(HVC0)
        file = {
            "x0": 0x4600_0001,
            "x1": 0x1_0001_0051,
            "x2": U64,
            "x3": 0xFFFF_FFFE,
            "x4": OS_ID,
            "x5": 0,
            "x6": LINUX_ID,
            "x7": 0,
        }
        assert guest.execute(file) is Outcome.DONE
        assert guest.last.written == {"x0": 1 << 32}
        assert guest.state.guest_os_id == LINUX_ID

    def test_the_features(self) -> None:
        """hv_get_vpreg_128: the answer is in x6 and x7, and bit 21 says that the MMIO calls are there."""
        guest = Guest(HVC0)
        file = {
            "x0": 0x4600_0001,
            "x1": 0x1_0001_0050,
            "x2": U64,
            "x3": 0xFFFF_FFFE,
            "x4": FEATURES,
        }
        assert guest.execute(file) is Outcome.DONE
        assert guest.last.written == {"x0": 1 << 32, "x6": 0xFFFF_FFFF_0020_0000, "x7": 0}
        guest.hyperv.offered = False
        assert guest.execute(file) is Outcome.DONE
        assert guest.last.written == {"x0": 1 << 32, "x6": 0xFFFF_FFFF_0000_0000, "x7": 0}


class TestGet:
    @pytest.mark.parametrize(("name", "leaf"), [(0x100, 2), (0x200, 3), (0x201, 4), (0x202, 5), (0x203, 6)])
    def test_what_cpuid_says_on_x86(self, guest: Guest, name: int, leaf: int) -> None:
        result, data = get(guest, name)
        assert result == 1 << 32
        words = guest.state.cpuid(0x4000_0000 + leaf)
        assert words is not None
        assert data == b"".join(value.to_bytes(4, "little") for value in words)

    def test_several(self, guest: Guest) -> None:
        guest.state.guest_os_id = LINUX_ID
        result, data = get(guest, OS_ID, FEATURES, OS_ID)
        assert result == 3 << 32
        assert data[:16] == data[32:] == LINUX_ID.to_bytes(16, "little")

    @pytest.mark.parametrize("count", [1, 3])
    def test_fast(self, guest: Guest, count: int) -> None:
        guest.state.guest_os_id = LINUX_ID
        names = (OS_ID, FEATURES, OS_ID)[:count]
        assert guest.fast_call(word(GET, count), named(*names)) == count << 32
        size = 16 + 4 * count
        data = fast_output(guest.layout, guest.last.registers, size, 16 * count)
        assert data[:16] == LINUX_ID.to_bytes(16, "little")
        assert data[16 * count - 16 :] == LINUX_ID.to_bytes(16, "little")

    @pytest.mark.parametrize(("count", "fits"), [(5, True), (6, False), (4095, False)])
    def test_what_fits_in_registers(self, guest: Guest, count: int, fits: bool) -> None:
        """5 names are 36 bytes, up to 48, and 80 bytes of output: 128."""
        expected = count << 32 if fits else WRONG
        assert guest.fast_call(word(GET, count), named(*[OS_ID] * min(count, 28))) == expected

    @pytest.mark.parametrize("at", [0, 1, 2])
    def test_an_unknown_register(self, guest: Guest, at: int) -> None:
        names = [OS_ID, OS_ID, OS_ID]
        names[at] = 0x4000_0003
        guest.state.guest_os_id = 7
        guest.board.put(OUTPUT, b"\xee" * 48)
        result, data = get(guest, *names)
        assert result == PARAMETER | at << 32
        assert data == (7).to_bytes(16, "little") * at + b"\xee" * (48 - 16 * at)

    def test_in_several_exits(self, guest: Guest) -> None:
        guest.hyperv.reps_per_exit = 2
        guest.state.guest_os_id = 7
        file = with_block(guest.layout, word(GET | FAST, 3), named(OS_ID, OS_ID, OS_ID))
        assert guest.execute(file) is Outcome.RETRY
        assert control_of(guest.layout, guest.last.registers) == word(GET | FAST, 3, 2)
        assert guest.execute(guest.last.registers) is Outcome.DONE
        assert guest.result() == 3 << 32
        assert fast_output(guest.layout, guest.last.registers, 28, 48) == (7).to_bytes(16, "little") * 3

    @pytest.mark.parametrize(
        ("output", "status"),
        [(OUTPUT + 4, ALIGNMENT), (RAM + PAGE - 8, ALIGNMENT), (RAM + RAM_SIZE, WRONG), (ROM, WRONG)],
    )
    def test_a_bad_output_block(self, guest: Guest, output: int, status: int) -> None:
        guest.board.put(INPUT, named(OS_ID))
        assert guest.call(word(GET, 1), INPUT, output) == status


class TestSet:
    def test_slow(self, guest: Guest) -> None:
        guest.board.put(INPUT, assigned((OS_ID, 5), (OS_ID, 6)))
        assert guest.call(word(SET, 2), INPUT) == 2 << 32
        assert guest.state.guest_os_id == 6

    @pytest.mark.parametrize("name", [FEATURES, PRIVILEGES, VERSION, 0, 0x4000_0000])
    def test_others(self, guest: Guest, name: int) -> None:
        guest.board.put(INPUT, assigned((OS_ID, 5), (name, 6)))
        assert guest.call(word(SET, 2), INPUT) == PARAMETER | 1 << 32
        assert guest.state.guest_os_id == 5

    def test_from_the_middle(self, guest: Guest) -> None:
        guest.board.put(INPUT, assigned((FEATURES, 5), (OS_ID, 6)))
        assert guest.call(word(SET, 2, 1), INPUT) == 2 << 32
        assert guest.state.guest_os_id == 6

    @pytest.mark.parametrize(("count", "fits"), [(3, True), (4, False)])
    def test_what_fits_in_registers(self, guest: Guest, count: int, fits: bool) -> None:
        block = assigned(*[(OS_ID, 5)] * count)
        assert guest.fast_call(word(SET, count), block[:128]) == (count << 32 if fits else WRONG)


@pytest.mark.parametrize("code", [GET, SET])
class TestBoth:
    @pytest.mark.parametrize(
        ("at", "status"),
        [
            (header(partition=0), PARTITION),
            (header(partition=1), PARTITION),
            (header(vp=0), VP),
            (header(vp=1), VP),
            (header(rest=0x10), PARAMETER),
            (header(partition=1, vp=1, rest=1), PARTITION),
            (header(vp=1, rest=1), VP),
        ],
    )
    def test_only_the_caller_itself(self, guest: Guest, code: int, at: bytes, status: int) -> None:
        block = named(OS_ID, at=at) if code == GET else assigned((OS_ID, 5), at=at)
        guest.board.put(INPUT, block)
        assert guest.call(word(code, 1), INPUT, OUTPUT) == status
        assert guest.state.guest_os_id == 0
        assert guest.board.memory.writes == []

    @pytest.mark.parametrize(("count", "start", "variable"), [(0, 0, 0), (1, 1, 0), (1, 0, 1)])
    def test_they_are_lists(self, guest: Guest, code: int, count: int, start: int, variable: int) -> None:
        guest.board.put(INPUT, assigned((OS_ID, 5)))
        assert guest.call(word(code, count, start) | variable << 17, INPUT, OUTPUT) == WRONG
        assert guest.state.guest_os_id == 0

    @pytest.mark.parametrize(
        ("gpa", "status"),
        [(INPUT + 1, ALIGNMENT), (RAM + PAGE - 16, ALIGNMENT), (0, WRONG), (U64 - 7, ALIGNMENT)],
    )
    def test_a_bad_input_block(self, guest: Guest, code: int, gpa: int, status: int) -> None:
        assert guest.call(word(code, 1), gpa, OUTPUT) == status

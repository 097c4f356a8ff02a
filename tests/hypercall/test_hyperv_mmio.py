"""HvCallMemoryMappedIoRead and -Write: worked examples, every size and place, blocks in bad places."""

from __future__ import annotations

import pytest
from unicorn import UC_ARCH_X86, UC_HOOK_INSN_INVALID, UC_MODE_64, Uc
from unicorn.x86_const import UC_X86_REG_R8, UC_X86_REG_RCX, UC_X86_REG_RDX, UC_X86_REG_RIP, UC_X86_REG_RSP

from pvmmio_uc.device import DeviceRegion
from pvmmio_uc.exits import Route
from pvmmio_uc.hypercall.cpu import Outcome

from .fakes import (
    DEVICE,
    DEVICE_SIZE,
    DOORBELL_ANY,
    DOORBELL_FOUR,
    DOORBELL_MATCH,
    MATCH,
    NOBODY,
    PAGE,
    RAM,
    RAM_SIZE,
    ROM,
    U64,
    USER,
    ZONE,
    Recorder,
    routes,
    user_bytes,
)
from .hyperv_guest import (
    HVC0,
    INPUT,
    OUTPUT,
    X32,
    X64,
    Guest,
    layout_fixture,
    mmio_block,
)

READ, WRITE = 0x106, 0x107
SUCCESS, CODE, WRONG, ALIGNMENT, PARAMETER, NOT_FOUND = 0, 2, 3, 4, 5, 0x10
ONES = b"\xff" * 64

layout = layout_fixture()


def write(guest: Guest, gpa: int, size: int, value: int) -> int:
    guest.board.put(INPUT, mmio_block(gpa, size, value))
    return guest.call(WRITE, INPUT)


def read(guest: Guest, gpa: int, size: int) -> tuple[int, bytes]:
    guest.board.put(INPUT, mmio_block(gpa, size))
    guest.board.put(OUTPUT, ONES)
    return guest.call(READ, INPUT, OUTPUT), guest.board.get(OUTPUT, 64)


class TestWorkedExamples:
    BLOCK = bytes.fromhex("001000e00f000000 04000000 00000000 bebafeca") + bytes(60)
    CODE = bytes.fromhex("b907010000 ba00200100 4531c0 48c7c000800100 ffd0")
    TARGET = 0xF_E000_1000

    def device(self, guest: Guest) -> Recorder:
        device = Recorder()
        region = DeviceRegion(guest.board.vm.mmio, device, self.TARGET, 0x1000, lambda: "little")
        guest.board.vm.mmio.register(self.TARGET, 0x1000, region)
        return device

    def at_the_trap(self, page: bytes) -> dict[str, int]:
        """The registers with which the code above arrives at the hypercall page, at 0x18000."""
        uc = Uc(UC_ARCH_X86, UC_MODE_64)
        uc.mem_map(0x10000, 0x10000)
        uc.mem_write(0x10000, self.CODE)
        uc.mem_write(0x18000, page)
        uc.reg_write(UC_X86_REG_RSP, 0x1F000)
        trapped: list[int] = []

        def stop(engine: Uc, _: object) -> bool:
            trapped.append(engine.reg_read(UC_X86_REG_RIP))
            engine.emu_stop()
            return True

        uc.hook_add(UC_HOOK_INSN_INVALID, stop)
        uc.emu_start(0x10000, 0x10000 + len(self.CODE))
        assert trapped == [0x18000]
        names = {"rcx": UC_X86_REG_RCX, "rdx": UC_X86_REG_RDX, "r8": UC_X86_REG_R8}
        return {name: uc.reg_read(register) for name, register in names.items()}

    def test_a_write_from_64_bit_code(self) -> None:
        guest = Guest(X64)
        device = self.device(guest)
        guest.board.memory.slots[0x18000] = bytearray(PAGE)
        guest.state.write_msr(0x4000_0001, 0x18001)
        file = self.at_the_trap(guest.board.get(0x18000, 4))
        assert file == {"rcx": 0x107, "rdx": 0x12000, "r8": 0}
        guest.board.put(0x12000, self.BLOCK)
        assert guest.execute(file) is Outcome.DONE
        assert guest.last.written == {"rax": 0}
        assert device.log == [("W", 0, 4, 0xCAFE_BABE)]
        assert guest.board.memory.writes == []

    def test_a_read_from_32_bit_code(self) -> None:
        guest = Guest(X32)
        device = self.device(guest)
        device.answer = 0x1234_5678
        guest.board.put(0x12000, self.BLOCK[:16])
        file = {"rdx": 0, "rax": 0x106, "rbx": 0, "rcx": 0x12000, "rdi": 0, "rsi": 0x12010}
        assert guest.execute(file) is Outcome.DONE
        assert guest.last.written == {"rax": 0, "rdx": 0}
        assert device.log == [("R", 0, 4, 0x1234_5678)]
        assert guest.board.memory.writes == [(0x12010, b"\x78\x56\x34\x12" + bytes(60))]

    def test_a_write_from_arm64(self) -> None:
        guest = Guest(HVC0)
        device = self.device(guest)
        guest.board.memory.slots[0x4000_2000] = bytearray(self.BLOCK)
        file = {"x0": 0x4600_0001, "x1": 0x107, "x2": 0x4000_2000, "x3": 0}
        assert guest.execute(file) is Outcome.DONE
        assert guest.last.written == {"x0": 0}
        assert device.log == [("W", 0, 4, 0xCAFE_BABE)]


class TestRoutes:
    @pytest.mark.parametrize("size", [1, 2, 4, 8])
    def test_a_device(self, layout: str, size: int) -> None:
        guest = Guest(layout)
        value = 0x1122_3344_5566_7788
        assert write(guest, DEVICE + 0x10, size, value) == SUCCESS
        kept = value & ((1 << 8 * size) - 1)
        assert guest.board.device.log == [("W", 0x10, size, kept)]
        status, data = read(guest, DEVICE + 0x10, size)
        assert (status, data) == (SUCCESS, kept.to_bytes(64, "little"))
        assert routes(guest.operations.accesses) == [Route.DEVICE]

    @pytest.mark.parametrize("size", [1, 2, 4, 8])
    def test_the_fast_bus(self, layout: str, size: int) -> None:
        guest = Guest(layout)
        assert write(guest, DOORBELL_ANY, size, U64) == SUCCESS
        assert guest.board.bells[DOORBELL_ANY].count == 1
        assert routes(guest.operations.accesses) == [Route.FAST]

    @pytest.mark.parametrize("size", [1, 2, 4, 8])
    def test_a_doorbell_of_four_bytes(self, layout: str, size: int) -> None:
        guest = Guest(layout)
        assert write(guest, DOORBELL_FOUR, size, 0) == (SUCCESS if size == 4 else NOT_FOUND)
        assert guest.board.bells[DOORBELL_FOUR].count == (size == 4)

    @pytest.mark.parametrize(("value", "rings"), [(MATCH, 1), (MATCH + 1, 0), (1 << 32 | MATCH, 1)])
    def test_datamatch(self, layout: str, value: int, rings: int) -> None:
        guest = Guest(layout)
        assert write(guest, DOORBELL_MATCH, 4, value) == (SUCCESS if rings else NOT_FOUND)
        assert guest.board.bells[DOORBELL_MATCH].count == rings

    def test_a_coalesced_zone(self, layout: str) -> None:
        guest = Guest(layout)
        assert write(guest, ZONE + 4, 4, 7) == SUCCESS
        assert [(entry.address, entry.data) for entry in guest.board.vm.ring.drain()] == [
            (ZONE + 4, (7).to_bytes(4, "little"))
        ]

    def test_user_space(self, layout: str) -> None:
        guest = Guest(layout)
        assert write(guest, USER + 4, 4, 7) == SUCCESS
        status, data = read(guest, USER + 0x20, 8)
        assert (status, data) == (SUCCESS, user_bytes(USER + 0x20, 8) + bytes(56))
        assert guest.board.asked == [
            ("W", USER + 4, b"\7\0\0\0"),
            ("R", USER + 0x20, b"\xff" * 8),
        ]

    def test_nobody(self, layout: str) -> None:
        guest = Guest(layout)
        assert write(guest, NOBODY, 4, 7) == NOT_FOUND
        status, data = read(guest, NOBODY, 4)
        assert (status, data) == (NOT_FOUND, ONES)  # output only on success
        assert guest.board.memory.writes == []

    def test_a_read_goes_past_a_doorbell(self, layout: str) -> None:
        guest = Guest(layout)
        assert read(guest, DOORBELL_ANY, 4) == (NOT_FOUND, ONES)
        assert guest.board.bells[DOORBELL_ANY].count == 0


class TestTargets:
    @pytest.mark.parametrize("size", [0, 3, 5, 6, 7, 9, 16, 32, 64, 65, 0x8000_0000, 0xFFFF_FFFF])
    def test_sizes(self, layout: str, size: int) -> None:
        guest = Guest(layout)
        assert write(guest, DEVICE, size, 1) == PARAMETER
        assert read(guest, DEVICE, size) == (PARAMETER, ONES)
        assert guest.board.untouched

    @pytest.mark.parametrize(
        ("gpa", "size"),
        [
            (DEVICE + 1, 2),
            (DEVICE + 2, 4),
            (DEVICE + 4, 8),
            (DOORBELL_ANY + 1, 4),
            (RAM, 4),
            (RAM + RAM_SIZE - 8, 8),
            (ROM, 1),
            (U64, 2),
            (U64 - 6, 8),
        ],
    )
    def test_bad_addresses(self, layout: str, gpa: int, size: int) -> None:
        """Unaligned, in memory, wrapping."""
        guest = Guest(layout)
        assert write(guest, gpa, size, 1) == PARAMETER
        assert read(guest, gpa, size) == (PARAMETER, ONES)
        assert guest.board.untouched

    @pytest.mark.parametrize(("gpa", "size"), [(U64, 1), (U64 - 7, 8), (DEVICE + DEVICE_SIZE, 8)])
    def test_addresses_that_are_merely_empty(self, layout: str, gpa: int, size: int) -> None:
        guest = Guest(layout)
        assert write(guest, gpa, size, 1) == NOT_FOUND
        assert read(guest, gpa, size) == (NOT_FOUND, ONES)

    @pytest.mark.parametrize("reserved", [1, 0xFFFF_FFFF])
    def test_the_reserved_field_is_ignored(self, layout: str, reserved: int) -> None:
        """Linux does not clear it."""
        guest = Guest(layout)
        guest.board.put(INPUT, mmio_block(DEVICE, 4, 7, reserved))
        assert guest.call(WRITE, INPUT) == SUCCESS
        guest.board.put(INPUT, mmio_block(DEVICE, 4, reserved=reserved))
        assert guest.call(READ, INPUT, OUTPUT) == SUCCESS
        assert guest.board.device.log == [("W", 0, 4, 7), ("R", 0, 4, 7)]

    def test_data_beyond_the_width_is_ignored(self, layout: str) -> None:
        guest = Guest(layout)
        guest.board.put(INPUT, mmio_block(DEVICE, 2, b"\x34\x12" + b"\xee" * 62))
        assert guest.call(WRITE, INPUT) == SUCCESS
        assert guest.board.device.log == [("W", 0, 2, 0x1234)]


class TestBlocks:
    @pytest.mark.parametrize("off", range(1, 8))
    def test_unaligned(self, layout: str, off: int) -> None:
        guest = Guest(layout)
        guest.board.put(INPUT + off, mmio_block(DEVICE, 4, 7))
        assert guest.call(WRITE, INPUT + off) == ALIGNMENT
        assert guest.call(READ, INPUT + off, OUTPUT) == ALIGNMENT
        guest.board.put(INPUT, mmio_block(DEVICE, 4))
        assert guest.call(READ, INPUT, OUTPUT + off) == ALIGNMENT
        assert guest.board.untouched

    @pytest.mark.parametrize(("room", "fits"), [(72, False), (80, True), (88, True), (8, False)])
    def test_a_write_block_at_the_end_of_a_page(self, layout: str, room: int, fits: bool) -> None:
        guest = Guest(layout)
        gpa = RAM + PAGE - room
        guest.board.put(gpa, mmio_block(DEVICE, 4, 7))
        assert guest.call(WRITE, gpa) == (SUCCESS if fits else ALIGNMENT)
        assert guest.board.untouched is not fits

    @pytest.mark.parametrize(("room", "fits"), [(8, False), (16, True)])
    def test_a_read_block_at_the_end_of_a_page(self, layout: str, room: int, fits: bool) -> None:
        guest = Guest(layout)
        gpa = RAM + PAGE - room
        guest.board.put(gpa, mmio_block(DEVICE, 4))
        assert guest.call(READ, gpa, OUTPUT) == (SUCCESS if fits else ALIGNMENT)

    @pytest.mark.parametrize(("room", "fits"), [(56, False), (64, True)])
    def test_an_output_block_at_the_end_of_a_page(self, layout: str, room: int, fits: bool) -> None:
        guest = Guest(layout)
        guest.board.put(INPUT, mmio_block(DEVICE, 4))
        assert guest.call(READ, INPUT, RAM + PAGE - room) == (SUCCESS if fits else ALIGNMENT)
        assert guest.board.untouched is not fits

    @pytest.mark.parametrize("gpa", [0, RAM + RAM_SIZE, DEVICE, 1 << 63, U64 & ~0xFFF])
    def test_not_memory(self, layout: str, gpa: int) -> None:
        guest = Guest(layout)
        guest.board.put(INPUT, mmio_block(DEVICE, 4))
        assert guest.call(WRITE, gpa) == WRONG
        assert guest.call(READ, gpa, OUTPUT) == WRONG
        assert guest.call(READ, INPUT, gpa) == WRONG
        assert guest.board.untouched
        assert guest.board.memory.writes == []

    def test_a_read_only_output_block(self, layout: str) -> None:
        guest = Guest(layout)
        guest.board.put(INPUT, mmio_block(DEVICE, 4))
        assert guest.call(READ, INPUT, ROM) == WRONG
        assert guest.board.memory.writes == []

    def test_input_in_read_only_memory(self, layout: str) -> None:
        guest = Guest(layout)
        guest.board.memory.read_only[ROM][:80] = mmio_block(DEVICE, 4, 7)
        assert guest.call(WRITE, ROM) == SUCCESS

    def test_the_output_address_of_a_write_is_ignored(self, layout: str) -> None:
        guest = Guest(layout)
        guest.board.put(INPUT, mmio_block(DEVICE, 4, 7))
        assert guest.call(WRITE, INPUT, U64) == SUCCESS

    def test_linux_has_both_blocks_in_one_page(self, layout: str) -> None:
        guest = Guest(layout)
        guest.board.put(INPUT, mmio_block(DEVICE, 4))
        assert guest.call(READ, INPUT, INPUT + 16) == SUCCESS
        assert guest.board.get(INPUT, 16) == mmio_block(DEVICE, 4)

    def test_output_on_top_of_the_input(self, layout: str) -> None:
        guest = Guest(layout)
        guest.board.device.answer = 0xAB
        guest.board.put(INPUT, mmio_block(DEVICE, 1))
        assert guest.call(READ, INPUT, INPUT) == SUCCESS
        assert guest.board.get(INPUT, 64) == b"\xab" + bytes(63)

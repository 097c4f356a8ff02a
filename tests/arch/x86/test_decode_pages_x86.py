"""Accesses and instructions at the edge of a page: the guest's tables, holes in memory, the bus."""

from __future__ import annotations

import pytest
from unicorn import Uc
from unicorn.unicorn_const import UC_HOOK_INTR
from unicorn.x86_const import UC_X86_REG_CR2, UC_X86_REG_RAX, UC_X86_REG_RBX, UC_X86_REG_RIP

from pvmmio_uc.errors import FetchFromDevice, GuestPageFault
from pvmmio_uc.eventfd import EventFd
from pvmmio_uc.exits import Route, UserspaceExit
from pvmmio_uc.machine import Machine
from pvmmio_uc.plugin import Decode, PvMmio
from tests.arch.oracle import reader
from tests.arch.pagetables import Page
from tests.arch.twins import PAGE
from tests.arch.x86.setups_x86 import LONG, paged

GVA, CODE = 0x4000_0000, 0x2000
DEVICE, OTHER, RAM = 0x12_3456_0000, 0x22_3456_0000, 0x5000
STORE, LOAD = bytes.fromhex("488903"), bytes.fromhex("488b03")
VALUE = 0x1122_3344_5566_7788

kinds = pytest.mark.parametrize("stage2", ["ept", "npt", "shadow"])
codes = pytest.mark.parametrize("code", [STORE, LOAD], ids=["store", "load"])


def engine(*pages: tuple[int, int]) -> Uc:
    """``pages`` are (gva, gpa); RBX is 3 bytes before the end of the first page from GVA."""
    uc = paged("4-level", LONG, [*(Page(*page, PAGE) for page in pages), Page(CODE, CODE, PAGE)])
    uc.reg_write(UC_X86_REG_RBX, GVA + PAGE - 3)
    uc.reg_write(UC_X86_REG_RAX, VALUE)
    return uc


def run(uc: Uc, code: bytes) -> None:
    uc.mem_write(CODE, code)
    uc.emu_start(CODE, CODE + len(code))


class TestAccess:
    @kinds
    @codes
    @pytest.mark.parametrize(
        ("first", "second"), [(DEVICE, OTHER), (DEVICE, DEVICE), (RAM, DEVICE), (DEVICE, RAM)]
    )
    def test_two_pages_apart(self, stage2: str, code: bytes, first: int, second: int) -> None:
        uc = engine((GVA, first), (GVA + PAGE, second))
        uc.mem_write(RAM, bytes(PAGE))
        exits: list[UserspaceExit] = []
        with PvMmio(uc, stage2=stage2) as pv:

            @pv.on_userspace
            def answer(exit_: UserspaceExit) -> bytes | None:
                exits.append(exit_)
                return None if exit_.write else bytes(range(0x10, 0x10 + exit_.size))

            run(uc, code)
            accesses = {(a.address, a.size): a for a in pv.exits[-1].accesses}
            assert pv.exits[-1].address == (second if first == RAM else first + PAGE - 3)
        assert set(accesses) == {(first + PAGE - 3, 3), (second, 5)}
        assert {e.address for e in exits} == {a for a, _ in accesses if a & -PAGE != RAM}
        data = accesses[first + PAGE - 3, 3].data + accesses[second, 5].data
        assert data == uc.reg_read(UC_X86_REG_RAX).to_bytes(8, "little")
        if code == STORE and RAM in (first, second):
            offset = PAGE - 3 if first == RAM else 0
            size = 3 if first == RAM else 5
            stored = VALUE.to_bytes(8, "little")
            assert uc.mem_read(RAM + offset, size) == (stored[:3] if first == RAM else stored[3:])

    @kinds
    @codes
    def test_the_second_page_is_not_mapped(self, stage2: str, code: bytes) -> None:
        uc = engine((GVA, DEVICE))
        with PvMmio(uc, stage2=stage2) as pv, EventFd() as kick:
            pv.ioeventfd(kick, DEVICE + PAGE - 3, 0)
            asked: list[UserspaceExit] = []
            pv.on_userspace(asked.append)
            with pytest.raises(GuestPageFault, match="not present") as caught:
                run(uc, code)
            assert (caught.value.pc, caught.value.address) == (CODE, GVA + PAGE)
            assert (uc.reg_read(UC_X86_REG_RIP), uc.reg_read(UC_X86_REG_RAX)) == (CODE, VALUE)
            assert (kick.count, asked, pv.exits[-1].route) == (0, [], Route.ERROR)
            entry = pv.arch.walk(reader(uc, 0x20_0000), GVA).loads[-1].gpa + 8
            uc.mem_write(entry, (RAM | 0b11).to_bytes(8, "little"))
            uc.emu_start(CODE, CODE + len(code))
            assert uc.reg_read(UC_X86_REG_RIP) == CODE + len(code)

    @codes
    @pytest.mark.parametrize("page", [(GVA, RAM), (GVA + PAGE, DEVICE)], ids=["second", "first"])
    def test_a_page_fault_that_the_engine_finds(self, code: bytes, page: tuple[int, int]) -> None:
        """It asks for both pages where one is RAM, and before it goes to the device."""
        uc, faults = engine(page), []

        def interrupt(uc: Uc, number: int, user_data: object) -> None:
            faults.append((number, uc.reg_read(UC_X86_REG_CR2)))
            uc.emu_stop()

        uc.hook_add(UC_HOOK_INTR, interrupt)
        with PvMmio(uc) as pv:
            run(uc, code)
            assert pv.exits.total == 0
        assert faults == [(14, GVA + PAGE if page[0] == GVA else GVA + PAGE - 3)]
        assert uc.reg_read(UC_X86_REG_RIP) == CODE

    def test_each_half_has_its_doorbell(self) -> None:
        with Machine("x86") as machine, EventFd() as first, EventFd() as second, EventFd() as whole:
            edge = machine.platform.mmio + PAGE
            machine.pv.ioeventfd(whole, edge - 4, 8)
            machine.pv.ioeventfd(first, edge - 4, 4)
            machine.pv.ioeventfd(second, edge, 4, datamatch=0x1122_3344)
            machine.run("mov qword ptr [rbx], rax", {"rbx": edge - 4, "rax": VALUE})
            assert (first.count, second.count, whole.count) == (1, 1, 0)


MOV_IMM = bytes.fromhex("48c78300010000efbeadde")
"""mov qword ptr [rbx + 0x100], 0xffffffffdeadbeef: 11 bytes."""


class TestFetch:
    @kinds
    @pytest.mark.parametrize("split", range(1, len(MOV_IMM)))
    def test_an_instruction_on_two_pages_apart(self, stage2: str, split: int) -> None:
        code = GVA + 0x10_0000
        uc = engine((GVA, DEVICE), (code, 0x7000), (code + PAGE, 0x5000))
        uc.mem_write(0x7000 + PAGE - split, MOV_IMM[:split])
        uc.mem_write(0x5000, MOV_IMM[split:])
        uc.reg_write(UC_X86_REG_RBX, GVA)
        with PvMmio(uc, stage2=stage2) as pv:
            uc.emu_start(code + PAGE - split, code + PAGE - split + len(MOV_IMM))
            exit_ = pv.exits[-1]
        assert [(a.address, a.data.hex()) for a in exit_.accesses] == [(DEVICE + 0x100, "efbeaddeffffffff")]
        assert exit_.steps.fetch == (0 if stage2 == "npt" else 15)
        assert uc.reg_read(UC_X86_REG_RIP) == code + PAGE - split + len(MOV_IMM)

    def test_the_next_page_is_not_asked_for_where_the_instruction_ends(self) -> None:
        code = GVA + 0x10_0000
        uc = engine((GVA, DEVICE), (code, 0x7000))
        at = PAGE - len(MOV_IMM)
        uc.mem_write(0x7000 + at, MOV_IMM)
        uc.reg_write(UC_X86_REG_RBX, GVA)
        with PvMmio(uc) as pv:
            pv.on_userspace(lambda exit: uc.emu_stop())
            uc.emu_start(code + at, code + PAGE)
            exit_ = pv.exits[-1]
            assert (exit_.route, exit_.steps.fetch, exit_.steps.walk) == (Route.USERSPACE, len(MOV_IMM), 4)

    @pytest.mark.parametrize("decode", ["software", "assist"])
    @pytest.mark.parametrize("paging", [False, True])
    def test_the_last_bytes_before_a_hole(self, decode: Decode, paging: bool) -> None:
        with Machine("x86", paging=paging, decode=decode) as machine:
            top = sum(machine.platform.ram[0])
            machine.uc.mem_write(top - len(STORE), STORE)
            machine["rbx"] = machine.platform.mmio
            machine.uc.emu_start(top - len(STORE), top)
            assert machine["rip"] == top
            assert {e.route for e in machine.pv.exits} == {Route.USERSPACE}

    @pytest.mark.parametrize("decode", ["software", "assist"])
    def test_a_jump_into_a_hole(self, decode: Decode) -> None:
        with Machine("x86", decode=decode) as machine:
            top = sum(machine.platform.ram[0])
            with pytest.raises(FetchFromDevice) as caught:
                machine.run(f"mov qword ptr [rbx], rax; jmp {top}", {"rbx": machine.platform.mmio})
            assert (caught.value.pc, caught.value.address, machine["rip"]) == (top, top, top)
            assert machine.pv.exits[0].route == Route.USERSPACE

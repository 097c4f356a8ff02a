"""The exact path: fault, fast bus, page walk, fetch, decode, bus, user space, completion.

Every step of a real hypervisor is taken where the kind of stage 2 takes it, and counted there. Where the
hardware would have told (the length of an instruction on EPT, the syndrome on arm64) the bytes are looked
at all the same, but nothing is counted.
"""

from __future__ import annotations

from collections.abc import Callable

from .arch.base import Arch, Fault, Fetched, LoadStore, fetch
from .errors import EmulationFailure, FetchFromDevice, GuestPageFault
from .exits import Access, Exit, ExitLog, Reason, Route, Steps, heaviest
from .memory import GuestMemory
from .stage2 import Stage2
from .vm import Vm, split_pages

__all__ = ["SoftwarePath", "UserspaceCall"]

UserspaceCall = Callable[[bool, int, bytes, "int | None", Steps], bytes]
"""``(write, gpa, data, pc, steps)`` to the bytes of a read."""

_PAGE_BITS = 12
_PAGE_MASK = (1 << _PAGE_BITS) - 1
_TOUCHED_PAGES = 1 << 16


class SoftwarePath:
    """Handles the faults of one engine. ``asks_fast``: the profile has this stage 2 ask the fast bus."""

    def __init__(
        self,
        arch: Arch,
        memory: GuestMemory,
        vm: Vm,
        kind: Stage2,
        asks_fast: bool,
        log: ExitLog,
        userspace: UserspaceCall,
    ) -> None:
        self._arch, self._memory, self._vm, self._kind = arch, memory, vm, kind
        self._asks_fast, self._log, self._userspace = asks_fast, log, userspace
        # Pages that have their MMIO entry in stage 2; for shadow paging the guest-virtual ones.
        self._touched: dict[int, int] = {}

    def handle(self, fault: Fault) -> None:
        """Complete the instruction at pc, or raise the GuestError that says why not."""
        steps = Steps(exits=1)
        insn = fetch(self._arch, self._memory.load)
        if fault.fetch:
            self._fail_fetch(fault, insn.pc, steps)
        access = self._arch.decode(self._memory.load, insn.code) if insn.code else None
        try:
            if self._fast_hit(fault, insn, access, steps):
                return
            if access is None or access.write != fault.write:
                raise self._unknown(fault, insn)
            self._emulate(fault, insn, access, steps)
        except BaseException as error:
            self._record(fault, insn.pc, steps, (), f"{type(error).__name__}: {error}")
            raise

    def _fast_hit(self, fault: Fault, insn: Fetched, access: LoadStore | None, steps: Steps) -> bool:
        """Ask the bus that knows addresses alone; on a hit the instruction is skipped whole."""
        kind = self._kind
        if not self._asks_fast or not (fault.write or kind.fast == "any"):
            return False
        if kind.first_touch and not self._is_touched(fault, access):
            return False
        if not kind.knows_gpa:
            if access is None:
                return False
            self._translate(access.gva, fault, insn.pc, steps)
        length = access.length if access is not None else self._arch.instruction_length(insn.code)
        if not length or not self._vm.fast_write(fault.gpa, steps):
            return False
        if not kind.has_length:
            self._count_decode(insn, steps)
        self._arch.advance_pc(length)
        note = (
            "" if fault.write else "a read that fired: the instruction is skipped, its register is unchanged"
        )
        self._record(fault, insn.pc, steps, (Access(fault.write, fault.gpa, 0, b"", Route.FAST),), note)
        return True

    def _emulate(self, fault: Fault, insn: Fetched, access: LoadStore, steps: Steps) -> None:
        """Walk, decode, go over the bus, and complete in the order in which this hypervisor moves pc."""
        if not self._kind.has_syndrome:
            self._count_decode(insn, steps)
        pieces = [
            (self._translate(gva, fault, insn.pc, steps), size)
            for gva, size in split_pages(access.gva, access.size)
        ]
        self._touch(fault, access)
        before = self._kind.moves_pc == "all" or (self._kind.moves_pc == "write" and access.write)
        committed = False

        def commit() -> None:
            nonlocal committed
            if not committed:
                committed = True
                self._arch.advance_pc(access.length)
                access.writeback()

        def userspace(write: bool, gpa: int, data: bytes) -> bytes:
            if before:
                commit()
            return self._userspace(write, gpa, data, insn.pc, steps)

        if access.write:
            done = self._vm.write(_with_data(pieces, access.data), self._memory, steps, userspace)
        else:
            data, done = self._vm.read(pieces, self._memory, steps, userspace)
            access.load(data)
        commit()
        self._record(fault, insn.pc, steps, tuple(done), access.note)

    def _translate(self, gva: int, fault: Fault, pc: int, steps: Steps) -> int:
        """gva to gpa: from the exit or the shadow page table where one of them has it, else by a walk."""
        same_offset = (gva ^ fault.gpa) & _PAGE_MASK == 0
        if same_offset and (self._kind.knows_gpa or self._shadow_knows(gva, fault)):
            return fault.gpa
        walk = self._arch.walk(self._memory.load, gva)
        steps.walk += len(walk.loads)
        if walk.gpa is None:
            raise GuestPageFault(
                f"the instruction at {pc:#x} reaches {gva:#x}, which the guest's page tables do not map "
                f"({walk.reason}): map it before the access",
                pc=pc,
                address=gva,
            )
        return walk.gpa

    def _shadow_knows(self, gva: int, fault: Fault) -> bool:
        return self._kind.first_touch and self._touched.get(gva >> _PAGE_BITS) == fault.gpa >> _PAGE_BITS

    def _is_touched(self, fault: Fault, access: LoadStore | None) -> bool:
        if self._kind.knows_gpa:
            return fault.gpa >> _PAGE_BITS in self._touched
        return access is not None and self._shadow_knows(access.gva, fault)

    def _touch(self, fault: Fault, access: LoadStore) -> None:
        if len(self._touched) >= _TOUCHED_PAGES:
            self._touched.clear()  # as a hypervisor that zaps its tables
        address = fault.gpa if self._kind.knows_gpa else access.gva
        self._touched[address >> _PAGE_BITS] = fault.gpa >> _PAGE_BITS

    def _count_decode(self, insn: Fetched, steps: Steps) -> None:
        if not self._kind.has_bytes:
            steps.walk += insn.loads
            steps.fetch += len(insn.code)
        steps.decode += 1

    def _record(
        self, fault: Fault, pc: int, steps: Steps, accesses: tuple[Access, ...], note: str = ""
    ) -> None:
        reason = Reason.FETCH if fault.fetch else Reason.MMIO
        route = heaviest(access.route for access in accesses)
        self._log.append(Exit(reason, pc, fault.gpa, fault.write, accesses, route, steps, note))

    def _fail_fetch(self, fault: Fault, pc: int, steps: Steps) -> None:
        error = FetchFromDevice(
            f"the guest executes at pc {pc:#x}, guest-physical {fault.gpa:#x}, where no memory is mapped: "
            "map RAM there, or give emu_start an `until` that the guest reaches first",
            pc=pc,
            address=fault.gpa,
        )
        self._record(fault, pc, steps, (), str(error))
        raise error

    def _unknown(self, fault: Fault, insn: Fetched) -> EmulationFailure:
        text = self._arch.disassemble(insn.code, insn.pc) if insn.code else insn.walk.reason
        return EmulationFailure(
            f"{'write to' if fault.write else 'read of'} {fault.gpa:#x} by the instruction at pc "
            f"{insn.pc:#x} ({text}; bytes {insn.code.hex(' ')}), which software decode does not complete: "
            "use a plain load or store for device access, or decode='assist'",
            pc=insn.pc,
            address=fault.gpa,
            insn_bytes=insn.code,
        )


def _with_data(pieces: list[tuple[int, int]], data: bytes) -> list[tuple[int, bytes]]:
    filled, start = [], 0
    for gpa, size in pieces:
        filled.append((gpa, data[start : start + size]))
        start += size
    return filled

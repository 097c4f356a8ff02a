"""The replay with a CPU: the recorded machine code runs on the engine, in the recorded machine.

64-bit mode, CPL 0, shadow paging as stage 2, software decode. The recorded guest had identity paging on; this
one has none, since the scenarios reach 2^42 and the engine's processors have 40 bits of physical address. An
instruction that software decode does not complete is not performed here: its transactions go over the bus as
on the bus level, so that what follows meets the same state, and it is counted as left out.
"""

from __future__ import annotations

from unicorn import UC_ARCH_X86, Uc
from unicorn.unicorn_const import UC_HOOK_INTR, UC_MODE_64, UC_PROT_READ
from unicorn.x86_const import UC_X86_REG_CR4, UC_X86_REG_RFLAGS

from ..arch.x86.registers import register
from ..crash import GuestCrash
from ..errors import EmulationFailure
from ..exits import Reason, Route, UserspaceExit
from ..plugin import PvMmio
from ..vm import Vm
from .bus_level import BusLevel
from .layout import DATA, DATA_BASE, RAM_SIZE, ROM, ROM_BASE, answer, runs, string_answer
from .level import Recorder
from .steps import GuestAccess, Result, VmOptions

__all__ = ["GuestLevel"]

_CODE, _STACK = 0x1000, 0x20000
_HLT, _MOST_CODE = b"\xf4", 64
_NAMES = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)))

_CR4_OSFXSR = 1 << 9
_RFLAGS = 2
_NO_ACCESS = ("clflush",)
"""What the engine executes without an access, where KVM makes one."""


class GuestLevel:
    """One guest for a scenario; everything that was recorded of an access can be compared."""

    def __init__(self, options: VmOptions) -> None:
        self._uc = Uc(UC_ARCH_X86, UC_MODE_64)
        self._uc.mem_map(0, RAM_SIZE)
        if options.rom:
            self._uc.mem_map(ROM_BASE, len(ROM), UC_PROT_READ)
            self._uc.mem_write(ROM_BASE, ROM)
        self._uc.reg_write(UC_X86_REG_CR4, self._uc.reg_read(UC_X86_REG_CR4) | _CR4_OSFXSR)
        self._exceptions: list[int] = []
        self._uc.hook_add(UC_HOOK_INTR, self._on_interrupt)
        self._pv = PvMmio(self._uc, stage2="shadow", exit_limit=0)
        if options.irqchip:
            self.vm.create_irqchip()
        if options.pit:
            self.vm.create_pit()
        self._fallback = BusLevel(options, self.vm)

    @property
    def vm(self) -> Vm:
        """The plugin's."""
        return self._pv.vm

    def access(self, step: GuestAccess, recorder: Recorder) -> Result | None:
        """Run the code; None where it has an instruction that software decode does not complete."""
        before = self._prepare(step)
        self._pv.on_userspace(lambda exit_: _answer(exit_, recorder))
        self._exceptions.clear()
        self._pv.exits.clear()
        unknown = any(mnemonic in step.label for mnemonic in _NO_ACCESS)
        try:
            if not unknown:
                self._uc.emu_start(_CODE, 0)
        except (EmulationFailure, GuestCrash):
            unknown = True
        got = recorder.result()
        if unknown:
            if set(self._pv.exits.by_route) <= {Route.ERROR}:
                self._fallback.access(step, recorder)  # nothing of it has reached the bus
            return None
        end = f"exc{self._exceptions[0]}" if self._exceptions else "hlt"
        changed = {} if self._exceptions else self._changed_registers(before)
        return {**got, "end": end, "rg": changed, "ram": runs(self._changed_memory())}

    def comparable(self, step: GuestAccess, recorded: Result) -> Result:
        """All of it."""
        return recorded

    def close(self) -> None:
        """Detach, and with it drop the registrations."""
        self._pv.detach()

    def _prepare(self, step: GuestAccess) -> dict[str, int]:
        """Place the code, refill DATA, set the registers."""
        self._uc.mem_write(_CODE, (step.code + _HLT).ljust(_MOST_CODE, b"\0"))
        self._uc.ctl_flush_tb()
        self._uc.mem_write(DATA_BASE, DATA)
        registers = dict.fromkeys(_NAMES, 0) | {"rsp": _STACK} | step.registers
        for name, value in registers.items():
            self._uc.reg_write(register(name), value)
        self._uc.reg_write(UC_X86_REG_RFLAGS, _RFLAGS)
        return registers

    def _changed_registers(self, before: dict[str, int]) -> dict[str, int]:
        now = {name: int(self._uc.reg_read(register(name))) for name in _NAMES}
        return {name: value for name, value in now.items() if value != before[name]}

    def _changed_memory(self) -> dict[int, int]:
        now = self._uc.mem_read(DATA_BASE, len(DATA))
        return {DATA_BASE + at: byte for at, byte in enumerate(now) if byte != DATA[at]}

    def _on_interrupt(self, uc: Uc, number: int, user_data: object) -> None:
        """The recorded IDT leads every exception to a hlt of its own."""
        self._exceptions.append(number)
        uc.emu_stop()


def _answer(exit_: UserspaceExit, recorder: Recorder) -> bytes | None:
    if exit_.reason is Reason.IO:
        data = exit_.data if exit_.write else string_answer(exit_.address, exit_.size, exit_.count)
        recorder.exit("O" if exit_.write else "I", exit_.address, exit_.size, exit_.count, data.hex())
    else:
        data = exit_.data if exit_.write else answer(exit_.address, exit_.size)
        recorder.exit("W" if exit_.write else "R", exit_.address, exit_.size, data.hex())
    return data

"""The engine on RAM as the oracle: one instruction on two engines that differ in one place.

Where the first has RAM the second has nothing, and a device that holds the same bytes. Whatever the engine
makes of the instruction, the plugin has to make of it too.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from unicorn import Uc, UcError
from unicorn.unicorn_py3.unicorn import uclib

from pvmmio_uc.arch.base import LoadStore
from pvmmio_uc.arch.paging import ReadPhysical
from pvmmio_uc.plugin import Decode, PvMmio

PAGE = 0x1000
WIDEST = 8


@dataclass(frozen=True, slots=True)
class Case:
    """``code``, the registers that it is to start from, and where its access goes (``size`` 0: several)."""

    code: bytes
    registers: Mapping[int, int]
    gva: int
    size: int
    write: bool


class Generator(Protocol):
    """Makes random cases of one form of an architecture's instructions."""

    def case(self, form: Any, at: int, target: int) -> Case:
        """One whose code will be at ``at`` and whose access begins at ``target`` (both gva)."""


@dataclass(frozen=True)
class Setup:
    """A kind of guest: ``make`` opens it, with RAM and translation, but with nothing at ``window``.

    ``window`` is (gpa, bytes). Accesses go to the ``span`` bytes from ``gva``, of which the guest's tables
    put some pages into the window and others into ``shores``, RAM that is compared too. Code is at
    ``code`` (gva, gpa), for ``code_size`` bytes. ``numbers`` are the registers that are set and compared.
    ``before`` sets the flags and ``after`` uses them: an exit in between must not lose what is pending.
    ``code_base`` is added to where a run ends: the engine takes that one for a linear address.
    """

    name: str
    arch: str
    make: Callable[[], Uc]
    window: tuple[int, int]
    gva: int
    span: int
    shores: tuple[int, ...]
    code: tuple[int, int]
    code_size: int
    numbers: tuple[int, ...]
    pc: int
    forms: tuple[Any, ...]
    generator: Callable[[random.Random], Generator]
    before: bytes
    after: bytes
    code_base: int = 0

    def __str__(self) -> str:
        return self.name


class ByteArray:
    """A device that holds bytes, on the MMIO bus with little-endian registers."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.accesses = 0

    def mmio_read(self, offset: int, size: int) -> int:
        self.accesses += 1
        return int.from_bytes(self.data[offset : offset + size], "little")

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        self.accesses += 1
        self.data[offset : offset + size] = value.to_bytes(size, "little")


class RegisterFile:
    """Registers of one engine read and written at one go: the binding takes 30 us for eight."""

    def __init__(self, uc: Uc, numbers: Sequence[int]) -> None:
        self._uc, self._count = uc, len(numbers)
        self._numbers = (ctypes.c_int * self._count)(*numbers)
        self._values = (ctypes.c_uint64 * self._count)()
        first = ctypes.addressof(self._values)
        self._places = (ctypes.c_void_p * self._count)(*(first + 8 * index for index in range(self._count)))

    def read(self) -> tuple[int, ...]:
        ctypes.memset(self._values, 0, 8 * self._count)
        self._call(uclib.uc_reg_read_batch)
        return tuple(self._values)

    def write(self, values: Sequence[int]) -> None:
        self._values[:] = list(values)
        self._call(uclib.uc_reg_write_batch)

    def _call(self, function: Callable[..., int]) -> None:
        status = function(self._uc._uch, self._numbers, self._places, self._count)
        if status:
            raise UcError(status)


class Twins:
    """Two engines of one setup, the second with the plugin and a device at the window."""

    _SLOT = 32

    def __init__(
        self, setup: Setup, *, decode: Decode = "software", stage2: str | None = None, seed: int = 0
    ) -> None:
        self.setup, self.random = setup, random.Random(seed)
        self.ram, self.mmio = setup.make(), setup.make()
        gpa, size = setup.window
        self.ram.mem_map(gpa, size)
        self.pv = PvMmio(self.mmio, decode=decode, stage2=stage2)
        self.device = ByteArray(self.random.randbytes(size))
        self.pv.device(gpa, size, self.device, order="little")
        self.ram.mem_write(gpa, bytes(self.device.data))
        for shore in setup.shores:
            data = self.random.randbytes(PAGE)
            self.ram.mem_write(shore, data)
            self.mmio.mem_write(shore, data)
        self._files = [RegisterFile(uc, setup.numbers) for uc in (self.ram, self.mmio)]
        self._used = 0
        self.generator = setup.generator(self.random)
        self._decoded: LoadStore | None = None
        self._decode = self.pv.arch.decode
        setattr(self.pv.arch, "decode", self._watch)  # noqa: B010

    def _watch(self, read: ReadPhysical, code: bytes) -> LoadStore | None:
        self._decoded = self._decode(read, code)
        return self._decoded

    def case(self, form: Any, *, target: int | None = None) -> Case:
        """A case for the place where code goes next; one in four accesses crosses a page.

        Every other one has instructions before and after it.
        """
        setup, rng = self.setup, self.random
        if target is None:
            target = setup.gva + rng.randrange(setup.span - WIDEST)
            if rng.random() < 0.25:
                target = max(setup.gva, (target & -PAGE) - rng.randrange(1, WIDEST))
        if rng.random() < 0.5:
            return self.generator.case(form, self.place(), target)
        case = self.generator.case(form, self.place() + len(setup.before), target)
        return replace(case, code=setup.before + case.code + setup.after)

    def place(self, size: int = _SLOT) -> int:
        """Code goes behind the last: nothing that the engine has translated is ever changed."""
        if self._used + size > self.setup.code_size:
            self._used = 0
            for uc in (self.ram, self.mmio):
                uc.ctl_flush_tb()
        return self.setup.code[0] + self._used

    def run(self, case: Case) -> None:
        """Run it on both and compare registers, pc, memory and what was decoded."""
        at = self.place(len(case.code))
        values = [case.registers.get(number, 0) for number in self.setup.numbers]
        for uc, file in zip((self.ram, self.mmio), self._files, strict=True):
            uc.mem_write(self.setup.code[1] + self._used, case.code)
            file.write(values)
            uc.emu_start(at, at + len(case.code) + self.setup.code_base)
        self._used += max(self._SLOT, len(case.code))
        self.compare(case)
        found, self._decoded = self._decoded, None
        if case.size and found is not None and (found.gva, found.size) != (case.gva, case.size):
            # Where the fault tells the gpa a wrong gva has no consequences.
            raise AssertionError(f"{self.describe(case)}: decoded as {found.size} bytes at {found.gva:#x}")

    def run_all(self, cases: Iterable[Case]) -> int:
        """Run them; how many there were."""
        count = 0
        for case in cases:
            self.run(case)
            count += 1
        return count

    def compare(self, case: Case) -> None:
        setup = self.setup
        expected, got = (
            (*file.read(), uc.reg_read(setup.pc))
            for uc, file in zip((self.ram, self.mmio), self._files, strict=True)
        )
        if expected != got:
            different = [
                f"register {number}: {a:#x} on RAM, {b:#x} with the device"
                for number, a, b in zip((*setup.numbers, setup.pc), expected, got, strict=True)
                if a != b
            ]
            raise AssertionError(f"{self.describe(case)}: {'; '.join(different)}")
        self._compare_memory(case, setup.window[0], self.device.data)
        for shore in setup.shores:
            self._compare_memory(case, shore, self.mmio.mem_read(shore, PAGE))

    def _compare_memory(self, case: Case, gpa: int, got: bytearray) -> None:
        expected = self.ram.mem_read(gpa, len(got))
        if expected != got:
            at = next(i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b)
            raise AssertionError(
                f"{self.describe(case)}: at {gpa + at:#x} RAM has {expected[at : at + 8].hex(' ')}, "
                f"the device {got[at : at + 8].hex(' ')}"
            )

    def describe(self, case: Case) -> str:
        text = self.pv.arch.disassemble(case.code, 0)
        return f"{self.setup}: {text} ({case.code.hex(' ')}) at gva {case.gva:#x}"

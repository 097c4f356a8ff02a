"""A guest that calls the stub library as compiled C would, on every architecture and variant.

Every register that a function may use is filled with noise before each call, and every register that it has
to keep is looked at afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from pvmmio_uc.arch.arm64 import machine as arm64_machine
from pvmmio_uc.arch.arm64 import stubs as arm64_stubs
from pvmmio_uc.arch.layout import Variant
from pvmmio_uc.arch.ppc import machine as ppc_machine
from pvmmio_uc.arch.ppc import stubs as ppc_stubs
from pvmmio_uc.arch.x86 import machine as x86_machine
from pvmmio_uc.arch.x86 import stubs as x86_stubs
from pvmmio_uc.exits import Reason
from pvmmio_uc.hypercall.convention import Convention
from pvmmio_uc.machine import Machine

STUBS: dict[str, ModuleType] = {"x86": x86_stubs, "arm64": arm64_stubs, "ppc": ppc_stubs}
MACHINES: dict[str, ModuleType] = {"x86": x86_machine, "arm64": arm64_machine, "ppc": ppc_machine}
FUNCTIONS = ("guest_write", "guest_read", "guest_write_list")
ELEMENT = ((8, "gpa"), (8, "value"), (4, "size"), (4, "flags"))
SIZES = (1, 2, 4, 8)
VALUE = 0x8877_6655_4433_2211
NOT_LOOKED, CALLS, STORES = 0, 1, 2
HYPERCALL, MMIO = Reason.HYPERCALL, Reason.MMIO
DEVICE_BYTES = 0x1000
GUARD = bytes(range(0xA0, 0xB0))


class Statuses(NamedTuple):
    """What an architecture's convention answers; ``beyond`` is the stubs' own."""

    invalid: int
    nobody: int
    beyond: int
    unknown: int


STATUSES = {
    "x86": Statuses(-22, -6, -14, -1000),
    "arm64": Statuses(-3, -4, 0, -1),
    "ppc": Statuses(8, 7, 6, 12),
}
JUMP = {"x86": "jmp", "arm64": "b", "ppc": "b"}
ABI_64 = {"x86": ("rdi", "rsi", "rdx"), "arm64": ("x0", "x1", "x2"), "ppc": ("r3", "r4", "r5")}
KEPT = {
    ("x86", 64): ("rbx", "rbp", "rsp", *(f"r{n}" for n in range(12, 16))),
    ("x86", 32): ("ebx", "ebp", "esp", "esi", "edi"),
    ("x86", 16): ("ebx", "ebp", "esp", "esi", "edi", "ds", "es", "ss", "cs"),
    ("arm64", 64): (*(f"x{n}" for n in range(18, 30)), "sp"),
    ("ppc", 32): ("r1", "r2", *(f"r{n}" for n in range(13, 32)), "cr2", "cr3", "cr4"),
    ("ppc", 64): ("r1", "r2", *(f"r{n}" for n in range(13, 32)), "cr2", "cr3", "cr4"),
}
SCRATCH = {
    ("x86", 64): ("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"),
    ("x86", 32): ("eax", "ecx", "edx"),
    ("x86", 16): ("eax", "ecx", "edx"),
    ("arm64", 64): tuple(f"x{n}" for n in range(18)),
    ("ppc", 32): ("r0", *(f"r{n}" for n in range(3, 13)), "ctr"),
    ("ppc", 64): ("r0", *(f"r{n}" for n in range(3, 13)), "ctr"),
}
FIXED = {"rsp", "esp", "sp", "r1", "ds", "ss", "cs"}


class Kind(NamedTuple):
    """One guest of the matrix."""

    arch: str
    variant: Variant

    def __str__(self) -> str:
        paging = "-paging" if self.variant.paging else ""
        order = f"-{self.variant.order}" if self.arch == "ppc" else ""
        return f"{self.arch}-{self.variant.bits}{order}{paging}"


KINDS = [Kind(arch, variant) for arch, module in MACHINES.items() for variant in module.VARIANTS]


def image_of(value: int, size: int) -> bytes:
    """What a little-endian device gets."""
    return (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


class Registers:
    """A device that is 4 KiB of bytes, little-endian."""

    def __init__(self) -> None:
        self.data = bytearray(DEVICE_BYTES)

    def mmio_read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.data[offset : offset + size], "little")

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        self.data[offset : offset + size] = value.to_bytes(size, "little")


class Guest:
    """A machine with the library loaded and a device at ``device``."""

    def __init__(self, kind: Kind, *, conduit: str | None = None, stage2: str | None = None) -> None:
        self.arch, self.variant = kind
        self.bits, self.order = self.variant.bits, self.variant.order
        self.machine = Machine(
            self.arch, bits=self.bits, paging=self.variant.paging, order=self.order, stage2=stage2
        )
        self.pv = self.machine.pv
        place = self.machine.platform
        first = place.ram[0][0]
        self.device = place.mmio
        self.state, self.value_at, self.list_page = first + 0x7008, first + 0x7800, first + 0xB000
        self.end = first + 0x7F00
        self.stack = place.stack - 64  # the linkage area of a caller lies above
        self.registers = Registers()
        self.pv.device(self.device, DEVICE_BYTES, self.registers, order="little")
        self.statuses = STATUSES[self.arch]
        self.random = random.Random(str(kind))
        self.machine.uc.mem_write(self.state - 16, GUARD + bytes(8) + GUARD)
        options = {} if conduit is None else {"conduit": conduit}
        self.library = STUBS[self.arch].guest_library(self.variant, state=self.state, **options)
        self.entries: dict[str, int] = {}
        at = place.code
        for name in FUNCTIONS:
            self.entries[name] = at
            _, end = self.machine.load(f"{JUMP[self.arch]} {name}\n{self.library}", at)
            at = (end + 15) & ~15
        self.present(True)

    def present(self, there: bool) -> None:
        """What the boot code read from the device tree."""
        word = 0x5A00_0000 if there else 0
        self.machine.uc.mem_write(self.state + 4, word.to_bytes(4, self.order))

    @property
    def found(self) -> int:
        """The first word of the state block; what surrounds the block is checked too."""
        image = bytes(self.machine.uc.mem_read(self.state - 16, 40))
        assert image[:16] == image[24:] == GUARD
        return int.from_bytes(image[16:20], self.order)

    @found.setter
    def found(self, value: int) -> None:
        self.machine.uc.mem_write(self.state, value.to_bytes(4, self.order))

    def offer(self, *conventions: str | Convention, offered: bool = True) -> None:
        self.pv.hypercalls(*(conventions or ("kvm",)), offered=offered)

    def write(self, gpa: int, size: int, value: int) -> int:
        return self._signed(self._call("guest_write", (gpa, 64), (size, 32), (value, 64)))

    def read(self, gpa: int, size: int) -> tuple[int, int]:
        """Status and value."""
        self.machine.uc.mem_write(self.value_at, b"\x5a" * 8)
        status = self._call("guest_read", (gpa, 64), (size, 32), (self.value_at, self.bits))
        value = int.from_bytes(self.machine.uc.mem_read(self.value_at, 8), self.order)
        return self._signed(status), value

    def write_list(self, elements: Sequence[tuple[int, ...]], at: int | None = None) -> int:
        """Put the elements (gpa, value, size, flags) in memory and have them written; how many were."""
        address = self.list_page if at is None else at
        image = b"".join(
            number.to_bytes(width, self.order)
            for element in elements
            for (width, _), number in zip(ELEMENT, (*element, 0)[:4], strict=True)
        )
        self.machine.uc.mem_write(address, image)
        return self.run_list(address, len(elements))

    def run_list(self, address: int, count: int) -> int:
        return self._call("guest_write_list", (address, 64), (count, 32))

    def stores(self, size: int) -> int:
        """How many accesses plain code makes of one: less than 64 bits take 8 bytes in halves."""
        return 2 if size == 8 and self.bits < 64 else 1

    def image(self, gpa: int, size: int) -> bytes:
        """The device's bytes."""
        return bytes(self.registers.data[gpa - self.device : gpa - self.device + size])

    def reasons(self) -> list[Reason]:
        """Why the guest left, oldest first; forgets them."""
        reasons = [exit_.reason for exit_ in self.pv.exits]
        self.pv.exits.clear()
        return reasons

    def _call(self, name: str, *arguments: tuple[int, int]) -> int:
        key = (self.arch, self.bits)
        for register in SCRATCH[key]:
            self.machine[register] = self._noise(register)
        kept = {register: self._noise(register) for register in KEPT[key] if register not in FIXED}
        for register, value in kept.items():
            self.machine[register] = value
        self._pass(arguments)
        kept |= {register: self.machine[register] for register in KEPT[key] if register in FIXED}
        if self.arch == "x86":
            kept[self._stack_pointer] += self._word  # the return address is gone from the stack
        self.machine.uc.emu_start(self.entries[name], self.end)
        assert {register: self.machine[register] for register in kept} == kept
        return self.machine[{"x86": "eax", "arm64": "w0", "ppc": "r3"}[self.arch]] & 0xFFFF_FFFF

    @property
    def _word(self) -> int:
        return 8 if self.bits == 64 else 4

    @property
    def _stack_pointer(self) -> str:
        return {"arm64": "sp", "ppc": "r1"}.get(self.arch, "rsp" if self.bits == 64 else "esp")

    def _noise(self, register: str) -> int:
        bits = {"es": 16, "cr2": 4, "cr3": 4, "cr4": 4}.get(register, 8 * self._word)
        return self.random.getrandbits(bits)

    def _pass(self, arguments: Sequence[tuple[int, int]]) -> None:
        """Put arguments (number, width in bits) and the return address where the ABI has them."""
        stack = b""
        if self.bits == 64:
            for register, (value, width) in zip(ABI_64[self.arch], arguments, strict=False):
                # The upper half of a register with a uint32_t is undefined, but not on ppc.
                noise = self.random.getrandbits(32) << 32 if width == 32 and self.arch != "ppc" else 0
                self.machine[register] = value | noise
        elif self.arch == "ppc":
            self._pass_ppc32(arguments)
        else:
            stack = b"".join(value.to_bytes(max(4, width // 8), "little") for value, width in arguments)
        if self.arch == "x86":
            stack = self.end.to_bytes(self._word, "little") + stack
        else:
            self.machine["x30" if self.arch == "arm64" else "lr"] = self.end
        self.machine[self._stack_pointer] = self.stack - len(stack)
        self.machine.uc.mem_write(self.stack - len(stack), stack)

    def _pass_ppc32(self, arguments: Sequence[tuple[int, int]]) -> None:
        """A uint64_t takes the next pair of registers that begins with an odd one, lower address first."""
        number = 3
        for value, width in arguments:
            words = [value]
            if width == 64:
                number += (number + 1) % 2
                words = [value >> 32, value & 0xFFFF_FFFF]
                if self.order == "little":
                    words.reverse()
            for word in words:
                self.machine[f"r{number}"] = word
                number += 1

    @staticmethod
    def _signed(word: int) -> int:
        return word - (1 << 32) if word >> 31 else word

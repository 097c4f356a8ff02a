"""Guests for the tests of the plugin: one vocabulary of instructions for every architecture and variant."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from pvmmio_uc.arch.layout import Variant
from pvmmio_uc.machine import ARCHITECTURES, Machine
from pvmmio_uc.plugin import Decode

DECODES: tuple[Decode, ...] = ("software", "assist")
ONES = (1 << 64) - 1


def _variants() -> list[tuple[str, Variant]]:
    found = []
    for arch in ARCHITECTURES:
        module = importlib.import_module(f"pvmmio_uc.arch.{arch}.machine")
        found += [(arch, variant) for variant in module.VARIANTS]
    return found


VARIANTS = _variants()
"""Every guest that `Machine` can be."""


def variant_name(case: tuple[str, Variant]) -> str:
    """For the ids of tests: ``ppc-32-little-paging``."""
    arch, variant = case
    order = f"-{variant.order}" if arch == "ppc" else ""
    return f"{arch}-{variant.bits}{order}{'-paging' if variant.paging else ''}"


@dataclass(frozen=True)
class _Words:
    """One architecture's instructions; ``store`` and ``load`` by size in bytes, ``{at}`` is the offset."""

    store: dict[int, str]
    load: dict[int, str]
    value: str
    base: str
    counter: str
    pc: str
    count: str
    nop: str
    loop: str
    jump: str
    flags: str
    widest: int


def _words_x86(variant: Variant) -> _Words:
    base = {16: "bx", 32: "ebx", 64: "rbx"}[variant.bits]
    names = {1: ("byte", "al"), 2: ("word", "ax"), 4: ("dword", "eax"), 8: ("qword", "rax")}
    sizes = [size for size in names if size < 8 or variant.bits == 64]
    where = f"[{base} + {{at}}]"
    return _Words(
        store={size: f"mov {names[size][0]} ptr {where}, {names[size][1]}" for size in sizes},
        load={size: f"mov {names[size][1]}, {names[size][0]} ptr {where}" for size in sizes},
        value="rax" if variant.bits == 64 else "eax",
        base=base,
        counter="ecx",
        pc={16: "ip", 32: "eip", 64: "rip"}[variant.bits],
        count="inc ecx",
        nop="nop",
        loop="again:\n{body}\njmp again",
        jump="push ds\npush bx\n.byte 0xcb" if variant.bits == 16 else f"jmp {base}",
        flags="eflags",
        widest=sizes[-1],
    )


def _words_arm64(variant: Variant) -> _Words:
    letters = {1: ("b", "w0"), 2: ("h", "w0"), 4: ("", "w0"), 8: ("", "x0")}
    return _Words(
        store={size: f"stur{tail} {name}, [x1, #{{at}}]" for size, (tail, name) in letters.items()},
        load={size: f"ldur{tail} {name}, [x1, #{{at}}]" for size, (tail, name) in letters.items()},
        value="x0",
        base="x1",
        counter="x2",
        pc="pc",
        count="add x2, x2, #1",
        nop="nop",
        loop="again:\n{body}\nb again",
        jump="br x1",
        flags="nzcv",
        widest=8,
    )


def _words_ppc(variant: Variant) -> _Words:
    sizes = {1: "b", 2: "h", 4: "w", **({8: "d"} if variant.bits == 64 else {})}
    loads = {size: f"l{tail}z" if size < 8 else "ld" for size, tail in sizes.items()}
    return _Words(
        store={size: f"st{tail} 3, {{at}}(4)" for size, tail in sizes.items()},
        load={size: f"{name} 3, {{at}}(4)" for size, name in loads.items()},
        value="r3",
        base="r4",
        counter="r5",
        pc="pc",
        count="addi 5, 5, 1",
        nop="nop",
        loop="again:\n{body}\nb again",
        jump="mtctr 4\nbctr",
        flags="cr",
        widest=max(sizes),
    )


_WORDS: dict[str, Callable[[Variant], _Words]] = {
    "x86": _words_x86,
    "arm64": _words_arm64,
    "ppc": _words_ppc,
}


class Guest:
    """A `Machine` whose base register holds ``mmio``, with the instructions to touch it.

    Every option is `Machine`'s; ``variant`` gives bits, paging and byte order at once.
    """

    def __init__(
        self,
        arch: str,
        variant: Variant | None = None,
        *,
        stage2: str | None = None,
        decode: Decode = "software",
        profile: str = "linux",
        exit_limit: int = 65536,
    ) -> None:
        bits = variant.bits if variant else None
        order = variant.order if variant else None
        self.machine = Machine(
            arch,
            bits=bits,
            paging=variant.paging if variant else False,
            order=order,
            stage2=stage2,
            decode=decode,
            profile=profile,
            exit_limit=exit_limit,
        )
        self.arch, self.variant = arch, self.machine.variant
        self.uc, self.pv = self.machine.uc, self.machine.pv
        self.words = _WORDS[arch](self.variant)
        self.mmio = self.machine.platform.mmio
        self.ram = self.machine.platform.stack
        self.aim(self.mmio)

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.machine.close()

    @property
    def order(self) -> Literal["little", "big"]:
        """The byte order of the guest's data."""
        return "big" if self.variant.order == "big" else "little"

    @property
    def sizes(self) -> Sequence[int]:
        """Widths of a store in bytes."""
        return tuple(self.words.store)

    def aim(self, address: int) -> None:
        """Let stores and loads go to ``address``; up to 0xff below it in real mode."""
        if self.variant.bits == 16:
            self.machine["ds"] = (address >> 4) - 0x10
            address = 0x100 + (address & 0xF)
        self.machine[self.words.base] = address

    def store(self, size: int = 4, at: int = 0) -> str:
        """One store of the value register, ``at`` bytes from the base."""
        return self.words.store[size].format(at=at)

    def load(self, size: int = 4, at: int = 0) -> str:
        """One load into the value register."""
        return self.words.load[size].format(at=at)

    def loop(self, *body: str) -> str:
        """For ever."""
        return self.words.loop.format(body="\n".join(body))

    @property
    def count(self) -> str:
        """An instruction that adds 1 to the counter."""
        return self.words.count

    @property
    def nop(self) -> str:
        """An instruction that does nothing."""
        return self.words.nop

    @property
    def value(self) -> int:
        """The register that is stored and loaded."""
        return self.machine[self.words.value]

    @value.setter
    def value(self, value: int) -> None:
        self.machine[self.words.value] = value

    @property
    def counter(self) -> int:
        """What `count` counts in."""
        return self.machine[self.words.counter]

    @counter.setter
    def counter(self, value: int) -> None:
        self.machine[self.words.counter] = value

    @property
    def pc(self) -> int:
        """Where the guest is, as ``emu_start`` takes it."""
        return self.pv.arch.start_address()

    def place(self, *lines: str, address: int | None = None) -> tuple[int, int]:
        """Assemble the lines at the code address (or ``address``): first byte, end."""
        return self.machine.load("\n".join(lines), address)

    def run(self, *lines: str, timeout: int = 0, count: int = 0) -> None:
        """Assemble the lines and run to their end."""
        start, end = self.place(*lines)
        self.uc.emu_start(start, end, timeout, count)

    def length(self, line: str) -> int:
        """How many bytes one instruction has."""
        start, end = self.place(line, address=self.ram - 0x1000)
        return end - start

    def data(self, value: int, size: int) -> bytes:
        """The image in guest memory of a store."""
        return (value & ((1 << 8 * size) - 1)).to_bytes(size, self.order)


class Registers:
    """A device that remembers what it was told: ``written`` and ``read`` list (offset, size[, value])."""

    def __init__(self, value: int = 0) -> None:
        self.value = value
        self.written: list[tuple[int, int, int]] = []
        self.read: list[tuple[int, int]] = []

    def mmio_read(self, offset: int, size: int) -> int:
        """The value, cut to size by the bus."""
        self.read.append((offset, size))
        return self.value

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Remember it."""
        self.written.append((offset, size, value))


class Raising:
    """A device that raises what it was given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def mmio_read(self, offset: int, size: int) -> int:
        """Raise."""
        raise self.error

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Raise."""
        raise self.error


def routes(guest: Any) -> list[str]:
    """Where the exits of a guest ended, in order."""
    return [str(exit_.route) for exit_ in guest.pv.exits]

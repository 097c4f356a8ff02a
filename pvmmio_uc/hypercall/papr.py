"""PAPR's hypercalls of a pseries guest: `sc 1`, the opcode in r3, accesses as a big-endian byte stream.

Sources: LoPAR, "Debugger Support hcall()s"; arch/powerpc/kvm/book3s.c (kvmppc_h_logical_ci_load and
_store) for what KVM does itself; QEMU's hw/ppc/spapr_hcall.c, hw/char/spapr_vty.c and
docs/specs/ppc-spapr-hcalls.rst for what it hands up (H_TOO_HARD). Opcode 0xF0C0 is this project's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, get_args

from ..device import ByteOrder
from .cpu import Call, Cpu, Outcome
from .operations import Operations, Refusal, Refused, Rules

__all__ = ["Papr", "PaprHost", "Terminal", "TerminalBuffer"]

U64 = (1 << 64) - 1

PaprHost = Literal["radix", "hash", "tcg"]
"""Who answers `sc 1` from user mode: KVM HV with a radix or a hash guest, or QEMU without KVM."""

_AS_QEMU = Rules(aligned=False, not_memory=False, fast=False, user_memory=True)
"""KVM asks the MMIO bus and not the fast one; then user space looks into its whole address space."""


class Terminal(Protocol):
    """The other end of H_PUT_TERM_CHAR and H_GET_TERM_CHAR."""

    def put(self, data: bytes) -> None:
        """Take up to 16 bytes of output."""

    def get(self, size: int) -> bytes:
        """Up to ``size`` bytes of input; none where there is none yet."""


class TerminalBuffer:
    """A terminal made of two buffers: what the guest has printed, and what it has yet to read."""

    def __init__(self, waiting: bytes = b"") -> None:
        self.output, self.input = bytearray(), bytearray(waiting)

    def put(self, data: bytes) -> None:
        """Append to `output`."""
        self.output += data

    def get(self, size: int) -> bytes:
        """Take from the front of `input`."""
        data = bytes(self.input[:size])
        del self.input[:size]
        return data


class Papr:
    """The calls of a pseries partition that move data to and from devices; 64-bit registers.

    * H_LOGICAL_CI_LOAD and _STORE as KVM and QEMU do them together: the size is checked and nothing
      else, the bytes on the bus are those of the big-endian value, whatever byte order the guest runs
      in, and the status is H_SUCCESS also where nobody answers. Such a read is ones here, as any other
      (zeros in QEMU). The fast bus is not asked; a doorbell of any length is on the MMIO bus as well.
    * H_LOGICAL_CACHE_LOAD and _STORE are the same; H_LOGICAL_ICBI and _DCBF do nothing.
    * KVMPPC_H_LOGICAL_MEMOP copies or inverts elements, those in RAM there and the others over the bus.
      Above 4096 elements it is done in parts: pc stays, and r4, r5 and r7 say what is left. In QEMU it
      is one long call.
    * 0xF0C0 is the list of the minimal interface: elements in the guest's byte order, values numbers
      that a little-endian device reads as they are.

    ``host`` decides about user mode: ``radix`` (the default) a privileged-instruction program interrupt,
    ``hash`` a system call of the guest's own, ``tcg`` H_PRIVILEGE. ``terminal`` is the console at unit
    address ``unit``, and at 0; without one the two terminal calls are H_PARAMETER. ``order`` tells the
    byte order in which the guest lays out lists.

    Left out: every other hcall (H_FUNCTION), KVM_CAP_PPC_ENABLE_HCALL, LoPAR's own checks of alignment,
    range and cacheability, which neither KVM nor QEMU makes, and QEMU's dropping of NUL behind CR on input.
    """

    name = "papr"
    instructions = frozenset({"sc"})

    CI_LOAD, CI_STORE, CACHE_LOAD, CACHE_STORE = 0x3C, 0x40, 0x44, 0x48
    ICBI, DCBF = 0x4C, 0x50
    GET_TERM_CHAR, PUT_TERM_CHAR = 0x54, 0x58
    MEMOP, WRITE_LIST = 0xF001, 0xF0C0
    SUCCESS, FUNCTION, PRIVILEGE, PARAMETER, NOT_FOUND = 0, -2, -3, -4, -7
    STATUS: ClassVar[dict[Refusal, int]] = {Refusal.UNCLAIMED: NOT_FOUND}

    MOST_MEMOP, MEMOP_PART = 0x8000_0000, 4096
    TERMINAL_BYTES = 16
    DEFAULT_UNIT = 0x7100_0000

    def __init__(
        self,
        *,
        host: PaprHost = "radix",
        terminal: Terminal | None = None,
        unit: int = DEFAULT_UNIT,
        order: Callable[[], ByteOrder] = lambda: "big",
    ) -> None:
        if host not in get_args(PaprHost):
            raise ValueError(f"host={host!r}: give one of {', '.join(get_args(PaprHost))}")
        self._host, self._order = host, order
        self._terminal, self._units = terminal, (0, unit)
        self.offered = True
        self._mmio_calls: dict[int, Callable[[Cpu, Operations], int | None]] = {
            self.CI_LOAD: self._load,
            self.CI_STORE: self._store,
            self.CACHE_LOAD: self._load,
            self.CACHE_STORE: self._store,
            self.ICBI: self._nothing,
            self.DCBF: self._nothing,
            self.MEMOP: self._memop,
            self.WRITE_LIST: self._write_list,
        }
        self._calls = {self.GET_TERM_CHAR: self._get_characters, self.PUT_TERM_CHAR: self._put_characters}

    def applies(self, cpu: Cpu, call: Call) -> bool:
        """`sc 1` and no other level."""
        return call.instruction in self.instructions and call.immediate == 1

    def number(self, cpu: Cpu) -> int:
        """The opcode in r3."""
        return cpu.get("r3")

    def cpuid(self, leaf: int) -> None:
        """There is none here."""

    def handle(self, cpu: Cpu, call: Call, operations: Operations) -> Outcome:
        """One call; r3 is the status, r4 and on the results."""
        if call.immediate != 1:
            return Outcome.SYSCALL
        if cpu.user_mode:
            return self._from_user_mode(cpu)
        number = self.number(cpu)
        do = self._calls.get(number) or (self._mmio_calls.get(number) if self.offered else None)
        status = self.FUNCTION if do is None else do(cpu, operations)
        if status is None:
            return Outcome.RETRY
        cpu.set("r3", status & U64)
        return Outcome.DONE

    def _from_user_mode(self, cpu: Cpu) -> Outcome:
        if self._host == "radix":
            return Outcome.PROTECTION
        if self._host == "hash":
            return Outcome.SYSCALL
        cpu.set("r3", self.PRIVILEGE & U64)
        return Outcome.DONE

    def _load(self, cpu: Cpu, operations: Operations) -> int:
        size, gpa = cpu.get("r4"), cpu.get("r5")
        try:
            value = operations.read(gpa, size, _AS_QEMU, "big")
        except Refused as refused:
            if refused.refusal is Refusal.SIZE:
                return self.PARAMETER
            value = (1 << (8 * size)) - 1
        cpu.set("r4", value)
        return self.SUCCESS

    def _store(self, cpu: Cpu, operations: Operations) -> int:
        size, gpa, value = cpu.get("r4"), cpu.get("r5"), cpu.get("r6")
        try:
            operations.write(gpa, size, value, _AS_QEMU, "big")
        except Refused as refused:
            if refused.refusal is Refusal.SIZE:
                return self.PARAMETER
        return self.SUCCESS

    def _nothing(self, cpu: Cpu, operations: Operations) -> int:
        return self.SUCCESS

    def _write_list(self, cpu: Cpu, operations: Operations) -> int:
        gpa, count, start = cpu.get("r4"), cpu.get("r5"), cpu.get("r6")
        try:
            status, done = self.SUCCESS, operations.write_list(gpa, count, start, self._order())
        except Refused as refused:
            status, done = self.STATUS.get(refused.refusal, self.PARAMETER), refused.done
        cpu.set("r4", done)
        return status

    def _memop(self, cpu: Cpu, operations: Operations) -> int | None:
        """None: there is more to do. The checks are in QEMU's order."""
        to, source, shift, count, op = (cpu.get(f"r{number}") for number in range(4, 9))
        mask = (1 << (shift & 31)) - 1  # C leaves a larger shift undefined; an x86 host takes 5 bits
        if count > self.MOST_MEMOP or to & mask or source & mask or op > 1:
            return self.PARAMETER
        if not count:
            return self.SUCCESS
        if shift > 3:
            return self.PARAMETER
        move = _Move(to, source, 1 << shift, count, invert=bool(op))
        move.part(self.MEMOP_PART).do(cpu, operations)
        left = move.rest(self.MEMOP_PART)
        if left is None:
            return self.SUCCESS
        cpu.set("r4", left.to)
        cpu.set("r5", left.source)
        cpu.set("r7", left.count)
        return None

    def _put_characters(self, cpu: Cpu, operations: Operations) -> int:
        unit, size = cpu.get("r4"), cpu.get("r5")
        if self._terminal is None or unit not in self._units or size > self.TERMINAL_BYTES:
            return self.PARAMETER
        self._terminal.put((cpu.get("r6").to_bytes(8, "big") + cpu.get("r7").to_bytes(8, "big"))[:size])
        return self.SUCCESS

    def _get_characters(self, cpu: Cpu, operations: Operations) -> int:
        if self._terminal is None or cpu.get("r4") not in self._units:
            return self.PARAMETER
        data = self._terminal.get(self.TERMINAL_BYTES)[: self.TERMINAL_BYTES]
        cpu.set("r4", len(data))
        data = data.ljust(self.TERMINAL_BYTES, b"\0")
        cpu.set("r5", int.from_bytes(data[:8], "big"))
        cpu.set("r6", int.from_bytes(data[8:], "big"))
        return self.SUCCESS


@dataclass(frozen=True, slots=True)
class _Move:
    """``count`` elements of ``size`` bytes from ``source`` to ``to``, addresses modulo 2^64."""

    to: int
    source: int
    size: int
    count: int
    invert: bool

    @property
    def backwards(self) -> bool:
        """Whether the destination begins inside the source, so that the last element has to go first."""
        return self.source <= self.to < (self.source + self.size * self.count) & U64

    def part(self, most: int) -> _Move:
        """The elements to begin with."""
        count = min(self.count, most)
        return self._shifted(self.count - count if self.backwards else 0, count)

    def rest(self, most: int) -> _Move | None:
        """Those behind them."""
        left = self.count - most
        return self._shifted(0 if self.backwards else most, left) if left > 0 else None

    def do(self, cpu: Cpu, operations: Operations) -> None:
        """All at once where both ends are in RAM, which comes to the same in either direction."""
        data = cpu.read(self.source, self.size * self.count)
        if data is not None and cpu.write(self.to, self._done(data)):
            return
        for index in reversed(range(self.count)) if self.backwards else range(self.count):
            self._shifted(index, 1)._element(cpu, operations)

    def _shifted(self, index: int, count: int) -> _Move:
        ahead = index * self.size
        return replace(self, to=(self.to + ahead) & U64, source=(self.source + ahead) & U64, count=count)

    def _element(self, cpu: Cpu, operations: Operations) -> None:
        """A read that nobody answers is ones; a write that nobody takes is dropped."""
        data = cpu.read(self.source, self.size)
        if data is None:
            try:
                value = operations.read(self.source, self.size, _AS_QEMU, "big")
                data = value.to_bytes(self.size, "big")
            except Refused:
                data = b"\xff" * self.size
        data = self._done(data)
        if not cpu.write(self.to, data):
            with suppress(Refused):
                operations.write(self.to, self.size, int.from_bytes(data, "big"), _AS_QEMU, "big")

    def _done(self, data: bytes) -> bytes:
        return data.translate(_INVERTED) if self.invert else data


_INVERTED = bytes(byte ^ 0xFF for byte in range(256))

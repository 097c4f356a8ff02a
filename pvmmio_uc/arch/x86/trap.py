"""Port I/O out of the engine: in, out and their string forms (Intel SDM volume 1, chapter 19).

The engine calls back once per element, with pc at the instruction; it obeys neither a new pc nor
``emu_stop`` before the translation block ends (unicorn #2058 is the same on arm64), so an instruction is
always completed here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unicorn import Uc
from unicorn.unicorn_const import UC_HOOK_INSN
from unicorn.x86_const import (
    UC_X86_INS_IN,
    UC_X86_INS_OUT,
    UC_X86_REG_CX,
    UC_X86_REG_DI,
    UC_X86_REG_ECX,
    UC_X86_REG_EDI,
    UC_X86_REG_EFLAGS,
    UC_X86_REG_RCX,
    UC_X86_REG_RDI,
)

from ...exits import Steps
from ..base import Fetched, PortHandler

__all__ = ["install_ports"]

_READ_AHEAD_BYTES = 1024  # arch/x86/kvm/kvm_emulate.h: struct read_cache
_PAGE = 4096
_DF = 1 << 10
_REP = frozenset({0xF2, 0xF3})
_PREFIXES = _REP | {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0} | set(range(0x40, 0x50))
_STRING_IN = frozenset({0x6C, 0x6D})
_STRING_OUT = frozenset({0x6E, 0x6F})
_ADDRESS_SIZE = 0x67
_OTHER_SIZE = {16: 32, 32: 16, 64: 32}
_COUNT = {16: UC_X86_REG_CX, 32: UC_X86_REG_ECX, 64: UC_X86_REG_RCX}
_DESTINATION = {16: UC_X86_REG_DI, 32: UC_X86_REG_EDI, 64: UC_X86_REG_RDI}


def install_ports(uc: Uc, fetch: Callable[[], tuple[Fetched, int]], handler: PortHandler) -> list[Any]:
    """Hook in and out; ``fetch`` gives the instruction at pc and the size of its code segment."""
    ports = _Ports(uc, fetch, handler)
    return [
        uc.hook_add(UC_HOOK_INSN, ports.out, None, 1, 0, UC_X86_INS_OUT),
        uc.hook_add(UC_HOOK_INSN, ports.in_, None, 1, 0, UC_X86_INS_IN),
    ]


class _Ports:
    def __init__(self, uc: Uc, fetch: Callable[[], tuple[Fetched, int]], handler: PortHandler) -> None:
        self._uc, self._fetch, self._handler = uc, fetch, handler
        self._ahead: tuple[tuple[int, int, int], int, bytes] = ((0, 0, 0), 0, b"")
        self._last = (0, 0)

    def out(self, uc: Uc, port: int, size: int, value: int, user_data: object) -> None:
        """One element of output."""
        insn, bits = self._fetch()
        steps, _ = self._steps(insn, bits, _STRING_OUT)
        data = (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little")
        self._handler.port_write(port, data, insn.pc, steps)

    def in_(self, uc: Uc, port: int, size: int, user_data: object) -> int:
        """One element of input; a rep ins takes as many at once as KVM reads ahead."""
        insn, bits = self._fetch()
        steps, count = self._steps(insn, bits, _STRING_IN)
        key, left, data = self._ahead
        if key != (insn.pc, port, size) or left != count or not data:
            batch = self._batch(bits, size, count)
            data = self._handler.port_read(port, size, batch, insn.pc, steps)
        self._ahead = ((insn.pc, port, size), count - 1, data[size:])
        return int.from_bytes(data[:size], "little")

    def _steps(self, insn: Fetched, bits: int, opcodes: frozenset[int]) -> tuple[Steps, int]:
        """The steps of getting here and the elements left: a string form goes through the emulator."""
        prefixes, opcode = _opcode(insn.code)
        if opcode not in opcodes:
            return Steps(exits=1), 1
        rep = not prefixes.isdisjoint(_REP)
        address_bits = _OTHER_SIZE[bits] if _ADDRESS_SIZE in prefixes else bits
        count = int(self._uc.reg_read(_COUNT[address_bits])) if rep else 1
        goes_on = rep and self._last == (insn.pc, count + 1)
        self._last = (insn.pc, count)
        if goes_on:
            return Steps(), count  # the emulator loops without leaving for the guest
        return Steps(exits=1, walk=insn.loads, fetch=len(insn.code), decode=1), count

    def _batch(self, bits: int, size: int, count: int) -> int:
        """Elements read ahead; the kernel compares bytes to the page end with a number of elements."""
        if count <= 1:
            return 1
        offset = int(self._uc.reg_read(_DESTINATION[bits])) % _PAGE
        in_page = offset if self._uc.reg_read(UC_X86_REG_EFLAGS) & _DF else _PAGE - offset
        return max(1, min(in_page, _READ_AHEAD_BYTES // size, count))


def _opcode(code: bytes) -> tuple[frozenset[int], int]:
    """The prefixes, and the first byte that is none."""
    for at, byte in enumerate(code):
        if byte not in _PREFIXES:
            return frozenset(code[:at]), byte
    return frozenset(code), -1

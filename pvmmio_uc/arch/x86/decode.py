"""Plain loads and stores of x86: mov and its relatives, 1 to 8 bytes, in 16-, 32- and 64-bit code.

Capstone finds the operands (Intel SDM volume 2); which instructions KVM's emulator knows is in
arch/x86/kvm/emulate.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from capstone import CS_ARCH_X86, CS_MODE_16, CS_MODE_32, CS_MODE_64, Cs
from capstone.x86_const import X86_OP_IMM, X86_OP_MEM, X86_OP_REG
from unicorn import Uc

from ..base import LoadStore, nothing
from ..paging import ReadPhysical
from .registers import Registers, parent64, register

__all__ = ["decode", "disassemble", "instruction_length"]

_STORES = frozenset({"mov", "movabs", "movnti", "movbe"})
_LOADS = frozenset({"mov", "movabs", "movbe"})
_SIGN = frozenset({"movsx", "movsxd"})
_EXTENDS = _SIGN | {"movzx"}
_SEGMENTS = frozenset({"cs", "ds", "es", "ss", "fs", "gs"})
_STACK_BASES = frozenset({"bp", "ebp", "rbp", "sp", "esp", "rsp"})
_WIDEST = 8
_MOVSXD_32 = re.compile(rb"([\x26\x2e\x36\x3e\x64\x65\x67\xf2\xf3]*[\x40-\x47]?)\x63")


@dataclass(frozen=True, slots=True)
class _Address:
    segment: str
    base: str
    index: str
    scale: int
    disp: int
    bits: int
    rip_relative: bool


@dataclass(frozen=True, slots=True)
class _Form:
    """What the bytes alone say. ``register`` is the other operand, "" for an immediate."""

    length: int
    write: bool
    size: int
    address: _Address
    register: str
    register_size: int
    immediate: int
    signed: bool
    reversed: bool


def decode(registers: Registers, bits: int, read: ReadPhysical, code: bytes) -> LoadStore | None:
    """The load or store that ``code`` begins with, its registers read; None where it is not one of these."""
    form = _form(code, bits)
    if form is None:
        return None
    uc = registers.uc
    gva = _linear(registers, bits, read, form)
    if not form.write:
        return LoadStore(
            form.length, False, form.size, gva, b"", lambda data: _load(uc, form, bits, data), nothing
        )
    value = uc.reg_read(register(form.register)) if form.register else form.immediate
    data = (value & ((1 << (8 * form.size)) - 1)).to_bytes(form.size, "big" if form.reversed else "little")
    return LoadStore(form.length, True, form.size, gva, data, nothing, nothing)


def disassemble(code: bytes, pc: int, bits: int) -> str:
    """One line of Intel syntax; the bytes where Capstone knows no instruction."""
    for _, _, mnemonic, operands in _capstone(bits).disasm_lite(_familiar(code, bits), pc, 1):
        return f"{mnemonic} {operands}".strip()
    return f".byte {code.hex(' ')}"


def instruction_length(code: bytes, bits: int) -> int:
    """In bytes, 0 where Capstone knows no instruction."""
    for _, size, _, _ in _capstone(bits).disasm_lite(_familiar(code, bits), 0, 1):
        return int(size)
    return 0


@cache
def _capstone(bits: int) -> Any:
    engine = Cs(CS_ARCH_X86, {16: CS_MODE_16, 32: CS_MODE_32, 64: CS_MODE_64}[bits])
    engine.detail = True
    return engine


def _familiar(code: bytes, bits: int) -> bytes:
    """movsxd with a 32-bit target is a mov, and Capstone 5 does not know it with an address size prefix."""
    found = _MOVSXD_32.match(code) if bits == 64 else None
    return code if found is None else found[1] + b"\x8b" + code[found.end() :]


@lru_cache(maxsize=4096)
def _form(code: bytes, bits: int) -> _Form | None:
    insn = next(_capstone(bits).disasm(_familiar(code, bits), 0, 1), None)
    if insn is None or len(insn.operands) != 2:
        return None
    target, source = insn.operands
    if target.type == X86_OP_MEM and insn.mnemonic in _STORES:
        return _store_form(insn, bits, target, source)
    if source.type == X86_OP_MEM and target.type == X86_OP_REG and insn.mnemonic in _LOADS | _EXTENDS:
        name = insn.reg_name(target.reg)
        # Of a movbe with both 66 and REX.W Capstone gets only the register right.
        size = source.size if insn.mnemonic in _EXTENDS else target.size
        if name in _SEGMENTS or size > _WIDEST:
            return None
        return _Form(
            insn.size, False, size, _address(insn, bits, source), name, target.size, 0,
            insn.mnemonic in _SIGN, insn.mnemonic == "movbe",
        )  # fmt: skip
    return None


def _store_form(insn: Any, bits: int, target: Any, source: Any) -> _Form | None:
    name, size, immediate = "", target.size, 0
    if source.type == X86_OP_REG:
        name, size = insn.reg_name(source.reg), source.size
    elif source.type == X86_OP_IMM:
        immediate = source.imm
    else:
        return None
    if size > _WIDEST:
        return None
    address = _address(insn, bits, target)
    return _Form(insn.size, True, size, address, name, size, immediate, False, insn.mnemonic == "movbe")


def _address(insn: Any, bits: int, operand: Any) -> _Address:
    mem = operand.mem
    base = insn.reg_name(mem.base) or ""
    segment = insn.reg_name(mem.segment) or ("ss" if base in _STACK_BASES else "ds")
    rip_relative = base in ("rip", "eip")
    return _Address(
        segment, "" if rip_relative else base, _index(insn, mem), mem.scale, mem.disp,
        8 * insn.addr_size, rip_relative,
    )  # fmt: skip


def _index(insn: Any, mem: Any) -> str:
    name = insn.reg_name(mem.index) or ""
    return "" if name in ("riz", "eiz") else name


def _linear(registers: Registers, bits: int, read: ReadPhysical, form: _Form) -> int:
    """Segment base plus the effective address, which wraps at the address size."""
    uc, address = registers.uc, form.address
    effective = address.disp
    if address.rip_relative:
        effective += registers.pc() + form.length
    if address.base:
        effective += uc.reg_read(register(address.base))
    if address.index:
        effective += uc.reg_read(register(address.index)) * address.scale
    effective &= (1 << address.bits) - 1
    base = registers.segment_base(address.segment, bits, read)
    return (base + effective) & ((1 << (64 if bits == 64 else 32)) - 1)


def _load(uc: Uc, form: _Form, bits: int, data: bytes) -> None:
    value = int.from_bytes(data, "big" if form.reversed else "little", signed=form.signed)
    value &= (1 << (8 * form.register_size)) - 1
    name = form.register
    if form.register_size == 4 and bits == 64:
        name = parent64(name)  # a 32-bit result clears the upper half; the engine's reg_write does not
    uc.reg_write(register(name), value)

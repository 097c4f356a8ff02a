"""Plain loads and stores of x86, encoded from the manual's tables (Intel SDM volume 2, 2.1 and 3.1).

Written apart from the decoder: bytes come from here, meanings from the engine.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from unicorn import x86_const
from unicorn.x86_const import UC_X86_REG_EFLAGS

from tests.arch.twins import Case

_NAMES = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")
FLAGS = UC_X86_REG_EFLAGS


def general(bits: int) -> tuple[int, ...]:
    """The engine's numbers of the general registers, in the order of their encoding."""
    names = [f"R{n}" for n in (*_NAMES, *range(8, 16))] if bits == 64 else [f"E{n}" for n in _NAMES]
    return tuple(getattr(x86_const, f"UC_X86_REG_{name.upper()}") for name in names)


STATUS_FLAGS = 0x8D5

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
_PREFIX = {"es": 0x26, "cs": 0x2E, "ss": 0x36, "ds": 0x3E, "fs": 0x64, "gs": 0x65}
_BASES_16 = ((RBX, RSI), (RBX, RDI), (RBP, RSI), (RBP, RDI), (RSI,), (RDI,), (RBP,), (RBX,))


class Form(NamedTuple):
    """An opcode. ``width`` 0 is the operand size; ``more`` is the immediate, moffs or a modrm digit."""

    name: str
    opcode: bytes
    write: bool
    width: int
    more: str = ""
    bits: tuple[int, ...] = (16, 32, 64)


FORMS = (
    Form("mov r/m8, r8", b"\x88", True, 1),
    Form("mov r/m, r", b"\x89", True, 0),
    Form("mov r8, r/m8", b"\x8a", False, 1),
    Form("mov r, r/m", b"\x8b", False, 0),
    Form("mov r/m16, sreg", b"\x8c", True, 2, "sreg"),
    Form("mov r/m8, imm8", b"\xc6", True, 1, "imm"),
    Form("mov r/m, imm", b"\xc7", True, 0, "imm"),
    Form("mov al, moffs", b"\xa0", False, 1, "moffs"),
    Form("mov ax, moffs", b"\xa1", False, 0, "moffs"),
    Form("mov moffs, al", b"\xa2", True, 1, "moffs"),
    Form("mov moffs, ax", b"\xa3", True, 0, "moffs"),
    Form("movzx r, r/m8", b"\x0f\xb6", False, 1),
    Form("movzx r, r/m16", b"\x0f\xb7", False, 2),
    Form("movsx r, r/m8", b"\x0f\xbe", False, 1),
    Form("movsx r, r/m16", b"\x0f\xbf", False, 2),
    Form("movsxd r, r/m32", b"\x63", False, 4, "no 66", bits=(64,)),
    Form("movnti m, r", b"\x0f\xc3", True, 0, "no 66"),
    Form("movbe r, m", b"\x0f\x38\xf0", False, 0, bits=(32, 64)),
    Form("movbe m, r", b"\x0f\x38\xf1", True, 0, bits=(32, 64)),
)


@dataclass(slots=True)
class Segments:
    """The base of each segment, and those that a prefix may name."""

    bases: Mapping[str, int]
    overrides: tuple[str, ...] = tuple(_PREFIX)


@dataclass(slots=True)
class Insn:
    """One instruction on its way: what was chosen, and the registers that make it reach its target."""

    bits: int
    form: Form
    target: int
    address_bits: int = 0
    operand_bits: int = 0
    rex: int = 0
    prefixes: list[int] = field(default_factory=list)
    segment: str = ""
    registers: dict[int, int] = field(default_factory=dict)


class Generator:
    """Random cases of every form in code of ``bits``, on an engine opened for ``engine_bits``."""

    def __init__(self, bits: int, segments: Segments, rng: random.Random, engine_bits: int = 0) -> None:
        self.bits, self.segments, self.random = bits, segments, rng
        self._linear = 64 if bits == 64 else 32
        self._numbers = general(engine_bits or bits)

    def case(self, form: Form, at: int, target: int) -> Case:
        """One whose code will be at ``at`` and whose access begins at ``target`` (both linear)."""
        while True:
            case = self._try(form, at, target)
            if case is not None:
                return case

    def _try(self, form: Form, at: int, target: int) -> Case | None:
        """What was chosen may not reach the target."""
        rng = self.random
        insn = Insn(self.bits, form, target)
        self._choose_sizes(insn)
        insn.registers = {n: rng.getrandbits(64) >> rng.choice((0, 0, 0, 32, 56)) for n in range(16)}
        code = self._code(insn, at)
        if code is None:
            return None
        mask = (1 << self._linear) - 1
        registers = {number: insn.registers[n] & mask for n, number in enumerate(self._numbers)}
        registers[FLAGS] = 2 | rng.getrandbits(12) & STATUS_FLAGS
        return Case(code, registers, target & mask, form.width or insn.operand_bits // 8, form.write)

    def _choose_sizes(self, insn: Insn) -> None:
        rng, prefixes = self.random, insn.prefixes
        insn.operand_bits = 32
        if insn.form.more != "no 66":
            small = rng.random() < 0.3
            prefixes += [0x66] * small
            if small != (self.bits == 16):
                insn.operand_bits = 16
        insn.address_bits = self.bits
        if rng.random() < 0.3:
            prefixes.append(0x67)
            insn.address_bits = {16: 32, 32: 16, 64: 32}[self.bits]
        if self.bits == 64:
            insn.rex = rng.choice((0, 0x40, rng.randrange(0x40, 0x50), 0x48 | rng.randrange(16)))
            if insn.form.more == "imm":
                insn.rex &= ~4  # the engine takes REX.R for a part of the opcode
            if insn.rex & 8:
                insn.operand_bits = 64
        prefixes += rng.choices(prefixes, k=rng.random() < 0.2) if prefixes else []
        if len(insn.form.opcode) == 1 and rng.random() < 0.05:
            prefixes.append(rng.choice((0xF2, 0xF3)))  # without a meaning here
        rng.shuffle(prefixes)
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            insn.segment = rng.choice(self.segments.overrides)
            prefixes.append(_PREFIX[insn.segment])  # the last one counts

    def _effective(self, insn: Insn, default: str) -> int | None:
        """The effective address that the segment makes the target of; None where it cannot reach it."""
        base = self.segments.bases.get(insn.segment or default, 0)
        effective = (insn.target - base) % (1 << self._linear)
        return effective if effective >> insn.address_bits == 0 else None

    def _code(self, insn: Insn, at: int) -> bytes | None:
        head = bytes(insn.prefixes) + (bytes([insn.rex]) if insn.rex else b"") + insn.form.opcode
        immediate = b""
        if insn.form.more == "imm":
            size = insn.form.width or min(insn.operand_bits, 32) // 8
            immediate = self.random.randbytes(size)
        if insn.form.more == "moffs":
            effective = self._effective(insn, "ds")
            return None if effective is None else head + effective.to_bytes(insn.address_bits // 8, "little")
        digit = 0 if insn.form.more == "imm" else self.random.randrange(6 if insn.form.more == "sreg" else 8)
        if insn.address_bits == 16:
            modrm = self._modrm16(insn)
        else:
            modrm = self._modrm(insn, at + len(head), len(immediate))
        if modrm is None:
            return None
        return head + bytes([modrm[0] | digit << 3]) + modrm[1:] + immediate

    def _modrm16(self, insn: Insn) -> bytes | None:
        rng = self.random
        mod, rm = rng.randrange(3), rng.randrange(8)
        parts = () if (mod, rm) == (0, 6) else _BASES_16[rm]
        effective = self._effective(insn, "ss" if RBP in parts else "ds")
        if effective is None:
            return None
        if not parts:
            return bytes([rm]) + effective.to_bytes(2, "little")
        disp = rng.randbytes(mod)
        rest = effective - int.from_bytes(disp, "little", signed=True)
        if len(parts) == 2:
            rest -= insn.registers[parts[1]]
        insn.registers[parts[0]] = rest & 0xFFFF | rng.getrandbits(48) << 16
        return bytes([mod << 6 | rm]) + disp

    def _modrm(self, insn: Insn, at: int, behind: int) -> bytes | None:
        rng = self.random
        mod, rm = rng.randrange(3), rng.randrange(8)
        if rm == 4:
            return self._sib(insn, mod)
        if (mod, rm) == (0, 5):
            effective = self._effective(insn, "ds")
            if effective is None:
                return None
            start = at + 5 + behind if self.bits == 64 else 0
            disp = self._disp32(effective - start, insn.address_bits)
            return None if disp is None else bytes([rm]) + disp
        base = rm | (insn.rex & 1) << 3
        effective = self._effective(insn, "ss" if base == RBP else "ds")
        if effective is None:
            return None
        disp = rng.randbytes((0, 1, 4)[mod])
        self._solve(insn, base, effective - int.from_bytes(disp, "little", signed=True), 1)
        return bytes([mod << 6 | rm]) + disp

    def _sib(self, insn: Insn, mod: int) -> bytes | None:
        rng = self.random
        sib = rng.randrange(256)
        scale = 1 << (sib >> 6)
        index = sib >> 3 & 7 | (insn.rex & 2) << 2
        base = sib & 7 | (insn.rex & 1) << 3
        no_base = sib & 7 == 5 and mod == 0
        effective = self._effective(insn, "ss" if base in (RSP, RBP) and not no_base else "ds")
        if effective is None:
            return None
        disp = rng.randbytes(4 if no_base else (0, 1, 4)[mod])
        rest = effective - int.from_bytes(disp, "little", signed=True)
        if no_base and index == RSP:
            found = self._disp32(effective, insn.address_bits)
            return None if found is None else bytes([4, sib]) + found
        if no_base or (base == index and index != RSP):
            if not self._solve(insn, index, rest, scale + (not no_base)):
                return None
        else:
            scaled = insn.registers[index] * scale if index != RSP else 0
            self._solve(insn, base, rest - scaled, 1)
        return bytes([mod << 6 | 4, sib]) + disp

    def _solve(self, insn: Insn, register: int, product: int, factor: int) -> bool:
        """Have ``register`` times ``factor`` be ``product``, in the address size; the rest is random."""
        span = 1 << insn.address_bits
        value = product % span
        if factor % 2:
            value = value * pow(factor, -1, span) % span
        elif value % factor == 0:
            value //= factor
        else:
            return False
        insn.registers[register] = value | self.random.getrandbits(64) << insn.address_bits & (1 << 64) - 1
        return True

    @staticmethod
    def _disp32(value: int, address_bits: int) -> bytes | None:
        value %= 1 << address_bits
        value -= (value >> address_bits - 1) << address_bits
        return value.to_bytes(4, "little", signed=True) if -(1 << 31) <= value < 1 << 31 else None

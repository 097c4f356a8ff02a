"""Plain loads and stores of A64, encoded from the manual's tables (Arm ARM DDI 0487, C4.1).

Written apart from the decoder: words come from here, meanings from the engine.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from unicorn import arm64_const
from unicorn.arm64_const import UC_ARM64_REG_NZCV, UC_ARM64_REG_SP

from tests.arch.twins import Case

GENERAL = tuple(getattr(arm64_const, f"UC_ARM64_REG_X{n}") for n in range(31))
SP, FLAGS = UC_ARM64_REG_SP, UC_ARM64_REG_NZCV
_SP_OR_ZERO = 31
_U64 = (1 << 64) - 1
_UXTW, _LSL, _SXTW, _SXTX = 0b010, 0b011, 0b110, 0b111


class Form(NamedTuple):
    """One row of the manual: ``size`` and ``opc`` are its fields, ``kind`` how it makes the address."""

    name: str
    kind: str
    size: int
    opc: int

    @property
    def write(self) -> bool:
        return self.opc == 0 and self.kind != "literal"

    @property
    def width(self) -> int:
        return (4, 8, 4)[self.opc] if self.kind == "literal" else 1 << self.size


_OFFSETS = ("unsigned", "unscaled", "unprivileged", "post", "pre", "register")
_SIZES = [(size, opc) for size in range(4) for opc in range(4) if (size, opc) not in ((2, 3), (3, 2), (3, 3))]
FORMS = (
    *(Form(f"{kind} {size}/{opc}", kind, size, opc) for kind in _OFFSETS for size, opc in _SIZES),
    *(Form(f"literal {opc}", "literal", 0, opc) for opc in range(3)),
    *(Form(f"ordered {size}/{opc}", "ordered", size, opc) for size in range(4) for opc in (0, 1)),
)
LATER_FORMS = (
    *(Form(f"limited {size}/{opc}", "limited", size, opc) for size in range(4) for opc in (0, 1)),
    *(Form(f"rcpc {size}", "rcpc", size, 1) for size in range(4)),
    *(Form(f"rcpc unscaled {size}/{opc}", "rcpc unscaled", size, opc) for size, opc in _SIZES),
)
"""FEAT_LOR, FEAT_LRCPC and FEAT_LRCPC2: the engine has them on its model MAX."""


class Generator:
    """Random cases of every form."""

    def __init__(self, rng: random.Random) -> None:
        self.random = rng

    def case(self, form: Form, at: int, target: int) -> Case:
        """One whose code will be at ``at`` and whose access begins at ``target`` (both gva)."""
        rng = self.random
        registers = [rng.getrandbits(64) >> rng.choice((0, 0, 32, 48)) for _ in range(32)]
        rt, rn = rng.randrange(32), rng.randrange(32)
        if form.kind in ("pre", "post") and rn == rt and rn != _SP_OR_ZERO:
            rt = (rt + 1) % 31  # CONSTRAINED UNPREDICTABLE
        if form.kind == "literal":
            target &= ~3
        word = getattr(self, "_" + form.kind.replace(" ", "_"))(form, rt, rn, registers, target, at)
        values = dict(zip((*GENERAL, SP), registers, strict=True))
        values[FLAGS] = rng.getrandbits(4) << 28
        return Case(word.to_bytes(4, "little"), values, target & _U64, form.width, form.write)

    def _unsigned(self, form: Form, rt: int, rn: int, registers: list[int], target: int, at: int) -> int:
        imm12 = self.random.getrandbits(12)
        registers[rn] = target - (imm12 << form.size) & _U64
        return _register_word(form, rt, rn) | 1 << 24 | imm12 << 10

    def _imm9(self, form: Form, rt: int, rn: int, registers: list[int], target: int, mode: int) -> int:
        imm9 = self.random.getrandbits(9)
        offset = imm9 - ((imm9 & 0x100) << 1)
        registers[rn] = target - (0 if mode == 0b01 else offset) & _U64
        return _register_word(form, rt, rn) | imm9 << 12 | mode << 10

    def _unscaled(self, form: Form, rt: int, rn: int, registers: list[int], target: int, at: int) -> int:
        return self._imm9(form, rt, rn, registers, target, 0b00)

    def _post(self, form: Form, rt: int, rn: int, registers: list[int], target: int, at: int) -> int:
        return self._imm9(form, rt, rn, registers, target, 0b01)

    def _unprivileged(self, form: Form, rt: int, rn: int, registers: list[int], target: int, at: int) -> int:
        return self._imm9(form, rt, rn, registers, target, 0b10)

    def _pre(self, form: Form, rt: int, rn: int, registers: list[int], target: int, at: int) -> int:
        return self._imm9(form, rt, rn, registers, target, 0b11)

    def _register(self, form: Form, rt: int, rn: int, registers: list[int], target: int, at: int) -> int:
        rng = self.random
        rm = rng.randrange(32)
        if rm == rn:
            rm = (rm + 1) % 31
        option, scaled = rng.choice((_UXTW, _LSL, _SXTW, _SXTX)), rng.getrandbits(1)
        index = 0 if rm == _SP_OR_ZERO else registers[rm]
        if option in (_UXTW, _SXTW):
            index &= 0xFFFF_FFFF
            index -= (index & 1 << 31) << 1 if option == _SXTW else 0
        registers[rn] = target - (index << form.size * scaled) & _U64
        return _register_word(form, rt, rn) | 1 << 21 | rm << 16 | option << 13 | scaled << 12 | 0b10 << 10

    def _literal(self, form: Form, rt: int, rn: int, registers: list[int], target: int, at: int) -> int:
        return form.opc << 30 | 0b011 << 27 | (target - at >> 2 & 0x7FFFF) << 5 | rt

    def _ordered(self, form: Form, rt: int, rn: int, registers: list[int], target: int, at: int) -> int:
        registers[rn] = target
        return form.size << 30 | 0x089F_FC00 | form.opc << 22 | rn << 5 | rt

    def _limited(self, form: Form, rt: int, rn: int, registers: list[int], target: int, at: int) -> int:
        return self._ordered(form, rt, rn, registers, target, at) & ~(1 << 15)

    def _rcpc(self, form: Form, rt: int, rn: int, registers: list[int], target: int, at: int) -> int:
        registers[rn] = target
        return form.size << 30 | 0b111000101 << 21 | 0x1F << 16 | 0b1100 << 12 | rn << 5 | rt

    def _rcpc_unscaled(self, form: Form, rt: int, rn: int, registers: list[int], target: int, at: int) -> int:
        word = self._imm9(form, rt, rn, registers, target, 0b00)
        return word & ~(0x3F << 24) | 0b011001 << 24


def _register_word(form: Form, rt: int, rn: int) -> int:
    return form.size << 30 | 0b111 << 27 | form.opc << 22 | rn << 5 | rt

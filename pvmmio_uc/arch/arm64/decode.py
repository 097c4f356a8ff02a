"""Plain loads and stores of A64, 1 to 8 bytes (Arm ARM DDI 0487, C4.1.88 "Loads and Stores").

Which of them come with a valid syndrome (ESR_EL2.ISV) is in the same manual under ESR_ELx, "ISS encoding
for an exception from a Data Abort"; what KVM does without one in arch/arm64/kvm/mmio.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from capstone import CS_ARCH_ARM64, CS_MODE_ARM, Cs

from ..base import LoadStore, nothing
from .registers import Registers

__all__ = ["decode", "disassemble", "instruction_length"]

NO_SYNDROME = "ISV=0: KVM exits with KVM_EXIT_ARM_NISV or fails with -ENOSYS"
_LENGTH = 4


@dataclass(frozen=True, slots=True)
class _Form:
    """``target`` is Rt, ``base`` Rn, -1 for a literal; ``extend`` the option field of a register offset."""

    write: bool
    size: int
    signed: bool
    register_bits: int
    target: int
    base: int
    offset: int = 0
    index: int | None = None
    extend: int = 0
    shift: int = 0
    writeback: str = ""


def decode(registers: Registers, code: bytes) -> LoadStore | None:
    """The load or store that ``code`` begins with, its registers read; None where it is not one of these."""
    form = _form(int.from_bytes(code[:_LENGTH], "little"))
    if form is None:
        return None
    base = registers.pc() if form.base < 0 else registers.get_base(form.base)
    moved = (base + form.offset + _indexed(registers, form)) & ((1 << 64) - 1)
    gva = base if form.writeback == "post" else moved
    order = registers.data_order()

    def load(data: bytes) -> None:
        value = int.from_bytes(data, order, signed=form.signed)
        registers.set(form.target, value & ((1 << form.register_bits) - 1))

    def writeback() -> None:
        registers.set_base(form.base, moved)

    data = b""
    if form.write:
        value = registers.get(form.target)
        data = (value & ((1 << (8 * form.size)) - 1)).to_bytes(form.size, order)
    note = NO_SYNDROME if form.writeback else ""
    return LoadStore(
        _LENGTH, form.write, form.size, gva, data,
        nothing if form.write else load, writeback if form.writeback else nothing, note,
    )  # fmt: skip


def disassemble(code: bytes, pc: int) -> str:
    """One line; the word where Capstone knows no instruction."""
    for _, _, mnemonic, operands in _capstone().disasm_lite(code[:_LENGTH], pc, 1):
        return f"{mnemonic} {operands}".strip()
    return f".inst {int.from_bytes(code[:_LENGTH], 'little'):#010x}"


def instruction_length(code: bytes) -> int:
    """Four bytes, 0 where there are fewer."""
    return _LENGTH if len(code) >= _LENGTH else 0


@cache
def _capstone() -> Any:
    return Cs(CS_ARCH_ARM64, CS_MODE_ARM)


@lru_cache(maxsize=4096)
def _form(word: int) -> _Form | None:
    if word >> 27 & 0b111 == 0b111 and not word >> 26 & 1:
        return _register_form(word)
    if word >> 24 & 0b111111 == 0b011000:
        return _literal_form(word)
    if word >> 24 & 0b111111 == 0b011001:
        return _ordered_offset_form(word)
    if word >> 24 & 0b111111 == 0b001000 and word >> 23 & 1 and not word >> 21 & 1:
        # LDAR, STLR, LDLAR, STLLR
        return _Form(not word >> 22 & 1, 1 << (word >> 30), False, 64, word & 31, word >> 5 & 31)
    return None


def _register_form(word: int) -> _Form | None:
    if word & 0x3FFF_FC00 == 0x38BF_C000:
        return _Form(False, 1 << (word >> 30), False, 64, word & 31, word >> 5 & 31)  # LDAPR
    kind = _kind(word)
    if kind is None:
        return None
    scale = word >> 30
    if word >> 24 & 0b11 == 0b01:
        return _Form(*kind, offset=(word >> 10 & 0xFFF) << scale)
    if word >> 24 & 0b11 != 0b00:
        return None
    if not word >> 21 & 1:
        writeback = {0b01: "post", 0b11: "pre"}.get(word >> 10 & 0b11, "")
        return _Form(*kind, offset=_signed(word >> 12 & 0x1FF, 9), writeback=writeback)
    extend = word >> 13 & 0b111
    if word >> 10 & 0b11 != 0b10 or not extend & 0b010:
        return None  # atomics, pointer authentication, not allocated
    shift = scale if word >> 12 & 1 else 0
    return _Form(*kind, index=word >> 16 & 31, extend=extend, shift=shift)


def _kind(word: int) -> tuple[bool, int, bool, int, int, int] | None:
    """The first six fields of a `_Form` from size (31:30) and opc (23:22); None: PRFM, or not allocated."""
    scale, opc = word >> 30, word >> 22 & 0b11
    if opc >= 0b10 and (scale == 0b11 or (opc == 0b11 and scale == 0b10)):
        return None
    return opc == 0, 1 << scale, opc >= 0b10, 32 if opc == 0b11 else 64, word & 31, word >> 5 & 31


def _ordered_offset_form(word: int) -> _Form | None:
    """LDAPUR, STLUR and their relatives."""
    kind = _kind(word)
    if kind is None or word >> 21 & 1 or word >> 10 & 0b11:
        return None  # not allocated, memory tagging, memory copies
    return _Form(*kind, offset=_signed(word >> 12 & 0x1FF, 9))


def _literal_form(word: int) -> _Form | None:
    opc = word >> 30
    if opc == 0b11:
        return None  # PRFM (literal)
    offset = _signed(word >> 5 & 0x7FFFF, 19) * 4
    size = 8 if opc == 0b01 else 4
    return _Form(False, size, opc == 0b10, 64, word & 31, -1, offset)


def _indexed(registers: Registers, form: _Form) -> int:
    """The register offset: UXTW, LSL, SXTW or SXTX, then shifted."""
    if form.index is None:
        return 0
    value = registers.get(form.index)
    if form.extend == 0b010:
        value &= 0xFFFF_FFFF
    elif form.extend == 0b110:
        value = _signed(value & 0xFFFF_FFFF, 32)
    return value << form.shift


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value

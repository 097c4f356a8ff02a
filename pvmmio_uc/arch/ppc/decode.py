"""Plain loads and stores of PowerPC, 1 to 8 bytes (Power ISA Book I, 3.3 "Fixed-Point Facility").

KVM takes them apart with analyse_instr (arch/powerpc/lib/sstep.c) for kvmppc_emulate_loadstore.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from capstone import CS_ARCH_PPC, CS_MODE_32, CS_MODE_BIG_ENDIAN, CS_MODE_LITTLE_ENDIAN, Cs

from ...device import ByteOrder
from ..base import LoadStore, nothing
from .registers import Registers

__all__ = ["decode", "disassemble", "instruction_length"]

_LENGTH = 4
_X_FORM = 31


@dataclass(frozen=True, slots=True)
class _Kind:
    """What an opcode means: width in bytes, direction, and the letters of its mnemonic."""

    write: bool
    size: int
    algebraic: bool = False
    reversed: bool = False


_D_FORMS = {
    32: _Kind(False, 4),  # lwz
    34: _Kind(False, 1),  # lbz
    36: _Kind(True, 4),  # stw
    38: _Kind(True, 1),  # stb
    40: _Kind(False, 2),  # lhz
    42: _Kind(False, 2, algebraic=True),  # lha
    44: _Kind(True, 2),  # sth
}
"""Primary opcodes; the odd one after each is its update form."""

_X_FORMS = {
    23: _Kind(False, 4),  # lwzx
    87: _Kind(False, 1),  # lbzx
    151: _Kind(True, 4),  # stwx
    215: _Kind(True, 1),  # stbx
    279: _Kind(False, 2),  # lhzx
    343: _Kind(False, 2, algebraic=True),  # lhax
    407: _Kind(True, 2),  # sthx
}
"""Extended opcodes under 31; 32 more is the update form."""

_REVERSED = {
    534: _Kind(False, 4, reversed=True),  # lwbrx
    662: _Kind(True, 4, reversed=True),  # stwbrx
    790: _Kind(False, 2, reversed=True),  # lhbrx
    918: _Kind(True, 2, reversed=True),  # sthbrx
}
_UPDATE_X = 32

_DS_FORMS = {
    58: {0: _Kind(False, 8), 1: _Kind(False, 8), 2: _Kind(False, 4, algebraic=True)},  # ld, ldu, lwa
    62: {0: _Kind(True, 8), 1: _Kind(True, 8)},  # std, stdu
}
"""64-bit processors only: primary opcode, then the two lowest bits."""

# ldx, stdx, lwax; ldbrx, stdbrx
_X_FORMS_64 = {21: _Kind(False, 8), 149: _Kind(True, 8), 341: _Kind(False, 4, algebraic=True)}
_REVERSED_64 = {532: _Kind(False, 8, reversed=True), 660: _Kind(True, 8, reversed=True)}
_X_TABLES = {
    False: (_X_FORMS, _REVERSED),
    True: ({**_X_FORMS, **_X_FORMS_64}, {**_REVERSED, **_REVERSED_64}),
}
"""Whether the processor is a 64-bit one: its indexed forms, and those of them that reverse bytes."""


@dataclass(frozen=True, slots=True)
class _Form:
    kind: _Kind
    target: int
    base: int
    index: int | None
    offset: int
    update: bool


def decode(registers: Registers, code: bytes) -> LoadStore | None:
    """The load or store that ``code`` begins with, its registers read; None where it is not one of these."""
    guest_order = registers.data_order()
    form = _form(int.from_bytes(code[:_LENGTH], guest_order), registers.bits == 64)
    if form is None:
        return None
    kind = form.kind
    address = registers.get_base(form.base) + form.offset
    if form.index is not None:
        address += registers.get(form.index)
    gva = address & ((1 << registers.call_bits()) - 1)
    order = _other(guest_order) if kind.reversed else guest_order

    def load(data: bytes) -> None:
        registers.set(form.target, int.from_bytes(data, order, signed=kind.algebraic))

    def update() -> None:
        registers.set(form.base, gva)

    data = b""
    if kind.write:
        value = registers.get(form.target)
        data = (value & ((1 << (8 * kind.size)) - 1)).to_bytes(kind.size, order)
    return LoadStore(
        _LENGTH, kind.write, kind.size, gva, data,
        nothing if kind.write else load, update if form.update else nothing,
    )  # fmt: skip


def disassemble(code: bytes, pc: int, order: ByteOrder) -> str:
    """One line; the word where Capstone knows no instruction."""
    for _, _, mnemonic, operands in _capstone(order).disasm_lite(code[:_LENGTH], pc, 1):
        return f"{mnemonic} {operands}".strip()
    return f".long {int.from_bytes(code[:_LENGTH], order):#010x}"


def instruction_length(code: bytes) -> int:
    """Four bytes, 0 where there are fewer."""
    return _LENGTH if len(code) >= _LENGTH else 0


@cache
def _capstone(order: ByteOrder) -> Any:
    return Cs(CS_ARCH_PPC, CS_MODE_32 | (CS_MODE_LITTLE_ENDIAN if order == "little" else CS_MODE_BIG_ENDIAN))


@lru_cache(maxsize=4096)
def _form(word: int, is_64: bool) -> _Form | None:
    opcode, target, base = word >> 26, word >> 21 & 31, word >> 16 & 31
    if is_64 and opcode in _DS_FORMS:
        return _ds_form(word, target, base)
    if opcode == _X_FORM:
        extended = word >> 1 & 0x3FF
        table, reversed_ = _X_TABLES[is_64]
        update = extended - _UPDATE_X in table
        kind = table.get(extended - _UPDATE_X if update else extended) or reversed_.get(extended)
        index, offset = word >> 11 & 31, 0
    else:
        update = opcode - 1 in _D_FORMS
        kind = _D_FORMS.get(opcode - 1 if update else opcode)
        index, offset = None, (word & 0xFFFF) - ((word & 0x8000) << 1)
    if kind is None or (update and _invalid_update(kind, target, base)):
        return None
    return _Form(kind, target, base, index, offset, update)


def _ds_form(word: int, target: int, base: int) -> _Form | None:
    kind = _DS_FORMS[word >> 26].get(word & 0b11)
    update = word & 0b11 == 1
    if kind is None or (update and _invalid_update(kind, target, base)):
        return None
    return _Form(kind, target, base, None, (word & 0xFFFC) - ((word & 0x8000) << 1), update)


def _invalid_update(kind: _Kind, target: int, base: int) -> bool:
    """RA=0, or RA=RT for a load, is an invalid form."""
    return base == 0 or (not kind.write and base == target)


def _other(order: ByteOrder) -> ByteOrder:
    return "big" if order == "little" else "little"

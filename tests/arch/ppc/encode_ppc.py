"""Plain loads and stores of PowerPC, encoded from the manual's tables (Power ISA Book I, 3.3).

Written apart from the decoder: words come from here, meanings from the engine.
"""

from __future__ import annotations

import random
from typing import Literal, NamedTuple

from unicorn import ppc_const

from tests.arch.twins import Case

GENERAL = tuple(getattr(ppc_const, f"UC_PPC_REG_{n}") for n in range(32))
CR = ppc_const.UC_PPC_REG_CR


class Form(NamedTuple):
    """``extended`` 0 is a D form (DS with ``low``, its last bits) of ``opcode``, else an X form under 31."""

    name: str
    opcode: int
    extended: int
    width: int
    write: bool
    update: bool = False
    low: int | None = None


_D = {"lwz": 32, "lbz": 34, "stw": 36, "stb": 38, "lhz": 40, "lha": 42, "sth": 44}
_X = {"lwzx": 23, "lbzx": 87, "stwx": 151, "stbx": 215, "lhzx": 279, "lhax": 343, "sthx": 407}
_REVERSED = {"lwbrx": 534, "stwbrx": 662, "lhbrx": 790, "sthbrx": 918}
_X_64 = {"ldx": 21, "stdx": 149, "lwax": 341}
_REVERSED_64 = {"ldbrx": 532, "stdbrx": 660}
_DS_64 = {"ld": (58, 0), "ldu": (58, 1), "lwa": (58, 2), "std": (62, 0), "stdu": (62, 1)}
_WIDTHS = {"d": 8, "w": 4, "h": 2, "b": 1}


def _form(name: str, opcode: int, extended: int, update: bool = False, low: int | None = None) -> Form:
    write = name.startswith("st")
    return Form(name, opcode, extended, _WIDTHS[name[2 if write else 1]], write, update, low)


def _indexed(table: dict[str, int]) -> list[Form]:
    plain = [_form(name, 31, extended) for name, extended in table.items()]
    return plain + [_form(f.name[:-1] + "ux", 31, f.extended + 32, update=True) for f in plain]


FORMS = (
    *(_form(name, opcode, 0) for name, opcode in _D.items()),
    *(_form(name + "u", opcode + 1, 0, update=True) for name, opcode in _D.items()),
    *_indexed(_X),
    *(_form(name, 31, extended) for name, extended in _REVERSED.items()),
)
FORMS_64 = (
    *FORMS,
    *_indexed(_X_64),
    *(_form(name, 31, extended) for name, extended in _REVERSED_64.items()),
    *(_form(name, opcode, 0, name.endswith("u"), low) for name, (opcode, low) in _DS_64.items()),
)


class Generator:
    """Random cases of every form: registers of ``bits``, code in ``order``.

    ``address_bits`` is 32 for a 64-bit processor in 32-bit mode.
    """

    def __init__(
        self, order: Literal["little", "big"], rng: random.Random, bits: int = 32, address_bits: int = 0
    ) -> None:
        self.order, self.random, self.bits = order, rng, bits
        self._span = 1 << (address_bits or bits)

    def case(self, form: Form, at: int, target: int) -> Case:
        """One whose access begins at ``target`` (gva); where its code lies does not matter."""
        rng = self.random
        registers = [rng.getrandbits(self.bits) >> rng.choice((0, 0, self.bits // 2)) for _ in range(32)]
        rt, ra, rb = (rng.randrange(32) for _ in range(3))
        if form.update and (ra == 0 or (ra == rt and not form.write)):
            ra = rt % 31 + 1  # not an invalid form
        word = form.opcode << 26 | rt << 21
        if form.extended:
            rb = rb % 31 + 1 if rb == ra else rb
            registers[rb] = self._register(target - (registers[ra] if ra else 0))
            word |= rb << 11 | form.extended << 1
        else:
            offset = rng.getrandbits(16)
            offset = offset if form.low is None else offset & ~3
            ra = ra or rt % 31 + 1  # no constant reaches a device
            registers[ra] = self._register(target - (offset - ((offset & 0x8000) << 1)))
            word |= offset | (form.low or 0)
        values = dict(zip(GENERAL, registers, strict=True))
        values |= {CR: rng.getrandbits(32)}
        code = (word | ra << 16).to_bytes(4, self.order)
        return Case(code, values, target % self._span, form.width, form.write)

    def _register(self, value: int) -> int:
        """``value`` in the width of an address; the rest of the register is random."""
        return value % self._span | self.random.getrandbits(self.bits) // self._span * self._span

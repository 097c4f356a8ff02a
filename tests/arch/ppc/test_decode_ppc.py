"""The PowerPC decoder against the engine over the whole encoding space."""

from __future__ import annotations

import random

import pytest
from unicorn import Uc
from unicorn.ppc_const import UC_PPC_REG_MSR, UC_PPC_REG_PC

from pvmmio_uc.arch import arch_of
from pvmmio_uc.arch.layout import Variant
from pvmmio_uc.arch.ppc import machine
from tests.arch.events import Event, Watched
from tests.arch.ppc.encode_ppc import FORMS, FORMS_64, GENERAL, Generator
from tests.arch.twins import RegisterFile

WORDS = 6000
CODE, DATA = 0x1_0000, 0x20_0000
FP, VEC = 1 << 13, 1 << 25
X_FORM = 31
ALTERS_STATE = (83, 144, 146, 178, 210, 242, 339, 371, 467, 512, 595, 659)
"""Extended opcodes that read and write system registers: a guess at one would change the machine."""

# lwarx, lbarx, lharx, ldarx; dcbi, dcbst, dcbf, icbi, which the engine has read; vectors; eciwx, ecowx.
OTHER_X = {20, 52, 116, 84, 470, 54, 86, 982, 7, 39, 71, 103, 135, 167, 199, 231, 359, 487, 310, 438}
FLOATING_X = {535, 567, 599, 631, 663, 695, 727, 759, 855, 887, 983, 791, 823, 919, 951}
FLOATING_D = range(48, 56)


def some_word(rng: random.Random) -> int:
    """Half of them under 31, the others from where loads and stores are."""
    if rng.random() < 0.5:
        return rng.randrange(32, 64) << 26 | rng.getrandbits(26)
    extended = rng.randrange(1024)
    while extended in ALTERS_STATE:
        extended = rng.randrange(1024)
    return X_FORM << 26 | rng.getrandbits(15) << 11 | extended << 1


def is_plain(word: int) -> bool:
    """Whatever accesses memory once and is none of the above, nor one of the engine's liberties."""
    opcode, extended = word >> 26, word >> 1 & 0x3FF
    if opcode in FLOATING_D or (opcode, word & 0b11) in ((58, 0b11), (62, 0b10), (62, 0b11)):
        return False  # stq, and encodings that are not allocated
    if opcode in (57, 61):
        return False  # pairs and vectors
    if opcode in (46, 47):
        return False  # lmw and stmw, which may be of one register
    return opcode != X_FORM or extended not in OTHER_X | FLOATING_X


def registers(rng: random.Random, bits: int) -> list[int]:
    """Addresses in RAM, or small numbers to index with."""
    small = [rng.randrange(-64, 64) & (1 << bits) - 1 for _ in range(32)]
    return [DATA + rng.randrange(0x8_0000) & ~7 if n % 2 else small[n] for n in range(32)]


def engine(bits: int) -> Uc:
    uc = machine.create(Variant(bits, False, "big"))
    uc.reg_write(UC_PPC_REG_MSR, uc.reg_read(UC_PPC_REG_MSR) | FP | (VEC if bits == 32 else 0))
    return uc


@pytest.mark.parametrize("bits", [32, 64])
def test_every_encoding_is_what_the_engine_does(bits: int) -> None:
    uc = engine(bits)
    watched, arch, rng = Watched(uc, CODE, 0x8_0000), arch_of(uc), random.Random(1)
    file, msr = RegisterFile(uc, GENERAL), uc.reg_read(UC_PPC_REG_MSR)
    agreed = 0
    for _ in range(WORDS):
        word = some_word(rng)
        code = word.to_bytes(4, "big")
        at = watched.place(code)
        file.write(registers(rng, bits))
        uc.reg_write(UC_PPC_REG_PC, at)
        found = arch.decode(lambda gpa, size: None, code)
        events = watched.step(at, 4)
        uc.reg_write(UC_PPC_REG_MSR, msr)
        if events is None:
            continue
        if found is not None:
            assert events == [Event(found.write, found.gva, found.size)], f"{word:#010x}"
            agreed += 1
        else:
            assert len(events) != 1 or not is_plain(word), f"{word:#010x}"
    assert agreed > WORDS // 10


@pytest.mark.parametrize("bits", [32, 64])
def test_every_form_is_known(bits: int) -> None:
    generator, arch = Generator("big", random.Random(0), bits), arch_of(engine(bits))
    for form in FORMS_64 if bits == 64 else FORMS:
        case = generator.case(form, 0x1000, DATA)
        found = arch.decode(lambda gpa, size: None, case.code)
        assert found is not None, form.name
        assert (found.length, found.write, found.size) == (4, case.write, case.size)


def test_64_bit_forms_are_unknown_to_a_32_bit_processor() -> None:
    generator, arch = Generator("big", random.Random(0)), arch_of(engine(32))
    for form in set(FORMS_64) - set(FORMS):
        case = generator.case(form, 0x1000, DATA)
        assert arch.decode(lambda gpa, size: None, case.code) is None, form.name


@pytest.mark.parametrize(
    "word",
    [
        0x8460_0008,  # lwzu 3, 8(0)
        0x8463_0008,  # lwzu 3, 8(3)
        0x9460_0008,  # stwu 3, 8(0)
        0x7C60_286E,  # lwzux 3, 0, 5
        0x7C63_286E,  # lwzux 3, 3, 5
    ],
)
def test_invalid_update_forms(word: int) -> None:
    uc = engine(32)
    code = word.to_bytes(4, "big")
    assert arch_of(uc).decode(lambda gpa, size: None, code) is None
    watched = Watched(uc, CODE, 0x1000)
    assert watched.step(watched.place(code), 4) is None


def test_a_store_with_update_of_its_own_base_stores_the_old_value() -> None:
    uc = engine(32)
    uc.reg_write(GENERAL[3], DATA)
    found = arch_of(uc).decode(lambda gpa, size: None, (0x9463_0010).to_bytes(4, "big"))  # stwu 3, 16(3)
    assert found is not None
    assert (found.gva, found.data) == (DATA + 16, DATA.to_bytes(4, "big"))
    found.writeback()
    assert uc.reg_read(GENERAL[3]) == DATA + 16

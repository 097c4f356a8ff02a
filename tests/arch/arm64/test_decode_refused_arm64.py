"""A64 instructions that access a device otherwise than once, from one general register."""

from __future__ import annotations

import pytest
from unicorn import Uc
from unicorn.arm64_const import UC_ARM64_REG_Q0, UC_ARM64_REG_Q2, UC_CPU_ARM64_MAX
from unicorn.unicorn_const import UC_ARCH_ARM64, UC_MODE_ARM

from pvmmio_uc.errors import EmulationFailure
from pvmmio_uc.plugin import PvMmio
from tests.arch.arm64.encode_arm64 import FLAGS, GENERAL, SP
from tests.arch.refusals import Guest, check_refused

GUEST = Guest(
    arch="arm64",
    dialect="arm64",
    before="cmp x3, x4",
    after="adc x3, x3, x4\nstr x3, [x5]\nadc x3, x3, x4",
    registers={"x0": 5, "x2": 6, "x3": 9, "x4": 8},
    at_device=("x1",),
    ram="x5",
    numbers=(*GENERAL, SP, FLAGS),
    vectors=(UC_ARM64_REG_Q0, UC_ARM64_REG_Q2),
)
PAIRS = [
    "ldp x0, x2, [x1]", "stp x0, x2, [x1]", "stp w0, w2, [x1, #-8]!", "ldp x0, x2, [x1], #16",
    "ldnp x0, x2, [x1]", "stnp w0, w2, [x1]", "ldpsw x0, x2, [x1]",
]  # fmt: skip
EXCLUSIVES = ["ldxr w0, [x1]", "ldaxrb w0, [x1]", "ldxp x0, x2, [x1]", "ldaxp w0, w2, [x1]"]
VECTORS = [
    "ldr q0, [x1]", "str q0, [x1]", "ldr d0, [x1]", "str s0, [x1]", "ldr h0, [x1]", "str b0, [x1]",
    "ldp q0, q2, [x1]", "stp d0, d2, [x1]", "ldr d0, [x1], #8", "stur d0, [x1]", "ld1 {v0.16b}, [x1]",
    "st1 {v0.4s}, [x1]", "ld2 {v0.16b, v1.16b}, [x1]", "ld1 {v0.b}[3], [x1]", "st1 {v0.s}[1], [x1], #4",
    "ld1r {v0.4s}, [x1]",
]  # fmt: skip
CACHE = ["dc zva, x1"]


@pytest.mark.parametrize("what", [*PAIRS, *EXCLUSIVES, *VECTORS, *CACHE])
def test_not_plain(what: str) -> None:
    check_refused(GUEST, what)


ATOMICS = {
    "ldadd x0, x2, [x1]": 0xF820_0022,
    "swp w0, w2, [x1]": 0xB820_8022,
    "ldumaxab w0, w2, [x1]": 0x38A0_6022,
    "cas x0, x2, [x1]": 0xC8A0_7C22,
    "casp x0, x1, x2, x3, [x1]": 0x4820_7C22,
}


@pytest.mark.parametrize("word", ATOMICS.values(), ids=ATOMICS)
def test_atomics(word: int) -> None:
    """Keystone does not know them, and only the model MAX has them."""
    uc = Uc(UC_ARCH_ARM64, UC_MODE_ARM, UC_CPU_ARM64_MAX)
    uc.mem_map(0x1000, 0x1000)
    uc.mem_write(0x1000, word.to_bytes(4, "little"))
    values = [0x100 + n for n in range(31)]
    values[1] = 0x9_0000
    for number, value in zip(GENERAL, values, strict=True):
        uc.reg_write(number, value)
    with PvMmio(uc), pytest.raises(EmulationFailure) as caught:
        uc.emu_start(0x1000, 0x1004)
    assert caught.value.insn_bytes == word.to_bytes(4, "little")
    assert [uc.reg_read(number) for number in GENERAL] == values

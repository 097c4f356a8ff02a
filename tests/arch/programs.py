"""Random programs: loops of loads, stores and arithmetic that hands flags from one to the next."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from unicorn import arm64_const, ppc_const, x86_const


@dataclass(frozen=True)
class Language:
    """``statements`` with ``{r}`` for a register and ``{d}`` for a displacement below ``reach``.

    ``window`` are the registers that point to the device, ``counter`` the one that ``loop`` counts down.
    """

    dialect: str
    statements: tuple[str, ...]
    registers: tuple[str, ...]
    reach: int
    loop: str
    window: Mapping[int, int]
    counter: int
    clear: tuple[int, ...] = ()

    def program(self, rng: random.Random) -> str:
        lines = [
            rng.choice(self.statements).format(r=rng.choice(self.registers), d=rng.randrange(self.reach) & ~7)
            for _ in range(rng.randrange(3, 14))
        ]
        return "\n".join(["again:", *lines, self.loop])


LANGUAGES = {
    "x86": Language(
        "x86-64",
        (
            "mov [rbx + {d}], {r}", "mov {r}, [rbx + {d}]", "movzx {r}, byte ptr [rbx + {d}]",
            "movsx {r}, word ptr [rbx + {d}]", "mov dword ptr [rbx + {d}], 0x12345678", "add {r}, rdi",
            "adc {r}, rcx", "sbb rdx, {r}", "rcl {r}, 3",
        ),
        ("rax", "rcx", "rdx", "rsi"), 0x3000, "dec r10\njnz again", {x86_const.UC_X86_REG_RBX: 0},
        x86_const.UC_X86_REG_R10, (x86_const.UC_X86_REG_EFLAGS,),
    ),
    "arm64": Language(
        "arm64",
        (
            "str {r}, [x1, #{d}]", "ldr {r}, [x1, #{d}]", "ldrsb {r}, [x1, #{d}]", "str {r}, [x7], #8",
            "adds {r}, {r}, x6", "adcs {r}, {r}, x2", "sbcs x4, x4, {r}", "csel {r}, x2, x3, cs",
        ),
        ("x2", "x3", "x4", "x5"), 0x1000, "sub x10, x10, #1\ncbnz x10, again",
        {arm64_const.UC_ARM64_REG_X1: 0, arm64_const.UC_ARM64_REG_X7: 0x100}, arm64_const.UC_ARM64_REG_X10,
        (arm64_const.UC_ARM64_REG_NZCV,),
    ),
    "ppc": Language(
        "ppc",
        (
            "stw {r}, {d}(4)", "lwz {r}, {d}(4)", "lha {r}, {d}(4)", "sth {r}, {d}(4)", "stwu {r}, 4(10)",
            "addc {r}, {r}, 9", "adde {r}, {r}, 6", "subfe 5, 5, {r}", "addic. {r}, {r}, -1",
        ),
        ("5", "6", "7", "8"), 0x3000, "addi 11, 11, -1\ncmpwi 11, 0\nbne again",
        {ppc_const.UC_PPC_REG_4: 0, ppc_const.UC_PPC_REG_10: 0x100}, ppc_const.UC_PPC_REG_11,
    ),
}  # fmt: skip

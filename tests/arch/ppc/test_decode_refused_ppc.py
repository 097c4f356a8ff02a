"""PowerPC instructions that access a device otherwise than once, from one general register."""

from __future__ import annotations

import pytest
from unicorn.ppc_const import UC_PPC_REG_FPR1

from tests.arch.ppc.encode_ppc import CR, GENERAL
from tests.arch.refusals import Guest, check_refused

FP_AND_VECTORS = 0x2000 | 1 << 25
GUEST = Guest(
    arch="ppc",
    dialect="ppc",
    before="cmpw 7, 8",
    after="addi 7, 7, 1\nstw 7, 0(9)\naddi 7, 7, 1",
    registers={"r5": 7, "r7": 9, "r8": 8, "xer": 7, "msr": 0x40 | FP_AND_VECTORS},
    at_device=("r4",),
    ram="r9",
    numbers=(*GENERAL, CR),
    vectors=(UC_PPC_REG_FPR1,),
)
MULTIPLE = ["lmw 29, 0(4)", "stmw 29, 0(4)", "lswi 5, 4, 7", "stswi 5, 4, 7"]
RESERVATION = ["lwarx 5, 0, 4"]
FLOATS = [
    "lfs 1, 0(4)", "lfd 1, 0(4)", "stfs 1, 0(4)", "stfd 1, 0(4)", "lfsx 1, 0, 4", "stfdx 1, 0, 4",
    "stfiwx 1, 0, 4", "lfdu 1, 8(4)", "stfsu 1, 8(4)",
]  # fmt: skip
VECTORS = ["lvx 1, 0, 4", "stvx 1, 0, 4", "lvewx 1, 0, 4", "stvebx 1, 0, 4"]
CACHE = ["dcbz 0, 4", "dcbi 0, 4", "dcbf 0, 4", "dcbst 0, 4", "icbi 0, 4"]
STRINGS = {"lswx 5, 0, 4": ".7ca0242a", "stswx 5, 0, 4": ".7ca0252a"}


@pytest.mark.parametrize("what", [*MULTIPLE, *RESERVATION, *FLOATS, *VECTORS, *CACHE])
def test_not_plain(what: str) -> None:
    check_refused(GUEST, what)


@pytest.mark.parametrize("what", STRINGS.values(), ids=STRINGS)
def test_not_plain_bytes(what: str) -> None:
    check_refused(GUEST, what)

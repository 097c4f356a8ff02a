"""PowerPC accesses at the edge of a page that the guest's table maps, and of one that it does not."""

from __future__ import annotations

import pytest
from unicorn import Uc
from unicorn.ppc_const import UC_PPC_REG_PC

from pvmmio_uc.errors import GuestPageFault
from pvmmio_uc.exits import Route, UserspaceExit
from pvmmio_uc.plugin import PvMmio
from tests.arch.ppc.encode_ppc import GENERAL
from tests.arch.ppc.setups_ppc import CODE, DATA, SHORES, WINDOW, hashed
from tests.arch.twins import PAGE

DEVICE, OTHER, RAM = WINDOW[0], 0xF000_0000, SHORES[0]
WORDS = {"stw 3, 0(4)": 0x9064_0000, "lwz 3, 0(4)": 0x8064_0000, "stwu 3, 4(4)": 0x9464_0004}
VALUE = 0x1122_3344

words = pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
kinds = pytest.mark.parametrize("stage2", ["hv", "pr"])


def engine(word: int, *pages: tuple[int, int]) -> Uc:
    """``pages`` are (gva, gpa); the access begins 3 bytes before the end of the first page from DATA."""
    uc = hashed("big", list(pages))
    uc.mem_write(CODE, word.to_bytes(4, "big"))
    uc.reg_write(GENERAL[4], DATA + PAGE - 3 - (word & 0xFFFF))
    uc.reg_write(GENERAL[3], VALUE)
    return uc


@words
@kinds
@pytest.mark.parametrize(("first", "second"), [(DEVICE, OTHER), (RAM, DEVICE), (DEVICE, RAM)])
def test_two_pages_apart(word: int, stage2: str, first: int, second: int) -> None:
    uc = engine(word, (DATA, first), (DATA + PAGE, second))
    with PvMmio(uc, stage2=stage2) as pv:
        pv.on_userspace(lambda e: None if e.write else bytes(range(e.size)))
        uc.emu_start(CODE, CODE + 4)
        accesses = {(a.address, a.size): a for a in pv.exits[-1].accesses}
        assert pv.exits[-1].address == (second if first == RAM else first + PAGE - 3)
    assert set(accesses) == {(first + PAGE - 3, 3), (second, 1)}
    data = accesses[first + PAGE - 3, 3].data + accesses[second, 1].data
    assert data == uc.reg_read(GENERAL[3]).to_bytes(4, "big")
    assert uc.reg_read(GENERAL[4]) == DATA + PAGE - 3


@words
@kinds
def test_the_second_page_is_not_mapped(word: int, stage2: str) -> None:
    uc, asked = engine(word, (DATA, DEVICE)), []
    before = uc.reg_read(GENERAL[4])
    with PvMmio(uc, stage2=stage2) as pv:

        @pv.on_userspace
        def ask(exit_: UserspaceExit) -> None:
            asked.append(exit_)

        with pytest.raises(GuestPageFault, match="no PTE") as caught:
            uc.emu_start(CODE, CODE + 4)
        assert (caught.value.pc, caught.value.address) == (CODE, DATA + PAGE)
        assert (uc.reg_read(UC_PPC_REG_PC), uc.reg_read(GENERAL[3]), asked) == (CODE, VALUE, [])
        assert uc.reg_read(GENERAL[4]) == before
        assert pv.exits[-1].route == Route.ERROR
        uc.reg_write(GENERAL[4], DATA)
        uc.emu_start(CODE, CODE + 4)
        assert len(asked) == 1

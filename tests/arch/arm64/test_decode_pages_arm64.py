"""A64 accesses at the edge of a page that the guest's tables map, and of one that they do not."""

from __future__ import annotations

import pytest
from unicorn import Uc
from unicorn.arm64_const import UC_ARM64_REG_PC, UC_ARM64_REG_X0, UC_ARM64_REG_X1

from pvmmio_uc.errors import GuestPageFault
from pvmmio_uc.exits import Route, UserspaceExit
from pvmmio_uc.plugin import PvMmio
from tests.arch.arm64.setups_arm64 import CODE, SHORES, UPPER, WINDOW, translated
from tests.arch.pagetables import Page

PAGE, OTHER = 0x1000, 0x3000_0000
DEVICE, RAM = WINDOW[0], SHORES[0]
AT = UPPER - PAGE
WORDS = {"str x0, [x1]": 0xF900_0020, "ldr x0, [x1]": 0xF940_0020}
VALUE = 0x1122_3344_5566_7788

words = pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)


def engine(word: int, *pages: tuple[int, int]) -> Uc:
    """``pages`` are (gva, gpa); X1 is 3 bytes before the end of the first page from UPPER."""
    uc = translated(PAGE, "little", [Page(*page, PAGE) for page in pages], AT)
    uc.mem_write(CODE, word.to_bytes(4, "little"))
    uc.reg_write(UC_ARM64_REG_X1, UPPER + PAGE - 3)
    uc.reg_write(UC_ARM64_REG_X0, VALUE)
    return uc


@words
@pytest.mark.parametrize(("first", "second"), [(DEVICE, OTHER), (RAM, DEVICE), (DEVICE, RAM)])
def test_two_pages_apart(word: int, first: int, second: int) -> None:
    uc = engine(word, (UPPER, first), (UPPER + PAGE, second))
    with PvMmio(uc) as pv:
        pv.on_userspace(lambda e: None if e.write else bytes(range(e.size)))
        uc.emu_start(AT, AT + 4)
        accesses = {(a.address, a.size): a for a in pv.exits[-1].accesses}
        assert pv.exits[-1].address == (second if first == RAM else first + PAGE - 3)
    assert set(accesses) == {(first + PAGE - 3, 3), (second, 5)}
    data = accesses[first + PAGE - 3, 3].data + accesses[second, 5].data
    assert data == uc.reg_read(UC_ARM64_REG_X0).to_bytes(8, "little")
    routes = {a.address & -PAGE: a.route for a in accesses.values()}
    assert all((route == Route.MEMORY) == (page == RAM) for page, route in routes.items())


@words
def test_the_second_page_is_not_mapped(word: int) -> None:
    uc, asked = engine(word, (UPPER, DEVICE)), []
    with PvMmio(uc) as pv:

        @pv.on_userspace
        def ask(exit_: UserspaceExit) -> None:
            asked.append(exit_)

        with pytest.raises(GuestPageFault, match="not valid") as caught:
            uc.emu_start(AT, AT + 4)
        assert (caught.value.pc, caught.value.address) == (AT, UPPER + PAGE)
        assert (uc.reg_read(UC_ARM64_REG_PC), uc.reg_read(UC_ARM64_REG_X0), asked) == (AT, VALUE, [])
        assert pv.exits[-1].route == Route.ERROR
        uc.reg_write(UC_ARM64_REG_X1, UPPER)
        uc.emu_start(AT, AT + 4)
        assert len(asked) == 1

"""What the engine hides, read from its saved context, against what the guest's own mfspr and mtsr say."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress

import pytest
from unicorn import Uc, UcError
from unicorn.ppc_const import (
    UC_CPU_PPC32_405GPR,
    UC_CPU_PPC32_E600,
    UC_PPC_REG_3,
    UC_PPC_REG_MSR,
    UC_PPC_REG_PC,
)
from unicorn.unicorn_const import UC_ARCH_PPC, UC_MODE_BIG_ENDIAN, UC_MODE_PPC64, UC_TLB_VIRTUAL

from pvmmio_uc.arch.ppc import _context
from pvmmio_uc.arch.ppc.paging import read_segment_register, read_spr, walk
from pvmmio_uc.errors import UnsupportedArchitecture
from tests.arch.oracle import reader
from tests.arch.ppc.guest import (
    DR,
    HASHED,
    MEMORY,
    SDR1,
    SOFTWARE,
    engine,
    mfspr,
    set_segment,
    set_spr,
    translation_on,
)


@pytest.mark.parametrize("model", HASHED + SOFTWARE + [UC_CPU_PPC32_E600])
def test_read_spr_is_what_mfspr_gives(model: int) -> None:
    uc = engine(model)
    compared = 0
    for spr in range(1024):
        if spr in _context._COMPUTED_SPRS:
            with pytest.raises(ValueError, match=f"{spr:#x} is computed"):
                read_spr(uc, spr)
            continue
        with suppress(UcError):  # read-only
            set_spr(uc, spr, 0x1234_0001 | spr << 4)
        value = 0xDDDD_DDDD
        with suppress(UcError):  # write-only
            value = mfspr(uc, spr)
        if value != 0xDDDD_DDDD:  # what r3 keeps where the model has no such SPR
            assert read_spr(uc, spr) == value, hex(spr)
            compared += 1
    assert compared >= 35


@pytest.mark.parametrize("model", HASHED + SOFTWARE)
def test_read_segment_register_is_what_was_written(model: int) -> None:
    uc = engine(model)
    values = [0x80AB_CDEF ^ n << 20 for n in range(16)]
    for n, value in enumerate(values):
        set_segment(uc, n, value)
    assert [read_segment_register(uc, n) for n in range(16)] == values


@pytest.mark.parametrize("number", [-1, 1024])
def test_no_such_spr(number: int) -> None:
    with pytest.raises(ValueError, match=f"{number:#x}"):
        read_spr(engine(HASHED[0]), number)


@pytest.mark.parametrize("number", [-1, 16])
def test_no_such_segment_register(number: int) -> None:
    with pytest.raises(ValueError, match=f"{number:#x}"):
        read_segment_register(engine(HASHED[0]), number)


def test_a_model_without_bats_and_segments() -> None:
    uc = engine(UC_CPU_PPC32_405GPR)
    set_spr(uc, 272, 0x1234_5678)
    assert read_spr(uc, 272) == 0x1234_5678
    assert walk(uc, reader(uc, MEMORY), 0x1234).gpa == 0x1234
    translation_on(uc)
    result = walk(uc, reader(uc, MEMORY), 0x1234)
    assert result.gpa is None
    assert "0x19 has no BATs" in result.reason
    with pytest.raises(UnsupportedArchitecture, match="0x19 has no segment register 0x3: choose"):
        read_segment_register(uc, 3)


def test_a_64_bit_engine_runs_flat_or_not_at_all() -> None:
    uc = Uc(UC_ARCH_PPC, UC_MODE_PPC64 | UC_MODE_BIG_ENDIAN)
    uc.ctl_set_tlb_mode(UC_TLB_VIRTUAL)
    uc.reg_write(UC_PPC_REG_MSR, 1 << 63)
    assert walk(uc, reader(uc, MEMORY), 0x12_0000_1234).gpa == 0x12_0000_1234
    uc.reg_write(UC_PPC_REG_MSR, 1 << 63 | DR)
    assert "MSR is 0x8000000000000010" in walk(uc, reader(uc, MEMORY), 0x12_0000_1234).reason
    with pytest.raises(UnsupportedArchitecture, match=r"UC_MODE_PPC64.*open it so"):
        read_spr(uc, 272)


def test_a_build_that_hides_the_sprs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_context._Probe, "array", lambda *_: None)
    with pytest.raises(UnsupportedArchitecture, match=f"model {HASHED[0]:#x}: use Unicorn"):
        _context.find_layout.__wrapped__(HASHED[0])


def test_two_places_for_one_register_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = _context._Probe(HASHED[0])
    monkeypatch.setattr(probe, "_places", lambda *_: {0x340, 0x720})
    assert probe.array(0, 0, 1, (1, 2)) is None


def test_the_users_engine_executes_nothing_and_keeps_its_registers() -> None:
    uc = engine(HASHED[1])
    _context.find_layout.cache_clear()
    uc.reg_write(UC_PPC_REG_3, 0x1234_5678)
    uc.reg_write(UC_PPC_REG_PC, 0xCAFE_0000)
    before = bytes(uc.mem_read(0, MEMORY))
    assert read_spr(uc, SDR1) == 0
    assert uc.reg_read(UC_PPC_REG_3) == 0x1234_5678
    assert uc.reg_read(UC_PPC_REG_PC) == 0xCAFE_0000
    assert bytes(uc.mem_read(0, MEMORY)) == before


def test_the_saved_context_does_not_keep_the_engine_alive() -> None:
    uc = engine(HASHED[0])
    read_spr(uc, SDR1)
    alive = weakref.ref(uc)
    del uc
    gc.collect()
    assert alive() is None

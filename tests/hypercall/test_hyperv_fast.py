"""The MMIO calls with their parameters in registers, and what is left of them when they are withdrawn."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from pvmmio_uc.hypercall.cpu import Outcome

from .fakes import DEVICE, NOBODY
from .hyperv_guest import (
    FAST,
    HVC0,
    INPUT,
    OUTPUT,
    X32,
    X64,
    Guest,
    fast_output,
    layout_fixture,
    mmio_block,
    registers,
    with_block,
)

READ, WRITE = 0x106, 0x107
SUCCESS, CODE, WRONG, PARAMETER, NOT_FOUND = 0, 2, 3, 5, 0x10

layout = layout_fixture()


class TestFast:
    @pytest.mark.parametrize("size", [1, 2, 4, 8])
    def test_a_write(self, layout: str, size: int) -> None:
        guest = Guest(layout)
        assert guest.fast_call(WRITE, mmio_block(DEVICE, size, 0x1122_3344_5566_7788)) == SUCCESS
        kept = 0x1122_3344_5566_7788 & ((1 << 8 * size) - 1)
        assert guest.board.device.log == [("W", 0, size, kept)]
        written = {X64: {"rax"}, X32: {"rax", "rdx"}}.get(layout, {"x0"})
        assert set(guest.last.written) == written

    @pytest.mark.parametrize("size", [1, 2, 4, 8])
    def test_a_read(self, layout: str, size: int) -> None:
        guest = Guest(layout)
        guest.board.device.answer = 0x8877_6655_4433_2211
        before = with_block(layout, READ | FAST, mmio_block(DEVICE, size) + b"\xee" * 112)
        assert guest.execute(before) is Outcome.DONE
        if layout == X32:
            assert guest.result() == WRONG  # there is no register output
            assert guest.board.untouched
            return
        assert guest.result() == SUCCESS
        kept = 0x8877_6655_4433_2211 & ((1 << 8 * size) - 1)
        assert fast_output(layout, guest.last.registers, 16, 64) == kept.to_bytes(64, "little")
        results = {
            X64: {"rax", *(f"xmm{n}" for n in range(4))},
            HVC0: {"x0", *(f"x{n}" for n in range(4, 12))},
        }
        assert set(guest.last.written) == results.get(layout, {"x0", *(f"x{n}" for n in range(9, 17))})

    def test_a_failed_read_leaves_the_output_registers(self, layout: str) -> None:
        guest = Guest(layout)
        assert guest.fast_call(READ, mmio_block(NOBODY, 4)) == (WRONG if layout == X32 else NOT_FOUND)
        assert set(guest.last.written) <= {"rax", "rdx", "x0"}

    @pytest.mark.parametrize("code", [READ, WRITE])
    def test_without_the_cpuid_bit(self, layout: str, code: int) -> None:
        """A write needs XMM0 to XMM3 for input, a read for output."""
        feature = "xmm_input" if code == WRITE else "xmm_output"
        guest = Guest(layout)
        guest.state.features = replace(guest.state.features, **{feature: False})
        outcome = guest.execute(with_block(layout, code | FAST, mmio_block(DEVICE, 4, 7)))
        undefined = layout == X64 or (layout == X32 and code == WRITE)
        assert outcome is (Outcome.UNDEFINED if undefined else Outcome.DONE)
        if undefined:
            assert guest.last.written == {}
            assert guest.board.untouched

    @pytest.mark.parametrize("code", [READ, WRITE])
    def test_the_other_bit_does_not_matter(self, code: int) -> None:
        feature = "xmm_output" if code == WRITE else "xmm_input"
        guest = Guest(X64)
        guest.state.features = replace(guest.state.features, **{feature: False})
        assert guest.fast_call(code, mmio_block(DEVICE, 4, 7)) == SUCCESS

    @pytest.mark.parametrize("size", [0, 3, 64])
    def test_sizes(self, layout: str, size: int) -> None:
        guest = Guest(layout)
        assert guest.fast_call(WRITE, mmio_block(DEVICE, size, 7)) == PARAMETER
        assert guest.board.untouched

    def test_addresses_are_no_pointers(self, layout: str) -> None:
        """The register that would point to the block holds the target; no memory is read."""
        guest = Guest(layout)
        assert guest.fast_call(WRITE, mmio_block(DEVICE + 8, 8, 7)) == SUCCESS
        assert guest.board.device.log == [("W", 8, 8, 7)]


@pytest.mark.parametrize(("code", "fast"), list(itertools.product([READ, WRITE], [0, FAST])))
class TestWithdrawn:
    def test_and_offered_again(self, layout: str, code: int, fast: int) -> None:
        guest = Guest(layout)
        guest.board.put(INPUT, mmio_block(DEVICE, 4, 7))
        file = with_block(layout, code | fast, mmio_block(DEVICE, 4, 7)) if fast else None
        file = file or registers(layout, code, INPUT, OUTPUT)
        guest.hyperv.offered = False
        assert guest.execute(file) is Outcome.DONE
        assert guest.result() == CODE
        assert guest.board.untouched
        guest.hyperv.offered = True
        assert guest.execute(file) is Outcome.DONE
        assert guest.result() == (WRONG if (layout, code, fast) == (X32, READ, FAST) else SUCCESS)

    def test_without_the_feature(self, layout: str, code: int, fast: int) -> None:
        guest = Guest(layout)
        guest.state.features = replace(guest.state.features, mmio=False, xmm_input=False, xmm_output=False)
        assert guest.call(code | fast, INPUT, OUTPUT) == CODE
        assert guest.board.untouched

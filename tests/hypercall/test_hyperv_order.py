"""Who may call, and which of several wrong things is answered: the order is KVM's."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from pvmmio_uc.hypercall.cpu import Call, Outcome
from pvmmio_uc.hypercall.hyperv import HyperV
from pvmmio_uc.hypercall.hyperv_state import HyperVFeatures, HyperVState

from .fakes import DEVICE, DOORBELL_ANY, Board, FakeCpu, element
from .hyperv_guest import (
    CALLS,
    FAST,
    HVC0,
    HVC1,
    INPUT,
    LAYOUTS,
    OUTPUT,
    X32,
    X64,
    Guest,
    layout_fixture,
    mmio_block,
    registers,
    with_block,
)

UNDEFINED = "undefined"
RESERVED = [*range(27, 32), *range(44, 48), *range(60, 64)]
CODES = [0x106, 0x107, 0x5C, 0x5D, 0x8001, 0x8002, 0x8030, 0x50, 0x51, 0x99]

layout = layout_fixture()


def status(guest: Guest, file: dict[str, int], **cpu: Any) -> int | str:
    outcome = guest.execute(file, **cpu)
    if outcome is Outcome.UNDEFINED:
        assert guest.last.written == {}
        return UNDEFINED
    assert outcome is Outcome.DONE
    return guest.result()


class TestPrivilege:
    @pytest.mark.parametrize("code", CODES)
    @pytest.mark.parametrize("fast", [0, FAST])
    def test_user_mode_reaches_nothing(self, layout: str, code: int, fast: int) -> None:
        asked: list[tuple[int, ...]] = []
        guest = Guest(layout, state={"synic": True}, on_hyperv_exit=lambda *a: asked.append(a))
        bell = guest.board.connect(INPUT & 0xFF_FFFF)
        guest.board.put(INPUT, mmio_block(DEVICE, 4, 7))
        for word in (code | fast, code | fast | 1 << 32):
            assert status(guest, registers(layout, word, INPUT, OUTPUT), user_mode=True) == UNDEFINED
            block = with_block(layout, word, mmio_block(DEVICE, 4, 7))
            assert status(guest, block, user_mode=True) == UNDEFINED
        assert guest.board.untouched
        assert guest.board.memory.writes == []
        assert (bell.count, asked) == (0, [])
        assert guest.operations.accesses == []

    @pytest.mark.parametrize("code", CODES)
    def test_real_mode(self, code: int) -> None:
        guest = Guest(X32)
        file = registers(X32, code, INPUT, OUTPUT)
        assert status(guest, file, protected_mode=False) == UNDEFINED

    def test_it_comes_before_everything_else(self, layout: str) -> None:
        guest = Guest(layout, state={"enforce": True, "features": HyperVFeatures(signal_events=False)})
        file = registers(layout, 0xFFFF_FFFF_FFFF_005D, 1, 1)
        assert status(guest, file, user_mode=True) == UNDEFINED
        assert status(guest, file) == 6


class TestTheOtherVendor:
    @pytest.mark.parametrize(("native", "foreign"), [("vmcall", "vmmcall"), ("vmmcall", "vmcall")])
    def test_it_is_mended(self, native: str, foreign: str) -> None:
        convention = HyperV(HyperVState(Board().memory, native=native))
        cpu = FakeCpu()
        assert convention.handle(cpu, Call(foreign, 0, 3), Board().operations()) is Outcome.RETRY
        assert cpu.patched == {"vmcall": b"\x0f\x01\xc1", "vmmcall": b"\x0f\x01\xd9"}[native]
        assert cpu.written == {}

    def test_unless_that_is_off(self) -> None:
        convention = HyperV(HyperVState(Board().memory), patch=False)
        cpu = FakeCpu()
        assert convention.handle(cpu, Call("vmmcall", 0, 3), Board().operations()) is Outcome.UNDEFINED
        assert cpu.patched is None

    def test_vmcall_in_user_mode_on_amd(self) -> None:
        """The emulator has the instruction as privileged."""
        convention = HyperV(HyperVState(Board().memory, native="vmmcall"))
        cpu = FakeCpu(user_mode=True)
        assert convention.handle(cpu, Call("vmcall", 0, 3), Board().operations()) is Outcome.PROTECTION

    @pytest.mark.parametrize("native", ["vmcall", "vmmcall"])
    def test_the_native_one_is_answered(self, native: str) -> None:
        convention = HyperV(HyperVState(Board().memory, native=native))
        cpu = FakeCpu(rcx=0x99)
        assert convention.handle(cpu, Call(native, 0, 3), Board().operations()) is Outcome.DONE
        assert cpu.written == {"rax": 2}


class TestReservedBits:
    @pytest.mark.parametrize("bit", RESERVED)
    @pytest.mark.parametrize("code", CODES)
    def test_each_alone(self, layout: str, code: int, bit: int) -> None:
        guest = Guest(layout, state={"synic": True}, on_hyperv_exit=lambda *_: 0)
        for fast in (0, FAST):
            assert guest.call(code | fast | 1 << bit, INPUT, OUTPUT) == 3
        assert guest.board.untouched

    def test_they_come_before_missing_xmm_registers(self) -> None:
        guest = Guest(X64, state={"features": HyperVFeatures(xmm_input=False)})
        assert status(guest, with_block(X64, 0x107 | FAST | 1 << 31, b"")) == 3

    def test_they_come_after_the_privilege(self, layout: str) -> None:
        features = HyperVFeatures(signal_events=False, post_messages=False, extended=False)
        guest = Guest(layout, state={"enforce": True, "features": features})
        for code in (0x5C, 0x5D, 0x8001, 0x8030, 0x8041):
            assert guest.call(code | 1 << 27) == 6
        assert guest.call(0x106 | 1 << 27) == 3


class TestXmm:
    def test_it_comes_before_the_header(self) -> None:
        guest = Guest(X64, state={"features": HyperVFeatures(xmm_input=False, xmm_output=False)})
        for code, extra in itertools.product((0x106, 0x107), (1 << 17, 1 << 32, 1 << 48)):
            assert status(guest, with_block(X64, code | FAST | extra, b"")) == UNDEFINED
            assert status(guest, registers(X64, code | extra, INPUT, OUTPUT)) == 3

    def test_other_calls_do_not_ask(self, layout: str) -> None:
        guest = Guest(layout, state={"features": HyperVFeatures(xmm_input=False, xmm_output=False)})
        bell = guest.board.connect(5)
        assert guest.call(0x5D | FAST, 5) == 0
        assert bell.count == 1


class TestTheHeaderOfSimpleCalls:
    @pytest.mark.parametrize("code", [0x106, 0x107, 0x5C, 0x5D])
    @pytest.mark.parametrize("bit", [*range(17, 27), *range(32, 44), *range(48, 60)])
    def test_each_bit(self, layout: str, code: int, bit: int) -> None:
        guest = Guest(layout, state={"synic": True}, on_hyperv_exit=lambda *_: 0)
        guest.board.put(INPUT, mmio_block(DEVICE, 4, 7))
        assert guest.call(code | 1 << bit, INPUT, OUTPUT) == 3
        assert guest.board.untouched

    def test_it_comes_before_the_blocks(self, layout: str) -> None:
        guest = Guest(layout)
        for code in (0x106, 0x107, 0x5D):
            assert guest.call(code | 1 << 32, 1, 1) == 3


class TestBlocks:
    """Place of both, then whether they are there, then what is in the input."""

    def test_alignment_before_memory(self, layout: str) -> None:
        guest = Guest(layout)
        guest.board.put(INPUT, mmio_block(DEVICE, 3))
        assert guest.call(0x106, 0, OUTPUT + 1) == 4
        assert guest.call(0x106, 1, 0) == 4
        assert guest.call(0x106, 0, OUTPUT) == 3
        assert guest.call(0x106, INPUT, 0) == 3
        assert guest.call(0x106, INPUT, OUTPUT) == 5

    def test_fast_extended_before_its_header(self, layout: str) -> None:
        assert Guest(layout).call(0x8030 | FAST | 1 << 17, 1, 1) == 5

    def test_the_list_header_before_the_block(self, layout: str) -> None:
        guest = Guest(layout)
        assert guest.call(0x8030 | 1 << 17 | 1 << 32, 1) == 3
        assert guest.call(0x8030 | 1 << 32, 1) == 4


class TestXenBeside:
    def test_64_bit_code_does_not_care(self) -> None:
        guest = Guest(X64, state={"xen": True})
        bell = guest.board.connect(5)
        file = {**registers(X64, 0x5D | FAST, 5), "rax": 0x8000_0000}
        assert status(guest, file) == 0
        assert bell.count == 1
        assert status(guest, registers(X64, 0x5D | FAST | 1 << 31, 5)) == 3

    def test_32_bit_code_has_the_mark_in_its_control_word(self) -> None:
        asked: list[tuple[int, int, int]] = []
        guest = Guest(X32, state={"xen": True, "synic": True})
        bell = guest.board.connect(5)
        guest.hyperv.on_hyperv_exit = lambda *call: asked.append(call)
        assert status(guest, registers(X32, 0x5D | FAST | 1 << 31, 5)) == 0
        assert bell.count == 1
        assert status(guest, registers(X32, 0x5D | FAST | 1 << 31, 6)) == 0x12
        assert asked == [(0x5D | FAST, 6, 0)]

    def test_without_xen_it_is_reserved(self) -> None:
        assert status(Guest(X32), registers(X32, 0x5D | FAST | 1 << 31, 5)) == 3


class TestArm64:
    @pytest.mark.parametrize("x0", [0x4600_0000, 0x4600_0002, 0xC600_0001, 0x8600_FF01, 0x106])
    def test_another_function_id(self, x0: int) -> None:
        guest = Guest(HVC0)
        assert guest.execute({"x0": x0, "x1": 0x107, "x2": INPUT}) is Outcome.DONE
        assert guest.last.written == {"x0": (1 << 64) - 1}

    def test_the_upper_half_of_x0_does_not_count(self) -> None:
        guest = Guest(HVC0)
        file = {**registers(HVC0, 0x99), "x0": 0xFFFF_FFFF_4600_0001}
        assert status(guest, file) == 2

    def test_another_immediate(self) -> None:
        guest = Guest(HVC1)
        cpu = FakeCpu(guest.board.memory, x0=0x99)
        call = Call("hvc", 0, 4, 2)
        assert guest.hyperv.handle(cpu, call, guest.board.operations()) is Outcome.DONE
        assert cpu.written == {"x0": (1 << 64) - 1}


class TestTheConvention:
    def test_the_number_for_the_record(self, layout: str) -> None:
        guest = Guest(layout)
        file = registers(layout, 0x0005_00AA_0001_8030, 1, 2)
        assert guest.hyperv.number(FakeCpu(bits=32 if layout == X32 else 64, **file)) == 0x8030

    def test_cpuid_is_x86s(self) -> None:
        for name in LAYOUTS:
            leaf = Guest(name).hyperv.cpuid(0x4000_0001)
            assert (leaf is None) is (name in (HVC0, HVC1))

    def test_msrs_are_the_partitions(self) -> None:
        state = HyperVState(Board().memory)
        first, second = HyperV(state), HyperV(state)
        assert first.write_msr(0x4000_0000, 7)
        assert second.read_msr(0x4000_0000) == 7
        assert first.read_msr(0x10) is None
        assert not first.write_msr(0x10, 7)

    def test_name(self, layout: str) -> None:
        guest = Guest(layout)
        assert guest.hyperv.name == "hyperv"
        assert CALLS[layout].instruction in guest.hyperv.instructions

    def test_an_unknown_architecture(self) -> None:
        with pytest.raises(ValueError, match="ppc"):
            HyperV(HyperVState(Board().memory), "ppc")  # type: ignore[arg-type]

    def test_offered_is_the_partitions(self) -> None:
        state = HyperVState(Board().memory)
        first, second = HyperV(state), HyperV(state)
        first.offered = False
        assert not second.offered
        assert not state.available.mmio

    def test_features_can_change_between_calls(self, layout: str) -> None:
        guest = Guest(layout)
        guest.board.put(INPUT, mmio_block(DOORBELL_ANY, 4, 0))
        assert guest.call(0x107, INPUT) == 0
        guest.state.features = replace(guest.state.features, mmio=False)
        assert guest.call(0x107, INPUT) == 2
        guest.board.put(INPUT, bytes(8) + element(DOORBELL_ANY, 0, 4))
        assert guest.call(0x8030 | 1 << 32, INPUT) == 1 << 32
        assert guest.board.bells[DOORBELL_ANY].count == 2

"""Which convention a call follows: the guest's own act decides, at every call anew."""

from __future__ import annotations

import itertools

import pytest

from pvmmio_uc.hypercall.cpu import Call
from pvmmio_uc.hypercall.dispatch import XEN_MARKER, Dialect, applies, applies_arm64
from pvmmio_uc.hypercall.hyperv import HyperV
from pvmmio_uc.hypercall.hyperv_state import MSR_GUEST_OS_ID, HyperVState

from .fakes import Board, FakeCpu

LINUX_ID = 0x8100_0000_0006_0C00
SMCCC = 0x4600_0001


@pytest.mark.parametrize(
    ("xen", "marked", "hyperv", "os_id", "expected"),
    [
        (False, False, False, 0, Dialect.NATIVE),
        (False, False, False, LINUX_ID, Dialect.NATIVE),
        (False, False, True, 0, Dialect.NATIVE),
        (False, False, True, LINUX_ID, Dialect.HYPERV),
        (False, True, False, 0, Dialect.NATIVE),
        (False, True, False, LINUX_ID, Dialect.NATIVE),
        (False, True, True, 0, Dialect.NATIVE),
        (False, True, True, LINUX_ID, Dialect.HYPERV),
        (True, False, False, 0, Dialect.XEN),
        (True, False, False, LINUX_ID, Dialect.XEN),
        (True, False, True, 0, Dialect.XEN),
        (True, False, True, LINUX_ID, Dialect.XEN),
        (True, True, False, 0, Dialect.XEN),
        (True, True, False, LINUX_ID, Dialect.XEN),
        (True, True, True, 0, Dialect.XEN),
        (True, True, True, LINUX_ID, Dialect.HYPERV),
    ],
)
def test_every_row(xen: bool, marked: bool, hyperv: bool, os_id: int, expected: Dialect) -> None:
    rax = 0x1234_5678_0000_0017 | (XEN_MARKER if marked else 0)
    assert applies(rax, xen=xen, hyperv=hyperv, guest_os_id=os_id) is expected


@pytest.mark.parametrize("bit", range(64))
def test_only_bit_31_of_rax_is_the_marker(bit: int) -> None:
    dialect = applies(1 << bit, xen=True, hyperv=True, guest_os_id=1)
    assert dialect is (Dialect.HYPERV if bit == 31 else Dialect.XEN)


@pytest.mark.parametrize("bit", range(64))
def test_any_bit_of_the_os_id_counts(bit: int) -> None:
    assert applies(0, xen=False, hyperv=True, guest_os_id=1 << bit) is Dialect.HYPERV


@pytest.mark.parametrize(
    ("x0", "immediate", "hyperv", "expected"),
    [
        (SMCCC, 0, True, Dialect.HYPERV),
        (0xFFFF_FFFF_0000_0000 | SMCCC, 0, True, Dialect.HYPERV),
        (SMCCC + 1, 0, True, Dialect.NATIVE),
        (0xC600_0070, 0, True, Dialect.NATIVE),
        (0x8600_FF01, 0, True, Dialect.NATIVE),
        (0x106, 1, True, Dialect.HYPERV),
        (0xC600_0070, 1, True, Dialect.HYPERV),
        (SMCCC, 2, True, Dialect.NATIVE),
        (SMCCC, 0, False, Dialect.NATIVE),
        (0x106, 1, False, Dialect.NATIVE),
    ],
)
def test_arm64(x0: int, immediate: int, hyperv: bool, expected: Dialect) -> None:
    assert applies_arm64(x0, immediate, hyperv=hyperv) is expected


class TestTheConvention:
    def test_a_guest_switches_over_and_back_by_writing_its_os_id(self) -> None:
        state = HyperVState(Board().memory)
        first, second = HyperV(state), HyperV(state)
        cpu, call = FakeCpu(rax=27), Call("vmcall", 0, 3)
        assert not first.applies(cpu, call)
        state.write_msr(MSR_GUEST_OS_ID, LINUX_ID)
        assert first.applies(cpu, call)
        assert second.applies(cpu, call)
        state.write_msr(MSR_GUEST_OS_ID, 0)
        assert not first.applies(cpu, call)

    def test_the_host_takes_the_leaves_away(self) -> None:
        state = HyperVState(Board().memory)
        state.write_msr(MSR_GUEST_OS_ID, LINUX_ID)
        state.present = False
        assert not HyperV(state).applies(FakeCpu(), Call("vmcall", 0, 3))
        assert not HyperV(state, "arm64").applies(FakeCpu(x0=SMCCC), Call("hvc", 0, 4))

    def test_beside_xen_only_a_marked_call_is_hyperv(self) -> None:
        state = HyperVState(Board().memory, xen=True)
        state.write_msr(MSR_GUEST_OS_ID, LINUX_ID)
        call = Call("vmcall", 0, 3)
        assert not HyperV(state).applies(FakeCpu(rax=17), call)
        assert HyperV(state).applies(FakeCpu(rax=17 | XEN_MARKER), call)

    @pytest.mark.parametrize(
        ("architecture", "instruction"),
        list(itertools.product(["x86", "arm64"], ["vmcall", "vmmcall", "hvc", "smc", "sc"])),
    )
    def test_instructions(self, architecture: str, instruction: str) -> None:
        state = HyperVState(Board().memory)
        state.write_msr(MSR_GUEST_OS_ID, LINUX_ID)
        convention = HyperV(state, architecture)  # type: ignore[arg-type]
        expected = instruction in (("hvc",) if architecture == "arm64" else ("vmcall", "vmmcall"))
        assert convention.applies(FakeCpu(x0=SMCCC), Call(instruction, 0, 4)) is expected
        assert (instruction in convention.instructions) is expected

    def test_on_arm64_no_os_id_is_asked_for(self) -> None:
        convention = HyperV(HyperVState(Board().memory), "arm64")
        assert convention.applies(FakeCpu(x0=SMCCC), Call("hvc", 0, 4, 0))
        assert convention.applies(FakeCpu(x0=0x106), Call("hvc", 0, 4, 1))
        assert not convention.applies(FakeCpu(x0=0xC600_0071), Call("hvc", 0, 4, 0))

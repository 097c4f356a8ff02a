"""The GHCB MSR protocol: requests and answers in the MSR itself."""

from __future__ import annotations

import pytest

from pvmmio_uc.hypercall.cpu import Outcome
from pvmmio_uc.hypercall.ghcb import Ghcb, GhcbState

from .fakes import RAM, U64, Board, FakeCpu
from .ghcb_guest import MMIO_WRITE, MSR, NOT_REGISTERED, PAGE, VMGEXIT, exit_with, put


def ask(convention: Ghcb, request: int) -> int:
    """wrmsr, vmgexit, rdmsr."""
    board = Board()
    cpu = FakeCpu(board.memory)
    assert convention.write_msr(MSR, request)
    assert convention.handle(cpu, VMGEXIT, board.operations()) is Outcome.DONE
    assert not cpu.written
    assert not board.memory.writes
    assert board.untouched
    answer = convention.read_msr(MSR)
    assert answer is not None
    return answer


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("c_bit", [47, 51])
def test_sev_info(version: int, c_bit: int) -> None:
    answer = ask(Ghcb(version=version, c_bit=c_bit), 0x002)
    assert (answer >> 48, answer >> 32 & 0xFFFF, answer >> 24 & 0xFF) == (version, 1, c_bit)
    assert answer & 0xFFFFFF == 0x001


@pytest.mark.parametrize("register", range(4))
def test_cpuid(register: int) -> None:
    def cpuid(leaf: int) -> tuple[int, int, int, int]:
        return leaf, 0x11111111, 0x22222222, 0xFFFFFFFF

    answer = ask(Ghcb(cpuid=cpuid), 0x8000001F << 32 | register << 30 | 0x004)
    assert answer >> 32 == (0x8000001F, 0x11111111, 0x22222222, 0xFFFFFFFF)[register]
    assert (answer >> 30 & 3, answer & 0xFFF) == (register, 0x005)


@pytest.mark.parametrize("register", range(4))
def test_a_cpuid_leaf_that_nobody_knows(register: int) -> None:
    assert ask(Ghcb(), 0x7 << 32 | register << 30 | 0x004) == register << 30 | 0x005


def test_ap_reset_hold() -> None:
    assert ask(Ghcb(), 0x006) == 0x007


def test_features() -> None:
    assert ask(Ghcb(), 0x080) == 0x081
    assert ask(Ghcb(snp=True), 0x080) == 1 << 12 | 0x081


def test_requests_of_snp_guests() -> None:
    convention = Ghcb(snp=True)
    assert ask(convention, 0x010) == U64 & ~0xFFF | 0x011
    assert ask(convention, PAGE | 0x012) == PAGE | 0x013
    assert convention.state.registered == PAGE
    assert ask(convention, 1 << 52 | 0x1234 << 12 | 0x014) == 0x015
    assert convention.state.terminated is None


@pytest.mark.parametrize("request_", [0x010, PAGE | 0x012, 1 << 52 | 0x014])
def test_without_snp_they_end_the_guest(request_: int) -> None:
    convention = Ghcb()
    assert ask(convention, request_) == request_
    assert convention.state.terminated == request_
    assert convention.state.registered is None


@pytest.mark.parametrize("snp", [False, True])
def test_termination_has_a_reason(snp: bool) -> None:
    convention = Ghcb(snp=snp)
    request = 0x3 << 16 | 0x1 << 12 | 0x100
    assert ask(convention, request) == request
    assert convention.state.terminated == request


@pytest.mark.parametrize("request_", [0x001, 0x003, 0x005, 0x007, 0x013, 0x016, 0x081, 0x101, 0xFFF, U64])
def test_what_is_no_request_stays_as_it_is(request_: int) -> None:
    """An answer sent back, VMPLs, and numbers without meaning."""
    convention = Ghcb(snp=True)
    assert ask(convention, request_) == request_
    assert convention.state == GhcbState(msr=request_)


def test_other_msrs() -> None:
    convention = Ghcb()
    for index in (0, MSR - 1, MSR + 1, 0x4000_0000):
        assert convention.read_msr(index) is None
        assert not convention.write_msr(index, 5)
    assert convention.state.msr == 0


def test_writing_alone_asks_nothing() -> None:
    convention = Ghcb()
    assert convention.write_msr(MSR, 0x002)
    assert convention.read_msr(MSR) == 0x002


def test_each_vcpu_has_its_own() -> None:
    first, second = GhcbState(), GhcbState()
    ask(Ghcb(first), 0x006)
    assert (first.msr, second.msr) == (0x007, 0)


def test_an_snp_guest_registers_its_page() -> None:
    board, convention = Board(), Ghcb(snp=True)
    fields = {"exit_code": MMIO_WRITE, "info_1": 0, "info_2": 0, "scratch": RAM}
    put(board, usage=1, **fields)
    assert exit_with(board, convention) == (2, NOT_REGISTERED)
    ask(convention, PAGE | 0x012)
    put(board, **fields)
    assert exit_with(board, convention) == (0, 0)
    ask(convention, PAGE + 0x1000 | 0x012)
    put(board, **fields)
    assert exit_with(board, convention) == (2, NOT_REGISTERED)

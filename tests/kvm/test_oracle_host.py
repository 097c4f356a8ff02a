"""What can be told without running a guest: numbers, layouts, and why KVM cannot be used."""

from __future__ import annotations

import ctypes
import os
import platform
import sys

import pytest

from pvmmio_uc.kvm import KvmResult, available, host, ioctls, stage2

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/dev/kvm is Linux's")


@pytest.mark.parametrize(
    ("request_", "number"),
    [
        (ioctls.KVM_CREATE_VM, 0xAE01),
        (ioctls.KVM_RUN, 0xAE80),
        (ioctls.KVM_IOEVENTFD, 0x4040AE79),
        (ioctls.KVM_REGISTER_COALESCED_MMIO, 0x4010AE67),
        (ioctls.KVM_GET_SUPPORTED_CPUID, 0xC008AE05),
        (ioctls.KVM_GET_SREGS, 0x8138AE83),
        (ioctls.KVM_SET_SREGS, 0x4138AE84),
    ],
    ids=lambda value: value.name if isinstance(value, ioctls.Request) else None,
)
def test_request_numbers(request_: ioctls.Request, number: int) -> None:
    assert request_.number == number


@pytest.mark.parametrize(
    ("size", "request_"),
    [
        (ctypes.sizeof(ioctls.KvmRegs), ioctls.KVM_GET_REGS),
        (ctypes.sizeof(ioctls.KvmSregs), ioctls.KVM_GET_SREGS),
        (ioctls.KVM_IOEVENTFD_ARGS.size, ioctls.KVM_IOEVENTFD),
        (ioctls.KVM_COALESCED_ZONE.size, ioctls.KVM_REGISTER_COALESCED_MMIO),
        (ioctls.KVM_USERSPACE_MEMORY_REGION.size, ioctls.KVM_SET_USER_MEMORY_REGION),
        (ioctls.KVM_PIT_CONFIG.size, ioctls.KVM_CREATE_PIT2),
    ],
)
def test_layouts_have_the_size_that_their_request_says(size: int, request_: ioctls.Request) -> None:
    assert size == request_.number >> 16 & 0x3FFF


def test_the_run_page_layout() -> None:
    offsets = {
        name: getattr(ioctls.KvmRun, name).offset for name in ("immediate_exit", "exit_reason", "exit")
    }
    assert offsets == {"immediate_exit": 1, "exit_reason": 8, "exit": 32}


@linux_only
def test_available_says_that_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(host, "DEVICE", "/dev/there-is-no-such-device")
    assert "/dev/there-is-no-such-device: No such file" in str(available())


def test_available_says_that_the_machine_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "riscv64" in str(available())


@linux_only
def test_available_says_which_call_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(host, "DEVICE", os.devnull)
    assert "KVM_GET_API_VERSION" in str(available())


def test_stage2_is_one_of_three() -> None:
    assert stage2() in ("ept", "npt", "shadow")


def test_a_result_starts_empty() -> None:
    assert KvmResult("hlt").exits == []

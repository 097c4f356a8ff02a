"""KvmVm itself: its face, its ends, and that nothing of it stays behind."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pvmmio_uc.errors import RegistrationError
from pvmmio_uc.exits import Reason, UserspaceExit
from pvmmio_uc.kvm import KvmError, KvmVm, available, ioctls
from pvmmio_uc.kvm.guest import HIGH_WINDOW, RAM_SIZE
from pvmmio_uc.kvm.watchdog import KICK_SIGNAL

from .scenario import HAS_FAST_BUS, needs_kvm

DEVICE = 0xFE000000
STORE = b"\x89\x07"  # mov [rdi], eax
LOAD = b"\x8b\x07"  # mov eax, [rdi]
FOREVER = b"\xeb\xfe"  # jmp .


shadow_only = pytest.mark.skipif(HAS_FAST_BUS, reason="an endless instruction of shadow paging")


def open_descriptors() -> list[str]:
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return sorted(os.readlink(link) for link in links if os.path.lexists(link))


def kvm_mappings() -> int:
    return Path("/proc/self/maps").read_text().count("kvm")


@needs_kvm
def test_the_face() -> None:
    with KvmVm() as vm:
        bell = os.eventfd(0, os.EFD_NONBLOCK)
        vm.ioeventfd(bell, DEVICE, 4)
        result = vm.run(STORE + LOAD, registers={"rdi": DEVICE, "rax": 7}, on_exit=lambda exit_: 0x1234)
        assert os.eventfd_read(bell) == 1
        vm.deassign(bell, DEVICE, 4)
        os.close(bell)
    expected = UserspaceExit(Reason.MMIO, False, DEVICE, 4, (0x1234).to_bytes(4, "little"), None)
    assert (result.end, result.exits) == ("hlt", [expected])
    assert result.registers["rax"] == 0x1234
    assert result.registers["rip"] == 0x1000 + len(STORE + LOAD) + 1


@needs_kvm
def test_unanswered_reads_are_ones_and_registers_start_at_zero() -> None:
    with KvmVm() as vm:
        result = vm.run(LOAD, registers={"rdi": HIGH_WINDOW, "r15": -1})
        assert result.registers["rax"] == 0xFFFFFFFF
        assert result.registers["r15"] == (1 << 64) - 1
        assert vm.run(b"").registers == {
            **dict.fromkeys(result.registers, 0),
            "rsp": 0x20000,
            "rip": 0x1001,
            "rflags": 2,
        }


@needs_kvm
@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("0f0b", "exc6"),
        ("48bf0000000000000080c607018807", "exc13"),
        ("48bf0000000002000000668b07", "exc14"),
    ],
    ids=["ud2", "non-canonical", "unmapped"],
)
def test_ends(code: str, end: str) -> None:
    with KvmVm() as vm:
        assert vm.run(bytes.fromhex(code)).end == end
        assert vm.run(b"").end == "hlt"


@needs_kvm
def test_system_registers_are_put_back() -> None:
    with KvmVm() as vm:
        assert vm.run(bytes.fromhex("0f011d00000000")).end == "hlt"  # lidt [rip]
        assert vm.run(bytes.fromhex("0f0b")).end == "exc6"


@needs_kvm
def test_an_instruction_that_is_not_emulated() -> None:
    with KvmVm() as vm:
        result = vm.run(bytes.fromhex("660f1207"), registers={"rdi": DEVICE})  # movlpd xmm0, [rdi]
        assert (result.end, result.exits, result.registers["rip"]) == ("internal1", [], 0x1000)


@needs_kvm
@pytest.mark.parametrize(
    ("code", "some_exits"),
    [
        pytest.param(FOREVER, False, id="jmp-self"),
        pytest.param(STORE + b"\xeb\xfc", True, id="store-for-ever"),
        pytest.param(bytes.fromhex("0f0117"), True, id="lgdt-from-mmio", marks=shadow_only),
        pytest.param(bytes.fromhex("0f010f"), False, id="sidt-to-mmio", marks=shadow_only),
    ],
)
@pytest.mark.parametrize("irqchip", [False, True])
def test_a_guest_that_never_ends_is_cut_off(code: bytes, some_exits: bool, irqchip: bool) -> None:
    with KvmVm() as vm:
        if irqchip:
            vm.create_irqchip()
        began = time.monotonic()
        result = vm.run(code, registers={"rdi": DEVICE}, timeout=0.05)
        assert time.monotonic() - began < 5
        assert (result.end, bool(result.exits)) == ("hang", some_exits)
        assert vm.run(STORE, registers={"rdi": DEVICE + 8}).exits[0].address == DEVICE + 8


@needs_kvm
def test_the_time_of_the_answers_is_not_the_guests() -> None:
    with KvmVm() as vm:
        result = vm.run(STORE, registers={"rdi": DEVICE}, timeout=0.05, on_exit=lambda _: time.sleep(0.15))
        assert result.end == "hlt"


@needs_kvm
def test_what_a_callback_raises_comes_out_and_the_next_run_is_clean() -> None:
    def fail(exit_: UserspaceExit) -> None:
        raise LookupError(hex(exit_.address))

    with KvmVm() as vm:
        for code in (STORE, LOAD, bytes.fromhex("480107"), bytes.fromhex("ec")):
            with pytest.raises(LookupError):
                vm.run(code, registers={"rdi": DEVICE - 4, "rdx": 0x70}, on_exit=fail)
            result = vm.run(LOAD, registers={"rdi": DEVICE}, on_exit=lambda _: b"abcd")
            assert [exit_.address for exit_ in result.exits] == [DEVICE]
            assert result.registers["rax"] == int.from_bytes(b"abcd", "little")


@needs_kvm
def test_a_wrong_answer_names_both_lengths() -> None:
    with KvmVm() as vm, pytest.raises(ValueError, match=r"4 bytes at 0xfe000000 has 3"):
        vm.run(LOAD, registers={"rdi": DEVICE}, on_exit=lambda _: b"abc")


@needs_kvm
def test_string_input_is_one_exit_with_a_count() -> None:
    with KvmVm() as vm:
        registers = {"rdx": 0x70, "rdi": 0x18000, "rcx": 3}
        result = vm.run(bytes.fromhex("f3666d"), registers=registers, on_exit=lambda _: b"abcdef")  # rep insw
        (exit_,) = result.exits
        assert (exit_.reason, exit_.write, exit_.address, exit_.size, exit_.count) == (
            Reason.IO,
            False,
            0x70,
            2,
            3,
        )
        assert vm.read_memory(0x18000, 6) == b"abcdef"


@needs_kvm
def test_it_runs_in_any_thread_and_leaves_its_signals_alone() -> None:
    masks, results = [], []

    def work() -> None:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        with KvmVm() as vm:
            results.append(vm.run(FOREVER, timeout=0.02).end)
            results.append(vm.run(STORE, registers={"rdi": DEVICE}).end)
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        assert KICK_SIGNAL not in signal.sigpending()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("hang") == results.count("hlt") == 2
    assert all(mask == masks[0] for mask in masks)


@needs_kvm
def test_a_python_signal_handler_interrupts_the_guest() -> None:
    def handler(number: int, frame: object) -> None:
        raise InterruptedError(number)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with KvmVm() as vm:
            vm.run(b"")
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(InterruptedError):
                vm.run(FOREVER, timeout=10)
            assert vm.run(b"").end == "hlt"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@needs_kvm
def test_writes_to_a_read_only_slot_go_to_the_bus() -> None:
    with KvmVm() as vm:
        vm.add_memory(0x800000, 0x1000, readonly=True)
        vm.write_memory(0x800000, b"rom!")
        result = vm.run(LOAD + STORE, registers={"rdi": 0x800000})
        assert [(exit_.write, exit_.data) for exit_ in result.exits] == [(True, b"rom!")]
        with pytest.raises(KvmError, match="KVM_SET_USER_MEMORY_REGION") as refused:
            vm.add_memory(0x800000, 0x1000)
        assert refused.value.errno == errno.EEXIST


@needs_kvm
def test_a_closed_vm_takes_nothing() -> None:
    with KvmVm() as vm:
        vm.run(b"")
        vcpu = vm.vcpu
    with pytest.raises(RegistrationError) as refused:
        vm.ioeventfd(0, DEVICE, 4)
    assert refused.value.errno == errno.EBADF
    for use in (lambda: vm.vcpu, lambda: vcpu.registers, lambda: vm.add_memory(0, 0x1000)):
        with pytest.raises(KvmError, match="Bad file descriptor"):
            use()
    with pytest.raises(ValueError, match="no memory slot"):
        vm.run(b"")
    assert vm.drain() == []


@needs_kvm
def test_nothing_is_left_open() -> None:
    with KvmVm() as vm:
        vm.run(b"")
    descriptors, mappings = open_descriptors(), kvm_mappings()
    for _ in range(3):
        with KvmVm() as vm:
            vm.create_irqchip()
            vm.create_pit()
            vm.add_memory(0x800000, 0x1000)
            vm.run(STORE, registers={"rdi": DEVICE})
            with pytest.raises(KvmError):
                vm.add_memory(0x800000, 0x1000)
            vm.close()
        KvmVm().run(b"")
    assert (open_descriptors(), kvm_mappings()) == (descriptors, mappings)


@needs_kvm
@pytest.mark.parametrize("refused", ["KVM_SET_USER_MEMORY_REGION", "KVM_CREATE_VCPU", "KVM_SET_SREGS"])
def test_nothing_is_left_open_when_the_kernel_refuses(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ioctls, refused, ioctls.Request(refused, 0xAEFF))
    descriptors, mappings = open_descriptors(), kvm_mappings()
    with pytest.raises(KvmError, match=refused), KvmVm() as vm:
        vm.run(b"")
    assert (open_descriptors(), kvm_mappings()) == (descriptors, mappings)
    assert refused in str(available())


@needs_kvm
def test_registration_errors_carry_the_kernels_errno() -> None:
    with KvmVm() as vm:
        with pytest.raises(RegistrationError, match=r"KVM_IOEVENTFD.*0x3") as refused:
            vm.ioeventfd(0, DEVICE, 3)
        assert refused.value.errno == errno.EINVAL
        with pytest.raises(RegistrationError) as refused:
            vm.ioeventfd(-1, DEVICE, 4)
        assert refused.value.errno == errno.EBADF
        with pytest.raises(RegistrationError) as refused:
            vm.ioeventfd(-1, 1 << 64, 4)
        assert refused.value.errno == errno.EINVAL
        with pytest.raises(RegistrationError) as refused:
            vm.create_pit()
        assert refused.value.errno == errno.ENOENT


@needs_kvm
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"code": b"", "registers": {"eax": 1}}, "no register 'eax'"),
        ({"code": b"", "registers": {"rax": 1 << 64}}, "rax = 0x1"),
        ({"code": b"", "timeout": 0}, "timeout"),
        ({"code": bytes(0xF000)}, "0xf000 bytes of code"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, object], message: str) -> None:
    with KvmVm() as vm, pytest.raises(ValueError, match=message):
        vm.run(**arguments)  # type: ignore[arg-type]


@needs_kvm
def test_memory_is_only_where_a_slot_is() -> None:
    with KvmVm() as vm:
        vm.write_memory(RAM_SIZE - 1, b"x")
        assert vm.read_memory(RAM_SIZE - 1, 1) == b"x"
        with pytest.raises(ValueError, match="no memory slot"):
            vm.read_memory(RAM_SIZE - 1, 2)

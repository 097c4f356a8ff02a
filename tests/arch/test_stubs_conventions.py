"""The stub library on hosts that are stricter, older or slower than this package's conventions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pvmmio_uc.assembler import assemble
from pvmmio_uc.hypercall import devicetree
from pvmmio_uc.hypercall.convention import Convention
from pvmmio_uc.hypercall.cpu import Call, Cpu, Outcome
from pvmmio_uc.hypercall.kvm import KvmArm64, KvmPpc, KvmX86
from pvmmio_uc.hypercall.operations import Operations
from tests.arch.stub_guests import (
    CALLS,
    DEVICE_BYTES,
    HYPERCALL,
    KINDS,
    MMIO,
    NOT_LOOKED,
    STORES,
    VALUE,
    Guest,
    Kind,
    Registers,
    image_of,
)

each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


class Stingy(Operations):
    """Does at most three elements of a list per call, which a host may."""

    def __init__(self, inner: Operations) -> None:
        self.__dict__ = inner.__dict__

    def write_list(self, gpa: int, count: int, start: int, order: str = "little") -> int:
        return super().write_list(gpa, min(count, start + 3), start, order)  # type: ignore[arg-type]


def native(guest: Guest) -> Convention:
    makers: dict[str, Callable[[], Convention]] = {
        "x86": KvmX86,
        "arm64": KvmArm64,
        "ppc": lambda: KvmPpc(order=guest.pv.arch.data_order),
    }
    return makers[guest.arch]()


def stingy(convention: Convention) -> Convention:
    handle = convention.handle
    convention.handle = lambda cpu, call, operations: handle(cpu, call, Stingy(operations))  # type: ignore[method-assign]
    return convention


class MessyPpc(KvmPpc):
    """Spoils what ePAPR lets a hypervisor spoil."""

    def handle(self, cpu: Cpu, call: Call, operations: Operations) -> Outcome:
        outcome = super().handle(cpu, call, operations)
        for name in ("r0", *(f"r{number}" for number in range(6, 13)), "ctr", "lr"):
            cpu.set(name, 0xDEAD_0000)
        for field in (0, 1, 5, 6, 7):
            cpu.set(f"cr{field}", 0xF)
        return outcome


class FeaturesPpc(KvmPpc):
    """Answers KVM_HC_FEATURES with this."""

    def __init__(self, features: int, status: int = 0) -> None:
        super().__init__()
        self.features, self.status = features, status

    def handle(self, cpu: Cpu, call: Call, operations: Operations) -> Outcome:
        if self.number(cpu) != self.FEATURES:
            return super().handle(cpu, call, operations)
        cpu.set("r3", self.status)
        cpu.set("r4", self.features)
        return Outcome.DONE


class CurtX86(KvmX86):
    """Refuses with the status alone, as KVM does a call from user mode."""

    def handle(self, cpu: Cpu, call: Call, operations: Operations) -> Outcome:
        cpu.set("rax", self.EPERM & ((1 << cpu.bits) - 1))
        return Outcome.DONE


class OldX86(KvmX86):
    """Says 0 for its highest leaf."""

    def cpuid(self, leaf: int) -> tuple[int, int, int, int] | None:
        values = super().cpuid(leaf)
        return (0, *values[1:]) if leaf == self.leaf and values else values


class HiddenX86(KvmX86):
    """Keeps its leaves and clears the bit that says there is a hypervisor."""

    def cpuid(self, leaf: int) -> tuple[int, int, int, int] | None:
        return (0x306C4, 0x800, 0x7ED8_2203, 0x78B_FBFD) if leaf == 1 else super().cpuid(leaf)


class FeaturesX86(KvmX86):
    """Has these features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def cpuid(self, leaf: int) -> tuple[int, int, int, int] | None:
        return (self.features, 0, 0, 0) if leaf == self.leaf + 1 else super().cpuid(leaf)


class OldArm64(KvmArm64):
    """Answers this version; x4 to x17 are lost in every call, as in SMCCC 1.0."""

    def __init__(self, version: int) -> None:
        super().__init__()
        self.version = version

    def handle(self, cpu: Cpu, call: Call, operations: Operations) -> Outcome:
        version = self.number(cpu) == self.VERSION
        outcome = super().handle(cpu, call, operations)
        if version:
            cpu.set("x0", self.version & ((1 << 64) - 1))
        for number in range(4, 18):
            cpu.set(f"x{number}", 0xDEAD_0000)
        return outcome


def changed(convention: Convention, **attributes: object) -> Convention:
    """A convention with some of its words changed."""
    for name, value in attributes.items():
        setattr(convention, name, value)
    return convention


def only(arch: str) -> Callable[..., object]:
    return pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.arch == arch], ids=str)


@each_kind
def test_a_host_that_stops_early_is_asked_again(kind: Kind) -> None:
    guest = Guest(kind)
    guest.offer(stingy(native(guest)))
    guest.write(guest.device, 1, 0)
    guest.reasons()
    elements = [(guest.device + at, at + 1, 1) for at in range(8)]
    assert guest.write_list(elements) == 8
    assert guest.image(guest.device, 9) == bytes((1, 2, 3, 4, 5, 6, 7, 8, 0))
    assert guest.reasons() == [HYPERCALL] * 3
    elements[4] = (guest.device, 1, 3)
    assert guest.write_list(elements) == 4


@each_kind
def test_a_list_that_is_unknown_half_way_goes_on_by_stores(kind: Kind) -> None:
    guest = Guest(kind)
    convention = stingy(native(guest))
    guest.offer(convention)
    guest.write(guest.device, 1, 0)
    guest.reasons()

    class Withdrawing(Registers):
        def mmio_write(self, offset: int, size: int, value: int) -> None:
            super().mmio_write(offset, size, value)
            convention.offered = value != 3

    guest.pv.device(guest.device + DEVICE_BYTES, DEVICE_BYTES, Withdrawing(), order="little")
    elements = [(guest.device + at + (DEVICE_BYTES if at == 2 else 0), at + 1, 1) for at in range(6)]
    assert guest.write_list(elements) == 6
    assert guest.image(guest.device, 7) == bytes((1, 2, 0, 4, 5, 6, 0))
    assert (guest.found, guest.reasons()) == (STORES, [HYPERCALL, HYPERCALL, MMIO, MMIO, MMIO])


@pytest.mark.parametrize(
    ("leaf", "found"), [(0x4000_0000, CALLS), (0x4000_0100, CALLS), (0x4000_0200, STORES)]
)
@only("x86")
def test_x86_finds_kvm_also_behind_another_hypervisor(kind: Kind, leaf: int, found: int) -> None:
    guest = Guest(kind)
    guest.offer(KvmX86(leaf=leaf))
    assert guest.write(guest.device, 4, VALUE) == 0
    assert guest.found == found


ONES = (1 << 32) - 1
UID = KvmArm64.UID_WORDS
HOSTS: dict[str, tuple[str, Callable[[], Convention], int]] = {
    "x86 old": ("x86", OldX86, CALLS),
    "x86 without the hypervisor bit": ("x86", HiddenX86, STORES),
    "x86 every feature": ("x86", lambda: FeaturesX86(ONES), CALLS),
    "x86 every other feature": ("x86", lambda: FeaturesX86(ONES ^ 1 << 23), STORES),
    "x86 EBX": ("x86", lambda: changed(KvmX86(), SIGNATURE=b"XVMKVMKVM\0\0\0"), STORES),
    "x86 ECX": ("x86", lambda: changed(KvmX86(), SIGNATURE=b"KVMKXMKVM\0\0\0"), STORES),
    "x86 EDX": ("x86", lambda: changed(KvmX86(), SIGNATURE=b"KVMKVMKVM\0\0\1"), STORES),
    "arm64 w0": ("arm64", lambda: changed(KvmArm64(), UID_WORDS=(0, *UID[1:])), STORES),
    "arm64 w1": ("arm64", lambda: changed(KvmArm64(), UID_WORDS=(*UID[:1], 0, *UID[2:])), STORES),
    "arm64 w2": ("arm64", lambda: changed(KvmArm64(), UID_WORDS=(*UID[:2], 0, *UID[3:])), STORES),
    "arm64 w3": ("arm64", lambda: changed(KvmArm64(), UID_WORDS=(*UID[:3], 0)), STORES),
    "arm64 every feature": ("arm64", lambda: changed(KvmArm64(), FEATURE_WORDS=(ONES,) * 4), CALLS),
    "arm64 no list": ("arm64", lambda: changed(KvmArm64(), FEATURE_WORDS=(1, 0, 0, 3 << 16)), STORES),
    "arm64 no read": ("arm64", lambda: changed(KvmArm64(), FEATURE_WORDS=(1, 0, 0, 6 << 16)), STORES),
    "arm64 1.2": ("arm64", lambda: changed(KvmArm64(), VERSION_1_1=0x1_0002), CALLS),
    "ppc every feature": ("ppc", lambda: FeaturesPpc(ONES), CALLS),
    "ppc every other feature": ("ppc", lambda: FeaturesPpc(ONES ^ 1 << 2), STORES),
    "ppc no features": ("ppc", lambda: FeaturesPpc(ONES, status=12), STORES),
}
"""Whom the library calls, and to whom it does not."""


@pytest.mark.parametrize(
    ("host", "kind"),
    [(host, kind) for host in HOSTS for kind in KINDS if kind.arch == HOSTS[host][0]],
    ids=str,
)
def test_it_calls_only_whom_it_knows(host: str, kind: Kind) -> None:
    _, make, found = HOSTS[host]
    guest = Guest(kind)
    guest.offer(make())
    assert guest.write(guest.device, 4, VALUE) == 0
    assert guest.image(guest.device, 4) == image_of(VALUE, 4)
    assert guest.found == found
    assert guest.reasons()[-1] is (HYPERCALL if found == CALLS else MMIO)


@only("x86")
def test_x86_makes_no_value_of_a_refused_read(kind: Kind) -> None:
    guest = Guest(kind)
    guest.offer(CurtX86())
    assert guest.read(guest.device, 8) == (KvmX86.EPERM, 0)
    assert guest.write(guest.device, 8, VALUE) == KvmX86.EPERM
    assert guest.write_list([(guest.device, VALUE, 8)]) == 0
    assert (guest.found, guest.reasons()) == (CALLS, [HYPERCALL] * 3)


@pytest.mark.parametrize("conventions", [("hyperv", "kvm"), ("kvm", "hyperv")], ids="+".join)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.arch != "ppc"], ids=str)
def test_kvm_is_found_beside_hyper_v(kind: Kind, conventions: tuple[str, str]) -> None:
    guest = Guest(kind)
    guest.offer(*conventions)
    assert guest.write(guest.device, 4, VALUE) == 0
    assert guest.found == CALLS
    assert guest.image(guest.device, 4) == image_of(VALUE, 4)


@pytest.mark.parametrize("conduit", ["vmcall", "vmmcall"])
@pytest.mark.parametrize("stage2", ["ept", "npt"])
@only("x86")
def test_x86_calls_with_either_instruction(kind: Kind, stage2: str, conduit: str) -> None:
    if kind.variant.bits == 16 and (stage2, conduit) == ("ept", "vmmcall"):
        pytest.skip("in real mode KVM does not mend vmmcall")
    guest = Guest(kind, conduit=conduit, stage2=stage2)
    guest.offer()
    assert guest.write(guest.device, 4, VALUE) == 0
    assert guest.write_list([(guest.device + 8, VALUE, 8)]) == 1
    assert guest.read(guest.device + 8, 8) == (0, VALUE)
    assert guest.found == CALLS
    assert guest.image(guest.device, 4) == image_of(VALUE, 4)


@pytest.mark.parametrize("conduit", ["hvc", "smc"])
@only("arm64")
def test_arm64_calls_with_either_instruction(kind: Kind, conduit: str) -> None:
    guest = Guest(kind, conduit=conduit)
    guest.offer()
    assert guest.write(guest.device, 4, VALUE) == 0
    assert guest.found == CALLS
    assert set(guest.reasons()) == {HYPERCALL}


@pytest.mark.parametrize("version", [-1, 0x1_0000])
@only("arm64")
def test_arm64_keeps_its_arguments_where_smccc_is_too_old(kind: Kind, version: int) -> None:
    guest = Guest(kind)
    guest.offer(OldArm64(version))
    assert guest.write(guest.device, 8, VALUE) == 0
    assert guest.found == STORES
    assert guest.image(guest.device, 8) == image_of(VALUE, 8)
    guest.found = NOT_LOOKED
    assert guest.read(guest.device, 8) == (0, VALUE)


@only("ppc")
def test_ppc_expects_nothing_of_a_volatile_register(kind: Kind) -> None:
    guest = Guest(kind)
    guest.offer(MessyPpc(order=guest.pv.arch.data_order))
    assert guest.write(guest.device, 8, VALUE) == 0
    assert guest.read(guest.device, 8) == (0, VALUE)
    assert guest.write_list([(guest.device + 8, 1, 1), (guest.device + 9, 2, 1)]) == 2
    assert guest.found == CALLS
    for offered in (False, True):
        guest.found = CALLS
        guest.offer(MessyPpc(order=guest.pv.arch.data_order), offered=offered)
        assert guest.write(guest.device, 8, VALUE) == 0
        assert guest.read(guest.device, 8) == (0, VALUE)
        assert guest.write_list([(guest.device + 8, 1, 1), (guest.device + 9, 2, 1)]) == 2


@only("ppc")
def test_ppc_calls_as_the_device_tree_says(kind: Kind) -> None:
    for stage2, conduit in (("hv", "sc 1"), ("pr", "magic")):
        guest = Guest(kind, conduit=conduit, stage2=stage2)
        guest.offer()
        assert guest.write(guest.device, 4, VALUE) == 0
        assert guest.found == CALLS
        code = assemble(guest.machine.platform.dialect, guest.library)
        nop = bytes.fromhex("60000000")
        instructions = devicetree.hcall_instructions(stage2)
        assert len(instructions) == 16
        while instructions.endswith(nop):
            instructions = instructions.removesuffix(nop)
        assert code.count(instructions) == 4  # looking, write, read, list

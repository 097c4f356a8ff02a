"""How the stub library finds the interface, loses it, and gets along with stricter and older hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
    SIZES,
    STORES,
    VALUE,
    Guest,
    Kind,
    Registers,
    image_of,
)

LOOKING = {"x86": 0, "arm64": 3, "ppc": 1}
"""How many calls it takes to look for the interface; CPUID is not one."""


each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


@pytest.fixture(params=KINDS, ids=str)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    made = Guest(request.param)
    yield made
    made.machine.close()


def test_it_looks_once_and_remembers(guest: Guest) -> None:
    guest.offer()
    assert guest.found == NOT_LOOKED
    looking = LOOKING[guest.arch]
    for calls in (looking + 1, 1, 1):
        assert guest.write(guest.device, 4, VALUE) == 0
        assert guest.found == CALLS
        assert guest.reasons() == [HYPERCALL] * calls


@pytest.mark.parametrize("offered", [True, False], ids=["calls", "stores"])
@pytest.mark.parametrize("first", ["write", "read", "write_list"])
def test_every_function_looks_when_it_is_the_first(guest: Guest, offered: bool, first: str) -> None:
    guest.offer(offered=offered)
    guest.registers.data[0] = 7
    steps: dict[str, Callable[[], object]] = {
        "write": lambda: guest.write(guest.device, 1, 7),
        "read": lambda: guest.read(guest.device, 1)[1] - 7,
        "write_list": lambda: guest.write_list([(guest.device, 7, 1)]) - 1,
    }
    assert steps[first]() == 0
    assert guest.found == (CALLS if offered else STORES)
    assert guest.reasons()[-1] is (HYPERCALL if offered else MMIO)


def test_without_any_convention_it_stores(guest: Guest) -> None:
    guest.present(False)
    assert guest.write(guest.device, 8, VALUE) == 0
    assert guest.read(guest.device, 8) == (0, VALUE)
    assert guest.found == STORES
    assert set(guest.reasons()) == {MMIO}


def test_what_the_boot_code_did_not_see_is_not_called(guest: Guest) -> None:
    guest.offer()
    guest.present(False)
    guest.write(guest.device, 4, VALUE)
    assert guest.found == (CALLS if guest.arch == "x86" else STORES)
    assert guest.reasons() == [HYPERCALL if guest.arch == "x86" else MMIO]


def test_a_host_that_begins_to_offer_is_found_when_told_to_look_again(guest: Guest) -> None:
    guest.offer(offered=False)
    guest.write(guest.device, 4, VALUE)
    guest.offer()
    guest.reasons()
    guest.write(guest.device, 4, VALUE)
    assert (guest.found, guest.reasons()) == (STORES, [MMIO])
    guest.found = NOT_LOOKED
    guest.write(guest.device, 4, VALUE)
    assert (guest.found, guest.reasons()) == (CALLS, [HYPERCALL] * (LOOKING[guest.arch] + 1))


@pytest.mark.parametrize("size", SIZES)
def test_a_write_that_is_suddenly_unknown_is_stored(guest: Guest, size: int) -> None:
    guest.offer()
    guest.write(guest.device + 0x10, 1, 0)
    guest.offer(offered=False)
    guest.reasons()
    assert guest.write(guest.device + 8, size, VALUE) == 0
    assert guest.image(guest.device, 24) == bytes(8) + image_of(VALUE, size).ljust(16, b"\0")
    stores = [MMIO] * guest.stores(size)
    assert (guest.found, guest.reasons()) == (STORES, [HYPERCALL, *stores])
    assert guest.write(guest.device + 8, size, 0) == 0
    assert guest.reasons() == stores


@pytest.mark.parametrize("size", SIZES)
def test_a_read_that_is_suddenly_unknown_is_loaded(guest: Guest, size: int) -> None:
    guest.registers.data[8:24] = VALUE.to_bytes(8, "little") * 2
    guest.offer()
    guest.read(guest.device, 1)
    guest.offer(offered=False)
    guest.reasons()
    assert guest.read(guest.device + 8, size) == (0, VALUE & ((1 << 8 * size) - 1))
    assert (guest.found, guest.reasons()) == (STORES, [HYPERCALL, *[MMIO] * guest.stores(size)])


def test_a_list_that_is_suddenly_unknown_is_stored(guest: Guest) -> None:
    elements = [(guest.device + at, at + 1, 1) for at in range(5)]
    guest.offer()
    guest.write_list(elements[:1])
    guest.offer(offered=False)
    guest.reasons()
    assert guest.write_list(elements) == 5
    assert guest.image(guest.device, 6) == bytes((1, 2, 3, 4, 5, 0))
    assert (guest.found, guest.reasons()) == (STORES, [HYPERCALL, *[MMIO] * 5])


# Conventions that are stricter, older or slower than this package's.


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


class CurtX86(KvmX86):
    """Refuses with the status alone, as KVM does a call from user mode."""

    def handle(self, cpu: Cpu, call: Call, operations: Operations) -> Outcome:
        cpu.set("rax", self.EPERM & ((1 << cpu.bits) - 1))
        return Outcome.DONE


class OldArm64(KvmArm64):
    """SMCCC 1.0: no version to ask for, and x4 to x17 are lost in every call."""

    def handle(self, cpu: Cpu, call: Call, operations: Operations) -> Outcome:
        version = self.number(cpu) == self.VERSION
        outcome = super().handle(cpu, call, operations)
        if version:
            cpu.set("x0", (1 << 64) - 1)
        for number in range(4, 18):
            cpu.set(f"x{number}", 0xDEAD_0000)
        return outcome


class XenArm64(KvmArm64):
    """Another hypervisor's UID, of which one word is KVM's."""

    def __init__(self, word: int) -> None:
        super().__init__()
        words = list(KvmArm64.UID_WORDS)
        words[word] ^= 1
        self.UID_WORDS = (words[0], words[1], words[2], words[3])


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


@only("arm64")
def test_arm64_keeps_its_arguments_where_smccc_is_too_old(kind: Kind) -> None:
    guest = Guest(kind)
    guest.offer(OldArm64())
    assert guest.write(guest.device, 8, VALUE) == 0
    assert guest.found == STORES
    assert guest.image(guest.device, 8) == image_of(VALUE, 8)
    guest.found = NOT_LOOKED
    assert guest.read(guest.device, 8) == (0, VALUE)


@pytest.mark.parametrize("word", range(4))
@only("arm64")
def test_arm64_does_not_call_another_hypervisor(kind: Kind, word: int) -> None:
    guest = Guest(kind)
    guest.offer(XenArm64(word))
    assert guest.write(guest.device, 4, VALUE) == 0
    assert guest.found == STORES


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


def test_the_device_tree_word_by_word() -> None:
    assert devicetree.hcall_instructions("hv").hex(" ", 4) == "44000022 60000000 60000000 60000000"
    assert devicetree.hcall_instructions("pr").hex(" ", 4) == "3c004b56 60004d21 44000002 60000000"
    with pytest.raises(ValueError, match="stage2='ept': ppc takes 'hv', 'pr'"):
        devicetree.hcall_instructions("ept")
    assert devicetree.hypervisor_node("hv") == {
        "compatible": b"linux,kvm\0",
        "hcall-instructions": devicetree.hcall_instructions("hv"),
        "has-idle": b"",
    }
    assert devicetree.rtas_node() == {
        "ibm,hypertas-functions": b"hcall-debug\0",
        "qemu,hypertas-functions": b"hcall-memop1\0hcall-ci-list\0",
    }
    assert devicetree.rtas_node(offered=False)["qemu,hypertas-functions"] == b"hcall-memop1\0"

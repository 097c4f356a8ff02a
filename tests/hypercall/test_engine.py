"""The conventions on real guests: instruction, registers, pc, routes, privilege, discovery, withdrawal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from unicorn import UcError
from unicorn.arm64_const import UC_ARM64_REG_PSTATE
from unicorn.ppc_const import UC_PPC_REG_MSR
from unicorn.unicorn_const import UC_HOOK_INTR
from unicorn.x86_const import UC_X86_REG_CS

from pvmmio_uc import EventFd, GuestException, Reason, Route
from pvmmio_uc.compare import cells, measure
from pvmmio_uc.compare.routes import Cell
from pvmmio_uc.machine import Machine

CALLS = [cell for cell in cells() if cell.route.call is not None]
RINGS = 200

# machine, set the four arguments, call, status register, result register
WRITES = {
    "x86-64": (
        "mov eax, {nr}\nmov rbx, {gpa:#x}\nmov ecx, {size}\nmov rdx, {value:#x}\nvmcall",
        "rax",
        "rdx",
    ),
    "x86-32": (
        "mov eax, {nr}\nmov ebx, {gpa:#x}\nmov ecx, {size}\nmov edx, {low:#x}\nmov esi, {high:#x}\nvmcall",
        "eax",
        "edx",
    ),
    "arm64": (
        "movz w0, #{nr}\nmovk w0, #0xc600, lsl #16\nmovz x1, #{gpa_l:#x}\nmovk x1, #{gpa_h:#x}, lsl #16\n"
        "mov x2, #{size}\nmovz x3, #{v0:#x}\nmovk x3, #{v1:#x}, lsl #16\nmovk x3, #{v2:#x}, lsl #32\n"
        "movk x3, #{v3:#x}, lsl #48\nhvc #0",
        "x0",
        "x1",
    ),
    "ppc": (
        "lis 11, 0x2a\nori 11, 11, {nr}\nli 3, 0\nlis 4, {gpa_h:#x}\nori 4, 4, {gpa_l:#x}\nli 5, {size}\n"
        "lis 6, {v3:#x}\nori 6, 6, {v2:#x}\nlis 7, {v1:#x}\nori 7, 7, {v0:#x}\nsc 1",
        "r3",
        "r5",
    ),
}
NUMBERS = {"x86-64": (26, 27), "x86-32": (26, 27), "arm64": (0x70, 0x71), "ppc": (0x1A, 0x1B)}
VALUE = 0x1122_3344_5566_7788


class Store:
    """A little-endian device of one register."""

    def __init__(self) -> None:
        self.value, self.size = VALUE, 0

    def mmio_read(self, offset: int, size: int) -> int:
        return self.value

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        self.value, self.size = value, size


@pytest.fixture(params=WRITES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def machine(kind: str) -> Iterator[Machine]:
    arch, _, bits = kind.partition("-")
    with Machine(arch, bits=int(bits) if bits else None) as guest:
        guest.pv.hypercalls("kvm")
        yield guest


def call(kind: str, machine: Machine, nr: int, gpa: int, size: int, value: int = 0) -> tuple[int, int]:
    text, status, result = WRITES[kind]
    words = {f"v{index}": value >> (16 * index) & 0xFFFF for index in range(4)}
    halves = {"gpa_h": gpa >> 16, "gpa_l": gpa & 0xFFFF, "low": value & 0xFFFFFFFF, "high": value >> 32}
    machine.run(text.format(nr=nr, gpa=gpa, size=size, value=value, **words, **halves))
    return machine[status], machine[result]


@pytest.mark.parametrize("cell", CALLS, ids=lambda cell: f"{cell.arch}-{cell.route.name}-{cell.stage2}")
def test_every_ring_arrives_by_every_convention(cell: Cell) -> None:
    row = measure(cell, RINGS)

    assert row.signals == RINGS
    assert row.exits == (2 if cell.route.call and cell.route.call.batch else RINGS)
    assert row.steps.walk == row.steps.fetch == row.steps.decode == row.steps.userspace == 0


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_write_and_read_a_device(kind: str, machine: Machine, size: int) -> None:
    read, write = NUMBERS[kind]
    device, place = Store(), machine.platform.mmio + 0x40
    machine.pv.device(place, 8, device, order="little")

    assert call(kind, machine, write, place, size, VALUE)[0] == 0
    assert (device.value, device.size) == (VALUE & ((1 << 8 * size) - 1), size)

    device.value = VALUE
    status, low = call(kind, machine, read, place, size)
    assert (status, low & 0xFFFF_FFFF) == (0, VALUE & ((1 << 8 * min(size, 4)) - 1))
    assert [exit.route for exit in machine.pv.exits] == [Route.DEVICE, Route.DEVICE]


def test_a_refused_call_says_why_and_reaches_nothing(kind: str, machine: Machine) -> None:
    device, place = Store(), machine.platform.mmio
    machine.pv.device(place, 8, device)

    status, _ = call(kind, machine, NUMBERS[kind][1], place + 1, 4, 1)

    assert status != 0
    assert device.size == 0
    assert machine.pv.exits[-1].route is Route.ERROR
    assert "not a multiple of the size" in machine.pv.exits[-1].note


def test_withdrawn_calls_are_unknown_numbers(kind: str, machine: Machine) -> None:
    bell, place = EventFd(blocking=False), machine.platform.mmio
    machine.pv.ioeventfd(bell, place)
    machine.pv.hypercalls("kvm", offered=False)

    assert call(kind, machine, NUMBERS[kind][1], place, 4, 1)[0] != 0
    assert bell.count == 0
    assert machine.pv.exits[-1].route is Route.HYPERVISOR

    machine.pv.hypercalls("kvm")
    assert call(kind, machine, NUMBERS[kind][1], place, 4, 1)[0] == 0
    assert bell.count == 1


def to_user_mode(kind: str, machine: Machine) -> None:
    if machine.arch == "x86":
        machine.uc.reg_write(UC_X86_REG_CS, 3)
    elif machine.arch == "arm64":
        machine.uc.reg_write(UC_ARM64_REG_PSTATE, 0)
        machine.uc.cpr_write(3, 0, 1, 0, 0, machine.uc.cpr_read(3, 0, 1, 0, 0))
    else:
        machine.uc.reg_write(UC_PPC_REG_MSR, machine["msr"] | 1 << 14)


def test_user_mode_never_reaches_the_bus(kind: str, machine: Machine) -> None:
    bell, place = EventFd(blocking=False), machine.platform.mmio
    machine.pv.ioeventfd(bell, place)
    to_user_mode(kind, machine)

    if machine.arch == "x86":
        status, _ = call(kind, machine, NUMBERS[kind][1], place, 4, 1)
        assert status == (1 << (64 if kind == "x86-64" else 32)) - 1  # -KVM_EPERM
    else:
        with pytest.raises(GuestException) as caught:
            call(kind, machine, NUMBERS[kind][1], place, 4, 1)
        assert caught.value.kind == ("undefined" if machine.arch == "arm64" else "protection")
    assert bell.count == 0


def test_an_exception_in_a_device_reaches_the_caller_as_itself(kind: str, machine: Machine) -> None:
    def broken(exit_: object) -> None:
        raise KeyError("broken")

    machine.pv.on_userspace(broken)
    with pytest.raises(KeyError, match="broken"):
        call(kind, machine, NUMBERS[kind][1], machine.platform.mmio, 4, 1)
    machine.pv.on_userspace(lambda exit_: 0)
    assert call(kind, machine, NUMBERS[kind][1], machine.platform.mmio, 4, 1)[0] == 0


@pytest.mark.parametrize(("arch", "text"), [("arm64", "svc #0"), ("arm64", ".long 0"), ("ppc", "trap")])
def test_other_interrupts_end_the_run_as_without_us(arch: str, text: str) -> None:
    with Machine(arch) as machine:
        machine.pv.hypercalls("kvm")
        with pytest.raises(UcError):
            machine.run(text)


@pytest.mark.parametrize(("arch", "text", "number"), [("arm64", "svc #7", 2), ("ppc", "sc", 8)])
def test_other_interrupts_are_the_users_where_they_have_a_hook(arch: str, text: str, number: int) -> None:
    seen: list[int] = []
    with Machine(arch) as machine:
        machine.pv.hypercalls("kvm")
        machine.uc.hook_add(UC_HOOK_INTR, lambda uc, intno, data: seen.append(intno))
        machine.run(text)
    assert seen == [number]


class TestHyperV:
    ENABLE = (
        "mov ecx, 0x40000000\nmov eax, 1\nxor edx, edx\nwrmsr\n"
        "mov ecx, 0x40000001\nmov eax, 0x20001\nxor edx, edx\nwrmsr\nrdmsr\nmov esi, eax\n"
    )

    @pytest.mark.parametrize("paging", [False, True])
    def test_the_page_is_written_and_called(self, paging: bool) -> None:
        bell = EventFd(blocking=False)
        with Machine("x86", paging=paging) as machine:
            machine.pv.hypercalls("kvm", "hyperv")
            machine.pv.hyperv_eventfd(bell, 5)
            machine.run(self.ENABLE + "mov ecx, 0x1005d\nmov edx, 5\nmov eax, 0x20000\ncall rax")

            assert (machine["rax"], machine["rsi"]) == (0, 0x20001)
            assert bell.count == 1
            assert machine.uc.mem_read(0x20000, 4) == b"\x0f\x01\xc1\xc3"

    def test_until_the_id_is_written_the_native_convention_answers(self) -> None:
        with Machine("x86") as machine:
            machine.pv.hypercalls("kvm", "hyperv")
            machine.run("mov eax, 99\nvmcall\nmov rdi, rax\n" + self.ENABLE + "mov ecx, 99\nvmcall")

            assert machine["rdi"] == (1 << 64) - 1000  # -KVM_ENOSYS
            assert machine["rax"] == 2  # HV_STATUS_INVALID_HYPERCALL_CODE

    def test_a_page_that_was_executed_before_is_translated_anew(self) -> None:
        with Machine("x86") as machine:
            machine.uc.mem_write(0x20000, b"\xb8\x07\x00\x00\x00\xc3")  # mov eax, 7; ret
            machine.pv.hypercalls("kvm", "hyperv")
            machine.run(
                "mov eax, 0x20000\ncall rax\nmov edi, eax\n"
                + self.ENABLE
                + "mov ecx, 99\nmov eax, 0x20000\ncall rax"
            )

            assert (machine["rdi"], machine["rax"]) == (7, 2)

    def test_a_write_that_the_guest_gets_a_fault_for(self) -> None:
        with Machine("x86") as machine:
            machine.pv.hypercalls("hyperv")
            with pytest.raises(GuestException, match="0x40000002"):
                machine.run("mov ecx, 0x40000002\nxor eax, eax\nxor edx, edx\nwrmsr")

    def test_cpuid_of_both_side_by_side(self) -> None:
        with Machine("x86") as machine:
            machine.pv.hypercalls("kvm", "hyperv")
            machine.run("mov eax, 0x40000000\ncpuid\nmov esi, ebx\nmov eax, 0x40000100\ncpuid\nmov edi, ebx")

            assert machine["rsi"].to_bytes(4, "little") == b"Micr"
            assert machine["rdi"].to_bytes(4, "little") == b"KVMK"


def test_the_other_vendors_instruction_is_patched_once() -> None:
    with Machine("x86", stage2="npt") as machine:
        machine.pv.hypercalls("kvm")
        machine.run("mov ecx, 3\nagain:\nmov eax, 99\nvmcall\ndec ecx\njnz again")

        notes = [exit.note for exit in machine.pv.exits]
        assert notes == ["kvm vmcall 0x63: retry", *["kvm vmmcall 0x63"] * 3]
        assert all(exit.reason is Reason.HYPERCALL for exit in machine.pv.exits)


def test_conventions_that_exclude_each_other() -> None:
    with Machine("ppc") as machine, pytest.raises(ValueError, match="sc 1"):
        machine.pv.hypercalls("kvm", "papr")
    with Machine("arm64") as machine, pytest.raises(ValueError, match="no convention 'tdx'"):
        machine.pv.hypercalls("tdx")
    with Machine("x86") as machine, pytest.raises(ValueError, match="twice"):
        machine.pv.hypercalls("kvm", "kvm")


def test_without_conventions_the_engine_is_as_it_was() -> None:
    with Machine("x86") as machine:
        machine.pv.hypercalls("kvm")
        machine.pv.hypercalls()
        with pytest.raises(UcError):
            machine.run("vmcall")

"""A Windows-style guest: it knows no hypercalls but Hyper-V's, and rings one eventfd by them and by a store.

By writing its id it switches the host over from KVM's convention to Hyper-V's. The host then writes the
hypercall page into the guest's RAM; the guest calls it, with HvCallMemoryMappedIoWrite and HvCallSignalEvent.
"""

from __future__ import annotations

from pvmmio_uc import EventFd, Route
from pvmmio_uc.machine import Machine

DOORBELL, PAGE, BLOCK, CONNECTION = 0xD000_0050, 0x2_0000, 0x3000, 5

GUEST = f"""
    mov eax, 99                     # any number: still KVM's convention, which does not know it
    vmcall
    mov rdi, rax
    mov ecx, 0x40000000             # HV_X64_MSR_GUEST_OS_ID
    mov eax, 1
    xor edx, edx
    wrmsr
    mov ecx, 0x40000001             # HV_X64_MSR_HYPERCALL: the page, and enable
    mov eax, {PAGE | 1:#x}
    wrmsr
    mov eax, {DOORBELL:#x}
    mov dword ptr [rax], 1          # a plain store
    mov ecx, 0x107                  # HvCallMemoryMappedIoWrite: a block in memory
    mov edx, {BLOCK:#x}
    xor r8d, r8d
    mov eax, {PAGE:#x}
    call rax
    mov ecx, 0x1005d                # HvCallSignalEvent, fast: a connection id
    mov edx, {CONNECTION}
    mov eax, {PAGE:#x}
    call rax
"""


def main() -> None:
    kick = EventFd()
    with Machine("x86") as machine:
        pv = machine.pv
        pv.ioeventfd(kick, DOORBELL)
        pv.hyperv_eventfd(kick, CONNECTION)
        pv.hypercalls("kvm", "hyperv")
        block = DOORBELL.to_bytes(8, "little") + (4).to_bytes(8, "little") + (1).to_bytes(64, "little")
        machine.uc.mem_write(BLOCK, block)
        machine.run(GUEST)
        for exit in pv.exits:
            print(f"{exit.note or exit.reason} -> {exit.route}")
        routes = [exit.route for exit in pv.exits]
    print(f"kick counts {kick.count}: a store, a write call and a signal call")
    if kick.count != 3 or routes != [Route.HYPERVISOR, Route.IOEVENTFD, Route.FAST, Route.IOEVENTFD]:
        raise SystemExit("expected 3 rings: from the ordinary bus, the fast bus, and the connection")


if __name__ == "__main__":
    main()

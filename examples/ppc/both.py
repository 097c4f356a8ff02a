"""One doorbell, rung by a store and by a hypercall from the same program; then the host takes the calls away.

guest_write of the stub library looks for the PV MMIO calls when it is first called. Where the host does not
offer them, or answers one as a number it has never heard of (the guest has moved to another host), it stores.
"""

from __future__ import annotations

from pvmmio_uc import EventFd, Reason
from pvmmio_uc.arch.ppc.machine import DEFAULT
from pvmmio_uc.arch.ppc.stubs import STORES, guest_library
from pvmmio_uc.machine import Machine

STATE, DOORBELL = 0x8000, 0xE000_0050
HOSTS = {"a host with the calls": True, "a host without them": False, "the same host, again": False}

GUEST = f"""
    b    start
{guest_library(DEFAULT, state=STATE)}
start:
    li   8, 1
    stwbrx 8, 0, 31             # a plain store
    li   3, 0                   # guest_write(DOORBELL, 4, 1)
    mr   4, 31
    li   5, 4
    li   7, 0
    bl   guest_write
"""


def main() -> None:
    kick, calls = EventFd(), 0
    with Machine("ppc") as machine:
        pv = machine.pv
        pv.ioeventfd(kick, DOORBELL)
        machine.uc.mem_write(STATE + 4, (1).to_bytes(4, "big"))  # the device tree: there is a /hypervisor
        for host, offered in HOSTS.items():
            pv.hypercalls("kvm", offered=offered)
            machine.run(GUEST, {"r31": DOORBELL})
            print(f"{host}:")
            for exit in pv.exits:
                steps = ", ".join(f"{step} {count}" for step, count in exit.steps.as_dict().items() if count)
                route = exit.route if exit.accesses else "nothing"
                print(f"  {exit.note or exit.reason} -> {route}: {steps}")
                calls += exit.reason is Reason.HYPERCALL and len(exit.accesses)
            pv.exits.clear()
        found = int.from_bytes(machine.uc.mem_read(STATE, 4), "big")
    print(f"kick counts {kick.count}, {calls} of them by hypercall; the guest has found {found} (2: stores)")
    if (kick.count, calls, found) != (6, 1, STORES):
        raise SystemExit(f"expected 6 rings, 1 by hypercall, and a guest that has found {STORES}")


if __name__ == "__main__":
    main()

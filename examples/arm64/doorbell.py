"""Two doorbells on your own Unicorn engine: what a guest's store costs, and where it ends.

KICK takes a store of any width, NOTIFY only 4 bytes that hold 1; what does not match goes to user space
(KVM_EXIT_MMIO). On arm64 KVM never asks the fast bus (PvMmio(profile="everywhere") does), but an abort
comes with a syndrome that describes the store: nothing is fetched or decoded, not even the first time.
"""

from __future__ import annotations

from unicorn import UC_ARCH_ARM64, UC_MODE_ARM, Uc
from unicorn.arm64_const import UC_ARM64_REG_X1

from pvmmio_uc import EventFd, PvMmio, UserspaceExit
from pvmmio_uc.assembler import assemble

RAM, KICK, NOTIFY = 0x4000_0000, 0x0A00_0050, 0x0A00_0250
ROUTES = ["ioeventfd", "ioeventfd", "ioeventfd", "ioeventfd", "userspace"]

GUEST = """
    mov  w0, #1
    strb w0, [x1]           // KICK: 1 byte,
    strh w0, [x1]           // 2 bytes,
    str  w0, [x1]           // 4 bytes
    str  w0, [x1, #0x200]   // NOTIFY with 1: matches
    mov  w0, #2
    str  w0, [x1, #0x200]   // NOTIFY with 2: does not
"""


def main() -> None:
    uc = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
    uc.mem_map(RAM, 0x1000)  # whatever is not mapped is a device's
    code = assemble("arm64", GUEST, RAM)
    uc.mem_write(RAM, code)
    uc.reg_write(UC_ARM64_REG_X1, KICK)

    kick, notify = EventFd(), EventFd()
    unclaimed: list[UserspaceExit] = []
    with PvMmio(uc, stage2="stage2") as pv:
        pv.ioeventfd(kick, KICK)
        pv.ioeventfd(notify, NOTIFY, length=4, datamatch=1)
        pv.on_userspace(unclaimed.append)
        uc.emu_start(RAM, RAM + len(code))

    print(f"{pv.exits.total} stores left the guest; where each ended, and the steps of the host on the way:")
    for number, exit in enumerate(pv.exits, 1):
        steps = ", ".join(f"{step} {count}" for step, count in exit.steps.as_dict().items() if count)
        print(f"store {number} to {exit.address:#x} -> {exit.route}: {steps}")
    values = [exit.value for exit in unclaimed]
    print(f"kick counts {kick.count}, notify {notify.count}; user space was shown the values {values}")
    if (kick.count, notify.count, values) != (3, 1, [2]) or [exit.route for exit in pv.exits] != ROUTES:
        raise SystemExit(f"expected kick 3, notify 1, the values [2] and the routes {ROUTES}")


if __name__ == "__main__":
    main()

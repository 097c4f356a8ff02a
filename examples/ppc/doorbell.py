"""Two doorbells on your own Unicorn engine: what a guest's store costs, and where it ends.

KICK takes a store of any width, NOTIFY only 4 bytes that hold 1; what does not match goes to user space
(KVM_EXIT_MMIO). On a PowerPC hypervisor (Book3S HV) every store asks the fast bus, which finds KICK by
its address alone, the first time too. What it does not know is fetched and decoded.
"""

from __future__ import annotations

from unicorn import UC_ARCH_PPC, UC_MODE_BIG_ENDIAN, UC_MODE_PPC32, Uc
from unicorn.ppc_const import UC_PPC_REG_4

from pvmmio_uc import EventFd, PvMmio, UserspaceExit
from pvmmio_uc.assembler import assemble

RAM, KICK, NOTIFY = 0x10_0000, 0xE000_0050, 0xE000_0250
ROUTES = ["fast", "fast", "fast", "ioeventfd", "userspace"]

GUEST = """
    li   3, 1
    stb  3, 0(4)        # KICK: 1 byte,
    sth  3, 0(4)        # 2 bytes,
    stw  3, 0(4)        # 4 bytes
    stw  3, 0x200(4)    # NOTIFY with 1: matches
    li   3, 2
    stw  3, 0x200(4)    # NOTIFY with 2: does not
"""


def main() -> None:
    uc = Uc(UC_ARCH_PPC, UC_MODE_PPC32 | UC_MODE_BIG_ENDIAN)
    uc.mem_map(RAM, 0x1000)  # whatever is not mapped is a device's
    code = assemble("ppc", GUEST, RAM)
    uc.mem_write(RAM, code)
    uc.reg_write(UC_PPC_REG_4, KICK)

    kick, notify = EventFd(), EventFd()
    unclaimed: list[UserspaceExit] = []
    with PvMmio(uc, stage2="hv") as pv:
        pv.ioeventfd(kick, KICK)
        pv.ioeventfd(notify, NOTIFY, length=4, datamatch=0x0100_0000)  # a big-endian 1
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

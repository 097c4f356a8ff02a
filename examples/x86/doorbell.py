"""Two doorbells on your own Unicorn engine: what a guest's store costs, and where it ends.

KICK takes a store of any width, NOTIFY only 4 bytes that hold 1; what does not match goes to user space
(KVM_EXIT_MMIO). On EPT the first access to a page is slow (fetch, decode), because only then does KVM
mark the page as MMIO; later ones are fast: the fast bus finds KICK by its address alone.
"""

from __future__ import annotations

from unicorn import UC_ARCH_X86, UC_MODE_64, Uc
from unicorn.x86_const import UC_X86_REG_RBX

from pvmmio_uc import EventFd, PvMmio, UserspaceExit
from pvmmio_uc.assembler import assemble

RAM, KICK, NOTIFY = 0x10_0000, 0xD000_0050, 0xD000_0250
ROUTES = ["ioeventfd", "fast", "fast", "ioeventfd", "userspace"]

GUEST = """
    mov  eax, 1
    mov  byte ptr [rbx], al             # KICK: 1 byte,
    mov  word ptr [rbx], ax             # 2 bytes,
    mov  dword ptr [rbx], eax           # 4 bytes
    mov  dword ptr [rbx + 0x200], eax   # NOTIFY with 1: matches
    mov  eax, 2
    mov  dword ptr [rbx + 0x200], eax   # NOTIFY with 2: does not
"""


def main() -> None:
    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    uc.mem_map(RAM, 0x1000)  # whatever is not mapped is a device's
    code = assemble("x86-64", GUEST, RAM)
    uc.mem_write(RAM, code)
    uc.reg_write(UC_X86_REG_RBX, KICK)

    kick, notify = EventFd(), EventFd()
    unclaimed: list[UserspaceExit] = []
    with PvMmio(uc, stage2="ept") as pv:
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

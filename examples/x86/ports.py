"""Port I/O, which only x86 has: a device, an eventfd and user space behind ports.

The calls are those for MMIO, with pio=True. For in and out the exit tells port, width and value, and
nothing is fetched or decoded; a string instruction is decoded once and its elements are taken one by one.
"""

from __future__ import annotations

from pvmmio_uc import AccessRefused, EventFd, UserspaceExit
from pvmmio_uc.machine import Machine

CONSOLE, NOTIFY, TEXT = 0xE9, 0x510, b"hello"
GUEST = """
    rep   outsb         # CONSOLE: ecx bytes from rsi
    in    al, dx        # CONSOLE
    movzx ebx, al
    mov   dx, 0x510
    mov   ax, 1
    out   dx, ax        # NOTIFY with 1: matches
    mov   ax, 2
    out   dx, ax        # NOTIFY with 2: does not
    in    eax, dx       # nobody's
"""


class Console:
    """A debug console of one port: characters go in, 0xe9 comes out."""

    def __init__(self) -> None:
        self.text = b""

    def mmio_read(self, offset: int, size: int) -> int:
        return CONSOLE

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        if size != 1:
            raise AccessRefused(f"a write of {size} bytes: the console takes one character at a time")
        self.text += bytes([value])


def main() -> None:
    console = Console()
    unclaimed: list[UserspaceExit] = []
    with Machine("x86") as machine, EventFd() as notify:
        machine.pv.device(CONSOLE, 1, console, pio=True)
        machine.pv.ioeventfd(notify, NOTIFY, length=2, datamatch=1, pio=True)
        machine.pv.on_userspace(unclaimed.append)
        machine.uc.mem_write(0x2000, TEXT)
        machine.run(GUEST, {"rsi": 0x2000, "ecx": len(TEXT), "edx": CONSOLE})
        for exit in machine.pv.exits:
            print(f"{exit}: fetch {exit.steps.fetch}, decode {exit.steps.decode}")
        got = console.text, machine["ebx"], notify.count, len(unclaimed), machine["eax"]
    print("the console took {}, gave {:#x}; notify counts {}; {} went to user space ({:#x})".format(*got))
    if got != (TEXT, CONSOLE, 1, 2, 0xFFFF_FFFF):
        raise SystemExit(f"expected {TEXT!r}, 0xe9, 1, 2 and 0xffffffff")


if __name__ == "__main__":
    main()

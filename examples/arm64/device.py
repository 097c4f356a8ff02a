"""A device with three registers behind a guest's loads and stores, and an address that nobody claims.

Any object with mmio_read and mmio_write is a device. It raises AccessRefused for an access that does not
fit: the write is dropped, the read gives ones, the guest goes on. What no device claims goes to user space.
"""

from __future__ import annotations

from pvmmio_uc import AccessRefused, Route
from pvmmio_uc.machine import Machine

DEVICE = 0x0A00_0000
ID, DATA, STATUS = 0, 4, 8

GUEST = """
    ldr  w0, [x1]            // ID
    str  w8, [x1, #4]        // DATA: add 30
    str  w9, [x1, #4]        // DATA: add 12
    strb w9, [x1, #4]        // 1 byte: refused
    ldr  w2, [x1, #4]        // DATA
    ldr  w3, [x1, #8]        // STATUS
    ldrb w4, [x1, #8]        // 1 byte: refused
    ldr  w5, [x1, #0x3000]   // nobody's
"""


class Adder:
    """Registers of 4 bytes: ID (fixed), DATA (a write adds, a read gives the sum), STATUS (how many)."""

    def __init__(self) -> None:
        self.registers = {ID: 0xADD, DATA: 0, STATUS: 0}

    def mmio_read(self, offset: int, size: int) -> int:
        if size != 4 or offset not in self.registers:
            raise AccessRefused(f"a read of {size} bytes at {offset:#x}: registers are 4 bytes at 0, 4, 8")
        return self.registers[offset]

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        if size != 4 or offset != DATA:
            raise AccessRefused(f"a write of {size} bytes at {offset:#x}: only DATA, 4 bytes at 4, takes one")
        self.registers[DATA] += value
        self.registers[STATUS] += 1


def main() -> None:
    with Machine("arm64") as machine:
        machine.pv.device(DEVICE, 0x100, Adder(), name="adder")
        machine.pv.on_userspace(lambda exit: 0x5EED)
        machine.run(GUEST, {"x1": DEVICE, "x8": 30, "x9": 12})
        got = [machine[name] for name in ("w0", "w2", "w3", "w4", "w5")]
        for exit in machine.pv.exits:
            print(exit)
    print("the guest read ID {:#x}, DATA {}, STATUS {}; refused {:#x}; from user space {:#x}".format(*got))
    if got != [0xADD, 42, 2, 0xFF, 0x5EED] or machine.pv.exits.by_route[Route.ERROR] != 2:
        raise SystemExit("expected 0xadd, 42, 2, 0xff, 0x5eed, and 2 accesses that the device refused")


if __name__ == "__main__":
    main()

"""The in-kernel devices of KVM_CREATE_IRQCHIP and KVM_CREATE_PIT2, as far as a bus sees them.

They stand on the bus in front of doorbells or behind them and take accesses away; their registers
hold what was written, no interrupt comes of it. Source: arch/x86/kvm/{i8259,ioapic,i8254,lapic}.c.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack

from .bus import Bus
from .errors import RegistrationError
from .exits import Route

__all__ = ["LAPIC_BASE", "IoApic", "LocalApic", "Pic", "Pit", "RegisterBlock", "create_irqchip", "create_pit"]

LAPIC_BASE = 0xFEE00000
IOAPIC_BASE = 0xFEC00000


class RegisterBlock:
    """Bytes that read as they were written; the devices below refine it."""

    route = Route.DEVICE

    def __init__(self, addr: int, size: int) -> None:
        self.addr, self.size = addr, size
        self.bytes = bytearray(size)

    def write(self, addr: int, data: bytes) -> bool:
        """Take a write that lies inside."""
        offset = addr - self.addr
        if offset < 0 or offset + len(data) > self.size:
            return False
        self.bytes[offset : offset + len(data)] = data
        return True

    def read(self, addr: int, size: int) -> bytes | None:
        """The bytes at ``addr`` if they lie inside."""
        offset = addr - self.addr
        if offset < 0 or offset + size > self.size:
            return None
        return bytes(self.bytes[offset : offset + size])

    def register(self, bus: Bus) -> None:
        """Put the block on ``bus``."""
        bus.register(self.addr, self.size, self)


class LocalApic(RegisterBlock):
    """The local APIC page. It is asked before the bus: what is registered inside never fires.

    It takes only aligned 4-byte writes and swallows the others. A read inside a register's four bytes
    gives them; any other read gives zeroes.
    """

    def __init__(self) -> None:
        super().__init__(LAPIC_BASE, 0x1000)

    def write(self, addr: int, data: bytes) -> bool:
        """Swallow every write to the page."""
        if not self.addr <= addr < self.addr + self.size:
            return False
        if len(data) == 4 and addr & 0xF == 0:
            super().write(addr, data)
        return True

    def read(self, addr: int, size: int) -> bytes | None:
        """A register, or zeroes for what is not one."""
        if not self.addr <= addr < self.addr + self.size:
            return None
        if addr % 16 + size > 4:
            return bytes(size)
        return super().read(addr, size)


class IoApic(RegisterBlock):
    """The I/O APIC's window: IOREGSEL at 0, IOWIN at 0x10, 24 redirection entries behind them."""

    _VERSION = 0x00170011

    def __init__(self) -> None:
        super().__init__(IOAPIC_BASE, 0x100)
        self._selected = 0
        self._registers = {1: self._VERSION}

    def write(self, addr: int, data: bytes) -> bool:
        """Take any access to the window; all but the two registers ignore it."""
        register = addr - self.addr
        value = int.from_bytes(data[:4], "little")
        if register == 0:
            self._selected = value & 0xFF
        elif register == 0x10 and self._selected != 1:
            self._registers[self._selected] = value
        return True

    def read(self, addr: int, size: int) -> bytes | None:
        """The selected register through IOWIN."""
        register = addr - self.addr
        value = self._selected if register == 0 else 0
        if register == 0x10:
            value = self._registers.get(self._selected, 0)
        return value.to_bytes(8, "little")[:size].ljust(size, b"\0")


class Pic(RegisterBlock):
    """One 8259A: the mask register is what a guest can read back. Accesses wider than a byte are dropped."""

    def __init__(self, port: int) -> None:
        super().__init__(port, 2)
        self._initialising = 0

    def write(self, addr: int, data: bytes) -> bool:
        """ICW1 to the even port starts the four-word initialisation, in which the odd port takes no mask."""
        if len(data) != 1:
            return True
        if addr == self.addr:
            if data[0] & 0x10:
                self._initialising = 3 if data[0] & 1 else 2
                self.bytes[1] = 0
        elif self._initialising:
            self._initialising -= 1
        else:
            self.bytes[1] = data[0]
        return True

    def read(self, addr: int, size: int) -> bytes | None:
        """No request is ever pending; the odd port gives the mask."""
        return bytes((self.bytes[addr - self.addr],)) if size == 1 else bytes(size)


class Pit(RegisterBlock):
    """The i8254's four ports: what was last written to a counter is read back."""

    def __init__(self) -> None:
        super().__init__(0x40, 4)


def create_irqchip(mmio: Bus, pio: Bus) -> LocalApic:
    """KVM_CREATE_IRQCHIP: two PICs and the ELCR on the port bus, the I/O APIC on the memory bus.

    Returns the local APIC, which is on no bus. Raises RegistrationError(ENOSPC) on a full bus, and then
    leaves nothing behind.
    """
    blocks: list[tuple[Bus, RegisterBlock]] = [
        (pio, Pic(0x20)),
        (pio, Pic(0xA0)),
        (pio, RegisterBlock(0x4D0, 2)),
        (mmio, IoApic()),
    ]
    with ExitStack() as undo:
        for bus, block in blocks:
            block.register(bus)
            undo.callback(bus.unregister, block.addr, block.size, block)
        undo.pop_all()
    return LocalApic()


def create_pit(pio: Bus, irqchip: LocalApic | None) -> Pit:
    """KVM_CREATE_PIT2: needs the interrupt controllers first, else RegistrationError(ENOENT)."""
    if irqchip is None:
        raise RegistrationError(
            errno.ENOENT, "a PIT needs the in-kernel interrupt controllers: create_irqchip() first"
        )
    pit = Pit()
    pit.register(pio)
    return pit

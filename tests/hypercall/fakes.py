"""A guest without an engine: registers in a dictionary, sparse memory, a VM with devices that record.

`Board` is one machine for every convention: what stands where is in the constants below, so that tests
and their models speak of the same addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pvmmio_uc.device import ByteOrder, DeviceRegion
from pvmmio_uc.exits import Access, Route, Steps
from pvmmio_uc.hypercall.operations import Operations
from pvmmio_uc.ioeventfd import IoEventFd
from pvmmio_uc.vm import Vm

U32 = (1 << 32) - 1
U64 = (1 << 64) - 1
PAGE = 0x1000

RAM, RAM_SIZE = 0x1_0000, 0x8000
ROM, ROM_SIZE = 0x2_0000, 0x1000
DEVICE, DEVICE_SIZE = 0xFEBD_0000, 0x1000
DOORBELL_ANY = 0xFE00_0000
"""An ioeventfd of any length: on the fast bus too."""
DOORBELL_FOUR = 0x0A00_0050
"""Four bytes, any value (a virtio-mmio QueueNotify)."""
DOORBELL_MATCH, MATCH = 0x0A00_0150, 0x11
"""Four bytes, this value."""
ZONE, ZONE_SIZE = 0xD000_0000, 0x100
USER, USER_SIZE = 0xC000_0000, 0x1000
"""User space answers here, a read with the low bytes of the address."""
NOBODY = 0xB000_0000
PORT, PORT_SIZE = 0x3F8, 8
PORT_DOORBELL = 0x510
USER_PORT = 0x600
NOBODY_PORT = 0x700


class FakeMemory:
    """Slots of RAM, some of them read-only."""

    def __init__(self, slots: Mapping[int, int], read_only: Mapping[int, int] | None = None) -> None:
        self.slots = {start: bytearray(size) for start, size in slots.items()}
        self.read_only = {start: bytearray(size) for start, size in (read_only or {}).items()}
        self.writes: list[tuple[int, bytes]] = []

    def _slot(self, gpa: int, size: int, *, writable: bool) -> tuple[bytearray, int] | None:
        for slots in (self.slots,) if writable else (self.slots, self.read_only):
            for start, data in slots.items():
                if start <= gpa and gpa + size <= start + len(data):
                    return data, gpa - start
        return None

    def read(self, gpa: int, size: int) -> bytes | None:
        found = self._slot(gpa, size, writable=False)
        return None if found is None else bytes(found[0][found[1] : found[1] + size])

    def write(self, gpa: int, data: bytes) -> bool:
        found = self._slot(gpa, len(data), writable=True)
        if found is None:
            return False
        found[0][found[1] : found[1] + len(data)] = data
        self.writes.append((gpa, bytes(data)))
        return True


class FakeCpu:
    """A vCPU: registers that were never set read as 0, and `written` is what a convention has set."""

    def __init__(
        self,
        memory: FakeMemory | None = None,
        *,
        bits: int = 64,
        user_mode: bool = False,
        protected_mode: bool = True,
        patchable: bool = True,
        **registers: int,
    ) -> None:
        self.memory = memory or FakeMemory({})
        self.bits, self.user_mode, self.protected_mode = bits, user_mode, protected_mode
        self.patchable = patchable
        self.patched: bytes | None = None
        self.registers = dict(registers)
        self.written: dict[str, int] = {}

    def get(self, name: str) -> int:
        return self.registers.get(name, 0)

    def set(self, name: str, value: int) -> None:
        width = 128 if name.startswith("xmm") else 64
        assert 0 <= value < 1 << width, f"{name} = {value:#x} does not fit"
        self.registers[name] = self.written[name] = value

    def read(self, gpa: int, size: int) -> bytes | None:
        return self.memory.read(gpa, size)

    def write(self, gpa: int, data: bytes) -> bool:
        return self.memory.write(gpa, data)

    def patch_code(self, data: bytes) -> bool:
        if self.patchable:
            self.patched = data
        return self.patchable


class Recorder:
    """A device that notes every access; a read gives ``answer``, or what was written to the offset."""

    def __init__(self, answer: int | None = None) -> None:
        self.answer = answer
        self.registers: dict[int, int] = {}
        self.log: list[tuple[str, int, int, int]] = []

    def mmio_read(self, offset: int, size: int) -> int:
        value = self.registers.get(offset, 0) if self.answer is None else self.answer
        self.log.append(("R", offset, size, value))
        return value

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        self.registers[offset] = value
        self.log.append(("W", offset, size, value))


class Bell:
    """An eventfd that only counts: the properties ring it a hundred thousand times."""

    def __init__(self) -> None:
        self.count = 0

    def signal(self) -> None:
        self.count += 1


class Board:
    """A VM, its memory and its devices; `operations` makes the `Operations` of one call.

    ``order`` is the byte order of the device's registers, little as nearly every device has it.
    """

    def __init__(self, order: ByteOrder = "little") -> None:
        self.vm = Vm()
        self.memory = FakeMemory({RAM: RAM_SIZE}, {ROM: ROM_SIZE})
        self.device, self.ports = Recorder(), Recorder()
        region = DeviceRegion(self.vm.mmio, self.device, DEVICE, DEVICE_SIZE, lambda: order)
        self.vm.mmio.register(DEVICE, DEVICE_SIZE, region)
        ports = DeviceRegion(self.vm.pio, self.ports, PORT, PORT_SIZE, lambda: "little")
        self.vm.pio.register(PORT, PORT_SIZE, ports)
        self.vm.zones.register(ZONE, ZONE_SIZE)
        self.bells: dict[int, Bell] = {}
        self._bell(DOORBELL_ANY, 0)
        self._bell(DOORBELL_FOUR, 4)
        self._bell(DOORBELL_MATCH, 4, MATCH)
        self._bell(PORT_DOORBELL, 2, pio=True)
        self.connections: dict[int, Bell] = {}
        self.asked: list[tuple[str, int, bytes]] = []
        self.port_asked: list[tuple[str, int, bytes]] = []

    def _bell(self, addr: int, length: int, match: int | None = None, *, pio: bool = False) -> None:
        """Put a counting doorbell where `IoEventFds.assign` would put one of the kernel's."""
        context = self.bells[addr] = Bell()
        bus = self.vm.pio if pio else self.vm.mmio
        bus.register(
            addr, length, IoEventFd(bus, context, addr, length, match, Route.IOEVENTFD), ioeventfd=True
        )
        if not length:
            fast = IoEventFd(self.vm.fast, context, addr, 0, None, Route.FAST)
            self.vm.fast.register(addr, 0, fast, ioeventfd=True)

    def connect(self, connection: int) -> Bell:
        """A connection id with an eventfd behind it."""
        context = Bell()
        self.connections[connection] = context
        return context

    def userspace(self, write: bool, gpa: int, data: bytes) -> bytes | None:
        self.asked.append(("W" if write else "R", gpa, data))
        if not USER <= gpa < USER + USER_SIZE:
            return None
        return data if write else user_bytes(gpa, len(data))

    def user_ports(self, write: bool, port: int, data: bytes) -> bytes | None:
        self.port_asked.append(("W" if write else "R", port, data))
        if port != USER_PORT:
            return None
        return data if write else user_bytes(port, len(data))

    def operations(self) -> Operations:
        """For one call; `accesses` and `steps` of it say what happened."""
        return Operations(
            self.vm,
            self.memory,
            self.userspace,
            self.connections,
            Steps(exits=1),
            ports=self.user_ports,
        )

    def put(self, gpa: int, data: bytes) -> None:
        """Guest memory before the call."""
        assert self.memory.write(gpa, data)
        self.memory.writes.clear()

    def get(self, gpa: int, size: int) -> bytes:
        """Guest memory after it."""
        data = self.memory.read(gpa, size)
        assert data is not None
        return data

    def drain(self) -> dict[str, list[object]]:
        """What devices, doorbells, the zone and user space have seen since the last time."""
        rung = [addr for addr, bell in self.bells.items() for _ in range(bell.count)]
        seen: dict[str, list[object]] = {
            "device": list(self.device.log),
            "ports": list(self.ports.log),
            "bells": sorted(rung),
            "ring": [(entry.address, entry.data) for entry in self.vm.ring.drain()],
            "user": list(self.asked),
            "user ports": list(self.port_asked),
        }
        for log in (self.device.log, self.ports.log, self.asked, self.port_asked):
            log.clear()
        for bell in self.bells.values():
            bell.count = 0
        return seen

    @property
    def untouched(self) -> bool:
        """Whether nobody has seen anything."""
        return not any(self.drain().values())


def user_bytes(address: int, size: int) -> bytes:
    """What user space answers a read with."""
    return bytes((address + index) & 0xFF for index in range(size))


def element(gpa: int, value: int, size: int, flags: int = 0, order: ByteOrder = "little") -> bytes:
    """24 bytes of a list."""
    return (
        gpa.to_bytes(8, order) + value.to_bytes(8, order) + size.to_bytes(4, order) + flags.to_bytes(4, order)
    )


def routes(accesses: Iterable[Access]) -> list[Route]:
    """Where the accesses ended."""
    return [access.route for access in accesses]

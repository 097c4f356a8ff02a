"""What the board of `fakes` answers, said a second time and in another way, for the properties.

Knows the places of the board and nothing of the buses: a model that shared their code would share
their errors.
"""

from __future__ import annotations

import random

from pvmmio_uc.exits import Access, Route

from .fakes import (
    DEVICE,
    DEVICE_SIZE,
    DOORBELL_ANY,
    DOORBELL_FOUR,
    DOORBELL_MATCH,
    MATCH,
    NOBODY,
    NOBODY_PORT,
    PORT,
    PORT_DOORBELL,
    PORT_SIZE,
    RAM,
    RAM_SIZE,
    ROM,
    ROM_SIZE,
    U64,
    USER,
    USER_PORT,
    USER_SIZE,
    ZONE,
    ZONE_SIZE,
)

SEED = 20130404
CALLS = 20_000
"""Random register files per convention."""


def inside(gpa: int, size: int, start: int, length: int) -> bool:
    return start <= gpa and gpa + size <= start + length


class BoardModel:
    """Its own RAM and its own device registers; ``accesses`` and ``seen`` are those of one call."""

    def __init__(self) -> None:
        self.ram = bytearray(RAM_SIZE)
        self.registers: dict[int, int] = {}
        self.port_registers: dict[int, int] = {}
        self.forget()

    def forget(self) -> None:
        """Begin a call: nothing has been accessed, nobody has seen anything."""
        self.accesses: list[Access] = []
        self.seen: dict[str, list[object]] = {
            name: [] for name in ("device", "ports", "bells", "ring", "user", "user ports")
        }

    def load(self, gpa: int, size: int) -> bytes | None:
        """RAM or ROM."""
        if inside(gpa, size, RAM, RAM_SIZE):
            return bytes(self.ram[gpa - RAM : gpa - RAM + size])
        return bytes(size) if inside(gpa, size, ROM, ROM_SIZE) else None

    def store(self, gpa: int, data: bytes) -> bool:
        """RAM only."""
        if not inside(gpa, len(data), RAM, RAM_SIZE):
            return False
        self.ram[gpa - RAM : gpa - RAM + len(data)] = data
        return True

    def write(
        self, gpa: int, data: bytes, *, fast: bool, memory: bool = False, refused: bool = False
    ) -> bool:
        """At most 8 bytes; whether anybody took them. ``refused``: the bus is not asked any more."""
        size, claimed = len(data), True
        four = gpa == DOORBELL_FOUR and size == 4
        match = gpa == DOORBELL_MATCH and data == MATCH.to_bytes(4, "little")
        if refused:
            claimed = self._to_user(gpa, data, memory)
            route = Route.USERSPACE
        elif gpa == DOORBELL_ANY or four or match:
            route = Route.FAST if fast and gpa == DOORBELL_ANY else Route.IOEVENTFD
            self.seen["bells"] = sorted([*self.seen["bells"], gpa])
        elif inside(gpa, size, DEVICE, DEVICE_SIZE):
            number = int.from_bytes(data, "little")
            self.registers[gpa - DEVICE] = number
            self.seen["device"].append(("W", gpa - DEVICE, size, number))
            route = Route.DEVICE
        elif inside(gpa, size, ZONE, ZONE_SIZE):
            self.seen["ring"].append((gpa, data))
            route = Route.COALESCED
        else:
            claimed = self._to_user(gpa, data, memory)
            route = Route.USERSPACE
        self.accesses.append(Access(True, gpa, size, data, route))
        return claimed

    def _to_user(self, gpa: int, data: bytes, memory: bool) -> bool:
        if memory and self.store(gpa, data):
            return True
        self.seen["user"].append(("W", gpa, data))
        return USER <= gpa < USER + USER_SIZE

    def read(self, gpa: int, size: int, *, memory: bool = False, refused: bool = False) -> tuple[bytes, bool]:
        """At most 8 bytes, and whether anybody gave them."""
        route, claimed = Route.USERSPACE, True
        if not refused and inside(gpa, size, DEVICE, DEVICE_SIZE):
            number = self.registers.get(gpa - DEVICE, 0)
            self.seen["device"].append(("R", gpa - DEVICE, size, number))
            data, route = (number % 256**size).to_bytes(size, "little"), Route.DEVICE
        elif memory and self.load(gpa, size) is not None:
            data = self.load(gpa, size) or b""
        else:
            self.seen["user"].append(("R", gpa, b"\xff" * size))
            claimed = USER <= gpa < USER + USER_SIZE
            data = bytes((gpa + index) % 256 for index in range(size)) if claimed else b"\xff" * size
        self.accesses.append(Access(False, gpa, size, data, route))
        return data, claimed

    def port_write(self, port: int, data: bytes) -> None:
        """1, 2 or 4 bytes."""
        route = Route.USERSPACE
        if inside(port, len(data), PORT, PORT_SIZE):
            number = int.from_bytes(data, "little")
            self.port_registers[port - PORT] = number
            self.seen["ports"].append(("W", port - PORT, len(data), number))
            route = Route.DEVICE
        elif port == PORT_DOORBELL and len(data) == 2:
            self.seen["bells"].append(port)
            route = Route.IOEVENTFD
        else:
            self.seen["user ports"].append(("W", port, data))
        self.accesses.append(Access(True, port, len(data), data, route))

    def port_read(self, port: int, size: int) -> int:
        """1, 2 or 4 bytes as a number."""
        route = Route.USERSPACE
        if inside(port, size, PORT, PORT_SIZE):
            number = self.port_registers.get(port - PORT, 0)
            self.seen["ports"].append(("R", port - PORT, size, number))
            data, route = (number % 256**size).to_bytes(size, "little"), Route.DEVICE
        else:
            self.seen["user ports"].append(("R", port, b"\xff" * size))
            mine = port == USER_PORT
            data = bytes((port + index) % 256 for index in range(size)) if mine else b"\xff" * size
        self.accesses.append(Access(False, port, size, data, route))
        return int.from_bytes(data, "little")


# What the minimal interface (section "PVMMIO") demands of read, write and list, for all conventions.


class PvMmioModel(BoardModel):
    """Results are ``(reason, second)``: reason "" is success, second a value or an index."""

    def check(self, gpa: int, size: int) -> str:
        if size not in (1, 2, 4, 8):
            return "bad"
        if gpa & (size - 1) or gpa + size > U64 + 1 or self.load(gpa, size) is not None:
            return "bad"
        return ""

    def pv_read(self, gpa: int, size: int) -> tuple[str, int]:
        reason = self.check(gpa, size)
        if reason:
            return reason, 0
        data, claimed = self.read(gpa, size)
        return "" if claimed else "nobody", int.from_bytes(data, "little")

    def pv_write(self, gpa: int, size: int, value: int) -> tuple[str, int]:
        reason = self.check(gpa, size)
        if reason:
            return reason, 0
        data = (value % (1 << 8 * size)).to_bytes(size, "little")
        return "" if self.write(gpa, data, fast=True) else "nobody", 0

    def pv_write_list(self, gpa: int, count: int, start: int, big: bool = False) -> tuple[str, int]:
        if count > 170 or start > count or gpa % 8:
            return "bad", 0
        if count and gpa // 4096 != (gpa + 24 * count - 1) // 4096:
            return "bad", 0
        data = self.load(gpa, 24 * count) if count else b""
        if data is None:
            return "unreadable", 0
        for index in range(start, count):
            fields = data[24 * index : 24 * index + 24]
            where, value, size, reserved = (
                int.from_bytes(fields[a:b], "big" if big else "little")
                for a, b in ((0, 8), (8, 16), (16, 20), (20, 24))
            )
            reason = "bad" if reserved else self.pv_write(where, size, value)[0]
            if reason:
                return reason, index
        return "", count


# Random numbers that go where it hurts.

PLACES = (
    DEVICE,
    DEVICE,
    DEVICE + DEVICE_SIZE,
    DOORBELL_ANY,
    DOORBELL_ANY,
    DOORBELL_FOUR,
    DOORBELL_MATCH,
    ZONE,
    ZONE + ZONE_SIZE,
    USER,
    USER + USER_SIZE,
    NOBODY,
    RAM,
    RAM + RAM_SIZE,
    ROM,
    ROM + ROM_SIZE,
    0,
    1 << 32,
    1 << 47,
    1 << 56,
    1 << 63,
    1 << 64,
)
OFFSETS = (0, 0, 0, 0, 0, 1, 2, 3, 4, 8, 16, 0x20, -1, -2, -4, -8)
SIZES = (1, 2, 4, 8, 4, 4, 8, 1)
ODD_SIZES = (0, 3, 5, 7, 9, 16, 64, 1 << 8, 1 << 31, (1 << 32) + 4, 1 << 63, U64)


def address(rng: random.Random) -> int:
    return (rng.choice(PLACES) + rng.choice(OFFSETS)) & U64


def size(rng: random.Random) -> int:
    return rng.choice(SIZES) if rng.random() < 0.8 else rng.choice(ODD_SIZES)


def value(rng: random.Random) -> int:
    return rng.choice((0, 1, MATCH, MATCH << 24, U64, rng.getrandbits(8), rng.getrandbits(64)))


def port(rng: random.Random) -> int:
    base = rng.choice((PORT, PORT, PORT + PORT_SIZE - 1, PORT_DOORBELL, USER_PORT, NOBODY_PORT, 0, 0xFFFF))
    return base + rng.choice((0, 0, 0, 1, 1 << 16, 1 << 63))


def count(rng: random.Random) -> int:
    return rng.choice((0, 1, 1, 2, 3, 5, 169, 170, 171, 1 << 32, 1 << 63, U64))


def start(rng: random.Random) -> int:
    return rng.choice((0, 0, 0, 0, 1, 2, 170, 1 << 32, U64))


def list_address(rng: random.Random) -> int:
    return (
        rng.choice((RAM, RAM + 0x1000, RAM + 0x1010, RAM + 0xFF0, ROM, NOBODY)) + rng.choice((0, 0, 0, 8, 4))
    ) & U64


def fill_list(rng: random.Random, model: BoardModel, gpa: int, elements: int, big: bool = False) -> bytes:
    """Random elements at ``gpa`` as far as there is RAM; the bytes, to be stored on the board too."""
    order = "big" if big else "little"
    room = max(0, min(elements, 6, (RAM + RAM_SIZE - gpa) // 24)) if gpa >= RAM else 0
    data = b"".join(
        address(rng).to_bytes(8, order)
        + value(rng).to_bytes(8, order)
        + (size(rng) & 0xFFFF_FFFF).to_bytes(4, order)
        + rng.choice((0, 0, 0, 0, 0, 1)).to_bytes(4, order)
        for _ in range(room)
    )
    return data if model.store(gpa, data) else b""

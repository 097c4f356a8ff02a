"""The operations behind every convention: read, write, write a list, signal a connection.

Written once, over the same buses as any other access; errors are typed here and translated by each
convention into its own status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from ..device import ByteOrder
from ..errors import PvMmioError
from ..eventfd import EventFdContext
from ..exits import Access, Route, Steps
from ..vm import Memory, Vm

__all__ = [
    "ELEMENT_BYTES",
    "MOST_ELEMENTS",
    "PVMMIO_RULES",
    "Element",
    "Operations",
    "Refusal",
    "Refused",
    "Rules",
]

PAGE_SIZE = 4096
ELEMENT_BYTES = 24
MOST_ELEMENTS = PAGE_SIZE // ELEMENT_BYTES
"""A list must not cross a page: 170."""

_U64 = 1 << 64
_SIZES = (1, 2, 4, 8)


class Refusal(Enum):
    """Why an operation was not done. The order of the checks is: size, alignment, range, memory, bus."""

    SIZE = "the size is not 1, 2, 4 or 8"
    ALIGNMENT = "the address is not a multiple of the size"
    RANGE = "the access goes past 2^64"
    MEMORY = "there is RAM at the address"
    UNCLAIMED = "nobody claims the address"
    LIST_ALIGNMENT = "the list is not 8-byte aligned"
    LIST_PAGE = "the list crosses a page"
    LIST_COUNT = "the count is above 170, or the start above the count"
    LIST_UNREADABLE = "the list is not in guest memory"
    FLAGS = "a reserved field is not zero"
    CONNECTION = "no such connection"


class Refused(PvMmioError):
    """An operation that was not done; ``done`` is how many elements of a list were."""

    def __init__(self, refusal: Refusal, done: int = 0) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal
        self.done = done


@dataclass(frozen=True, slots=True)
class Rules:
    """What a convention checks and which buses it asks.

    ``aligned``: the address must be a multiple of the size. ``not_memory``: an address in RAM is
    refused. ``fast``: a write asks the address-only bus first. ``user_memory``: what no bus takes is
    RAM's before it is user space's, whose address space has the guest's memory in it.
    """

    aligned: bool
    not_memory: bool
    fast: bool
    user_memory: bool = False


PVMMIO_RULES = Rules(aligned=True, not_memory=True, fast=True)
"""Of the minimal interface, the same on every architecture (docs/hypercalls.md)."""


@dataclass(frozen=True, slots=True)
class Element:
    """One write of a list: 24 bytes in guest memory, ``gpa, value, size, flags``."""

    gpa: int
    value: int
    size: int
    flags: int


Nobody = Callable[[bool, int, bytes], "bytes | None"]
"""``(write, gpa or port, data)``: user space takes it and gives a read's bytes, or None: unclaimed."""


class Operations:
    """One hypercall's accesses: where they went and what they took ends up in ``accesses`` and ``steps``."""

    def __init__(
        self,
        vm: Vm,
        memory: Memory,
        userspace: Nobody,
        connections: Mapping[int, EventFdContext],
        steps: Steps,
        ports: Nobody = lambda write, port, data: None,
    ) -> None:
        self._vm, self._memory, self._userspace, self._ports = vm, memory, userspace, ports
        self._connections = connections
        self.steps = steps
        self.accesses: list[Access] = []
        self.refusal: Refusal | None = None
        """Why the last operation was not done, for the record of the exit."""

    def read(self, gpa: int, size: int, rules: Rules = PVMMIO_RULES, order: ByteOrder = "little") -> int:
        """The value of ``size`` bytes at ``gpa``, a register of byte order ``order``, zero-extended.

        Refused where a check fails, or where nobody answers.
        """
        self._check(gpa, size, rules)
        data, claimed = self._read(gpa, size, rules.user_memory)
        if not claimed:
            raise self._refused(Refusal.UNCLAIMED)
        return int.from_bytes(data, order)

    def write(
        self, gpa: int, size: int, value: int, rules: Rules = PVMMIO_RULES, order: ByteOrder = "little"
    ) -> None:
        """Write the lower ``size`` bytes of ``value`` at ``gpa``; Refused likewise."""
        self._check(gpa, size, rules)
        data = (value & ((1 << (8 * size)) - 1)).to_bytes(size, order)
        if rules.fast and self._vm.fast_write(gpa, self.steps):
            self.accesses.append(Access(True, gpa, size, data, Route.FAST))
        elif not self._write(gpa, data, rules.user_memory):
            raise self._refused(Refusal.UNCLAIMED)

    def read_bytes(self, gpa: int, size: int) -> bytes:
        """``size`` bytes, any number, 8 at a time; ones where nobody answers. Refused(RANGE) past 2^64."""
        if gpa + size > _U64:
            raise self._refused(Refusal.RANGE)
        return self._read(gpa, size, user_memory=False)[0]

    def write_bytes(self, gpa: int, data: bytes) -> None:
        """Write them likewise; what nobody takes is dropped."""
        if gpa + len(data) > _U64:
            raise self._refused(Refusal.RANGE)
        self._write(gpa, data, user_memory=False)

    def port_read(self, port: int, size: int) -> int:
        """The value of ``size`` bytes (1, 2, 4) from ``port``; ones where nobody answers."""
        access = self._vm.port_read(port, size, self.steps)
        if access is None:
            ones = b"\xff" * size
            data = self._ports(False, port, ones)
            access = Access(False, port, size, ones if data is None else data, Route.USERSPACE)
        self.accesses.append(access)
        return int.from_bytes(access.data, "little")

    def port_write(self, port: int, size: int, value: int) -> None:
        """Output the lower ``size`` bytes of ``value``; what nobody takes is dropped."""
        data = (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little")
        access = self._vm.port_write(port, data, self.steps)
        if access is None:
            self._ports(True, port, data)
            access = Access(True, port, size, data, Route.USERSPACE)
        self.accesses.append(access)

    def write_list(self, gpa: int, count: int, start: int, order: ByteOrder = "little") -> int:
        """Do the elements ``start`` to ``count`` of the list at ``gpa``; the index behind the last one done.

        ``order`` is the guest's, in which it has laid the elements out.

        The whole list is checked for place and shape before anything is written; each element is
        checked when its turn comes. Refused carries ``done``, the index of the element that failed.
        """
        if count > MOST_ELEMENTS or start > count:
            raise self._refused(Refusal.LIST_COUNT, 0)
        for index, element in enumerate(self._elements(gpa, count, order)):
            if index >= start:
                self._write_element(element, index)
        return count

    def signal(self, connection: int) -> None:
        """Signal the eventfd of a connection id; Refused(CONNECTION) where there is none."""
        context = self._connections.get(connection)
        if context is None:
            raise self._refused(Refusal.CONNECTION)
        context.signal()
        self.steps.signals += 1
        self.accesses.append(Access(True, connection, 0, b"", Route.IOEVENTFD))

    def _read(self, gpa: int, size: int, user_memory: bool) -> tuple[bytes, bool]:
        """The bytes, and whether all of them have been claimed."""
        claimed = True

        def userspace(write: bool, address: int, ones: bytes) -> bytes:
            nonlocal claimed
            data = self._memory.read(address, len(ones)) if user_memory else None
            if data is None:
                data = self._userspace(write, address, ones)
            claimed = claimed and data is not None
            return ones if data is None else data

        data, accesses = self._vm.read([(gpa, size)], _NO_MEMORY, self.steps, userspace)
        self.accesses += accesses
        return data, claimed

    def _write(self, gpa: int, data: bytes, user_memory: bool) -> bool:
        """Whether all of it has been claimed."""
        claimed = True

        def userspace(write: bool, address: int, piece: bytes) -> bytes:
            nonlocal claimed
            if not (user_memory and self._memory.write(address, piece)):
                claimed = self._userspace(write, address, piece) is not None and claimed
            return piece

        self.accesses += self._vm.write([(gpa, data)], _NO_MEMORY, self.steps, userspace)
        return claimed

    def _write_element(self, element: Element, index: int) -> None:
        if element.flags:
            raise self._refused(Refusal.FLAGS, index)
        try:
            self.write(element.gpa, element.size, element.value)
        except Refused as refused:
            raise self._refused(refused.refusal, index) from None

    def _elements(self, gpa: int, count: int, order: ByteOrder) -> Iterator[Element]:
        size = count * ELEMENT_BYTES
        if gpa % 8:
            raise self._refused(Refusal.LIST_ALIGNMENT)
        if not count:
            return iter(())
        if gpa % PAGE_SIZE + size > PAGE_SIZE:
            raise self._refused(Refusal.LIST_PAGE)
        data = self._memory.read(gpa, size)
        if data is None:
            raise self._refused(Refusal.LIST_UNREADABLE)
        return iter([_element(data[at : at + ELEMENT_BYTES], order) for at in range(0, size, ELEMENT_BYTES)])

    def _refused(self, refusal: Refusal, done: int = 0) -> Refused:
        self.refusal = refusal
        return Refused(refusal, done)

    def _check(self, gpa: int, size: int, rules: Rules) -> None:
        if size not in _SIZES:
            raise self._refused(Refusal.SIZE)
        if rules.aligned and gpa % size:
            raise self._refused(Refusal.ALIGNMENT)
        if gpa + size > _U64:
            raise self._refused(Refusal.RANGE)
        if rules.not_memory and self._memory.read(gpa, size) is not None:
            raise self._refused(Refusal.MEMORY)


class _NoMemory:
    """A hypercall's access goes to the bus whatever is at its address."""

    def read(self, gpa: int, size: int) -> bytes | None:
        return None

    def write(self, gpa: int, data: bytes) -> bool:
        return False


_NO_MEMORY = _NoMemory()


def _element(data: bytes, order: ByteOrder) -> Element:
    gpa, value = (int.from_bytes(data[at : at + 8], order) for at in (0, 8))
    size, flags = (int.from_bytes(data[at : at + 4], order) for at in (16, 20))
    return Element(gpa, value, size, flags)

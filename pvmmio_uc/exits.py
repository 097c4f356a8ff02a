"""What an exit is: one trap from guest to host, its accesses, where each ended, what it cost.

Ground floor: no engine, no architecture, no terminal.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Literal, NamedTuple, overload

__all__ = ["Access", "Exit", "ExitLog", "Reason", "Route", "Steps", "UserspaceExit"]


class Route(str, Enum):
    """Where an access ended, cheapest first.

    ``memory`` is a piece that was RAM after all, ``hypervisor`` a call that it answered by itself.
    """

    FAST = "fast"
    IOEVENTFD = "ioeventfd"
    COALESCED = "coalesced"
    DEVICE = "device"
    MEMORY = "memory"
    HYPERVISOR = "hypervisor"
    USERSPACE = "userspace"
    ERROR = "error"

    def __str__(self) -> str:
        return self.value


_ROUTE_ORDER = {route: order for order, route in enumerate(Route)}


class Reason(str, Enum):
    """Why the guest left: the names of linux/kvm.h without their prefix, in small letters."""

    MMIO = "mmio"
    IO = "io"
    HYPERCALL = "hypercall"
    FETCH = "fetch"
    EXCEPTION = "exception"

    def __str__(self) -> str:
        return self.value


@dataclass(slots=True)
class Steps:
    """The pieces of host work of one exit, each counted where it is done.

    * ``exits``: traps from guest to host
    * ``walk``: page-table entries loaded
    * ``fetch``: instruction bytes read from the guest
    * ``decode``: instructions decoded
    * ``bus``: ranges compared, on all buses that were asked
    * ``signals``: eventfds signalled
    * ``userspace``: round trips to user space
    """

    exits: int = 0
    walk: int = 0
    fetch: int = 0
    decode: int = 0
    bus: int = 0
    signals: int = 0
    userspace: int = 0

    def add(self, other: Steps) -> None:
        """Count another exit's steps in."""
        self.exits += other.exits
        self.walk += other.walk
        self.fetch += other.fetch
        self.decode += other.decode
        self.bus += other.bus
        self.signals += other.signals
        self.userspace += other.userspace

    def as_dict(self) -> dict[str, int]:
        """The counts by name, in the order above."""
        return {name: getattr(self, name) for name in STEP_NAMES}


STEP_NAMES = tuple(field.name for field in fields(Steps))


class Access(NamedTuple):
    """One piece of an exit, as the bus or user space saw it.

    ``address`` is a gpa, or a port for port I/O. ``data`` is the image in guest memory, also for reads.
    """

    write: bool
    address: int
    size: int
    data: bytes
    route: Route


class Exit(NamedTuple):
    """One trap from guest to host.

    ``pc`` is the address of the instruction, None where the engine does not tell
    (``decode="assist"``). ``address`` is what the hardware reports: the gpa of the fault or the
    port. ``note`` says in words what a figure cannot.
    """

    reason: Reason
    pc: int | None
    address: int
    write: bool
    accesses: tuple[Access, ...]
    route: Route
    steps: Steps
    note: str = ""

    def __str__(self) -> str:
        where = "pc ?" if self.pc is None else f"pc {self.pc:#x}"
        what = "; ".join(
            f"{'W' if a.write else 'R'} {a.address:#x}+{a.size} {a.data.hex()} -> {a.route}"
            for a in self.accesses
        )
        text = f"{self.reason} {self.address:#x} at {where}: {what or self.route}"
        return f"{text} ({self.note})" if self.note else text


@dataclass(slots=True)
class UserspaceExit:
    """What user space is shown when nobody on the bus claims an access: KVM_EXIT_MMIO or KVM_EXIT_IO.

    ``address`` is a gpa or a port, ``size`` the bytes of one element, ``count`` the elements (more
    than one only for string port input). For a write ``data`` is the guest-memory image; for a read
    assign the answer to ``data``, or return it from the callback. ``order`` is the byte order in
    which the CPU reads data now.
    """

    reason: Reason
    write: bool
    address: int
    size: int
    data: bytes
    pc: int | None
    order: Literal["little", "big"] = "little"
    count: int = 1

    @property
    def value(self) -> int:
        """``data`` as the number that the CPU sees."""
        return int.from_bytes(self.data, self.order)

    @value.setter
    def value(self, value: int) -> None:
        size = self.size * self.count
        self.data = (value & ((1 << (8 * size)) - 1)).to_bytes(size, self.order)


def heaviest(routes: Iterable[Route]) -> Route:
    """The route an exit as a whole is counted under: the most expensive one of its accesses."""
    return max(routes, key=_ROUTE_ORDER.__getitem__, default=Route.ERROR)


class ExitLog(Sequence[Exit]):
    """The exits of a guest: counted without end, kept up to a limit.

    A sequence of the ``limit`` most recent exits, oldest first; ``total`` counts all,
    ``lost`` those that no longer fit, ``by_route`` and ``steps`` sum over all.
    """

    def __init__(self, limit: int = 65536) -> None:
        if limit < 0:
            raise ValueError(f"the log keeps 0 or more exits, not {limit}")
        self._kept: deque[Exit] = deque(maxlen=limit)
        self.total = 0
        self.by_route: Counter[Route] = Counter()
        self.steps = Steps()

    def append(self, exit_: Exit) -> None:
        """Count one more exit and keep it in place of the oldest."""
        self.total += 1
        self.by_route[exit_.route] += 1
        self.steps.add(exit_.steps)
        self._kept.append(exit_)

    def clear(self) -> None:
        """Forget everything counted and kept."""
        self._kept.clear()
        self.total = 0
        self.by_route.clear()
        self.steps = Steps()

    @property
    def lost(self) -> int:
        """How many exits were counted and are no longer kept."""
        return self.total - len(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Exit]:
        return iter(self._kept)

    @overload
    def __getitem__(self, index: int) -> Exit: ...

    @overload
    def __getitem__(self, index: slice) -> list[Exit]: ...

    def __getitem__(self, index: int | slice) -> Exit | list[Exit]:
        """One exit, or a list for a slice."""
        return list(self._kept)[index] if isinstance(index, slice) else self._kept[index]

    def __repr__(self) -> str:
        routes = ", ".join(f"{route} {count}" for route, count in self.by_route.items())
        return f"<ExitLog {self.total} exits, {self.lost} lost: {routes or 'none'}>"

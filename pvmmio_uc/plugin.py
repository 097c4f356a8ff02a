"""`PvMmio`: KVM's buses for any Unicorn engine."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar

from unicorn import Uc

from .arch import arch_of
from .arch.base import Fault
from .arch.trap import MemoryTrap, Windows
from .assist import AssistPath
from .coalesced import CoalescedEntry
from .crash import explain
from .device import ByteOrder, Device, DeviceRegion
from .errors import AccessRefused, PvMmioError, RegistrationError
from .eventfd import EventFd
from .exits import ExitLog, Reason, Steps, UserspaceExit
from .guard import GuardedPorts, guarded
from .hypercall.attach import CallTrap, in_order, make_convention
from .hypercall.connections import Connections
from .hypercall.convention import Convention
from .hypercall.engine import EngineCpu
from .hypercall.path import HypercallPath
from .ioeventfd import IoEventFdFlag
from .memory import GuestMemory
from .ports import PortPath
from .registration import (
    Registration,
    check_device,
    check_numbers,
    in_memory,
    registered,
    why_never,
    without_ports,
)
from .runloop import RunLoop
from .software import SoftwarePath
from .stage2 import PROFILES, STAGE2_KINDS
from .vm import Vm

__all__ = ["Decode", "PvMmio"]

_PAGE_SIZES = (4096, 16384, 65536)

Decode = Literal["software", "assist"]
UserspaceCallback = Callable[[UserspaceExit], "int | bytes | None"]
_Callback = TypeVar("_Callback", bound=UserspaceCallback)


on_attach: list[Callable[[PvMmio], None]] = []
"""Called with every PvMmio once it is attached: how a tool watches a script's guests."""


class PvMmio:
    """KVM's I/O buses, ioeventfds and exits for a `Uc` that the user made and goes on using.

    RAM that is mapped into the engine is the memory slots (read-only RAM: a read-only slot);
    everything else is MMIO at its guest-physical address. Attaching replaces this one engine's
    ``emu_start`` and ``emu_stop``; `detach`, or leaving the ``with`` block, puts them back.

    * ``stage2``: ``ept``, ``npt``, ``shadow`` on x86, ``stage2`` on arm64, ``hv``, ``pr`` on ppc; by
      default the first of the architecture's
    * ``decode``: ``software`` is exact, ``assist`` about ten times faster
    * ``profile``: which kinds of stage 2 ask the fast bus: ``linux``, ``rfc-2013``, ``everywhere``, ``off``
    * ``exit_limit``: how many exits `exits` keeps; all are counted
    * ``page_size``: the host's, which sets the size of the coalesced ring

    Raises UnsupportedArchitecture for an engine that no arch/ folder serves, ValueError for a word
    that is not in the lists above, PvMmioError where the engine has a PvMmio already.
    """

    def __init__(
        self,
        uc: Uc,
        *,
        stage2: str | None = None,
        decode: Decode = "software",
        profile: str = "linux",
        exit_limit: int = 65536,
        page_size: int = 4096,
    ) -> None:
        if not isinstance(uc, Uc):
            raise TypeError(f"PvMmio takes a unicorn.Uc, not {uc!r}")
        if page_size not in _PAGE_SIZES:
            raise ValueError(
                f"page_size={page_size!r}: a host has pages of {', '.join(map(str, _PAGE_SIZES))}"
            )
        self.arch = arch_of(uc)
        self.stage2 = _one_of("stage2", stage2 or self.arch.stage2_kinds[0], self.arch.stage2_kinds)
        self.decode = _one_of("decode", decode, ("software", "assist"))
        self.profile = _one_of("profile", profile, tuple(PROFILES))
        self.uc = uc
        self.vm = Vm(page_size)
        self.exits = ExitLog(exit_limit)
        self._callback: UserspaceCallback | None = None
        self._regions: list[DeviceRegion] = []
        self._connections = Connections()
        self._memory = GuestMemory(uc)
        self._wire()
        self._attach()

    def _wire(self) -> None:
        kind = STAGE2_KINDS[self.stage2]
        parts = (
            self.arch,
            self._memory,
            self.vm,
            kind,
            kind.name in PROFILES[self.profile].asks,
            self.exits,
            self._mmio_userspace,
        )
        self._software, self._assist = SoftwarePath(*parts), AssistPath(*parts)
        self._windows = Windows(self.uc, self._memory, self._assisted_read, self._assisted_write)
        self._trap = MemoryTrap(self.uc, self._memory, self._in_place)
        self._loop = RunLoop(
            self.uc,
            self.arch,
            self._trap,
            self._software.handle,
            self._assist.complete,
            self._windows.close,
            lambda error: explain(error, self.arch, self._memory, self.exits),
        )
        self._ports = PortPath(self.vm, self.exits, self._userspace)
        self._port_hooks: list[Any] = []
        cpu = EngineCpu(self.uc, self.arch, self._memory)
        path = HypercallPath(
            self.vm,
            self._memory,
            cpu,
            self.exits,
            lambda *access: self._call_userspace(Reason.MMIO, *access),
            self._connections.contexts,
            lambda *access: self._call_userspace(Reason.IO, *access),
        )
        self._calls = CallTrap(
            self.uc,
            self.arch,
            self._memory,
            path,
            lambda call, default: guarded(self._loop, call, default),
            self._loop,
        )

    def _attach(self) -> None:
        self._loop.attach()
        self._trap.refresh()
        self._port_hooks = self.arch.install_ports(self._memory.read, GuardedPorts(self._ports, self._loop))
        self._attached = True
        for watcher in on_attach:
            watcher(self)

    def detach(self) -> None:
        """Give the engine back as it was, without hooks and regions, and drop all registrations.

        The exits stay readable. Detaching twice is fine; PvMmioError while the guest runs.
        """
        if not self._attached:
            return
        if self._loop.running:
            raise PvMmioError("the guest is running: stop it and detach after emu_start has returned")
        self._attached = False
        self._loop.detach()
        self._trap.remove()
        for hook in self._port_hooks:
            self.uc.hook_del(hook)
        self._port_hooks.clear()
        self._calls.remove()
        self._connections.close()
        self.vm.close()

    def __enter__(self) -> PvMmio:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def ioeventfd(
        self,
        eventfd: EventFd | int,
        address: int,
        length: int = 0,
        datamatch: int | None = None,
        *,
        pio: bool = False,
        flags: int = 0,
    ) -> Registration:
        """KVM_IOEVENTFD: from now on a write of ``length`` bytes at ``address`` signals ``eventfd``.

        ``length`` 0 is any length, and puts the registration on the fast bus too; ``datamatch`` is
        compared with the guest-memory image read as a little-endian number, so for a big-endian
        store give it byte-swapped. ``flags`` are further KVM_IOEVENTFD_FLAG bits. Returns a handle to
        remove it with. Raises RegistrationError with KVM's errno; warns NeverFires about what KVM
        would accept and no access can reach.
        """
        self._check_attached()
        check_numbers(address=address, length=length, datamatch=datamatch or 0, flags=flags)
        bits = flags | (IoEventFdFlag.PIO if pio else 0)
        bits |= IoEventFdFlag.DATAMATCH if datamatch is not None else 0
        if bits & IoEventFdFlag.DEASSIGN:
            raise RegistrationError(errno.EINVAL, "to deassign, call remove() of what ioeventfd() returned")
        entry = self.vm.ioeventfds.assign(eventfd, address, length, bits, datamatch or 0)
        fast = self.stage2 in PROFILES[self.profile].asks
        never = why_never(entry, self.vm, self.arch, self.decode, self._slots(), fast)
        return registered(repr(entry), lambda: self.vm.ioeventfds.remove(entry), never)

    def device(
        self,
        address: int,
        size: int,
        device: Device,
        *,
        order: ByteOrder | Literal["native"] = "native",
        pio: bool = False,
        name: str = "",
    ) -> Registration:
        """Put ``device`` at ``size`` bytes from ``address`` (ports with ``pio``).

        ``order`` is the byte order of its registers; ``native`` is the CPU's at the time of the
        access. Raises RegistrationError: EEXIST where it overlaps another device, EINVAL for a size
        of 0 or a range past 2^64, ENOSPC for the 1001st device of a bus. Warns NeverFires about ports
        where the architecture has none.
        """
        self._check_attached()
        check_numbers(address=address, size=size)
        check_device(device, order)
        if size <= 0 or address < 0 or address + size >= 1 << 64:
            raise RegistrationError(
                errno.EINVAL, f"a device at {address:#x} of {size:#x} bytes: it must end below 2^64-1"
            )
        bus = self.vm.pio if pio else self.vm.mmio
        byte_order = self.arch.data_order if order == "native" else lambda: order
        region = DeviceRegion(bus, device, address, size, byte_order, name)
        for other in self._regions:
            if other.bus is bus and address < other.addr + other.size and other.addr < address + size:
                raise RegistrationError(
                    errno.EEXIST, f"{region!r} overlaps {other!r}: remove that one or move this one"
                )
        bus.register(address, size, region)
        self._regions.append(region)
        never = without_ports(self.arch, pio) or ("" if pio else in_memory(self._slots(), address, size))
        return registered(repr(region), lambda: self._remove_device(region), never)

    def coalesced(self, address: int, size: int, *, pio: bool = False) -> Registration:
        """KVM_REGISTER_COALESCED_MMIO: writes inside go to a ring and do not exit; see `drain_coalesced`.

        Removing it removes every zone that contains the range, as KVM does. Warns NeverFires about
        ports where the architecture has none.
        """
        self._check_attached()
        self.vm.zones.register(address, size, int(pio))
        return registered(
            f"coalesced zone at {address:#x}",
            lambda: self.vm.zones.unregister(address, size, int(pio)),
            without_ports(self.arch, pio),
        )

    def drain_coalesced(self) -> list[CoalescedEntry]:
        """Take the coalesced writes out of the ring, oldest first."""
        return self.vm.ring.drain()

    def hypercalls(self, *conventions: str | Convention, offered: bool = True) -> list[Convention]:
        """Answer hypercalls by these conventions from now on; without arguments, by none.

        A name is a convention with its defaults for this architecture and stage 2: ``kvm``; ``hyperv``
        on x86 and arm64; ``tdx``, ``ghcb`` on x86; ``papr`` on ppc; or give one made by hand. With
        ``offered`` False the PV MMIO calls are withdrawn: the convention answers as a host that never
        heard of them. May be called again between runs. Returns the conventions in use. ValueError for
        a name that the architecture does not have.
        """
        self._check_attached()
        made = [
            make_convention(one, self.arch, self.stage2, self._memory) if isinstance(one, str) else one
            for one in conventions
        ]
        for convention in made:
            convention.offered = offered
        self._calls.enable(in_order(made))
        return made

    @property
    def questions(self) -> int:
        """How many cpuid, rdmsr and wrmsr the guest has executed while conventions were enabled (x86).

        On hardware each is an exit; here they are not in `exits`.
        """
        return self._calls.questions

    def hyperv_eventfd(self, eventfd: EventFd | int, connection: int) -> Registration:
        """KVM_HYPERV_EVENTFD: HvCallSignalEvent for ``connection`` (24 bits) signals ``eventfd``.

        Raises RegistrationError: EINVAL, EEXIST, EBADF as KVM does.
        """
        self._check_attached()
        self._connections.assign(connection, eventfd)
        return Registration(f"connection {connection:#x}", lambda: self._connections.deassign(connection))

    def on_userspace(self, callback: _Callback) -> _Callback:
        """Call ``callback(exit)`` for what nobody claims: KVM_EXIT_MMIO and KVM_EXIT_IO.

        For a read it returns the value (an int as the CPU sees it, or the bytes in memory order) or
        None after setting ``exit.data``; unanswered reads are ones. There is one callback; a later
        one takes its place. May be used as a decorator.
        """
        if not callable(callback):
            raise TypeError(f"on_userspace takes a function of one UserspaceExit, not {callback!r}")
        self._callback = callback
        return callback

    def _slots(self) -> GuestMemory:
        self._memory.refresh()
        return self._memory

    # From here on: what the parts call.

    def _mmio_userspace(self, write: bool, gpa: int, data: bytes, pc: int | None, steps: Steps) -> bytes:
        steps.userspace += 1
        return self._ask(UserspaceExit(Reason.MMIO, write, gpa, len(data), data, pc, self.arch.data_order()))

    def _userspace(
        self, write: bool, port: int, size: int, count: int, data: bytes, pc: int, steps: Steps
    ) -> bytes:
        steps.userspace += 1
        return self._ask(UserspaceExit(Reason.IO, write, port, size, data, pc, "little", count))

    def _call_userspace(
        self, reason: Reason, write: bool, address: int, data: bytes, pc: int, steps: Steps
    ) -> bytes | None:
        """A hypercall's access: None where there is nobody, or where the callback refuses it."""
        if self._callback is None:
            return None
        steps.userspace += 1
        try:
            return self._ask(UserspaceExit(reason, write, address, len(data), data, pc))
        except AccessRefused:
            return None

    def _ask(self, exit_: UserspaceExit) -> bytes:
        """The bytes of a read; the callback's answer must fit."""
        if self._callback is None:
            return exit_.data
        answer = self._callback(exit_)
        if exit_.write:
            return exit_.data
        if isinstance(answer, int):
            exit_.value = answer
        elif answer is not None:
            exit_.data = bytes(answer)
        if len(exit_.data) != exit_.size * exit_.count:
            raise ValueError(
                f"the read of {exit_.address:#x} takes {exit_.size * exit_.count} bytes, "
                f"the callback gave {len(exit_.data)}: return an int, or that many bytes"
            )
        return exit_.data

    def _in_place(self, fault: Fault) -> bool:
        """Under decode assist a hole becomes a window, and the engine goes on by itself."""
        return self.decode == "assist" and not fault.fetch and self._windows.open(fault.gpa)

    def _assisted_read(self, gpa: int, size: int) -> int:
        value = guarded(self._loop, lambda: self._assist.read(gpa, size), 0)
        self._loop.access_done()
        return value

    def _assisted_write(self, gpa: int, size: int, value: int) -> None:
        guarded(self._loop, lambda: self._assist.write(gpa, size, value), None)
        self._loop.access_done()

    def _remove_device(self, region: DeviceRegion) -> None:
        region.bus.unregister(region.addr, region.size, region)
        self._regions.remove(region)

    def _check_attached(self) -> None:
        if not self._attached:
            raise PvMmioError("this PvMmio is detached: make a new one for the engine")

    def __repr__(self) -> str:
        state = "attached" if self._attached else "detached"
        return (
            f"<PvMmio {self.arch.name} {self.stage2}, {self.decode}, {self.profile}, {state}: {self.exits!r}>"
        )


def _one_of(what: str, word: str, words: Sequence[str]) -> str:
    if word not in words:
        raise ValueError(f"{what}={word!r}: this engine takes {', '.join(map(repr, words))}")
    return word

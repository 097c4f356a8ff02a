"""Port I/O on the PIO bus, the same for both ways of decoding.

Source: arch/x86/kvm/x86.c (kvm_fast_pio, emulator_pio_in_out).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .exits import Access, Exit, ExitLog, Reason, Route, Steps, heaviest
from .vm import Vm

__all__ = ["PortPath"]

PortUserspace = Callable[[bool, int, int, int, bytes, int, Steps], bytes]
"""``(write, port, size, count, data, pc, steps)`` to the bytes of an input."""


class PortPath:
    """Takes the elements of in, out, ins and outs over the bus, to user space if nobody claims them."""

    def __init__(self, vm: Vm, log: ExitLog, userspace: PortUserspace) -> None:
        self._vm, self._log, self._userspace = vm, log, userspace

    def port_write(self, port: int, data: bytes, pc: int, steps: Steps) -> None:
        """One element of output."""
        accesses: list[Access] = []
        with self._recording(port, True, pc, steps, accesses):
            access = self._vm.port_write(port, data, steps)
            if access is None:
                self._userspace(True, port, len(data), 1, data, pc, steps)
                access = Access(True, port, len(data), data, Route.USERSPACE)
            accesses.append(access)

    def port_read(self, port: int, size: int, count: int, pc: int, steps: Steps) -> bytes:
        """``count`` elements of input: user space is asked for all at once if nobody claims the first.

        Where a later one is not claimed the rest is zero, as in the kernel.
        """
        accesses: list[Access] = []
        with self._recording(port, False, pc, steps, accesses):
            while len(accesses) < count:
                access = self._vm.port_read(port, size, steps)
                if access is None:
                    break
                accesses.append(access)
            if not accesses:
                data = self._userspace(False, port, size, count, b"\xff" * (size * count), pc, steps)
                accesses.append(Access(False, port, size * count, data, Route.USERSPACE))
        return b"".join(access.data for access in accesses).ljust(size * count, b"\0")

    @contextmanager
    def _recording(
        self, port: int, write: bool, pc: int, steps: Steps, accesses: list[Access]
    ) -> Iterator[None]:
        """Write the exit down, also where a device or the callback raises."""
        try:
            yield
        except BaseException as error:
            note = f"{type(error).__name__}: {error}"
            self._log.append(Exit(Reason.IO, pc, port, write, (), Route.ERROR, steps, note))
            raise
        route = heaviest(access.route for access in accesses)
        self._log.append(Exit(Reason.IO, pc, port, write, tuple(accesses), route, steps))

"""Callbacks of the engine, through whose frames no exception may pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .exits import Steps
from .ports import PortPath
from .runloop import RunLoop

__all__ = ["GuardedPorts", "guarded"]

_Answer = TypeVar("_Answer")


class GuardedPorts:
    """A `PortHandler` whose exceptions end the run instead of the callback."""

    def __init__(self, ports: PortPath, loop: RunLoop) -> None:
        self._ports, self._loop = ports, loop

    def port_write(self, port: int, data: bytes, pc: int, steps: Steps) -> None:
        """One element of output."""
        guarded(self._loop, lambda: self._ports.port_write(port, data, pc, steps), None)

    def port_read(self, port: int, size: int, count: int, pc: int, steps: Steps) -> bytes:
        """``count`` elements of input."""
        zeroes = bytes(size * count)
        return guarded(self._loop, lambda: self._ports.port_read(port, size, count, pc, steps), zeroes)


def guarded(loop: RunLoop, call: Callable[[], _Answer], default: _Answer) -> _Answer:
    """Call, unless the run has failed already; keep what it raises for the caller of ``emu_start``.

    The binding would print it, hide it behind a UcError or hand garbage to the guest (unicorn #1386, #1987).
    """
    if loop.failed:
        return default
    try:
        return call()
    except BaseException as error:  # the engine's C frames are above: nothing may pass through them
        loop.fail(error)
        return default

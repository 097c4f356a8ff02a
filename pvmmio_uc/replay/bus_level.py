"""The replay without a CPU: what an access comes to (``tx``) is recorded, and only the bus is asked.

That foretells the exits, the eventfds, and the bytes of memory that the recorded writes themselves
reach; registers and the end of the step are the CPU's business.
"""

from __future__ import annotations

from ..exits import Steps
from ..vm import Vm, split_pages
from .layout import DATA, DATA_BASE, RAM_SIZE, ROM, ROM_BASE, answer, runs, string_answer
from .level import Recorder
from .steps import GuestAccess, MemoryRead, MemoryWrite, PortWrite, Result, Transaction, VmOptions

__all__ = ["BusLevel"]


class BusLevel:
    """A VM, its memory, and nobody in it. Makes no use of ``code`` and ``registers``.

    ``vm`` is one that another level has set up already.
    """

    def __init__(self, options: VmOptions, vm: Vm | None = None) -> None:
        self.vm = Vm() if vm is None else vm
        if options.irqchip and vm is None:
            self.vm.create_irqchip()
        if options.pit and vm is None:
            self.vm.create_pit()
        self._memory = _Slots(options.rom)
        self._steps = Steps()

    def access(self, step: GuestAccess, recorder: Recorder) -> Result | None:
        """Send the transactions over the bus; None where the scenario has none."""
        if step.transactions is None:
            return None
        self._memory.refill()
        for transaction in step.transactions:
            self._perform(transaction, recorder)
        return {**recorder.result(), "ram": runs(self._memory.changed())}

    def comparable(self, step: GuestAccess, recorded: Result) -> Result:
        """Exits, eventfds, and of the changed memory what a recorded write accounts for."""
        reached: set[int] = set()
        for transaction in step.transactions or ():
            if isinstance(transaction, MemoryWrite):
                reached.update(range(transaction.gpa, transaction.gpa + len(transaction.data)))
        changed = {
            gpa + offset: byte
            for gpa, data in recorded["ram"]
            for offset, byte in enumerate(bytes.fromhex(data))
            if gpa + offset in reached
        }
        return {"ex": recorded["ex"], "ev": recorded["ev"], "ram": runs(changed)}

    def close(self) -> None:
        """Drop the registrations."""
        self.vm.close()

    def _perform(self, transaction: Transaction, recorder: Recorder) -> None:
        def userspace(write: bool, address: int, data: bytes) -> bytes:
            supplied = data if write else answer(address, len(data))
            recorder.exit("W" if write else "R", address, len(data), supplied.hex())
            return supplied

        if isinstance(transaction, MemoryWrite):
            gpa, data = transaction
            pieces = [(at, data[at - gpa : at - gpa + size]) for at, size in split_pages(gpa, len(data))]
            self.vm.write(pieces, self._memory, self._steps, userspace)
        elif isinstance(transaction, MemoryRead):
            self.vm.read(split_pages(*transaction), self._memory, self._steps, userspace)
        elif isinstance(transaction, PortWrite):
            port, data = transaction
            if self.vm.port_write(port, data, self._steps) is None:
                recorder.exit("O", port, len(data), 1, data.hex())
        else:
            self._port_input(*transaction, recorder)

    def _port_input(self, port: int, size: int, count: int, recorder: Recorder) -> None:
        """The first element decides whether all of them are user space's (emulator_pio_in_out)."""
        if self.vm.port_read(port, size, self._steps) is None:
            recorder.exit("I", port, size, count, string_answer(port, size, count).hex())


class _Slots:
    """The memory slots. Pieces arrive split at pages, so that none lies in two of them."""

    def __init__(self, rom: bool) -> None:
        self._ram = bytearray(RAM_SIZE)
        self._rom = ROM if rom else b""

    def refill(self) -> None:
        """Write the DATA pattern, as before each access."""
        self._ram[DATA_BASE : DATA_BASE + len(DATA)] = DATA

    def changed(self) -> dict[int, int]:
        """The DATA bytes that are not the pattern any more, by address."""
        now = self._ram[DATA_BASE : DATA_BASE + len(DATA)]
        if now == DATA:
            return {}
        return {
            DATA_BASE + at: byte for at, (byte, was) in enumerate(zip(now, DATA, strict=True)) if byte != was
        }

    def read(self, gpa: int, size: int) -> bytes | None:
        """From RAM or from the read-only slot."""
        if gpa + size <= RAM_SIZE:
            return bytes(self._ram[gpa : gpa + size])
        offset = gpa - ROM_BASE
        if offset >= 0 and offset + size <= len(self._rom):
            return self._rom[offset : offset + size]
        return None

    def write(self, gpa: int, data: bytes) -> bool:
        """Into RAM alone: writes to a read-only slot are the bus's."""
        if gpa + len(data) > RAM_SIZE:
            return False
        self._ram[gpa : gpa + len(data)] = data
        return True

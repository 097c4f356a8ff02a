"""One row: run the rings, count what arrived and what it took."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..arch.base import Arch
from ..arch.layout import StubWords
from ..assembler import assemble
from ..eventfd import EventFd
from ..exits import Steps
from ..hypercall.operations import MOST_ELEMENTS
from ..machine import Machine
from .routes import Cell, Doorbell, doorbell_of

__all__ = ["Row", "measure"]


@dataclass(frozen=True, slots=True)
class Row:
    """What a cell did: ``ns`` is host time per ring of this run, loop and all, in nanoseconds.

    ``discovery`` is how many exits a guest takes, once, to find and enable the interface: calls, and
    the cpuid, rdmsr and wrmsr that exit on hardware.
    """

    cell: Cell
    rings: int
    signals: int
    exits: int
    steps: Steps
    ns: float
    stub_instructions: int
    stub_bytes: int
    discovery: int = 0

    @property
    def ok(self) -> bool:
        """Whether every ring arrived, once."""
        return self.signals == self.rings

    def as_dict(self) -> dict[str, object]:
        """Flat, for JSON and CSV; steps are per ring."""
        cell = self.cell
        return {
            "arch": cell.arch,
            "route": cell.route.name,
            "stage2": cell.stage2,
            "decode": cell.decode,
            "profile": None if cell.route.pio else cell.route.profile,
            "in_linux": cell.in_linux,
            "rings": self.rings,
            "signals": self.signals,
            "exits": self.exits,
            **{f"{name}_per_ring": count / self.rings for name, count in self.steps.as_dict().items()},
            "host_ns_per_ring": round(self.ns, 1),
            "stub_instructions": self.stub_instructions,
            "stub_bytes": self.stub_bytes,
            "discovery_exits": self.discovery,
            "exits_per_170": round(self.exits * MOST_ELEMENTS / self.rings, 2),
            "unmodified_driver": cell.route.unmodified,
            "windows_guest": cell.route.windows,
        }


def measure(cell: Cell, rings: int) -> Row:
    """Run ``rings`` doorbell rings of this cell in a fresh guest, with paging on where the engine has it."""
    with _machine(cell) as machine, EventFd(blocking=False) as eventfd:
        bell = doorbell_of(machine, cell.route)
        cell.route.register(machine.pv, eventfd, bell)
        stub, discovery = _stub(machine, cell, bell, eventfd, rings)
        start, end = machine.load(stub.text)
        log = machine.pv.exits
        log.clear()
        began = time.perf_counter_ns()
        machine.uc.emu_start(start, end)
        elapsed = time.perf_counter_ns() - began
        signals = eventfd.read() if eventfd.count else 0
        instructions, size = _ring_size(machine, stub)
        found = discovery + machine.pv.questions
        return Row(cell, rings, signals, log.total, log.steps, elapsed / rings, instructions, size, found)


def _machine(cell: Cell) -> Machine:
    call = cell.route.call
    bits = call.bits if call is not None else None
    return Machine(
        cell.arch,
        bits=bits,
        paging=(cell.arch, bits) != ("ppc", 64),
        stage2=cell.stage2,
        decode=cell.decode or "software",
        profile=cell.route.profile,
        exit_limit=0,
    )


def _stub(
    machine: Machine, cell: Cell, bell: Doorbell, eventfd: EventFd, rings: int
) -> tuple[StubWords, int]:
    """What the guest runs, and how many exits it took to find the interface."""
    call = cell.route.call
    if call is None:
        make = machine.port_doorbell if cell.route.pio else machine.doorbell
        return make(bell.address, size=bell.size, value=bell.value, count=rings), 0
    call.prepare(machine, eventfd, bell.address, bell.size, bell.value)
    if call.discovery:
        machine.run(call.discovery)
    return call.words(machine, bell.address, bell.size, bell.value, rings), machine.pv.exits.total


def _ring_size(machine: Machine, stub: StubWords) -> tuple[int, int]:
    """Instructions and bytes that one notification takes in the driver."""
    code = assemble(machine.platform.dialect, stub.ring)
    arch: Arch = machine.pv.arch
    instructions, at = 0, 0
    while at < len(code):
        at += arch.instruction_length(code[at:]) or len(code)
        instructions += 1
    return instructions, len(code)

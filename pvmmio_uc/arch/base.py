"""What an architecture is to the rest of the package, and the recipe for the next one.

To add an architecture ``foo``, make the folder ``arch/foo`` with the files of its neighbours, one
class behind `Arch`, and a line in ``arch/__init__.ARCHES``. Each tier is useful alone; state the
highest that works in `Arch.tiers`, and the test matrix covers it:

* **T0 runs**: ``machine.py`` sets up a ready guest and assembles stubs; ``registers.py`` names
  registers and moves pc. Test gate: ``tests/test_machine.py``.
* **T1 MMIO**: ``decode.py`` turns the bytes of a plain load or store into a `LoadStore`; the kinds of
  stage 2 go into ``pvmmio_uc/stage2.py``. Test gate: ``tests/arch/test_loadstore.py``.
* **T2 hypercalls**: ``trap.py`` hooks the instruction; the conventions are in ``pvmmio_uc/hypercall``.
* **T3 exact pc**: the pc of every exit is that of the instruction, with ``decode="software"``.
* **T4 page walk**: ``paging.py`` walks the guest's own tables. Test gate:
  ``tests/arch/foo/test_paging_foo.py``.
* **T5 interrupts**: delivers one to the guest.

Then add the row to the support matrix in README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from unicorn import Uc

from ..device import ByteOrder
from ..exits import Steps
from ..hypercall.cpu import Call, Outcome
from .paging import ReadPhysical, Walk

PAGE_SIZE = 4096

__all__ = ["Arch", "CallHandler", "Fault", "Fetched", "LoadStore", "MsrHooks", "PortHandler", "fetch"]


class Fetched(NamedTuple):
    """Instruction bytes at ``pc``: as many as one fetch brings, and what the page walk loaded.

    ``code`` is empty where the guest's tables do not translate pc (``walk`` says why) or where it is
    not in memory.
    """

    pc: int
    code: bytes
    loads: int
    walk: Walk


@dataclass(slots=True)
class Fault:
    """An access that no memory slot takes, as the hardware reports it.

    ``gpa`` is the first byte that faulted, ``size`` what the engine says of the width.
    """

    gpa: int
    size: int
    write: bool
    fetch: bool = False


@dataclass(slots=True)
class LoadStore:
    """One load or store, decoded and with its registers read.

    ``gva`` is the linear or effective address (its lower half is not yet translated), ``data`` the
    guest-memory image to be stored, empty for a load. ``load`` writes the target register, given the
    image that a load got; ``writeback`` the base register of the forms that have one; both leave pc
    alone. ``note`` names what a hypervisor would not have completed.
    """

    length: int
    write: bool
    size: int
    gva: int
    data: bytes
    load: Callable[[bytes], None]
    writeback: Callable[[], None]
    note: str = ""


def nothing(*_: object) -> None:
    """The ``load`` of a store, the ``writeback`` of a form without one."""


class PortHandler(Protocol):
    """Who takes port I/O off the engine's hands."""

    def port_write(self, port: int, data: bytes, pc: int, steps: Steps) -> None:
        """One element of output."""

    def port_read(self, port: int, size: int, count: int, pc: int, steps: Steps) -> bytes:
        """``count`` elements of input at once, for string forms; otherwise one."""


class CallHandler(Protocol):
    """Who takes hypercall instructions off the engine's hands."""

    def call(self, call: Call) -> Outcome:
        """Do it; an architectural exception has been arranged for when this returns."""

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int] | None:
        """What the hypervisor says at a leaf, None for the processor's own."""

    def read_msr(self, index: int) -> int | None:
        """What the hypervisor says of a model-specific register, None for the processor's own."""

    def write_msr(self, index: int, value: int) -> bool:
        """Whether the hypervisor has taken the write, or arranged for the exception that it gets."""

    def restart(self) -> None:
        """Leave the engine before the next block, and go on."""

    def advance(self, length: int) -> None:
        """Move pc."""

    def code_order(self) -> ByteOrder:
        """The byte order of instructions now."""

    def fail(self, error: BaseException) -> None:
        """End the run with this error."""


class MsrHooks(Protocol):
    """Hooks that follow the guest's code."""

    def prepare(self, begin: int) -> None:
        """Before the engine starts at ``begin``."""

    def forget(self) -> None:
        """The guest's code may have changed."""

    def remove(self) -> None:
        """Take them out of the engine."""


class Arch(Protocol):
    """One architecture, bound to one engine."""

    name: str
    tiers: frozenset[str]
    stage2_kinds: tuple[str, ...]
    has_ports: bool
    max_insn_bytes: int

    def __init__(self, uc: Uc) -> None: ...

    def start_address(self) -> int:
        """What ``emu_start`` takes to go on at the current pc (x86: a linear address in 16-bit mode)."""

    def go_to(self, address: int) -> None:
        """Put pc where ``emu_start`` puts it for this address."""

    def is_at(self, address: int) -> bool:
        """Whether pc is at what ``emu_start`` would be given as this address."""

    def pc(self) -> int:
        """The pc register."""

    def set_pc(self, pc: int) -> None:
        """Move it."""

    def advance_pc(self, length: int) -> None:
        """Move it behind an instruction of ``length`` bytes, wrapping as the CPU does."""

    def settle_exception(self) -> None:
        """After an exception that ended the run: put pc at the instruction where the engine has it behind."""

    def fetch_address(self, read: ReadPhysical) -> int:
        """The guest virtual (x86: linear) address of the instruction at pc."""

    def data_order(self) -> ByteOrder:
        """The byte order of data accesses now."""

    def callback_order(self) -> ByteOrder:
        """The order in which the engine's MMIO callbacks turn bytes into a value."""

    def walk(self, read: ReadPhysical, gva: int, *, fetch: bool = False) -> Walk:
        """Translate through the guest's own tables."""

    def decode(self, read: ReadPhysical, code: bytes) -> LoadStore | None:
        """The load or store at pc, whose bytes ``code`` begins with, or None: not one that is known."""

    def disassemble(self, code: bytes, pc: int) -> str:
        """One line for people."""

    def instruction_length(self, code: bytes) -> int:
        """In bytes; 0 where ``code`` does not begin with an instruction."""

    def install_ports(self, read: ReadPhysical, handler: PortHandler) -> list[Any]:
        """Hook port I/O; the hook handles, none where there are no ports."""

    def install_calls(self, read: ReadPhysical, handler: CallHandler) -> list[Any]:
        """Hook hypercall instructions (and cpuid); the hook handles."""

    def install_msrs(self, read: ReadPhysical, handler: CallHandler) -> MsrHooks | None:
        """Hook model-specific registers; None where there are none."""

    def register(self, name: str) -> int:
        """The engine's number of a register by its manual name. ValueError where there is none."""

    def user_mode(self) -> bool:
        """CPL above 0, EL0, MSR.PR."""

    def protected_mode(self) -> bool:
        """CR0.PE on x86; True elsewhere."""

    def call_bits(self, read: ReadPhysical) -> int:
        """The width that a hypervisor takes hypercall registers in: 32 or 64."""


def fetch(arch: Arch, read: ReadPhysical) -> Fetched:
    """The bytes at pc as a hypervisor fetches them: walk, then copy to the page end at most.

    Where the instruction goes on behind the page end the next page is walked and copied too.
    """
    pc = arch.pc()
    gva = arch.fetch_address(read)
    walk = arch.walk(read, gva, fetch=True)
    if walk.gpa is None:
        return Fetched(pc, b"", len(walk.loads), walk)
    size = min(arch.max_insn_bytes, PAGE_SIZE - gva % PAGE_SIZE)
    code = read(walk.gpa, size) or b""
    loads = len(walk.loads)
    if code and size < arch.max_insn_bytes and not arch.instruction_length(code):
        further = arch.walk(read, gva + size, fetch=True)
        loads += len(further.loads)
        if further.gpa is not None:
            code += read(further.gpa, arch.max_insn_bytes - size) or b""
    return Fetched(pc, code, loads, walk)

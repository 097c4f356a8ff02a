"""The end of a guest that the engine gives up on, told with addresses and what to do."""

from __future__ import annotations

from unicorn import UcError
from unicorn.unicorn_const import UC_ERR_EXCEPTION, UC_ERR_INSN_INVALID

from .arch.base import Arch, Fetched, fetch
from .errors import GuestError, GuestPageFault
from .exits import Exit, ExitLog, Reason, Route, Steps
from .memory import GuestMemory

__all__ = ["EXPLAINED", "GuestCrash", "explain"]

EXPLAINED = frozenset({UC_ERR_EXCEPTION, UC_ERR_INSN_INVALID})
"""The errors of the engine that say nothing of what the guest did."""


class GuestCrash(GuestError, UcError):  # type: ignore[misc]
    """The guest took an exception, or came to an instruction that the engine does not know.

    The engine delivers no exceptions to its guest: it ends the run with this `UcError`, whose ``errno``
    stays. Hook UC_HOOK_INTR to handle them.
    """

    def __init__(self, message: str, *, pc: int, errno: int) -> None:
        GuestError.__init__(self, message, pc=pc)
        self.errno = errno  # UcError's own __init__ has taken the message for it
        self.args = (message,)

    def __str__(self) -> str:
        return str(self.args[0])


def explain(error: UcError, arch: Arch, memory: GuestMemory, log: ExitLog) -> GuestError:
    """What the guest did: a page that its tables do not map, or the instruction at pc; written down."""
    if error.errno == UC_ERR_EXCEPTION:
        arch.settle_exception()
    insn = fetch(arch, memory.load)
    crash = _page_fault(arch, memory, insn) or GuestCrash(
        f"{error} at pc {insn.pc:#x}: {_line(arch, insn)}; the engine delivers no exceptions to its guest: "
        "mend the guest, or handle it with a hook on UC_HOOK_INTR",
        pc=insn.pc,
        errno=error.errno,
    )
    address = insn.pc if crash.address is None else crash.address
    log.append(Exit(Reason.EXCEPTION, insn.pc, address, False, (), Route.ERROR, Steps(), str(crash)))
    return crash


def _page_fault(arch: Arch, memory: GuestMemory, insn: Fetched) -> GuestPageFault | None:
    """The walk of pc, then of what the instruction at it reaches."""
    walk = insn.walk
    if walk.gpa is not None:
        access = arch.decode(memory.load, insn.code) if insn.code else None
        if access is None:
            return None
        walk = arch.walk(memory.load, access.gva)
        if walk.gpa is not None:
            walk = arch.walk(memory.load, access.gva + access.size - 1)
        if walk.gpa is not None:
            return None
    return GuestPageFault(
        f"the instruction at pc {insn.pc:#x} ({_line(arch, insn)}) reaches {walk.gva:#x}, which the guest's "
        f"page tables do not map ({walk.reason}): map it before the access",
        pc=insn.pc,
        address=walk.gva,
    )


def _line(arch: Arch, insn: Fetched) -> str:
    if not insn.code:
        return "no code there"
    return f"{arch.disassemble(insn.code, insn.pc)}, bytes {insn.code[:8].hex(' ')}"

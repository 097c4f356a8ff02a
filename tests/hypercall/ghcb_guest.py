"""The guest's side of a GHCB: fields written into a page of the board's RAM, and read from it."""

from __future__ import annotations

from pvmmio_uc.hypercall.cpu import Call, Outcome
from pvmmio_uc.hypercall.ghcb import Ghcb

from .fakes import RAM, Board, FakeCpu

VMGEXIT = Call("vmgexit", 0x1000, 4)
MSR = 0xC0010130
PAGE = RAM + 0x2000
BUFFER = PAGE + 0x800
MMIO_READ, MMIO_WRITE, VMMCALL = 0x80000001, 0x80000002, 0x81
NOT_REGISTERED, USAGE, SCRATCH, MISSING, INPUT, EVENT = range(1, 7)

OFFSETS = {
    "cpl": 0xCB,
    "rax": 0x1F8,
    "rcx": 0x308,
    "rdx": 0x310,
    "rbx": 0x318,
    "rsi": 0x330,
    "exit_code": 0x390,
    "info_1": 0x398,
    "info_2": 0x3A0,
    "scratch": 0x3A8,
}
RETURNED = ("rax", "rcx", "rdx", "rbx", "info_1", "info_2")


def put(board: Board, page: int = PAGE, *, hide: tuple[str, ...] = (), usage: int = 0, **fields: int) -> None:
    """Write the fields and mark them, but those in ``hide``."""
    bitmap = 0
    for name, number in fields.items():
        offset = OFFSETS[name]
        board.put(page + offset, number.to_bytes(1 if name == "cpl" else 8, "little"))
        if name not in hide:
            bitmap |= 1 << offset // 8
    board.put(page + 0x3F0, bitmap.to_bytes(16, "little"))
    board.put(page + 0xFFC, usage.to_bytes(4, "little"))


def get(board: Board, name: str, page: int = PAGE) -> int:
    return int.from_bytes(board.get(page + OFFSETS[name], 8), "little")


def valid(board: Board, page: int = PAGE) -> set[str]:
    """The fields that are marked."""
    bitmap = int.from_bytes(board.get(page + 0x3F0, 16), "little")
    names = {name for name, offset in OFFSETS.items() if bitmap >> offset // 8 & 1}
    assert bitmap == sum(1 << OFFSETS[name] // 8 for name in names)
    return names


def exit_with(board: Board, convention: Ghcb | None = None, page: int = PAGE) -> tuple[int, int]:
    """vmgexit; info_1 and info_2. The accesses stay in ``board.accesses``."""
    convention = convention or Ghcb()
    assert convention.write_msr(MSR, page)
    cpu = FakeCpu(board.memory)
    operations = board.operations()
    assert convention.handle(cpu, VMGEXIT, operations) is Outcome.DONE
    assert not cpu.written
    board.accesses = operations.accesses
    board.memory.writes.clear()
    return get(board, "info_1", page), get(board, "info_2", page)

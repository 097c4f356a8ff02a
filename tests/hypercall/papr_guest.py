"""What the PAPR tests share: opcodes, statuses, and one call to its end."""

from __future__ import annotations

from pvmmio_uc.hypercall.cpu import Call, Outcome
from pvmmio_uc.hypercall.papr import Papr

from .fakes import U64, Board, FakeCpu

CI_LOAD, CI_STORE, CACHE_LOAD, CACHE_STORE = 0x3C, 0x40, 0x44, 0x48
ICBI, DCBF, GET_TERM, PUT_TERM, MEMOP, WRITE_LIST = 0x4C, 0x50, 0x54, 0x58, 0xF001, 0xF0C0
SUCCESS, FUNCTION, PRIVILEGE, PARAMETER, NOT_FOUND = 0, U64 - 1, U64 - 2, U64 - 3, U64 - 6
MMIO_CALLS = (CI_LOAD, CI_STORE, CACHE_LOAD, CACHE_STORE, ICBI, DCBF, MEMOP, WRITE_LIST)
SC1 = Call("sc", 0x1000, 4, 1)
COPY, INVERT = 0, 1


def call(board: Board, *arguments: int, convention: Papr | None = None, bits: int = 64) -> dict[str, int]:
    """The registers that the call has set; a call in parts is called until it is done."""
    registers = {f"r{number}": argument for number, argument in enumerate(arguments, 3)}
    cpu = FakeCpu(board.memory, bits=bits, **registers)
    board.accesses, board.parts = [], 0
    outcome = Outcome.RETRY
    while outcome is Outcome.RETRY:
        operations = board.operations()
        outcome = (convention or Papr()).handle(cpu, SC1, operations)
        board.accesses += operations.accesses
        board.parts += 1
    assert outcome is Outcome.DONE
    return cpu.written

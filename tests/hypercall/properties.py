"""One random call against its model: outcome, registers, accesses, what everybody saw, and memory."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping

from pvmmio_uc.hypercall.convention import Convention
from pvmmio_uc.hypercall.cpu import Call, Outcome

from .fakes import RAM, Board, FakeCpu
from .model import CALLS, SEED, BoardModel

Expected = tuple[Outcome, Mapping[str, int]]
"""What becomes of the instruction, and the registers that the call sets."""


class Trial:
    """A board, its model, and the calls of one property.

    ``status`` is the register whose values are counted in ``statuses``: a property that never gets past
    the checks shows nothing.
    """

    def __init__(self, model: BoardModel, status: str) -> None:
        self.board, self.model, self._status = Board(), model, status
        self.outcomes: Counter[Outcome] = Counter()
        self.statuses: Counter[int | None] = Counter()
        self.routes: Counter[str] = Counter()

    def store(self, gpa: int, data: bytes) -> None:
        """Into both memories."""
        if data:
            assert self.model.store(gpa, data)
            self.board.put(gpa, data)

    def call(self, convention: Convention, cpu: FakeCpu, call: Call, expect: Callable[[], Expected]) -> None:
        before = dict(cpu.registers)
        self.model.forget()
        outcome, changes = expect()
        operations = self.board.operations()
        actual = convention.handle(cpu, call, operations)
        assert actual is outcome, _text(call, cpu, before)
        assert cpu.registers == {**before, **changes}, _text(call, cpu, before)
        assert operations.accesses == self.model.accesses, _text(call, cpu, before)
        assert self.board.drain() == self.model.seen, _text(call, cpu, before)
        assert self.board.memory.slots[RAM] == self.model.ram, _text(call, cpu, before)
        self.routes.update(str(access.route) for access in self.model.accesses)
        self.outcomes[outcome] += 1
        self.statuses[changes.get(self._status)] += 1

    def went_everywhere(self, *but: str) -> bool:
        """Whether the calls took every route (``but`` these)."""
        return {"fast", "ioeventfd", "coalesced", "device", "userspace"} - set(but) == set(self.routes)


def _text(call: Call, cpu: FakeCpu, registers: Mapping[str, int]) -> str:
    numbers = " ".join(f"{name}={number:#x}" for name, number in registers.items())
    return f"{call} bits={cpu.bits} user={cpu.user_mode} {numbers}"


def generator() -> random.Random:
    """The same numbers on every run."""
    return random.Random(SEED)


__all__ = ["CALLS", "Expected", "Trial", "generator"]

"""Random register files at PAPR's calls, against a model."""

from __future__ import annotations

import itertools

import pytest

from pvmmio_uc.hypercall.cpu import Outcome
from pvmmio_uc.hypercall.papr import Papr, TerminalBuffer

from .fakes import (
    RAM,
    RAM_SIZE,
    U64,
    Board,
    FakeCpu,
)
from .model import PLACES, PvMmioModel, address, count, fill_list, list_address, size, start, value
from .papr_guest import (
    CACHE_LOAD,
    CACHE_STORE,
    CI_LOAD,
    CI_STORE,
    DCBF,
    FUNCTION,
    ICBI,
    MEMOP,
    NOT_FOUND,
    PARAMETER,
    PRIVILEGE,
    PUT_TERM,
    SC1,
    SUCCESS,
    WRITE_LIST,
    call,
)
from .properties import CALLS, Expected, Trial, generator


class Model(PvMmioModel):
    def __init__(self) -> None:
        super().__init__()
        self.output, self.waiting = b"", b""

    def expect(self, r: list[int], user: bool, host: str) -> Expected:
        if user:
            return {
                "radix": (Outcome.PROTECTION, {}),
                "hash": (Outcome.SYSCALL, {}),
                "tcg": (Outcome.DONE, {"r3": PRIVILEGE}),
            }[host]
        number, *arguments = r
        if number in (CI_LOAD, CACHE_LOAD):
            return self.load_call(*arguments[:2])
        if number in (CI_STORE, CACHE_STORE):
            return self.store_call(*arguments[:3])
        if number == WRITE_LIST:
            reason, done = self.pv_write_list(*arguments[:3], big=True)
            status = {"": SUCCESS, "nobody": NOT_FOUND}.get(reason, PARAMETER)
            return Outcome.DONE, {"r3": status, "r4": done}
        if number == MEMOP:
            return Outcome.DONE, {"r3": self.copy(*arguments)}
        if number == PUT_TERM:
            good = arguments[0] in (0, 0x7100_0000) and arguments[1] <= 16
            text = b"".join(part.to_bytes(8, "big") for part in arguments[2:4])
            self.output += text[: arguments[1]] if good else b""
            return Outcome.DONE, {"r3": SUCCESS if good else PARAMETER}
        return Outcome.DONE, {"r3": SUCCESS if number in (ICBI, DCBF) else FUNCTION}

    def load_call(self, length: int, gpa: int) -> Expected:
        if length not in (1, 2, 4, 8):
            return Outcome.DONE, {"r3": PARAMETER}
        wraps = gpa + length > U64 + 1
        data = b"\xff" * length if wraps else self.read(gpa, length, memory=True)[0]
        return Outcome.DONE, {"r3": SUCCESS, "r4": int.from_bytes(data, "big")}

    def store_call(self, length: int, gpa: int, number: int) -> Expected:
        if length not in (1, 2, 4, 8):
            return Outcome.DONE, {"r3": PARAMETER}
        if gpa + length <= U64 + 1:
            self.write(gpa, number.to_bytes(8, "big")[8 - length :], fast=False, memory=True)
        return Outcome.DONE, {"r3": SUCCESS}

    def copy(self, to: int, source: int, shift: int, elements: int, op: int) -> int:
        """QEMU's loop, an element at a time."""
        unit = 2 ** (shift % 32)
        if elements > 2**31 or to % unit or source % unit or op not in (0, 1):
            return PARAMETER
        if elements == 0:
            return SUCCESS
        if shift > 3:
            return PARAMETER
        order = list(range(elements))
        if source <= to < (source + elements * unit) % 2**64:
            order.reverse()
        for index in order:
            here, there = (source + index * unit) % 2**64, (to + index * unit) % 2**64
            data = self.load(here, unit) or self.read(here, unit)[0]
            data = bytes(255 - byte for byte in data) if op else data
            if not self.store(there, data):
                self.write(there, data, fast=False)
        return SUCCESS


@pytest.mark.parametrize("host", ["radix", "hash", "tcg"])
def test_random_register_files(host: str) -> None:
    rng, model, terminal = generator(), Model(), TerminalBuffer()
    trial, convention = Trial(model, "r3"), Papr(host=host, terminal=terminal)
    numbers = (CI_LOAD, CI_STORE, CACHE_LOAD, CACHE_STORE, MEMOP, WRITE_LIST) * 3 + (
        ICBI,
        DCBF,
        PUT_TERM,
        0,
        U64,
    )
    around = [place - place % 8 for place in PLACES]
    for _ in range(CALLS if host == "radix" else CALLS // 4):
        r = [rng.choice(numbers), size(rng), address(rng), value(rng), value(rng), value(rng)]
        if r[0] == MEMOP:
            steps = (0, 0, 0, 8, 16, -8, 4, 1)
            to, source = ((rng.choice(around) + rng.choice(steps)) & U64 for _ in range(2))
            if rng.random() < 0.3:
                source = (to + rng.choice((-16, -8, 0, 8, 16))) & U64
            shift = rng.choice((0, 1, 2, 3, 3, 4, 33, 1 << 63))
            r[1:] = [
                to,
                source,
                shift,
                rng.choice((0, 1, 2, 5, 9, 1 << 32, U64)),
                rng.choice((0, 0, 1, 1, 2)),
            ]
        elif r[0] == WRITE_LIST:
            r[1:4] = [list_address(rng), count(rng), start(rng)]
            trial.store(r[1], fill_list(rng, model, r[1], r[2], big=True))
        elif r[0] == PUT_TERM:
            r[1:3] = [rng.choice((0, 0x7100_0000, 5)), rng.choice((0, 1, 16, 17, U64))]
        registers = {f"r{index}": r[index - 3] for index in range(3, 9)}
        cpu = FakeCpu(trial.board.memory, user_mode=rng.random() < 0.05, **registers)
        trial.call(convention, cpu, SC1, lambda r=r, c=cpu: model.expect(r, c.user_mode, host))
    assert terminal.output == model.output
    assert trial.went_everywhere(*() if host == "radix" else ("fast",))  # a quarter of the calls
    expected = {SUCCESS, FUNCTION, PARAMETER, NOT_FOUND}
    assert set(trial.statuses) == expected | {PRIVILEGE if host == "tcg" else None}


def test_parts_and_one_long_copy_come_to_the_same() -> None:
    """Against a copy by the element, with parts of a few elements."""
    rng = generator()
    for _ in range(300):
        board, model = Board(), Model()
        convention = Papr()
        convention.MEMOP_PART = rng.choice((1, 2, 3, 7))
        for byte, at in itertools.product((5,), range(0, 0x200, 8)):
            data = bytes((at + index * byte) & 0xFF for index in range(8))
            model.store(RAM + at, data)
            board.put(RAM + at, data)
        to, source = (RAM + 8 * rng.randrange(32) for _ in range(2))
        shift, elements, op = rng.randrange(4), rng.randrange(1, 30), rng.randrange(2)
        assert model.copy(to, source, shift, elements, op) == SUCCESS
        assert call(board, MEMOP, to, source, shift, elements, op, convention=convention)["r3"] == SUCCESS
        assert board.get(RAM, RAM_SIZE) == model.ram

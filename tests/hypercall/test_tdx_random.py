"""Random register files at tdcall, against a model."""

from __future__ import annotations

import random

import pytest

from pvmmio_uc.hypercall.cpu import Call, Outcome
from pvmmio_uc.hypercall.tdx import Tdx

from .fakes import U64, FakeCpu
from .model import PvMmioModel, address, count, fill_list, list_address, port, size, start, value
from .properties import CALLS, Expected, Trial, generator

TDCALL = Call("tdcall", 0x1000, 4)
NAMES = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16))]
BAD, UNKNOWN = 2**63, 2**63 + 3


class Model(PvMmioModel):
    """What the hypervisor sees and answers, and what of it the mask lets through."""

    def expect(self, regs: dict[str, int], shared: int, bits: int, user: bool) -> Expected:
        if user or bits != 64:
            return Outcome.PROTECTION, {}
        if regs["rax"] != 0:
            return Outcome.DONE, {"rax": 0xC000010000000000}
        mask = regs["rcx"]
        if mask >= 2**32 or any(mask // 2**bit % 2 for bit in (0, 1, 4)):
            return Outcome.DONE, {"rax": 0xC000010000000001}
        shown = {name for bit, name in enumerate(NAMES) if mask // 2**bit % 2}
        a = [regs[name] if name in shown else 0 for name in NAMES[10:]]
        if a[0]:
            answers = self.native(*a[:4])
        elif a[1] == 48:
            answers = self.mmio(*a[2:], shared)
        elif a[1] == 30:
            answers = self.io(*a[2:])
        elif a[1] == 0x10000:
            answers = {"r10": BAD} if a[2] > 1 else dict.fromkeys(("r11", "r12", "r13", "r14"), 0)
        else:
            answers = {"r10": UNKNOWN}
        return Outcome.DONE, {name: number for name, number in answers.items() if name in shown}

    def native(self, number: int, gpa: int, length: int, data: int) -> dict[str, int]:
        if number == 26:
            reason, second = self.pv_read(gpa, length)
        elif number == 27:
            reason, second = self.pv_write(gpa, length, data)[0], data
        elif number == 28:
            reason, second = self.pv_write_list(gpa, length, data)
        else:
            return {"r10": 2**64 - 1000, "r13": data}
        errno = {"": 0, "bad": 22, "nobody": 6, "unreadable": 14}[reason]
        return {"r10": -errno % 2**64, "r13": second}

    def mmio(self, length: int, write: int, gpa: int, data: int, shared: int) -> dict[str, int]:
        if length not in (1, 2, 4, 8) or write > 1:
            return {"r10": BAD}
        last = (gpa + length - 1) % 2**64
        if gpa // shared % 2 == 0 or last // shared % 2 == 0:
            return {"r10": BAD}
        gpa -= shared
        if write:
            self.write(gpa, (data % 256**length).to_bytes(length, "little"), fast=True)
            return {}
        return {"r11": int.from_bytes(self.read(gpa, length)[0], "little")}

    def io(self, length: int, write: int, number: int, data: int) -> dict[str, int]:
        if length not in (1, 2, 4) or write > 1:
            return {"r10": BAD}
        if write:
            self.port_write(number % 65536, (data % 256**length).to_bytes(length, "little"))
            return {}
        return {"r11": self.port_read(number % 65536, length)}


def registers(rng: random.Random, shared: int, trial: Trial) -> dict[str, int]:
    regs = {name: value(rng) for name in NAMES}
    regs["rax"] = rng.choice((0,) * 30 + (1, 1 << 32))
    regs["rcx"] = rng.choice(
        (0xFC00, 0xFC00, 0xFFCC, 0xFFCC, rng.getrandbits(16) & 0xFFEC, rng.getrandbits(64))
    )
    regs["r10"] = rng.choice((0, 0, 0, 26, 27, 28, 99, U64))
    regs["r11"] = rng.choice((48, 48, 48, 30, 30, 0x10000, 0, 10, 1 << 32 | 48))
    regs["r12"], regs["r13"] = size(rng), rng.choice((0, 1, 0, 1, 2, 1 << 63))
    regs["r14"] = address(rng) ^ rng.choice((shared,) * 6 + (0, shared << 1))
    if regs["r10"] == 28:
        regs["r11"], regs["r12"], regs["r13"] = list_address(rng), count(rng), start(rng)
        trial.store(regs["r11"], fill_list(rng, trial.model, regs["r11"], regs["r12"]))
    elif regs["r10"]:
        regs["r11"] = address(rng)
    elif regs["r11"] == 30:
        regs["r14"] = port(rng)
    elif regs["r11"] == 0x10000:
        regs["r12"] = rng.choice((0, 1, 2))
    return regs


@pytest.mark.parametrize("shared_bit", [47, 51])
def test_random_register_files(shared_bit: int) -> None:
    rng, model, shared = generator(), Model(), 1 << shared_bit
    trial, convention = Trial(model, "r10"), Tdx(shared_bit)
    for _ in range(CALLS if shared_bit == 47 else CALLS // 4):
        regs = registers(rng, shared, trial)
        bits, user = rng.choice((64,) * 20 + (32,)), rng.random() < 0.05
        cpu = FakeCpu(trial.board.memory, bits=bits, user_mode=user, **regs)
        trial.call(convention, cpu, TDCALL, lambda r=regs, b=bits, u=user: model.expect(r, shared, b, u))
    assert trial.went_everywhere()
    errnos = {-errno % 2**64 for errno in (0, 6, 14, 22, 1000)}
    assert set(trial.statuses) == {None, BAD, UNKNOWN} | errnos
    assert set(trial.outcomes) == {Outcome.DONE, Outcome.PROTECTION}

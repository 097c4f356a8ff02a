"""Random GHCB pages at vmgexit, against a model."""

from __future__ import annotations

import random
import struct

import pytest

from pvmmio_uc.exits import Route
from pvmmio_uc.hypercall.cpu import Outcome
from pvmmio_uc.hypercall.ghcb import Ghcb, GhcbState

from .fakes import NOBODY, RAM, ROM, U64, FakeCpu
from .ghcb_guest import BUFFER, MMIO_READ, MMIO_WRITE, OFFSETS, PAGE, RETURNED, VMGEXIT, VMMCALL
from .model import PvMmioModel, address, count, fill_list, list_address, size, start, value
from .properties import CALLS, Expected, Trial, generator


class Model(PvMmioModel):
    """The page in the model's own RAM, field by field."""

    def field(self, name: str) -> int:
        at = PAGE - RAM + OFFSETS[name]
        return self.ram[at] if name == "cpl" else struct.unpack_from("<Q", self.ram, at)[0]

    def expect(self, msr: int, user: bool, version: int) -> Expected:
        if user:
            return Outcome.UNDEFINED, {}
        if msr != PAGE:
            return Outcome.DONE, {}
        bitmap = int.from_bytes(self.ram[PAGE - RAM + 0x3F0 : PAGE - RAM + 0x400], "little")
        marked = {name for name, offset in OFFSETS.items() if bitmap >> offset // 8 & 1}
        given = {name: self.field(name) if name in marked else 0 for name in OFFSETS}
        code = self.field("exit_code")
        results = {name: given[name] for name in ("rax", "rbx", "rcx", "rdx")}
        error = self.refuse(code, marked)
        if not error and code == VMMCALL:
            results |= self.native(given)
        elif not error:
            error = self.mmio(code == MMIO_WRITE, given["info_1"], given["info_2"], given["scratch"], version)
        results |= {"info_1": 2 if error else 0, "info_2": error}
        for name, number in results.items():
            struct.pack_into("<Q", self.ram, PAGE - RAM + OFFSETS[name], number)
        bits = sum(1 << OFFSETS[name] // 8 for name in RETURNED)
        self.ram[PAGE - RAM + 0x3F0 : PAGE - RAM + 0x400] = bits.to_bytes(16, "little")
        self.error = error
        return Outcome.DONE, {}

    def refuse(self, code: int, marked: set[str]) -> int:
        if struct.unpack_from("<I", self.ram, PAGE - RAM + 0xFFC)[0]:
            return 2
        if not {"exit_code", "info_1", "info_2"} <= marked:
            return 4
        if code in (MMIO_READ, MMIO_WRITE):
            return 0 if "scratch" in marked else 4
        if code == VMMCALL:
            return 0 if {"rax", "cpl"} <= marked else 4
        return 6

    def native(self, given: dict[str, int]) -> dict[str, int]:
        number, rbx, rcx, rdx = (given[name] for name in ("rax", "rbx", "rcx", "rdx"))
        if given["cpl"]:
            return {"rax": U64}
        if number not in (26, 27, 28):
            return {"rax": 2**64 - 1000}
        if number == 27:
            reason, second = self.pv_write(rbx, rcx, rdx)[0], rdx
        elif number == 26:
            reason, second = self.pv_read(rbx, rcx)
        else:
            reason, second = self.pv_write_list(rbx, rcx, rdx)
        return {"rax": -{"": 0, "bad": 22, "nobody": 6, "unreadable": 14}[reason] % 2**64, "rdx": second}

    def mmio(self, write: bool, gpa: int, length: int, scratch: int, version: int) -> int:
        if length == 0:
            return 0
        if version == 2 and length > 8:
            return 5
        inside = PAGE <= scratch < PAGE + 4096
        if scratch == 0 or scratch + length >= 2**64 or (version == 2 and not inside):
            return 3
        if inside and not PAGE + 0x800 <= scratch <= PAGE + 0xFF0 - length:
            return 3
        data = self.load(scratch, length) if length <= 65536 else None
        if data is None:
            return 3
        if gpa + length > 2**64:
            return 5
        answer, refused = b"", False
        for at in range(0, length, 8):
            piece = data[at : at + 8]
            if write:
                self.write(gpa + at, piece, fast=False, refused=refused)
            else:
                answer += self.read(gpa + at, len(piece), refused=refused)[0]
            refused = self.accesses[-1].route is Route.USERSPACE
        if not write:
            self.store(scratch, answer)
        return 0


def fill(rng: random.Random, trial: Trial) -> None:
    """A page with mostly good fields, in both memories."""
    model = trial.model
    code = rng.choice((MMIO_READ, MMIO_WRITE, MMIO_READ, MMIO_WRITE, VMMCALL, VMMCALL, 0x7B, U64))
    fields = {name: value(rng) for name in OFFSETS}
    fields |= {"exit_code": code, "info_1": address(rng), "cpl": rng.choice((0, 0, 0, 0, 3))}
    fields["info_2"] = rng.choice((1, 2, 4, 8, 3, 5, 0, 9, 16, size(rng)))
    near = (BUFFER, BUFFER, BUFFER, PAGE + 0xFE8, PAGE + 0x7FC, RAM + 0x10, ROM, NOBODY, 0, U64)
    fields["scratch"] = (rng.choice(near) + rng.choice((0, 0, 0, 1, 8, -4))) & U64
    fields["rax"], fields["rbx"], fields["rcx"] = rng.choice((26, 27, 28, 12)), address(rng), size(rng)
    if fields["rax"] == 28:
        fields["rbx"], fields["rcx"], fields["rdx"] = list_address(rng), count(rng), start(rng)
        trial.store(fields["rbx"], fill_list(rng, model, fields["rbx"], fields["rcx"]))
    bitmap = 0
    for name, offset in OFFSETS.items():
        width = 1 if name == "cpl" else 8
        trial.store(PAGE + offset, (fields[name] & 256**width - 1).to_bytes(width, "little"))
        bitmap |= (rng.random() < 0.97) << offset // 8
    trial.store(PAGE + 0x3F0, bitmap.to_bytes(16, "little"))
    trial.store(PAGE + 0xFFC, rng.choice((0,) * 40 + (1, 1 << 31)).to_bytes(4, "little"))


@pytest.mark.parametrize("version", [1, 2])
def test_random_pages(version: int) -> None:
    rng, model = generator(), Model()
    trial = Trial(model, "")
    errors: set[int] = set()
    trial.store(PAGE, rng.randbytes(4096))  # what is between the fields is nobody's business
    for _ in range(CALLS // 2):
        fill(rng, trial)
        msr, user = rng.choice((PAGE,) * 30 + (0, NOBODY, ROM)), rng.random() < 0.05
        cpu = FakeCpu(trial.board.memory, user_mode=user)
        convention = Ghcb(GhcbState(msr=msr), version=version)
        model.error = 0
        trial.call(convention, cpu, VMGEXIT, lambda m=msr, u=user: model.expect(m, u, version))
        errors.add(model.error)
    assert errors == {0, 2, 3, 4, 5, 6}
    assert trial.went_everywhere()

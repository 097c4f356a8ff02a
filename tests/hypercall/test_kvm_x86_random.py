"""Random register files at vmcall, against a model."""

from __future__ import annotations

import itertools

from pvmmio_uc.hypercall.cpu import Outcome
from pvmmio_uc.hypercall.kvm import KvmX86

from .fakes import (
    U32,
    U64,
    FakeCpu,
)
from .kvm_x86_guest import (
    EFAULT,
    EINVAL,
    ENOSYS,
    ENXIO,
    EPERM,
    READ,
    VMCALL,
    WRITE,
    WRITE_LIST,
    both,
    error,
    registers,
)
from .model import PvMmioModel, address, count, fill_list, list_address, size, start, value
from .properties import CALLS, Expected, Trial, generator


class Model(PvMmioModel):
    """The convention once more, from its table."""

    def expect(self, regs: dict[str, int], bits: int, user: bool) -> Expected:
        mask = U64 if bits == 64 else U32
        if user:
            return Outcome.DONE, {"rax": -EPERM & mask}
        number = regs["rax"] & mask
        if number not in (READ, WRITE, WRITE_LIST):
            return Outcome.DONE, {"rax": -ENOSYS & mask}
        a, b, c, d = (regs[name] & mask for name in ("rbx", "rcx", "rdx", "rsi"))
        if bits == 32 and number != WRITE_LIST:
            a, b, c = a + (b // 256) * 2**32, b % 256, c + d * 2**32
        if number == READ:
            reason, second = self.pv_read(a, b)
        elif number == WRITE:
            reason, second = self.pv_write(a, b, c)
        else:
            reason, second = self.pv_write_list(a, b, c)
        status = {"": 0, "bad": EINVAL, "nobody": ENXIO, "unreadable": EFAULT}[reason]
        changes = {"rax": -status & mask}
        if number != WRITE:
            changes["rdx"] = second & mask
        if number == READ and bits == 32:
            changes["rsi"] = second >> 32
        return Outcome.DONE, changes


@both
def test_random_register_files(bits: int) -> None:
    rng, model = generator(), Model()
    trial, convention = Trial(model, "rax"), KvmX86()
    numbers = itertools.chain((READ, WRITE, WRITE_LIST) * 3, (WRITE | 1 << 32, 0, 12, 25, 29, U64))
    pool = tuple(numbers)
    for _ in range(CALLS):
        number = rng.choice(pool)
        if number & U32 == WRITE_LIST:
            regs = {"rax": number, "rbx": list_address(rng), "rcx": count(rng), "rdx": start(rng), "rsi": 0}
            trial.store(regs["rbx"], fill_list(rng, model, regs["rbx"], regs["rcx"]))
        else:
            regs = registers(64, number, address(rng), size(rng), value(rng))
            regs["rsi"] = value(rng)
            if bits == 32 and rng.random() < 0.8:
                regs["rcx"] = regs["rcx"] & 0xFF | regs["rbx"] >> 32 << 8 & U32
        cpu = FakeCpu(trial.board.memory, bits=bits, user_mode=rng.random() < 0.05, **regs)
        trial.call(convention, cpu, VMCALL, lambda r=regs, c=cpu: model.expect(r, bits, c.user_mode))
    assert trial.went_everywhere()
    assert set(trial.statuses) == {
        0,
        *(error(number, bits) for number in (EPERM, ENXIO, EFAULT, EINVAL, ENOSYS)),
    }

"""Random bytes as guest code, with devices around; run in a process of its own, which a crash would end.

    python -m tests.random_guest ARCH DECODE CASES SEED

Prints how the runs ended, and what they left behind.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from collections import Counter

from unicorn import UcError
from unicorn.unicorn_const import UC_ERR_EXCEPTION, UC_ERR_INSN_INVALID

from pvmmio_uc import AccessRefused, EventFd, GuestError

from .plugin_guests import VARIANTS, Guest

CASES_PER_GUEST = 250
REGISTERS = {
    "x86": ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp"),
    "arm64": tuple(f"x{number}" for number in range(31)),
    "ppc": tuple(f"r{number}" for number in range(32)),
}
EXPECTED = {UC_ERR_EXCEPTION, UC_ERR_INSN_INVALID}


class Fussy:
    """A device that refuses some widths."""

    def mmio_read(self, offset: int, size: int) -> int:
        """The offset, in every byte."""
        return (offset & 0xFF) * 0x0101_0101_0101_0101

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Not for 2 bytes."""
        if size == 2:
            raise AccessRefused("not 2 bytes")


def run_case(guest: Guest, case: int, chance: random.Random) -> str:
    """One piece of code, with some registers at the devices; how it ended."""
    code_at = guest.machine.platform.code
    interesting = (guest.mmio, guest.mmio + 8, guest.mmio + 0xFFE, guest.mmio + 0x1000, code_at, guest.ram, 0)
    for name in REGISTERS[guest.arch]:
        guest.machine[name] = chance.choice((*interesting, chance.getrandbits(32)))
    code = chance.randbytes(chance.choice((4, 16, 64)))
    guest.uc.mem_write(code_at, code)
    guest.uc.ctl_flush_tb()
    timeout, count = ((0, 8), (500, 0), (0, 1), (0, 1))[case % 4]
    try:
        guest.uc.emu_start(code_at, code_at + len(code), timeout, count)
    except GuestError as error:
        return type(error).__name__
    except UcError as error:
        return "expected UcError" if error.errno in EXPECTED else f"{error} {code.hex()}"
    return "done"


def run_guest(arch: str, number: int, decode: str, seed: int, cases: int, endings: Counter[str]) -> None:
    """So many cases in one guest; each starts from the same registers."""
    variants = [variant for name, variant in VARIANTS if name == arch]
    chance = random.Random(f"{seed} {number}")
    with (
        EventFd(blocking=False) as bell,
        Guest(arch, variants[number % len(variants)], decode=decode, exit_limit=100) as guest,  # type: ignore[arg-type]
    ):
        guest.pv.ioeventfd(bell, guest.mmio)
        guest.pv.ioeventfd(bell, guest.mmio + 0x10, 4)
        guest.pv.coalesced(guest.mmio + 0x100, 0x100)
        guest.pv.device(guest.mmio + 0x1000, 0x100, Fussy())
        fresh = guest.uc.context_save()
        hooks = len(guest.uc._callbacks)
        for case in range(cases):
            guest.uc.context_restore(fresh)
            endings[run_case(guest, case, chance)] += 1
        if len(guest.uc._callbacks) != hooks or guest.uc._mmio_callbacks:
            endings["left hooks or windows behind"] += 1


def main(arch: str, decode: str, cases: int, seed: int) -> None:
    """Run them all and print the counts as JSON."""
    endings: Counter[str] = Counter()
    run_guest(arch, 0, decode, seed, 1, Counter())
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for number in range(-(-cases // CASES_PER_GUEST)):
        run_guest(arch, number, decode, seed, min(CASES_PER_GUEST, cases), endings)
    left = (len(os.listdir("/proc/self/fd")) - descriptors, threading.active_count() - threads)
    print(json.dumps({"endings": endings, "left": left}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

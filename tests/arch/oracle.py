"""The engine's own translation, which the walkers are compared with."""

from __future__ import annotations

import ctypes

from unicorn import Uc
from unicorn.unicorn_const import UC_ERR_OK, UC_PROT_EXEC, UC_PROT_READ
from unicorn.unicorn_py3.unicorn import uclib

from pvmmio_uc.arch.paging import ReadPhysical


def translate(uc: Uc, gva: int, *, fetch: bool = False) -> int | None:
    """Return the gpa that the engine's MMU makes of ``gva``, None where it faults.

    uc_vmem_translate is exported by the library and not bound in Python.
    """
    gpa = ctypes.c_uint64()
    status = uclib.uc_vmem_translate(
        uc._uch,
        ctypes.c_uint64(gva),
        ctypes.c_int(UC_PROT_EXEC if fetch else UC_PROT_READ),
        ctypes.byref(gpa),
    )
    return gpa.value if status == UC_ERR_OK else None


def reader(uc: Uc, size: int) -> ReadPhysical:
    """Return a ``read`` over the engine's memory, which is mapped from 0 to ``size``."""

    def read(gpa: int, count: int) -> bytes | None:
        return bytes(uc.mem_read(gpa, count)) if 0 <= gpa <= size - count else None

    return read

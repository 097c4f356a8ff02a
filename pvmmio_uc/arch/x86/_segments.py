"""The hidden halves of the segment registers, which the engine's API does not show.

A base outlives the descriptor that it was loaded from, and CR0.PE, too: that is how 16-bit code reaches a
device above 1 MiB. The engine's saved context contains them; where they lie in it depends on the build, so
it is found by a run of private engines. Afterwards a look is one save of the context (the engine must not
have ``UC_CTL_CONTEXT_MEMORY`` in its context mode: each save would then snapshot its memory, too).
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from typing import Final

from unicorn import Uc
from unicorn.unicorn_const import UC_ARCH_X86, UC_MODE_16, UC_MODE_32, UC_MODE_64
from unicorn.x86_const import UC_X86_REG_FS_BASE, UC_X86_REG_GS_BASE

__all__ = ["HiddenSegments", "find_segments"]

_NAMES = ("es", "cs", "ss", "ds", "fs", "gs")
_ENTRY = 24
_BASE = struct.Struct("=Q")
_FLAGS = struct.Struct("=I")
_FLAGS_BEFORE = 8
_CODE_32 = 1 << 4
_CODE_64 = 1 << 15
_PATTERNS = (0x5EAD_1001_1234, 0x3BFE_2202_5678)
_MODES = {UC_MODE_16: 16, UC_MODE_32: 32, UC_MODE_64: 64}


class HiddenSegments:
    """Segment bases and the size of code of one engine, as they are at the time of the question."""

    def __init__(self, uc: Uc, bases: int) -> None:
        """``bases`` is the byte offset of the base of ES in a saved context."""
        self._uc, self._bases = uc, bases
        self._context: Final = uc.context_save()
        size: int = self._context.size
        self._bytes: Final = (ctypes.c_char * size).from_address(self._context.context.value)

    def base(self, name: str) -> int:
        """The linear address that a segment starts at."""
        self._uc.context_update(self._context)
        base: int = _BASE.unpack_from(self._bytes, self._bases + _ENTRY * _NAMES.index(name))[0]
        return base

    def code_bits(self) -> int:
        """16, 32 or 64."""
        self._uc.context_update(self._context)
        return _code_bits(self._bytes, self._bases)


def _code_bits(context: bytes | ctypes.Array[ctypes.c_char], bases: int) -> int:
    flags: int = _FLAGS.unpack_from(context, bases - 8 - _FLAGS_BEFORE)[0]
    return 64 if flags & _CODE_64 else 32 if flags & _CODE_32 else 16


@cache
def find_segments() -> int | None:
    """The offset that `HiddenSegments` takes; None where this build of the engine has another layout."""
    fs, gs = _place(UC_X86_REG_FS_BASE), _place(UC_X86_REG_GS_BASE)
    if fs is None or gs != fs + _ENTRY:
        return None
    bases = fs - _ENTRY * _NAMES.index("fs")
    if bases < 8 + _FLAGS_BEFORE:
        return None
    for mode, bits in _MODES.items():
        if _code_bits(bytes(Uc(UC_ARCH_X86, mode).context_save()), bases) != bits:
            return None
    return bases


def _place(register: int) -> int | None:
    """Where the one word is that follows ``register``."""
    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    common: set[int] | None = None
    for pattern in _PATTERNS:
        uc.reg_write(register, pattern)
        context, word = bytes(uc.context_save()), _BASE.pack(pattern)
        found = {at for at in range(0, len(context) - 7, 8) if context[at : at + 8] == word}
        common = found if common is None else common & found
    return common.pop() if common is not None and len(common) == 1 else None

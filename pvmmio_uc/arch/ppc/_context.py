"""SPRs and segment registers, which the engine's API does not show but its saved context contains.

Where they lie in it depends on the build, so it is found by a run: a private engine of the same CPU model
executes ``mtspr`` and ``mtsr`` with values that can be recognised, and the places that follow them are the
ones. The user's engine executes nothing. Afterwards a read is one save of the context (the user's engine
must not have ``UC_CTL_CONTEXT_MEMORY`` in its context mode: each save would then snapshot its memory, too).
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from unicorn import Uc, UcError
from unicorn.ppc_const import UC_PPC_REG_3, UC_PPC_REG_CTR, UC_PPC_REG_LR
from unicorn.unicorn_const import (
    UC_ARCH_PPC,
    UC_MODE_BIG_ENDIAN,
    UC_MODE_PPC32,
    UC_MODE_PPC64,
    UC_TLB_VIRTUAL,
)

from ...errors import UnsupportedArchitecture

__all__ = ["BATS", "SavedContext", "read_segment_register", "read_spr", "saved_context"]

BATS: Final = 8
"""Room for BAT pairs of either kind; the upper four stay 0 on a model that has only four."""

_SPR_CTR, _SPR_LR = 9, 8
_SPRS = 1024
_COMPUTED_SPRS = frozenset({1, 22, 268, 269, 284, 285})
"""XER, DEC, and TBL and TBU to read and to write."""

_SPRG0, _SPRG3 = 272, 275
_IBAT0U, _DBAT0U, _IBAT4U, _DBAT4U = 528, 536, 560, 568
_SPRG_PATTERNS = (0x5EAD_1001, 0x3BFE_2202)
_SEGMENT_PATTERNS = (0x00AD_1001, 0x00FE_2202)
_BAT_PATTERNS = (0x5EAC_0002, 0x3BFE_0002)  # nothing in a field that a BAT register masks
_STUB_AT = 0x1000


class Layout(NamedTuple):
    """Byte offsets in the saved context; ``segments`` and ``bats`` are None on a model without them."""

    sprs: int
    segments: int | None
    bats: Bats | None


class Bats(NamedTuple):
    """Byte offsets of BAT 0; the next ones follow, 4 bytes each."""

    instruction_upper: int
    instruction_lower: int
    data_upper: int
    data_lower: int


class SavedContext:
    """The context of one engine as it was when :func:`saved_context` last saved it."""

    def __init__(self, uc: Uc) -> None:
        if uc.ctl_get_mode() & UC_MODE_PPC64:
            raise UnsupportedArchitecture(
                f"the engine is in mode {uc.ctl_get_mode():#x} (UC_MODE_PPC64), pvmmio_uc reads the SPRs of "
                f"{UC_MODE_PPC32 | UC_MODE_BIG_ENDIAN:#x} (UC_MODE_PPC32 | UC_MODE_BIG_ENDIAN): open it so"
            )
        self.model: Final[int] = uc.ctl_get_cpu_model()
        self.layout: Final = find_layout(self.model)
        self._context: Final = uc.context_save()
        size: int = self._context.size
        self._bytes: Final = (ctypes.c_char * size).from_address(self._context.context.value)

    def save(self, uc: Uc) -> None:
        uc.context_update(self._context)

    def word(self, offset: int) -> int:
        value: int = _WORD.unpack_from(self._bytes, offset)[0]
        return value

    def bats(self, offset: int) -> tuple[int, ...]:
        return _BAT_WORDS.unpack_from(self._bytes, offset)

    def spr(self, spr: int) -> int:
        """Read a SPR that the engine keeps in its array: not LR, CTR or a BAT, nor a computed one."""
        return self.word(self.layout.sprs + 4 * spr)


_WORD = struct.Struct("=I")
_BAT_WORDS = struct.Struct(f"={BATS}I")
_contexts: WeakKeyDictionary[Uc, SavedContext] = WeakKeyDictionary()


def saved_context(uc: Uc) -> SavedContext:
    """Save the context of ``uc`` and return it; the same object every time.

    Raises UnsupportedArchitecture for a 64-bit engine and where the SPRs are not to be found.
    """
    context = _contexts.get(uc)
    if context is None:
        context = _contexts[uc] = SavedContext(uc)
    else:
        context.save(uc)
    return context


def read_spr(uc: Uc, spr: int) -> int:
    """Read the special-purpose register with the number ``spr`` (0 to 1023), 32 bits wide.

    A number that the CPU model does not have reads as 0. Raises ValueError for another number and for XER,
    the decrementer and the time base, which the engine computes; UnsupportedArchitecture as
    :func:`saved_context` does.
    """
    if not 0 <= spr < _SPRS:
        raise ValueError(f"SPR {spr:#x} does not exist: use a number from 0x0 to {_SPRS - 1:#x}")
    if spr in _COMPUTED_SPRS:
        raise ValueError(f"SPR {spr:#x} is computed by the engine, not stored: execute mfspr for it")
    if spr in (_SPR_LR, _SPR_CTR):
        value: int = uc.reg_read(UC_PPC_REG_LR if spr == _SPR_LR else UC_PPC_REG_CTR)
        return value
    context = saved_context(uc)
    offset = _bat_offset(context.layout.bats, spr)
    return context.spr(spr) if offset is None else context.word(offset)


def read_segment_register(uc: Uc, n: int) -> int:
    """Read segment register ``n`` (0 to 15), 32 bits wide.

    Raises ValueError for another number, UnsupportedArchitecture where the CPU model has none.
    """
    if not 0 <= n < 16:
        raise ValueError(f"segment register {n:#x} does not exist: use a number from 0x0 to 0xf")
    context = saved_context(uc)
    if context.layout.segments is None:
        raise UnsupportedArchitecture(
            f"CPU model {context.model:#x} has no segment register {n:#x}: choose one that has, such as "
            "UC_CPU_PPC32_750CXE_V3_1, with ctl_set_cpu_model"
        )
    return context.word(context.layout.segments + 4 * n)


def _bat_offset(bats: Bats | None, spr: int) -> int | None:
    """Where the context keeps the BAT register ``spr``; None where that is no BAT."""
    if bats is None:
        return None
    for first, number, upper, lower in (
        (_IBAT0U, 0, bats.instruction_upper, bats.instruction_lower),
        (_DBAT0U, 0, bats.data_upper, bats.data_lower),
        (_IBAT4U, 4, bats.instruction_upper, bats.instruction_lower),
        (_DBAT4U, 4, bats.data_upper, bats.data_lower),
    ):
        if first <= spr < first + 8:
            return (lower if spr & 1 else upper) + 4 * (number + (spr - first >> 1))
    return None


@cache
def find_layout(model: int) -> Layout:
    """Find out by a run where the engine keeps the registers of CPU ``model`` in its saved context."""
    probe = _Probe(model)
    sprs = probe.array(_mtspr(_SPRG0), _mtspr(_SPRG3), _SPRG3 - _SPRG0, _SPRG_PATTERNS)
    if sprs is None or sprs < 4 * _SPRG0:
        raise UnsupportedArchitecture(
            f"SPRG0 and SPRG3 are not to be found in the saved context of CPU model {model:#x}: "
            "use Unicorn 2.1.4, which pvmmio_uc was tested with, or another model"
        )
    segments = probe.array(_mtsr(0), _mtsr(15), 15, _SEGMENT_PATTERNS)
    arrays = [
        probe.array(_mtspr(spr), _mtspr(spr + 6), 3, _BAT_PATTERNS)
        for spr in (_IBAT0U, _IBAT0U + 1, _DBAT0U, _DBAT0U + 1)
    ]
    found = [offset for offset in arrays if offset is not None]
    return Layout(sprs - 4 * _SPRG0, segments, Bats(*found) if len(found) == len(arrays) else None)


class _Probe:
    """A private engine that writes one register at a time and looks for it in its own context."""

    def __init__(self, model: int) -> None:
        self._uc = Uc(UC_ARCH_PPC, UC_MODE_PPC32 | UC_MODE_BIG_ENDIAN, model)
        self._uc.ctl_set_tlb_mode(UC_TLB_VIRTUAL)  # Book E models never run without a TLB entry
        self._uc.mem_map(_STUB_AT, 0x1000)

    def array(self, first: int, last: int, distance: int, patterns: tuple[int, ...]) -> int | None:
        """Return where the array of words is whose element 0 and ``distance`` these instructions write."""
        start, end = self._place(first, patterns), self._place(last, patterns)
        return start if start is not None and end == start + 4 * distance else None

    def _place(self, instruction: int, patterns: tuple[int, ...]) -> int | None:
        places = [self._places(instruction, pattern) for pattern in patterns]
        common = set.intersection(*places)
        return common.pop() if len(common) == 1 else None

    def _places(self, instruction: int, pattern: int) -> set[int]:
        uc = self._uc
        uc.mem_write(_STUB_AT, instruction.to_bytes(4, "big"))
        uc.ctl_flush_tb()
        uc.reg_write(UC_PPC_REG_3, pattern)
        try:
            uc.emu_start(_STUB_AT, 0, count=1)
        except UcError:  # no such register here
            return set()
        uc.reg_write(UC_PPC_REG_3, 0)
        return set(_find_words(bytes(uc.context_save()), _WORD.pack(pattern)))


def _find_words(blob: bytes, word: bytes) -> Iterator[int]:
    at = blob.find(word)
    while at >= 0:
        if at % 4 == 0:
            yield at
        at = blob.find(word, at + 1)


def _mtspr(spr: int) -> int:
    """Encode ``mtspr spr, r3``; the two halves of the number are swapped in the instruction."""
    return 0x7C60_03A6 | (spr & 0x1F) << 16 | (spr >> 5) << 11


def _mtsr(n: int) -> int:
    """Encode ``mtsr n, r3``."""
    return 0x7C60_01A4 | n << 16

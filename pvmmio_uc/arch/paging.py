"""What a page walk is, on every architecture; the walks themselves are in ``arch/<isa>/paging.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["PageTableLoad", "ReadPhysical", "Walk"]

ReadPhysical = Callable[[int, int], "bytes | None"]
"""``read(gpa, size)``: that many bytes of guest memory, or None where no memory slot holds them all."""


class PageTableLoad(NamedTuple):
    """One entry that a walk read: its name in the manual, where it is, what it holds."""

    name: str
    gpa: int
    value: int


class Walk(NamedTuple):
    """A translation and what it cost.

    ``gpa`` is None where the guest's tables do not translate ``gva``; ``reason`` then says why.
    ``page_size`` is in bytes (0 when translation is off), ``loads`` are the entries read, outermost first.
    """

    gva: int
    gpa: int | None
    page_size: int
    loads: tuple[PageTableLoad, ...]
    reason: str = ""

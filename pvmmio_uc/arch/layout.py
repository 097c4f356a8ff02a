"""The platform of a ready guest: where its RAM, code and devices are, and the words of its stubs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unicorn import Uc

__all__ = ["Platform", "StubWords", "Variant"]


@dataclass(frozen=True, slots=True)
class Variant:
    """Which guest: ``bits`` 16, 32 or 64, ``paging`` its own translation on, ``order`` of its data."""

    bits: int
    paging: bool
    order: Literal["little", "big"]


@dataclass(frozen=True, slots=True)
class Platform:
    """Guest-physical addresses in bytes. ``dialect`` is what the stubs are assembled in."""

    dialect: str
    ram: tuple[tuple[int, int], ...]
    code: int
    stack: int
    mmio: int


@dataclass(frozen=True, slots=True)
class StubWords:
    """A doorbell loop in assembly: once ``setup``, then ``count`` times ``ring``, closed by ``again``.

    ``ring`` is all that a driver has to contain for one notification.
    """

    setup: str
    ring: str
    again: str

    @property
    def text(self) -> str:
        """The whole stub."""
        return f"{self.setup}\nagain:\n{self.ring}\n{self.again}"


def map_ram(uc: Uc, platform: Platform) -> None:
    """Give the engine its memory slots."""
    for first, size in platform.ram:
        uc.mem_map(first, size)

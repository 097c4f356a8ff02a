"""The architectures, by name. How to add one is told in `pvmmio_uc.arch.base`."""

from __future__ import annotations

from unicorn import Uc, UcError
from unicorn.unicorn_const import (
    UC_ARCH_ARM64,
    UC_ARCH_PPC,
    UC_ARCH_X86,
    UC_MODE_PPC64,
    UC_QUERY_ARCH,
    UC_QUERY_MODE,
)

from ..errors import UnsupportedArchitecture
from .arm64 import Arm64
from .base import Arch
from .ppc import Ppc
from .x86 import X86

__all__ = ["ARCHES", "arch_of"]

ARCHES: dict[str, type[Arch]] = {"x86": X86, "arm64": Arm64, "ppc": Ppc}
"""Every architecture that this version serves."""

_BY_ENGINE: dict[int, type[Arch]] = {UC_ARCH_X86: X86, UC_ARCH_ARM64: Arm64, UC_ARCH_PPC: Ppc}


def arch_of(uc: Uc) -> Arch:
    """The architecture of an engine, bound to it.

    Raises UnsupportedArchitecture for every other one, and for 64-bit PowerPC, whose CPU models
    Unicorn 2.1.4 cannot run with translation (unicorn #1591, #1779).
    """
    try:
        number = uc.query(UC_QUERY_ARCH)
    except UcError as error:
        raise UnsupportedArchitecture(f"the engine does not tell its architecture: {error}") from error
    cls = _BY_ENGINE.get(number)
    if cls is None:
        raise UnsupportedArchitecture(
            f"Unicorn architecture {number} has no folder under pvmmio_uc/arch; there are {', '.join(ARCHES)}"
        )
    if cls is Ppc and _mode(uc) & UC_MODE_PPC64:
        raise UnsupportedArchitecture(
            "64-bit PowerPC: Unicorn 2.1.4 offers no model that translates (unicorn #1591, #1779); "
            "use UC_MODE_PPC32"
        )
    return cls(uc)


def _mode(uc: Uc) -> int:
    mode: int = uc.query(UC_QUERY_MODE)
    return mode

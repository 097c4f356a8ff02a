"""The architectures, by name. How to add one is told in `pvmmio_uc.arch.base`."""

from __future__ import annotations

from unicorn import Uc, UcError
from unicorn.unicorn_const import (
    UC_ARCH_ARM64,
    UC_ARCH_PPC,
    UC_ARCH_X86,
    UC_QUERY_ARCH,
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

    64-bit PowerPC is served where the engine runs it: the default model, in UC_TLB_VIRTUAL mode, without
    translation (unicorn #1591, #1779). Raises UnsupportedArchitecture for every other architecture.
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
    return cls(uc)

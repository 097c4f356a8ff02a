"""Hypercalls on one engine: the conventions by name, the hooks, and which of them answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unicorn import Uc

from ..arch.base import Arch
from ..device import ByteOrder
from ..memory import GuestMemory
from .convention import Convention
from .cpu import Call, Outcome
from .kvm import KvmArm64, KvmPpc, KvmX86
from .path import HypercallPath

__all__ = ["CallTrap", "make_convention"]

_NATIVE = {"ept": "vmcall", "npt": "vmmcall", "shadow": "vmcall"}


def make_convention(name: str, arch: Arch, stage2: str) -> Convention:
    """A convention with what this architecture and this stage 2 imply. ValueError where there is none."""
    makers: dict[tuple[str, str], Callable[[], Convention]] = {
        ("x86", "kvm"): lambda: KvmX86(_NATIVE[stage2]),
        ("arm64", "kvm"): KvmArm64,
        ("ppc", "kvm"): lambda: KvmPpc(magic=stage2 == "pr", order=arch.data_order),
    }
    maker = makers.get((arch.name, name))
    if maker is None:
        names = ", ".join(word for a, word in makers if a == arch.name)
        raise ValueError(f"{arch.name} has no convention {name!r}; there are {names}")
    return maker()


class CallTrap:
    """The engine's hooks while at least one convention is enabled; a `CallHandler`.

    ``guard(call, default)`` runs a callback so that what it raises ends the run.
    """

    def __init__(
        self,
        uc: Uc,
        arch: Arch,
        memory: GuestMemory,
        path: HypercallPath,
        guard: Callable[[Callable[[], Outcome], Outcome], Outcome],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._uc, self._arch, self._memory, self._path = uc, arch, memory, path
        self._guard, self.fail = guard, fail
        self._hooks: list[Any] = []

    def enable(self, conventions: list[Convention]) -> None:
        """Answer with these from now on; with none, take the hooks out."""
        self._path.conventions = tuple(conventions)
        if conventions and not self._hooks:
            self._hooks = self._arch.install_calls(self._memory.read, self)
        elif not conventions:
            self.remove()

    def remove(self) -> None:
        """Take the hooks out of the engine."""
        for hook in self._hooks:
            self._uc.hook_del(hook)
        self._hooks = []

    def call(self, call: Call) -> Outcome:
        """One hypercall instruction."""
        return self._guard(lambda: self._path.handle(call), Outcome.RETRY)

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int] | None:
        """The first convention that has something to say at this leaf."""
        for convention in self._path.conventions:
            values = convention.cpuid(leaf)
            if values is not None:
                return values
        return None

    def advance(self, length: int) -> None:
        """Move pc."""
        self._arch.advance_pc(length)

    def code_order(self) -> ByteOrder:
        """Of instructions, which on ppc is that of data."""
        return self._arch.data_order()

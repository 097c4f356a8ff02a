"""Hypercalls on one engine: the conventions by name, the hooks, and which of them answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unicorn import Uc

from ..arch.base import Arch, MsrHooks
from ..device import ByteOrder
from ..errors import GuestException
from ..memory import GuestMemory
from ..runloop import RunLoop
from ..vm import Memory
from .convention import Convention, MsrOwner
from .cpu import Call, Outcome
from .ghcb import Ghcb
from .hyperv import HyperV
from .hyperv_state import KVM_CPUID_BESIDE_HYPERV, HyperVState, MsrFault
from .kvm import KvmArm64, KvmPpc, KvmX86
from .papr import Papr
from .path import HypercallPath
from .tdx import Tdx

__all__ = ["CallTrap", "in_order", "make_convention"]

_NATIVE = {"ept": "vmcall", "npt": "vmmcall", "shadow": "vmcall"}


def make_convention(name: str, arch: Arch, stage2: str, memory: Memory) -> Convention:
    """A convention with what this architecture and this stage 2 imply. ValueError where there is none."""
    native = _NATIVE.get(stage2, "")
    makers: dict[tuple[str, str], Callable[[], Convention]] = {
        ("x86", "kvm"): lambda: KvmX86(native),
        ("x86", "hyperv"): lambda: HyperV(HyperVState(memory, native=native)),
        ("x86", "tdx"): lambda: Tdx(kvm=KvmX86(native)),
        ("x86", "ghcb"): Ghcb,
        ("arm64", "kvm"): KvmArm64,
        ("arm64", "hyperv"): lambda: HyperV(HyperVState(memory), "arm64"),
        ("ppc", "kvm"): lambda: KvmPpc(magic=stage2 == "pr", order=arch.data_order),
        ("ppc", "papr"): lambda: Papr(order=arch.data_order),
    }
    maker = makers.get((arch.name, name))
    if maker is None:
        names = ", ".join(word for a, word in makers if a == arch.name)
        raise ValueError(f"{arch.name} has no convention {name!r}; there are {names}")
    return maker()


def in_order(conventions: Sequence[Convention]) -> list[Convention]:
    """As they are asked: the native one last, since it takes whatever is left.

    ValueError where two of them would claim the same instruction for good: `sc 1` is PAPR's or ePAPR's.
    """
    names = [convention.name for convention in conventions]
    if len(set(names)) < len(names):
        raise ValueError(f"the same convention twice: {', '.join(names)}")
    for convention in conventions:
        if isinstance(convention, KvmPpc) and not convention.magic and "papr" in names:
            raise ValueError(
                "`sc 1` is PAPR's or ePAPR's, not both: use stage2='pr', whose ePAPR calls are plain sc"
            )
        if isinstance(convention, KvmX86) and "hyperv" in names:
            convention.leaf = KVM_CPUID_BESIDE_HYPERV
    return sorted(conventions, key=lambda convention: convention.name == "kvm")


class CallTrap:
    """The engine's hooks while at least one convention is enabled; a `CallHandler`.

    ``questions`` counts the guest's cpuid, rdmsr and wrmsr, each of which exits on hardware.

    ``guard(call, default)`` runs a callback so that what it raises ends the run.
    """

    def __init__(
        self,
        uc: Uc,
        arch: Arch,
        memory: GuestMemory,
        path: HypercallPath,
        guard: Callable[[Callable[[], Any], Any], Any],
        loop: RunLoop,
    ) -> None:
        self._uc, self._arch, self._memory, self._path = uc, arch, memory, path
        self._guard, self._loop = guard, loop
        self._hooks: list[Any] = []
        self.questions = 0
        self._msrs: MsrHooks | None = None

    def enable(self, conventions: list[Convention]) -> None:
        """Answer with these from now on; with none, take the hooks out."""
        self._path.conventions = tuple(conventions)
        if conventions and not self._hooks:
            self._hooks = self._arch.install_calls(self._memory.load, self)
        elif not conventions:
            self.remove()
        if any(isinstance(convention, MsrOwner) for convention in conventions) and self._msrs is None:
            self._msrs = self._arch.install_msrs(self._memory.load, self)
            if self._msrs is not None:
                self._loop.prepare, self._loop.starting = self._msrs.prepare, self._msrs.forget

    def remove(self) -> None:
        """Take the hooks out of the engine."""
        for hook in self._hooks:
            self._uc.hook_del(hook)
        self._hooks = []
        if self._msrs is not None:
            self._msrs.remove()
        self._msrs = self._loop.prepare = self._loop.starting = None

    def call(self, call: Call) -> Outcome:
        """One hypercall instruction."""
        outcome: Outcome = self._guard(lambda: self._path.handle(call), Outcome.RETRY)
        return outcome

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int] | None:
        """The first convention that has something to say at this leaf."""
        self.questions += 1
        for convention in self._path.conventions:
            values = convention.cpuid(leaf)
            if values is not None:
                return values
        return None

    def read_msr(self, index: int) -> int | None:
        """Of the first convention that has it."""
        self.questions += 1
        for convention in self._path.conventions:
            value = convention.read_msr(index) if isinstance(convention, MsrOwner) else None
            if value is not None:
                return value
        return None

    def write_msr(self, index: int, value: int) -> bool:
        """To the first convention that has it; #GP(0) ends the run as a GuestException."""
        self.questions += 1

        def write() -> bool:
            return any(c.write_msr(index, value) for c in self._path.conventions if isinstance(c, MsrOwner))

        def write_or_except() -> bool:
            try:
                return write()
            except MsrFault as fault:
                pc = self._arch.pc()
                raise GuestException(f"at pc {pc:#x}: {fault}", pc=pc, kind="protection") from fault

        done = bool(self._guard(write_or_except, False))
        if done:
            self._uc.ctl_flush_tb()  # it may have put the hypercall page over code (unicorn #1148)
        return done

    def restart(self) -> None:
        """Leave the engine before the next block, and go on."""
        self._loop.restart()

    def fail(self, error: BaseException) -> None:
        """End the run with this error."""
        self._loop.fail(error)

    def advance(self, length: int) -> None:
        """Move pc."""
        self._arch.advance_pc(length)

    def code_order(self) -> ByteOrder:
        """Of instructions, which on ppc is that of data."""
        return self._arch.data_order()

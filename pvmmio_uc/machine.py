"""A ready guest: an engine with RAM, an attached `PvMmio`, and stubs that are assembled and run."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType, TracebackType
from typing import Literal

from .arch.arm64 import machine as arm64
from .arch.layout import Platform, StubWords, Variant
from .arch.ppc import machine as ppc
from .arch.x86 import machine as x86
from .assembler import assemble
from .plugin import Decode, PvMmio

__all__ = ["ARCHITECTURES", "Machine"]

_MODULES: dict[str, ModuleType] = {"x86": x86, "arm64": arm64, "ppc": ppc}
ARCHITECTURES = tuple(_MODULES)
"""What `Machine` can be, by name."""


class Machine:
    """A guest of one architecture, ready to run stubs.

    ``bits`` (x86: 16, 32, 64), ``paging`` and ``order`` (ppc: ``big`` or ``little``) choose the
    variant; the rest goes to `PvMmio`. ``platform`` says where RAM and devices are. A context
    manager; `close` detaches. ValueError for a variant that the architecture does not have.
    """

    def __init__(
        self,
        arch: str = "x86",
        *,
        bits: int | None = None,
        paging: bool = False,
        order: Literal["little", "big"] | None = None,
        stage2: str | None = None,
        decode: Decode = "software",
        profile: str = "linux",
        exit_limit: int = 65536,
    ) -> None:
        if arch not in _MODULES:
            raise ValueError(f"architecture {arch!r}: there are {', '.join(ARCHITECTURES)}")
        self._module = _MODULES[arch]
        default: Variant = self._module.DEFAULT
        self.arch = arch
        self.variant = Variant(bits or default.bits, paging, order or default.order)
        if self.variant not in self._module.VARIANTS:
            raise ValueError(f"{arch} has no {self.variant}; there are {self._module.VARIANTS}")
        self.platform: Platform = self._module.platform(self.variant)
        self.uc = self._module.create(self.variant)
        self.pv = PvMmio(self.uc, stage2=stage2, decode=decode, profile=profile, exit_limit=exit_limit)

    def close(self) -> None:
        """Detach the plugin; the engine stays usable."""
        self.pv.detach()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def load(self, text: str, address: int | None = None) -> tuple[int, int]:
        """Assemble ``text`` and put it at ``address`` (the platform's code address): first byte, end."""
        start = self.platform.code if address is None else address
        code = assemble(self.platform.dialect, text, start)
        if self.arch == "ppc" and self.variant.order == "little":
            code = b"".join(code[at : at + 4][::-1] for at in range(0, len(code), 4))
        self.uc.mem_write(start, code)
        # The engine does not notice that code it has translated was changed from outside (unicorn #1148).
        self.uc.ctl_flush_tb()
        return start, start + len(code)

    def run(
        self,
        text: str,
        registers: Mapping[str, int] | None = None,
        *,
        timeout: int = 0,
        count: int = 0,
    ) -> None:
        """Load ``text``, set ``registers`` by their manual names, and run to its end.

        ``timeout`` is in microseconds, ``count`` in instructions; 0 is no limit.
        """
        start, end = self.load(text)
        for name, value in (registers or {}).items():
            self[name] = value
        self.uc.emu_start(start, end, timeout, count)

    def doorbell(self, address: int, *, size: int = 4, value: int = 1, count: int = 1) -> StubWords:
        """A stub that stores ``value`` in ``size`` bytes at ``address``, ``count`` times.

        ``size`` is 1, 2, 4, or 8 on a guest of 64 bits; ValueError for another one.
        """
        if size not in (1, 2, 4) and (size, self.variant.bits) != (8, 64):
            raise ValueError(f"a doorbell of {size} bytes: {self.arch} of {self.variant.bits} bits has none")
        words: StubWords = self._module.doorbell(self.variant, address, size, value, count)
        return words

    def port_doorbell(self, port: int, *, size: int = 1, value: int = 1, count: int = 1) -> StubWords:
        """A stub that outputs to a port likewise; ValueError off x86."""
        words: StubWords = self._module.port_doorbell(self.variant, port, size, value, count)
        return words

    def __getitem__(self, register: str) -> int:
        """A register by its manual name."""
        return int(self.uc.reg_read(self.pv.arch.register(register)))

    def __setitem__(self, register: str, value: int) -> None:
        self.uc.reg_write(self.pv.arch.register(register), value)

    def __repr__(self) -> str:
        return f"<Machine {self.arch} {self.variant}: {self.pv!r}>"

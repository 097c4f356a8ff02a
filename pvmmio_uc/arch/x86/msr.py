"""rdmsr and wrmsr out of the engine, which has no hook for them (unicorn #2297): Intel SDM 2B, 4.

Found by their bytes: a page of code is looked through when the engine first translates a block of it, and
code hooks are put on just those addresses where 0f 30 or 0f 32 stands. A match that is not the start of an
instruction is never executed as one, so its hook never runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unicorn import Uc
from unicorn.unicorn_const import UC_HOOK_CODE, UC_HOOK_EDGE_GENERATED
from unicorn.x86_const import UC_X86_REG_EAX, UC_X86_REG_ECX, UC_X86_REG_EDX

from ..base import CallHandler
from ..paging import ReadPhysical, Walk

__all__ = ["MsrTrap"]

_PAGE = 4096
_RDMSR, _WRMSR = b"\x0f\x32", b"\x0f\x30"
_LENGTH = 2
_MOST_SITES = 1 << 12


class MsrTrap:
    """The hooks on one engine. ``read_virtual(gva, size)`` reads code through the guest's page tables."""

    def __init__(
        self,
        uc: Uc,
        walk: Callable[[int], Walk],
        read: ReadPhysical,
        register: Callable[[str], int],
        cpl: Callable[[], int],
        handler: CallHandler,
    ) -> None:
        self._uc, self._walk, self._read = uc, walk, read
        self._register, self._cpl, self._handler = register, cpl, handler
        self._seen: set[int] = set()
        self._sites: dict[int, Any] = {}
        self._edge = uc.hook_add(UC_HOOK_EDGE_GENERATED, self._generated)

    def prepare(self, begin: int) -> None:
        """Before the engine starts at ``begin``: its first block is not an edge, so look at it here."""
        before = len(self._sites)
        for page in (begin // _PAGE, begin // _PAGE + 1):
            self._look_through(page)
        if len(self._sites) != before:
            self._uc.ctl_flush_tb()

    def forget(self) -> None:
        """Code may have been loaded since: look again."""
        self._seen.clear()

    def remove(self) -> None:
        """Take the hooks out of the engine."""
        for hook in (self._edge, *self._sites.values()):
            self._uc.hook_del(hook)
        self._sites.clear()

    def _generated(self, uc: Uc, block: Any, previous: Any, user_data: object) -> None:
        pages = {block.pc // _PAGE, (block.pc + block.size) // _PAGE}
        if pages <= self._seen:
            return
        before = len(self._sites)
        for page in pages:
            self._look_through(page)
        if len(self._sites) != before:
            self._handler.restart()  # the block has been translated without the hooks

    def _look_through(self, page: int) -> None:
        if page in self._seen:
            return
        self._seen.add(page)
        gva = page * _PAGE
        gpa = self._walk(gva).gpa
        code = None if gpa is None else self._read(gpa, _PAGE)
        if code is None:
            return
        for pattern in (_RDMSR, _WRMSR):
            at = code.find(pattern)
            while at >= 0:
                self._add_site(gva + at)
                at = code.find(pattern, at + 1)

    def _add_site(self, gva: int) -> None:
        if gva not in self._sites and len(self._sites) < _MOST_SITES:
            self._sites[gva] = self._uc.hook_add(UC_HOOK_CODE, self._execute, None, gva, gva)

    def _execute(self, uc: Uc, address: int, size: int, user_data: object) -> None:
        gpa = self._walk(address).gpa
        code = None if gpa is None else self._read(gpa, _LENGTH)
        if code not in (_RDMSR, _WRMSR) or self._cpl():
            return  # the engine's own, with its own checks
        index = uc.reg_read(UC_X86_REG_ECX)
        if code == _WRMSR:
            value = uc.reg_read(UC_X86_REG_EDX) << 32 | uc.reg_read(UC_X86_REG_EAX)
            done = self._handler.write_msr(index, value)
        else:
            answer = self._handler.read_msr(index)
            done = answer is not None
            if answer is not None:
                uc.reg_write(self._register("rax"), answer & 0xFFFF_FFFF)
                uc.reg_write(self._register("rdx"), answer >> 32)
        if done:
            self._handler.advance(_LENGTH)

"""Keystone with its silences made loud.

Keystone 0.9.2 answers some input it cannot assemble with no bytes and no error (keystone #506), and takes
some failures as a reason to end the process (``fixup value out of range``): keep stubs near their address.
"""

from __future__ import annotations

import re
import threading
from typing import Any

from keystone import (
    KS_ARCH_ARM64,
    KS_ARCH_PPC,
    KS_ARCH_X86,
    KS_MODE_16,
    KS_MODE_32,
    KS_MODE_64,
    KS_MODE_BIG_ENDIAN,
    KS_MODE_LITTLE_ENDIAN,
    KS_MODE_PPC32,
    KS_MODE_PPC64,
    Ks,
    KsError,
)

from .errors import AssemblyError

__all__ = ["DIALECTS", "assemble"]

DIALECTS = {
    "x86-16": (KS_ARCH_X86, KS_MODE_16),
    "x86-32": (KS_ARCH_X86, KS_MODE_32),
    "x86-64": (KS_ARCH_X86, KS_MODE_64),
    "arm64": (KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN),
    "ppc64": (KS_ARCH_PPC, KS_MODE_PPC64 | KS_MODE_BIG_ENDIAN),
    "ppc": (KS_ARCH_PPC, KS_MODE_PPC32 | KS_MODE_BIG_ENDIAN),
}
"""What `assemble` knows, by name."""

_LABEL = re.compile(r"^(\s*[A-Za-z_.$][\w.$]*:)")
_thread = threading.local()


def assemble(dialect: str, text: str, address: int = 0) -> bytes:
    """The machine code of ``text`` at ``address``; statements end with ``;`` or a new line.

    x86 is Intel syntax, ppc has bare register numbers (``stw 3, 8(4)``), and comments start with
    ``#`` or ``//`` (Keystone knows none; they are cut off here). Raises AssemblyError, which names
    the statement, for what Keystone refuses and for what it passes over in silence; ValueError for
    a dialect that is not in DIALECTS.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"dialect {dialect!r}: there are {', '.join(DIALECTS)}")
    statements = [part for line in text.splitlines() for part in _statements(_without_comment(line))]
    try:
        encoding, count = _keystone(dialect).asm("\n".join(statements), address, True)
    except KsError as error:
        raise AssemblyError(f"{dialect}: {error} in:\n{_numbered(statements)}") from error
    if not encoding:
        raise AssemblyError(f"{dialect}: Keystone gave no bytes and no reason for:\n{_numbered(statements)}")
    # "mov dword ptr" without the rest takes the next line with it. (On ppc labels do not count, and on x86
    # a prefix counts as one more.)
    if dialect.startswith("x86") and count < len(statements):
        raise AssemblyError(
            f"{dialect}: Keystone read {count} statements where there are {len(statements)}; one is not "
            f"complete:\n{_numbered(statements)}"
        )
    return bytes(encoding)


def _keystone(dialect: str) -> Any:
    """One assembler per thread: sharing one between threads crashes."""
    engines: dict[str, Any] = _thread.__dict__.setdefault("engines", {})
    if dialect not in engines:
        engines[dialect] = Ks(*DIALECTS[dialect])
    return engines[dialect]


def _without_comment(line: str) -> str:
    """Cut at ``//``, at ``# `` and at a ``#`` that begins the line; ``#1`` is an arm64 immediate."""
    for mark in ("//", "# "):
        line = line.split(mark, 1)[0]
    return "" if line.lstrip().startswith("#") else line


def _statements(line: str) -> list[str]:
    """As Keystone counts them: a label is one of its own."""
    parts = [line] if '"' in line else line.split(";")
    return [piece for part in parts for piece in _LABEL.split(part) if piece.strip()]


def _numbered(statements: list[str]) -> str:
    return "\n".join(f"  {number}: {statement.strip()}" for number, statement in enumerate(statements, 1))

"""What this architecture traps besides memory: it has no port I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unicorn import Uc

from ..base import Fetched, PortHandler

__all__ = ["install_ports"]


def install_ports(uc: Uc, fetch: Callable[[], tuple[Fetched, int]], handler: PortHandler) -> list[Any]:
    """No ports, no hooks."""
    return []

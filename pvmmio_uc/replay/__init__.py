"""Recorded KVM scenarios, performed again on this package's VM: does it do what the kernel did?

``scenario`` loads (``schema``, ``checks``, ``steps``), ``runner`` performs on a ``level``, ``report`` tells.
"""

from __future__ import annotations

from .command import add_arguments, main

__all__ = ["add_arguments", "main"]

"""What the commands share: a console that is as wide as its output needs, and argument checks."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from rich.console import Console

__all__ = ["make_console", "positive"]

_WIDTH_OFF_TERMINAL = 200


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line, whose exit status says so; rich would exit with 1."""
        raise BrokenPipeError


def make_console() -> Console:
    """Standard output: the terminal's width, or wide enough for every table where there is none."""
    console = _Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = _Console(highlight=False, width=_WIDTH_OFF_TERMINAL)
    return console


def positive(most: int) -> Callable[[str], int]:
    """An argparse type: a whole number from 1 to ``most``."""

    def parse(text: str) -> int:
        try:
            number = int(text, 0)
        except ValueError:
            number = 0
        if not 1 <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {most}")
        return number

    return parse

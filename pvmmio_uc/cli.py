"""The ``pvmmio`` command. Each subcommand is a module with ``add_arguments(parser)`` and ``main(args)``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from ._version import __version__
from .errors import PvMmioError

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "compare": ("pvmmio_uc.compare", "ring the same doorbell over every route, side by side"),
    "replay": ("pvmmio_uc.replay", "replay scenarios recorded on a real KVM"),
    "run": ("pvmmio_uc.run_script", "run a guest script, and show its exits"),
}
"""Every subcommand: its module, and a line of help."""

_BROKEN_PIPE = 128 + 13


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status: 0 good, 1 what it looked for was wrong, 2 usage."""
    try:
        try:
            return _dispatch(sys.argv[1:] if arguments is None else list(arguments))
        finally:
            # Also what --help, or a script that calls sys.exit, has left in the buffer.
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if isinstance(error, PvMmioError):
            raise
        print(f"pvmmio: {error}", file=sys.stderr)
        return 2


def _dispatch(words: list[str]) -> int:
    parser = _parser(next((word for word in words if word in COMMANDS), None))
    args = parser.parse_args(words)
    if args.command is None:
        parser.print_help()
        return 2
    status: int = importlib.import_module(COMMANDS[args.command][0]).main(args)
    return status


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """Only the chosen command's module is imported for its arguments: ``--help`` stays quick."""
    parser = argparse.ArgumentParser(
        prog="pvmmio", description="KVM's doorbells under the Unicorn engine, on x86, arm64 and PowerPC."
    )
    parser.add_argument("--version", action="version", version=f"pvmmio {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (module, about) in COMMANDS.items():
        sub = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        if name == chosen:
            importlib.import_module(module).add_arguments(sub)
    return parser

"""``pvmmio run SCRIPT``: a guest script as ``python`` would run it, and what its guest exits were."""

from __future__ import annotations

import argparse
import runpy
import sys
import traceback
from pathlib import Path

from . import plugin
from .console import positive
from .plugin import PvMmio

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``pvmmio run`` takes."""
    parser.add_argument(
        "--exits", type=positive(1 << 31), metavar="N", help="print each guest's last N exits"
    )
    parser.add_argument("script", type=Path, help="a Python script that sets up an engine and a PvMmio")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="handed to the script")


def main(args: argparse.Namespace) -> int:
    """Run it; the script's exit status, 1 where it fails, 2 where it cannot be read."""
    if not args.script.is_file():
        print(f"pvmmio run: {args.script}: no such file", file=sys.stderr)
        return 2
    guests: list[PvMmio] = []
    plugin.on_attach.append(guests.append)
    argv, path = sys.argv, list(sys.path)
    sys.argv = [str(args.script), *args.arguments]
    sys.path.insert(0, str(args.script.resolve().parent))
    try:
        runpy.run_path(str(args.script), run_name="__main__")
    except BrokenPipeError:
        raise
    except OSError:  # the script's: the command line would take it for one of its own
        traceback.print_exc()
        return 1
    finally:
        plugin.on_attach.remove(guests.append)
        sys.argv, sys.path[:] = argv, path
        if args.exits:
            _print_exits(guests, args.exits)
    return 0


def _print_exits(guests: list[PvMmio], last: int) -> None:
    for guest in guests:
        print(repr(guest))
        for exit_ in list(guest.exits)[-last:]:
            print(f"  {exit_}")

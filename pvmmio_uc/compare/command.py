"""The command: arguments, the table, JSON, CSV, the exit status."""

from __future__ import annotations

import argparse
import csv
import json
import platform
import sys
from collections.abc import Callable
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from .._version import __version__
from ..console import make_console, positive
from ..exits import STEP_NAMES
from ..hypercall.operations import MOST_ELEMENTS
from ..machine import ARCHITECTURES
from .measure import Row, measure
from .routes import cells

__all__ = ["add_arguments", "main"]

_MOST_RINGS = 1 << 31


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``pvmmio compare`` takes."""
    parser.add_argument(
        "--arch", action="append", choices=ARCHITECTURES, help="only this one; may be given several times"
    )
    parser.add_argument(
        "--rings", type=positive(_MOST_RINGS), default=1000, metavar="N", help="rings per row (default: 1000)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    form.add_argument("--csv", action="store_true", help="comma-separated values instead of the table")


def main(args: argparse.Namespace) -> int:
    """Measure and print; 1 where a row received another number of signals than it had rings."""
    arches = tuple(dict.fromkeys(args.arch)) if args.arch else ARCHITECTURES
    if args.json or args.csv:
        rows = [measure(cell, args.rings) for cell in cells(arches)]
        (_print_json if args.json else _print_csv)(rows)
    else:
        rows = _print_table(make_console(), arches, args.rings)
    wrong = [row for row in rows if not row.ok]
    for row in wrong:
        cell = row.cell
        where = " ".join(filter(None, (cell.arch, cell.route.name, cell.stage2, cell.decode)))
        print(f"{where}: {row.signals} signals for {row.rings} rings", file=sys.stderr)
    return 1 if wrong else 0


class _Column(NamedTuple):
    """``drop`` orders the columns that a narrow terminal loses, the highest first; 0 stays."""

    header: str
    cell: Callable[[Row], str]
    drop: int = 0
    right: bool = True


def _per_ring(name: str) -> Callable[[Row], str]:
    return lambda row: _short(getattr(row.steps, name) / row.rings)


_STEPS = tuple(name for name in STEP_NAMES if name != "exits")
_STEP_COLUMNS = tuple(_Column(name, _per_ring(name), 1) for name in _STEPS)
_ALL_STEPS = _Column(
    "/".join(name[0] for name in _STEPS),
    lambda row: "/".join(_short(round(getattr(row.steps, name) / row.rings, 1)) for name in _STEPS),
    1,
)
_COLUMNS = (
    _Column("arch", lambda row: row.cell.arch, 0, False),
    _Column("route", lambda row: row.cell.route.name, 0, False),
    _Column("stage 2", lambda row: row.cell.stage2 or "-", 0, False),
    _Column("decode", lambda row: row.cell.decode or "-", 0, False),
    _Column("arrived", lambda row: str(row.signals) if row.ok else f"{row.signals} !"),
    _Column("exits", lambda row: str(row.exits), 2),
    *_STEP_COLUMNS,
    _Column("ns/ring", lambda row: f"{row.ns:,.0f}"),
    _Column("stub", lambda row: f"{row.stub_instructions} insn, {row.stub_bytes} B", 4),
    _Column("exits/170", lambda row: _short(row.exits * MOST_ELEMENTS / row.rings), 8),
    _Column("find", lambda row: str(row.discovery), 6),
    _Column("old driver", lambda row: "yes" if row.cell.route.unmodified else "no", 5, False),
    _Column("Windows", lambda row: "yes" if row.cell.route.windows else "no", 7, False),
    _Column("in Linux", lambda row: "yes" if row.cell.in_linux else "no", 3, False),
)


def _print_table(console: Console, arches: tuple[str, ...], rings: int) -> list[Row]:
    console.print(
        f"{rings} doorbell rings per row, guest paging on. Per ring, counted in this run: walk (page-table "
        "loads), fetch (bytes), decode (instructions), bus (comparisons), signals, userspace (round trips). "
        "ns/ring is this emulator's time on this machine, not a processor's."
    )
    with console.status("running guests"):
        rows = [measure(cell, rings) for cell in cells(arches)]
    table, hidden = _fit(console, rows)
    console.print(table)
    if hidden:
        console.print(f"not shown, for want of width: {', '.join(hidden)}; all are in --csv and --json")
    return rows


def _fit(console: Console, rows: list[Row]) -> tuple[Table, list[str]]:
    """The table that fits the width, and the headers of the columns that it lost."""
    shown = list(_COLUMNS)
    table = _table(rows, shown, box.HEAVY_HEAD)
    while _natural_width(table, console) > console.width and max(column.drop for column in shown):
        if _STEP_COLUMNS[0] in shown:
            at = shown.index(_STEP_COLUMNS[0])
            shown[at : at + len(_STEP_COLUMNS)] = [_ALL_STEPS]
        else:
            shown.remove(max(shown, key=lambda column: column.drop))
        table = _table(rows, shown, box.SIMPLE)
    kept = (*shown, *(_STEP_COLUMNS if _ALL_STEPS in shown else ()))
    return table, [column.header for column in _COLUMNS if column not in kept]


def _natural_width(table: Table, console: Console) -> int:
    wide = console.options.update(max_width=10_000)
    return Measurement.get(console, wide, table).maximum


def _table(rows: list[Row], columns: list[_Column], edges: box.Box) -> Table:
    narrow = edges is box.SIMPLE
    table = Table(box=edges, pad_edge=not narrow, collapse_padding=narrow)
    for column in columns:
        table.add_column(column.header, justify="right" if column.right else "left", no_wrap=True)
    last = None
    for row in rows:
        group = (row.cell.arch, row.cell.route)
        if last is not None and last != group:
            table.add_section()
        last = group
        table.add_row(*(column.cell(row) for column in columns), style=None if row.ok else "bold red")
    return table


def _short(value: float) -> str:
    """Up to three decimals, none where it is whole."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _print_json(rows: list[Row]) -> None:
    document = {
        "pvmmio_uc": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "rows": [row.as_dict() for row in rows],
    }
    print(json.dumps(document, indent=2))


def _print_csv(rows: list[Row]) -> None:
    dicts = [row.as_dict() for row in rows]
    writer = csv.DictWriter(sys.stdout, list(dicts[0]))
    writer.writeheader()
    writer.writerows(dicts)

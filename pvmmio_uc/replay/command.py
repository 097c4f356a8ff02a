"""``pvmmio replay``: recorded KVM scenarios, performed again here and compared."""

from __future__ import annotations

import argparse
import sys

from ..errors import ScenarioError
from .level import LEVELS, LevelFactory, available_levels, find_level
from .report import FileReport, as_json, as_text, emit
from .runner import perform
from .scenario import find_files, load
from .steps import Scenario

__all__ = ["add_arguments", "main"]

EQUAL, DIFFERENT, UNREADABLE = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``pvmmio replay``, whose help also tells the exit status."""
    parser.description = "Perform recorded KVM scenarios again and compare every step with the record."
    parser.epilog = "Exit status: 0 all equal, 1 something differs, 2 the input cannot be used."
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a .jsonl or .jsonl.gz file, a directory of such files, or a pattern in quotes",
    )
    parser.add_argument(
        "--level",
        choices=sorted(LEVELS),
        default="bus",
        help="bus: drive the bus from the recorded accesses (default); guest: run the recorded code",
    )
    parser.add_argument(
        "--only",
        metavar="ID",
        action="append",
        help="only the scenario with this id; may be given more than once",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def main(args: argparse.Namespace) -> int:
    """Replay, print, and return the exit status: 0 all equal, 1 something differs, 2 unusable input."""
    level = find_level(args.level)
    if level is None:
        return _refuse(f"level {args.level} is not available here, only {', '.join(available_levels())}")
    try:
        inputs = _inputs(args.files, args.only)
    except ScenarioError as error:
        return _refuse(str(error))
    reports = [_replay(file, scenarios, level) for file, scenarios in inputs]
    emit(as_json(reports, args.level) if args.json else as_text(reports, args.level, sys.stdout))
    return DIFFERENT if any(report.mismatches for report in reports) else EQUAL


def _inputs(paths: list[str], only: list[str] | None) -> list[tuple[str, list[Scenario]]]:
    """Each file with its scenarios; with ``only``, those files that have one of them."""
    files = dict.fromkeys(file for path in paths for file in find_files(path))
    inputs = [(file, load(file)) for file in files]
    if only is None:
        return inputs
    known = {scenario.id for _, scenarios in inputs for scenario in scenarios}
    unknown = [wanted for wanted in only if wanted not in known]
    if unknown:
        raise ScenarioError(f"no scenario {', '.join(unknown)} in {', '.join(files)}")
    chosen = [
        (file, [scenario for scenario in scenarios if scenario.id in only]) for file, scenarios in inputs
    ]
    return [(file, scenarios) for file, scenarios in chosen if scenarios]


def _replay(file: str, scenarios: list[Scenario], level: LevelFactory) -> FileReport:
    report = FileReport(file)
    for scenario in scenarios:
        report.add(perform(scenario, level))
    return report


def _refuse(message: str) -> int:
    emit(f"pvmmio replay: {message}\n", sys.stderr)
    return UNREADABLE

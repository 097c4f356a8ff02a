"""What a replay found: counted, as a table, as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .runner import Outcome
from .steps import GuestAccess
from .text import describe_result, describe_step

__all__ = ["FileReport", "as_json", "as_text", "emit"]

_COLUMNS = ("file", "scenarios", "steps", "accesses compared", "left out", "mismatches")
_WIDER_THAN_ANYTHING = 100_000
_WHY_LEFT_OUT = {
    "bus": "they have no tx to drive the bus with; --level guest performs the plain ones",
    "guest": "software decode completes plain loads and stores only; their tx went over the bus instead",
}


@dataclass
class FileReport:
    """The counts of one file, and the scenarios in which something differed.

    ``not_performed`` are the guest accesses that this level cannot perform; all other steps were compared.
    """

    file: str
    scenarios: int = 0
    steps: int = 0
    accesses: int = 0
    not_performed: int = 0
    mismatches: int = 0
    differing: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one scenario."""
        self.scenarios += 1
        self.steps += len(outcome.steps)
        for step in outcome.steps:
            if isinstance(step.step, GuestAccess):
                self.accesses += step.expected is not None
                self.not_performed += step.expected is None
        if outcome.mismatches:
            self.mismatches += len(outcome.mismatches)
            self.differing.append(outcome)


def as_text(reports: Sequence[FileReport], level: str, stream: TextIO) -> str:
    """The table, the steps up to the first mismatch, and which other scenarios differ.

    Laid out for ``stream``: with the width and the colours of a terminal, and without either elsewhere.
    """
    console = Console(file=stream, highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(file=stream, highlight=False, markup=False, width=_WIDER_THAN_ANYTHING)
    with console.capture() as captured:
        console.print(_table(reports))
        for line in _remarks(reports, level):
            console.print(line, soft_wrap=True)
    return "".join(line.rstrip() + "\n" for line in captured.get().splitlines())


def _table(reports: Sequence[FileReport]) -> Table:
    table = Table()
    for name in _COLUMNS:
        table.add_column(name, overflow="fold", justify="left" if name == "file" else "right")
    for report in reports:
        bad = "bold red" if report.mismatches else ""
        table.add_row(Text(report.file), *map(str, _counts(report)[:-1]), Text(str(report.mismatches), bad))
    if len(reports) > 1:
        table.add_section()
        table.add_row("all", *map(str, map(sum, zip(*map(_counts, reports), strict=True))))
    return table


def _counts(report: FileReport) -> tuple[int, ...]:
    return report.scenarios, report.steps, report.accesses, report.not_performed, report.mismatches


def _remarks(reports: Sequence[FileReport], level: str) -> list[Text]:
    lines = []
    left_out = sum(report.not_performed for report in reports)
    if left_out:
        lines.append(Text(f"{left_out} accesses left out: {_WHY_LEFT_OUT[level]}"))
    differing = [(report.file, outcome) for report in reports for outcome in report.differing]
    if differing:
        lines += _first_mismatch(*differing[0])
        lines += [Text(f"also differs: {_where(*other)}") for other in differing[1:]]
    return lines


def _where(file: str, outcome: Outcome) -> str:
    steps = ", ".join(map(str, outcome.mismatches))
    return f"{outcome.scenario.id}, step {steps} ({file})"


def _first_mismatch(file: str, outcome: Outcome) -> list[Text]:
    """Every step up to the one that differs. Steps count from 0, as in the file."""
    first = outcome.mismatches[0]
    lines = [Text(f"\n{outcome.scenario.id}: step {first} differs ({file})")]
    for index, step in enumerate(outcome.steps[: first + 1]):
        style = "" if step.equal else "bold red"
        lines.append(Text(f"  {index:>3}  {describe_step(step.step)}", style))
        lines.append(Text(f"       expected  {describe_result(step.expected)}", style))
        lines.append(Text(f"       got       {describe_result(step.got)}", style))
    return lines


def as_json(reports: Sequence[FileReport], level: str) -> str:
    """The same as one JSON object; ``differing`` holds every step that differs."""
    files = [
        {
            "file": report.file,
            "scenarios": report.scenarios,
            "steps": report.steps,
            "accesses_compared": report.accesses,
            "accesses_left_out": report.not_performed,
            "mismatches": report.mismatches,
            "differing": [
                {
                    "id": outcome.scenario.id,
                    "step": index,
                    "expected": outcome.steps[index].expected,
                    "got": outcome.steps[index].got,
                }
                for outcome in report.differing
                for index in outcome.mismatches
            ],
        }
        for report in reports
    ]
    equal = not any(report.mismatches for report in reports)
    return json.dumps({"level": level, "equal": equal, "files": files}, indent=2) + "\n"


def emit(text: str, stream: TextIO | None = None) -> None:
    """Write to standard output or ``stream``, and escape the characters that it cannot show."""
    stream = stream or sys.stdout
    if stream is None:  # started with its output closed
        return
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()

"""``pvmmio compare``: every ring arrives on every route, and the forms of its output say the same."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pvmmio_uc import EventFd, __version__
from pvmmio_uc.arch import ARCHES
from pvmmio_uc.cli import main
from pvmmio_uc.compare import command, routes
from pvmmio_uc.compare.measure import Row, measure
from pvmmio_uc.compare.routes import Cell, cells
from pvmmio_uc.exits import STEP_NAMES
from pvmmio_uc.stage2 import STAGE2_KINDS

RINGS = 4
Output = Callable[..., tuple[int, str, str]]


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Output:
    """Exit status, standard output and standard error of a comparison."""

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["compare", "--rings", str(RINGS), *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def all_cells() -> list[Cell]:
    return list(cells())


def cell_name(cell: Cell) -> str:
    words = (cell.arch, cell.route.name, cell.stage2, cell.decode)
    return re.sub(r"\W+", "-", " ".join(filter(None, words)))


@pytest.mark.parametrize("cell", all_cells(), ids=cell_name)
def test_every_ring_of_every_cell_arrives(cell: Cell) -> None:
    row = measure(cell, RINGS)
    assert row.ok
    assert (row.signals, row.rings) == (RINGS, RINGS)
    assert row.exits >= 1
    assert row.exits == row.steps.exits
    assert row.ns > 0
    assert row.stub_instructions >= 1
    assert row.stub_bytes >= row.stub_instructions
    json.dumps(row.as_dict())


def test_the_cells_are_architecture_by_stage_2_by_decode_by_route() -> None:
    found = all_cells()
    assert len({cell_name(cell) for cell in found}) == len(found)
    for arch in ARCHES:
        stages = {cell.stage2 for cell in found if cell.arch == arch} - {None}
        assert stages == {kind.name for kind in STAGE2_KINDS.values() if kind.arch == arch}
        memory = [cell for cell in found if cell.arch == arch and cell.stage2 and cell.decode]
        assert {cell.decode for cell in memory} == {"software", "assist"}
    assert {cell.arch for cell in found if cell.route.pio} == {"x86"}


def test_json(compare: Output) -> None:
    status, out, err = compare("--json", "--arch", "arm64")
    document = json.loads(out)
    assert (status, err) == (0, "")
    assert document["pvmmio_uc"] == __version__
    assert len(document["rows"]) == len(list(cells(("arm64",))))
    for row in document["rows"]:
        assert (row["arch"], row["rings"], row["signals"]) == ("arm64", RINGS, RINGS)
        assert {f"{name}_per_ring" for name in STEP_NAMES} <= row.keys()
        assert row["exits_per_ring"] * RINGS == pytest.approx(row["exits"])
        assert isinstance(row["in_linux"], bool)


def test_csv(compare: Output) -> None:
    status, out, err = compare("--csv", "--arch", "ppc")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (status, err) == (0, "")
    assert len(rows) == len(list(cells(("ppc",))))
    assert {row["arch"] for row in rows} == {"ppc"}
    assert {row["signals"] for row in rows} == {str(RINGS)}
    assert None not in rows[0]


def test_the_table_has_every_row(compare: Output) -> None:
    status, out, err = compare("--arch", "ppc", "--arch", "ppc")
    assert (status, err) == (0, "")
    assert f"{RINGS} doorbell rings" in out
    assert len(re.findall(r"\bhv\b", out)) == len([c for c in cells(("ppc",)) if c.stage2 == "hv"])


def test_several_architectures_in_their_order(compare: Output) -> None:
    _, out, _ = compare("--csv", "--arch", "ppc", "--arch", "arm64", "--arch", "ppc")
    arches = [row["arch"] for row in csv.DictReader(io.StringIO(out))]
    assert list(dict.fromkeys(arches)) == ["ppc", "arm64"]
    assert len(arches) == len(list(cells(("ppc", "arm64"))))


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_a_ring_that_is_lost_makes_the_status_1(
    compare: Output, monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    def lossy(cell: Cell, rings: int) -> Row:
        row = measure(cell, rings)
        return replace(row, signals=row.signals - 1) if cell.stage2 == "pr" else row

    monkeypatch.setattr(command, "measure", lossy)
    status, out, err = compare("--arch", "ppc", *form)
    assert status == 1
    wrong = [cell for cell in cells(("ppc",)) if cell.stage2 == "pr"]
    assert len(err.splitlines()) == len(wrong)
    assert f"{RINGS - 1} signals for {RINGS} rings" in err
    assert out


def test_a_ring_that_is_lost_in_the_guest_is_seen() -> None:
    """Not by arithmetic on the row: a doorbell that is not registered is not counted."""
    cell = next(cell for cell in cells(("arm64",)) if cell.route.register is routes._any_length)

    def not_there(pv: Any, eventfd: EventFd, doorbell: Any, *rest: Any) -> None:
        pv.ioeventfd(eventfd, doorbell.address + 8)

    broken = replace(cell, route=replace(cell.route, register=not_there))
    row = measure(broken, RINGS)
    assert (row.ok, row.signals) == (False, 0)


def test_the_fast_bus_takes_fewer_steps_than_the_ordinary_one() -> None:
    """What the mail of 2013 is about, on its own hardware."""
    rows = {
        cell.route.name: measure(cell, 10)
        for cell in cells(("x86",))
        if (cell.stage2, cell.decode) == ("ept", "software") and not cell.route.pio
    }
    by_fetch = {name: row.steps.fetch for name, row in rows.items() if "fast" in name.lower()}
    assert by_fetch
    for fetched in by_fetch.values():
        assert fetched == 15, "the first touch only"


@pytest.mark.parametrize(
    "words",
    [
        ["--rings", "0"],
        ["--rings", "-1"],
        ["--rings", "many"],
        ["--rings", str((1 << 31) + 1)],
        ["--arch", "vax"],
        ["--json", "--csv"],
        ["--frobnicate"],
        ["extra"],
    ],
)
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["compare", *words])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: pvmmio" in captured.err


def test_rings_in_hex(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--arch", "arm64", "--csv", "--rings", "0x3"]) == 0
    assert {row["rings"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))} == {"3"}

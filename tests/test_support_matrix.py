"""The support matrix in README.md is the tiers in the code."""

from __future__ import annotations

from pathlib import Path

from pvmmio_uc.arch import ARCHES

TIERS = {"T0", "T1", "T2", "T3", "T4", "T5"}
README = Path(__file__).parents[1] / "README.md"


def rows() -> dict[str, dict[str, str]]:
    text = README.read_text(encoding="utf-8").split("<!-- support matrix")[1].split("<!-- end -->")[0]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    header, body = lines[0], lines[2:]
    return {cells[0]: dict(zip((h[:2] for h in header[1:]), cells[1:], strict=True)) for cells in body}


def test_every_architecture_has_a_row_and_every_tier_a_column() -> None:
    matrix = rows()

    assert list(matrix) == list(ARCHES)
    assert all(set(row) == TIERS for row in matrix.values())


def test_the_matrix_says_what_the_code_says() -> None:
    printed = {arch: {tier for tier, cell in row.items() if cell == "yes"} for arch, row in rows().items()}

    assert printed == {name: set(arch.tiers) for name, arch in ARCHES.items()}

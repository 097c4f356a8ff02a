"""``pvmmio replay`` as a command: arguments, exit status, what it prints, and where to."""

from __future__ import annotations

import argparse
import errno
import io as streams
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pvmmio_uc
from pvmmio_uc.replay import add_arguments, level, main
from pvmmio_uc.replay.bus_level import BusLevel
from pvmmio_uc.replay.report import FileReport, as_text, emit
from pvmmio_uc.replay.runner import perform
from pvmmio_uc.replay.schema import parse_scenario

from .recorded import A, Json, io, line, raw, store

NAMED = str(Path(__file__).parent.parent / "data" / "kvm" / "named.jsonl.gz")
DIFFERENT = raw(
    io(),
    store(A, "01000000", e0=1),
    io(A, 8, rc=-errno.EEXIST),
    ({"o": "x", "k": "fxsave", "c": "0fae03", "r": {}}, {"end": "internal1"}),
    store(A + 4, "05", ["W", A + 4, 1, "06"]),
)


def replay(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser(prog="pvmmio replay")
    add_arguments(parser)
    return main(parser.parse_args([str(argument) for argument in arguments]))


def process(*arguments: str | Path, **more: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(pvmmio_uc.__path__[0]).parent), "COLUMNS": "80"}
    environment.pop("FORCE_COLOR", None)
    environment.update(more.pop("env", {}))  # type: ignore[call-overload]
    command = [sys.executable, "-m", "pvmmio_uc", "replay", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, **more)  # type: ignore[call-overload]


def file(folder: Path, *scenarios: Json, name: str = "s.jsonl") -> Path:
    path = folder / name
    path.write_bytes(b"".join(map(line, scenarios)))
    return path


class TestStatus:
    def test_equal(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert replay(NAMED) == 0
        out = capsys.readouterr().out
        assert [word for word in out.split() if word.isdigit()][:5] == ["226", "1072", "597", "29", "0"]
        assert "29 accesses left out: they have no tx" in out

    def test_different(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert replay(file(tmp_path, raw(io()), DIFFERENT)) == 1
        assert "made: step 2 differs" in capsys.readouterr().out

    def test_unreadable(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "s.jsonl"
        path.write_bytes(b"{}\n")
        assert replay(NAMED, path) == 2
        captured = capsys.readouterr()
        assert captured.err == f"pvmmio replay: {path}:1: 'id', 'steps', 'out' are missing\n"
        assert captured.out == ""

    def test_bad_arguments(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            replay(NAMED, "--level", "none")
        assert ended.value.code == 2
        assert "invalid choice" in capsys.readouterr().err


class TestFirstMismatch:
    def test_every_step_up_to_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = file(tmp_path, DIFFERENT)
        replay(path)
        lines = capsys.readouterr().out.splitlines()
        begin = lines.index(f"made: step 2 differs ({path})")
        assert [text.strip() for text in lines[begin + 1 :]] == [
            "0  io addr=0x1000000 length=0x4 flags=0x0 eventfd=0 datamatch=0x0",
            "expected  rc=0x0",
            "got       rc=0x0",
            "1  x label=store code=90 registers={} transactions=[[w 0x1000000 01000000]]",
            "expected  ev={0=0x1}",
            "got       ev={0=0x1}",
            "2  io addr=0x1000000 length=0x8 flags=0x0 eventfd=0 datamatch=0x0",
            "expected  rc=-EEXIST",
            "got       rc=0x0",
        ]

    def test_a_step_that_was_not_performed(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        replay(file(tmp_path, raw(*list(zip(DIFFERENT["steps"], DIFFERENT["out"], strict=True))[3:])))
        out = capsys.readouterr().out
        assert "expected  not compared: this level cannot perform the step" in out
        assert "expected  ex=[[W 0x1000004 0x1 06]]" in out
        assert "got       ex=[[W 0x1000004 0x1 05]]" in out

    def test_the_others_are_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = file(tmp_path, DIFFERENT, {**DIFFERENT, "id": "second"})
        replay(path)
        assert f"also differs: second, step 2, 4 ({path})" in capsys.readouterr().out


class TestOnly:
    def test_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert replay(NAMED, "--only", "wild-4", "--json") == 0
        (found,) = json.loads(capsys.readouterr().out)["files"]
        assert (found["scenarios"], found["steps"]) == (1, 14)

    def test_two_in_two_files(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        paths = [file(tmp_path, raw(io()) | {"id": name}, raw(io()), name=f"{name}.jsonl") for name in "abc"]
        assert replay(*paths, "--only", "a", "--only", "c", "--json") == 0
        files = json.loads(capsys.readouterr().out)["files"]
        assert [(Path(found["file"]).name, found["scenarios"]) for found in files] == [
            ("a.jsonl", 1),
            ("c.jsonl", 1),
        ]

    def test_none(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert replay(NAMED, "--only", "wild-4", "--only", "no-such") == 2
        assert capsys.readouterr().err == f"pvmmio replay: no scenario no-such in {NAMED}\n"


class TestJson:
    def test_counts_and_differences(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = file(tmp_path, DIFFERENT)
        assert replay(path, "--json") == 1
        result = json.loads(capsys.readouterr().out)
        assert (result["level"], result["equal"]) == ("bus", False)
        (found,) = result["files"]
        differing = found.pop("differing")
        assert found == {
            "file": str(path),
            "scenarios": 1,
            "steps": 5,
            "accesses_compared": 2,
            "accesses_left_out": 1,
            "mismatches": 2,
        }
        assert [(entry["id"], entry["step"]) for entry in differing] == [("made", 2), ("made", 4)]
        assert (differing[0]["expected"], differing[0]["got"]) == ({"rc": -errno.EEXIST}, {"rc": 0})


class TestLevels:
    def test_guest_without_its_module(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(level.LEVELS, "guest", ("no_such_level", "Level"))
        assert replay(NAMED, "--level", "guest") == 2
        assert capsys.readouterr().err == "pvmmio replay: level guest is not available here, only bus\n"

    def test_guest_with_a_module(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        module = ModuleType("pvmmio_uc.replay.made_up_level")
        module.MadeUp = BusLevel  # type: ignore[attr-defined]
        module.__spec__ = level.__spec__
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(level.LEVELS, "guest", ("made_up_level", "MadeUp"))
        without_tx = {"o": "x", "k": "fxsave", "c": "0fae03", "r": {}}, {"end": "internal1"}
        assert replay(file(tmp_path, raw(without_tx)), "--level", "guest") == 0
        assert "1 accesses left out" in capsys.readouterr().out

    def test_bus_is_there(self) -> None:
        assert level.find_level("bus") is BusLevel
        assert "bus" in level.available_levels()
        assert level.find_level("none") is None


class TestOutput:
    def test_off_a_terminal(self, tmp_path: Path) -> None:
        path = file(tmp_path, DIFFERENT, name="n" * 200 + ".jsonl")
        with process(path, stdout=subprocess.PIPE) as running:
            out, err = running.communicate()
        assert (running.returncode, err) == (1, b"")
        assert b"\x1b" not in out
        assert str(path).encode() in out.splitlines()[3]
        assert all(text == text.rstrip() for text in out.decode().splitlines())

    def test_to_a_reader_that_left(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        with process(NAMED, stdout=writer) as running:
            os.close(writer)
            _, err = running.communicate()
        assert (running.returncode, err) == (128 + signal.SIGPIPE, b"")

    def test_in_ascii(self, tmp_path: Path) -> None:
        path = file(tmp_path, raw(io()), name="dür.jsonl")
        with process(path, stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"}) as running:
            out, _ = running.communicate()
        assert running.returncode == 0
        assert b"d\\xfcr.jsonl" in out

    def test_without_any_output(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdout", None)
        assert replay(NAMED, "--only", "wild-4") == 0

    def test_on_a_narrow_terminal_nothing_is_cut(self) -> None:
        class Terminal(streams.StringIO):
            encoding = "utf-8"

            def isatty(self) -> bool:
                return True

        environment = pytest.MonkeyPatch()
        environment.setenv("COLUMNS", "80")
        environment.setenv("TERM", "xterm")
        environment.delenv("NO_COLOR", raising=False)
        name = "/".join(f"folder{number}" for number in range(30))
        report = FileReport(name)
        report.add(perform(parse_scenario(DIFFERENT), BusLevel))
        text = as_text([report], "bus", Terminal())
        environment.undo()
        assert "\x1b[" in text
        assert "…" not in text
        column = "".join(row.split("│")[1].strip() for row in text.splitlines() if "│" in row)
        assert column == name

    def test_markup_in_a_name_is_text(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = file(tmp_path, DIFFERENT | {"id": "[bold]x[/bold]"}, name="[red]s[1].jsonl")
        assert replay(path) == 1
        out = capsys.readouterr().out
        assert out.count(str(path)) == 2
        assert "[bold]x[/bold]: step 2" in out

    def test_emit_escapes_what_cannot_be_shown(self) -> None:
        target = streams.TextIOWrapper(streams.BytesIO(), encoding="ascii")
        emit("\udcff ü\n", target)
        target.seek(0)
        assert target.read() == "\\udcff \\xfc\n"

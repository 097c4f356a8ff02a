"""The ``pvmmio`` command: help, status, a script as ``python`` would run it, and readers that go away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pvmmio_uc import __version__, plugin
from pvmmio_uc.cli import COMMANDS, main

ROOT = Path(__file__).parent.parent
DOORBELL = ROOT / "examples" / "arm64" / "doorbell.py"


def pvmmio(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    given = {"capture_output": True, **options} if "stdout" not in options else options
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "pvmmio_uc", *words], cwd=ROOT, text=True, timeout=120, **given
    )


def script(folder: Path, text: str) -> str:
    path = folder / "guest_script.py"
    path.write_text(text)
    return str(path)


class TestHelp:
    def test_without_a_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([]) == 2
        assert "usage: pvmmio" in capsys.readouterr().out

    def test_lists_every_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["--help"])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        for name, (_, about) in COMMANDS.items():
            assert name in out
            assert about in " ".join(out.split())

    @pytest.mark.parametrize("command", COMMANDS)
    def test_of_a_command(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
        assert f"usage: pvmmio {command}" in capsys.readouterr().out

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["--version"])
        assert caught.value.code == 0
        assert capsys.readouterr().out.strip() == f"pvmmio {__version__}"

    @pytest.mark.parametrize("words", [["bogus"], ["bogus", "compare"], ["--bogus"], ["run"]])
    def test_usage(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "usage: pvmmio" in captured.err

    def test_as_a_module(self) -> None:
        run = pvmmio("--version")
        assert (run.returncode, run.stdout, run.stderr) == (0, f"pvmmio {__version__}\n", "")


class TestRun:
    def test_an_example_and_its_last_exits(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", "--exits", "2", str(DOORBELL)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-3].startswith("<PvMmio arm64")
        assert all(line.startswith("  mmio 0x") for line in lines[-2:])

    def test_it_is_main_with_its_own_arguments_and_folder(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "neighbour_of_guest_script.py").write_text("WORD = 'found'\n")
        path = script(
            tmp_path,
            "import sys, neighbour_of_guest_script as n\n"
            "print(__name__, __file__, sys.argv, sys.path[0], n.WORD)\n",
        )
        argv, search = sys.argv, list(sys.path)
        assert main(["run", path, "a", "--exits", "-x"]) == 0
        expected = f"__main__ {path} {[path, 'a', '--exits', '-x']} {tmp_path} found"
        assert capsys.readouterr().out.strip() == expected
        assert (sys.argv, sys.path) == (argv, search)
        assert plugin.on_attach == []

    def test_exit_of_a_script(self, tmp_path: Path) -> None:
        for text, status in (("import sys; sys.exit(7)", 7), ("import sys; sys.exit()", 0)):
            run = pvmmio("run", script(tmp_path, text))
            assert (run.returncode, run.stderr) == (status, "")
        run = pvmmio("run", script(tmp_path, "import sys; sys.exit('words')"))
        assert (run.returncode, run.stderr) == (1, "words\n")

    @pytest.mark.parametrize(
        "error", ["KeyError('mine')", "OSError(5, 'mine')", "FileNotFoundError(2, 'mine')"]
    )
    def test_a_script_that_fails(self, tmp_path: Path, error: str) -> None:
        path = script(tmp_path, f"print('before')\nraise {error}\n")
        run = pvmmio("run", path)
        assert run.returncode == 1
        assert run.stdout == "before\n"
        assert run.stderr.startswith("Traceback")
        assert "mine" in run.stderr.splitlines()[-1]
        assert f'File "{path}", line 2' in run.stderr

    def test_a_script_that_is_no_python(self, tmp_path: Path) -> None:
        run = pvmmio("run", script(tmp_path, "def ("))
        assert run.returncode == 1
        assert "SyntaxError" in run.stderr

    def test_a_script_that_is_interrupted(self, tmp_path: Path) -> None:
        run = pvmmio("run", script(tmp_path, "raise KeyboardInterrupt"))
        assert (run.returncode, run.stderr) == (130, "")

    def test_its_exits_are_shown_also_when_it_fails(self, tmp_path: Path) -> None:
        path = script(
            tmp_path,
            "from pvmmio_uc.machine import Machine\n"
            "m = Machine('ppc')\n"
            "m.run(m.doorbell(0xe0000050).text)\n"
            "raise SystemExit(3)\n",
        )
        run = pvmmio("run", "--exits", "5", path)
        assert run.returncode == 3
        assert "mmio 0xe0000050 at pc 0x" in run.stdout

    @pytest.mark.parametrize("path", ["nowhere.py", "."])
    def test_what_is_no_script(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", path]) == 2
        assert path in capsys.readouterr().err

    @pytest.mark.parametrize("exits", ["0", "-1", "x"])
    def test_exits_are_counted_from_one(self, exits: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["run", "--exits", exits, str(DOORBELL)])
        assert caught.value.code == 2
        assert "whole number from 1" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="pipes and their signals")
class TestReadersThatGoAway:
    @pytest.mark.parametrize(
        "words",
        [
            ["--help"],
            ["compare", "--arch", "ppc", "--rings", "2"],
            ["compare", "--arch", "ppc", "--rings", "2", "--json"],
            ["run", str(DOORBELL)],
            ["run", "--exits", "3", str(DOORBELL)],
        ],
        ids=" ".join,
    )
    def test_a_closed_pipe_is_told_by_the_status_and_nothing_else(self, words: list[str]) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            run = pvmmio(*words, stdout=writer, stderr=subprocess.PIPE)
        finally:
            os.close(writer)
        assert run.stderr == ""
        assert run.returncode == (0 if words == ["--help"] else 141)

    def test_a_full_disk_is_an_error(self) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full")
        with open("/dev/full", "w") as full:
            run = pvmmio(
                "compare", "--arch", "ppc", "--rings", "2", "--csv", stdout=full, stderr=subprocess.PIPE
            )
        assert run.returncode not in (0, 141)
        assert "No space left" in run.stderr

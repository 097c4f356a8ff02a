"""Every script under examples/ runs by itself, and examples/README.md shows what it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
ARCHITECTURES = ("arm64", "ppc", "x86")
SCRIPTS = sorted(EXAMPLES.glob("*/*.py"))
X86_ONLY = {"ports.py", "hyperv.py"}
LINES = 60
SECONDS = 120

LAST_LINES = {
    "doorbell.py": "kick counts 3, notify 1; user space was shown the values [2]",
    "device.py": "the guest read ID 0xadd, DATA 42, STATUS 2; refused 0xff; from user space 0x5eed",
    "notify.py": "the guest saw the used index 200; the squares of 1 to 200 add up to 2686700",
    "both.py": "kick counts 6, 1 of them by hypercall; the guest has found 2 (2: stores)",
    "hyperv.py": "kick counts 3: a store, a write call and a signal call",
    "ports.py": "the console took b'hello', gave 0xe9; notify counts 1; 2 went to user space (0xffffffff)",
}
ROUTES = {
    "arm64": ["ioeventfd", "ioeventfd", "ioeventfd", "ioeventfd", "userspace"],
    "ppc": ["fast", "fast", "fast", "ioeventfd", "userspace"],
    "x86": ["ioeventfd", "fast", "fast", "ioeventfd", "userspace"],
}
BREAK = {
    "doorbell.py": ("length=4", "length=2"),
    "device.py": ("+= value", "-= value"),
    "notify.py": ("**= 2", "**= 3"),
    "both.py": ("offered=offered", "offered=True"),
    "hyperv.py": ("mov edx, {CONNECTION}", "mov edx, 6"),
    "ports.py": ("datamatch=1", "datamatch=3"),
}
"""What to change in a script to make its result wrong."""
RINGS = {
    "arm64": [["ioeventfd", "fast"], ["ioeventfd", "ioeventfd"], ["ioeventfd", "ioeventfd"]],
    "ppc": [["fast", "fast"], ["fast", "fast"], ["fast", "fast"]],
    "x86": [["ioeventfd", "fast"], ["fast", "fast"], ["fast", "fast"]],
}
"""The routes of both.py's rings, run by run: a plain store, then what the library does."""
LOOKING = {"arm64": 3, "ppc": 1, "x86": 0}
"""The calls by which the library looks for the interface; on x86 it asks CPUID."""

Result = subprocess.CompletedProcess[str]
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
each_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)


def run(*arguments: str | Path, cwd: Path, **environment: str) -> Result:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@cache
def output_of(script: Path) -> str:
    """What a plain ``python SCRIPT`` prints, run in a directory that is not the repository."""
    result = run(script, cwd=Path(script.anchor))
    return good_output(result)


def good_output(result: Result) -> str:
    assert result.stderr == ""
    assert result.returncode == 0
    return result.stdout


def repeatable(output: str) -> str:
    """Without what depends on how the host schedules the threads."""
    return re.sub(r"woke up \d+ times: \[.*\]", "woke up ... times: [...]", output)


def test_every_architecture_has_the_same_scripts() -> None:
    names = {
        arch: {path.name for path in (EXAMPLES / arch).iterdir() if path.is_file()} for arch in ARCHITECTURES
    }
    assert {path.parent.name for path in SCRIPTS} == set(ARCHITECTURES)
    assert names["arm64"] == names["ppc"] == names["x86"] - X86_ONLY == set(LAST_LINES) - X86_ONLY
    assert names["x86"] >= X86_ONLY


@each_script
def test_it_is_short_and_says_what_it_shows(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert len(lines) < LINES
    assert re.match(r'""".+\.$', lines[0])


@each_script
def test_it_runs_from_anywhere(script: Path) -> None:
    assert output_of(script).splitlines()[-1] == LAST_LINES[script.name]


@each_script
def test_it_fails_where_the_result_is_wrong(script: Path, tmp_path: Path) -> None:
    right, wrong = BREAK[script.name]
    text = script.read_text()
    assert text.count(right) == 1
    broken = tmp_path / script.name
    broken.write_text(text.replace(right, wrong))
    result = run(broken, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("expected ")


@each_architecture
def test_the_doorbell_takes_the_routes_of_its_stage_2(arch: str) -> None:
    output = output_of(EXAMPLES / arch / "doorbell.py")
    assert re.findall(r"^store \d .* -> (\w+): ", output, re.MULTILINE) == ROUTES[arch]


def test_the_first_touch_on_ept_is_slow_and_the_second_is_not() -> None:
    first, second = output_of(EXAMPLES / "x86" / "doorbell.py").splitlines()[1:3]
    assert "decode 1" in first
    assert "fetch" in first
    assert "decode" not in second
    assert "fetch" not in second


@each_architecture
def test_both_rings_by_a_call_while_the_host_answers_it_and_by_stores_from_then_on(arch: str) -> None:
    output = output_of(EXAMPLES / arch / "both.py")
    runs = [re.findall(r"^  (kvm|mmio).* -> (\w+): ", run, re.MULTILINE) for run in output.split(":\n")[1:]]
    assert [[route for _, route in run if route != "nothing"] for run in runs] == RINGS[arch]
    reasons = [[reason for reason, _ in run] for run in runs]
    assert reasons == [["mmio", *["kvm"] * LOOKING[arch], "kvm"], ["mmio", "kvm", "mmio"], ["mmio", "mmio"]]


@each_architecture
@pytest.mark.parametrize("portable", ["0", "1"], ids=["eventfd", "portable"])
def test_every_ring_is_counted_in_at_most_as_many_wakeups(arch: str, portable: str, tmp_path: Path) -> None:
    script = EXAMPLES / arch / "notify.py"
    output = good_output(run(script, cwd=tmp_path, PVMMIO_PORTABLE_EVENTFD=portable))
    found = re.match(r"the guest rang (\d+) times, the thread woke up (\d+) times: \[(.*)\]\n", output)
    assert found is not None
    rings, wakeups, counts = int(found[1]), int(found[2]), [int(count) for count in found[3].split(", ")]
    assert rings == sum(counts) == 200
    assert wakeups == len(counts) <= rings


@pytest.mark.skipif(
    not (ROOT / "pvmmio_uc" / "cli.py").exists(), reason="pvmmio_uc/cli.py does not exist: no pvmmio run"
)
@each_script
def test_pvmmio_run_does_the_same(script: Path) -> None:
    result = run("-m", "pvmmio_uc", "run", script.relative_to(ROOT), cwd=ROOT)
    assert repeatable(good_output(result)) == repeatable(output_of(script))


@each_script
def test_the_readme_shows_what_it_prints(script: Path) -> None:
    readme = (EXAMPLES / "README.md").read_text()
    command = f"$ python {script.relative_to(ROOT).as_posix()}\n"
    assert readme.count(command) == 1
    shown = readme.split(command)[1].split("```")[0]
    assert repeatable(shown) == repeatable(output_of(script))

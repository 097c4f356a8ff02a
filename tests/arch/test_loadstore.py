"""Plain loads and stores: what the engine does to RAM, the plugin does to a device.

Registers, flags, pc and memory are compared after every instruction, on every kind of guest, over every
kind of stage 2, with both ways of decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pvmmio_uc.arch import ARCHES
from pvmmio_uc.arch.arm64 import machine as arm64_machine
from pvmmio_uc.arch.ppc import machine as ppc_machine
from pvmmio_uc.arch.x86 import machine as x86_machine
from pvmmio_uc.assembler import assemble
from pvmmio_uc.exits import Route, UserspaceExit
from pvmmio_uc.machine import ARCHITECTURES, Machine
from pvmmio_uc.plugin import Decode
from tests.arch.arm64 import setups_arm64
from tests.arch.ppc import setups_ppc
from tests.arch.programs import LANGUAGES
from tests.arch.twins import Case, Setup, Twins
from tests.arch.x86 import setups_x86

SETUPS: tuple[Setup, ...] = (*setups_x86.SETUPS, *setups_arm64.SETUPS, *setups_ppc.SETUPS)
CASES = 130
PROGRAM_SIZE = 256
PROGRAMMED = ("Machine x86-64, paging", "Machine arm64", "Machine ppc32 big-endian")

setups = pytest.mark.parametrize("setup", SETUPS, ids=str)


def rounds(setup: Setup) -> range:
    return range(max(2, CASES // len(setup.forms)))


def is_one_callback(case: Case) -> bool:
    """What the engine hands over in one piece (unicorn #2074)."""
    return case.size <= 4 and case.gva % case.size == 0


def test_every_variant_of_machine_is_here() -> None:
    machines = [x86_machine, arm64_machine, ppc_machine]
    variants = sum(len(module.VARIANTS) for module in machines)
    assert sum(str(setup).startswith("Machine") for setup in SETUPS) == variants
    assert {setup.arch for setup in SETUPS} == set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("setup", "stage2"),
    [(setup, kind) for setup in SETUPS for kind in ARCHES[setup.arch].stage2_kinds],
    ids=str,
)
def test_software_decode(setup: Setup, stage2: str) -> None:
    twins = Twins(setup, stage2=stage2, seed=1)
    count = twins.run_all(twins.case(form) for _ in rounds(setup) for form in setup.forms)
    assert twins.device.accesses > count // 3


@setups
def test_decode_assist(setup: Setup) -> None:
    twins = Twins(setup, decode="assist", seed=2)
    cases = (twins.case(form) for _ in rounds(setup) for form in setup.forms)
    count = twins.run_all(case for case in cases if is_one_callback(case))
    assert twins.device.accesses > count // 3


@pytest.mark.parametrize("decode", ["software", "assist"])
@pytest.mark.parametrize(
    "setup",
    [s for s in SETUPS if s.name in ("Machine x86-64, paging", "Machine arm64", "Machine ppc32 big-endian")],
    ids=str,
)
def test_programs(setup: Setup, decode: Decode) -> None:
    """Several accesses in one translation block, in a loop."""
    language, twins = LANGUAGES[setup.arch], Twins(setup, decode=decode, seed=4)
    for _ in range(40):
        at = twins.place(PROGRAM_SIZE)
        code = assemble(language.dialect, language.program(twins.random), at)
        registers = {number: twins.random.getrandbits(32) for number in setup.numbers}
        registers |= {number: setup.window[0] + offset for number, offset in language.window.items()}
        registers |= {language.counter: 4} | dict.fromkeys(language.clear, 0)
        twins.run(Case(code, registers, 0, 0, False))


@dataclass(frozen=True)
class Words:
    """One store and one load each, in assembly; at the exit of those in ``moved`` pc is behind them."""

    store: str
    load: str
    add: str
    base: str
    data: str
    moved: frozenset[str]


WORDS = {
    "x86": Words(
        "mov dword ptr [rbx], eax", "mov eax, dword ptr [rbx]", "inc ecx", "rbx", "rax", frozenset({"store"})
    ),
    "arm64": Words("str w0, [x1]", "ldr w0, [x1]", "add x2, x2, #1", "x1", "x0", frozenset()),
    "ppc": Words("stw 3, 0(4)", "lwz 3, 0(4)", "addi 5, 5, 1", "r4", "r3", frozenset({"store", "load"})),
}
WITH_UPDATE = {
    "arm64": Words("str w0, [x1, #8]!", "ldr w0, [x1, #8]!", "nop", "x1", "x0", frozenset()),
    "ppc": Words("stwu 3, 8(4)", "lwzu 3, 8(4)", "nop", "r4", "r3", frozenset({"store", "load"})),
}
ANSWER = 0x1234_5678

arches = pytest.mark.parametrize("arch", WORDS)
kinds = pytest.mark.parametrize(
    ("arch", "stage2"), [(arch, kind) for arch, cls in ARCHES.items() for kind in cls.stage2_kinds]
)
directions = pytest.mark.parametrize("direction", ["store", "load"])
decodes = pytest.mark.parametrize("decode", ["software", "assist"])


def text(words: Words, direction: str) -> str:
    return words.store if direction == "store" else words.load


class Boom(Exception):
    """Raised by a callback."""


class TestUserspace:
    @kinds
    @directions
    def test_the_pc_that_it_sees(self, arch: str, stage2: str, direction: str) -> None:
        """Behind a store on x86, behind everything on ppc, at the instruction otherwise."""
        words = WORDS[arch]
        with Machine(arch, stage2=stage2) as machine:
            seen: list[tuple[int | None, int]] = []

            @machine.pv.on_userspace
            def exit_(exit: UserspaceExit) -> None:
                seen.append((exit.pc, machine.pv.arch.pc()))

            start, end = machine.load(text(words, direction))
            machine.run(text(words, direction), {words.base: machine.platform.mmio})
            assert seen == [(start, end if direction in words.moved else start)]
            assert machine.pv.arch.pc() == end
            assert machine.pv.exits[-1].pc == start

    @pytest.mark.parametrize("arch", WITH_UPDATE)
    @directions
    def test_the_base_that_it_sees(self, arch: str, direction: str) -> None:
        """On ppc rA is written with pc, before the exit; on arm64 afterwards."""
        words, seen = WITH_UPDATE[arch], []
        with Machine(arch) as machine:
            base = machine.platform.mmio
            machine.pv.on_userspace(lambda exit: seen.append(machine[words.base]))
            machine.run(text(words, direction), {words.base: base})
            assert seen == [base + 8 if direction in words.moved else base]
            assert machine[words.base] == base + 8

    def test_both_exits_of_one_store_are_behind_it(self) -> None:
        seen = []
        with Machine("x86") as machine:
            machine.pv.on_userspace(lambda exit: seen.append((exit.size, machine["rip"])))
            _, end = machine.load("mov qword ptr [rbx], rax")
            machine.run("mov qword ptr [rbx], rax", {"rbx": machine.platform.mmio + 0xFFD})
        assert seen == [(3, end), (5, end)]

    @arches
    @directions
    @decodes
    def test_a_stop_completes_the_access(self, arch: str, direction: str, decode: Decode) -> None:
        words = WORDS[arch]
        with Machine(arch, decode=decode) as machine:

            @machine.pv.on_userspace
            def stop(exit: UserspaceExit) -> int | None:
                machine.uc.emu_stop()
                return None if exit.write else ANSWER

            lines = [text(words, direction), words.add, text(words, direction), words.add]
            first = machine.load(lines[0])[1]
            start, end = machine.load("\n".join(lines))
            machine[words.base], machine[words.data] = machine.platform.mmio, 7
            machine.uc.emu_start(start, end)
            assert machine.pv.arch.pc() == first
            assert machine[words.data] == (7 if direction == "store" else ANSWER)
            assert machine.pv.exits.total == 1
            machine.uc.emu_start(first, end)
            assert machine.pv.exits.total == 2
            machine.uc.emu_start(machine.pv.arch.pc(), end)
            assert machine.pv.arch.pc() == end

    @arches
    @directions
    def test_an_exception_leaves_the_register_alone(self, arch: str, direction: str) -> None:
        words = WORDS[arch]
        with Machine(arch) as machine:

            @machine.pv.on_userspace
            def fail(exit: UserspaceExit) -> None:
                raise Boom

            start, end = machine.load(text(words, direction))
            with pytest.raises(Boom):
                machine.run(text(words, direction), {words.base: machine.platform.mmio, words.data: 7})
            assert machine[words.data] == 7
            assert machine.pv.arch.pc() == (end if direction in words.moved else start)
            assert (machine.pv.exits[-1].route, machine.pv.exits[-1].pc) == (Route.ERROR, start)
            machine.pv.on_userspace(lambda exit: ANSWER)
            machine.run(words.load)
            assert machine[words.data] == ANSWER

    @arches
    @decodes
    def test_assist_does_not_know_pc(self, arch: str, decode: Decode) -> None:
        words, seen = WORDS[arch], []
        with Machine(arch, decode=decode) as machine:
            machine.pv.on_userspace(lambda exit: seen.append(exit.pc))
            start, _ = machine.load(words.store)
            machine.run(words.store, {words.base: machine.platform.mmio})
        assert seen == [start if decode == "software" else None]

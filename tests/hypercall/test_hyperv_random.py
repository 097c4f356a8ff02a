"""Random register files, control words and parameter blocks against the model, on every register layout.

Half of the calls are nearly right, so that every check and every success is reached; the rest is noise.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from pvmmio_uc.hypercall.hyperv import HyperV
from pvmmio_uc.hypercall.hyperv_state import HyperVFeatures, HyperVState

from .fakes import (
    DEVICE,
    DOORBELL_ANY,
    DOORBELL_FOUR,
    DOORBELL_MATCH,
    MATCH,
    NOBODY,
    RAM,
    RAM_SIZE,
    ROM,
    USER,
    ZONE,
    Board,
    FakeCpu,
    element,
)
from .hyperv_guest import CALLS, HVC0, HVC1, X32, X64, layout_fixture, mmio_block, registers, with_block
from .hyperv_model import ANSWER, DONE, M64, RETRY, UNDEFINED, Event, Host, Model

CALLS_PER_LAYOUT = 20_000
CODES = (0x106, 0x106, 0x107, 0x107, 0x5D, 0x5D, 0x5C, 0x8030, 0x8030, 0x8001, 0x8002, 0x50, 0x51, 0x99)
DOORBELLS = (DOORBELL_ANY, DOORBELL_FOUR, DOORBELL_MATCH)
TARGETS = (DEVICE, DEVICE + 8, *DOORBELLS, ZONE, USER, NOBODY, RAM, ROM, M64 - 7)
SIZES = (1, 2, 4, 4, 4, 8, 8, 0, 3, 64, 1 << 31)
CONNECTION = 5
NAMES = (0x90002, 0x90002, 0x201, 0x200, 0x100, 0x202, 0x203, 7)
OS_ID = 0x1234_5678_9ABC_DEF0

layout = layout_fixture()


class Sampler:
    """Random calls; `mostly` is the bias to what works."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def mostly(self, usual: int, other: Callable[[], int], chance: float = 0.12) -> int:
        return other() if self.random.random() < chance else usual

    def host(self) -> Host:
        coin = self.random.random
        return Host(
            synic=coin() < 0.6,
            enforce=coin() < 0.3,
            xen=coin() < 0.2,
            post=coin() < 0.8,
            signal=coin() < 0.8,
            extended=coin() < 0.9,
            xmm_in=coin() < 0.8,
            xmm_out=coin() < 0.8,
            mmio=coin() < 0.95,
            batch=coin() < 0.95,
            offered=coin() < 0.95,
            limit=self.random.choice((None, None, 1, 2, 3)),
            answer=self.random.choice((None, 0, 0x1D, M64)),
            connections=frozenset({CONNECTION}),
            os_id=OS_ID,
        )

    def control(self, code: int) -> int:
        bits, noise = code, self.random.getrandbits
        listed = code in (0x8030, 0x50, 0x51)
        bits |= self.mostly(code not in (0x8030, 0x8001, 0x5C) and noise(1), lambda: noise(1)) << 16
        bits |= self.mostly(0, lambda: noise(10), 0.04) << 17
        count = self.random.randrange(1, 6) if listed else 0
        bits |= self.mostly(count, lambda: noise(12), 0.06) << 32
        bits |= self.mostly(self.random.randrange(count) if count else 0, lambda: noise(12), 0.06) << 48
        return self.mostly(bits, lambda: bits | 1 << self.random.randrange(64), 0.06)

    def place(self) -> int:
        """The gpa of a block: in RAM, mostly where it fits."""
        choice = self.random.choice
        good = RAM + 8 * self.random.randrange(0, 0x1C0) + 0x1000 * self.random.randrange(8)
        return self.mostly(
            good,
            lambda: choice(
                (
                    good + self.random.randrange(8),
                    RAM + 0x1000 - 8 * self.random.randrange(12),
                    RAM + RAM_SIZE - 8 * self.random.randrange(12),
                    ROM + 8,
                    0,
                    M64 - 7,
                    self.random.getrandbits(64),
                )
            ),
            0.2,
        )

    def block(self, code: int) -> bytes:
        choice, noise = self.random.choice, self.random.getrandbits
        if code in (0x106, 0x107):
            gpa = self.mostly(choice(TARGETS), lambda: noise(64))
            value = choice((MATCH, noise(64)))
            return mmio_block(gpa, choice(SIZES), value, noise(32))
        if code == 0x5D:
            return self.mostly(CONNECTION, lambda: choice((6, 1 << noise(6), noise(64))), 0.4).to_bytes(
                8, "little"
            )
        if code == 0x8030:
            header = self.mostly(0, lambda: noise(64), 0.05)
            return header.to_bytes(8, "little") + b"".join(self.element() for _ in range(5))
        if code in (0x50, 0x51):
            return self.vp_registers(code)
        return self.random.randbytes(80)

    def element(self) -> bytes:
        size = self.mostly(4, lambda: self.random.choice(SIZES))
        gpa = self.random.choice(TARGETS[:7]) if self.random.random() < 0.9 else self.random.choice(TARGETS)
        value = self.random.choice((MATCH, self.random.getrandbits(64)))
        return element(gpa, value, size, self.mostly(0, lambda: 1, 0.05))

    def vp_registers(self, code: int) -> bytes:
        noise = self.random.getrandbits
        partition, vp = self.mostly(M64, lambda: noise(64), 0.05), self.mostly(0xFFFF_FFFE, lambda: 0, 0.05)
        block = partition.to_bytes(8, "little") + vp.to_bytes(4, "little")
        block += self.mostly(0, lambda: noise(32), 0.05).to_bytes(4, "little")
        if code == 0x50:
            return block + b"".join(self.random.choice(NAMES).to_bytes(4, "little") for _ in range(5))
        for _ in range(3):
            name = self.mostly(0x90002, lambda: 0x201)
            block += name.to_bytes(16, "little") + noise(64).to_bytes(16, "little")
        return block

    def noise(self, layout: str) -> dict[str, int]:
        """A register file of nothing but random bits; on x86 with something above the halves."""
        names = [*(f"x{number}" for number in range(18))]
        if layout in (X64, X32):
            names = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8"]
        file = {name: self.random.getrandbits(64) for name in names}
        if layout in (X64, X32):
            file |= {f"xmm{number}": self.random.getrandbits(128) for number in range(6)}
        if layout == HVC0:
            file["x0"] = self.random.getrandbits(32) << 32 | 0x4600_0001
        return file

    def call(self, layout: str) -> tuple[dict[str, int], list[tuple[int, bytes]]]:
        """The register file, and what lies in memory."""
        code = self.mostly(self.random.choice(CODES), lambda: self.random.getrandbits(16), 0.05)
        control, block = self.control(code), self.block(code)
        file = self.noise(layout)
        if self.random.random() < 0.05:
            return file, []
        if control >> 16 & 1:
            return file | with_block(layout, control, block), []
        gpa = self.place()
        return file | registers(layout, control, gpa, self.place()), [(gpa, block)]


class Rig:
    """One board and one convention for all calls of a test: the setting changes, the world is reset."""

    def __init__(self, layout: str) -> None:
        self.layout, self.board = layout, Board()
        self.board.device.answer = ANSWER
        self.bell = self.board.connect(CONNECTION)
        self.exits: list[Event] = []
        self.answer: int | None = None

    def convention(self, host: Host) -> HyperV:
        features = HyperVFeatures(
            post_messages=host.post,
            signal_events=host.signal,
            extended=host.extended,
            xmm_input=host.xmm_in,
            xmm_output=host.xmm_out,
            mmio=host.mmio,
            batch=host.batch,
        )
        state = HyperVState(
            self.board.memory, xen=host.xen, features=features, enforce=host.enforce, synic=host.synic
        )
        state.offered, state.guest_os_id = host.offered, host.os_id
        self.answer = host.answer
        architecture = "x86" if self.layout in (X64, X32) else "arm64"
        return HyperV(state, architecture, reps_per_exit=host.limit, on_hyperv_exit=self.on_exit)

    def on_exit(self, control: int, parameter: int, output: int) -> int | None:
        self.exits.append(("exit", control, parameter, output))
        return self.answer

    def happened(self) -> list[Event]:
        """Everything that the world saw since the last time."""
        board = self.board
        events: list[Event] = [*self.exits, *board.device.log]
        events += [("user", *asked) for asked in board.asked]
        events += [("zone", entry.address, entry.data) for entry in board.vm.ring.drain()]
        for addr, bell in board.bells.items():
            events += [("bell", addr)] * bell.count
            bell.count = 0
        events += [("connection", CONNECTION)] * self.bell.count
        self.bell.count = 0
        for log in (self.exits, board.device.log, board.asked):
            log.clear()
        return in_order(events)


def in_order(events: list[Event]) -> list[Event]:
    """By who saw it, and for each in time; bells only count."""
    return sorted(events, key=lambda event: (str(event[0]), event[1] if event[0] == "bell" else 0))


def one(rig: Rig, sampler: Sampler, seen: Counter[tuple[int, str, int]]) -> None:
    host, (file, contents) = sampler.host(), sampler.call(rig.layout)
    user, protected = sampler.random.random() < 0.04, True
    if rig.layout in (X64, X32):
        protected = sampler.random.random() > 0.02
    memory = rig.board.memory
    for gpa, data in contents:
        memory.write(gpa, data)
    memory.writes.clear()
    model = Model(rig.layout, file, host, memory)
    expected = model.predict(user, protected)

    convention = rig.convention(host)
    bits = 32 if rig.layout == X32 else 64
    cpu = FakeCpu(memory, bits=bits, user_mode=user, protected_mode=protected, **file)
    outcome = convention.handle(cpu, CALLS[rig.layout], rig.board.operations())

    given = (outcome.value, cpu.written, memory.writes, rig.happened(), convention.state.guest_os_id)
    os_id = host.os_id if expected.os_id is None else expected.os_id
    wanted = (expected.kind, expected.registers, expected.writes, in_order(expected.events), os_id)
    assert given == wanted, f"{rig.layout} {host} {file} {contents} {user=} {protected=}"
    word = expected.registers.get("rax", expected.registers.get("x0", 0)) & 0xFFFF
    seen[model.code if model.code in CODES else -1, expected.kind, word if expected.kind == DONE else 0] += 1


def test_twenty_thousand_calls(layout: str) -> None:
    rig, sampler, seen = Rig(layout), Sampler(0xD15C0), Counter[tuple[int, str, int]]()
    for _ in range(CALLS_PER_LAYOUT):
        one(rig, sampler, seen)
    assert sum(seen.values()) == CALLS_PER_LAYOUT
    reached(layout, seen)


def reached(layout: str, seen: Counter[tuple[int, str, int]]) -> None:
    """The sample is worth something only if every answer that a call has was given."""
    expected = {
        0x106: {0, 2, 3, 4, 5, 0x10},
        0x107: {0, 2, 3, 4, 5, 0x10},
        0x5D: {0, 3, 4, 6, 0x11, 0x12, 0x1D, 0xFFFF},
        0x5C: {0, 2, 3, 6, 0x12, 0x1D, 0xFFFF},
        0x8030: {0, 2, 3, 4, 5, 6, 0x10, 0x1D, 0xFFFF},
        0x8001: {0, 2, 3, 4, 5, 6, 0x1D, 0xFFFF},
        0x8002: {0, 2, 3, 5, 6, 0x1D, 0xFFFF},
        0x99: {2, 3},
        -1: {2, 3},
    }
    arm64 = layout in (HVC0, HVC1)
    lists = {0x50: {0, 3, 4, 5, 0xD, 0xE}, 0x51: {0, 3, 4, 5, 0xD, 0xE}}
    expected |= lists if arm64 else {0x50: {2, 3}, 0x51: {2, 3}}
    for code, answers in expected.items():
        given = {word for number, kind, word in seen if number == code and kind == DONE}
        assert answers <= given, f"{code:#x}: {sorted(answers - given)} never came"
        assert any(number == code and kind == UNDEFINED for number, kind, _ in seen)
    for code in (0x8030, 0x50, 0x51) if arm64 else (0x8030,):
        assert seen[code, RETRY, 0]


def test_a_model_that_is_wrong_is_noticed(layout: str) -> None:
    """A connection that the model has not heard of: the comparison must fail."""
    rig, sampler, seen = Rig(layout), Sampler(1), Counter[tuple[int, str, int]]()
    rig.board.connections[6] = rig.bell  # type: ignore[assignment]

    def compare() -> None:
        for _ in range(2_000):
            one(rig, sampler, seen)

    with pytest.raises(AssertionError):
        compare()

"""The x86 decoder: exactly the moves are known, and what Capstone gets wrong is put right."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
from unicorn import Uc
from unicorn.unicorn_const import UC_ARCH_X86, UC_MODE_16, UC_MODE_32, UC_MODE_64
from unicorn.x86_const import UC_X86_REG_CR0

from pvmmio_uc.arch import arch_of
from pvmmio_uc.arch.base import Arch, LoadStore
from pvmmio_uc.arch.x86._segments import find_segments
from pvmmio_uc.errors import UnsupportedArchitecture
from pvmmio_uc.plugin import PvMmio
from tests.arch.twins import Case, Setup, Twins
from tests.arch.x86.encode_x86 import FLAGS, FORMS, general
from tests.arch.x86.setups_x86 import CS, ORDER, PE, SETUPS, opened, segments

MODES = {16: UC_MODE_16, 32: UC_MODE_32, 64: UC_MODE_64}
MOFFS = range(0xA0, 0xA4)
SEGMENT_TARGET = b"\x8e"


@cache
def arch_for(bits: int) -> Arch:
    return arch_of(Uc(UC_ARCH_X86, MODES[bits]))


def decode(bits: int, code: bytes) -> LoadStore | None:
    return arch_for(bits).decode(lambda gpa, size: None, code)


def opcodes() -> list[bytes]:
    one = [bytes([n]) for n in range(256) if n != 0x0F]
    two = [bytes([0x0F, n]) for n in range(256) if n not in (0x38, 0x3A)]
    return one + two + [bytes([0x0F, 0x38, n]) for n in range(256)]


def known(bits: int) -> dict[bytes, bool]:
    """Opcode to whether it stores."""
    extra = [b"\x0f\x38\xf0", b"\x0f\x38\xf1"] if bits == 16 else []  # the engine's movbe is not the manual's
    return {f.opcode: f.write for f in FORMS if bits in f.bits or f.opcode in extra}


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("prefix", [b"", b"\x66", b"\x67"], ids=["", "66", "67"])
def test_exactly_the_moves_are_known(bits: int, prefix: bytes) -> None:
    """With a memory operand; /0 is the digit of the moves of an immediate."""
    moves = known(bits)
    for opcode in opcodes():
        if opcode in (b"\x63", b"\x0f\xc3") and prefix == b"\x66":
            continue  # of a movsxd to 16 bits processors make this and that, and there is no such movnti
        found = decode(bits, (prefix + opcode + b"\x03").ljust(15, b"\x90"))
        assert (found is not None) == (opcode in moves), (prefix + opcode).hex(" ")
        if found is not None and opcode[0] not in MOFFS:
            assert found.write == moves[opcode], opcode.hex(" ")


@pytest.mark.parametrize("digit", range(1, 8))
def test_the_digit_of_a_move_of_an_immediate_is_0(digit: int) -> None:
    assert decode(64, bytes([0xC7, 3 | digit << 3])) is None


@pytest.mark.parametrize("opcode", [f.opcode for f in FORMS if f.more != "moffs"], ids=bytes.hex)
def test_registers_alone_are_no_access(opcode: bytes) -> None:
    assert decode(64, opcode + b"\xc3") is None


def test_a_load_of_a_segment_register_is_more_than_a_load() -> None:
    assert decode(32, SEGMENT_TARGET + b"\x03") is None


def test_nothing_of_no_bytes() -> None:
    assert decode(64, b"") is None
    assert arch_for(64).instruction_length(b"") == 0
    assert arch_for(64).instruction_length(b"\x48\x8b") == 0
    assert arch_for(64).disassemble(b"\x0f\x04", 0) == ".byte 0f 04"


def setup_named(name: str) -> Setup:
    return next(setup for setup in SETUPS if setup.name == name)


FLAT = setup_named("x86-64 flat")


def at_rbx(code: str, size: int, write: bool, offset: int = 0x123) -> Case:
    """An instruction that uses (R)BX, in EBX and R8 alike, for its base."""
    rbx = FLAT.window[0] + offset
    registers = dict.fromkeys(general(64), 0x8877_6655_4433_2211) | {FLAGS: 2}
    registers |= {general(64)[3]: rbx, general(64)[8]: rbx}
    return Case(bytes.fromhex(code), registers, rbx, size, write)


@pytest.mark.parametrize(
    ("code", "size", "write"),
    [
        ("66 48 0f 38 f0 03", 8, False),
        ("66 4d 0f 38 f1 20", 8, True),
        ("66 0f 38 f1 03", 2, True),
        ("0f 38 f0 03", 4, False),
    ],
)
def test_movbe_with_an_operand_size_and_rex_w(code: str, size: int, write: bool) -> None:
    twins = Twins(FLAT)
    twins.run(at_rbx(code, size, write))
    assert sum(access.size for access in twins.pv.exits[-1].accesses) == size


@pytest.mark.parametrize("prefixes", ["67", "67 40", "67 f3 44", "3e 67", "67 64 67 2e"])
@pytest.mark.parametrize("opcode", ["63", "48 63"])
def test_movsxd_with_an_address_size(prefixes: str, opcode: str) -> None:
    """Capstone 5 knows it only with REX.W. A REX prefix before another is void."""
    if opcode != "63" and prefixes.split()[-1][0] == "4":
        prefixes = prefixes[:-3]
    Twins(FLAT).run(at_rbx(f"{prefixes} {opcode} 03", 4, False))


@pytest.mark.parametrize("order", list(itertools.permutations(("64", "65", "2e", "3e"), 3)), ids="-".join)
def test_the_last_segment_prefix_counts(order: tuple[str, ...]) -> None:
    bases = {"64": 0xFFFF_FFFF_F000_1234, "65": 0x3FFF_8888}
    case = at_rbx(" ".join(order) + " 8b 03", 4, False)
    target = case.gva
    registers = dict(case.registers) | {general(64)[3]: target - bases.get(order[-1], 0) & (1 << 64) - 1}
    Twins(FLAT).run(Case(case.code, registers, target, 4, False))


@pytest.mark.parametrize("name", ["x86-16 real mode", "x86-32 segments", "x86-32 pae paging", "x86-64 flat"])
def test_without_the_hidden_half_of_a_segment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another build of the engine may keep it elsewhere: then the descriptor table has to do."""
    monkeypatch.setattr("pvmmio_uc.arch.x86.registers.find_segments", lambda: None)
    twins = Twins(setup_named(name), seed=3)
    twins.run_all(twins.case(form) for form in twins.setup.forms for _ in range(4))


def test_this_build_of_the_engine_shows_the_hidden_halves() -> None:
    assert find_segments() is not None


def test_32_bit_code_in_an_engine_opened_in_16_bit_mode() -> None:
    """The access is completed; going on is beyond the engine."""
    uc = opened(16, (0, 0x20_0000))
    segments(uc, 0x500, dict.fromkeys(ORDER, 0), 32)
    uc.reg_write(UC_X86_REG_CR0, uc.reg_read(UC_X86_REG_CR0) | PE)
    jump = b"\x66\xea" + (0x10_0000).to_bytes(4, "little") + CS.to_bytes(2, "little")
    uc.mem_write(0x1000, jump)
    uc.mem_write(0x10_0000, bytes.fromhex("a3 00 00 00 d0 40"))  # mov [0xd0000000], eax; inc eax
    uc.reg_write(general(32)[0], 7)
    with PvMmio(uc) as pv:
        with pytest.raises(UnsupportedArchitecture, match=r"EIP 0x100005.*UC_MODE_32"):
            uc.emu_start(0x1000, 0x10_0006)
        assert [(e.pc, e.address) for e in pv.exits] == [(0x10_0000, 0xD000_0000)]
        assert pv.arch.pc() == 0x10_0005

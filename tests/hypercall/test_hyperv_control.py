"""The control word bit by bit, the result word, and the register layouts."""

from __future__ import annotations

import random

import pytest

from pvmmio_uc.hypercall.hyperv_control import (
    ARM64_HVC1,
    ARM64_SMCCC,
    HYPERV_FUNCTION_ID,
    X86_32,
    X86_64,
    Control,
    Layout,
    Register,
    Status,
    result_word,
)

from .fakes import FakeCpu
from .hyperv_guest import HVC0, HVC1, X32, X64, registers, with_block

FIELDS = {
    "code": range(0, 16),
    "fast": range(16, 17),
    "variable": range(17, 27),
    "rep_count": range(32, 44),
    "rep_start": range(48, 60),
}
RESERVED = {*range(27, 32), *range(44, 48), *range(60, 64)}
LAYOUT = {X64: X86_64, X32: X86_32, HVC0: ARM64_SMCCC, HVC1: ARM64_HVC1}


@pytest.mark.parametrize("bit", range(64))
def test_every_bit_has_one_meaning(bit: int) -> None:
    control = Control(1 << bit)
    for name, bits in FIELDS.items():
        assert int(getattr(control, name)) == (1 << bit - bits.start if bit in bits else 0)
    assert control.reserved == (1 << bit if bit in RESERVED else 0)


def test_the_reference_values() -> None:
    """HvCallSignalEvent as Linux makes it, and a list of 170 that stopped at 5."""
    assert (Control(0x1005D).code, Control(0x1005D).fast) == (0x5D, True)
    control = Control(0x0005_00AA_0000_8030)
    assert (control.code, control.fast, control.rep_count, control.rep_start) == (0x8030, False, 170, 5)


@pytest.mark.parametrize(
    ("count", "start", "variable", "simple", "rep"),
    [
        (0, 0, 0, True, False),
        (1, 0, 0, False, True),
        (4095, 4094, 0, False, True),
        (1, 1, 0, False, False),
        (0, 1, 0, False, False),
        (2, 3, 0, False, False),
        (0, 0, 1, False, False),
        (1, 0, 1, False, False),
    ],
)
def test_kinds(count: int, start: int, variable: int, simple: bool, rep: bool) -> None:
    control = Control(start << 48 | count << 32 | variable << 17 | 0x106)
    assert (control.is_simple, control.is_rep) == (simple, rep)


def test_result_word() -> None:
    assert result_word(Status.SUCCESS) == 0
    assert result_word(Status.INVALID_PARAMETER) == 5
    assert result_word(Status.NOT_FOUND, 169) == 0x00A9_0000_0010
    assert result_word(Status.SUCCESS, 0xFFF) == 0xFFF_0000_0000


def test_status_values() -> None:
    assert {status.name: int(status) for status in Status} == {
        "SUCCESS": 0,
        "INVALID_HYPERCALL_CODE": 2,
        "INVALID_HYPERCALL_INPUT": 3,
        "INVALID_ALIGNMENT": 4,
        "INVALID_PARAMETER": 5,
        "ACCESS_DENIED": 6,
        "INVALID_PARTITION_ID": 0xD,
        "INVALID_VP_INDEX": 0xE,
        "NOT_FOUND": 0x10,
        "INVALID_PORT_ID": 0x11,
        "INVALID_CONNECTION_ID": 0x12,
    }


def test_the_function_id() -> None:
    """Yielding (bit 31 clear), SMC64 (30), owner 6 (29:24), function 1: no fast id of KVM's is like it."""
    assert HYPERV_FUNCTION_ID == 0 << 31 | 1 << 30 | 6 << 24 | 1


@pytest.mark.parametrize("name", LAYOUT)
def test_where_the_parameters_are(name: str) -> None:
    layout = LAYOUT[name]
    control, first, second = 0x1122_3344_5566_7788, 0x99AA_BBCC_DDEE_FF00, 0x0123_4567_89AB_CDEF
    cpu = FakeCpu(**registers(name, control, first, second))
    assert layout.control.get(cpu) == control
    assert layout.first.get(cpu) == first
    assert layout.second.get(cpu) == second


def test_32_bit_code_leaves_upper_halves_out() -> None:
    low = registers(X32, 0x1122_3344_5566_7788, 1, 2)
    cpu = FakeCpu(**{name: 0xDEAD_BEEF_0000_0000 | value for name, value in low.items()})
    assert X86_32.control.get(cpu) == 0x1122_3344_5566_7788
    X86_32.result.set(cpu, 0x0000_0003_8000_0005)
    assert cpu.written == {"rax": 0x8000_0005, "rdx": 3}


@pytest.mark.parametrize("name", LAYOUT)
@pytest.mark.parametrize("size", [1, 8, 16, 17, 80, 112])
def test_input_in_registers(name: str, size: int) -> None:
    block = random.Random(size).randbytes(128)
    cpu = FakeCpu(**with_block(name, 0, block))
    taken = LAYOUT[name].inputs(size)
    assert taken is not None
    data = b"".join(register.get(cpu).to_bytes(register.size, "little") for register in taken)
    assert data[:size] == block[:size]
    assert len(data) - size < 16


@pytest.mark.parametrize(("name", "most"), [(X64, 112), (X32, 112), (HVC0, 128), (HVC1, 128)])
def test_the_size_of_the_block(name: str, most: int) -> None:
    assert sum(register.size for register in LAYOUT[name].block) == most
    assert LAYOUT[name].inputs(most) is not None
    assert LAYOUT[name].inputs(most + 1) is None
    assert LAYOUT[name].inputs(0) == ()


def names(layout: Layout, size: int, output: int) -> list[str] | None:
    given = layout.outputs(size, output)
    return None if given is None else [name for register in given for name in register.names]


@pytest.mark.parametrize(
    ("layout", "size", "output", "expected"),
    [
        (X86_64, 16, 64, ["xmm0", "xmm1", "xmm2", "xmm3"]),
        (X86_64, 8, 16, ["xmm0"]),
        (X86_64, 0, 16, ["rdx", "r8"]),
        (X86_64, 17, 16, ["xmm1"]),
        (X86_64, 48, 64, ["xmm2", "xmm3", "xmm4", "xmm5"]),
        (X86_64, 49, 64, None),
        (X86_32, 16, 8, None),
        (X86_32, 0, 8, None),
        (ARM64_SMCCC, 16, 64, [f"x{number}" for number in range(4, 12)]),
        (ARM64_SMCCC, 20, 16, ["x6", "x7"]),
        (ARM64_SMCCC, 64, 64, [f"x{number}" for number in range(10, 18)]),
        (ARM64_SMCCC, 65, 64, None),
        (ARM64_HVC1, 16, 64, [f"x{number}" for number in range(9, 17)]),
        (ARM64_HVC1, 20, 16, ["x15", "x16"]),
        (ARM64_HVC1, 16, 8, ["x15"]),
        (ARM64_HVC1, 65, 64, None),
    ],
)
def test_output_in_registers(layout: Layout, size: int, output: int, expected: list[str] | None) -> None:
    """Linux reads a VP register, of 20 bytes of input, from x6 and x7."""
    assert names(layout, size, output) == expected


def test_a_register_pair() -> None:
    pair = Register(("rcx", "rbx"), 32)
    assert pair.size == 8
    cpu = FakeCpu(rcx=0xFFFF_FFFF_0000_0001, rbx=2)
    assert pair.get(cpu) == 0x2_0000_0001

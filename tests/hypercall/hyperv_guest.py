"""A guest that makes Hyper-V calls: which registers it uses is written down here a second time.

Nothing in this file asks the implementation where a parameter goes.
"""

from __future__ import annotations

from typing import Any

import pytest

from pvmmio_uc.hypercall.cpu import Call, Outcome
from pvmmio_uc.hypercall.hyperv import HyperV
from pvmmio_uc.hypercall.hyperv_state import HyperVState
from pvmmio_uc.hypercall.operations import Operations

from .fakes import RAM, U32, Board, FakeCpu

X64, X32, HVC0, HVC1 = "x64", "x86-32", "arm64 hvc #0", "arm64 hvc #1"
LAYOUTS = (X64, X32, HVC0, HVC1)
FUNCTION_ID = 0x4600_0001
FAST = 1 << 16
INPUT, OUTPUT = RAM + 0x2000, RAM + 0x3000

CALLS = {
    X64: Call("vmcall", 0x1000, 3),
    X32: Call("vmcall", 0x1000, 3),
    HVC0: Call("hvc", 0x1000, 4, 0),
    HVC1: Call("hvc", 0x1000, 4, 1),
}


def registers(layout: str, control: int, first: int = 0, second: int = 0) -> dict[str, int]:
    """The register file of a call with two 64-bit parameters."""
    if layout == X64:
        return {"rcx": control, "rdx": first, "r8": second}
    if layout == X32:
        return {
            "rdx": control >> 32,
            "rax": control & U32,
            "rbx": first >> 32,
            "rcx": first & U32,
            "rdi": second >> 32,
            "rsi": second & U32,
        }
    if layout == HVC0:
        return {"x0": FUNCTION_ID, "x1": control, "x2": first, "x3": second}
    return {"x0": control, "x1": first, "x2": second}


def with_block(layout: str, control: int, block: bytes) -> dict[str, int]:
    """The register file of a fast call whose input is ``block``, up to what the layout takes."""
    block = block.ljust(128, b"\0")
    quads = [int.from_bytes(block[at : at + 8], "little") for at in range(0, 128, 8)]
    file = registers(layout, control, quads[0], quads[1])
    if layout in (X64, X32):
        for index in range(6):
            file[f"xmm{index}"] = quads[2 + 2 * index] | quads[3 + 2 * index] << 64
    else:
        first = 2 if layout == HVC0 else 1
        file |= {f"x{first + index}": quad for index, quad in enumerate(quads)}
    return file


def fast_output(layout: str, file: dict[str, int], size: int, output: int) -> bytes:
    """What a fast call left in its output registers, behind ``size`` bytes of input."""
    if layout == X64:
        block = b"".join(file.get(name, 0).to_bytes(8, "little") for name in ("rdx", "r8"))
        block += b"".join(file.get(f"xmm{index}", 0).to_bytes(16, "little") for index in range(6))
    else:
        first = 2 if layout == HVC0 else 1
        block = b"".join(file.get(f"x{first + index}", 0).to_bytes(8, "little") for index in range(16))
    pairs = (size + 15) // 16
    start = 128 - (output + 15) // 16 * 16 if layout == HVC1 else pairs * 16
    return block[start : start + output]


def result_of(layout: str, file: dict[str, int]) -> int:
    """The result word."""
    if layout == X64:
        return file["rax"]
    if layout == X32:
        assert file["rax"] <= U32
        assert file["rdx"] <= U32
        return file["rdx"] << 32 | file["rax"]
    return file["x0"]


def control_of(layout: str, file: dict[str, int]) -> int:
    """The control word, as the guest would execute the call again."""
    if layout == X32:
        return file["rdx"] << 32 | file["rax"]
    return file[{X64: "rcx", HVC0: "x1", HVC1: "x0"}[layout]]


class Guest:
    """A board, a partition and its convention. ``last`` is the vCPU of the last call."""

    def __init__(self, layout: str, *, state: dict[str, Any] | None = None, **options: Any) -> None:
        self.layout, self.board = layout, Board()
        self.state = HyperVState(self.board.memory, **(state or {}))
        self.state.guest_os_id = 1
        architecture = "x86" if layout in (X64, X32) else "arm64"
        self.hyperv = HyperV(self.state, architecture, **options)
        self.last = FakeCpu()
        self.operations: Operations = self.board.operations()

    def execute(self, file: dict[str, int], **cpu: Any) -> Outcome:
        """One instruction with this register file."""
        bits = 32 if self.layout == X32 else 64
        self.last = FakeCpu(self.board.memory, **{"bits": bits, **cpu}, **file)
        self.operations = self.board.operations()
        return self.hyperv.handle(self.last, CALLS[self.layout], self.operations)

    def call(self, control: int, first: int = 0, second: int = 0) -> int:
        """The result word of a call that completes."""
        assert self.execute(registers(self.layout, control, first, second)) is Outcome.DONE
        return result_of(self.layout, self.last.written)

    def fast_call(self, control: int, block: bytes) -> int:
        """The same with the parameters in registers; sets the fast bit."""
        assert self.execute(with_block(self.layout, control | FAST, block)) is Outcome.DONE
        return result_of(self.layout, self.last.written)

    def result(self) -> int:
        return result_of(self.layout, self.last.written)


def mmio_block(gpa: int, width: int, data: bytes | int | None = None, reserved: int = 0) -> bytes:
    """The input of the MMIO calls: 16 bytes for a read, 80 for a write."""
    target = gpa.to_bytes(8, "little") + width.to_bytes(4, "little") + reserved.to_bytes(4, "little")
    if data is None:
        return target
    if isinstance(data, int):
        data = data.to_bytes(8, "little")
    return target + data.ljust(64, b"\0")


def layout_fixture():
    """Every test once per register layout."""

    @pytest.fixture(params=LAYOUTS, ids=[name.replace(" ", "-") for name in LAYOUTS])
    def layout(request: pytest.FixtureRequest) -> str:
        name: str = request.param
        return name

    return layout

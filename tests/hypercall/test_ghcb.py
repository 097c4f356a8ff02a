"""AMD SEV-ES: MMIO through the GHCB, its checks in KVM's order, native calls."""

from __future__ import annotations

import pytest

from pvmmio_uc.exits import Access, Route
from pvmmio_uc.hypercall.ghcb import Ghcb

from .fakes import (
    DEVICE,
    DEVICE_SIZE,
    DOORBELL_ANY,
    DOORBELL_FOUR,
    DOORBELL_MATCH,
    MATCH,
    NOBODY,
    RAM,
    RAM_SIZE,
    ROM,
    U64,
    USER,
    ZONE,
    Board,
    routes,
    user_bytes,
)
from .ghcb_guest import (
    BUFFER,
    INPUT,
    MMIO_READ,
    MMIO_WRITE,
    PAGE,
    RETURNED,
    SCRATCH,
    exit_with,
    put,
    valid,
)


@pytest.fixture
def board() -> Board:
    return Board()


def write(board: Board, gpa: int, data: bytes, convention: Ghcb | None = None) -> tuple[int, int]:
    board.put(BUFFER, data)
    put(board, exit_code=MMIO_WRITE, info_1=gpa, info_2=len(data), scratch=BUFFER)
    return exit_with(board, convention)


def read(board: Board, gpa: int, length: int, convention: Ghcb | None = None) -> tuple[int, int]:
    put(board, exit_code=MMIO_READ, info_1=gpa, info_2=length, scratch=BUFFER)
    return exit_with(board, convention)


lengths = pytest.mark.parametrize("length", [1, 2, 4, 8])


def test_worked_example(board: Board) -> None:
    """Write 4 bytes, byte for byte as given there, with the page at 0x7000."""
    board.memory.slots[0x7000] = bytearray(0x1000)
    for offset, number in ((0x390, 0x80000002), (0x398, 0xFEC00010), (0x3A0, 4), (0x3A8, 0x7800)):
        board.put(0x7000 + offset, number.to_bytes(8, "little"))
    board.put(0x73FE, b"\x3c")
    board.put(0x7800, b"\x44\x33\x22\x11")
    board.put(0x7FFA, b"\2\0")
    assert exit_with(board, page=0x7000) == (0, 0)
    assert board.accesses == [Access(True, 0xFEC00010, 4, b"\x44\x33\x22\x11", Route.USERSPACE)]
    assert board.asked == [("W", 0xFEC00010, b"\x44\x33\x22\x11")]
    assert valid(board, 0x7000) == set(RETURNED)


@pytest.mark.parametrize("length", range(1, 9))
def test_what_is_written_is_read_back(board: Board, length: int) -> None:
    """Any number of bytes up to 8."""
    data = bytes(range(0x11, 0x11 + length))
    assert write(board, DEVICE, data) == (0, 0)
    assert board.device.log == [("W", 0, length, int.from_bytes(data, "little"))]
    board.put(BUFFER, bytes(16))
    assert read(board, DEVICE, length) == (0, 0)
    assert board.get(BUFFER, 16) == data.ljust(16, b"\0")


@pytest.mark.parametrize(
    ("gpa", "data", "route"),
    [
        (DOORBELL_ANY, 1, Route.IOEVENTFD),
        (DOORBELL_FOUR, 7, Route.IOEVENTFD),
        (DOORBELL_MATCH, MATCH, Route.IOEVENTFD),
        (DOORBELL_MATCH, MATCH + 1, Route.USERSPACE),
        (ZONE, 5, Route.COALESCED),
        (DEVICE, 5, Route.DEVICE),
        (USER, 5, Route.USERSPACE),
        (NOBODY, 5, Route.USERSPACE),
        (RAM, 5, Route.USERSPACE),
    ],
)
def test_a_write_takes_every_route_but_the_fast_bus(board: Board, gpa: int, data: int, route: Route) -> None:
    before = board.get(RAM, 4)
    assert write(board, gpa, data.to_bytes(4, "little")) == (0, 0)
    assert routes(board.accesses) == [route]
    assert board.get(RAM, 4) == before


@lengths
def test_reads_of_user_space_and_of_nobody(board: Board, length: int) -> None:
    assert read(board, USER, length) == (0, 0)
    assert board.get(BUFFER, length) == user_bytes(USER, length)
    assert read(board, NOBODY, length) == (0, 0)
    assert board.get(BUFFER, length) == b"\xff" * length


def test_alignment_is_not_checked(board: Board) -> None:
    assert write(board, DEVICE + 1, b"\7\0\0\0") == (0, 0)
    assert board.device.log == [("W", 1, 4, 7)]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("scratch", [BUFFER, 0, NOBODY, U64])
@pytest.mark.parametrize("code", [MMIO_READ, MMIO_WRITE])
def test_no_bytes_are_done_at_once(board: Board, version: int, scratch: int, code: int) -> None:
    put(board, exit_code=code, info_1=DEVICE, info_2=0, scratch=scratch)
    assert exit_with(board, Ghcb(version=version)) == (0, 0)
    assert board.untouched


# Length, scratch and version


@pytest.mark.parametrize("length", [9, 16, 0x7F0, 1 << 31, 1 << 32 | 4, 1 << 63, U64])
@pytest.mark.parametrize("scratch", [BUFFER, 0, NOBODY])
def test_version_2_has_8_bytes(board: Board, length: int, scratch: int) -> None:
    """Before the scratch area is looked at."""
    put(board, exit_code=MMIO_WRITE, info_1=DEVICE, info_2=length, scratch=scratch)
    assert exit_with(board) == (2, INPUT)
    assert board.untouched


SCRATCH_IN_PAGE = [
    (BUFFER, 8, True),
    (PAGE + 0xFE8, 8, True),
    (PAGE + 0xFEF, 1, True),
    (BUFFER - 1, 1, False),
    (PAGE, 8, False),
    (PAGE + 0x390, 8, False),
    (PAGE + 0xFE9, 8, False),
    (PAGE + 0xFF0, 1, False),
    (PAGE + 0xFFF, 1, False),
    (PAGE + 0xFFC, 8, False),
]
SCRATCH_NOWHERE = [
    (0, 4),
    (U64, 4),
    (U64 - 3, 4),
    (U64 - 7, 8),
    (NOBODY, 4),
    (1 << 47, 4),
    (RAM + RAM_SIZE - 2, 4),
]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("scratch", "length", "good"), SCRATCH_IN_PAGE)
@pytest.mark.parametrize("code", [MMIO_READ, MMIO_WRITE])
def test_scratch_in_the_page(
    board: Board, version: int, scratch: int, length: int, good: bool, code: int
) -> None:
    put(board, exit_code=code, info_1=DEVICE, info_2=length, scratch=scratch)
    assert exit_with(board, Ghcb(version=version)) == ((0, 0) if good else (2, SCRATCH))
    assert board.untouched is not good


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("scratch", "length"), SCRATCH_NOWHERE)
@pytest.mark.parametrize("code", [MMIO_READ, MMIO_WRITE])
def test_scratch_that_is_not_there(board: Board, version: int, scratch: int, length: int, code: int) -> None:
    put(board, exit_code=code, info_1=DEVICE, info_2=length, scratch=scratch)
    assert exit_with(board, Ghcb(version=version)) == (2, SCRATCH)
    assert board.untouched


@pytest.mark.parametrize(
    ("scratch", "length", "good"),
    [
        (0, 8, False),
        (8, 8, True),
        (U64 - 15, 8, True),
        (U64 - 7, 8, False),
        (U64 - 7, 7, True),
        (U64 - 6, 8, False),
    ],
)
@pytest.mark.parametrize("code", [MMIO_READ, MMIO_WRITE])
def test_scratch_at_both_ends_of_memory(
    board: Board, scratch: int, length: int, good: bool, code: int
) -> None:
    """Address 0 says that there is none, and its end must not be 2^64, even where there is RAM."""
    board.memory.slots |= {0: bytearray(0x1000), U64 - 0xFFF: bytearray(0x1000)}
    put(board, exit_code=code, info_1=DEVICE, info_2=length, scratch=scratch)
    assert exit_with(board, Ghcb(version=1)) == ((0, 0) if good else (2, SCRATCH))
    assert board.untouched is not good


@pytest.mark.parametrize(("version", "answer"), [(1, (0, 0)), (2, (2, SCRATCH))])
def test_scratch_elsewhere_is_version_1(board: Board, version: int, answer: tuple[int, int]) -> None:
    board.put(RAM + 3, b"\x11\x22\x33\x44")
    put(board, exit_code=MMIO_WRITE, info_1=DEVICE, info_2=4, scratch=RAM + 3)
    assert exit_with(board, Ghcb(version=version)) == answer
    assert board.device.log == ([("W", 0, 4, 0x44332211)] if version == 1 else [])
    board.device.answer = 0x88776655
    put(board, exit_code=MMIO_READ, info_1=DEVICE, info_2=4, scratch=RAM + 3)
    assert exit_with(board, Ghcb(version=version)) == answer
    assert board.get(RAM + 3, 4) == (b"\x55\x66\x77\x88" if version == 1 else b"\x11\x22\x33\x44")


def test_version_1_splits_at_8_bytes(board: Board) -> None:
    data = bytes(range(1, 21))
    assert write(board, ZONE, data, Ghcb(version=1)) == (0, 0)
    chunks = [data[:8], data[8:16], data[16:]]
    assert [access.data for access in board.accesses] == chunks
    assert write(board, DEVICE + DEVICE_SIZE - 8, data, Ghcb(version=1)) == (0, 0)
    assert routes(board.accesses) == [Route.DEVICE, Route.USERSPACE, Route.USERSPACE]
    assert read(board, USER, 20, Ghcb(version=1)) == (0, 0)
    assert board.get(BUFFER, 20) == user_bytes(USER, 20)


@pytest.mark.parametrize(
    ("length", "answer"), [(0x10000, (0, 0)), (0x10001, (2, SCRATCH)), (1 << 63, (2, SCRATCH))]
)
def test_version_1_has_16_pages(board: Board, length: int, answer: tuple[int, int]) -> None:
    board.memory.slots[1 << 32] = bytearray(0x20000)
    put(board, exit_code=MMIO_WRITE, info_1=NOBODY, info_2=length, scratch=1 << 32)
    assert exit_with(board, Ghcb(version=1)) == answer
    assert len(board.asked) == (0x2000 if answer == (0, 0) else 0)


def test_the_whole_buffer_in_version_1(board: Board) -> None:
    assert write(board, NOBODY, bytes(0x7F0), Ghcb(version=1)) == (0, 0)
    put(board, exit_code=MMIO_WRITE, info_1=DEVICE, info_2=0x7F1, scratch=BUFFER)
    assert exit_with(board, Ghcb(version=1)) == (2, SCRATCH)


def test_a_read_into_rom_is_lost(board: Board) -> None:
    put(board, exit_code=MMIO_READ, info_1=USER, info_2=4, scratch=ROM)
    assert exit_with(board, Ghcb(version=1)) == (0, 0)
    assert board.get(ROM, 4) == bytes(4)


@pytest.mark.parametrize("gpa", [U64, U64 - 6])
@pytest.mark.parametrize("code", [MMIO_READ, MMIO_WRITE])
def test_an_access_past_the_end(board: Board, gpa: int, code: int) -> None:
    put(board, exit_code=code, info_1=gpa, info_2=8, scratch=BUFFER)
    assert exit_with(board) == (2, INPUT)
    assert board.untouched


@pytest.mark.parametrize("version", [0, 3])
def test_there_are_two_versions(version: int) -> None:
    with pytest.raises(ValueError, match="1 or 2"):
        Ghcb(version=version)

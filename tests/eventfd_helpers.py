"""What the tests of the eventfds share: a fixture for the backends, and what the system itself says."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import select
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pvmmio_uc._eventfd_linux import LinuxContext

HAS_EVENTFD = LinuxContext.available()
needs_eventfd = pytest.mark.skipif(not HAS_EVENTFD, reason="this system has no eventfd(2)")

COUNT_MAX = 2**64 - 1
WRITE_MAX = 2**64 - 2
LONG = 30.0  # seconds until a test that hangs fails

_IO_SYSCALLS = {"x86_64": (206, 207, 209), "aarch64": (0, 1, 2)}  # io_setup, io_destroy, io_submit


def backend_fixture() -> Callable[..., Any]:
    """An autouse fixture that runs every test of a module on the real and on the portable backend."""

    @pytest.fixture(params=[pytest.param("linux", marks=needs_eventfd), "portable"], autouse=True)
    def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        name: str = request.param
        monkeypatch.setenv("PVMMIO_PORTABLE_EVENTFD", "1" if name == "portable" else "0")
        with no_longer_than(2 * LONG):
            yield name

    return backend


@contextlib.contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """A call of the main thread that blocks for ever becomes a failure."""

    def fail(*_: Any) -> None:
        raise TimeoutError(f"the test still runs after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)  # again: leaving the test may block as well
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def readable(descriptor: Any) -> bool:
    """Whether poll(2) reports POLLIN now; takes a descriptor or whatever has ``fileno``."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return any(event & select.POLLIN for _, event in poller.poll(0))


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def kernel_count(fd: int) -> int:
    """The count of a real eventfd as the kernel shows it."""
    with open(f"/proc/self/fdinfo/{fd}") as info:
        return next(int(line.split()[1], 16) for line in info if line.startswith("eventfd-count:"))


def in_time(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``function`` from a thread, so that a call that blocks fails the test."""
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(function(*arguments)), daemon=True)
    thread.start()
    thread.join(LONG)
    assert result, f"{function.__name__} blocks or failed"
    return result[0]


@contextlib.contextmanager
def kernel_signaller() -> Iterator[Callable[[int], None]]:
    """A function that makes the kernel itself call eventfd_signal() on a descriptor.

    io_submit(2) does so on completion of a request with IOCB_FLAG_RESFD; the request is a read of one byte.
    """
    numbers = _IO_SYSCALLS.get(platform.machine())
    if numbers is None:
        pytest.skip("the numbers of the io_submit family are not known here")
    setup, destroy, submit = numbers
    libc = ctypes.CDLL(None, use_errno=True)
    queue = ctypes.c_ulong(0)
    if libc.syscall(setup, 8, ctypes.byref(queue)) != 0:
        pytest.skip(f"no io_setup here: {os.strerror(ctypes.get_errno())}")
    target = ctypes.create_string_buffer(8)
    source = os.open("/dev/zero", os.O_RDONLY)

    def ring(fd: int) -> None:
        fields = (0, 0, 0, 0, 0, source, ctypes.addressof(target), 1, 0, 0, 1, fd)
        request = ctypes.create_string_buffer(struct.pack("=QIIHhIQQqQII", *fields), 64)
        requests = (ctypes.c_void_p * 1)(ctypes.addressof(request))
        assert libc.syscall(submit, queue, ctypes.c_long(1), requests) == 1

    try:
        yield ring
    finally:
        os.close(source)
        libc.syscall(destroy, queue)

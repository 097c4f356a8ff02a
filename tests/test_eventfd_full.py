"""The real eventfd near the end of its count, next to the kernel's own signal."""

from __future__ import annotations

import os
import select
import threading

import pytest

from pvmmio_uc import _eventfd_linux as linux
from pvmmio_uc.eventfd import EventFd, eventfd_context

from .eventfd_helpers import (
    COUNT_MAX,
    HAS_EVENTFD,
    LONG,
    WRITE_MAX,
    in_time,
    kernel_count,
    kernel_signaller,
    no_longer_than,
    readable,
)

pytestmark = pytest.mark.skipif(not HAS_EVENTFD, reason="this system has no eventfd(2)")


@pytest.fixture(autouse=True)
def _real(monkeypatch):
    monkeypatch.delenv("PVMMIO_PORTABLE_EVENTFD", raising=False)
    with no_longer_than(2 * LONG):
        yield


def test_own_blocking_eventfd_blocks_again_once_the_count_is_small():
    with EventFd() as efd:
        context = eventfd_context(efd)
        efd.write(2**63 - 1)
        assert os.get_blocking(efd.fileno())
        efd.write(2**63 - 1)
        in_time(context.signal)
        assert efd.read() == COUNT_MAX
        assert os.get_blocking(efd.fileno())
        assert in_time(efd.wait, 0.01) == 0
        context.put()


def test_many_large_writes_are_as_good_as_a_huge_one():
    with EventFd() as efd:
        for _ in range(15):
            efd.write(2**60)
        efd.write(2**60 - 2)
        assert efd.count == WRITE_MAX
        in_time(efd.signal)
        assert efd.count == COUNT_MAX


def test_blocking_read_waits_also_after_a_foreign_reader_emptied_a_huge_count():
    with EventFd() as efd:
        efd.write(2**63)
        os.eventfd_read(efd.fileno())
        assert not os.get_blocking(efd.fileno())
        threading.Timer(0.05, efd.signal).start()
        assert in_time(efd.read) == 1
        assert os.get_blocking(efd.fileno())


def test_huge_semaphore_blocks_again_once_its_count_is_small():
    with EventFd(semaphore=True) as efd:
        efd.write(2**63)
        assert not os.get_blocking(efd.fileno())
        assert efd.read() == 1
        assert os.get_blocking(efd.fileno())


def test_nonblocking_eventfd_stays_nonblocking():
    with EventFd(blocking=False) as efd:
        efd.write(WRITE_MAX)
        assert efd.read() == WRITE_MAX
        assert not os.get_blocking(efd.fileno())


def test_foreign_reader_sees_what_the_kernel_has_and_ends_the_saturation():
    with EventFd() as efd:
        efd.write(WRITE_MAX)
        efd.signal()
        assert os.eventfd_read(efd.fileno()) == WRITE_MAX
        assert efd.count == 0
        efd.signal()
        assert efd.read() == 1
        assert efd.count == 0


def test_forgotten_saturation_does_not_come_back():
    """A foreign reader emptied it; a later count of 2**64-2 is just that."""
    with EventFd() as efd:
        efd.write(WRITE_MAX)
        efd.signal()
        os.eventfd_read(efd.fileno())
        efd.write(WRITE_MAX)
        assert efd.count == WRITE_MAX
        assert efd.read() == WRITE_MAX


def test_signal_that_meets_a_foreign_reader_is_not_lost(monkeypatch):
    """Refused, and by the time the count is looked at somebody has emptied it: then it fits after all."""
    with EventFd() as efd:
        efd.write(WRITE_MAX)
        count = linux._count

        def emptied(fd):
            monkeypatch.setattr(linux, "_count", count)
            os.eventfd_read(fd)
            return count(fd)

        monkeypatch.setattr(linux, "_count", emptied)
        efd.signal()
        assert efd.read() == 1


def _state(efd):
    poller = select.poll()
    poller.register(efd, select.POLLIN)
    return efd.count, bool(poller.poll(0)[0][1] & select.POLLIN) if efd.count else False


@pytest.mark.parametrize("semaphore", [True, False])
@pytest.mark.parametrize("start", [0, 5, WRITE_MAX - 2, WRITE_MAX - 1, WRITE_MAX])
def test_signals_count_as_the_kernels_own(start, semaphore):
    """The same steps with eventfd_signal() in the kernel and with EventFd.signal()."""
    with (
        kernel_signaller() as kernel,
        EventFd(semaphore=semaphore, blocking=False) as theirs,
        EventFd(semaphore=semaphore, blocking=False) as ours,
    ):
        theirs.write(start)
        ours.write(start)
        for step in "ssrssrrs":
            if step == "s":
                kernel(theirs.fileno())
                ours.signal()
            else:
                assert theirs.wait(0) == ours.wait(0)
            assert _state(theirs) == _state(ours)


@pytest.mark.parametrize("semaphore", [True, False])
def test_count_that_the_kernel_saturated(semaphore):
    flags = os.EFD_SEMAPHORE if semaphore else 0
    raw = os.eventfd(0, flags)
    with kernel_signaller() as kernel, EventFd.from_fd(raw) as efd:
        os.eventfd_write(raw, WRITE_MAX)
        kernel(raw)
        assert kernel_count(raw) == efd.count == COUNT_MAX
        assert readable(efd)
        in_time(efd.signal)
        assert efd.count == COUNT_MAX
        assert efd.read() == (1 if semaphore else COUNT_MAX)
        assert kernel_count(raw) == efd.count == (WRITE_MAX if semaphore else 0)
    os.close(raw)

"""The real eventfd: descriptors that others made, and how they use them."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from pvmmio_uc import _eventfd_linux as linux
from pvmmio_uc.eventfd import EventFd, eventfd_context

from .eventfd_helpers import (
    COUNT_MAX,
    HAS_EVENTFD,
    LONG,
    WRITE_MAX,
    in_time,
    is_open,
    kernel_count,
    no_longer_than,
    open_descriptors,
)

pytestmark = pytest.mark.skipif(not HAS_EVENTFD, reason="this system has no eventfd(2)")


@pytest.fixture(autouse=True)
def _real(monkeypatch):
    monkeypatch.delenv("PVMMIO_PORTABLE_EVENTFD", raising=False)
    with no_longer_than(2 * LONG):
        yield


@pytest.fixture
def raw():
    """A blocking eventfd that this package did not make."""
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


# -- the descriptor is what it says ----------------------------------------------------------------------


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("semaphore", [True, False])
def test_modes_are_the_kernels(blocking, semaphore):
    with EventFd(2, blocking=blocking, semaphore=semaphore) as efd:
        assert os.get_blocking(efd.fileno()) is blocking
        assert os.eventfd_read(efd.fileno()) == (1 if semaphore else 2)
        os.eventfd_write(efd.fileno(), 4)
        assert efd.count == kernel_count(efd.fileno()) == (5 if semaphore else 4)


def test_mode_follows_the_open_file_description():
    with EventFd() as efd, efd.dup() as twin:
        os.set_blocking(twin.fileno(), False)
        with pytest.raises(BlockingIOError):
            efd.read()
        os.set_blocking(efd.fileno(), True)
        efd.signal()
        assert twin.read() == 1


# -- adopting --------------------------------------------------------------------------------------------


def test_adopted_descriptor_stays_its_owners(raw):
    with EventFd.from_fd(raw) as efd:
        assert efd.fileno() != raw
        os.eventfd_write(raw, 3)
        assert efd.read() == 3
        efd.signal()
    assert is_open(raw)
    assert os.eventfd_read(raw) == 1


def test_registration_of_a_bare_descriptor_outlives_it():
    raw = os.eventfd(0)
    context = eventfd_context(raw)
    os.close(raw)
    context.signal()
    with EventFd.from_fd(context.fileno()) as efd:
        assert efd.read() == 1
    context.put()


def test_bare_descriptor_and_its_number_used_again():
    raw = os.eventfd(0)
    context = eventfd_context(raw)
    os.close(raw)
    again = os.eventfd(0)
    try:
        assert again == raw
        other = eventfd_context(again)
        assert other is not context
        context.signal()
        assert kernel_count(again) == 0
        other.put()
    finally:
        os.close(again)
        context.put()


def test_eventfd_that_gets_the_id_of_a_closed_one_is_another():
    """No descriptor is left of the first, so the kernel is free to give its number and its id away."""
    for _ in range(20):
        efd = EventFd()
        context = eventfd_context(efd)
        context.put()
        efd.close()
        raw = os.eventfd(0)
        other = eventfd_context(raw)
        assert other is not context
        other.signal()
        assert os.eventfd_read(raw) == 1
        other.put()
        os.close(raw)


@pytest.mark.parametrize("flags", [0, os.EFD_SEMAPHORE if HAS_EVENTFD else 0])
def test_adopted_mode(flags):
    raw = os.eventfd(3, flags)
    try:
        with EventFd.from_fd(raw) as efd:
            assert efd.read() == (1 if flags else 3)
            assert (" semaphore>" in repr(efd)) == bool(flags)
    finally:
        os.close(raw)


def test_adopted_blocking_eventfd_stays_blocking_and_never_blocks_a_signal(raw):
    with EventFd.from_fd(raw) as efd:
        context = eventfd_context(raw)
        in_time(efd.write, WRITE_MAX)
        for signal in (context.signal, efd.signal, context.signal):
            in_time(signal)
        assert os.get_blocking(raw)
        assert kernel_count(raw) == WRITE_MAX
        assert efd.count == COUNT_MAX
        assert efd.read() == COUNT_MAX
        in_time(context.signal)
        assert os.eventfd_read(raw) == 1
        context.put()


def test_adopted_full_eventfd_that_others_filled(raw):
    os.eventfd_write(raw, WRITE_MAX)
    context = eventfd_context(raw)
    in_time(context.signal)
    with EventFd.from_fd(raw) as efd:
        assert efd.read() == COUNT_MAX
    context.put()


def test_write_to_an_adopted_full_eventfd_waits_for_a_foreign_reader(raw):
    """And everybody else goes on meanwhile."""
    os.eventfd_write(raw, WRITE_MAX)
    with EventFd.from_fd(raw) as efd:
        thread = threading.Thread(target=efd.write, args=(5,), daemon=True)
        thread.start()
        time.sleep(0.05)
        assert thread.is_alive()
        assert in_time(lambda: efd.count) == WRITE_MAX
        in_time(efd.signal)
        assert os.eventfd_read(raw) == WRITE_MAX
        thread.join(LONG)
        assert not thread.is_alive()
        assert kernel_count(raw) == 5


# -- somebody else's mistakes ----------------------------------------------------------------------------


def test_descriptor_closed_behind_the_back():
    efd = EventFd()
    os.close(efd.fileno())
    assert "count=?" in repr(efd)
    for use in (efd.signal, efd.read, lambda: efd.count, lambda: efd.write(1), lambda: efd.wait(0)):
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno in (errno.EBADF, errno.ENOENT)
    with pytest.raises(OSError):
        efd.close()
    assert efd.closed
    efd.close()


def test_put_during_a_signal_keeps_the_descriptor_until_it_is_done(monkeypatch):
    with EventFd() as efd:
        context = eventfd_context(efd)
        own = context.fileno()
        write = os.eventfd_write

        def write_after_put(fd, value):
            context.put()
            assert fd == own
            write(fd, value)

        monkeypatch.setattr(linux.os, "eventfd_write", write_after_put)
        context.signal()
        monkeypatch.undo()
        assert efd.read() == 1
        assert not is_open(own)


def test_no_descriptor_leaks_when_creation_fails_half_way(monkeypatch, raw):
    def refuse(fd):
        raise OSError(errno.EMFILE, "too many open files")

    before = open_descriptors()
    monkeypatch.setattr(linux, "_inspect", refuse)
    for make in (EventFd, lambda: EventFd.from_fd(raw), lambda: eventfd_context(raw)):
        with pytest.raises(OSError) as caught:
            make()
        assert caught.value.errno == errno.EMFILE
    assert open_descriptors() == before

"""What only the portable backend has: a socket pair that stands for the count."""

from __future__ import annotations

import os
import select
import stat

import pytest

from pvmmio_uc._eventfd_portable import PortableContext
from pvmmio_uc.eventfd import EventFd, eventfd_context

from .eventfd_helpers import is_open, open_descriptors, readable


@pytest.fixture(autouse=True)
def _portable(monkeypatch):
    monkeypatch.setenv("PVMMIO_PORTABLE_EVENTFD", "1")


def test_costs_two_descriptors():
    before = open_descriptors()
    with EventFd() as efd:
        assert open_descriptors() == before + 2
        with efd.dup():
            assert open_descriptors() == before + 3
        assert stat.S_ISSOCK(os.fstat(efd.fileno()).st_mode)
    assert open_descriptors() == before


def test_one_byte_however_large_the_count():
    with EventFd(blocking=False) as efd:
        for value in (1, 5, 2**63):
            efd.write(value)
        assert os.read(efd.fileno(), 100) == b"\1"
        assert not readable(efd)
        assert efd.count == 6 + 2**63


def test_stolen_byte_comes_back_with_the_next_count():
    """Somebody read the descriptor: the count is not theirs, and after a read everything is as before."""
    with EventFd(2, blocking=False) as efd:
        os.read(efd.fileno(), 1)
        assert efd.read() == 2
        efd.signal()
        assert readable(efd)
        assert efd.read() == 1
        assert not readable(efd)


def test_always_writable():
    with EventFd(blocking=False) as efd:
        efd.write(2**64 - 2)
        assert select.select([], [efd], [], 0)[1] == [efd]


def test_signal_with_every_read_end_gone_behind_the_back():
    with EventFd() as efd, open(os.devnull) as null:
        context = eventfd_context(efd)
        for fd in (efd.fileno(), context.fileno()):
            os.dup2(null.fileno(), fd, inheritable=False)
        context.signal()
        assert efd.count == 1
        context.put()


def test_last_close_frees_both_ends_even_if_one_was_closed_behind_the_back():
    before = open_descriptors()
    efd = EventFd()
    os.close(efd.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        efd.close()
    assert efd.closed
    assert open_descriptors() == before


def test_put_during_a_signal_keeps_the_sockets_until_it_is_done(monkeypatch):
    efd = EventFd()
    context = eventfd_context(efd)
    own = context.fileno()
    efd.close()
    add = PortableContext._raise

    def add_after_put(self, value):
        context.put()
        assert is_open(own)
        add(self, value)

    monkeypatch.setattr(PortableContext, "_raise", add_after_put)
    context.signal()
    assert not is_open(own)


def test_stays_in_its_process():
    """A fork copies the counter: the child's signals are the child's."""
    with EventFd(1) as efd:
        child = os.fork()
        if not child:
            efd.write(5)
            os._exit(0 if efd.count == 6 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert efd.count == 1

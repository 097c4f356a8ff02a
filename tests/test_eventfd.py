"""EventFd by itself: counting, modes, descriptors. One thread, both backends."""

from __future__ import annotations

import errno
import os
import select
import selectors
import time

import pytest

from pvmmio_uc.eventfd import EventFd

from .eventfd_helpers import COUNT_MAX, WRITE_MAX, backend_fixture, needs_eventfd, readable

backend = backend_fixture()


# -- making one ------------------------------------------------------------------------------------------


def test_backend_is_the_one_asked_for(backend):
    with EventFd() as efd:
        assert (" portable>" in repr(efd)) == (backend == "portable")


@needs_eventfd
@pytest.mark.parametrize("value", [None, "", "0"])
def test_real_eventfd_is_the_default(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("PVMMIO_PORTABLE_EVENTFD")
    else:
        monkeypatch.setenv("PVMMIO_PORTABLE_EVENTFD", value)
    with EventFd() as efd:
        assert os.readlink(f"/proc/self/fd/{efd.fileno()}") == "anon_inode:[eventfd]"


def test_portable_where_there_is_no_eventfd(monkeypatch):
    monkeypatch.setenv("PVMMIO_PORTABLE_EVENTFD", "0")
    monkeypatch.setattr("pvmmio_uc.eventfd.LinuxContext.available", lambda: False)
    with EventFd(3) as efd:
        assert repr(efd) == f"<EventFd fd={efd.fileno()} count=3 portable>"
        assert efd.read() == 3


@pytest.mark.parametrize("initial", [0, 1, 7, 2**32 - 1])
def test_initial_count(initial):
    with EventFd(initial) as efd:
        assert efd.count == initial
        assert readable(efd) is (initial != 0)


@pytest.mark.parametrize(
    ("initial", "error"), [(-1, ValueError), (2**32, OverflowError), (1.0, TypeError), ("1", TypeError)]
)
def test_initial_count_out_of_range(initial, error):
    with pytest.raises(error):
        EventFd(initial)


def test_modes_are_keyword_only():
    with pytest.raises(TypeError):
        EventFd(0, True)


def test_descriptor_is_close_on_exec():
    with EventFd() as efd, efd.dup() as twin, EventFd.from_fd(efd.fileno()) as adopted:
        assert [os.get_inheritable(one.fileno()) for one in (efd, twin, adopted)] == [False] * 3


# -- read, write, signal ---------------------------------------------------------------------------------


def test_read_returns_the_sum_and_resets():
    with EventFd(blocking=False) as efd:
        efd.signal()
        efd.write(40)
        efd.signal()
        assert efd.read() == 42
        assert efd.count == 0
        with pytest.raises(BlockingIOError) as caught:
            efd.read()
        assert caught.value.errno == errno.EAGAIN


def test_blocking_read_of_a_count_does_not_wait():
    with EventFd(5) as efd:
        assert efd.read() == 5


def test_semaphore_read_takes_one():
    with EventFd(2, semaphore=True, blocking=False) as efd:
        efd.signal()
        assert [efd.read(), efd.read(), efd.count] == [1, 1, 1]
        assert readable(efd)
        assert efd.read() == 1
        assert not readable(efd)
        with pytest.raises(BlockingIOError):
            efd.read()


def test_write_of_zero_is_accepted_and_wakes_nobody():
    with EventFd(blocking=False) as efd:
        efd.write(0)
        assert efd.count == 0
        assert not readable(efd)


def test_write_of_all_ones_is_einval():
    with EventFd(3, blocking=False) as efd:
        with pytest.raises(OSError) as caught:
            efd.write(2**64 - 1)
        assert caught.value.errno == errno.EINVAL
        assert efd.count == 3


@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (2**64, OverflowError), (2**200, OverflowError), (1.5, TypeError), (None, TypeError)],
)
def test_write_out_of_range(value, error):
    with EventFd(3, blocking=False) as efd:
        with pytest.raises(error):
            efd.write(value)
        assert efd.count == 3


@pytest.mark.parametrize(
    ("before", "value", "fits"),
    [
        (0, WRITE_MAX, True),
        (1, WRITE_MAX - 1, True),
        (1, WRITE_MAX, False),
        (WRITE_MAX, 0, True),
        (WRITE_MAX, 1, False),
        (2**63, 2**63 - 2, True),
        (2**63, 2**63 - 1, False),
    ],
)
def test_write_fits_up_to_two_below_the_end(before, value, fits):
    with EventFd(blocking=False) as efd:
        efd.write(before)
        if fits:
            efd.write(value)
        else:
            with pytest.raises(BlockingIOError) as caught:
                efd.write(value)
            assert caught.value.errno == errno.EAGAIN
        assert efd.count == before + (value if fits else 0)


def test_count_consumes_nothing():
    with EventFd(9) as efd:
        assert [efd.count, efd.count, efd.read(), efd.count] == [9, 9, 9, 0]


# -- the end of the count (recorded: counter-saturates) --------------------------------------------------


@pytest.mark.parametrize("blocking", [True, False])
def test_counter_saturates_as_recorded(blocking):
    """Three doorbells onto 2**64-3, three onto 2**64-2, a refused write of 2**64-1, and one doorbell."""
    with EventFd(blocking=blocking) as efd:
        for start in (2**64 - 3, 2**64 - 2):
            efd.write(start)
            for _ in range(3):
                efd.signal()
            assert efd.count == 2**64 - 1
            assert efd.read() == 2**64 - 1
            assert efd.count == 0
        with pytest.raises(OSError, match="0xffffffffffffffff"):
            efd.write(2**64 - 1)
        efd.signal()
        assert efd.read() == 1


def test_saturated_count_refuses_even_a_write_of_zero():
    with EventFd(blocking=False) as efd:
        efd.write(WRITE_MAX)
        efd.write(0)
        efd.signal()
        with pytest.raises(BlockingIOError):
            efd.write(0)
        assert efd.count == COUNT_MAX
        assert readable(efd)


def test_saturated_semaphore_counts_down_by_ones():
    with EventFd(semaphore=True, blocking=False) as efd:
        efd.write(WRITE_MAX)
        efd.signal()
        efd.signal()
        counts = []
        for _ in range(3):
            assert efd.read() == 1
            counts.append(efd.count)
        assert counts == [2**64 - 2, 2**64 - 3, 2**64 - 4]
        efd.write(2)
        assert efd.count == WRITE_MAX


def test_saturation_shows_through_every_descriptor():
    with EventFd() as efd, efd.dup() as twin, EventFd.from_fd(efd.fileno()) as adopted:
        efd.write(WRITE_MAX)
        twin.signal()
        assert [efd.count, twin.count, adopted.count] == [COUNT_MAX] * 3
        assert adopted.wait(0) == COUNT_MAX
        assert [efd.count, twin.count, adopted.count] == [0] * 3


# -- readiness -------------------------------------------------------------------------------------------


def _by_select(efd):
    return bool(select.select([efd], [], [], 0)[0])


def _by_epoll(efd):
    with select.epoll() as epoll:
        epoll.register(efd, select.EPOLLIN)
        return bool(epoll.poll(0))


def _by_selectors(efd):
    with selectors.DefaultSelector() as selector:
        selector.register(efd, selectors.EVENT_READ)
        return bool(selector.select(0))


@pytest.mark.parametrize("ready", [_by_select, readable, _by_epoll, _by_selectors])
@pytest.mark.parametrize("semaphore", [True, False])
def test_readable_exactly_while_the_count_is_not_zero(ready, semaphore):
    with EventFd(semaphore=semaphore, blocking=False) as efd, efd.dup() as twin:
        for _ in range(3):
            assert not ready(efd)
            efd.signal()
            twin.write(1)
            assert ready(efd)
            assert ready(twin)
            while efd.count:
                assert ready(twin)
                twin.read()
            assert not ready(twin)


def test_edge_triggered_epoll_sees_each_signal_after_a_read():
    with EventFd(blocking=False) as efd, select.epoll() as epoll:
        epoll.register(efd, select.EPOLLIN | select.EPOLLET)
        for _ in range(3):
            efd.signal()
            assert epoll.poll(0) == [(efd.fileno(), select.EPOLLIN)]
            assert epoll.poll(0) == []
            assert efd.read() == 1


# -- wait ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocking", [True, False])
def test_wait_takes_what_is_there(blocking):
    with EventFd(4, blocking=blocking) as efd:
        assert efd.wait() == 4
        assert efd.wait(0) == 0


@pytest.mark.parametrize("timeout", [0, -1, -0.5, 0.0])
def test_wait_without_waiting(timeout):
    with EventFd() as efd:
        begin = time.monotonic()
        assert efd.wait(timeout) == 0
        assert time.monotonic() - begin < 0.5


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("timeout", [0.001, 0.05])
def test_wait_times_out_no_sooner_than_asked(blocking, timeout):
    with EventFd(blocking=blocking) as efd:
        begin = time.monotonic()
        assert efd.wait(timeout) == 0
        assert timeout <= time.monotonic() - begin < timeout + 2


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 2**80])
def test_wait_with_a_very_long_timeout(timeout):
    with EventFd(1) as efd:
        assert efd.wait(timeout) == 1


def test_wait_refuses_a_timeout_that_is_no_number():
    with EventFd() as efd, pytest.raises(ValueError):
        efd.wait(float("nan"))


def test_wait_in_semaphore_mode_takes_one():
    with EventFd(2, semaphore=True) as efd:
        assert [efd.wait(0), efd.wait(0), efd.wait(0)] == [1, 1, 0]

"""EventFd as the owner of a descriptor: dup, close, garbage collection, repr. Both backends."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import select

import pytest

from pvmmio_uc.eventfd import EventFd

from .eventfd_helpers import backend_fixture, is_open

backend = backend_fixture()


def test_dup_shares_the_count_and_the_modes():
    with EventFd(semaphore=True, blocking=False) as efd, efd.dup() as twin:
        assert twin.fileno() != efd.fileno()
        efd.write(2)
        assert [twin.read(), efd.read()] == [1, 1]
        with pytest.raises(BlockingIOError):
            twin.read()


def test_descriptors_are_closed_one_by_one():
    efd = EventFd(1)
    twin = efd.dup()
    third = twin.dup()
    numbers = [efd.fileno(), twin.fileno(), third.fileno()]
    efd.close()
    assert [is_open(fd) for fd in numbers] == [False, True, True]
    third.signal()
    assert twin.read() == 2
    twin.close()
    assert third.count == 0
    third.close()
    assert not any(is_open(fd) for fd in numbers)


def test_close_is_idempotent_and_leaves_a_reused_number_alone():
    efd = EventFd()
    number = efd.fileno()
    assert not efd.closed
    efd.close()
    assert efd.closed
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, number)
    try:
        efd.close()
        del efd
        assert is_open(number)
    finally:
        os.close(number)
        if null != number:
            os.close(null)


@pytest.mark.parametrize(
    "use",
    [
        lambda efd: efd.fileno(),
        lambda efd: efd.read(),
        lambda efd: efd.wait(0),
        lambda efd: efd.write(1),
        lambda efd: efd.signal(),
        lambda efd: efd.count,
        lambda efd: efd.dup(),
        lambda efd: efd.__enter__(),
        lambda efd: select.select([efd], [], [], 0),
    ],
)
def test_closed_eventfd_refuses(use):
    efd = EventFd(1)
    efd.close()
    with pytest.raises(ValueError, match="closed"):
        use(efd)
    assert repr(efd) == "<EventFd closed>"


def test_context_manager_closes_after_an_error():
    with pytest.raises(KeyError), EventFd() as efd:
        raise KeyError
    assert efd.closed


def test_dup_and_from_fd_of_a_subclass_are_of_the_subclass():
    class Doorbell(EventFd):
        pass

    with Doorbell() as bell, bell.dup() as twin, Doorbell.from_fd(bell.fileno()) as adopted:
        assert {type(twin), type(adopted)} == {Doorbell}


@pytest.mark.parametrize("via_cycle", [True, False])
def test_garbage_collection_closes_the_descriptor(via_cycle):
    efd = EventFd()
    number = efd.fileno()
    if via_cycle:
        holder = {"efd": efd}
        holder["self"] = holder
        del holder
    del efd
    gc.collect()
    assert not is_open(number)


def test_garbage_of_one_descriptor_leaves_the_others():
    efd = EventFd()
    twin = efd.dup()
    del efd
    gc.collect()
    twin.signal()
    assert twin.read() == 1
    twin.close()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_no_copies(duplicate):
    with EventFd() as efd, pytest.raises(TypeError, match=r"dup\(\)"):
        duplicate(efd)


def test_repr(backend):
    tail = " portable>" if backend == "portable" else ">"
    with EventFd(3) as plain, EventFd(semaphore=True) as semaphore:
        assert repr(plain) == f"<EventFd fd={plain.fileno()} count=3{tail}"
        assert repr(semaphore) == f"<EventFd fd={semaphore.fileno()} count=0 semaphore{tail}"

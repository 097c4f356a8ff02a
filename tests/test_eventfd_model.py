"""Both backends and a model of one integer take the same steps and must agree on every result."""

from __future__ import annotations

import errno
import os
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pvmmio_uc.eventfd import EventFd, eventfd_context

from .eventfd_helpers import COUNT_MAX, HAS_EVENTFD, WRITE_MAX, readable

BACKENDS = ("0", "1") if HAS_EVENTFD else ("1",)

VALUES = st.one_of(
    st.integers(0, 3),
    st.sampled_from([2**32, 2**63 - 1, 2**63, WRITE_MAX - 1, WRITE_MAX, COUNT_MAX]),
    st.integers(0, COUNT_MAX),
    st.integers(0, 3).map(lambda below: WRITE_MAX - below),
)


def outcome(function, *arguments):
    """What a call returns, or the kind and errno of what it raises."""
    try:
        return function(*arguments)
    except (OSError, ValueError, OverflowError) as raised:
        return type(raised), getattr(raised, "errno", None)


WOULD_BLOCK = (BlockingIOError, errno.EAGAIN)


class Agreement(RuleBasedStateMachine):
    """Descriptor k of every backend belongs to the one eventfd; ``references`` are a registration's."""

    @initialize(
        semaphore=st.booleans(), blocking=st.booleans(), initial=st.sampled_from([0, 1, 2, 2**32 - 1])
    )
    def create(self, semaphore, blocking, initial):
        self.semaphore = semaphore
        self.blocking = blocking
        self.model = initial
        self.references = 0
        self.columns = []
        for value in BACKENDS:
            with mock.patch.dict(os.environ, PVMMIO_PORTABLE_EVENTFD=value):
                self.columns.append([EventFd(initial, semaphore=semaphore, blocking=blocking)])
        self.contexts = [eventfd_context(column[0]) for column in self.columns]
        for context in self.contexts:
            context.put()

    def every(self, index, method, *arguments):
        rows = [column[index % len(column)] for column in self.columns]
        return [outcome(getattr(efd, method), *arguments) for efd in rows]

    def agree(self, results, expected):
        assert results == [expected] * len(BACKENDS)

    @rule(index=st.integers(0, 5), times=st.integers(1, 3))
    def signal(self, index, times):
        for _ in range(times):
            self.agree(self.every(index, "signal"), None)
            self.model = min(self.model + 1, COUNT_MAX)

    @precondition(lambda self: self.references)
    @rule()
    def signal_by_reference(self):
        for context in self.contexts:
            context.signal()
        self.model = min(self.model + 1, COUNT_MAX)

    @rule(index=st.integers(0, 5), value=VALUES)
    def write(self, index, value):
        if value == COUNT_MAX:
            expected = (OSError, errno.EINVAL)
        elif self.model + value > WRITE_MAX:
            if self.blocking:
                return
            expected = WOULD_BLOCK
        else:
            expected = None
            self.model += value
        self.agree(self.every(index, "write", value), expected)

    @rule(index=st.integers(0, 5), value=st.sampled_from([-1, 2**64, 2**70]))
    def write_out_of_range(self, index, value):
        self.agree(self.every(index, "write", value), (ValueError if value < 0 else OverflowError, None))

    def taken(self):
        got = min(self.model, 1) if self.semaphore else self.model
        self.model -= got
        return got

    @precondition(lambda self: self.model or not self.blocking)
    @rule(index=st.integers(0, 5))
    def read(self, index):
        self.agree(self.every(index, "read"), self.taken() or WOULD_BLOCK)

    @rule(index=st.integers(0, 5), timeout=st.sampled_from([0, -1, 0.0001]))
    def wait(self, index, timeout):
        self.agree(self.every(index, "wait", timeout), self.taken())

    @rule(index=st.integers(0, 5), by_number=st.booleans())
    def add_descriptor(self, index, by_number):
        for column in self.columns:
            efd = column[index % len(column)]
            column.append(EventFd.from_fd(efd.fileno()) if by_number else efd.dup())

    @precondition(lambda self: len(self.columns[0]) > 1)
    @rule(index=st.integers(0, 5))
    def close_descriptor(self, index):
        for column in self.columns:
            efd = column.pop(index % len(column))
            efd.close()
            assert outcome(efd.read) == (ValueError, None)

    @rule(index=st.integers(0, 5), by_number=st.booleans())
    def take_reference(self, index, by_number):
        for column, context in zip(self.columns, self.contexts, strict=True):
            efd = column[index % len(column)]
            assert eventfd_context(efd.fileno() if by_number else efd) is context
        self.references += 1

    @rule()
    def put_reference(self):
        expected = None if self.references else (ValueError, None)
        self.agree([outcome(context.put) for context in self.contexts], expected)
        self.references = max(self.references - 1, 0)

    @precondition(lambda self: self.references)
    @rule()
    def close_all_and_find_it_again(self):
        for column, context in zip(self.columns, self.contexts, strict=True):
            for efd in column:
                efd.close()
            column[:] = [EventFd.from_fd(context.fileno())]

    @invariant()
    def counts_agree(self):
        if not hasattr(self, "model"):
            return
        for column in self.columns:
            assert [efd.count for efd in column] == [self.model] * len(column)
            assert [readable(efd) for efd in column] == [self.model != 0] * len(column)

    def teardown(self):
        for column in getattr(self, "columns", []):
            for efd in column:
                efd.close()


Agreement.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAgreement = Agreement.TestCase

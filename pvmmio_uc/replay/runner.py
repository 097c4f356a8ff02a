"""Performing one scenario on a level, and what it is compared with, step by step."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import RegistrationError
from ..ioeventfd import IoEventFdFlag
from .eventfds import EventFds
from .level import Level, LevelFactory, Recorder
from .steps import (
    CloseEventFd,
    DrainRing,
    DupEventFd,
    GuestAccess,
    IoEventFdCall,
    IoEventFdCalls,
    RawCall,
    Result,
    Scenario,
    SignalEventFd,
    Step,
    ZoneCall,
    ZoneCalls,
)

__all__ = ["KVM_IOEVENTFD", "Outcome", "StepOutcome", "perform"]

KVM_IOEVENTFD = 0x4040AE79
"""_IOW(KVMIO, 0x79, struct kvm_ioeventfd): the number carries the 64 bytes of the structure."""

_U64 = (1 << 64) - 1


class StepOutcome(NamedTuple):
    """One step: what of the record could be compared, and what came of it; None: this level cannot tell."""

    step: Step
    expected: Result | None
    got: Result | None

    @property
    def equal(self) -> bool:
        """Whether it went as recorded, or could not be compared."""
        return self.expected == self.got


@dataclass(frozen=True)
class Outcome:
    """A scenario and its steps as they went."""

    scenario: Scenario
    steps: tuple[StepOutcome, ...]

    @property
    def mismatches(self) -> list[int]:
        """The indices of the steps that went otherwise than recorded."""
        return [index for index, step in enumerate(self.steps) if not step.equal]


def perform(scenario: Scenario, make_level: LevelFactory) -> Outcome:
    """Every step of the scenario in a new VM; it goes on after a mismatch."""
    with ExitStack() as stack:
        level = make_level(scenario.vm)
        stack.callback(level.close)
        run = _Run(level)
        stack.callback(run.eventfds.close)
        steps = zip(scenario.steps, scenario.recorded, strict=True)
        return Outcome(scenario, tuple(run.step(step, recorded) for step, recorded in steps))


class _Run:
    """The state of one scenario, and a method for each kind of step."""

    def __init__(self, level: Level) -> None:
        self._level = level
        self._vm = level.vm
        self.eventfds = EventFds()

    def step(self, step: Step, recorded: Result) -> StepOutcome:
        if isinstance(step, GuestAccess):
            return self._access(step, recorded)
        return StepOutcome(step, recorded, self._call(step))

    def _access(self, step: GuestAccess, recorded: Result) -> StepOutcome:
        recorder = Recorder(self.eventfds)
        got = self._level.access(step, recorder)
        if got is None:
            recorder.result()  # the counters are read after every access, also after this one
            return StepOutcome(step, None, None)
        return StepOutcome(step, self._level.comparable(step, recorded), got)

    def _call(self, step: Step) -> Result:
        if isinstance(step, IoEventFdCall):
            return {"rc": self._ioeventfd(step)}
        if isinstance(step, IoEventFdCalls):
            return _repeat(step.count, lambda i: self._ioeventfd(_nth(step, i)))
        if isinstance(step, ZoneCall):
            return {"rc": self._zone(step)}
        if isinstance(step, ZoneCalls):
            return _repeat(
                step.count,
                lambda i: self._zone(ZoneCall((step.addr + i * step.stride) & _U64, step.size, step.pio)),
            )
        if isinstance(step, RawCall):
            return {"rc": self._raw(step)}
        if isinstance(step, DrainRing):
            return {
                "ring": [[int(e.pio), e.address, len(e.data), e.data.hex()] for e in self._vm.ring.drain()]
            }
        return {"rc": self._descriptor(step)}

    def _descriptor(self, step: Step) -> int:
        if isinstance(step, CloseEventFd):
            return self.eventfds.close_one(step.eventfd)
        if isinstance(step, DupEventFd):
            return self.eventfds.dup(step.eventfd, step.source)
        if isinstance(step, SignalEventFd):
            return self.eventfds.signal(step.eventfd, step.value)
        raise TypeError(f"no way to perform a {type(step).__name__}: add it to the runner")

    def _ioeventfd(self, call: IoEventFdCall) -> int:
        calls = self._vm.ioeventfds
        method = calls.deassign if call.flags & IoEventFdFlag.DEASSIGN else calls.assign
        source = self.eventfds.source(call.eventfd)
        return _rc(lambda: method(source, call.addr, call.length, call.flags, call.datamatch))

    def _zone(self, call: ZoneCall) -> int:
        zones = self._vm.zones
        method = zones.unregister if call.unregister else zones.register
        return _rc(lambda: method(call.addr, call.size, call.pio))

    def _raw(self, step: RawCall) -> int:
        """What the ioctl layer in front of KVM_IOEVENTFD answers; the package itself has no ioctls.

        KVM dispatches on the whole number. ``/dev/kvm`` and a vCPU do not know this one and answer
        EINVAL, as they do for any number (kvm_arch_dev_ioctl, kvm_arch_vcpu_ioctl). The VM answers
        ENOTTY to a number it does not know (kvm_arch_vm_ioctl), and one with another structure size
        in it *is* another number. Then the structure is copied: EFAULT for a null pointer. What is
        left is the call. The padding is never looked at.
        """
        if step.call is not None:
            self.eventfds.source(step.call.eventfd)  # a mention makes the eventfd, whatever comes of the call
        if step.on != "vm":
            return -errno.EINVAL
        if step.request != KVM_IOEVENTFD:
            return -errno.ENOTTY
        return -errno.EFAULT if step.call is None else self._ioeventfd(step.call)


def _nth(calls: IoEventFdCalls, index: int) -> IoEventFdCall:
    return IoEventFdCall(
        (calls.addr + index * calls.stride) & _U64,
        calls.length,
        calls.flags,
        calls.eventfd,
        (calls.datamatch + index * calls.datamatch_stride) & _U64,
    )


def _repeat(count: int, call: Callable[[int], int]) -> Result:
    """Call until one fails: how many succeeded, and what the last one answered."""
    for index in range(count):
        rc = call(index)
        if rc:
            return {"at": index, "rc": rc}
    return {"at": count, "rc": 0}


def _rc(call: Callable[[], object]) -> int:
    try:
        call()
    except RegistrationError as error:
        return -(error.errno or errno.EIO)
    return 0

"""One vCPU: registers, KVM_RUN, and the exits that user space answers, until the guest halts.

Source: Documentation/virt/kvm/api.rst, KVM_RUN and struct kvm_run.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from ctypes import c_int, c_ulong

from ..exits import Reason, UserspaceExit
from . import ioctls
from .guest import set_long_mode
from .ioctls import KvmError, KvmRegs, KvmRun, KvmSregs, call
from .watchdog import Watchdog

__all__ = ["KvmVcpu", "OnExit"]

OnExit = Callable[[UserspaceExit], "bytes | int | None"]
"""User space: called with each exit. A read is answered by what is returned, or assigned to ``data``."""

_HALT_POLL = 0.002  # seconds; with an in-kernel local APIC a halt is no exit and has to be asked for
_TICK_CAP = 3600.0  # seconds
_FINISHING_LIMIT = 4096

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = (c_int, c_ulong, c_ulong)


class KvmVcpu:
    """vCPU ``index`` of a VM, in 64-bit mode at CPL 0 as `pvmmio_uc.kvm.guest` describes.

    ``run_size`` is KVM_GET_VCPU_MMAP_SIZE in bytes, ``cpuid`` the argument of KVM_SET_CPUID2, ``irqchip``
    whether the interrupt controllers are in the kernel. Raises KvmError where the kernel refuses.
    """

    def __init__(
        self, vm_fd: int, run_size: int, cpuid: bytes = b"", *, index: int = 0, irqchip: bool = False
    ) -> None:
        self._irqchip = irqchip
        self._owes = False  # an exit was delivered whose instruction the kernel has not finished
        self._lost = False
        with ExitStack() as opened:
            self.fd = call(vm_fd, ioctls.KVM_CREATE_VCPU, index)
            opened.callback(os.close, self.fd)
            self._shared = mmap.mmap(self.fd, run_size)
            opened.callback(self._shared.close)
            if cpuid:
                call(self.fd, ioctls.KVM_SET_CPUID2, cpuid)
            sregs = KvmSregs()
            call(self.fd, ioctls.KVM_GET_SREGS, sregs)
            set_long_mode(sregs)
            call(self.fd, ioctls.KVM_SET_SREGS, sregs)
            self._start_sregs = self._sregs()
            self._run: KvmRun | None = KvmRun.from_buffer(self._shared)
            self._resources = opened.pop_all()

    def close(self) -> None:
        """Give the vCPU back; once is enough, more do no harm."""
        self._run = None  # it points into the mapping
        self._resources.close()
        self.fd = -1

    @property
    def registers(self) -> dict[str, int]:
        """rax .. r15, rip and rflags by name."""
        regs = KvmRegs()
        call(self.fd, ioctls.KVM_GET_REGS, regs)
        return {name: getattr(regs, name) for name in KvmRegs.NAMES}

    def reset(self, registers: Mapping[str, int]) -> None:
        """Set the registers in ``registers``, all others to 0, and undo changes to system registers.

        XMM registers stay. ValueError for a name that does not exist or a value above 64 bits.
        """
        regs = KvmRegs(rflags=2)
        for name, value in registers.items():
            if name not in KvmRegs.NAMES:
                raise ValueError(f"no register {name!r}: there are {', '.join(KvmRegs.NAMES)}")
            if not -(1 << 63) <= value < 1 << 64:
                raise ValueError(f"{name} = {value:#x} does not fit in 64 bits")
            setattr(regs, name, value)
        if self._sregs() != self._start_sregs:
            call(self.fd, ioctls.KVM_SET_SREGS, self._start_sregs)
        call(self.fd, ioctls.KVM_SET_REGS, regs)

    def read_shared(self, offset: int, size: int) -> bytes:
        """``size`` bytes of the mapping that kernel and user space share."""
        return self._shared[offset : offset + size]

    def write_shared(self, offset: int, data: bytes) -> None:
        """The same for writing."""
        self._shared[offset : offset + len(data)] = data

    def run(self, exits: list[UserspaceExit], on_exit: OnExit | None = None, timeout: float = 1.0) -> str:
        """Run until the guest stops; ``exits`` receives each exit after ``on_exit`` has answered it.

        Returns how it ended: ``hlt``; ``hang``, when it had run for ``timeout`` seconds, answers not
        counted; ``internal<n>``, KVM_EXIT_INTERNAL_ERROR with this suberror (1: an instruction that
        KVM does not emulate); ``shutdown``, a triple fault; ``exit<n>``, any other exit.

        What ``on_exit`` raises comes out here. The instruction of an exit that was not answered in
        full is finished then, with reads left as they are and its further exits shown to nobody. Raises
        ValueError for a timeout of 0 or less and KvmError where the kernel refuses to run the vCPU.
        """
        if not timeout > 0:
            raise ValueError(f"the timeout is {timeout} seconds: give more than 0")
        if self._lost:
            raise KvmError(errno.EIO, "an endless instruction was cut off on this vCPU: make a new VM")
        deadline = time.monotonic() + timeout
        period = min(_HALT_POLL if self._irqchip else timeout, _TICK_CAP)
        try:
            with Watchdog(self.fd, period) as watchdog:
                while True:
                    if self._enter():
                        end, answering = self._handle(exits, on_exit)
                        deadline += answering
                    else:
                        watchdog.acknowledge()
                        end = "hlt" if self._has_halted() else None
                    if end is not None:
                        return end
                    if time.monotonic() >= deadline:
                        return "hang"
        finally:
            self._finish_instruction()

    def _enter(self) -> bool:
        """KVM_RUN; False if interrupted. Not by fcntl.ioctl: newer CPythons repeat an interrupted call."""
        self._owes = False
        if _libc.ioctl(self.fd, ioctls.KVM_RUN.number, 0) >= 0:
            return True
        code = ctypes.get_errno()
        if code == errno.EINTR:
            return False
        raise KvmError(code, f"KVM_RUN: {os.strerror(code)}")

    def _handle(self, exits: list[UserspaceExit], on_exit: OnExit | None) -> tuple[str | None, float]:
        """Answer one exit: how the run ended, None where it goes on, and the seconds that the answer took."""
        run = self._shared_run()
        reason = run.exit_reason
        if reason == ioctls.KVM_EXIT_MMIO:
            exit_, at = self._mmio_exit(run)
        elif reason == ioctls.KVM_EXIT_IO:
            exit_, at = self._io_exit(run)
        elif reason == ioctls.KVM_EXIT_HLT:
            return "hlt", 0.0
        elif reason == ioctls.KVM_EXIT_INTERNAL_ERROR:
            return f"internal{run.exit.internal.suberror}", 0.0
        else:
            return "shutdown" if reason == ioctls.KVM_EXIT_SHUTDOWN else f"exit{reason}", 0.0
        self._owes = True
        began = time.monotonic()
        if on_exit is not None:
            _answer(exit_, on_exit)
        if not exit_.write:
            self.write_shared(at, exit_.data)
        exits.append(exit_)
        return None, time.monotonic() - began

    def _mmio_exit(self, run: KvmRun) -> tuple[UserspaceExit, int]:
        mmio, at = run.exit.mmio, KvmRun.exit.offset + 8
        write, size = bool(mmio.is_write), mmio.len
        data = self.read_shared(at, size) if write else b"\xff" * size
        return UserspaceExit(Reason.MMIO, write, mmio.phys_addr, size, data, None), at

    def _io_exit(self, run: KvmRun) -> tuple[UserspaceExit, int]:
        port = run.exit.io
        write, at, size = port.direction == ioctls.KVM_EXIT_IO_OUT, port.data_offset, port.size * port.count
        data = self.read_shared(at, size) if write else b"\xff" * size
        return UserspaceExit(Reason.IO, write, port.port, port.size, data, None, count=port.count), at

    def _has_halted(self) -> bool:
        """Whether it sleeps inside KVM_RUN, and if so wake it, for the next run."""
        if not self._irqchip:
            return False
        state = bytearray(4)
        call(self.fd, ioctls.KVM_GET_MP_STATE, state)
        if int.from_bytes(state, "little") != ioctls.KVM_MP_STATE_HALTED:
            return False
        call(self.fd, ioctls.KVM_SET_MP_STATE, ioctls.KVM_MP_STATE_RUNNABLE.to_bytes(4, "little"))
        return True

    def _finish_instruction(self) -> None:
        """Complete the last exit without running the guest; else the next run would begin with that."""
        if not self._owes:
            return
        run = self._shared_run()
        run.immediate_exit = 1
        try:
            for _ in range(_FINISHING_LIMIT):
                if not self._enter():
                    return
            self._lost = True
        finally:
            run.immediate_exit = 0

    def _shared_run(self) -> KvmRun:
        if self._run is None:
            raise KvmError(errno.EBADF, "the vCPU is closed")
        return self._run

    def _sregs(self) -> bytes:
        state = bytearray(ctypes.sizeof(KvmSregs))
        call(self.fd, ioctls.KVM_GET_SREGS, state)
        return bytes(state)


def _answer(exit_: UserspaceExit, on_exit: OnExit) -> None:
    answer = on_exit(exit_)
    if exit_.write:
        return
    if isinstance(answer, int):
        exit_.value = answer
    elif answer is not None:
        exit_.data = bytes(answer)
    if len(exit_.data) != exit_.size * exit_.count:
        raise ValueError(
            f"the answer to the read of {exit_.size * exit_.count} bytes at {exit_.address:#x} "
            f"has {len(exit_.data)}: return exactly as many"
        )

"""The same accesses on the real kernel: a small guest on /dev/kvm, driven with ioctl and mmap alone.

    with KvmVm() as vm:
        result = vm.run(code, registers={"rdi": 0xFE000000})

It answers what KVM does with an access or a registration; the rest of the package says what KVM should do.
x86-64 hosts only: `available` tells why not.
"""

from __future__ import annotations

from .ioctls import KvmError
from .probe import available, stage2
from .vcpu import KvmVcpu, OnExit
from .vm import KvmResult, KvmVm

__all__ = ["KvmError", "KvmResult", "KvmVcpu", "KvmVm", "OnExit", "available", "stage2"]

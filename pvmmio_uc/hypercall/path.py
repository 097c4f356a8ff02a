"""From the trapped instruction to the record of the exit: which convention, what it did, where it went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import GuestException
from ..eventfd import EventFdContext
from ..exits import Exit, ExitLog, Reason, Route, Steps, heaviest
from ..vm import Memory, Vm
from .convention import Convention
from .cpu import Call, Cpu, Outcome
from .operations import Operations

__all__ = ["HypercallPath", "HypercallUserspace"]

HypercallUserspace = Callable[[bool, int, bytes, int, Steps], "bytes | None"]
"""``(write, gpa, data, pc, steps)`` to a read's bytes, or None where user space does not claim it."""


class HypercallPath:
    """Answers the hypercalls of one engine with the conventions that are enabled, the first that applies."""

    def __init__(
        self,
        vm: Vm,
        memory: Memory,
        cpu: Cpu,
        log: ExitLog,
        userspace: HypercallUserspace,
        connections: Mapping[int, EventFdContext],
        ports: HypercallUserspace,
    ) -> None:
        self._vm, self._memory, self._cpu, self._log = vm, memory, cpu, log
        self._userspace, self._connections, self._ports = userspace, connections, ports
        self.conventions: Sequence[Convention] = ()

    def handle(self, call: Call) -> Outcome:
        """Do the call; GuestException where the architecture answers it with one."""
        convention = next((c for c in self.conventions if c.applies(self._cpu, call)), None)
        if convention is None:
            return Outcome.SYSCALL
        steps = Steps(exits=1)
        operations = Operations(
            self._vm,
            self._memory,
            lambda write, gpa, data: self._userspace(write, gpa, data, call.pc, steps),
            self._connections,
            steps,
            lambda write, port, data: self._ports(write, port, data, call.pc, steps),
        )
        number = convention.number(self._cpu)
        outcome = Outcome.SYSCALL
        try:
            outcome = convention.handle(self._cpu, call, operations)
        finally:
            if outcome is not Outcome.SYSCALL or operations.accesses:
                self._record(call, convention.name, number, outcome, operations)
        if outcome in (Outcome.UNDEFINED, Outcome.PROTECTION):
            raise GuestException(
                f"{call.instruction} at pc {call.pc:#x} ({convention.name} convention, "
                f"{'user' if self._cpu.user_mode else 'kernel'} mode): the guest takes {outcome.value}; "
                "call from kernel mode, with the processor's own instruction",
                pc=call.pc,
                kind=outcome.value,
            )
        return outcome

    def _record(self, call: Call, name: str, number: int, outcome: Outcome, operations: Operations) -> None:
        accesses = tuple(operations.accesses)
        route = heaviest(access.route for access in accesses)
        if not accesses and operations.refusal is None and outcome is not Outcome.UNDEFINED:
            route = Route.HYPERVISOR
        first = accesses[0] if accesses else None
        note = f"{name} {call.instruction} {number:#x}"
        if outcome is not Outcome.DONE:
            note += f": {outcome.value}"
        if operations.refusal is not None:
            note += f": {operations.refusal.value}"
        self._log.append(
            Exit(
                Reason.HYPERCALL,
                call.pc,
                first.address if first else number,
                first.write if first else False,
                accesses,
                route,
                operations.steps,
                note,
            )
        )

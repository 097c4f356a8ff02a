"""What a Hyper-V call must do, written a second time and as flat as it goes, for the property tests.

It knows the board of `fakes` by its constants, reads its memory, and shares nothing with the package.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .fakes import (
    DEVICE,
    DEVICE_SIZE,
    DOORBELL_ANY,
    DOORBELL_FOUR,
    DOORBELL_MATCH,
    MATCH,
    RAM,
    RAM_SIZE,
    ROM,
    ROM_SIZE,
    USER,
    USER_SIZE,
    ZONE,
    ZONE_SIZE,
    FakeMemory,
    user_bytes,
)

M32, M64 = (1 << 32) - 1, (1 << 64) - 1
ANSWER = 0x8877_6655_4433_2211
DONE, RETRY, UNDEFINED = "done", "retry", "undefined"

Event = tuple[object, ...]


@dataclass
class Host:
    """How the host is set up: everything that changes an answer."""

    synic: bool = False
    enforce: bool = False
    xen: bool = False
    post: bool = True
    signal: bool = True
    extended: bool = True
    xmm_in: bool = True
    xmm_out: bool = True
    mmio: bool = True
    batch: bool = True
    offered: bool = True
    limit: int | None = None
    answer: int | None = None
    connections: frozenset[int] = frozenset()
    os_id: int = 1


@dataclass
class Outcome:
    """What happens: to the instruction, to registers, memory and the world, and to the guest OS id."""

    kind: str
    registers: dict[str, int] = field(default_factory=dict)
    writes: list[tuple[int, bytes]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    os_id: int | None = None


class Stop(Exception):
    def __init__(self, status: int, reps: int = 0) -> None:
        self.word = status + (reps << 32)


class Model:
    """One call of one vCPU."""

    def __init__(self, layout: str, file: dict[str, int], host: Host, memory: FakeMemory) -> None:
        self.layout, self.file, self.host, self.memory = layout, file, host, memory
        self.out = Outcome(DONE)
        self.mark = 0
        if layout == "x64":
            self.control, self.a, self.b = self.reg("rcx"), self.reg("rdx"), self.reg("r8")
        elif layout == "x86-32":
            self.control = self.pair("rdx", "rax")
            self.a, self.b = self.pair("rbx", "rcx"), self.pair("rdi", "rsi")
            if host.xen and self.control & 1 << 31:
                self.mark = 1 << 31
                self.control -= self.mark
        elif layout == "arm64 hvc #0":
            self.control, self.a, self.b = self.reg("x1"), self.reg("x2"), self.reg("x3")
        else:
            self.control, self.a, self.b = self.reg("x0"), self.reg("x1"), self.reg("x2")
        self.code = self.control % 65536
        self.fast = self.control >> 16 & 1 == 1
        self.variable = (self.control >> 17) % 1024
        self.count = (self.control >> 32) % 4096
        self.start = (self.control >> 48) % 4096

    def reg(self, name: str) -> int:
        return self.file.get(name, 0)

    def pair(self, high: str, low: str) -> int:
        return (self.reg(high) & M32) << 32 | self.reg(low) & M32

    def predict(self, user: bool, protected: bool) -> Outcome:
        if user or not protected:
            return Outcome(UNDEFINED)
        try:
            word = self.answer()
        except Stop as stop:
            word = stop.word
        if self.out.kind == RETRY:
            return self.out
        if word is None:
            return Outcome(UNDEFINED)
        self.result(word)
        return self.out

    def result(self, word: int) -> None:
        if self.layout == "x64":
            self.out.registers["rax"] = word
        elif self.layout == "x86-32":
            self.out.registers["rax"], self.out.registers["rdx"] = word & M32, word >> 32
        else:
            self.out.registers["x0"] = word

    def answer(self) -> int | None:
        host, code = self.host, self.code
        extended = 0x8001 <= code <= 0x8041
        if host.enforce and (
            (code == 0x5C and not host.post)
            or (code == 0x5D and not host.signal)
            or (extended and not host.extended)
        ):
            return 6
        if self.control & 0xF000F000F8000000:
            return 3
        simple = self.count == self.start == self.variable == 0
        if code in (0x106, 0x107) and host.mmio and host.offered:
            if self.fast and self.lacks_xmm():
                return None
            if not simple:
                return 3
            return self.mmio_read() if code == 0x106 else self.mmio_write()
        if code == 0x5D:
            return self.signal() if simple else 3
        if code == 0x5C:
            return self.exit(self.a) if simple and host.synic else 3
        if extended:
            return self.extended(simple)
        if code in (0x50, 0x51) and self.layout.startswith("arm64"):
            if self.variable or self.start >= self.count:
                return 3
            return self.get_registers() if code == 0x50 else self.set_registers()
        return 2

    def lacks_xmm(self) -> bool:
        if self.layout.startswith("arm64"):
            return False
        if self.code == 0x107:
            return not self.host.xmm_in
        return self.layout == "x64" and not self.host.xmm_out

    # parameters ---------------------------------------------------------------------------------------

    def quads(self) -> list[int]:
        if self.layout.startswith("arm64"):
            first = 2 if self.layout == "arm64 hvc #0" else 1
            return [self.reg(f"x{first + index}") for index in range(16)]
        quads = [self.a, self.b]
        for index in range(6):
            quads += [self.reg(f"xmm{index}") & M64, self.reg(f"xmm{index}") >> 64]
        return quads

    def block(self, size: int, output: int = 0) -> bytes:
        if self.fast:
            most = 128 if self.layout.startswith("arm64") else 112
            pairs = -(-size // 16) + -(-output // 16)
            if size > most or (output and (self.layout == "x86-32" or pairs * 16 > most)):
                raise Stop(3, self.start)
            return b"".join(quad.to_bytes(8, "little") for quad in self.quads())[:size]
        for gpa, length in ((self.a, size), (self.b, output)):
            if length and (gpa & 7 or (gpa & 0xFFF) + length > 0x1000):
                raise Stop(4, self.start)
        data = self.peek(self.a, size)
        if data is None or (output and self.peek(self.b, output) is None):
            raise Stop(3, self.start)
        return data

    def give(self, data: bytes, size: int, output: int, offset: int = 0) -> None:
        if not self.fast:
            if not RAM <= self.b + offset <= RAM + RAM_SIZE - len(data):
                raise Stop(3)
            self.out.writes.append((self.b + offset, data))
            return
        for at in range(0, len(data), 8):
            quad = int.from_bytes(data[at : at + 8], "little")
            if self.layout == "x64":
                index, half = divmod((size + 15) // 16 * 2 + (offset + at) // 8 - 2, 2)
                name = f"xmm{index}"
                old = self.out.registers.get(name, 0)
                self.out.registers[name] = old | quad << 64 * half
            elif self.layout == "arm64 hvc #0":
                self.out.registers[f"x{2 + (size + 15) // 16 * 2 + (offset + at) // 8}"] = quad
            else:
                first = 1 + 16 - (output + 15) // 16 * 2
                self.out.registers[f"x{first + (offset + at) // 8}"] = quad

    def peek(self, gpa: int, size: int) -> bytes | None:
        if gpa >= RAM and gpa + size <= RAM + RAM_SIZE:
            return bytes(self.memory.slots[RAM][gpa - RAM : gpa - RAM + size])
        if gpa >= ROM and gpa + size <= ROM + ROM_SIZE:
            return bytes(self.memory.read_only[ROM][gpa - ROM : gpa - ROM + size])
        return None

    # the bus ------------------------------------------------------------------------------------------

    def target(self, gpa: int, size: int) -> int:
        """0, or the status of a target that is refused before anybody is asked."""
        if size not in (1, 2, 4, 8) or gpa % size or gpa + size > 1 << 64:
            return 5
        return 5 if self.peek(gpa, size) is not None else 0

    def store(self, gpa: int, size: int, value: int) -> int:
        refused = self.target(gpa, size)
        if refused:
            return refused
        value %= 1 << 8 * size
        data = value.to_bytes(size, "little")
        if gpa == DOORBELL_ANY:
            self.out.events.append(("bell", DOORBELL_ANY))
        elif size == 4 and (gpa == DOORBELL_FOUR or (gpa == DOORBELL_MATCH and value == MATCH)):
            self.out.events.append(("bell", gpa))
        elif DEVICE <= gpa < DEVICE + DEVICE_SIZE:
            self.out.events.append(("W", gpa - DEVICE, size, value))
        elif ZONE <= gpa < ZONE + ZONE_SIZE:
            self.out.events.append(("zone", gpa, data))
        else:
            self.out.events.append(("user", "W", gpa, data))
            return 0 if USER <= gpa < USER + USER_SIZE else 0x10
        return 0

    def mmio_write(self) -> int:
        block = self.block(80)
        gpa, size = int.from_bytes(block[:8], "little"), int.from_bytes(block[8:12], "little")
        return self.store(gpa, size, int.from_bytes(block[16:24], "little"))

    def mmio_read(self) -> int:
        block = self.block(16, 64)
        gpa, size = int.from_bytes(block[:8], "little"), int.from_bytes(block[8:12], "little")
        refused = self.target(gpa, size)
        if refused:
            return refused
        if DEVICE <= gpa < DEVICE + DEVICE_SIZE:
            self.out.events.append(("R", gpa - DEVICE, size, ANSWER))
            data = (ANSWER % (1 << 8 * size)).to_bytes(size, "little")
        else:
            self.out.events.append(("user", "R", gpa, b"\xff" * size))
            if not USER <= gpa < USER + USER_SIZE:
                return 0x10
            data = user_bytes(gpa, size)
        self.give(data + bytes(64 - size), 16, 64)
        return 0

    # the other calls ----------------------------------------------------------------------------------

    def signal(self) -> int:
        parameter = self.a
        if not self.fast:
            data = None if self.a & 7 else self.peek(self.a, 8)
            if data is None:
                return 4
            parameter = int.from_bytes(data, "little")
        if parameter & 0xFFFF00000000 == 0:
            if parameter > 0xFFFFFF:
                return 3
            if parameter in self.host.connections:
                self.out.events.append(("connection", parameter))
                return 0
        return self.exit(parameter) if self.host.synic else 3

    def exit(self, parameter: int) -> int:
        self.out.events.append(("exit", self.control, parameter, self.b))
        if self.host.answer is not None:
            return self.host.answer & M64
        if self.code == 0x5D:
            return 0x11 if parameter & 0xFFFF00000000 else 0x12
        return 0x12 if self.code == 0x5C and not self.fast else 2

    def extended(self, simple: bool) -> int:
        host = self.host
        if self.fast:
            return 5
        if host.extended and host.batch and host.offered:
            if self.code == 0x8001:
                if not simple:
                    return 3
                if self.b & 7:
                    return 4
                if self.peek(self.b, 8) is None:
                    return 3
                self.give((1 << 46).to_bytes(8, "little"), 0, 8)
                return 0
            if self.code == 0x8030:
                if self.variable or self.start >= self.count:
                    return 3
                return self.write_batch()
        return self.exit(self.a)

    def write_batch(self) -> int:
        block = self.block(8 + 24 * self.count)
        if block[:8] != bytes(8):
            raise Stop(5, self.start)
        for index in self.mine():
            at = 8 + 24 * index
            gpa, value = (int.from_bytes(block[at + add : at + add + 8], "little") for add in (0, 8))
            size, flags = (int.from_bytes(block[at + add : at + add + 4], "little") for add in (16, 20))
            status = 5 if flags else self.store(gpa, size, value)
            if status:
                raise Stop(status, index)
        return self.through()

    def mine(self) -> range:
        """The elements of this exit."""
        return range(self.start, min(self.count, self.start + (self.host.limit or 4096)))

    def through(self) -> int:
        done = self.mine().stop
        if done < self.count:
            self.out.kind = RETRY
            rest = self.control % (1 << 48) | done << 48 | self.mark
            if self.layout == "x86-32":
                self.out.registers["rax"], self.out.registers["rdx"] = rest & M32, rest >> 32
            else:
                name = {"x64": "rcx", "arm64 hvc #0": "x1", "arm64 hvc #1": "x0"}[self.layout]
                self.out.registers[name] = rest
        return done << 32

    def own(self, block: bytes) -> None:
        if block[:8] != b"\xff" * 8:
            raise Stop(0xD, self.start)
        if block[8:12] != b"\xfe\xff\xff\xff":
            raise Stop(0xE, self.start)
        if block[12:16] != bytes(4):
            raise Stop(5, self.start)

    def get_registers(self) -> int:
        size, output = 16 + 4 * self.count, 16 * self.count
        block = self.block(size, output)
        self.own(block)
        host = self.host
        values = {
            0x90002: host.os_id,
            0x100: 0x000A_0000_0000_3839,
            0x200: 0x60
            | (host.post << 4 | host.signal << 5 | host.extended << 20) << 32
            | (host.xmm_in << 4 | host.xmm_out << 15) << 96,
            0x201: (host.mmio and host.offered) << 21 | M32 << 32,
            0x202: 64 | 64 << 32,
            0x203: 0,
        }
        for index in self.mine():
            name = int.from_bytes(block[16 + 4 * index : 20 + 4 * index], "little")
            if name not in values:
                raise Stop(5, index)
            self.give(values[name].to_bytes(16, "little"), size, output, 16 * index)
        return self.through()

    def set_registers(self) -> int:
        block = self.block(16 + 32 * self.count)
        self.own(block)
        for index in self.mine():
            at = 16 + 32 * index
            if int.from_bytes(block[at : at + 4], "little") != 0x90002:
                raise Stop(5, index)
            self.out.os_id = int.from_bytes(block[at + 16 : at + 24], "little")
        return self.through()

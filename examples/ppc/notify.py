"""A virtio-style notification: the guest queues buffers and rings, another thread does the work.

The queue is host memory mapped into the guest, so the thread needs no engine: it waits on the eventfd,
answers in the queue, and the guest polls the used index. Rings that come while it is busy are one wake-up.
"""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor

from unicorn import UC_PROT_ALL

from pvmmio_uc import EventFd
from pvmmio_uc.machine import Machine

QUEUE, DOORBELL, BUFFERS, POLLS = 0x0800_0000, 0xE000_0000, 200, 0x7000_0000

GUEST = """
put:    addi    7, 7, 1
        slwi    8, 7, 2
        stwx    7, 4, 8                         # buffer n holds n
        stw     7, 0(5)                         # ring
        cmpw    7, 6
        bne     put
poll:   lwz     3, 0(4)                         # the used index
        cmpw    3, 7
        bdnzf   2, poll                         # not equal, and ctr is not 0
"""


def serve(kick: EventFd, queue: ctypes.Array[ctypes.c_uint32]) -> list[int]:
    counts: list[int] = []
    while (used := sum(counts)) < BUFFERS and (count := kick.wait(timeout=10)):
        time.sleep(0.001)  # a device that takes its time
        for buffer in range(used + 1, used + count + 1):
            queue[buffer] **= 2
        queue[0] = used + count
        counts.append(count)
    return counts


def main() -> None:
    queue = (ctypes.c_uint32.__ctype_be__ * 1024)()  # the used index, then buffers, in the guest's byte order
    with Machine("ppc") as machine, ThreadPoolExecutor() as pool, EventFd() as kick:
        machine.uc.mem_map_ptr(QUEUE, ctypes.sizeof(queue), UC_PROT_ALL, ctypes.addressof(queue))
        machine.pv.ioeventfd(kick, DOORBELL)
        thread = pool.submit(serve, kick, queue)
        machine.run(GUEST, {"r4": QUEUE, "r5": DOORBELL, "r6": BUFFERS, "ctr": POLLS})
        counts, used, total = thread.result(), machine["r3"], sum(queue[1:])
    print(f"the guest rang {machine.pv.exits.total} times, the thread woke up {len(counts)} times: {counts}")
    print(f"the guest saw the used index {used}; the squares of 1 to {BUFFERS} add up to {total}")
    if (used, sum(counts), total) != (BUFFERS, BUFFERS, 2_686_700):
        raise SystemExit(f"expected {BUFFERS} rings, {BUFFERS} buffers used, and a sum of 2686700")


if __name__ == "__main__":
    main()

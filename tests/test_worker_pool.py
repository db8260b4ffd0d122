"""Threads of the server's work: live videos get the processors before files."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import pytest

from talkingface.web.worker_pool import WorkerPool, result


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux")
def test_files_let_live_videos_go_first() -> None:
    def nice_of_threads() -> tuple[int, int]:
        started: list[int] = []
        child = threading.Thread(target=lambda: started.append(nice_value()))
        child.start()
        child.join()
        return nice_value(), started[0]

    def nice_value() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    own = nice_value()
    for can_wait, more in ((False, 0), (True, 10)):
        pool = WorkerPool("tests", 1, 0, 1, can_wait)
        with pool.slot() as slot:
            found = result(slot.start(lambda _: nice_of_threads()))
        asyncio.run(pool.close())
        assert found == (min(own + more, 19),) * 2
    assert nice_value() == own

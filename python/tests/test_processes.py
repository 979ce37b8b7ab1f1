# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Signals, threads, forks, and the interpreter's end."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from oracle import random

import intflash


def small() -> np.ndarray:
    return random(1, 4, 100, 64, seed=1)


def attend_small(_: int = 0) -> bytes:
    return intflash.attend(small(), small(), small(), causal=True, threads=2).tobytes()


def long_call(mode: str) -> None:
    """Takes far longer than any test waits."""
    array = np.zeros((1, 1, 60000, 128) if mode == "int8" else (1, 16, 3000, 64), np.float32)
    intflash.attend(array, array, array, mode=mode)


@pytest.mark.parametrize("mode", ["int8", "exact"])
@pytest.mark.parametrize(
    ("busy", "limit"), [(False, 0.05), (True, 0.25)], ids=["alone", "beside a thread with the GIL"]
)
def test_a_signal_ends_a_long_call(mode, busy, limit):
    delays = []
    stop = threading.Event()
    compute = threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)])
    if busy:
        compute.start()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(3):
            start = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(KeyboardInterrupt):
                long_call(mode)
            delays.append(time.monotonic() - start - 0.5)
    finally:
        signal.signal(signal.SIGALRM, before)
        stop.set()
    if busy:
        compute.join()
    assert attend_small() == attend_small()
    assert min(delays) <= limit, delays  # of three, for a machine that others use too


def test_a_handler_that_returns_lets_the_call_go_on():
    ticks = []
    before = signal.signal(signal.SIGALRM, lambda *_: ticks.append(attend_small()))
    array = random(1, 8, 3000, 128, seed=2)
    wanted = intflash.attend(array, array, array)
    signal.setitimer(signal.ITIMER_REAL, 0.03, 0.03)
    try:
        assert np.array_equal(intflash.attend(array, array, array, threads=1), wanted)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(ticks) >= 3  # and not one when the call has ended
    assert set(ticks) == {attend_small()}


def test_other_threads_run_during_a_call():
    counted = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal counted
        while not stop.is_set():
            counted += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    array = random(1, 8, 2000, 128, seed=3)
    thread.start()
    before = counted
    intflash.attend(array, array, array, threads=1)
    after = counted
    stop.set()
    thread.join()
    assert after - before > 5


def test_threads_attend_at_once():
    wanted = attend_small()
    results = []
    threads = [
        threading.Thread(target=lambda: results.extend(attend_small() for _ in range(20)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [wanted] * 80


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_processes_attend_after_their_parent_did(method):
    wanted = attend_small()
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(attend_small, range(4)).get(60) == [wanted] * 4
    assert attend_small() == wanted


def test_a_fork_in_the_middle_of_a_call_attends():
    code = """
import os, threading, time, numpy as np, intflash
array = np.zeros((1, 8, 4000, 128), np.float32)
thread = threading.Thread(target=lambda: intflash.attend(array, array, array))
thread.start()
time.sleep(0.05)
child = os.fork()
few = array[:, :, :200]
intflash.attend(few, few, few)
if child == 0:
    os._exit(7)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(code, "-W", "ignore").strip() == "7"


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.2])
def test_the_interpreter_ends_while_daemon_threads_attend(delay):
    code = f"""
import threading, time, numpy as np, intflash
small = np.zeros((1, 2, 64, 64), np.float32)
large = np.zeros((1, 8, 20000, 128), np.float32)
def attend(array):
    while True:
        intflash.attend(array, array, array)
for array in (small, small, large):
    threading.Thread(target=attend, args=(array,), daemon=True).start()
time.sleep({delay})
print("end")
"""
    for _ in range(3):
        assert run_python(code).strip() == "end"


def test_objects_that_live_to_the_end_are_no_trouble():
    code = """
import numpy as np, intflash
cache = intflash.Cache(kv_heads=2, head_dim=64, pages=8)
sequence = cache.sequence()
array = np.ones((1, 2, 10, 64), np.float32)
cache.append([sequence], array, array)
batch = intflash.Batch(cache, [sequence], [10])
print(batch.run(array).shape)
"""
    assert run_python(code, "-X", "dev", "-W", "error").strip() == "(1, 2, 10, 64)"


def run_python(code: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout

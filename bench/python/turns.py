# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls that take turns, and the arithmetic of what is printed of them."""

import math
import statistics
import time

import torch


class Clock:
    """Seconds: of this thread's CPU time where it computes alone, which other programs disturb
    little, and of the wall's clock where several threads do."""

    def __init__(self, threads):
        self.now = time.thread_time if threads == 1 else time.perf_counter
        self.name = "the thread's CPU time" if threads == 1 else "wall time"

    def time(self, call):
        """Seconds of a call, and what it returns."""
        start = self.now()
        result = call()
        return self.now() - start, result


class Stopwatch:
    """Adds up the time within functions."""

    def __init__(self, clock):
        self.clock = clock
        self.seconds = 0.0

    def wrap(self, function):
        def timed(*args, **options):
            start = self.clock.now()
            try:
                return function(*args, **options)
            finally:
                self.seconds += self.clock.now() - start

        return timed


def take_turns(clock, calls, rounds, repeats=1):
    """{name: [seconds of a call in each round]}: A B C A B C ..., after a turn of each."""
    times = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = clock.now()
            for _ in range(repeats):
                call()
            if turn > 0:
                times[name].append((clock.now() - start) / repeats)
    return times


def ratio(slow, fast):
    """How many times as fast: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def relative_error(result, reference):
    """Relative L1."""
    difference = (result.double() - reference.double()).abs().sum()
    return float(difference / reference.double().abs().sum())


def divergence(logits, reference):
    """Of rows of logits: KL(reference || theirs) in nats, and whether the top token is the same."""
    theirs = torch.log_softmax(logits.double(), -1)
    right = torch.log_softmax(reference.double(), -1)
    return (right.exp() * (right - theirs)).sum(-1), theirs.argmax(-1) == right.argmax(-1)


def check_arithmetic():
    """Hold the above against what is known by hand."""
    rows = [[[0.0, 0.0]], [[math.log(3.0) + 7.0, 7.0]]]
    even, skewed = torch.tensor(rows, dtype=torch.float64)
    found, _ = divergence(skewed, even)  # (1/4, 3/4) for (1/2, 1/2)
    by_hand = {
        "KLD": (float(found[0]), 0.5 * math.log(4 / 3)),
        "KLD of itself": (float(divergence(skewed, skewed)[0][0]), 0.0),
        "same top token": (float(divergence(skewed, -skewed)[1][0]), 0.0),
        "ratio": (ratio([6.0, 8.0, 100.0], [3.0, 2.0, 25.0]), 4.0),
        "error": (relative_error(torch.tensor([1.0, 2.5]), torch.tensor([1.0, -3.0])), 5.5 / 4.0),
    }
    for name, (value, wanted) in by_hand.items():
        if not math.isclose(value, wanted, abs_tol=1e-12):
            raise AssertionError(f"{name} is {value}: {wanted} by hand")


def goal_text(value, goal, at_least):
    """What a share of a goal is: above 1 where it is reached."""
    share, sign = (value / goal, ">=") if at_least else (goal / value, "<=")
    return f"{share:.2f} of {sign} {goal:g}"


def print_table(title, header, rows):
    print(f"\n### {title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)

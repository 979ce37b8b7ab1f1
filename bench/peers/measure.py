# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Measures every contender by turns in this process, whose environment holds the peers to an
instruction set, and prints one JSON object. compare.py starts it."""

import argparse
import json
import statistics
import sys
import time

import numpy as np

import contenders
import intflash_library

# Idle threads of the one measured before spin for a while; this is longer.
PAUSE_SECONDS = 0.02
# bf16 products differ by about 0.4 %, int8 ones by about 1.4 %: beyond this an answer is wrong.
WRONG = 0.04
CHECKED_ROWS = 32


def exact_rows(query, key, value, causal, rows):
    """Rows of every head in double precision, from the definition: [heads, rows, dim]."""
    q, k, v = (x[0].astype(np.float64) for x in (query, key, value))
    scores = q[:, rows] @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    if causal:
        visible = np.arange(k.shape[1]) <= np.asarray(rows)[:, None] + k.shape[1] - q.shape[1]
        scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights @ v / weights.sum(axis=-1, keepdims=True)


def build(args, query, key, value):
    """Contenders in the order in which they take turns; what is not installed is left out."""
    data = (query, key, value, args.causal)
    library = intflash_library.Library(args.library)
    ours = intflash_library.Attention(library, args.port, args.threads, *data)
    ours.name, ours.version, ours.held = f"intflash int8 ({args.port})", library.version(), True
    built = [ours, contenders.OnnxRuntime(args.threads, *data)]
    built += [contenders.OpenVino(p, args.threads, *data) for p in args.precisions]
    if args.torch:
        built += [contenders.Torch(p, args.threads, *data) for p in args.precisions]
    return built


def timed(contender):
    time.sleep(PAUSE_SECONDS)
    start = time.perf_counter()
    contender.run()
    return time.perf_counter() - start


def measure(args):
    random = np.random.default_rng(0)
    shape = (1, args.heads, args.tokens, args.head_dim)
    query, key, value = (random.standard_normal(shape, dtype=np.float32) for _ in range(3))
    built = build(args, query, key, value)
    rows = np.linspace(0, args.tokens - 1, CHECKED_ROWS).astype(int)
    exact = exact_rows(query, key, value, args.causal, rows)

    errors = []
    for contender in built:
        contender.run()  # also the warm-up
        error = np.abs(contender.result()[0][:, rows] - exact).sum() / np.abs(exact).sum()
        if not error < WRONG:
            raise RuntimeError(f"{contender.name}: relative L1 error {error:.3g}: not timed")
        errors.append(float(error))
    seconds = [[] for _ in built]
    for _ in range(args.repeats):
        for samples, contender in zip(seconds, built):
            samples.append(timed(contender))

    operations = 4 * args.heads * args.tokens**2 * args.head_dim / (2 if args.causal else 1)
    return [
        {
            "name": contender.name,
            "version": contender.version,
            "held": contender.held,
            "seconds": statistics.median(samples),
            "gops": operations / statistics.median(samples) / 1e9,
            "rel_l1": error,
        }
        for contender, samples, error in zip(built, seconds, errors)
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--port", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--precisions", nargs="+", required=True)
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--heads", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--head-dim", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    json.dump(measure(parser.parse_args()), sys.stdout)


if __name__ == "__main__":
    main()

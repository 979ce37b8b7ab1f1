# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""The parts overhead and sdpa: single calls of random data."""

import ctypes
import pathlib
import statistics
import sys

import intflash
import intflash.torch
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from turns import goal_text, print_table, ratio, relative_error, take_turns

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "peers"))
import intflash_library as c  # noqa: E402

LARGEST_ERROR = 0.04  # INT8 codes make 1 to 2 %: beyond this an answer is wrong


def c_calls(path, query, key, value):
    """intflash_attend of one thread, and a function of as many arguments that does nothing."""
    library = c.Library(path)
    desc, args = c.sized(c.AttendDesc), c.sized(c.AttendArgs)
    desc.batch, desc.num_query_heads, desc.query_len, desc.head_dim = query.shape
    _, desc.num_kv_heads, desc.kv_len, _ = key.shape
    desc.query_dtype = desc.key_dtype = desc.value_dtype = desc.out_dtype = c.F32
    out = np.empty_like(query)
    args.query, args.key, args.value, args.out = map(c.tensor, (query, key, value, out))
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 3)
    attend = prototype(("intflash_attend", library.c))
    nothing = prototype(("intflash_version", library.c))
    arguments = library.context(1), ctypes.addressof(desc), ctypes.addressof(args)
    library.require_ok(attend(*arguments))
    kept = desc, args, out, query, key, value

    def call():
        return attend(*arguments) or kept

    return call, lambda: nothing(*arguments) and kept, out


def overhead(args, clock):
    """What Python adds to the C call: one query, one key, 8 channels, the least there is."""
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((1, 1, 1, 8), dtype=np.float32) for _ in range(3)]
    tensors = [torch.from_numpy(array) for array in arrays]
    in_c, nothing, out = c_calls(args.library, *arrays)
    result = intflash.attend(*arrays, threads=1)
    if not (result == out).all():
        raise RuntimeError("attend differs from the C call: not timed")
    torch.set_num_threads(1)
    calls = {
        "nothing": nothing,
        "the C call": in_c,
        "intflash.attend, NumPy": lambda: intflash.attend(*arrays, threads=1),
        "intflash.attend, PyTorch": lambda: intflash.attend(*tensors, threads=1),
        "intflash.torch.sdpa": lambda: intflash.torch.sdpa(*tensors),
        "PyTorch's sdpa": lambda: F.scaled_dot_product_attention(*tensors),
    }
    with torch.no_grad():
        times = take_turns(clock, calls, 100 if args.quick else 2000, repeats=20)
    torch.set_num_threads(args.threads)
    # The C call is that without ctypes' own time.
    goals = {"intflash.attend, NumPy": 5, "intflash.attend, PyTorch": 5, "intflash.torch.sdpa": 25}
    micros = {}
    for name, samples in times.items():
        micros[name] = [1e6 * of(samples) for of in (min, statistics.median)]
    micros["the C call"] = [
        a - b for a, b in zip(micros["the C call"], micros.pop("nothing"), strict=True)
    ]
    rows = []
    for name, (least, median) in micros.items():
        more = [a - b for a, b in zip((least, median), micros["the C call"], strict=True)]
        share = goal_text(more[0], goals[name], False) if name in goals else ""
        rows.append((name, f"{least:.1f} ({median:.1f})", "{:.1f} ({:.1f})".format(*more), share))
    header = ("call", "us: least (median)", "more than the C call", "share of the goal")
    print_table("Overhead: one query, one key, 8 channels", header, rows)


def padded_causal(tokens):
    """A mask as transformers draws it for padding at the left: True where a key is seen."""
    mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    mask[:, : tokens // 16] = False
    mask.fill_diagonal_(True)
    return mask[None, None]


def sdpa_rows(title, clock, rounds, tensors, options, goals):
    """One case, beside the original in f32 and in bf16."""
    halves = [tensor.bfloat16() for tensor in tensors]
    original = F.scaled_dot_product_attention
    calls = {
        "ours": lambda: intflash.torch.sdpa(*tensors, **options),
        "f32": lambda: original(*tensors, **options),
        "bf16": lambda: original(*halves, **options),
    }
    error = relative_error(calls["ours"](), calls["f32"]())
    reason = intflash.torch.last_reason()
    if not error < LARGEST_ERROR or reason is not None:
        raise RuntimeError(f"{title}: error {error:.3g}, handed over: {reason}: not timed")
    times = take_turns(clock, calls, rounds)
    ours = statistics.median(times["ours"]) * 1e3
    for name, goal in zip(("f32", "bf16"), goals, strict=True):
        speed, theirs = ratio(times[name], times["ours"]), statistics.median(times[name]) * 1e3
        share = goal_text(speed, goal, True)
        yield title, f"{ours:.0f}", name, f"{theirs:.0f}", f"{speed:.2f}", share, f"{error:.2%}"


@torch.inference_mode()
def sdpa(args, clock):
    """The drop-in beside the original, from f32 to f32."""
    tokens, rounds = (1024, 2) if args.quick else (4096, args.rounds)
    generator = torch.Generator().manual_seed(0)
    masked = {"attn_mask": padded_causal(tokens), "enable_gqa": True}
    rows = []
    for title, heads, kv_heads, options, goals in (
        ("8 heads", 8, 8, {}, (3.0, 2.5)),
        ("8 heads, causal", 8, 8, {"is_causal": True}, (3.0, 2.5)),
        ("32 over 8 heads, mask", 32, 8, masked, (4.0, 4.0)),
    ):
        shapes = [(1, count, tokens, 128) for count in (heads, kv_heads, kv_heads)]
        tensors = [torch.randn(shape, generator=generator) for shape in shapes]
        rows += sdpa_rows(title, clock, rounds, tensors, options, goals)
    header = ("case", "intflash ms", "PyTorch in", "ms", "times as fast", "share of the goal")
    print_table(f"sdpa, d 128, {tokens} queries and keys", (*header, "error"), rows)

# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's own attention operator for CPUs beside ours, as a layer calls them: over pages, in bf16.

scripts/vllm --bench runs it. In turn in one process, A B A B; with one thread by its CPU time.
Plans, which a step makes once for all layers, are made before the time is taken on both sides.
"""

import argparse
import platform
import statistics

import intflash
import torch
import vllm
from turns import Clock, goal_text, print_table, ratio, relative_error, take_turns
from vllm import _custom_ops as ops
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

DIM, PAGE, LARGEST_ERROR = 128, 128, 0.04


class Step:
    """Requests of one length each, whose last tokens are queries."""

    def __init__(self, requests, heads, kv_heads, query_len, kv_len):
        pages_each = -(-kv_len // PAGE)
        self.count = requests * pages_each
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(0))
        self.table = order.view(requests, pages_each).int()
        tokens = torch.arange(kv_len)
        places = self.table[:, tokens // PAGE].long() * PAGE + tokens % PAGE
        self.slots = places.flatten()
        self.query_lens, self.kv_lens = [query_len] * requests, [kv_len] * requests
        generator = torch.Generator().manual_seed(1)
        self.query, self.key, self.value = (
            torch.randn(rows, of, DIM, generator=generator).bfloat16()
            for rows, of in (
                (requests * query_len, heads),
                (requests * kv_len, kv_heads),
                (requests * kv_len, kv_heads),
            )
        )

    def ours(self):
        """A call of our operator, and what it writes to."""
        kv_heads, out = self.key.shape[1], torch.empty_like(self.query)
        size = self.count * PAGE * kv_heads * (2 * DIM + 12)
        memory = torch.zeros(size + 64, dtype=torch.int8)
        memory = memory[-memory.data_ptr() % 64 :][:size]
        options = {"kv_heads": kv_heads, "head_dim": DIM, "pages": self.count, "page_size": PAGE}
        pages = intflash.Pages([memory], **options)
        pages.append(self.key, self.value, self.slots)
        batch = intflash.Batch(pages, self.table.tolist(), self.query_lens, self.kv_lens)
        return lambda: batch.run(self.query, out=out), out

    def theirs(self):
        """The same of vLLM's."""
        (rows, heads, _), kv_heads = self.query.shape, self.key.shape[1]
        isa, out = _get_attn_isa(torch.bfloat16, PAGE, DIM, "auto"), torch.empty_like(self.query)
        cache = torch.zeros(self.count, kv_heads, 2 * PAGE, DIM, dtype=torch.bfloat16)
        keys, values = cache.chunk(2, dim=2)
        ops.cpu_attn_reshape_and_cache(self.key, self.value, keys, values, self.slots, isa)
        begins = torch.arange(0, rows + 1, self.query_lens[0], dtype=torch.int32)
        lengths = torch.tensor(self.kv_lens, dtype=torch.int32)
        plan = ops.cpu_attn_get_scheduler_metadata(
            num_reqs=len(self.kv_lens),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=DIM,
            seq_lens=lengths,
            dtype=torch.bfloat16,
            query_start_loc=begins,
            causal=True,
            sliding_window_size=-1,
            isa=isa,
            enable_kv_split=True,
        )

        def call():
            ops.cpu_attention_with_kv_cache(
                query=self.query,
                key_cache=keys,
                value_cache=values,
                output=out,
                query_start_loc=begins,
                seq_lens=lengths,
                scale=DIM**-0.5,
                causal=True,
                alibi_slopes=None,
                sliding_window=-1,
                block_table=self.table,
                softcap=0,
                scheduler_metadata=plan,
                s_aux=None,
            )

        return call, out


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/vllm --bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--threads", type=int, default=1, help="of both sides (1)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each call (5)")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the keys")
    return parser.parse_args()


@torch.inference_mode()
def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    clock, shrink = Clock(args.threads), 16 if args.quick else 1
    isa = _get_attn_isa(torch.bfloat16, PAGE, DIM, "auto")
    print(
        f"vLLM {vllm.__version__} (isa {isa}), torch {torch.__version__}, intflash "
        f"{intflash.__version__} (port {intflash.info().port}), Python "
        f"{platform.python_version()}; threads {args.threads}, {clock.name}"
    )
    rows = []
    for requests, heads, kv_heads, query_len, kv_len, goal in (
        (1, 32, 8, 1, 4096, None),
        (1, 32, 8, 1, 32768, 1.8),
        (8, 32, 8, 1, 4096, None),
        (1, 8, 8, 4096, 4096, 2),
        (1, 32, 8, 4096, 4096, 2),
    ):
        query_len, kv_len = max(1, query_len // shrink), kv_len // shrink
        title = f"{requests} x {query_len} queries, {kv_len} keys, {heads} over {kv_heads} heads"
        step = Step(requests, heads, kv_heads, query_len, kv_len)
        (ours, out), (theirs, wanted) = step.ours(), step.theirs()
        ours()
        theirs()
        error = relative_error(out, wanted)
        if not error < LARGEST_ERROR:
            raise RuntimeError(f"{title}: error {error:.3g}: not timed")
        repeats = 1 if query_len > 1 else 10
        times = take_turns(clock, {"ours": ours, "theirs": theirs}, args.rounds, repeats)
        speed = ratio(times["theirs"], times["ours"])
        millis = [f"{1e3 * statistics.median(times[name]):.3g}" for name in ("ours", "theirs")]
        share = "" if goal is None else goal_text(speed, goal, True)
        rows.append((title, *millis, f"{speed:.2f}", share, f"{error:.2%}"))
    header = ("case", "intflash ms", "vLLM's bf16 ms", "times as fast", "share of the goal")
    print_table("Attention over pages, d 128, causal", (*header, "error"), rows)


if __name__ == "__main__":
    main()

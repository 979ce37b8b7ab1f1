# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's attention in bf16 at the prefill shapes of intflash-cuda-bench."""

import statistics
import time

import torch

QUERY_HEADS = 32
KV_HEADS = 8
ROUNDS = 5
MAX_CALLS = 50


def seconds_of(call, calls):
    """Of one call, until the device has done it."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / calls


def main():
    print(f"{torch.cuda.get_device_name()}; PyTorch {torch.__version__}")
    for dim in (64, 128, 256):
        for tokens in (1024, 4096, 8192, 16384):
            query, key = (
                torch.randn((1, heads, tokens, dim), device="cuda", dtype=torch.bfloat16)
                for heads in (QUERY_HEADS, KV_HEADS)
            )
            for is_causal in (True, False):

                def call(query=query, key=key, is_causal=is_causal):
                    torch.nn.functional.scaled_dot_product_attention(
                        query, key, key, is_causal=is_causal, enable_gqa=True
                    )

                seconds_of(call, 1)  # loads what it takes
                calls = max(1, min(MAX_CALLS, int(0.05 / seconds_of(call, 1))))
                seconds = statistics.median(seconds_of(call, calls) for _ in range(ROUNDS))
                pairs = tokens * (tokens + 1) / 2 if is_causal else tokens * tokens
                tops = 4 * pairs * dim * QUERY_HEADS / seconds / 1e12
                name = f"prefill d={dim} n={tokens}{' causal' if is_causal else ''}"
                print(f"{name:<40} {seconds * 1e3:10.3f} ms {tops:9.1f} TOPS", flush=True)


if __name__ == "__main__":
    main()

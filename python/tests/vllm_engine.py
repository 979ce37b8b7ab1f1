# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs vLLM's engine in a process of its own, as test_vllm.py asks it to.

python vllm_engine.py MODEL ENGINES: ENGINES is a JSON list of objects: ``options`` of vLLM's LLM,
``prompts`` (lists of tokens), ``prompt_logprobs``. The last line that is printed is a JSON list: of
each engine ``error``, or ``backend``, ``blocks``, and of each prompt ``tokens``, ``logprobs`` (of
the tokens), ``prompt_logprobs`` and ``cached``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process
os.environ["VLLM_CPU_CI_ENV"] = "1"  # no warm-up

from vllm import LLM, SamplingParams

NEW_TOKENS = 8


def chosen(logprobs: list | None, tokens: list[int]) -> list[float]:
    """Log-probabilities of the tokens that are there; the first of a prompt has none."""
    pairs = zip(logprobs or [], tokens, strict=False)
    return [of[token].logprob for of, token in pairs if of is not None]


def run(model: str, options: dict, prompts: list, prompt_logprobs: bool) -> dict[str, Any]:
    """Make an engine, and generate one prompt after another."""
    llm = LLM(
        model=model,
        skip_tokenizer_init=True,
        enforce_eager=True,
        kv_cache_memory_bytes=2**25,
        max_model_len=2048,
        **{"dtype": "float32", **options},
    )
    sampling = SamplingParams(
        max_tokens=NEW_TOKENS,
        temperature=0,
        logprobs=1,
        prompt_logprobs=0 if prompt_logprobs else None,
        detokenize=False,
        ignore_eos=True,
    )
    config = llm.llm_engine.vllm_config
    layers = config.compilation_config.static_forward_context
    results = []
    for prompt in prompts:
        together = prompt if isinstance(prompt[0], list) else [prompt]
        outputs = llm.generate(
            [{"prompt_token_ids": tokens} for tokens in together], sampling, use_tqdm=False
        )
        for tokens, output in zip(together, outputs, strict=True):
            new = output.outputs[0]
            results.append(
                {
                    "tokens": list(new.token_ids),
                    "logprobs": chosen(new.logprobs, new.token_ids),
                    "prompt_logprobs": chosen(output.prompt_logprobs, tokens),
                    "cached": output.num_cached_tokens,
                }
            )
    backend = next(type(layer.impl) for layer in layers.values() if hasattr(layer, "impl"))
    return {
        "backend": backend.__module__,
        "blocks": config.cache_config.num_gpu_blocks,
        "results": results,
    }


def main() -> None:
    """Run all engines, and print what came of them."""
    results = []
    for engine in json.loads(sys.argv[2]):
        try:
            results.append(
                run(sys.argv[1], engine["options"], engine["prompts"], engine["prompt_logprobs"])
            )
        except Exception as error:
            results.append({"error": f"{type(error).__name__}: {error}"})
        gc.collect()
    print(json.dumps(results))


if __name__ == "__main__":
    main()

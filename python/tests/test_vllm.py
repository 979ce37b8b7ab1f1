# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Small models of random weights, served by vLLM over our pages and over its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from packages import package, want_installed

want_installed("vllm")
torch = package("torch")
transformers = package("transformers")

ENGINE = Path(__file__).with_name("vllm_engine.py")
OURS, THEIRS = "intflash.vllm._backend", "vllm.v1.attention.backends.cpu_attn"
INT8 = {"kv_cache_dtype": "int8_per_token_head"}
WINDOW = 100
SIZES = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "initializer_range": 0.1,
}
SMALL = {**SIZES, "initializer_range": 0.05}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=WINDOW),
    "gemma2": lambda: transformers.Gemma2Config(
        **SMALL,
        sliding_window=WINDOW,
        attn_logit_softcapping=5.0,
        query_pre_attn_scalar=64,
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **SMALL, sliding_window=WINDOW, num_local_experts=2, num_experts_per_tok=2
    ),
}
GENERATOR = np.random.default_rng(0)
LONG, SHORT = (GENERATOR.integers(0, SIZES["vocab_size"], count).tolist() for count in (700, 140))
PAGE = 128


def engine(options: dict, *prompts: list, prompt_logprobs: bool = True) -> dict:
    return {"options": options, "prompts": prompts, "prompt_logprobs": prompt_logprobs}


def run(model: Path, *engines: dict, **environment: str) -> list[dict]:
    done = subprocess.run(
        [sys.executable, ENGINE, model, json.dumps(engines)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def save(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]())
    for parameter, weights in model.named_parameters():
        if parameter.endswith("sinks"):
            torch.nn.init.normal_(weights, 2, 1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=CONFIGS)
def served(request, tmp_path_factory) -> dict[str, dict]:
    """What each engine made of the prompts."""
    engines = {
        "whole": engine({**INT8, "enable_prefix_caching": False}, LONG, SHORT),
        "chunks": engine({**INT8, "max_num_batched_tokens": 64, "max_num_seqs": 4}, [LONG, SHORT]),
        "cached": engine(
            {**INT8, "enable_prefix_caching": True},
            LONG,
            LONG,
            [SHORT, LONG],
            prompt_logprobs=False,
        ),
        "theirs": engine({"enable_prefix_caching": False}, LONG, SHORT),
    }
    results = run(save(request.param, tmp_path_factory.mktemp(request.param)), *engines.values())
    assert not [result["error"] for result in results if "error" in result]
    return dict(zip(engines, results, strict=True))


def test_layers_attend_here_where_pages_are_asked_for_alone(served):
    backends = [served[name]["backend"] for name in ("whole", "chunks", "cached", "theirs")]
    assert backends == [OURS, OURS, OURS, THEIRS]


def test_chunks_beside_other_requests_change_no_bit(served):
    names = ("tokens", "logprobs", "prompt_logprobs")
    for whole, chunks in zip(served["whole"]["results"], served["chunks"]["results"], strict=True):
        assert len(whole["prompt_logprobs"]) in (len(LONG) - 1, len(SHORT) - 1)
        assert [whole[name] for name in names] == [chunks[name] for name in names]


def test_cached_prefixes_change_no_bit(served):
    long, short = served["whole"]["results"]
    results = served["cached"]["results"]
    whole_pages = (len(LONG) - 1) // PAGE * PAGE
    assert [result["cached"] for result in results] == [0, whole_pages, 0, whole_pages]
    for result, wanted in zip(results, (long, long, short, long), strict=True):
        assert result["tokens"] == wanted["tokens"]
        assert result["logprobs"] == wanted["logprobs"]


def test_perplexity_is_that_of_vllms_own_attention(served):
    for ours, theirs in zip(served["whole"]["results"], served["theirs"]["results"], strict=True):
        logprobs = [np.array(result["prompt_logprobs"]) for result in (ours, theirs)]
        assert abs(math.exp(logprobs[1].mean() - logprobs[0].mean()) - 1) < 0.003
        assert 0 < np.abs(logprobs[0] - logprobs[1]).mean() < 0.05


def test_there_are_as_many_more_blocks_as_tokens_are_smaller(served):
    bytes_of_a_token = {"whole": 2 * 64 + 12, "theirs": 2 * 64 * 4}
    ratio = served["whole"]["blocks"] / served["theirs"]["blocks"]
    assert ratio == pytest.approx(bytes_of_a_token["theirs"] / bytes_of_a_token["whole"], rel=0.02)


def test_the_environment_asks_too_and_what_cannot_be_is_refused(tmp_path):
    model = save("llama", tmp_path)
    half, large, same, fp8, small = run(
        model,
        engine({"dtype": "bfloat16"}, SHORT),
        engine({"block_size": 256}, SHORT),
        engine(INT8, SHORT),
        engine({"kv_cache_dtype": "fp8"}, SHORT),
        engine({"block_size": 32}, SHORT),
        INTFLASH_VLLM="1",
    )
    assert half["backend"] == OURS
    assert large["results"] == same["results"]
    assert "kv_cache_dtype is fp8: pages are int8_per_token_head; unset INT" in fp8["error"]
    assert "[64, 128, 256]" in small["error"]

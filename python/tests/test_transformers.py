# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Small models of random weights, by attn_implementation="int8_attention"."""

from __future__ import annotations

import pytest
from packages import package

torch = package("torch")
transformers = package("transformers")

import intflash  # noqa: E402
from intflash.transformers import NAME, register  # noqa: E402

register()

TOKENS = 150
WINDOW = 40
SIZES = {
    "vocab_size": 300,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=WINDOW),
    "qwen2": lambda: transformers.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "gemma2": lambda: transformers.Gemma2Config(
        **SIZES, sliding_window=WINDOW, attn_logit_softcapping=5.0, query_pre_attn_scalar=32
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **SIZES, sliding_window=WINDOW, num_local_experts=2, num_experts_per_tok=2
    ),
}
ORIGINAL = {"gemma2": "eager", "gpt_oss": "eager"}  # sdpa has neither caps nor sinks
LIMIT = 0.05  # relative L1 of logits
# Of what has the same bits but for the rest of the model's products, in float32; and where a cache
# has dropped the keys before a window, so that blocks of keys begin elsewhere.
SAME = 1e-4
SHIFTED = 3e-3


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(params=CONFIGS)
def name(request) -> str:
    return request.param


@pytest.fixture
def model(name) -> torch.nn.Module:
    return make(name)


def make(name: str) -> torch.nn.Module:
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("sinks"):
            parameter.copy_(torch.tensor([0.5, -1.0, 2.0, 4.0]))
    model.set_attn_implementation(NAME)
    return model


def token_ids(batch: int, tokens: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 300, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def original(name: str, model: torch.nn.Module, *arguments: object, **options: object) -> object:
    model.set_attn_implementation(ORIGINAL.get(name, "sdpa"))
    try:
        return model(*arguments, **options).logits
    finally:
        model.set_attn_implementation(NAME)


def relative_l1(out: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((out - wanted).abs().sum() / wanted.abs().sum())


def test_logits_are_those_of_the_original_within_the_error_of_integers(name, model):
    ids = token_ids(2, TOKENS)
    assert relative_l1(model(ids).logits, original(name, model, ids)) < LIMIT


def test_later_tokens_change_nothing_before_them(model):
    ids = token_ids(1, TOKENS)
    changed = ids.clone()
    changed[:, 100:] = (changed[:, 100:] + 1) % 300
    before, after = model(ids).logits, model(changed).logits
    assert torch.equal(before[:, :100], after[:, :100])
    assert not torch.equal(before[:, 100], after[:, 100])


@pytest.mark.parametrize("chunks", [(1,) * 3, (64, 64, 22), (100, 1, 49)])
def test_chunks_of_a_prompt_are_the_whole(name, model, chunks):
    ids = token_ids(2, sum(chunks))
    cache = transformers.DynamicCache(config=model.config)
    parts = [model(part, cache=cache, use_cache=True).logits for part in ids.split(chunks, 1)]
    limit = SAME if name == "llama" or sum(chunks) <= WINDOW else SHIFTED
    assert relative_l1(torch.cat(parts, 1), model(ids).logits) < limit


def test_a_static_cache_is_a_dynamic_one(model):
    ids = token_ids(1, TOKENS)
    results = []
    for cache in (
        transformers.DynamicCache(config=model.config),
        transformers.StaticCache(config=model.config, max_cache_len=200),
    ):
        parts = [
            model(part, cache=cache, use_cache=True).logits for part in ids.split((120, 1, 29), 1)
        ]
        results.append(torch.cat(parts, 1))
    assert relative_l1(*results) < SAME


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_is_as_without(name, model, side):
    short, long = token_ids(1, 90, seed=2), token_ids(1, TOKENS, seed=3)
    batch = torch.zeros(2, TOKENS, dtype=torch.long)
    kept = torch.zeros(2, TOKENS, dtype=torch.long)
    at = slice(TOKENS - 90, None) if side == "left" else slice(0, 90)
    batch[0, at], batch[1] = short, long
    kept[0, at], kept[1] = 1, 1
    positions = (kept.cumsum(1) - 1).clamp(min=0)
    options = {"attention_mask": kept, "position_ids": positions}
    logits = model(batch, **options).logits
    assert relative_l1(logits[1:], model(long).logits) < SAME
    assert relative_l1(logits[:1, at], model(short).logits) < LIMIT
    wanted = original(name, model, batch, **options)
    assert relative_l1(logits[:1, at], wanted[:1, at]) < LIMIT


def test_packed_sequences_do_not_see_one_another(name, model):
    if name == "gpt_oss":
        pytest.skip("the model itself asks for no mask between packed sequences")
    first, second = token_ids(1, 90, seed=2), token_ids(1, 60, seed=3)
    positions = torch.cat([torch.arange(90), torch.arange(60)])[None]
    logits = model(torch.cat([first, second], 1), position_ids=positions, use_cache=False).logits
    assert relative_l1(logits[:, :90], model(first).logits) < LIMIT
    assert relative_l1(logits[:, 90:], model(second).logits) < LIMIT
    assert relative_l1(logits[:, 90:], model(torch.cat([first, second], 1)).logits[:, 90:]) > 0.1


def test_generation_is_that_of_the_whole_step_by_step(model):
    ids = token_ids(1, 50)
    out = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=299)
    for length in range(50, out.shape[1]):
        assert out[0, length] == model(out[:, :length]).logits[0, -1].argmax()


def test_masks_of_the_callers_are_taken():
    model = make("llama")
    ids = token_ids(1, TOKENS)
    keep = (torch.rand(TOKENS, TOKENS) < 0.6).tril() | torch.eye(TOKENS, dtype=torch.bool)
    for mask in (keep[None, None], torch.zeros(1, 1, TOKENS, TOKENS).masked_fill(~keep, -1e38)):
        logits = model(ids, attention_mask=mask).logits
        assert relative_l1(logits, original("llama", model, ids, attention_mask=mask)) < LIMIT


def test_encoders_see_both_sides():
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=300, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=256, initializer_range=0.1,
    )  # fmt: skip
    model = transformers.BertModel(config).eval()
    ids = token_ids(2, 70)
    kept = torch.ones(2, 70, dtype=torch.long)
    kept[0, 50:] = 0
    for mask in (torch.ones_like(kept), kept):
        model.set_attn_implementation("sdpa")
        wanted = model(ids, attention_mask=mask).last_hidden_state
        model.set_attn_implementation(NAME)
        out = model(ids, attention_mask=mask).last_hidden_state
        assert relative_l1(out[mask.bool()], wanted[mask.bool()]) < LIMIT


def test_sixteen_bits_are_served():
    model = make("llama").bfloat16()
    ids = token_ids(1, TOKENS)
    assert relative_l1(model(ids).logits, original("llama", model, ids)) < LIMIT


def test_what_is_not_served_raises_with_the_reason():
    model = make("llama")
    ids = token_ids(1, 20)
    with pytest.raises(intflash.UnsupportedError, match="output_attentions"):
        model(ids, output_attentions=True)
    with torch.enable_grad(), pytest.raises(intflash.UnsupportedError, match="requires grad"):
        model(ids)
    with pytest.raises(intflash.UnsupportedError, match="cu_seq_lens_q"):
        model(ids, cu_seq_lens_q=torch.tensor([0, 10, 20]))
    with pytest.raises(intflash.UnsupportedError, match="sinks is given"):
        model(ids, sinks=torch.zeros(4))
    model.config.attention_dropout = 0.5
    dropping = transformers.AutoModelForCausalLM.from_config(model.config)
    dropping.set_attn_implementation(NAME)
    with pytest.raises(intflash.UnsupportedError, match=r"dropout is 0\.5"):
        dropping.train()(ids)


def test_the_name_is_not_taken_for_one_of_flash_attention():
    assert register() == NAME == "int8_attention"
    assert "flash" not in NAME

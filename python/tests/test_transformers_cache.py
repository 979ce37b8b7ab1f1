# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Small models of random weights over INT8 pages."""

from __future__ import annotations

import pytest
from packages import package

torch = package("torch")
transformers = package("transformers")

from test_transformers import (  # noqa: E402
    CONFIGS,
    LIMIT,
    SAME,
    TOKENS,
    make,
    relative_l1,
    token_ids,
)

import intflash  # noqa: E402
from intflash.transformers import IntflashCache  # noqa: E402


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(params=CONFIGS)
def model(request) -> torch.nn.Module:
    return make(request.param)


@pytest.fixture
def llama() -> torch.nn.Module:
    return make("llama")


def room(model: torch.nn.Module) -> IntflashCache:
    return IntflashCache(model.config, 4096)


def step(model: torch.nn.Module, cache: object, ids: torch.Tensor) -> torch.Tensor:
    return model(ids, cache=cache, use_cache=True).logits


def test_logits_are_those_without_a_cache(model):
    ids = token_ids(2, TOKENS)
    assert relative_l1(step(model, room(model), ids), model(ids).logits) < LIMIT


def test_chunks_of_a_prompt_are_the_whole(model):
    ids = token_ids(2, TOKENS)
    whole = step(model, room(model), ids)
    cache = room(model)
    parts = [step(model, cache, part) for part in ids.split((64, 1, 85), 1)]
    assert relative_l1(torch.cat(parts, 1), whole) < SAME
    assert cache.get_seq_length() == TOKENS


def test_padding_on_the_left_is_as_without(llama):
    short, long = token_ids(1, 90, seed=2), token_ids(1, TOKENS, seed=3)
    batch = torch.zeros(2, TOKENS, dtype=torch.long)
    kept = torch.zeros(2, TOKENS, dtype=torch.long)
    batch[0, -90:], batch[1] = short, long
    kept[0, -90:], kept[1] = 1, 1
    positions = (kept.cumsum(1) - 1).clamp(min=0)
    cache = room(llama)
    logits = llama(batch, attention_mask=kept, position_ids=positions, cache=cache).logits
    assert relative_l1(logits[:1, -90:], step(llama, room(llama), short)) < LIMIT
    assert relative_l1(logits[1:], step(llama, room(llama), long)) < SAME


def test_what_was_cropped_is_forgotten(llama):
    ids, other = token_ids(2, TOKENS), token_ids(2, 40, seed=2)
    cache, fresh = room(llama), room(llama)
    step(llama, cache, ids)
    cache.crop(-50)
    assert cache.get_seq_length() == TOKENS - 50
    step(llama, fresh, ids[:, :-50])
    assert torch.equal(step(llama, cache, other), step(llama, fresh, other))
    with pytest.raises(ValueError, match="tokens_to_remove"):
        cache.crop(3)
    cache.reset()
    assert torch.equal(step(llama, cache, ids[:1]), step(llama, room(llama), ids[:1]))


def test_beams_share_pages_and_go_on_as_if_alone(llama):
    ids = token_ids(3, TOKENS)
    order = torch.tensor([2, 0, 2])
    cache, fresh = room(llama), room(llama)
    step(llama, cache, ids)
    before = cache.store.info().free_pages
    cache.reorder_cache(order)
    assert cache.store.info().free_pages >= before
    step(llama, fresh, ids[order])
    following = token_ids(3, 5, seed=2)
    assert torch.equal(step(llama, cache, following), step(llama, fresh, following))
    cache.batch_repeat_interleave(2)
    fresh.batch_select_indices(torch.tensor([0, 0, 1, 1, 2, 2]))
    following = token_ids(6, 1, seed=3)
    assert torch.equal(step(llama, cache, following), step(llama, fresh, following))


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_is_that_of_a_dynamic_cache(model, beams):
    ids = token_ids(2, 50)
    options = {"max_new_tokens": 6, "num_beams": beams, "do_sample": False, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(ids)
    wanted = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, cache=room(model), **options), wanted)


def test_a_prompt_is_saved_and_loaded(llama, tmp_path):
    ids, following = token_ids(1, TOKENS), token_ids(1, 3, seed=2)
    cache, other = room(llama), room(llama)
    step(llama, cache, ids)
    cache.sequences[0].save(tmp_path / "prompt")
    other.load(tmp_path / "prompt")
    assert other.get_seq_length() == TOKENS
    assert torch.equal(step(llama, other, following), step(llama, cache, following))
    short = cache.sequences[0].fork()
    short.truncate(9)
    with pytest.raises(intflash.ArgumentError, match=r"\[9, 150\]"):
        other.load(tmp_path / "prompt", short.to_bytes())


def test_other_functions_say_that_they_cannot_read_pages(llama):
    for name in ("sdpa", "eager"):
        llama.set_attn_implementation(name)
        with pytest.raises(intflash.UnsupportedError, match="int8_attention"):
            step(llama, room(llama), token_ids(1, 5))
    key, _ = room(llama).layers[0].update(*(torch.ones(1, 2, 3, 32) for _ in range(2)))
    assert repr(key) == "Handle(shape=(1, 2, 3, 32))"


def test_too_many_tokens_raise(llama):
    with pytest.raises(intflash.PoolExhaustedError):
        step(llama, IntflashCache(llama.config, 100), token_ids(1, TOKENS))

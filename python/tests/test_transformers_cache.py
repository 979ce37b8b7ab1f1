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
from intflash.__main__ import COMMAND  # noqa: E402
from intflash.transformers import IntflashCache, calibrate  # noqa: E402


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


# Groups of kv heads in two layers.
def groups(*layers: list[tuple[int, str, int]]) -> dict[int, list[intflash.HeadGroup]]:
    made = {}
    for number, layer in enumerate(layers):
        made[number], end = [], 0
        for count, codec, window in layer:
            options = {"codec": codec, "window_blocks": window, "sink_blocks": int(window > 0)}
            made[number].append(intflash.HeadGroup(range(end, end + count), options))
            end += count
    return made


def test_groups_of_one_codec_are_as_all_together(model):
    ids = token_ids(2, TOKENS)
    parted = groups([(1, "int8", 0), (1, "int8", 0)], [(2, "int8", 0)])
    cache = IntflashCache(model.config, 4096, calibration=parted)
    assert torch.equal(step(model, cache, ids), step(model, room(model), ids))


def test_heads_are_in_their_places_whatever_came_first(model):
    ids = token_ids(2, TOKENS)
    mixed = groups([(1, "k8v16", 0), (1, "int8", 0)], [(1, "int8_wide", 0), (1, "int8", 0)])
    cache = IntflashCache(model.config, 4096, calibration=mixed)
    assert relative_l1(step(model, cache, ids), step(model, room(model), ids)) < LIMIT


def test_heads_have_codecs_of_their_own(llama):
    ids, following = token_ids(2, TOKENS), token_ids(2, 5, seed=2)
    mixed = groups([(1, "k8v16", 0), (1, "k4v4", 1)], [(1, "k8v4", 0), (1, "k8v16", 0)])
    cache, fresh = (IntflashCache(llama.config, 4096, calibration=mixed) for _ in range(2))
    assert relative_l1(step(llama, cache, ids), llama(ids).logits) < LIMIT
    step(llama, fresh, ids)
    step(llama, cache, following)
    cache.crop(-5)
    order = torch.tensor([1, 1])
    cache.reorder_cache(order)
    fresh.batch_select_indices(order)
    assert cache.get_seq_length() == TOKENS
    assert torch.equal(step(llama, cache, following), step(llama, fresh, following))
    step(llama, cache, token_ids(2, 200, seed=4))
    for _ in range(80):
        step(llama, cache, token_ids(2, 1))
    with pytest.raises(intflash.UnsupportedError, match="no longer in INT8"):
        cache.crop(-79)
    assert {len(s) for store in cache._stores for s in store.sequences} == {TOKENS + 5 + 200 + 80}
    with pytest.raises(intflash.UnsupportedError, match="several stores"):
        cache.sequences  # noqa: B018
    cache.reset()
    assert cache.get_seq_length() == 0


def test_a_calibration_of_another_model_raises(llama):
    for wrong in ({}, groups([(2, "int8", 0)]), groups([(1, "int8", 0)], [(2, "int8", 0)])):
        with pytest.raises(intflash.ArgumentError, match="has not the 2 kv heads"):
            IntflashCache(llama.config, 4096, calibration=wrong)
    both = groups([(2, "int8", 0)], [(2, "int8", 0)])
    with pytest.raises(intflash.ArgumentError, match="calibration says codec and window"):
        IntflashCache(llama.config, 4096, codec="k8v4", calibration=both)


@pytest.mark.skipif(not COMMAND.exists(), reason="the wheel is without the command")
def test_a_model_is_calibrated_by_a_text(llama, tmp_path):
    ids = torch.randint(300, (1, 704), generator=torch.Generator().manual_seed(1))
    llama.config.max_position_embeddings = 1024
    before = llama.config._attn_implementation
    chosen = calibrate(llama, ids, 50, tmp_path / "c.json", by_head=True, report=tmp_path / "c.svg")
    assert llama.config._attn_implementation == before
    assert list(chosen) == [0, 1]
    for layer in chosen.values():
        assert [head for group in layer for head in group.kv_heads] == [0, 1]
    assert {group.options["codec"] for layer in chosen.values() for group in layer} != {"int8"}
    assert (tmp_path / "c.svg").read_text().startswith("<svg")
    cache = IntflashCache(llama.config, 4096, calibration=chosen)
    assert relative_l1(step(llama, cache, ids), step(llama, room(llama), ids)) < LIMIT
    with pytest.raises(intflash.ArgumentError, match="the least is"):
        calibrate(llama, ids, 1, tmp_path / "d.json")
    with pytest.raises(intflash.ArgumentError, match="640 tokens and more"):
        calibrate(llama, ids[:, :100], 50, tmp_path / "d.json")
    with pytest.raises(intflash.ArgumentError, match="2 texts"):
        calibrate(llama, ids.expand(2, -1), 50, tmp_path / "d.json")
    with pytest.raises(intflash.UnsupportedError, match="sliding_window"):
        calibrate(make("mistral"), ids[:, :100], 50, tmp_path / "d.json")


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

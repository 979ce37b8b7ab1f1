# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Cache and Batch: the bits of attend, and what is refused."""

from __future__ import annotations

import gc
import io
import signal
import threading

import ml_dtypes
import numpy as np
import pytest
from oracle import random

import intflash

LAYERS, HEADS, KV_HEADS, DIM, DIM_V = 2, 4, 2, 32, 48


def make_cache(**options: object) -> intflash.Cache:
    shape = {"layers": LAYERS, "kv_heads": KV_HEADS, "head_dim": DIM, "head_dim_v": DIM_V}
    return intflash.Cache(**{**shape, "pages": 40, **options})


def tokens(count: int, seed: int, dtype: object = np.float32) -> list[np.ndarray]:
    """Query, key and value of each layer, (layers, count, heads, dim)."""
    return [
        random(LAYERS, count, heads, dim, seed=seed + i, dtype=dtype)
        for i, (heads, dim) in enumerate(((HEADS, DIM), (KV_HEADS, DIM), (KV_HEADS, DIM_V)))
    ]


def dense(query: np.ndarray, key: np.ndarray, value: np.ndarray, **options: object) -> np.ndarray:
    """attend of (tokens, heads, dim), as (tokens, heads, dim)."""
    swapped = [array.swapaxes(0, 1) for array in (query, key, value)]
    return intflash.attend(*swapped, score_digits=1, **options).swapaxes(0, 1)


def fill(cache: intflash.Cache, count: int, seed: int) -> tuple[intflash.Sequence, list]:
    sequence = cache.sequence()
    data = tokens(count, seed)
    for layer in range(LAYERS):
        cache.append([sequence], data[1][layer], data[2][layer], layer=layer)
    return sequence, data


def test_a_batch_gives_the_bits_of_attend_however_it_was_filled():
    cache = make_cache()
    lengths, query_lens = [150, 7, 64], [40, 1, 64]
    data = [tokens(length, 10 * i) for i, length in enumerate(lengths)]
    sequences = [cache.sequence() for _ in lengths]
    for begin, end in ((0, 3), (3, 5), (5, 200)):
        parts = [slice(begin, min(end, length)) for length in lengths]
        counts = [part.stop - part.start for part in parts]
        for layer in range(LAYERS):
            key, value = (
                np.concatenate([d[i][layer][part] for d, part in zip(data, parts, strict=True)])
                for i in (1, 2)
            )
            cache.append(sequences, key, value, layer=layer, lengths=counts)
    assert [len(sequence) for sequence in sequences] == lengths
    batch = intflash.Batch(cache, sequences, query_lens)
    assert (batch.query_lens, batch.kv_lens) == (query_lens, lengths)
    for layer in range(LAYERS):
        queries = [d[0][layer][-n:] for d, n in zip(data, query_lens, strict=True)]
        out, lse = batch.run(np.concatenate(queries), layer=layer, lse=True)
        assert lse.shape == (HEADS, sum(query_lens))
        begin = 0
        for query, d in zip(queries, data, strict=True):
            wanted = dense(query, d[1][layer], d[2][layer], causal=True)
            assert np.array_equal(out[begin : begin + len(query)], wanted)
            begin += len(query)


def test_four_dimensions_are_sequences_of_equal_lengths():
    cache = make_cache(layers=1)
    sequences = [cache.sequence() for _ in range(3)]
    query, key, value = (
        random(3, 20, heads, dim, seed=dim).swapaxes(1, 2)
        for heads, dim in ((HEADS, DIM), (KV_HEADS, DIM), (KV_HEADS, DIM_V))
    )
    cache.append(sequences, key, value)
    wanted, wanted_lse = intflash.attend(query, key, value, causal=True, score_digits=1, lse=True)
    out, lse = cache.attend(sequences, query, lse=True)
    assert np.array_equal(out, wanted)
    assert np.array_equal(lse, wanted_lse)
    assert out.swapaxes(1, 2).flags.c_contiguous
    with pytest.warns(intflash.CopyWarning, match="query .* at one distance"):
        assert np.array_equal(cache.attend(sequences, np.ascontiguousarray(query)), wanted)
    last = np.ascontiguousarray(query[:, :, -1:])
    assert np.array_equal(cache.attend(sequences, last), wanted[:, :, -1:])


@pytest.mark.parametrize(
    ("dtype", "of_out"),
    [
        (np.float16, np.float16),
        (ml_dtypes.bfloat16, ml_dtypes.bfloat16),
        (ml_dtypes.float8_e4m3fn, np.float32),
        (ml_dtypes.float8_e5m2, np.float32),
    ],
)
def test_tokens_of_fewer_bits_are_stored_and_attended(dtype, of_out):
    cache = make_cache(layers=1)
    sequence = cache.sequence()
    query, key, value = (array[0] for array in tokens(30, 5, dtype))
    cache.append([sequence], key, value)
    out = cache.attend([sequence], query, query_lens=[30])
    assert out.dtype == of_out
    wide = dense(*(array.astype(np.float32) for array in (query, key, value)), causal=True)
    assert np.array_equal(out, wide.astype(of_out))


def test_masks_and_scores_are_those_of_attend():
    cache = make_cache(layers=1)
    first, (q1, k1, v1) = cache.sequence(), (array[0] for array in tokens(90, 1))
    second, (q2, k2, v2) = cache.sequence(), (array[0] for array in tokens(30, 2))
    key, value = np.concatenate([k1, k2]), np.concatenate([v1, v2])
    cache.append([first, second], key, value, lengths=[90, 30])
    query = np.concatenate([q1[-5:], q2])
    for options in (
        {"causal": False},
        {"causal": "top_left"},
        {"window": (8, 0)},
        {"prefix": 20},
        {"scale": 0.3},
        {"cap": 2.0},
        {"mode": "exact"},
    ):
        out = cache.attend([first, second], query, query_lens=[5, 30], **options)
        if options.get("mode") != "exact":
            options = {"causal": True, **options}
            assert np.array_equal(out[:5], dense(q1[-5:], k1, v1, **options))
            assert np.array_equal(out[5:], dense(q2, k2, v2, **options))
    given = {"sinks": [0.5, 1, 2, 3], "alibi": [0.5, 0.25, 0.1, 0.01]}
    out = cache.attend([first, second], query, query_lens=[5, 30], **given)
    assert np.array_equal(out[:5], dense(q1[-5:], k1, v1, causal=True, **given))
    keep = np.random.default_rng(3).random((HEADS, 5, 90)) < 0.5
    out = cache.attend([first, second], query, query_lens=[5, 30], masks=[keep, None])
    assert np.array_equal(out[:5], dense(q1[-5:], k1, v1, causal=True, mask=keep))
    assert np.array_equal(out[5:], dense(q2, k2, v2, causal=True))


def test_a_batch_can_be_planned_before_its_tokens_are_there():
    cache = make_cache(layers=1)
    sequence = cache.sequence()
    batch = intflash.Batch(cache, [sequence], [10], [10])
    query, key, value = (array[0] for array in tokens(10, 1))
    with pytest.raises(intflash.ArgumentError, match=r"sequences\[0\] = 0: positions 0 \.\.\. 0"):
        batch.run(query)
    cache.append([sequence], key, value)
    assert np.array_equal(batch.run(query), dense(query, key, value, causal=True))


def test_out_is_written_where_it_is_given():
    cache = make_cache()
    sequence, data = fill(cache, 10, 1)
    out = np.zeros((10, HEADS, DIM_V), np.float16)
    batch = intflash.Batch(cache, [sequence], [10])
    assert batch.run(data[0][1], layer=1, out=out) is out
    assert np.array_equal(out, batch.run(data[0][1], layer=1).astype(np.float16))


def test_forks_share_tokens_and_go_their_own_ways():
    cache = make_cache()
    first, data = fill(cache, 100, 1)
    used = cache.info().pages - cache.info().free_pages
    second = first.fork()
    assert cache.info().pages - cache.info().free_pages == used
    more = tokens(1, 50)
    for layer in range(LAYERS):
        cache.append([second], more[1][layer], more[2][layer], layer=layer)
    assert (len(first), len(second)) == (100, 101)
    assert first.pages[0] == second.pages[0]
    assert first.pages[1] != second.pages[1]
    key, value = (np.concatenate([data[i][1], more[i][1]]) for i in (1, 2))
    out = cache.attend([second], more[0][1], layer=1)
    assert np.array_equal(out, dense(more[0][1], key, value, causal=True))
    second.truncate(60)
    assert len(second) == 60
    out = cache.attend([second], more[0][1], layer=1)
    assert np.array_equal(out, dense(more[0][1], key[:60], value[:60], causal=True))


def test_dropped_pages_are_given_back_and_positions_stay():
    cache = make_cache()
    sequence, data = fill(cache, 200, 1)
    query = data[0][0][-1:]
    before = cache.attend([sequence], query, window=(20, 0))
    free = cache.info().free_pages
    sequence.drop_before(150)
    assert (sequence.first_position, len(sequence)) == (128, 200)
    assert cache.info().free_pages == free + 2
    assert np.array_equal(cache.attend([sequence], query, window=(20, 0)), before)
    mask = np.zeros((1, 72), np.float32)
    assert np.array_equal(cache.attend([sequence], query, window=(20, 0), masks=[mask]), before)


def test_saved_sequences_are_loaded_from_bytes_files_and_paths(tmp_path):
    cache = make_cache()
    sequence, data = fill(cache, 130, 1)
    saved = sequence.to_bytes()
    sequence.save(tmp_path / "sequence")
    assert (tmp_path / "sequence").read_bytes() == saved
    with (tmp_path / "again").open("wb") as file:
        sequence.save(file)
    other = make_cache(page_size=128)
    wanted = cache.attend([sequence], data[0][1][-1:], layer=1)
    copies = bytearray(saved), memoryview(saved), io.BytesIO(saved)
    for source in (saved, *copies, tmp_path / "again"):
        loaded = other.load(source)
        assert len(loaded) == 130
        assert loaded.to_bytes() == saved
        assert np.array_equal(other.attend([loaded], data[0][1][-1:], layer=1), wanted)


def test_damaged_files_and_failing_ones_are_errors_and_leave_nothing():
    cache = make_cache()
    sequence, _ = fill(cache, 70, 1)
    saved = sequence.to_bytes()
    before = cache.info()
    for bad in (b"", saved[:-1], saved[:100] + b"\x7f" + saved[101:]):
        with pytest.raises(intflash.BadFileError):
            cache.load(bad)
    with pytest.raises(intflash.BadFileError):
        make_cache(head_dim=64).load(saved)

    class Failing:
        def read(self, size: int) -> bytes:
            raise OSError("no disk")

        def write(self, data: bytes) -> int:
            raise OSError("no room")

    with pytest.raises(OSError, match="no disk"):
        cache.load(Failing())
    with pytest.raises(OSError, match="no room"):
        sequence.save(Failing())
    assert cache.info() == before


def test_exported_tokens_are_near_those_appended():
    cache = make_cache()
    sequence, data = fill(cache, 100, 1)
    key = np.zeros((LAYERS, KV_HEADS, 50, DIM), np.float32)
    value = np.zeros((LAYERS, KV_HEADS, 50, DIM_V), np.float32)
    sequence.export(20, 70, key, value)
    for read, given in ((key, data[1]), (value, data[2])):
        assert np.abs(read - given[:, 20:70].swapaxes(1, 2)).max() < 0.1
    sequence.export(20, 70, value=value)
    with pytest.raises(intflash.ShapeError, match="key has shape"):
        sequence.export(0, 10, key)


def test_centres_and_wide_codes_make_large_keys_near():
    key_center = random(LAYERS, KV_HEADS, DIM, seed=9) * 20
    wide = make_cache(codec="int8_wide", rotate=False, key_center=key_center)
    assert wide.info().codec == "int8_wide"
    assert wide.info().bytes_per_token > make_cache().info().bytes_per_token
    sequence = wide.sequence()
    query, key, value = tokens(50, 1)
    key += key_center[:, None]
    for layer in range(LAYERS):
        wide.append([sequence], key[layer], value[layer], layer=layer)
    exact = intflash.attend(
        *(array[1].swapaxes(0, 1) for array in (query, key, value)), causal=True, mode="exact"
    )
    out = wide.attend([sequence], query[1], layer=1, query_lens=[50], score_digits=2)
    assert np.abs(out.swapaxes(0, 1) - exact).max() < 0.1


def test_values_in_four_bits_take_less_and_are_near():
    small = make_cache(codec="k8v4")
    assert small.info().codec == "k8v4"
    assert small.info().bytes_per_token < make_cache().info().bytes_per_token
    sequence, (query, key, value) = fill(small, 100, 1)
    exact = intflash.attend(
        *(array[1].swapaxes(0, 1) for array in (query, key, value)), causal=True, mode="exact"
    )
    out = small.attend([sequence], query[1], layer=1, query_lens=[100])
    error = np.abs(out.swapaxes(0, 1) - exact).sum() / np.abs(exact).sum()
    assert 0.02 < error < 0.12


@pytest.mark.parametrize("codec", ["k4v4", "k4v2", "k2v2"])
def test_keys_in_few_bits_lie_behind_a_window(codec):
    small = make_cache(codec=codec, window_blocks=2, sink_blocks=1, window_pages=20)
    info = small.info()
    assert info.codec == codec
    assert (info.window_blocks, info.sink_blocks, info.window_pages) == (2, 1, 20)
    assert info.bytes_per_token < info.window_page_bytes / info.page_size
    sequence, (query, key, value) = fill(small, 400, 1)
    assert small.info().free_window_pages == 13
    whole = small.attend([sequence], query[1], layer=1, query_lens=[400])
    exact = small.attend([sequence], query[1], layer=1, query_lens=[400], mode="exact")
    assert np.abs(whole - exact).sum() / np.abs(exact).sum() < 0.02
    pieces = small.sequence()
    for begin, end in ((0, 130), (130, 200), (200, 400)):
        for layer in range(LAYERS):
            part = slice(begin, end)
            small.append([pieces], key[layer][part], value[layer][part], layer=layer)
        out = small.attend([pieces], query[1][part], layer=1, query_lens=[end - begin])
        assert (out == whole[part]).all()
    with pytest.raises(intflash.UnsupportedError, match="must be at least 192"):
        pieces.truncate(191)
    pieces.truncate(192)


def test_values_in_float16_are_of_their_own_mode():
    small = make_cache(codec="k8v16")
    plain = make_cache()
    assert small.info().bytes_per_token - plain.info().bytes_per_token == DIM_V * KV_HEADS
    sequence, (query, key, value) = fill(small, 200, 1)
    out = small.attend([sequence], query[1], layer=1, query_lens=[200])
    expected = intflash.attend(
        *(array[1].swapaxes(0, 1) for array in (query, key, value)),
        causal=True,
        mode="int8_qk",
        score_digits=1,
    )
    assert (out.swapaxes(0, 1) == expected).all()
    with pytest.raises(intflash.UnsupportedError, match="must be INT8_QK"):
        small.attend([sequence], query[1], layer=1, query_lens=[200], mode="int8")
    other, _ = fill(plain, 200, 1)
    with pytest.raises(intflash.UnsupportedError, match="must be INT8, or EXACT"):
        plain.attend([other], query[1], layer=1, query_lens=[200], mode="int8_qk")


def test_sequences_that_nobody_has_give_their_pages_back():
    cache = make_cache()
    sequence, _ = fill(cache, 100, 1)
    assert cache.info().sequences == 1
    batch = intflash.Batch(cache, [sequence])
    del sequence
    gc.collect()
    assert cache.info().sequences == 1  # the batch's
    del batch
    assert cache.info().sequences == 0
    assert cache.info().free_pages == 40


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"head_dim": 12}, "ShapeError", "head_dim"),
        ({"page_size": 100}, "ArgumentError", "page_size"),
        ({"pages": 2**50}, "ShapeError", "num_pages"),
        ({"kv_heads": 0}, "ShapeError", "num_kv_heads"),
        ({"codec": "int4"}, "ArgumentError", "int8_wide, k8v4, k4v4, k4v2, k2v2, k8v16"),
        ({"codec": "k4v4"}, "UnsupportedError", "window_blocks = 0 with codec k4v4"),
        ({"codec": "k2v2"}, "UnsupportedError", "window_blocks = 0 with codec k2v2"),
        ({"layers": "x"}, "ArgumentError", "layers is 'x'"),
        ({"key_center": np.zeros((2, 2), "f4")}, "ShapeError", "key_center has shape"),
        (
            {"value_center": np.full((2, 2, 48), np.inf, "f4")},
            "NonfiniteInputError",
            "value_center",
        ),
    ],
)
def test_caches_that_cannot_be_are_refused(options, error, message):
    with pytest.raises(getattr(intflash, error), match=message):
        make_cache(**options)


def test_what_a_cache_cannot_do_is_refused():
    cache = make_cache(pages=2)
    sequence, data = fill(cache, 60, 1)
    query, key, value = (array[0] for array in data)
    other = make_cache().sequence()
    many = [np.tile(array, (3, 1, 1)) for array in (key, value)]

    def append(*arrays: np.ndarray, to: tuple = (sequence,), **options: object) -> None:
        cache.append(to, *arrays, **options)

    def attend(query: np.ndarray, **options: object) -> None:
        cache.attend([sequence], query, **options)

    for call, error, message in (
        (lambda: append(key[:, :1], value), "ShapeError", "key is"),
        (lambda: append(key, value[:5]), "ShapeError", "value is"),
        (lambda: append(key, value, lengths=[5]), "ShapeError", "lengths"),
        (lambda: append(key, value, to=(sequence, sequence)), "ShapeError", "lengths"),
        (lambda: append(key * np.nan, value), "NonfiniteInputError", "key"),
        (lambda: append(key, value, layer=2), "ArgumentError", "layer"),
        (lambda: append(key, value, layer=1), "ArgumentError", "layer"),
        (lambda: append(*many), "PoolExhaustedError", "page"),
        (lambda: append(key, value, to=(other,)), "ArgumentError", "of another cache"),
        (lambda: attend(query, query_lens=[5]), "ShapeError", "query has 60 rows"),
        (lambda: attend(query[..., :16], query_lens=[60]), "ShapeError", "head dimension 16"),
        (lambda: attend(query, query_lens=[5, 55]), "ShapeError", "query_lens"),
        (lambda: attend(query[:1], masks=[]), "ShapeError", "masks"),
        (lambda: attend(query[:1], score_digits=2), "UnsupportedError", "digit"),
        (lambda: sequence.truncate(100), "ArgumentError", "kv_len"),
        (lambda: sequence.truncate("x"), "ArgumentError", "kv_len is 'x'"),
    ):
        with pytest.raises(getattr(intflash, error), match=message):
            call()
    assert len(sequence) == 60


def test_what_is_closed_is_an_error():
    with make_cache() as cache:
        sequence, data = fill(cache, 10, 1)
        batch = intflash.Batch(cache, [sequence])
        fork = sequence.fork()
        fork.close()
        fork.close()
        with pytest.raises(intflash.ArgumentError, match="sequence is closed"):
            cache.attend([fork], data[0][0][:1])
    cache.close()
    for call in (
        cache.info,
        cache.sequence,
        sequence.fork,
        lambda: len(sequence),
        lambda: batch.run(data[0][0][:1]),
        lambda: cache.append([sequence], data[1][0], data[2][0]),
        lambda: cache.load(b""),
    ):
        with pytest.raises(intflash.ArgumentError, match="cache is closed"):
            call()


def test_a_second_thread_finds_the_cache_busy():
    cache = make_cache(pages=200)
    sequence, data = fill(cache, 10000, 1)
    refused = []

    def change() -> None:
        for call in (
            lambda: cache.append([sequence], data[1][0][:1], data[2][0][:1]),
            cache.sequence,
            cache.close,
        ):
            with pytest.raises(intflash.BusyError, match="in use|using the cache"):
                call()
        assert cache.info().sequences == 1  # readers may
        assert len(cache.attend([sequence], data[0][0][-1:])) == 1
        refused.append(True)

    def handler(*_: object) -> None:  # in the middle of the call below
        thread = threading.Thread(target=change)
        thread.start()
        thread.join()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        cache.attend([sequence], data[0][0], query_lens=[10000])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert refused == [True]
    cache.append([sequence], data[1][0][:1], data[2][0][:1])


def test_a_reader_finds_a_cache_busy_that_is_changed():
    cache = make_cache()
    sequence, _ = fill(cache, 10, 1)
    saved = sequence.to_bytes()
    refused = []

    class Reentrant(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            for call in (cache.info, cache.sequence, lambda: len(sequence), cache.close):
                with pytest.raises(intflash.BusyError):
                    call()
                refused.append(call)
            return super().read(size)

    assert len(cache.load(Reentrant(saved))) == 10
    assert refused


@pytest.mark.parametrize("read", [lambda _: "text", lambda _: None, lambda _: bytearray(8)])
def test_reading_something_else_than_bytes_is_an_error(read):
    class File:
        def __init__(self) -> None:
            self.read = read

    with make_cache() as cache, pytest.raises(TypeError, match="bytes"):
        cache.load(File())


def test_a_file_that_takes_a_part_of_the_bytes_is_an_error():
    class Short(io.RawIOBase):
        def write(self, bytes_: bytes) -> int:
            return min(len(bytes_), 7)

    with make_cache() as cache:
        sequence = cache.sequence()
        _, key, value = tokens(5, 0)
        for layer in range(LAYERS):
            cache.append([sequence], key[layer], value[layer], layer=layer)
        with pytest.raises(OSError, match="a part"):
            sequence.save(Short())


def test_a_number_dropped_while_others_are_freed_is_freed_once():
    with make_cache() as cache:
        kept, first, second = (cache.sequence() for _ in range(3))
        free = cache._core.free

        class Core:
            def __getattr__(self, name: str) -> object:
                return getattr(core, name)

            def free(self, number: int) -> None:
                free(number)
                if number == numbers[0]:
                    cache._dropped.append(numbers[1])  # as __del__ on another thread

        core, numbers = cache._core, [first._number, second._number]
        first._open_number = second._open_number = None
        cache._core = Core()
        cache._dropped.append(numbers[0])
        assert cache.info().sequences == 1
        assert len(kept) == 0
        cache._core = core


def test_lengths_of_rows_by_sequence_are_all_the_same():
    with make_cache() as cache:
        both = [cache.sequence(), cache.sequence()]
        key, value = (np.ones((2, KV_HEADS, 4, dim), np.float32) for dim in (DIM, DIM_V))
        with (
            pytest.warns(intflash.CopyWarning),
            pytest.raises(intflash.ShapeError, match="lengths"),
        ):
            cache.append(both, key, value, lengths=[1, 7])


def test_lengths_beyond_any_integer_are_refused():
    with make_cache() as cache:
        both = [cache.sequence(), cache.sequence()]
        _, key, value = tokens(4, 0)
        with pytest.raises(intflash.ShapeError, match="lengths"):
            cache.append(both, key[0], value[0], lengths=[2**62, 2**62])

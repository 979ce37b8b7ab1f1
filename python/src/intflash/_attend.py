# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention of arrays, and merging of its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from . import _core

Array = Any  # with DLPack or the buffer protocol
Causal = bool | Literal["bottom_right", "top_left"]
Window = tuple[int | None, int | None]
Mode = Literal["int8", "exact", "intfa", "int8_qk"]
Scale = float | Array | tuple[Array, int]


def attend(
    query: Array,
    key: Array,
    value: Array,
    *,
    causal: Causal = False,
    window: Window | None = None,
    prefix: int | None = None,
    scale: float | None = None,
    cap: float | None = None,
    mask: Array | None = None,
    tree: Array | None = None,
    sinks: Sequence[float] | Array | None = None,
    alibi: Sequence[float] | Array | None = None,
    query_scale: Scale | None = None,
    key_scale: Scale | None = None,
    value_scale: Scale | None = None,
    center: Literal["key", "key_value"] | Array | tuple[Array | None, Array | None] | None = None,
    rotate: bool = True,
    score_digits: Literal[1, 2] | None = None,
    mode: Mode = "int8",
    lse: bool = False,
    out: Array | None = None,
    threads: int | None = None,
) -> Any:
    """Attend: ``softmax(scale * query @ key.T, capped and masked) @ value``, in integers.

    Both products are INT8 times INT8 into INT32, after INT-FlashAttention (arXiv 2409.16997,
    Algorithm 1), with a scale per token and a probability scale per row and block; docs/numerics.md
    of the sources has every rounding. The result is the same to the bit with any number of
    threads, on any CPU, and for rows computed together or apart.

    Arrays are NumPy's, PyTorch's on the CPU, or any other's with DLPack or the buffer protocol, in
    float32, float16, bfloat16, float8_e4m3fn or float8_e5m2 (arXiv 2209.05433), or int8 with
    scales. They are read in place, by their strides; one whose last dimension is not contiguous is
    copied, with a `CopyWarning`.

    Args:
        query: ``(batch, query_heads, query_tokens, head_dim)``, or without batch. head_dim is a
            multiple of 8, from 8 to 1024.
        key: ``(batch, kv_heads, key_tokens, head_dim)``. kv_heads divides query_heads: query head h
            reads kv head ``h // (query_heads // kv_heads)`` (GQA, arXiv 2305.13245).
        value: ``(batch, kv_heads, key_tokens, value_dim)``.
        causal: whether query i sees only keys up to ``key_tokens - query_tokens + i``; or
            ``"top_left"``: only keys up to i, as torch's ``is_causal``.
        window: ``(left, right)``: how many keys before and after a query's own position it sees,
            -1 or None for all. With causal, right is 0.
        prefix: with causal, the number of first keys that every query sees.
        scale: of scores; by default ``1 / sqrt(head_dim)``.
        cap: score = ``cap * tanh(score / cap)``, before masks.
        mask: of booleans, of which True keeps a key, or of numbers that are added to scores
            (-inf hides a key). Broadcasts to ``(batch, query_heads, query_tokens, key_tokens)``,
            but for its last dimension.
        tree: ``(query_tokens, keys)`` of booleans: which of the last keys each query sees, as the
            tree of a speculative decoder has it. Other keys, and the other masks, are as without.
        sinks: ``(query_heads,)``: a logit for each head that joins the softmax's denominator.
        alibi: ``(query_heads,)``: slope times distance is taken from scores (arXiv 2108.12409,
            section 3).
        query_scale: of a query in int8, whose codes, -127 to 127, are multiplied by it: a number;
            float32 that broadcasts to ``(batch, query_heads, query_tokens)``, where a last
            dimension of 1 is for all tokens; or a pair ``(array, n)``, of one number for every n
            tokens, ``(batch, query_heads, ceil(query_tokens / n))``. Codes are not rotated.
        key_scale: the same of key.
        value_scale: the same of value.
        center: whose means over all tokens are taken off before quantization and put back after
            it (SmoothK of SageAttention, arXiv 2410.02367, section 4.2); a row's bits then depend
            on all keys. Or means that are given: ``(batch, kv_heads, head_dim)`` in float32 for
            key, or ``(kv_heads, head_dim)`` for all of the batch; or a pair of this and the same of
            value_dim for value, of which None is computed.
        rotate: whether query, key and value are turned by a Hadamard matrix before quantization,
            and the result turned back (QuaRot, arXiv 2404.00456).
        score_digits: INT8 digits of query and key in scores: 1, 2, or by default a second one where
            scores are so large that one is too coarse.
        mode: ``"int8"``; ``"int8_qk"``, with values in float16 and their sums in float32, which
            errs less and takes longer; ``"exact"``, in double precision; ``"intfa"``, the published
            algorithm as it is. The latter two are slow, and for comparison.
        lse: whether to return the log-sum-exp too.
        out: an array to write to, of query's shape with value_dim, in any of the three dtypes.
        threads: how many; by default ``torch.get_num_threads()`` where torch has been imported,
            and otherwise the physical cores that the process may use.

    Returns:
        An array like query, of shape ``(batch, query_heads, query_tokens, value_dim)``; with lse a
        pair of it and the natural log of the softmax's denominators, ``(batch, query_heads,
        query_tokens)`` in float32. A row that sees no key is 0, its log -inf.

    Raises:
        ShapeError: shapes that do not belong together, or break a rule.
        NonfiniteInputError: NaN or infinity in an input that some query sees, or in a centre.
        ScaleError: a scale that is negative, not finite, or 0 where a code is not.
        UnsupportedError: a dtype, device or combination that is not served, or a tensor that
            requires grad.
        StrideError: an out that cannot be written in place.
        ArgumentError: any other value that breaks a rule; all of these but UnsupportedError are
            ArgumentErrors.
        KeyboardInterrupt: or what else a signal's handler raises, within 50 ms.
    """
    return _core.attend(
        query,
        key,
        value,
        causal,
        window,
        prefix,
        scale,
        cap,
        mask,
        tree,
        sinks,
        alibi,
        query_scale,
        key_scale,
        value_scale,
        center,
        rotate,
        score_digits,
        mode,
        lse,
        out,
        threads,
    )


def merge_states(outs: Sequence[Array], lses: Sequence[Array]) -> tuple[Any, Any]:
    """Put results of the same queries over several sets of keys together.

    They become those over all keys at once, up to rounding (the online softmax of FlashAttention,
    arXiv 2205.14135, section 3.1, between normalised results).

    Args:
        outs: of each set, ``(batch, heads, tokens, dim)`` or without batch, in float32.
        lses: of each set, ``(batch, heads, tokens)``: natural logs, -inf where no key was seen.

    Returns:
        out and lse, of the same shapes, as arrays like the first of outs.

    Raises:
        ShapeError: shapes that differ, or no sets.
        NonfiniteInputError: an lse that is NaN or +inf.
        UnsupportedError: another dtype than float32.
    """
    return _core.merge_states(outs, lses)

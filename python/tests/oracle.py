# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention in float64, from the definition."""

from __future__ import annotations

import numpy as np


def random(*shape: int, seed: int, dtype: object = np.float32) -> np.ndarray:
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def visible(
    query_len: int,
    kv_len: int,
    causal: object = False,
    window: tuple[int, int] | None = None,
    prefix: int = 0,
) -> np.ndarray:
    """Which keys each query sees, (query_len, kv_len)."""
    key = np.arange(kv_len)[None, :]
    own = np.arange(query_len)[:, None] + (0 if causal == "top_left" else kv_len - query_len)
    seen = np.ones((query_len, kv_len), bool)
    if causal:
        seen &= (key <= own) | (key < prefix)
    if window is not None:
        left, right = window
        seen &= (left < 0) | (key >= own - left)
        seen &= (right < 0) | (key <= own + right)
    return seen


def attend(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    seen: np.ndarray | None = None,
    bias: np.ndarray | float = 0,
    scale: float | None = None,
    cap: float | None = None,
    sinks: np.ndarray | None = None,
    alibi: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Out and lse of (batch, heads, tokens, dim); seen and bias broadcast to the scores."""
    query, key, value = (np.asarray(array, np.float64) for array in (query, key, value))
    group = query.shape[1] // key.shape[1]
    key, value = np.repeat(key, group, axis=1), np.repeat(value, group, axis=1)
    scores = query @ key.swapaxes(-1, -2) * (scale or query.shape[-1] ** -0.5)
    if cap:
        scores = cap * np.tanh(scores / cap)
    if alibi is not None:
        own = np.arange(query.shape[2])[:, None] + key.shape[2] - query.shape[2]
        distance = np.abs(own - np.arange(key.shape[2])[None, :])
        scores = scores - np.asarray(alibi, np.float64)[:, None, None] * distance
    scores = scores + bias
    if seen is not None:
        scores = np.where(seen, scores, -np.inf)
    largest = scores.max(axis=-1, keepdims=True, initial=-1e30)
    if sinks is not None:
        sinks = np.asarray(sinks, np.float64)[:, None, None]
        largest = np.maximum(largest, sinks)
    weights = np.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks - largest)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = np.where(total > 0, weights / total, 0) @ value
        return out, (np.log(total) + largest)[..., 0]


def relative_l1(result: np.ndarray, wanted: np.ndarray) -> float:
    """Sum of errors over the sum of magnitudes."""
    return float(np.abs(np.asarray(result, np.float64) - wanted).sum() / np.abs(wanted).sum())

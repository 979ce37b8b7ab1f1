# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Modes int8 and int8_qk, from docs/numerics.md alone: slow, and equal to every port with ==.

Names are those of the page, and the number beside a function is its section there. A row is a query
of one head. Of a score block it is given the keys that it sees, so nothing here is masked.
"""

from collections import namedtuple

import numpy as np

F32 = np.float32
SCORE_BLOCK, SPAN, SUM_BLOCK = 128, 1024, 64
LOG2_E, LN_2 = 1.44269504088896340736, 0.69314718055994530942
TINY, WEIGHT_ONE, MOST = F32(2.0**-100), F32(4080 * 256), float(np.finfo(F32).max)
UNIT, GRID = F32(2.0**-6), F32(2.0 ** (np.arange(-64, 1) / 64))  # of scores; of values' scales

Codes = namedtuple("Codes", "codes scale digits", defaults=[None])  # [tokens, dim], [tokens], ...
State = namedtuple("State", "reference sums")  # the accumulators, and behind them row_sum
Row = namedtuple("Row", "codes digits digits_above factor cap centring elements slope position")


def fma(a, b, c):
    """Rounds once: a float64 sum that is made odd where it is inexact is never taken for a tie."""
    product = np.multiply(a, b, dtype=float)  # 48 bits: exact
    total = np.add(product, c, dtype=float)
    of_c = total - product
    rest = (product - (total - of_c)) + (c - of_c)
    bits = total.view(np.int64)
    is_wrong = (np.abs(rest) > 0) & (bits & 1 == 0)
    return (bits + is_wrong * np.where((rest > 0) == (total > 0), 1, -1)).view(float).astype(F32)


def polynomial(x, highest, *terms):  # 7
    result = F32(highest)
    for term in terms:
        result = fma(result, x, F32(term))
    return result


def power_of_two(exponent):  # 7
    return np.where(np.less(exponent, -126), 0, np.ldexp(1.0, exponent)).astype(F32)[()]


def exp2(x):  # 7
    x = np.maximum(x, F32(-127))
    whole = np.floor(x)
    terms = 0.00186713, 0.00901703, 0.05579991, 0.24016445, 0.69315131, 1
    return polynomial(x - whole, *terms) * power_of_two(whole.astype(int))


def log2(m):  # 7
    terms = 1.43595219, -1.28018656, 1.13138325, -1.27899561, 1.92367936, -0.41504951
    return np.clip(polynomial(m - F32(0.75), *terms), F32(-1), F32(0))


def capped(score, cap):  # 7
    s, inverse = np.minimum(np.abs(score), F32(43) * cap), F32(1) / cap
    z = s * inverse
    for _ in range(2):
        z = fma(fma(-cap, z, s), inverse, z)
    z2, decay = z * z, exp2(z * F32(-2.88539008))
    series = fma(polynomial(z2, -0.053968254, 0.13333333, -0.33333333) * z2, z, z)
    quotient = (F32(1) - decay) / (F32(1) + decay)
    return np.copysign(cap * np.where(z < F32(0.125), series, quotient), score)


def ln(x):  # 7
    m, e = np.frexp(x)
    m, e = (m, e) if 2 * m > 1.41421356237309505 else (2 * m, e - 1)
    z, series = (m - 1) / (m + 1), 0.0
    for odd in range(21, 0, -2):
        series = series * (z * z) + 1 / odd
    return e * LN_2 + 2 * z * series


def held(half):  # 4
    h = np.abs(half)
    return np.copysign(np.minimum(np.minimum(h + h, h + F32(2.0**125)), F32(3e38)), half)


def q15(a, b):
    return (a * b + (1 << 14)) >> 15


def transform(rows):  # 1
    k = (rows.shape[-1] & -rows.shape[-1]).bit_length() - 1
    x = rows
    for level in range(k):
        pairs = x.reshape(-1, 2, 2**level)
        x = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
    return x.reshape(rows.shape) * (F32(2.0 ** -(k // 2)) * F32(0.70710678 if k % 2 else 1))


def signs(dim):  # 1
    hashes = [(c + 1) * 0x9E3779B1 % 2**32 for c in range(dim)]
    return np.array([-1 if (h ^ h << 7) >> 31 & 1 else 1 for h in hashes], F32)


def can_rotate(x):  # 1
    return not isinstance(x, Codes) and x.shape[-1] // (x.shape[-1] & -x.shape[-1]) <= 9


def quantize(rows, center=None, rotated=False, on_grid=False):  # 1
    if isinstance(rows, Codes):
        return fitted(rows.codes, rows.scale)
    x = rows if center is None else rows - center
    x = transform(x * signs(x.shape[-1])) if rotated else x
    largest = np.abs(x).max(axis=1)
    m, exponent = np.frexp(largest / F32(127))
    scale = (GRID[np.searchsorted(GRID, m)] if on_grid else m) * power_of_two(exponent)
    inverse = F32(1) / scale if on_grid else F32(127) / largest
    scale, inverse = (np.where(largest < TINY, F32(0), of) for of in (scale, inverse))
    codes = np.rint(x * inverse[:, None])
    digits = np.clip(np.rint((x * inverse[:, None] - codes) * F32(256)), -127, 127).astype(int)
    return Codes(codes.astype(int), scale, digits)


def halved(rows, center=None, rotated=False):  # 4
    """Values in f16, as numbers, in place of codes."""
    if isinstance(rows, Codes):
        of_int8 = fitted(rows.codes, rows.scale)
        x, (m, exponent) = of_int8.codes.astype(F32), np.frexp(of_int8.scale)
        scale, x = np.where(m > 0, power_of_two(exponent), F32(0)), x * m[:, None]
    else:
        x = rows if center is None else rows - center
        x = transform(x * signs(x.shape[-1])) if rotated else x
        largest = np.abs(x).max(axis=1)
        exponent = np.where(largest < TINY, 0, np.frexp(largest)[1] - 7)
        scale = np.where(largest < TINY, F32(0), power_of_two(exponent))
        x = np.where(scale[:, None] == 0, F32(0), x * power_of_two(-exponent)[:, None])
    return Codes(x.astype(np.float16).astype(F32), scale)


def fitted(codes, scale):  # 1
    least = TINY / F32(127)
    scale = np.where((scale < least) | ~codes.any(axis=1), F32(0), scale)
    codes = np.where(scale[:, None] == 0, 0, codes.astype(int))
    for _ in range(6):
        doubled = (np.abs(codes).max(axis=1) < 64) & (scale >= 2 * least)
        codes = np.where(doubled[:, None], 2 * codes, codes)
        scale = np.where(doubled, scale / F32(2), scale)
    return Codes(codes, scale, 0 * codes)


@np.errstate(all="ignore")
def computed_center(rows, seen, rotated):  # 1
    """Of keys or values, of which any query of any head sees those that are seen."""
    total = np.zeros(rows.shape[1])
    for span in range(0, len(rows), SPAN):
        blocks = [slice(first, first + SUM_BLOCK) for first in range(span, span + SPAN, SUM_BLOCK)]
        sums = [rows[b][seen[b]].cumsum(axis=0)[-1].astype(float) for b in blocks if seen[b].any()]
        total = total + np.cumsum(sums, axis=0)[-1] if sums else total
    center = (total / max(seen.sum(), 1)).astype(F32)
    scale = quantize(rows[seen], None, rotated).scale.astype(float)
    ratio = quantize(rows[seen], center, rotated).scale[scale > 0] / scale[scale > 0]
    return center if sum(ratio * ratio) < 0.9 * len(ratio) else np.zeros_like(center)


def weigh(row, keys, key_codes, key_scale, key_digits, value_scale):  # 2
    """A row's score block: log2 of what a weight of one is, l_block, the unit of R beside it, w."""
    f, K = np.frexp(key_scale.max()) if key_scale.any() else (F32(0), -110)
    g, e = np.frexp(row.factor) if row.factor >= F32(2.0**-126) else (F32(0), -126)
    multiplier = min(32767, int(np.rint(g * F32(2**15))))
    n = int(128 * np.abs(row.codes).sum() + 64 * len(row.codes)).bit_length()
    E = int(max(-9, K + e, n + e + K - int(g * f < F32(0.5)) - 14))
    V, value_log2, sees_faint = value_logs(value_scale)
    dot, bits = key_codes @ row.codes, min(8, 31 - n) if E > row.digits_above else 0
    mixed = key_digits @ row.codes + key_codes @ row.digits
    dot = (dot << bits) + (mixed >> (8 - bits)) if bits > 0 else dot
    if row.cap > 0 or row.slope != 0 or row.elements[keys].any() or E > -6 or sees_faint:
        t = general_scores(row, keys, dot.astype(F32) * power_of_two(-bits), key_scale)
        return weigh_faint(t, value_scale) if sees_faint else weigh_general(t, V, value_log2)
    key_factor = np.minimum(32767, np.rint(key_scale * power_of_two(15 - K))).astype(int)
    multiplier = (multiplier + (1 << (-6 - E) >> 1)) >> (-6 - E)
    x = q15(q15(dot >> min(31, E - K - e + bits), key_factor), multiplier) + value_log2
    w, l_block = fixed_weights(x, value_log2)
    return F32(x.max()) * UNIT, l_block, power_of_two(V), w


def value_logs(scale):  # 2
    if not scale.any():
        return 0, np.zeros(len(scale), int), False
    V = int(np.frexp(scale.max())[1])
    m, exponent = np.frexp(scale)
    logs = (exponent - V) * 64 + np.rint(log2(m) * F32(64)).astype(int)
    is_faint = (logs < -1536) & (scale > 0)
    return V, np.where(scale > 0, np.clip(logs, -1536, 0), -1536), is_faint.any()


def fixed_weights(x, value_log2):  # 3
    d = x.max() - x
    whole, f = np.minimum(d >> 6, 14), (d & 63) << 9
    y = 32640 - q15(f, 21940 - q15(f, 5660))
    w = ((y >> (whole + 2)) + 1) >> 1
    light = value_log2 < -256
    r = np.rint(exp2(-value_log2[~light].astype(F32) * UNIT) * F32(256)).astype(int)
    l_block = F32((w[~light] * r).sum())
    for weight in exp2(-(d + value_log2)[light].astype(F32) * UNIT):
        l_block = fma(weight, WEIGHT_ONE, l_block)
    return w, l_block


def general_scores(row, keys, dot, key_scale):  # 4
    t = fma(dot * key_scale, row.factor, row.centring)
    t = capped(t, row.cap) if row.cap > 0 else t
    if row.elements[keys].any() or row.slope != 0:
        t = held(fma(row.elements[keys], F32(0.5) * F32(LOG2_E), F32(0.5) * t))
    return fma(np.abs(keys - row.position).astype(F32), -row.slope, t)


def below_largest(t):  # 4
    return np.rint(np.maximum((t - t.max()) / UNIT, F32(-2560))).astype(int)


def weigh_general(t, V, value_log2):  # 4
    x = below_largest(t) + value_log2
    w, l_block = fixed_weights(x, value_log2)
    fold = exp2(F32(x.max()) * UNIT)
    return t.max(), l_block * fold, fold * power_of_two(V), w


def weigh_faint(t, value_scale):  # 4
    m, exponent = np.frexp(np.maximum(value_scale, F32(2.0**-127)))
    f = (t - t.max()) + (exponent.astype(F32) + log2(m))
    l_block = F32(0)
    for weight in exp2(t - t.max()):
        l_block = fma(weight, WEIGHT_ONE, l_block)
    w, _ = fixed_weights(below_largest(f), np.zeros(len(t), int))
    return t.max(), l_block, exp2(f.max()), w


def weighted_values(w, value):  # 4
    if value.digits is not None:  # of INT8
        return q15(w, 2048) @ value.codes
    R = np.zeros(value.codes.shape[1], F32)
    for P, v in zip(w.astype(F32) / F32(16), value.codes):
        R = fma(P, v, R)
    return R


def brought_to(reference, state, other=F32(-0.0)):  # 4
    """The state in units of a larger reference, plus other sums."""
    factor = power_of_two(np.maximum(state.reference - reference, F32(-127)).astype(int))
    return State(reference, fma(state.sums, factor, other))


def enter(state, exponent, l_block, unit, products):  # 4
    if state.reference == -np.inf or exponent - state.reference > F32(8):
        state = brought_to(np.ceil(exponent), state)
    alpha = exp2(exponent - state.reference)
    accumulators = fma(products.astype(F32), alpha * unit, state.sums[:-1])
    return State(state.reference, np.append(accumulators, fma(l_block, alpha, state.sums[-1])))


def merge(left, right):  # 4
    if left.reference == -np.inf or right.reference == -np.inf:
        return right if left.reference == -np.inf else left
    left = brought_to(max(left.reference, right.reference), left)
    return brought_to(left.reference, right, left.sums)


def attend_node(row, sees, key, value, first, spans):  # 4
    """The state of a node of the tree: of so many spans from the first on."""
    if spans > 1:
        left = attend_node(row, sees, key, value, first, spans // 2)
        return merge(left, attend_node(row, sees, key, value, first + spans // 2, spans // 2))
    state = State(F32(-np.inf), np.zeros(value.codes.shape[1] + 1, F32))
    for block in range(first * SPAN, (first + 1) * SPAN, SCORE_BLOCK):
        keys = block + np.flatnonzero(sees[block : block + SCORE_BLOCK])
        if len(keys) > 0:
            seen = Codes(*(None if of is None else of[keys] for of in value))
            *weights, w = weigh(row, keys, *(of[keys] for of in key), seen.scale)
            state = enter(state, *weights, weighted_values(w, seen))
    return state


def finish(state, sink, center_score, center, rotated):  # 4
    """out and log-sum-exp. center_score: what centring took, and no cap has given back."""
    share = F32(1)
    if sink > -np.inf:
        t = held(F32((float(sink) - center_score) * LOG2_E / 2))
        state = brought_to(max(state.reference, np.ceil(t)), state)
        total = state.sums[-1] + exp2(t - state.reference) * WEIGHT_ONE
        share, state.sums[-1] = state.sums[-1] / total, total
    out, row_sum, reference = state.sums[:-1], state.sums[-1], float(state.reference)
    if not row_sum > 0:
        return 0 * out, F32(-np.inf)
    factor = F32(4096) / row_sum
    if rotated:
        out, factor = transform(out * factor) * signs(len(out)), F32(1)
    out = out * factor if center is None else fma(out, factor, center * share)
    reference = np.copysign(max(abs(reference), 2 * (abs(reference) - 2.0**125)), reference)
    lse = ln(float(row_sum) / float(WEIGHT_ONE)) + reference * LN_2 + center_score
    return out, F32(np.clip(lse, -MOST, MOST))


@np.errstate(all="ignore")
def attend(query, key, value, sees, *, softmax_scale=None, cap=0, elements=None, slope=0,
           sink=-np.inf, rotate=True, key_center=None, value_center=None, score_digits=0,
           f16_values=False):
    """out and log-sum-exp of one head: query, key and value are [tokens, dim] in f32, or Codes.

    sees [query_len, kv_len]: what masks leave. elements, of that shape, are added to the scores.
    f16_values: mode int8_qk.
    """
    query_len, kv_len = sees.shape
    elements = np.zeros(sees.shape, F32) if elements is None else elements
    turns_value = rotate and can_rotate(value)
    rotate = rotate and can_rotate(query) and can_rotate(key)
    codes, scales, digits = quantize(query, None, rotate)
    key, form = quantize(key, key_center, rotate), (value, value_center, turns_value)
    value = halved(*form) if f16_values else quantize(*form, on_grid=True)
    softmax_scale = float(F32(softmax_scale or F32(1) / np.sqrt(F32(codes.shape[1]))))
    factors, slope = scales * F32(softmax_scale * LOG2_E), F32(LOG2_E * float(slope))
    held_cap = F32(np.clip(float(F32(cap)) * LOG2_E, 2.0**-100, 3e38)) if cap > 0 else F32(0)
    spans, digits_above = 1 << ((kv_len - 1) // SPAN).bit_length(), (-6, 1000, -10)[score_digits]
    results = []
    for i in range(query_len):
        taken = 0.0  # from the scores, by centring
        if key_center is not None:
            taken = np.cumsum(query[i].astype(float) * key_center.astype(float))[-1] * softmax_scale
        back, taken = (F32(taken * LOG2_E), 0.0) if cap > 0 else (F32(0), taken)
        row = Row(codes[i], digits[i], digits_above, factors[i], held_cap, back, elements[i], slope,
                  kv_len - query_len + i)
        state = attend_node(row, sees[i], key, value, 0, spans)
        results.append(finish(state, sink, taken, value_center, turns_value))
    return tuple(map(np.array, zip(*results)))

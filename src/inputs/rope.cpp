// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "inputs/rope.h"

#include <cmath>

#include "core/checks.h"

namespace intflash::internal {
intflash_status check_rope(const intflash_rope& rope, std::int64_t head_dim) {
  if (rope.cos == nullptr) return INTFLASH_OK;
  if (rope.sin == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "rope.sin = NULL: must be given where rope.cos is");
  intflash_status status = check_pointer("rope.cos", rope.cos);
  if (status == INTFLASH_OK) status = check_pointer("rope.sin", rope.sin);
  if (status != INTFLASH_OK) return status;
  if (rope.pairing != INTFLASH_ROPE_ADJACENT && rope.pairing != INTFLASH_ROPE_HALVES) {
    return fail(INTFLASH_INVALID_ARGUMENT, "rope.pairing = %d: must be ADJACENT or HALVES",
                static_cast<int>(rope.pairing));
  }
  if (rope.rope_dim >= 2 && rope.rope_dim <= head_dim && rope.rope_dim % 2 == 0)
    return check_extent("rope.num_positions", rope.num_positions, 0);
  return fail(INTFLASH_BAD_SHAPE, "rope.rope_dim = %lld: must be even, 2 ... head_dim = %lld",
              static_cast<i64>(rope.rope_dim), static_cast<i64>(head_dim));
}

intflash_status check_rope_positions(const intflash_rope& rope, std::int64_t request,
                                     std::int64_t begin, std::int64_t end) {
  if (rope.cos == nullptr || begin == end) return INTFLASH_OK;
  if (begin < 0 || end > rope.num_positions) {
    return fail(INTFLASH_BAD_SHAPE,
                "request %lld: rows at positions %lld ... %lld: rope has positions 0 ... %lld",
                static_cast<i64>(request), static_cast<i64>(begin), static_cast<i64>(end - 1),
                static_cast<i64>(rope.num_positions - 1));
  }
  return INTFLASH_OK;
}

intflash_status check_rope_position(const intflash_rope& rope, std::int64_t token,
                                    std::int64_t position) {
  if (position >= 0 && position < rope.num_positions) return INTFLASH_OK;
  return fail(INTFLASH_BAD_SHAPE, "positions[%lld] = %lld: rope has positions 0 ... %lld",
              static_cast<i64>(token), static_cast<i64>(position),
              static_cast<i64>(rope.num_positions - 1));
}

intflash_status check_rope_table(const intflash_rope& rope, std::int64_t begin, std::int64_t end) {
  if (rope.cos == nullptr) return INTFLASH_OK;
  const std::int64_t pairs = rope.rope_dim / 2;
  for (std::int64_t i = begin * pairs; i < end * pairs; ++i) {
    // A NaN compares as false.
    if (std::fabs(rope.cos[i]) <= kMaxRope && std::fabs(rope.sin[i]) <= kMaxRope) continue;
    return fail(INTFLASH_NONFINITE_INPUT,
                "rope: cos = %g, sin = %g at position %lld, pair %lld: must be at most %g in "
                "magnitude",
                static_cast<double>(rope.cos[i]), static_cast<double>(rope.sin[i]),
                static_cast<i64>(i / pairs), static_cast<i64>(i % pairs),
                static_cast<double>(kMaxRope));
  }
  return INTFLASH_OK;
}

RopeRows rope_rows(const intflash_rope& rope, std::int64_t position) {
  if (rope.cos == nullptr) return {};
  return later_rows({rope.cos, rope.sin, static_cast<std::int32_t>(rope.rope_dim),
                     rope.pairing == INTFLASH_ROPE_HALVES ? 1 : 0},
                    position);
}

RopeRows later_rows(const RopeRows& rope, std::int64_t row) {
  if (rope.cos == nullptr) return rope;
  const std::int64_t offset = row * (rope.dim / 2);
  return {rope.cos + offset, rope.sin + offset, rope.dim, rope.halves};
}

}  // namespace intflash::internal

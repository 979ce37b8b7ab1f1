// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Codes of 64 tokens into the tiles of page layout version 1.
#pragma once

#include <cstdint>

#include "tile/portability.h"
#include "tile/row_ops.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

template <class Ops>
void pack_keys(const std::int8_t* codes, std::int64_t code_stride, std::int32_t head_dim,
               std::int8_t* key_codes, std::int32_t* key_sum) {
  const std::int32_t quads = head_dim / 4;
  for (std::int32_t tile = 0; tile < kBlockTokens / 16; ++tile) {
    const std::int8_t* tokens = codes + tile * 16 * code_stride;
    std::int8_t* rows = key_codes + tile * quads * 64;
    std::int32_t quad = 0;
    for (; quad + 16 <= quads; quad += 16)
      Ops::transpose_quads(tokens + quad * 4, code_stride, rows + quad * 64);
    for (; quad < quads; ++quad) {
      for (std::int32_t token = 0; token < 16; ++token) {
        store_as(rows + quad * 64 + token * 4,
                 load_as<std::int32_t>(tokens + token * code_stride + quad * 4));
      }
    }
    Ops::sum_tokens(rows, quads, key_sum + tile * 16);
  }
}

template <class Ops>
void pack_values(const std::int8_t* codes, std::int64_t code_stride, std::int32_t head_dim_v,
                 std::int8_t* value_codes) {
  constexpr std::int64_t kTileBytes = 16 * kBlockTokens;
  std::int32_t first = 0;
  for (; first + 64 <= head_dim_v; first += 64) {
    for (std::int32_t quad = 0; quad < kBlockTokens / 4; ++quad) {
      Ops::interleave_tokens(codes + quad * 4 * code_stride + first, code_stride,
                             value_codes + first / 16 * kTileBytes + quad * 64, kTileBytes);
    }
  }
  for (; first < head_dim_v; first += 16) {
    const std::int32_t channels = min_of(16, head_dim_v - first);
    for (std::int32_t quad = 0; quad < kBlockTokens / 4; ++quad) {
      std::int8_t* INTFLASH_RESTRICT row = value_codes + first / 16 * kTileBytes + quad * 64;
      const std::int8_t* source = codes + quad * 4 * code_stride + first;
      for (std::int32_t channel = 0; channel < channels; ++channel) {
        for (std::int32_t token = 0; token < 4; ++token)
          row[channel * 4 + token] = source[token * code_stride + channel];
      }
      for (std::int32_t byte = channels * 4; byte < 64; ++byte) row[byte] = 0;
    }
  }
}

}  // namespace
}  // namespace intflash::internal

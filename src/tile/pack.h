// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Codes of 64 tokens into the tiles of page layout version 1.
#pragma once

#include <cstdint>

#include "tile/portability.h"
#include "tile/types.h"

namespace intflash {
namespace {

// Isa::transpose_quads turns 16 rows of 64 bytes into 16 rows of [16 tokens][4]: one tile's worth
// of 64 channels.
template <class Isa>
void pack_keys(const std::int8_t* codes, std::int64_t code_stride, std::int32_t head_dim,
               std::int8_t* key_codes, std::int32_t* key_sum) {
  const std::int32_t quads = head_dim / 4;
  for (std::int32_t tile = 0; tile < kBlockTokens / 16; ++tile) {
    const std::int8_t* tokens = codes + tile * 16 * code_stride;
    std::int8_t* rows = key_codes + tile * quads * 64;
    std::int32_t quad = 0;
    for (; quad + 16 <= quads; quad += 16) {
      Isa::transpose_quads(tokens + quad * 4, code_stride, rows + quad * 64);
    }
    for (; quad < quads; ++quad) {
      for (std::int32_t token = 0; token < 16; ++token) {
        store_as(rows + quad * 64 + token * 4,
                 load_as<std::int32_t>(tokens + token * code_stride + quad * 4));
      }
    }
  }
  for (std::int32_t token = 0; token < kBlockTokens; ++token) {
    const std::int8_t* row = codes + token * code_stride;
    std::int32_t sum = 0;
    for (std::int32_t c = 0; c < head_dim; ++c) sum += row[c];
    key_sum[token] = sum;
  }
}

// transpose_quads where no instruction set has a better way.
INTFLASH_INLINE void transpose_quads_plainly(const std::int8_t* tokens, std::int64_t stride,
                                             std::int8_t* rows) {
  for (std::int32_t quad = 0; quad < 16; ++quad) {
    for (std::int32_t token = 0; token < 16; ++token) {
      store_as(rows + quad * 64 + token * 4,
               load_as<std::int32_t>(tokens + token * stride + quad * 4));
    }
  }
}

void pack_values(const std::int8_t* codes, std::int64_t code_stride, std::int32_t head_dim_v,
                 std::int8_t* value_codes) {
  const std::int32_t tiles = (head_dim_v + 15) / 16;
  for (std::int32_t tile = 0; tile < tiles; ++tile) {
    const std::int32_t channels = min_of(16, head_dim_v - tile * 16);
    for (std::int32_t quad = 0; quad < kBlockTokens / 4; ++quad) {
      std::int8_t* INTFLASH_RESTRICT row = value_codes + (tile * 16 + quad) * 64;
      const std::int8_t* source = codes + quad * 4 * code_stride + tile * 16;
      for (std::int32_t channel = 0; channel < channels; ++channel) {
        for (std::int32_t token = 0; token < 4; ++token)
          row[channel * 4 + token] = source[token * code_stride + channel];
      }
      for (std::int32_t byte = channels * 4; byte < 64; ++byte) row[byte] = 0;
    }
  }
}

}  // namespace
}  // namespace intflash

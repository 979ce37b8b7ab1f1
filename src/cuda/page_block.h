// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A kv head's block of 64 tokens in a page, for writing: src/pages/page.h has it byte by byte.
#pragma once

#include <cstdint>

#include "cuda/call.h"
#include "cuda/simt.h"

namespace intflash::internal {
namespace {

struct PageBlock {
  std::int8_t *keys, *digits, *values;  // digits: nullptr where there are none
  float *key_scale, *value_scale;       // [64]
  std::int32_t *key_sum, *digit_sum;    // [64]
};

INTFLASH_DEVICE PageBlock page_block(const CudaPages& pages, std::int64_t head_dim,
                                     std::int64_t kv_head, std::int64_t slot) {
  char* const head =
      pages.first + slot / pages.page_size * pages.page_bytes + kv_head * pages.head_bytes;
  const std::int64_t index = slot % pages.page_size / kBlockTokens;
  auto* const keys = reinterpret_cast<std::int8_t*>(head + index * pages.key_block_bytes);
  auto* const scales = reinterpret_cast<float*>(head + pages.scales) + index * kBlockTokens;
  PageBlock block{};
  block.keys = keys;
  block.values =
      reinterpret_cast<std::int8_t*>(head + pages.values + index * pages.value_block_bytes);
  block.key_scale = scales;
  block.value_scale = scales + pages.page_size;
  block.key_sum = reinterpret_cast<std::int32_t*>(scales + 2 * pages.page_size);
  if (!pages.has_digits) return block;
  block.digits = keys + kBlockTokens * head_dim;
  block.digit_sum = reinterpret_cast<std::int32_t*>(block.digits + kBlockTokens * head_dim);
  return block;
}

// Where a channel of a block's token lies in the codes of its keys, and of its values.
INTFLASH_DEVICE std::int32_t key_byte(std::int32_t head_dim, std::int32_t token, std::int32_t c) {
  return token / 16 * 16 * head_dim + token % 16 * 4 + c / 4 * 64 + c % 4;
}
INTFLASH_DEVICE std::int32_t value_byte(std::int32_t token, std::int32_t c) {
  return token / 4 * 64 + token % 4 + c / 16 * 1024 + c % 16 * 4;
}

}  // namespace
}  // namespace intflash::internal

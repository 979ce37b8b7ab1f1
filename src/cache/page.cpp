// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cache/page.h"

#include <algorithm>
#include <cstring>

namespace intflash::internal {
namespace {

// Where a token's first bytes lie in the codes of a block.
std::int64_t key_offset(const PageLayout& layout, std::int64_t at) {
  return at / 16 * 16 * layout.head_dim + at % 16 * 4;
}
std::int64_t value_offset(std::int64_t at) { return at / 4 * 64 + at % 4; }
std::int64_t channel_offset(std::int64_t c) { return c / 16 * 1024 + c % 16 * 4; }

}  // namespace

void copy_block(const PageLayout& layout, const KvBlock& from, const WritableBlock& to) {
  const std::int64_t value_dim = round_up(layout.head_dim_v, 16);
  std::memcpy(to.key_codes, from.key_codes,
              static_cast<std::size_t>(kBlockTokens * layout.head_dim));
  std::memcpy(to.value_codes, from.value_codes, static_cast<std::size_t>(kBlockTokens * value_dim));
  std::copy_n(from.key_scale, kBlockTokens, to.key_scale);
  std::copy_n(from.value_scale, kBlockTokens, to.value_scale);
  std::copy_n(from.key_sum, kBlockTokens, to.key_sum);
}

void store_key(const PageLayout& layout, const WritableBlock& block, std::int64_t at,
               const std::int8_t* codes) {
  std::int8_t* first = block.key_codes + key_offset(layout, at);
  std::int32_t sum = 0;
  for (std::int64_t c = 0; c < layout.head_dim; ++c) sum += codes[c];
  for (std::int64_t quad = 0; quad < layout.head_dim / 4; ++quad)
    std::memcpy(first + quad * 64, codes + quad * 4, 4);
  block.key_sum[at] = sum;
}

void store_value(const PageLayout& layout, const WritableBlock& block, std::int64_t at,
                 const std::int8_t* codes) {
  std::int8_t* first = block.value_codes + value_offset(at);
  for (std::int64_t c = 0; c < layout.head_dim_v; ++c) first[channel_offset(c)] = codes[c];
}

void load_key(const PageLayout& layout, const KvBlock& block, std::int64_t at, std::int8_t* codes) {
  const std::int8_t* first = block.key_codes + key_offset(layout, at);
  for (std::int64_t quad = 0; quad < layout.head_dim / 4; ++quad)
    std::memcpy(codes + quad * 4, first + quad * 64, 4);
}

void load_value(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                std::int8_t* codes) {
  const std::int8_t* first = block.value_codes + value_offset(at);
  for (std::int64_t c = 0; c < layout.head_dim_v; ++c) codes[c] = first[channel_offset(c)];
}

}  // namespace intflash::internal

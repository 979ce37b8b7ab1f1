// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "pages/page.h"

#include <algorithm>
#include <cstring>

namespace intflash::internal {

void clear_block(const PageLayout& layout, const WritableBlock& block) {
  std::memset(block.key_codes, 0, static_cast<std::size_t>(layout.key_block_bytes));
  std::memset(block.value_codes, 0, static_cast<std::size_t>(layout.value_block_bytes));
  std::fill_n(block.key_scale, kBlockTokens, 0.0f);
  std::fill_n(block.value_scale, kBlockTokens, 0.0f);
  std::fill_n(block.key_sum, kBlockTokens, 0);
}

void copy_block(const PageLayout& layout, const KvBlock& from, const WritableBlock& to) {
  std::memcpy(to.key_codes, from.key_codes, static_cast<std::size_t>(layout.key_block_bytes));
  std::memcpy(to.value_codes, from.value_codes, static_cast<std::size_t>(layout.value_block_bytes));
  std::copy_n(from.key_scale, kBlockTokens, to.key_scale);
  std::copy_n(from.value_scale, kBlockTokens, to.value_scale);
  std::copy_n(from.key_sum, kBlockTokens, to.key_sum);
}

}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "negated_codec.h"

namespace intflash::internal {
namespace {

void negate(const std::int8_t* codes, std::int64_t count, std::int8_t* negated) {
  for (std::int64_t i = 0; i < count; ++i) negated[i] = static_cast<std::int8_t>(-codes[i]);
}

void store_keys(const KernelTable& kernels, const PageLayout& layout, const WritableBlock& block,
                const TokenCodes& tokens) {
  if (tokens.count == kBlockTokens) {
    kInt8Codec.store_keys(kernels, layout, block, tokens);
    negate(block.key_codes, layout.key_block_bytes, block.key_codes);
    for (int key = 0; key < kBlockTokens; ++key) block.key_sum[key] *= -1;
    return;
  }
  std::int8_t negated[kMaxHeadDim];
  for (std::int64_t i = 0; i < tokens.count; ++i) {
    negate(tokens.codes + i * tokens.stride, layout.head_dim, negated);
    kInt8Codec.store_keys(kernels, layout, block, {negated, nullptr, 0, tokens.at + i, 1});
  }
}
void store_values(const KernelTable& kernels, const PageLayout& layout, const WritableBlock& block,
                  const TokenCodes& tokens) {
  if (tokens.count == kBlockTokens) {
    kInt8Codec.store_values(kernels, layout, block, tokens);
    negate(block.value_codes, layout.value_block_bytes, block.value_codes);
    return;
  }
  std::int8_t negated[kMaxHeadDim];
  for (std::int64_t i = 0; i < tokens.count; ++i) {
    negate(tokens.codes + i * tokens.stride, layout.head_dim_v, negated);
    kInt8Codec.store_values(kernels, layout, block, {negated, nullptr, 0, tokens.at + i, 1});
  }
}

void load_key(const PageLayout& layout, const KvBlock& block, std::int64_t at, std::int8_t* codes) {
  kInt8Codec.load_key(layout, block, at, codes);
  negate(codes, layout.head_dim, codes);
}
void load_value(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                std::int8_t* codes) {
  kInt8Codec.load_value(layout, block, at, codes);
  negate(codes, layout.head_dim_v, codes);
}

// Scales stay where they are.
KvBlock expand(const KvBlock& packed, std::int32_t head_dim, std::int32_t head_dim_v, std::int32_t,
               const WritableBlock& room) {
  ++num_expanded_blocks;
  negate(packed.key_codes, kInt8Codec.key_block_bytes(head_dim), room.key_codes);
  negate(packed.value_codes, kInt8Codec.value_block_bytes(head_dim_v), room.value_codes);
  for (int key = 0; key < kBlockTokens; ++key) room.key_sum[key] = -packed.key_sum[key];
  return {room.key_codes, room.value_codes, packed.key_scale, packed.value_scale,
          room.key_sum,   nullptr,          nullptr};
}

}  // namespace

std::atomic<std::int64_t> num_expanded_blocks = 0;

const Codec kNegatedCodec = {
    .id = static_cast<intflash_codec>(kMaxCodecs - 1),
    .name = "negated",
    .layout_version = 1,
    .is_expanded = true,
    .has_digits = false,
    .is_by_block = false,
    .packed = 0,
    .key_block_bytes = kInt8Codec.key_block_bytes,
    .value_block_bytes = kInt8Codec.value_block_bytes,
    .store_keys = store_keys,
    .store_values = store_values,
    .load_key = load_key,
    .load_value = load_value,
    .load_digits = nullptr,
    .find_damage = kInt8Codec.find_damage,
};

NegatedPort::NegatedPort(const PortEntry& port)
    : rows(*port.kernels->rows), kernels(*port.kernels), entry(port) {
  rows.expand[kNegatedCodec.id] = expand;
  kernels.rows = &rows;
  entry.kernels = &kernels;
}

}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Codecs of other bits than INT8's: which keys they have, and which values.
#include <cstdint>

#include "pages/block_damage.h"
#include "pages/codec.h"
#include "pages/f16_values.h"
#include "pages/few_bit_keys.h"
#include "pages/few_bit_values.h"

namespace intflash::internal {
namespace {

// As codec int8 has them.
struct Int8Keys {
  static std::int64_t block_bytes(std::int64_t head_dim) {
    return kInt8Codec.key_block_bytes(head_dim);
  }
  static void store(const KernelTable& kernels, const PageLayout& layout,
                    const WritableBlock& block, const TokenCodes& tokens) {
    kInt8Codec.store_keys(kernels, layout, block, tokens);
  }
  static void load(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                   std::int8_t* codes) {
    kInt8Codec.load_key(layout, block, at, codes);
  }
  static const void* find_damage(const PageLayout& layout, const KvBlock& block,
                                 std::int64_t tokens) {
    return find_damaged_keys(layout, block, tokens);
  }
};

template <class Keys, class Values>
const void* find_damage(const PageLayout& layout, const KvBlock& block, std::int64_t tokens) {
  const void* damaged = Keys::find_damage(layout, block, tokens);
  if (damaged == nullptr) damaged = find_damaged_scale(block, tokens);
  return damaged != nullptr ? damaged : Values::find_damage(layout, block, tokens);
}

template <class Keys, class Values>
constexpr Codec codec_of(intflash_codec id, const char* name, bool is_by_block,
                         std::int32_t packed) {
  return {
      .id = id,
      .name = name,
      .layout_version = 1,
      .is_expanded = true,
      .has_digits = false,
      .is_by_block = is_by_block,
      .has_f16_values = false,
      .packed = packed,
      .key_block_bytes = Keys::block_bytes,
      .value_block_bytes = Values::block_bytes,
      .store_keys = Keys::store,
      .store_values = Values::store,
      .load_key = Keys::load,
      .load_value = Values::load,
      .load_digits = nullptr,
      .find_damage = find_damage<Keys, Values>,
  };
}

// Codec k8v16, whose blocks kernels read as they are.
constexpr Codec f16_codec() {
  Codec codec = codec_of<Int8Keys, F16Values>(INTFLASH_CODEC_K8V16, "k8v16", false, 0);
  codec.is_expanded = false;
  codec.has_f16_values = true;
  return codec;
}

}  // namespace

constinit const Codec kK8v4Codec =
    codec_of<Int8Keys, LevelValues>(INTFLASH_CODEC_K8V4, "k8v4", false, kPackedValues);
constinit const Codec kK4v4Codec = codec_of<FewBitKeys<4>, LevelValues>(
    INTFLASH_CODEC_K4V4, "k4v4", true, kPackedKeys | kPackedValues);
constinit const Codec kK4v2Codec =
    codec_of<FewBitKeys<4>, QuarterValues>(INTFLASH_CODEC_K4V2, "k4v2", true, kPackedKeys);
constinit const Codec kK2v2Codec =
    codec_of<FewBitKeys<2>, QuarterValues>(INTFLASH_CODEC_K2V2, "k2v2", true, 0);
constinit const Codec kK8v16Codec = f16_codec();

}  // namespace intflash::internal

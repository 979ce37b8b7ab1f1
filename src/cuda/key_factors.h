// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a block's threads share in shared memory to make weights in registers: the factors of a
// score block's keys, in the forms in which rows want them, and a table of powers of two.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/products.h"
#include "cuda/simt.h"
#include "tile/weights.h"

namespace intflash::internal {
namespace {

// Four numbers that are loaded at once.
struct alignas(16) FourKeys {
  std::int32_t of[4];
};

class KeyFactors {
 public:
  // Two numbers of 32 bits to a key, one of 16, and sums of these by warps.
  static constexpr std::size_t kBytes = kScoreBlock * 10 + 16;

  INTFLASH_DEVICE explicit KeyFactors(std::size_t byte) : byte_(byte) {}

  // As ScoreBlock has them. value_log2: as what a score's negative is shifted from.
  INTFLASH_DEVICE void store(std::int32_t key, std::int32_t factor, std::int32_t value_log2,
                             std::int32_t value_weight) const {
    Shared<std::int32_t>(byte_).store(key, factor);
    Shared<std::int32_t>(byte_ + kAddends).store(key, -1 - (1 << 14) - value_log2 * (1 << 15));
    const Shared<std::uint8_t> bytes(byte_ + kWeights);
    // Pairs of a thread's keys in two tiles lie beside each other.
    const std::int32_t pair = key / 32 * 16 + key % 16 / 4 * 4 + key % 32 / 16 * 2 + key % 4 / 2;
    const std::int32_t at = pair * 4 + key % 2;
    bytes.store(at, static_cast<std::uint8_t>(value_weight));
    bytes.store(at + 2, static_cast<std::uint8_t>(value_weight >> 8));
  }
  // Of the keys whose factors a warp has stored.
  INTFLASH_DEVICE void store_sum(std::int32_t warp, std::int32_t sum) const {
    Shared<std::int32_t>(byte_ + kSums).store(warp, sum);
  }

  // Of keys 4 i to 4 i + 3.
  INTFLASH_DEVICE FourKeys factors(std::int32_t i) const { return Shared<FourKeys>(byte_).load(i); }
  // -1 - 2^14 - value_log2 * 2^15.
  INTFLASH_DEVICE FourKeys addends(std::int32_t i) const {
    return Shared<FourKeys>(byte_ + kAddends).load(i);
  }
  // A word to two keys: their value_weights' low bytes, and their high bytes. Of keys
  // 32 (i / 4) + 4 (i % 4) on, and behind those of 16 keys further.
  INTFLASH_DEVICE FourKeys value_weights(std::int32_t i) const {
    return Shared<FourKeys>(byte_ + kWeights).load(i);
  }
  INTFLASH_DEVICE std::int32_t sum_of_value_weights() const {
    const FourKeys sums = Shared<FourKeys>(byte_ + kSums).load(0);
    return sums.of[0] + sums.of[1] + sums.of[2] + sums.of[3];
  }

 private:
  static constexpr std::size_t kAddends = kScoreBlock * 4;
  static constexpr std::size_t kWeights = kAddends + kScoreBlock * 4;
  static constexpr std::size_t kSums = kWeights + kScoreBlock * 2;

  std::size_t byte_;
};

// exp2_of_fraction of all fractions: 32 words, one to a bank, so that a warp reads any 32 of them
// at once.
class PowerTable {
 public:
  static constexpr std::int32_t kPowers = 1 << kFractionBits;
  static constexpr std::size_t kBytes = kPowers * 2;

  INTFLASH_DEVICE explicit PowerTable(std::size_t byte) : powers_(byte) {}
  INTFLASH_DEVICE void fill(std::int32_t thread) const {
    if (thread < kPowers)
      powers_.store(thread, static_cast<std::uint16_t>(exp2_of_fraction(thread)));
  }
  INTFLASH_DEVICE std::uint32_t load(std::uint32_t fraction) const {
    return powers_.load(fraction);
  }

 private:
  Shared<std::uint16_t> powers_;
};

}  // namespace
}  // namespace intflash::internal

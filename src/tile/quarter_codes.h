// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Two-bit codes for 64 rows of INT8 ones: the search of each channel's levels. docs/numerics.md,
// section "Codecs".
#pragma once

#include <cstdint>

#include "tile/portability.h"
#include "tile/types.h"
#include "tile/value_steps.h"

namespace intflash::internal {
namespace {

// Vectors of so many numbers of 16 bits, one by one: GCC 12 drops an attribute that depends on a
// parameter.
template <std::int32_t kLanes>
struct ShortVectors;
template <>
struct ShortVectors<8> {
  using I8 = std::int8_t __attribute__((vector_size(8)));
  using I16 = std::int16_t __attribute__((vector_size(16)));
  using U16 = std::uint16_t __attribute__((vector_size(16)));
  using U32 = std::uint32_t __attribute__((vector_size(16)));
};
template <>
struct ShortVectors<16> {
  using I8 = std::int8_t __attribute__((vector_size(16)));
  using I16 = std::int16_t __attribute__((vector_size(32)));
  using U16 = std::uint16_t __attribute__((vector_size(32)));
  using U32 = std::uint32_t __attribute__((vector_size(32)));
};
template <>
struct ShortVectors<32> {
  using I8 = std::int8_t __attribute__((vector_size(32)));
  using I16 = std::int16_t __attribute__((vector_size(64)));
  using U16 = std::uint16_t __attribute__((vector_size(64)));
  using U32 = std::uint32_t __attribute__((vector_size(64)));
};

// So many channels side by side. Sums of 64 codes fit 16 bits, and squares of codes do.
template <std::int32_t kLanes>
struct QuarterCoder {
  using I8 = typename ShortVectors<kLanes>::I8;
  using I16 = typename ShortVectors<kLanes>::I16;
  using U16 = typename ShortVectors<kLanes>::U16;
  using U32 = typename ShortVectors<kLanes>::U32;

  // Of 64 tokens.
  struct Channels {
    I16 codes[kBlockTokens];
  };
  // Of each channel.
  struct Levels {
    I16 step;
    I16 first;
  };
  struct Thresholds {
    explicit INTFLASH_INLINE Thresholds(const Levels& levels) {
      const I16 first = (levels.step + 1) >> 1;
      bounds[0] = levels.first + first - 1;
      bounds[1] = bounds[0] + levels.step;
      bounds[2] = bounds[1] + levels.step;
    }
    // Minus the number of the nearest level, of two as near the higher one.
    INTFLASH_INLINE I16 minus_code(I16 value) const {
      return (value > bounds[0]) + (value > bounds[1]) + (value > bounds[2]);
    }
    I16 bounds[3];
  };
  // What tokens have of a channel, or of what is left of it.
  struct Sums {
    std::int32_t values[kLanes];
    std::int32_t squares[kLanes];
  };
  struct Adder {
    INTFLASH_INLINE void add(I16 value) {
      sum += value;
      const U16 square = bits_as<U16>(value) * bits_as<U16>(value);
      // In lanes of 32 bits: the even channels, and the odd ones.
      squares[0] += bits_as<U32>(square) & 0xffff;
      squares[1] += bits_as<U32>(square) >> 16;
    }
    INTFLASH_INLINE void get(Sums& sums) const {
      for (std::int32_t i = 0; i < kLanes; ++i) {
        sums.values[i] = sum[i];
        sums.squares[i] = static_cast<std::int32_t>(squares[i % 2][i / 2]);
      }
    }
    I16 sum{};
    U32 squares[2] = {};
  };

  // Channels from count on are zeros.
  static void load(const std::int8_t* codes, std::int64_t stride, std::int32_t count,
                   Channels& channels) {
    for (std::int64_t at = 0; at < kBlockTokens; ++at) {
      I8 row{};
      if (count == kLanes) {
        row = load_as<I8>(codes + at * stride);
      } else {
        __builtin_memcpy(&row, codes + at * stride, static_cast<std::size_t>(count));
      }
      channels.codes[at] = __builtin_convertvector(row, I16);
    }
  }

  static INTFLASH_INLINE Levels levels_of(const std::int32_t* index, const std::int32_t* place) {
    Levels levels;
    for (std::int32_t i = 0; i < kLanes; ++i) {
      const ChannelLevels of_lane = channel_levels(kValueSteps[index[i]], place[i]);
      levels.step[i] = static_cast<std::int16_t>(of_lane.step);
      levels.first[i] = static_cast<std::int16_t>(of_lane.first);
    }
    return levels;
  }

  // Of what the nearest levels leave.
  static INTFLASH_NOINLINE void measure(const Channels& channels, const Levels& levels,
                                        Sums& sums) {
    const Thresholds thresholds(levels);
    Adder adder;
    for (const I16& codes : channels.codes) {
      adder.add(codes - levels.first + thresholds.minus_code(codes) * levels.step);
    }
    adder.get(sums);
  }

  // Of the channels what is tried, and the best of it: the first of those of the least damage,
  // which is 8 times the sum of what is left squared, and the square of its sum: out is a mean over
  // tokens, of which what all err alike remains.
  struct Search {
    void attempt(const Channels& channels) {
      for (std::int32_t i = 0; i < kLanes; ++i) place[i] = min_of(max_of(place[i], 0), 15);
      Sums left;
      measure(channels, levels_of(index, place), left);
      for (std::int32_t i = 0; i < kLanes; ++i) {
        const std::int32_t damage = 8 * left.squares[i] + left.values[i] * left.values[i];
        const std::int32_t code = index[i] | place[i] << 4;
        found[i] = damage < least[i] ? code : found[i];
        least[i] = min_of(damage, least[i]);
      }
    }

    std::int32_t index[kLanes];
    std::int32_t place[kLanes];
    std::int32_t least[kLanes];
    std::int32_t found[kLanes];
  };

  // The step that is nearest to the deviation by its logarithm, where four levels around 0 reach as
  // far as the mean.
  static std::int32_t middle_step(std::int32_t sum, std::int32_t squares) {
    const std::int32_t spread = kBlockTokens * squares - sum * sum;
    const std::int32_t mean = max_of(sum, -sum);
    std::int32_t index = 1;
    while (index + 1 < kNumValueSteps &&
           (spread > 4096 * kValueSteps[index] * kValueSteps[index + 1] ||
            mean > 176 * kValueSteps[index]))
      ++index;
    return index;
  }

  static std::int32_t nearest_place(std::int32_t sum, std::int32_t step) {
    const std::int32_t a = sum + 6 * step, b = 12 * step;
    return (a >= 0 ? a / b : -((b - 1 - a) / b)) + kZeroMiddle;
  }

  // The codes of the channels' steps and middles.
  static void find_levels(const Channels& channels, std::int32_t* found) {
    Adder adder;
    for (const I16& codes : channels.codes) adder.add(codes);
    Sums sums;
    adder.get(sums);
    Search search;
    for (std::int32_t i = 0; i < kLanes; ++i) {
      search.index[i] = middle_step(sums.values[i], sums.squares[i]);
      search.least[i] = INT32_MAX;
      search.found[i] = 0;
    }
    for (std::int32_t more = 0; more < 2; ++more) {
      for (std::int32_t i = 0; i < kLanes; ++i) {
        search.index[i] = min_of(search.index[i] + more, kNumValueSteps - 1);
        search.place[i] = nearest_place(sums.values[i], kValueSteps[search.index[i]]);
      }
      search.attempt(channels);
    }
    std::int32_t nearest[kLanes];
    for (std::int32_t i = 0; i < kLanes; ++i) {
      search.index[i] = search.found[i] & 15;
      nearest[i] = nearest_place(sums.values[i], kValueSteps[search.index[i]]);
    }
    constexpr std::int32_t kHigher[] = {-2, -1, 1, 2};
    for (const std::int32_t higher : kHigher) {
      for (std::int32_t i = 0; i < kLanes; ++i) search.place[i] = nearest[i] + higher;
      search.attempt(channels);
    }
    for (std::int32_t i = 0; i < kLanes; ++i) found[i] = sums.squares[i] == 0 ? 0 : search.found[i];
  }

  // Codes 0 ... 3 of the nearest levels, in each byte those of four tokens; count: of channels that
  // are stored.
  static void store(const Channels& channels, const Levels& levels, std::int32_t count,
                    std::uint8_t* bytes) {
    const Thresholds thresholds(levels);
    const I16 is_any = levels.step != I16{};
    for (std::int64_t row = 0; row < kQuarterRows; ++row) {
      I16 tokens[4];
      for (std::int64_t t = 0; t < 4; ++t) {
        I16 four{};
        for (std::int64_t part = 4; part-- > 0;) {
          four = (four << 2) - thresholds.minus_code(channels.codes[part * 16 + row * 4 + t]);
        }
        tokens[t] = four & is_any;
      }
      const I16 low = tokens[0] | tokens[1] << 8, high = tokens[2] | tokens[3] << 8;
      std::uint32_t words[kLanes];
      for (std::int32_t i = 0; i < kLanes; ++i) {
        words[i] = static_cast<std::uint16_t>(low[i]) |
                   static_cast<std::uint32_t>(static_cast<std::uint16_t>(high[i])) << 16;
      }
      for (std::int32_t i = 0; i < count; ++i)
        store_as(bytes + i / 16 * kQuarterBytes + row * 64 + i % 16 * 4, words[i]);
    }
  }
};

// RowKernels::code_quarters; kLanes: channels of 16 bits in a vector.
template <std::int32_t kLanes>
void code_quarters(const std::int8_t* codes, std::int64_t stride, std::int32_t head_dim_v,
                   std::uint8_t* packed) {
  using Coder = QuarterCoder<kLanes>;
  const std::int64_t padded = round_up(head_dim_v, 16);
  __builtin_memset(packed, 0, static_cast<std::size_t>(quarter_value_bytes(padded)));
  std::uint8_t* const steps = packed + quarter_code_bytes(padded);
  for (std::int32_t c = 0; c < head_dim_v; c += kLanes) {
    const std::int32_t count = min_of(head_dim_v - c, kLanes);
    typename Coder::Channels channels;
    Coder::load(codes + c, stride, count, channels);
    std::int32_t found[kLanes], index[kLanes], place[kLanes];
    Coder::find_levels(channels, found);
    for (std::int32_t i = 0; i < kLanes; ++i) {
      index[i] = found[i] & 15;
      place[i] = found[i] >> 4;
    }
    for (std::int32_t i = 0; i < count; ++i) steps[c + i] = static_cast<std::uint8_t>(found[i]);
    Coder::store(channels, Coder::levels_of(index, place), count,
                 packed + c / 16 * kQuarterBytes + c % 16 * 4);
  }
}

}  // namespace
}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Values in two bits by channel: the search of a channel's levels. docs/numerics.md, section
// "Codecs".
#include <algorithm>
#include <cstdint>

#include "pages/few_bit_values.h"
#include "tile/value_steps.h"

namespace intflash::internal {
namespace {

// Eight channels; their number is a multiple of that.
constexpr std::int32_t kLanes = 8;
using I16 = std::int16_t __attribute__((vector_size(2 * kLanes)));
using U16 = std::uint16_t __attribute__((vector_size(2 * kLanes)));
using U32 = std::uint32_t __attribute__((vector_size(2 * kLanes)));

// Codes of 64 tokens.
struct Channels {
  I16 codes[kBlockTokens];
};

void load_channels(const TokenCodes& tokens, std::int64_t channel, Channels& channels) {
  for (std::int64_t at = 0; at < kBlockTokens; ++at) {
    const std::int8_t* const row = tokens.codes + at * tokens.stride + channel;
    for (std::int32_t i = 0; i < kLanes; ++i) channels.codes[at][i] = row[i];
  }
}

// Of each channel.
struct Levels {
  I16 step;
  I16 first;
};
struct Thresholds {
  explicit Thresholds(const Levels& levels) {
    const I16 step = levels.step;
    bounds[0] = levels.first + levels.first + step - 1;
    bounds[1] = bounds[0] + step + step;
    bounds[2] = bounds[1] + step + step;
  }
  // -1 where twice a code is nearer to level n + 1 than to level n, or as near.
  I16 is_above(I16 twice, std::int32_t n) const { return twice > bounds[n]; }
  I16 bounds[3];
};

// 8 times the sum of what is left squared, and the square of its sum: out is a mean over tokens,
// of which what all err alike remains.
struct Damage {
  std::int32_t of[kLanes];
};
void measure(const Channels& channels, const Levels& levels, Damage& damage) {
  const Thresholds thresholds(levels);
  I16 sum{};
  U32 squares[2] = {};
  for (const I16& codes : channels.codes) {
    const I16 twice = codes + codes;
    I16 left = codes - levels.first;
    for (std::int32_t n = 0; n < 3; ++n) left -= thresholds.is_above(twice, n) & levels.step;
    sum += left;
    const U16 square = bits_as<U16>(left) * bits_as<U16>(left);
    // In lanes of 32 bits: the even channels, and the odd ones.
    squares[0] += bits_as<U32>(square) & 0xffff;
    squares[1] += bits_as<U32>(square) >> 16;
  }
  for (std::int32_t i = 0; i < kLanes; ++i)
    damage.of[i] = static_cast<std::int32_t>(8 * squares[i % 2][i / 2]) + sum[i] * sum[i];
}

// What tokens have of a channel.
struct Sums {
  std::int32_t codes;
  std::int32_t squares;
};
Sums sums_of(const Channels& channels, std::int32_t lane) {
  Sums sums{};
  for (const I16& codes : channels.codes) {
    sums.codes += codes[lane];
    sums.squares += codes[lane] * codes[lane];
  }
  return sums;
}

// The step that is nearest to the deviation by its logarithm, where four levels around 0 reach as
// far as the mean.
std::int32_t middle_step(const Sums& sums) {
  const std::int32_t spread = kBlockTokens * sums.squares - sums.codes * sums.codes;
  const std::int32_t mean = std::abs(sums.codes);
  std::int32_t index = 1;
  while (index + 1 < kNumValueSteps &&
         (spread > 4096 * kValueSteps[index] * kValueSteps[index + 1] ||
          mean > 176 * kValueSteps[index]))
    ++index;
  return index;
}

std::int32_t floor_div(std::int32_t a, std::int32_t b) {
  return a >= 0 ? a / b : -((b - 1 - a) / b);
}

// Of eight channels what is tried, and the best of it: the first of those of the least damage.
struct Search {
  void attempt(const Channels& channels) {
    Levels levels;
    for (std::int32_t i = 0; i < kLanes; ++i) {
      place[i] = std::clamp(place[i], 0, 15);
      const ChannelLevels of_lane = channel_levels(kValueSteps[index[i]], place[i]);
      levels.step[i] = static_cast<std::int16_t>(of_lane.step);
      levels.first[i] = static_cast<std::int16_t>(of_lane.first);
    }
    Damage damage;
    measure(channels, levels, damage);
    for (std::int32_t i = 0; i < kLanes; ++i) {
      if (damage.of[i] >= least[i]) continue;
      least[i] = damage.of[i];
      found[i] = static_cast<std::uint8_t>(index[i] | place[i] << 4);
    }
  }

  std::int32_t index[kLanes];
  std::int32_t place[kLanes];
  std::int32_t least[kLanes];
  std::uint8_t* found;
};

std::int32_t nearest_place(const Sums& sums, std::int32_t step) {
  return floor_div(sums.codes + 6 * step, 12 * step) + kZeroMiddle;
}

// The codes of the steps and middles of eight channels.
void find_levels(const Channels& channels, std::uint8_t* found) {
  Search search;
  search.found = found;
  Sums sums[kLanes];
  for (std::int32_t i = 0; i < kLanes; ++i) {
    sums[i] = sums_of(channels, i);
    search.index[i] = middle_step(sums[i]);
    search.least[i] = INT32_MAX;
  }
  for (std::int32_t more = 0; more < 2; ++more) {
    for (std::int32_t i = 0; i < kLanes; ++i) {
      search.index[i] = std::min(search.index[i] + more, kNumValueSteps - 1);
      search.place[i] = nearest_place(sums[i], kValueSteps[search.index[i]]);
    }
    search.attempt(channels);
  }
  for (std::int32_t i = 0; i < kLanes; ++i) search.index[i] = found[i] & 15;
  for (const std::int32_t higher : {-2, -1, 1, 2}) {
    for (std::int32_t i = 0; i < kLanes; ++i)
      search.place[i] = nearest_place(sums[i], kValueSteps[search.index[i]]) + higher;
    search.attempt(channels);
  }
  for (std::int32_t i = 0; i < kLanes; ++i) {
    if (sums[i].squares == 0) found[i] = 0;
  }
}

// Where a token's bits lie in those of 16 channels.
std::int64_t value_offset(std::int64_t at) { return at % 16 / 4 * 64 + at % 4; }
std::int64_t channel_offset(std::int64_t c) { return c / 16 * kQuarterBytes + c % 16 * 4; }
std::int32_t shift_of(std::int64_t at) { return static_cast<std::int32_t>(at / 16 * 2); }

// The nearest level of each code into bytes that are 0.
void store_codes(const Channels& channels, const std::uint8_t* of_channels,
                 std::uint8_t* first_byte) {
  Levels levels;
  for (std::int32_t i = 0; i < kLanes; ++i) {
    const ChannelLevels of_lane = channel_levels(of_channels[i]);
    levels.step[i] = static_cast<std::int16_t>(of_lane.step);
    levels.first[i] = static_cast<std::int16_t>(of_lane.first);
  }
  const Thresholds thresholds(levels);
  for (std::int64_t at = 0; at < kBlockTokens; ++at) {
    const I16 twice = channels.codes[at] + channels.codes[at];
    I16 codes{};
    for (std::int32_t n = 0; n < 3; ++n) codes -= thresholds.is_above(twice, n);
    codes &= levels.step != I16{};
    std::uint8_t* const bytes = first_byte + value_offset(at);
    for (std::int32_t i = 0; i < kLanes; ++i)
      bytes[i * 4] = static_cast<std::uint8_t>(bytes[i * 4] | codes[i] << shift_of(at));
  }
}

const std::uint8_t* bytes_of(const KvBlock& block) {
  return reinterpret_cast<const std::uint8_t*>(block.value_codes);
}

}  // namespace

std::int64_t QuarterValues::block_bytes(std::int64_t head_dim_v) {
  return quarter_value_bytes(round_up(head_dim_v, 16));
}

void QuarterValues::store(const KernelTable&, const PageLayout& layout, const WritableBlock& block,
                          const TokenCodes& tokens) {
  auto* const bytes = reinterpret_cast<std::uint8_t*>(block.value_codes);
  std::fill_n(bytes, layout.value_block_bytes, std::uint8_t{0});
  std::uint8_t* const of_channels = bytes + quarter_code_bytes(round_up(layout.head_dim_v, 16));
  for (std::int64_t c = 0; c < layout.head_dim_v; c += kLanes) {
    Channels channels;
    load_channels(tokens, c, channels);
    find_levels(channels, of_channels + c);
    store_codes(channels, of_channels + c, bytes + channel_offset(c));
  }
}

void QuarterValues::load(const PageLayout& layout, const KvBlock& block, std::int64_t at,
                         std::int8_t* codes) {
  const std::uint8_t* const first = bytes_of(block) + value_offset(at);
  const std::uint8_t* const of_channels =
      bytes_of(block) + quarter_code_bytes(round_up(layout.head_dim_v, 16));
  for (std::int64_t c = 0; c < layout.head_dim_v; ++c) {
    const ChannelLevels levels = channel_levels(of_channels[c]);
    const std::int32_t code = first[channel_offset(c)] >> shift_of(at) & 3;
    codes[c] = static_cast<std::int8_t>(levels.first + code * levels.step);
  }
}

const void* QuarterValues::find_damage(const PageLayout& layout, const KvBlock& block,
                                       std::int64_t) {
  const std::int64_t padded = round_up(layout.head_dim_v, 16);
  const std::uint8_t* const end = bytes_of(block) + layout.value_block_bytes;
  const std::uint8_t* const padding =
      bytes_of(block) + quarter_code_bytes(padded) + layout.head_dim_v;
  const std::uint8_t* const found =
      std::find_if(padding, end, [](std::uint8_t byte) { return byte != 0; });
  if (found != end) return found;
  for (std::int64_t c = layout.head_dim_v; c < padded; ++c) {
    for (std::int64_t at = 0; at < 16; ++at) {
      const std::uint8_t* const byte = bytes_of(block) + channel_offset(c) + value_offset(at);
      if (*byte != 0) return byte;
    }
  }
  return nullptr;
}

}  // namespace intflash::internal

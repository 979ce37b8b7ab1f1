// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// XXH64, as xxHash's doc/xxhash_spec.md defines it: sixty lines, so that no build asks for a
// header.
#include <bit>
#include <cstring>

#include "sequence_file.h"

namespace intflash::internal {
namespace {

using u64 = std::uint64_t;

constexpr u64 kPrime1 = 0x9e3779b185ebca87;
constexpr u64 kPrime2 = 0xc2b2ae3d27d4eb4f;
constexpr u64 kPrime3 = 0x165667b19e3779f9;
constexpr u64 kPrime4 = 0x85ebca77c2b2ae63;
constexpr u64 kPrime5 = 0x27d4eb2f165667c5;

template <class Word>
u64 word_at(const unsigned char* bytes) {
  Word word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

u64 mix_word(u64 lane, u64 word) { return std::rotl(lane + word * kPrime2, 31) * kPrime1; }

// Of whole stripes of 32 bytes.
u64 mix_stripes(const unsigned char* bytes, std::size_t num_bytes, u64 seed) {
  u64 lanes[] = {seed + kPrime1 + kPrime2, seed + kPrime2, seed, seed - kPrime1};
  for (const unsigned char* end = bytes + num_bytes; bytes < end; bytes += 32) {
    for (int i = 0; i < 4; ++i) lanes[i] = mix_word(lanes[i], word_at<u64>(bytes + 8 * i));
  }
  u64 hash = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) +
             std::rotl(lanes[3], 18);
  for (const u64 lane : lanes) hash = (hash ^ mix_word(0, lane)) * kPrime1 + kPrime4;
  return hash;
}

// Of the fewer than 32 bytes behind the stripes.
u64 mix_tail(u64 hash, const unsigned char* bytes, std::size_t num_bytes) {
  const unsigned char* end = bytes + num_bytes;
  for (; end - bytes >= 8; bytes += 8)
    hash = std::rotl(hash ^ mix_word(0, word_at<u64>(bytes)), 27) * kPrime1 + kPrime4;
  if (end - bytes >= 4) {
    hash = std::rotl(hash ^ word_at<std::uint32_t>(bytes) * kPrime1, 23) * kPrime2 + kPrime3;
    bytes += 4;
  }
  for (; bytes < end; ++bytes) hash = std::rotl(hash ^ *bytes * kPrime5, 11) * kPrime1;
  return hash;
}

}  // namespace

u64 record_checksum(const void* bytes, std::size_t num_bytes, std::int64_t offset) {
  const auto* data = static_cast<const unsigned char*>(bytes);
  const u64 seed = static_cast<u64>(offset);
  const std::size_t in_stripes = num_bytes / 32 * 32;
  u64 hash = in_stripes > 0 ? mix_stripes(data, in_stripes, seed) : seed + kPrime5;
  hash = mix_tail(hash + num_bytes, data + in_stripes, num_bytes - in_stripes);
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

}  // namespace intflash::internal

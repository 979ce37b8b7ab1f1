// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A cache on the emulated CUDA device, or the same on the CPU's scalar port, and what both are
// asked: tests compare the bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "attention_case.h"
#include "intflash/cache.h"
#include "serving_masks.h"

namespace intflash::internal {

enum class Place { kHost, kDevice };

struct CacheCase {
  std::int64_t head_dim = 64, head_dim_v = 64;
  std::int64_t page_size = 64;
  std::int64_t num_kv_heads = 2, group_size = 2;
  std::int64_t num_layers = 1;
  std::int64_t num_pages = 64;
  intflash_codec codec = INTFLASH_CODEC_INT8;
  bool rotate = false, centered = false;
  bool has_rope = false;
  intflash_rope_pairing pairing = INTFLASH_ROPE_ADJACENT;
  std::int64_t rope_dim = 64;
  intflash_dtype query_dtype = INTFLASH_F32, key_dtype = INTFLASH_F32, value_dtype = INTFLASH_F32;
  intflash_dtype out_dtype = INTFLASH_F32;
  float query_magnitude = 1, key_magnitude = 1, value_magnitude = 1;
  std::int32_t score_digits = 0;
  bool lse = true;
  bool sinks = false;  // of which the second is none
  float score_cap = 0;
  MaskCase masks;
  std::uint32_t seed = 1;
  void* stream = nullptr;
};

class CacheSide {
 public:
  CacheSide(const CacheCase& c, Place place);
  ~CacheSide();
  CacheSide(const CacheSide&) = delete;
  CacheSide& operator=(const CacheSide&) = delete;

  intflash_context* context() const { return context_; }
  intflash_cache* cache() const { return cache_; }
  const intflash_rope& rope() const { return rope_; }

  // [1][heads][rows][dim] of seeded elements, with a gap behind each row.
  intflash_tensor tensor(std::int64_t heads, std::int64_t rows, std::int64_t dim,
                         intflash_dtype dtype, float magnitude, std::uint32_t seed);
  // Key, value and rope of new tokens; where they go is the caller's to say.
  intflash_append_args append_args(const std::vector<std::int64_t>& indptr, std::int64_t layer,
                                   std::uint32_t seed);
  std::int32_t create_sequence() const;
  // count[r] tokens more for each sequence, in all layers.
  void append(const std::vector<std::int32_t>& sequences, const std::vector<std::int64_t>& count,
              std::uint32_t seed);

  struct Result {
    std::vector<std::byte> out;
    std::vector<float> lse;
    bool operator==(const Result&) const = default;
  };
  // args: layer, and pages or sequences; masks in place of the case's.
  Result attend(const std::vector<intflash_request>& requests, intflash_batch_args args,
                std::uint32_t seed);
  // The same of a call that may be refused.
  intflash_status try_attend(const std::vector<intflash_request>& requests,
                             intflash_batch_args args, std::uint32_t seed, Result& result);

  std::vector<char> save(std::int32_t sequence) const;
  std::int32_t load(const std::vector<char>& file) const;
  std::vector<float> export_sequence(std::int32_t sequence);

 private:
  CacheCase case_;
  std::unique_ptr<Memory> memory_;
  intflash_context* context_ = nullptr;
  intflash_cache* cache_ = nullptr;
  intflash_rope rope_{};
};

// The last query_len tokens of so many, below a causal mask.
intflash_request request_of(std::int64_t query_len, std::int64_t kv_len);

}  // namespace intflash::internal

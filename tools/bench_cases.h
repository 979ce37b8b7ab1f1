// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the bench measures: shapes, and which part of a call is timed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "attention_inputs.h"
#include "intflash/intflash.h"

namespace intflash {

enum class Timed {
  kPacked,  // intflash_run_packed: keys and values are packed beforehand
  kWhole,   // intflash_run: from f32 inputs to f32 out
  kPack,    // intflash_pack: centre, quantize and pack keys and values
};

struct BenchCase {
  std::string name;  // such as prefill/full/d128/n4096
  Timed timed = Timed::kPacked;
  intflash_mask mask = INTFLASH_MASK_NONE;
  std::int64_t num_query_heads = 1;
  std::int64_t num_kv_heads = 1;
  std::int64_t query_len = 0;
  std::int64_t kv_len = 0;
  std::int64_t head_dim = 128;
  int threads = 1;
  // An additive mask in f16, shared by heads: finite biases, or zeros and -infinity that draw the
  // causal mask.
  enum class Additive { kNone, kBiases, kCausal } additive = Additive::kNone;
  std::int32_t score_digits = 0;
  intflash_mode mode = INTFLASH_MODE_INT8;
  std::shared_ptr<const AttentionInputs> inputs;  // of one batch; nullptr = random ones, in f32
  // Whether what counts is the time beyond that of the arithmetic: calls too short to reach any
  // rate.
  bool overhead = false;

  // Useful operations, two per multiply-add: visible pairs of query and key, times both products.
  double operations() const;
  // Bytes that intflash_pack has to move: keys and values in f32 in, their codes and factors out.
  double packed_bytes() const;
  intflash_attend_desc desc() const;
};

enum class BenchSize {
  kFull,
  kQuick,   // without the longest cases
  kScalar,  // lengths up to 512: for the port that is forty times slower
};

// threads 0: one thread, and the cases that show scaling with two where max_threads allows.
std::vector<BenchCase> bench_cases(BenchSize size, int threads, int max_threads);

// Packed and whole, over captured tensors and over random ones of the same shapes. Throws Failure
// where there are several batches, or values have other dims than keys.
std::vector<BenchCase> captured_cases(std::shared_ptr<const AttentionInputs> inputs, bool causal,
                                      int threads);

}  // namespace intflash

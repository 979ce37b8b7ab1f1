// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// One call of attention as tests describe it: its tensors are made from a seed, and any port can
// run it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "context/context.h"
#include "intflash/intflash.h"

namespace intflash::internal {

// How a tensor lies in memory.
enum class Layout {
  kHeadsFirst,   // [batch][heads][tokens][dim]
  kTokensFirst,  // [batch][tokens][heads][dim]: heads interleaved, as a projection leaves them
  kPaddedRows    // [batch][heads][tokens][dim + kRowPadding]
};

constexpr std::int64_t kRowPadding = 5;
constexpr std::int64_t kBlockElements = 32;  // of ggml's types, whose padding is a block

// How the elements are distributed, before they are multiplied by the magnitudes.
enum class CaseData {
  kNormal,
  kOutliers,     // 1 % of the elements are up to 100 times as large
  kChannelBias,  // some channels of keys and values have a mean far from 0
  kAllEqual,     // all keys of a head are equal, and so are the elements of each value
  kZeroRows,     // a third of the rows of each tensor is zero
  kOneHot,       // the scores are up to +-1e5, so that one key takes all of the weight
  kSinks,        // values of 0, 1e-4 and 1e-30 of the others', on keys that hold most of the weight
};

// Masks that are data, beside the case's mask.
enum class CaseBias {
  kNone,
  kHiding,    // additive, f16, shared by heads: 0, -infinity and the lowest finite value
  kAdditive,  // f32, by batch and head, scaled by head: some keys hidden, some runs of zeros
  kAlibi,     // slopes, one of them 0
  kTree,      // bits of the last 100 keys
  kAll        // a tree, slopes and f16 by head
};

struct CaseTensor {
  intflash_dtype dtype = INTFLASH_F32;  // of keys and values also one of ggml's
  Layout layout = Layout::kHeadsFirst;
  std::int64_t scale_block = 1;  // INT8: as in intflash_tensor
  bool one_scale = false;        // INT8: the heads and the batch share their scales
  float magnitude = 1;
};

struct AttentionCase {
  std::int64_t batch = 1;
  std::int64_t num_kv_heads = 1;
  std::int64_t group_size = 1;
  std::int64_t query_len = 1;
  std::int64_t kv_len = 1;
  std::int64_t head_dim = 64;
  std::int64_t head_dim_v = 64;
  CaseTensor query, key, value, out;
  intflash_mode mode = INTFLASH_MODE_INT8;
  intflash_mask mask = INTFLASH_MASK_NONE;
  std::int64_t window_left = 0;
  std::int64_t window_right = 0;
  std::int64_t prefix_len = 0;
  float softmax_scale = 0;
  float score_cap = 0;
  intflash_center center = INTFLASH_CENTER_NONE;
  bool given_centers = false;
  bool rotate = false;
  std::int32_t score_digits = 0;
  bool lse = true;
  CaseData data = CaseData::kNormal;
  CaseBias bias = CaseBias::kNone;
  bool sinks = false;  // of each head one, but every third head has none
  std::uint64_t seed = 0;
};

// What a failing test prints: every field that is not the default.
std::string describe(const AttentionCase& c);
intflash_attend_desc desc_of(const AttentionCase& c);

// Where tensors and workspaces come from: aligned to 64 bytes, and alive as long as it is.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual std::byte* take(std::size_t bytes);

 private:
  struct Free {
    void operator()(std::byte* bytes) const;
  };
  std::vector<std::unique_ptr<std::byte, Free>> blocks_;
};

// A case's tensors. out and lse hold kPoison, gaps between rows included.
struct CaseTensors {
  static constexpr unsigned char kPoison = 0xa5;

  intflash_attend_desc desc;
  intflash_attend_args args;
  std::byte* out;
  std::size_t out_bytes;
  std::size_t lse_count;  // 0 where there is none
};
CaseTensors make_tensors(const AttentionCase& c, Memory& memory);

// An intflash_tensor of the given layout, without data; *elements gets its extent.
intflash_tensor strided_tensor(Layout layout, std::int64_t batch, std::int64_t heads,
                               std::int64_t tokens, std::int64_t dim, std::int64_t* elements,
                               std::int64_t row_padding = kRowPadding);

// Rounds value to the nearest finite number of dtype, and stores it at (b, h, token, c).
void store_finite(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                  std::int64_t h, std::int64_t token, std::int64_t c, double value);

// How a case is run; none of it may change a bit of the result.
struct RunOptions {
  std::int32_t num_threads = 1;
  Parallel parallel;
  std::int64_t l2_bytes = 1 << 20;
  bool packed = false;  // by intflash_pack and intflash_run_packed
};

struct CaseResult {
  intflash_status status = INTFLASH_OK;
  std::string error;           // of a call that failed
  std::vector<std::byte> out;  // all of the tensor, gaps between rows included
  std::vector<float> lse;

  // To the bit, which tells NaN from NaN and -0 from 0.
  bool operator==(const CaseResult& other) const;
};

// A context on any port, also one that dispatch does not know.
intflash_context make_context(const PortEntry& port, const RunOptions& options);

CaseResult run_tensors(CaseTensors& tensors, const PortEntry& port, const RunOptions& options,
                       Memory& memory);
CaseResult run_case(const AttentionCase& c, const PortEntry& port, const RunOptions& options = {});

// "" where both are the same to the bit; else the status or the first element that differs.
std::string difference(const AttentionCase& c, const CaseResult& a, const CaseResult& b);

// out and lse as numbers, [batch][num_query_heads][query_len][head_dim_v] and without the last.
struct Numbers {
  std::vector<double> out;
  std::vector<double> lse;
};
Numbers numbers_of(const AttentionCase& c, const CaseResult& result);

}  // namespace intflash::internal

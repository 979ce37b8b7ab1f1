// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention row by row: mode exact, in double precision from the definition, and mode intfa,
// INT-FlashAttention's Algorithm 1 (arXiv 2409.16997) as published. Centring and rotation change
// neither, so neither looks at them.
#include "reference/reference.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "inputs/score_bias.h"
#include "inputs/tensor.h"

namespace intflash::internal {
namespace {

// R of the paper: the largest code of queries, keys, values and weights.
constexpr int kCodeMax = 127;

// Bc of the paper, the keys taken between two updates of the running maximum. The authors' kernel
// picks it by timing from 32 to 256 and requires Bc <= head_dim; 64 is the largest that their
// benchmark, with head_dim 64, can have run.
constexpr std::int64_t kBlockKeys = 64;

constexpr std::size_t kScratchAlignment = 64;

void store_lse(const ReferenceRow& row, double value) {
  if (row.lse != nullptr) *row.lse = static_cast<float>(value);
}

KeyRange seen_keys(const Problem& problem, const ReferenceRow& row) {
  const KeyRange visible = visible_keys(problem.mask, row.query);
  const std::int64_t begin = std::max(visible.begin, row.keys.begin);
  return {begin, std::max(begin, std::min(visible.end, row.keys.end))};
}

// ---- Mode exact ----

double dot(const double* a, const double* b, std::int64_t n) {
  double lanes[8] =
      {};  // eight chains of additions: one would wait for each sum; n is a multiple of 8
  for (std::int64_t c = 0; c < n; c += 8) {
    for (int lane = 0; lane < 8; ++lane) lanes[lane] += a[c + lane] * b[c + lane];
  }
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
         ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

struct ExactScratch {
  double* query;   // [head_dim]
  double* row;     // [max(head_dim, head_dim_v)]: the key or value at hand
  double* out;     // [head_dim_v]
  double* weight;  // [kv_len]: scores, then weights
};

void attend_exact_row(const Problem& problem, const intflash_attend_args& args,
                      const ReferenceRow& row, const ExactScratch& scratch) {
  const std::int64_t b = row.batch;
  const std::int64_t h = row.query_head;
  const KeyRange keys = seen_keys(problem, row);
  const std::int64_t first = row.keys.begin;
  const ScoreBias bias = {args.additive_mask, args.alibi_slopes, args.bit_mask, problem.mask};

  // The score of each visible key: scale times the dot product, capped where there is a cap, plus
  // the bias; -infinity where a mask hides the key.
  tensor_row(args.query, problem.query_dtype, b, h, row.token, problem.head_dim, scratch.query);
  double max_score =
      args.sinks != nullptr ? args.sinks[h] : -std::numeric_limits<double>::infinity();
  for (std::int64_t t = keys.begin; t < keys.end; ++t) {
    const double added = scratch.weight[t - first] = bias_of_key(bias, b, h, row.query, t);
    if (added == -std::numeric_limits<double>::infinity()) continue;  // the key may be anything
    tensor_row(args.key, problem.key_dtype, b, row.kv_head, t - first, problem.head_dim,
               scratch.row);
    double score = problem.softmax_scale * dot(scratch.query, scratch.row, problem.head_dim);
    if (problem.score_cap > 0) score = problem.score_cap * std::tanh(score / problem.score_cap);
    scratch.weight[t - first] = score + added;
    max_score = std::max(max_score, scratch.weight[t - first]);
  }

  // The weight of each key: exp of its score, relative to the greatest so that nothing overflows.
  double weight_sum = 0;
  for (std::int64_t t = keys.begin; t < keys.end; ++t) {
    const bool is_hidden = scratch.weight[t - first] == -std::numeric_limits<double>::infinity();
    scratch.weight[t - first] = is_hidden ? 0.0 : std::exp(scratch.weight[t - first] - max_score);
    weight_sum += scratch.weight[t - first];
  }

  // A sink has a weight and no value.
  if (args.sinks != nullptr && args.sinks[h] > -std::numeric_limits<float>::infinity())
    weight_sum += std::exp(args.sinks[h] - max_score);

  // The output: the mean of the values by these weights.
  std::fill(scratch.out, scratch.out + problem.head_dim_v, 0.0);
  for (std::int64_t t = keys.begin; t < keys.end; ++t) {
    if (scratch.weight[t - first] == 0) continue;
    tensor_row(args.value, problem.value_dtype, b, row.kv_head, t - first, problem.head_dim_v,
               scratch.row);
    for (std::int64_t c = 0; c < problem.head_dim_v; ++c)
      scratch.out[c] += scratch.weight[t - first] * scratch.row[c];
  }

  // A row that sees no key has weight_sum == 0 and max_score == -inf: out is 0, and log(0) makes
  // lse -inf.
  const double norm = weight_sum > 0 ? 1 / weight_sum : 0;
  for (std::int64_t c = 0; c < problem.head_dim_v; ++c) {
    store_element(args.out, problem.out_dtype, b, h, row.token, c,
                  static_cast<float>(scratch.out[c] * norm));
  }
  store_lse(row, max_score + std::log(weight_sum));
}

// ---- Mode intfa ----

struct IntfaScratch {
  double* row;               // [max(head_dim, head_dim_v)]: the row at hand, not yet quantized
  std::int8_t* query;        // [head_dim] codes
  std::int8_t* row_codes;    // [max(head_dim, head_dim_v)]: the key or value at hand
  float* out;                // [head_dim_v]: O of the paper
  std::int32_t* weight_dot;  // [head_dim_v]: P8 V8 of one block
};

float max_magnitude(const double* row, std::int64_t dim, float so_far) {
  double lanes[8] = {};  // as in dot()
  for (std::int64_t c = 0; c < dim; c += 8) {
    for (int lane = 0; lane < 8; ++lane)
      lanes[lane] = std::max(lanes[lane], std::fabs(row[c + lane]));
  }
  return std::max(so_far, static_cast<float>(*std::max_element(lanes, lanes + 8)));
}

// codes = round(row / scale), ties to even. Clamped, because a scale in the subnormal range is a
// coarse rounding of max / 127; ratios up to 190 come of it.
void quantize_row(const double* row, std::int64_t dim, float scale, std::int8_t* codes) {
  if (scale == 0) {
    std::fill(codes, codes + dim, std::int8_t{0});
    return;
  }
  constexpr float kToInteger = 0x1.8p23f;  // floats around it are the integers; adding it rounds
  for (std::int64_t c = 0; c < dim; ++c) {
    const float ratio = static_cast<float>(row[c]) / scale;
    const auto code = static_cast<std::int32_t>((ratio + kToInteger) - kToInteger);
    codes[c] = static_cast<std::int8_t>(std::max(-kCodeMax, std::min(code, kCodeMax)));
  }
}

// A query or key with a scale of its own, S = rowmax|x| / R. INT8 input brings codes and scales,
// which are used as they are: code * scale / scale rounds to the code again.
float quantize_token(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                     std::int64_t h, std::int64_t token, std::int64_t dim, double* row,
                     std::int8_t* codes) {
  tensor_row(tensor, dtype, b, h, token, dim, row);
  const float scale = dtype == INTFLASH_INT8 ? token_scale(tensor, b, h, token)
                                             : max_magnitude(row, dim, 0.0f) / kCodeMax;
  quantize_row(row, dim, scale, codes);
  return scale;
}

// S_V = max|V| / R over the keys of the head from the first to the last that some query sees. INT8
// values keep their scale where all tokens share one; finer scales are requantized to one, since
// the algorithm knows no other. first: position of the tensor's first key.
float value_tensor_scale(const Problem& problem, const intflash_tensor& value, std::int64_t b,
                         std::int64_t kv_head, std::int64_t first, double* row) {
  if (problem.kv_len == 0) return 0;  // an empty tensor may have no scale to read
  if (problem.value_dtype == INTFLASH_INT8 && value.scale_block == 0)
    return token_scale(value, b, kv_head, 0);
  float magnitude = 0;
  KeyRange seen = {problem.mask.kv_len, first};
  for (std::int64_t query = 0; query < problem.mask.query_len; ++query) {
    const KeyRange keys = visible_keys(problem.mask, query);
    if (keys.begin == keys.end) continue;
    seen = {std::min(seen.begin, keys.begin), std::max(seen.end, keys.end)};
  }
  for (std::int64_t t = std::max(seen.begin, first); t < seen.end; ++t) {
    tensor_row(value, problem.value_dtype, b, kv_head, t - first, problem.head_dim_v, row);
    magnitude = max_magnitude(row, problem.head_dim_v, magnitude);
  }
  return magnitude / kCodeMax;
}

// S of one block and its maximum: integer dot products, then float32.
float score_block(const Problem& problem, const intflash_attend_args& args, const ReferenceRow& row,
                  KeyRange block, float query_scale, const IntfaScratch& scratch, float* scores) {
  float max_score = -std::numeric_limits<float>::infinity();
  for (std::int64_t t = block.begin; t < block.end; ++t) {
    const float key_scale =
        quantize_token(args.key, problem.key_dtype, row.batch, row.kv_head, t - row.keys.begin,
                       problem.head_dim, scratch.row, scratch.row_codes);
    std::int32_t dot = 0;  // 127 * 127 * 1024 is far below 2^31
    for (std::int64_t c = 0; c < problem.head_dim; ++c)
      dot += scratch.query[c] * scratch.row_codes[c];
    float score = static_cast<float>(dot) * query_scale * key_scale * problem.softmax_scale;
    if (problem.score_cap > 0) score = problem.score_cap * std::tanh(score / problem.score_cap);
    scores[t - block.begin] = score;
    max_score = std::max(max_score, score);
  }
  return max_score;
}

void attend_intfa_row(const Problem& problem, const intflash_attend_args& args,
                      const ReferenceRow& row, const IntfaScratch& scratch) {
  const std::int64_t b = row.batch;
  const std::int64_t h = row.query_head;
  const std::int64_t kv_head = row.kv_head;
  const KeyRange keys = seen_keys(problem, row);
  const float query_scale = quantize_token(args.query, problem.query_dtype, b, h, row.token,
                                           problem.head_dim, scratch.row, scratch.query);
  const float value_scale =
      value_tensor_scale(problem, args.value, b, kv_head, row.keys.begin, scratch.row);

  float row_max = -std::numeric_limits<float>::infinity();  // m of the paper
  float row_sum = 0;  // l: carries R, which therefore cancels in the end
  std::fill(scratch.out, scratch.out + problem.head_dim_v, 0.0f);
  for (std::int64_t first = keys.begin; first < keys.end;) {
    // Blocks lie at multiples of Bc; the first and the last may be cut by the mask or by the end of
    // the keys.
    const KeyRange block = {first, std::min((first / kBlockKeys + 1) * kBlockKeys, keys.end)};
    first = block.end;
    float scores[kBlockKeys];
    const float block_max = score_block(problem, args, row, block, query_scale, scratch, scores);

    // m_new = max(m, rowmax S), and what was summed so far shrinks by exp(m - m_new): by exp(-inf)
    // = 0 in the first block.
    const float new_max = std::max(row_max, block_max);
    const float shrink = std::exp(row_max - new_max);
    row_max = new_max;

    // P8 = round(R exp(S - m_new)) against the running maximum; l sums these codes, not the weights
    // they stand for.
    std::int32_t code_sum = 0;
    std::fill(scratch.weight_dot, scratch.weight_dot + problem.head_dim_v, 0);
    for (std::int64_t t = block.begin; t < block.end; ++t) {
      const auto code = static_cast<std::int32_t>(
          std::lrint(kCodeMax * std::exp(scores[t - block.begin] - new_max)));
      code_sum += code;
      tensor_row(args.value, problem.value_dtype, b, kv_head, t - row.keys.begin,
                 problem.head_dim_v, scratch.row);
      quantize_row(scratch.row, problem.head_dim_v, value_scale, scratch.row_codes);
      for (std::int64_t c = 0; c < problem.head_dim_v; ++c)
        scratch.weight_dot[c] += code * scratch.row_codes[c];
    }

    // l = exp(m - m_new) l + rowsum(P8);  O = exp(m - m_new) O + P8 V8.
    row_sum = shrink * row_sum + static_cast<float>(code_sum);
    for (std::int64_t c = 0; c < problem.head_dim_v; ++c) {
      scratch.out[c] = shrink * scratch.out[c] + static_cast<float>(scratch.weight_dot[c]);
    }
  }

  // O / l * S_V. A row that sees no key has l == 0: its output is 0, and log(0) makes lse -inf.
  for (std::int64_t c = 0; c < problem.head_dim_v; ++c) {
    const float mean = row_sum > 0 ? scratch.out[c] / row_sum : 0.0f;
    store_element(args.out, problem.out_dtype, b, h, row.token, c, mean * value_scale);
  }
  store_lse(row, row_max + std::log(row_sum / kCodeMax));
}

// ---- Scratch ----

// Hands out aligned arrays from one piece of memory; with a null base it only counts their bytes.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<std::byte*>(base)) {}
  template <class T>
  T* take(std::int64_t count) {
    T* array = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + bytes_);
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    bytes_ += (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
    return array;
  }
  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* base_;
  std::size_t bytes_ = 0;
};

ExactScratch carve_exact(const Problem& problem, Carver& carver) {
  ExactScratch scratch;
  scratch.query = carver.take<double>(problem.head_dim);
  scratch.row = carver.take<double>(std::max(problem.head_dim, problem.head_dim_v));
  scratch.out = carver.take<double>(problem.head_dim_v);
  scratch.weight = carver.take<double>(problem.kv_len);
  return scratch;
}

IntfaScratch carve_intfa(const Problem& problem, Carver& carver) {
  IntfaScratch scratch;
  scratch.row = carver.take<double>(std::max(problem.head_dim, problem.head_dim_v));
  scratch.query = carver.take<std::int8_t>(problem.head_dim);
  scratch.row_codes = carver.take<std::int8_t>(std::max(problem.head_dim, problem.head_dim_v));
  scratch.out = carver.take<float>(problem.head_dim_v);
  scratch.weight_dot = carver.take<std::int32_t>(problem.head_dim_v);
  return scratch;
}

}  // namespace

std::size_t reference_scratch_bytes(const Problem& problem) {
  Carver carver(nullptr);
  if (problem.mode == INTFLASH_MODE_EXACT) {
    carve_exact(problem, carver);
  } else {
    carve_intfa(problem, carver);
  }
  return carver.bytes();
}

void attend_reference_row(const Problem& problem, const intflash_attend_args& args,
                          const ReferenceRow& row, void* scratch) {
  Carver carver(scratch);
  if (problem.mode == INTFLASH_MODE_EXACT) {
    attend_exact_row(problem, args, row, carve_exact(problem, carver));
  } else {
    attend_intfa_row(problem, args, row, carve_intfa(problem, carver));
  }
}

}  // namespace intflash::internal

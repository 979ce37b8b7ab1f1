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

#include "core/score_bias.h"

namespace intflash::internal {
namespace {

// R of the paper: the largest code of queries, keys, values and weights.
constexpr int kCodeMax = 127;

// Bc of the paper, the keys taken between two updates of the running maximum. The authors' kernel
// picks it by timing from 32 to 256 and requires Bc <= head_dim; 64 is the largest that their
// benchmark, with head_dim 64, can have run.
constexpr std::int64_t kBlockKeys = 64;

constexpr std::size_t kScratchAlignment = 64;

// ---- Binary16 and bfloat16, bit by bit ----

// Without branches, so that compilers convert several elements of a row at a time.
float half_to_float(std::uint16_t half) {
  const std::int32_t exponent = (half >> 10) & 31;
  const std::int32_t fraction = half & 1023;
  // Subnormals, of exponent 0, lack the hidden 1 and count in the unit of exponent 1, 2^-24.
  const std::int32_t is_subnormal = exponent == 0;
  const std::int32_t significand = fraction + ((1 - is_subnormal) << 10);
  const float unit = std::bit_cast<float>((exponent + is_subnormal - 25 + 127) << 23);
  const auto finite = std::bit_cast<std::int32_t>(static_cast<float>(significand) * unit);
  // Infinity and NaN have all exponent bits set, there and here; the fraction is in place already.
  const std::int32_t is_special = exponent == 31;
  return std::bit_cast<float>(finite | is_special * 0x7f800000 | (half & 0x8000) << 16);
}

std::uint16_t float_to_half(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000;
  const std::uint32_t magnitude = bits & 0x7fffffff;
  std::uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;  // NaN
  } else if (magnitude >= 0x477ff000) {
    half = 0x7c00;  // 65520 is halfway between 65504, the largest finite value, and the next step
  } else if (magnitude >= 0x38800000) {
    // Half of the 13 bits' unit that goes, less one, plus the lowest bit that stays: ties go to
    // even. Then the bias falls from 127 to 15.
    half = (magnitude + 0xfff + ((magnitude >> 13) & 1) - ((127u - 15u) << 23)) >> 13;
  } else {
    // Below 2^-14 the unit is 2^-24; 1024 of them are the smallest normal number, whose bits are
    // 1024 as well.
    half = static_cast<std::uint32_t>(std::lrint(std::bit_cast<float>(magnitude) * 0x1p24f));
  }
  return static_cast<std::uint16_t>(sign | half);
}

float bf16_to_float(std::uint16_t value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

std::uint16_t float_to_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;  // rounding would carry some into infinity
  const std::uint32_t rounded = is_nan ? bits | 0x400000 : bits + 0x7fff + ((bits >> 16) & 1);
  return static_cast<std::uint16_t>(rounded >> 16);
}

// ---- ggml's blocks ----

constexpr std::int64_t kBlockElements = 32;

std::int64_t block_bytes(intflash_dtype dtype) { return dtype == INTFLASH_Q8_0 ? 34 : 18; }

// A half, then 32 codes: of Q8_0 a byte each; of Q4_0 four bits plus 8, where byte i has element i
// below and element i + 16 above.
double block_element(const std::uint8_t* block, intflash_dtype dtype, std::int64_t i) {
  const double scale = half_to_float(static_cast<std::uint16_t>(block[0] | block[1] << 8));
  const std::uint8_t* codes = block + 2;
  if (dtype == INTFLASH_Q8_0) return scale * static_cast<std::int8_t>(codes[i]);
  return scale * ((i < 16 ? codes[i] & 15 : codes[i - 16] >> 4) - 8);
}

// ---- Tensors ----

std::int64_t row_offset(const intflash_tensor& tensor, std::int64_t b, std::int64_t h,
                        std::int64_t token) {
  return b * tensor.stride_batch + h * tensor.stride_head + token * tensor.stride_token;
}

// The factor between the codes of an INT8 row and its values.
float row_scale(const intflash_tensor& tensor, std::int64_t b, std::int64_t h, std::int64_t token) {
  const std::int64_t group = tensor.scale_block == 0 ? 0 : token / tensor.scale_block;
  return tensor.scale[b * tensor.scale_stride_batch + h * tensor.scale_stride_head + group];
}

// Row (b, h, token) as doubles; every dtype is exact in them, and so is a code times its scale.
void load_row(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b, std::int64_t h,
              std::int64_t token, std::int64_t dim, double* row) {
  const std::int64_t offset = row_offset(tensor, b, h, token);
  switch (dtype) {
    case INTFLASH_F32: {
      const float* values = static_cast<const float*>(tensor.data) + offset;
      for (std::int64_t c = 0; c < dim; ++c) row[c] = values[c];
      return;
    }
    case INTFLASH_F16: {
      const std::uint16_t* values = static_cast<const std::uint16_t*>(tensor.data) + offset;
      for (std::int64_t c = 0; c < dim; ++c) row[c] = half_to_float(values[c]);
      return;
    }
    case INTFLASH_BF16: {
      const std::uint16_t* values = static_cast<const std::uint16_t*>(tensor.data) + offset;
      for (std::int64_t c = 0; c < dim; ++c) row[c] = bf16_to_float(values[c]);
      return;
    }
    case INTFLASH_INT8: {
      const std::int8_t* codes = static_cast<const std::int8_t*>(tensor.data) + offset;
      const double scale = row_scale(tensor, b, h, token);
      for (std::int64_t c = 0; c < dim; ++c) row[c] = codes[c] * scale;
      return;
    }
    case INTFLASH_Q8_0:
    case INTFLASH_Q4_0: {
      const std::int64_t bytes = block_bytes(dtype);
      const auto* blocks =
          static_cast<const std::uint8_t*>(tensor.data) + offset / kBlockElements * bytes;
      for (std::int64_t c = 0; c < dim; ++c)
        row[c] = block_element(blocks + c / kBlockElements * bytes, dtype, c % kBlockElements);
      return;
    }
    case INTFLASH_BOOL:
      return;  // masks only; make_problem refuses it for tensors
  }
}

void store_lse(const Problem& problem, const intflash_attend_args& args, std::int64_t b,
               std::int64_t h, std::int64_t i, double value) {
  if (args.lse == nullptr) return;
  args.lse[(b * problem.num_query_heads + h) * problem.query_len + i] = static_cast<float>(value);
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

void attend_exact_row(const Problem& problem, const intflash_attend_args& args, std::int64_t b,
                      std::int64_t h, std::int64_t i, const ExactScratch& scratch) {
  const std::int64_t kv_head = h / problem.group_size;
  const KeyRange keys = visible_keys(problem.mask, i);
  const ScoreBias bias = {args.additive_mask, args.alibi_slopes, args.bit_mask, problem.mask};

  // The score of each visible key: scale times the dot product, capped where there is a cap, plus
  // the bias; -infinity where a mask hides the key.
  load_row(args.query, problem.query_dtype, b, h, i, problem.head_dim, scratch.query);
  double max_score =
      args.sinks != nullptr ? args.sinks[h] : -std::numeric_limits<double>::infinity();
  for (std::int64_t t = keys.begin; t < keys.end; ++t) {
    load_row(args.key, problem.key_dtype, b, kv_head, t, problem.head_dim, scratch.row);
    double score = problem.softmax_scale * dot(scratch.query, scratch.row, problem.head_dim);
    if (problem.score_cap > 0) score = problem.score_cap * std::tanh(score / problem.score_cap);
    scratch.weight[t] = score + bias_of_key(bias, b, h, i, t);
    max_score = std::max(max_score, scratch.weight[t]);
  }

  // The weight of each key: exp of its score, relative to the greatest so that nothing overflows.
  double weight_sum = 0;
  for (std::int64_t t = keys.begin; t < keys.end; ++t) {
    const bool is_hidden = scratch.weight[t] == -std::numeric_limits<double>::infinity();
    scratch.weight[t] = is_hidden ? 0.0 : std::exp(scratch.weight[t] - max_score);
    weight_sum += scratch.weight[t];
  }

  // A sink has a weight and no value.
  if (args.sinks != nullptr && args.sinks[h] > -std::numeric_limits<float>::infinity())
    weight_sum += std::exp(args.sinks[h] - max_score);

  // The output: the mean of the values by these weights.
  std::fill(scratch.out, scratch.out + problem.head_dim_v, 0.0);
  for (std::int64_t t = keys.begin; t < keys.end; ++t) {
    load_row(args.value, problem.value_dtype, b, kv_head, t, problem.head_dim_v, scratch.row);
    for (std::int64_t c = 0; c < problem.head_dim_v; ++c)
      scratch.out[c] += scratch.weight[t] * scratch.row[c];
  }

  // A row that sees no key has weight_sum == 0 and max_score == -inf: out is 0, and log(0) makes
  // lse -inf.
  const double norm = weight_sum > 0 ? 1 / weight_sum : 0;
  for (std::int64_t c = 0; c < problem.head_dim_v; ++c) {
    store_element(args.out, problem.out_dtype, b, h, i, c,
                  static_cast<float>(scratch.out[c] * norm));
  }
  store_lse(problem, args, b, h, i, max_score + std::log(weight_sum));
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
  load_row(tensor, dtype, b, h, token, dim, row);
  const float scale = dtype == INTFLASH_INT8 ? row_scale(tensor, b, h, token)
                                             : max_magnitude(row, dim, 0.0f) / kCodeMax;
  quantize_row(row, dim, scale, codes);
  return scale;
}

// S_V = max|V| / R over all keys of the head, visible or not. INT8 values keep their scale where
// all tokens share one; finer scales are requantized to one, since the algorithm knows no other.
float value_tensor_scale(const Problem& problem, const intflash_tensor& value, std::int64_t b,
                         std::int64_t kv_head, double* row) {
  if (problem.kv_len == 0) return 0;  // an empty tensor may have no scale to read
  if (problem.value_dtype == INTFLASH_INT8 && value.scale_block == 0)
    return row_scale(value, b, kv_head, 0);
  float magnitude = 0;
  for (std::int64_t t = 0; t < problem.kv_len; ++t) {
    load_row(value, problem.value_dtype, b, kv_head, t, problem.head_dim_v, row);
    magnitude = max_magnitude(row, problem.head_dim_v, magnitude);
  }
  return magnitude / kCodeMax;
}

// S of one block and its maximum: integer dot products, then float32.
float score_block(const Problem& problem, const intflash_attend_args& args, std::int64_t b,
                  std::int64_t kv_head, KeyRange block, float query_scale,
                  const IntfaScratch& scratch, float* scores) {
  float max_score = -std::numeric_limits<float>::infinity();
  for (std::int64_t t = block.begin; t < block.end; ++t) {
    const float key_scale = quantize_token(args.key, problem.key_dtype, b, kv_head, t,
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

void attend_intfa_row(const Problem& problem, const intflash_attend_args& args, std::int64_t b,
                      std::int64_t h, std::int64_t i, const IntfaScratch& scratch) {
  const std::int64_t kv_head = h / problem.group_size;
  const KeyRange keys = visible_keys(problem.mask, i);
  const float query_scale = quantize_token(args.query, problem.query_dtype, b, h, i,
                                           problem.head_dim, scratch.row, scratch.query);
  const float value_scale = value_tensor_scale(problem, args.value, b, kv_head, scratch.row);

  float row_max = -std::numeric_limits<float>::infinity();  // m of the paper
  float row_sum = 0;  // l: carries R, which therefore cancels in the end
  std::fill(scratch.out, scratch.out + problem.head_dim_v, 0.0f);
  for (std::int64_t first = keys.begin; first < keys.end;) {
    // Blocks lie at multiples of Bc; the first and the last may be cut by the mask or by the end of
    // the keys.
    const KeyRange block = {first, std::min((first / kBlockKeys + 1) * kBlockKeys, keys.end)};
    first = block.end;
    float scores[kBlockKeys];
    const float block_max =
        score_block(problem, args, b, kv_head, block, query_scale, scratch, scores);

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
      load_row(args.value, problem.value_dtype, b, kv_head, t, problem.head_dim_v, scratch.row);
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
    store_element(args.out, problem.out_dtype, b, h, i, c, mean * value_scale);
  }
  store_lse(problem, args, b, h, i, row_max + std::log(row_sum / kCodeMax));
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

void attend_reference_row(const Problem& problem, const intflash_attend_args& args, std::int64_t b,
                          std::int64_t h, std::int64_t i, void* scratch) {
  Carver carver(scratch);
  if (problem.mode == INTFLASH_MODE_EXACT) {
    attend_exact_row(problem, args, b, h, i, carve_exact(problem, carver));
  } else {
    attend_intfa_row(problem, args, b, h, i, carve_intfa(problem, carver));
  }
}

double tensor_element(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                      std::int64_t h, std::int64_t token, std::int64_t c) {
  intflash_tensor from_c = tensor;  // the same rows, seen from column c on, or from its block
  const std::int64_t before = has_blocks(dtype) ? c % kBlockElements : 0;
  const std::int64_t bytes =
      has_blocks(dtype) ? c / kBlockElements * block_bytes(dtype) : c * dtype_bytes(dtype);
  from_c.data = static_cast<std::byte*>(tensor.data) + bytes;
  double elements[kBlockElements];
  load_row(from_c, dtype, b, h, token, before + 1, elements);
  return elements[before];
}

void tensor_row(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b, std::int64_t h,
                std::int64_t token, std::int64_t dim, double* row) {
  load_row(tensor, dtype, b, h, token, dim, row);
}

void store_element(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                   std::int64_t h, std::int64_t token, std::int64_t c, float value) {
  const std::int64_t offset = row_offset(tensor, b, h, token) + c;
  switch (dtype) {
    case INTFLASH_F32:
      static_cast<float*>(tensor.data)[offset] = value;
      return;
    case INTFLASH_F16:
      static_cast<std::uint16_t*>(tensor.data)[offset] = float_to_half(value);
      return;
    case INTFLASH_BF16:
      static_cast<std::uint16_t*>(tensor.data)[offset] = float_to_bf16(value);
      return;
    case INTFLASH_INT8:
    case INTFLASH_Q8_0:
    case INTFLASH_Q4_0:
    case INTFLASH_BOOL:
      return;  // inputs only; make_problem refuses them for out
  }
}

}  // namespace intflash::internal

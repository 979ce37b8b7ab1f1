// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "random_case.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <limits>

#include "element.h"
#include "inputs/tensor.h"

namespace intflash::internal {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool one_in(Random& random, std::int64_t count) { return random.below(count) == 0; }

template <std::size_t kCount, class T>
T one_of(Random& random, const T (&list)[kCount]) {
  return list[random.below(static_cast<std::int64_t>(kCount))];
}

// exp of a uniform number: 10^-decades ... 10^decades.
double log_uniform(Random& random, double decades) {
  return std::pow(10.0, decades * (2 * random.uniform() - 1));
}

// ---- The case ----

float random_magnitude(Random& random) {
  return one_in(random, 3) ? 1.0f : static_cast<float>(log_uniform(random, 30));
}

CaseTensor random_tensor(Random& random, std::int64_t dim) {
  CaseTensor tensor;
  constexpr intflash_dtype kDtypes[] = {INTFLASH_F32,    INTFLASH_F32,  INTFLASH_F16,
                                        INTFLASH_BF16,   INTFLASH_INT8, INTFLASH_F8_E4M3,
                                        INTFLASH_F8_E5M2};
  constexpr std::int64_t kScaleBlocks[] = {0, 1, 1, 7, 64};
  tensor.dtype = one_of(random, kDtypes);
  if (dim % kBlockElements == 0 && one_in(random, 12))
    tensor.dtype = one_in(random, 2) ? INTFLASH_Q8_0 : INTFLASH_Q4_0;
  tensor.layout = static_cast<Layout>(random.below(3));
  tensor.scale_block = one_of(random, kScaleBlocks);
  tensor.one_scale = one_in(random, 4);
  tensor.magnitude = random_magnitude(random);
  return tensor;
}

void choose_lengths(Random& random, AttentionCase& c) {
  c.query_len = one_in(random, 8) ? 1 + random.below(40) : 1 + random.below(4);
  c.kv_len = static_cast<std::int64_t>(std::pow(300.0, random.uniform()));
  if (one_in(random, 100) && c.head_dim <= 32) c.kv_len = 1025 + random.below(1500);
}

void choose_mask(Random& random, AttentionCase& c) {
  c.mask = static_cast<intflash_mask>(random.below(5));
  c.window_left = random.below(100) - 1;
  c.window_right = random.below(20) - 1;
  c.prefix_len = random.below(c.kv_len + 1);
}

// Half of the time one that gives scores of a size at which the softmax is not trivial.
void choose_softmax_scale(Random& random, AttentionCase& c) {
  c.softmax_scale = 0;
  if (one_in(random, 4)) return;
  double scale = log_uniform(random, 30);
  if (!one_in(random, 4))
    scale = log_uniform(random, 3) / static_cast<double>(c.query.magnitude) /
            static_cast<double>(c.key.magnitude) / std::sqrt(static_cast<double>(c.head_dim));
  c.softmax_scale = static_cast<float>(std::clamp(scale, 1e-37, 1e37));
}

void choose_options(Random& random, AttentionCase& c) {
  if (one_in(random, 6)) c.score_cap = static_cast<float>(log_uniform(random, 3));
  if (one_in(random, 60)) c.score_cap = static_cast<float>(log_uniform(random, 30));
  c.center = static_cast<intflash_center>(random.below(3));
  // Codes cannot be centred.
  if (c.value.dtype == INTFLASH_INT8) c.center = std::min(c.center, INTFLASH_CENTER_KEY);
  if (c.key.dtype == INTFLASH_INT8) c.center = INTFLASH_CENTER_NONE;
  c.given_centers = one_in(random, 3);
  c.rotate = one_in(random, 2);
  c.score_digits = static_cast<std::int32_t>(random.below(3));
  c.sinks = one_in(random, 6);
  c.data = static_cast<CaseData>(random.below(static_cast<int>(CaseData::kSinks) + 1));
  if (one_in(random, 3))
    c.bias = static_cast<CaseBias>(random.below(static_cast<int>(CaseBias::kAll) + 1));
  if (one_in(random, 4)) c.mode = INTFLASH_MODE_INT8_QK;
}

AttentionCase random_attention(Random& random) {
  constexpr std::int64_t kDims[] = {8,  8,  16, 16, 16, 24, 32, 32,  32,  40,
                                    48, 64, 64, 64, 72, 80, 96, 112, 128, 256};
  AttentionCase c;
  c.num_kv_heads = 1 + random.below(2);
  c.group_size = 1 + random.below(3);
  c.batch = one_in(random, 8) ? 2 : 1;
  c.head_dim = c.head_dim_v = one_of(random, kDims);
  if (one_in(random, 2)) c.head_dim_v = one_of(random, kDims);
  c.query = random_tensor(random, 1);
  c.key = random_tensor(random, c.head_dim);
  c.value = random_tensor(random, c.head_dim_v);
  constexpr intflash_dtype kOutDtypes[] = {INTFLASH_F32, INTFLASH_F32, INTFLASH_F16, INTFLASH_BF16};
  c.out.dtype = one_of(random, kOutDtypes);
  c.out.layout = static_cast<Layout>(random.below(3));
  choose_lengths(random, c);
  choose_mask(random, c);
  choose_softmax_scale(random, c);
  choose_options(random, c);
  c.seed = random.next();
  return c;
}

// ---- Its rows ----

struct Rows {
  const char* name;
  const CaseTensor& spec;
  intflash_tensor tensor;
  std::int64_t batch, heads, tokens, dim;
};

// Element (b, h, token, channel) = change(element, token, channel) for all of them; of INT8, of the
// scales, channel being 0.
template <class Change>
void change_elements(const Rows& rows, Change change) {
  const intflash_dtype dtype = rows.spec.dtype;
  for (std::int64_t b = 0; b < rows.batch; ++b) {
    for (std::int64_t h = 0; h < rows.heads; ++h) {
      for (std::int64_t token = 0; token < rows.tokens; ++token) {
        for (std::int64_t channel = 0; channel < rows.dim; ++channel) {
          const double x =
              change(element_of(rows.tensor, dtype, b, h, token, channel), h, token, channel);
          store_finite(rows.tensor, dtype, b, h, token, channel, x);
        }
      }
    }
  }
}

// A factor of each token: of some of them, or of each another one.
std::vector<double> token_factors(Random& random, std::int64_t tokens, double decades) {
  std::vector<double> factors(static_cast<std::size_t>(tokens), 1.0);
  if (one_in(random, 2)) {
    for (double& factor : factors) factor = log_uniform(random, decades);
  } else {
    for (std::int64_t i = 0; i <= tokens / 100; ++i)
      factors[static_cast<std::size_t>(random.below(tokens))] = log_uniform(random, decades);
  }
  return factors;
}

void change_tokens(Random& random, const Rows& rows, double decades) {
  const std::vector<double> factors = token_factors(random, rows.tokens, decades);
  if (rows.spec.dtype != INTFLASH_INT8) {
    change_elements(rows, [&](double x, std::int64_t, std::int64_t token, std::int64_t) {
      return x * factors[static_cast<std::size_t>(token)];
    });
    return;
  }
  const intflash_tensor& t = rows.tensor;
  const std::int64_t blocks = t.scale_block == 0 ? 1 : (rows.tokens - 1) / t.scale_block + 1;
  for (std::int64_t b = 0; b < (t.scale_stride_batch == 0 ? 1 : rows.batch); ++b) {
    for (std::int64_t h = 0; h < (t.scale_stride_head == 0 ? 1 : rows.heads); ++h) {
      for (std::int64_t i = 0; i < blocks; ++i) {
        const std::int64_t at = b * t.scale_stride_batch + h * t.scale_stride_head + i;
        const double x = static_cast<double>(t.scale[at]) * factors[static_cast<std::size_t>(i)];
        const_cast<float*>(t.scale)[at] = static_cast<float>(std::clamp(x, 1e-37, 3e38));
      }
    }
  }
}

void change_channels(Random& random, const Rows& rows, bool adds) {
  std::vector<double> numbers(static_cast<std::size_t>(rows.dim), adds ? 0.0 : 1.0);
  const double size = static_cast<double>(rows.spec.magnitude) * log_uniform(random, 3);
  const bool all = one_in(random, 2);
  for (double& number : numbers) {
    if (!all && !one_in(random, 16)) continue;
    number = adds ? size * static_cast<double>(random.normal()) : log_uniform(random, 4);
  }
  change_elements(rows, [&](double x, std::int64_t, std::int64_t, std::int64_t channel) {
    const double number = numbers[static_cast<std::size_t>(channel)];
    return adds ? x + number : x * number;
  });
}

void change_rows(Random& random, const Rows& rows, std::vector<std::string>& changes) {
  const bool is_int8 = rows.spec.dtype == INTFLASH_INT8;
  if (rows.spec.dtype == INTFLASH_Q8_0 || rows.spec.dtype == INTFLASH_Q4_0) return;
  const auto changed = [&](const char* what) {
    changes.push_back(std::string(rows.name) + ' ' + what);
  };
  if (one_in(random, 8)) {
    change_tokens(random, rows, one_in(random, 2) ? 3 : 30);
    changed("tokens of many sizes");
  }
  if (!is_int8 && one_in(random, 8)) {
    change_channels(random, rows, false);
    changed("channels of many sizes");
  }
  if (!is_int8 && one_in(random, 6)) {
    change_channels(random, rows, true);
    changed("offset");
  }
}

void change_inputs(Random& random, RandomCase& made) {
  const AttentionCase& c = made.attention;
  const intflash_attend_args& args = made.tensors.args;
  const std::int64_t heads = c.num_kv_heads * c.group_size;
  const Rows all[] = {
      {"query", c.query, args.query, c.batch, heads, c.query_len, c.head_dim},
      {"key", c.key, args.key, c.batch, c.num_kv_heads, c.kv_len, c.head_dim},
      {"value", c.value, args.value, c.batch, c.num_kv_heads, c.kv_len, c.head_dim_v}};
  for (const Rows& rows : all) change_rows(random, rows, made.changes);
}

// ---- Masks ----

// All that is meant for minus infinity somewhere, and what some dtypes make of it.
constexpr float kMinusInfinities[] = {-kInfinity, -FLT_MAX, -0x1.fep127f, -65504.0f,
                                      -3.0e38f,   -1e30f,   -1e9f,        -10000.0f};

struct Elements {
  float hides;    // one of the above
  double hidden;  // the part of the keys that it is for
  double size;    // of what the others have
  bool zeros;     // or nothing
};

float random_element(Random& random, const Elements& elements) {
  if (random.uniform() < elements.hidden) return elements.hides;
  if (elements.zeros) return 0;
  return static_cast<float>(elements.size * static_cast<double>(random.normal()));
}

void add_mask(Random& random, RandomCase& made) {
  const AttentionCase& c = made.attention;
  const std::int64_t heads = c.num_kv_heads * c.group_size;
  intflash_additive_mask& mask = made.tensors.args.additive_mask;
  constexpr intflash_dtype kDtypes[] = {INTFLASH_F32, INTFLASH_F32, INTFLASH_F16, INTFLASH_BF16,
                                        INTFLASH_BOOL};
  constexpr double kHidden[] = {0, 0.05, 0.5, 0.9, 1};
  mask = {};
  mask.dtype = one_of(random, kDtypes);
  mask.stride_query = c.kv_len;
  mask.stride_head = one_in(random, 2) ? 0 : c.query_len * c.kv_len;
  mask.stride_batch = one_in(random, 2) ? 0 : heads * c.query_len * c.kv_len;
  Elements elements = {one_of(random, kMinusInfinities), one_of(random, kHidden),
                       log_uniform(random, one_in(random, 4) ? 30 : 4), one_in(random, 2)};
  const bool one_kind = one_in(random, 2);
  const std::int64_t count = c.batch * heads * c.query_len * c.kv_len;
  intflash_tensor tensor{};
  tensor.data = made.memory.take(static_cast<std::size_t>(bytes_of(mask.dtype, count)));
  for (std::int64_t i = 0; i < count; ++i) {
    if (!one_kind) elements.hides = one_of(random, kMinusInfinities);
    float x = random_element(random, elements);
    if (mask.dtype == INTFLASH_BOOL)
      static_cast<std::uint8_t*>(tensor.data)[i] = x == 0;
    else
      store_element(tensor, mask.dtype, 0, 0, 0, i,
                    std::min(x, mask.dtype == INTFLASH_F16 ? 65504.0f : 3e38f));
  }
  mask.data = tensor.data;
  char name[32];
  std::snprintf(name, sizeof name, "mask of %g", static_cast<double>(elements.hides));
  made.changes.push_back(one_kind ? name : "mask of every minus infinity");
  if (!one_in(random, 4)) return;
  float* scale = reinterpret_cast<float*>(made.memory.take(static_cast<std::size_t>(heads) * 4));
  for (std::int64_t h = 0; h < heads; ++h)
    scale[h] =
        one_in(random, 8)
            ? 0.0f
            : random.normal() * static_cast<float>(log_uniform(random, one_in(random, 4) ? 19 : 1));
  mask.head_scale = scale;
  made.changes.push_back("mask scaled by head");
}

void change_sinks(Random& random, RandomCase& made) {
  if (made.tensors.args.sinks == nullptr || !one_in(random, 3)) return;
  float* sinks = const_cast<float*>(made.tensors.args.sinks);
  const std::int64_t heads = made.attention.num_kv_heads * made.attention.group_size;
  for (std::int64_t h = 0; h < heads; ++h)
    sinks[h] = random.normal() * static_cast<float>(log_uniform(random, 30));
  made.changes.push_back("sinks of many sizes");
}

void fill_case(Random& random, RandomCase& made) {
  made.tensors = make_tensors(made.attention, made.memory);
  change_inputs(random, made);
  if (made.tensors.args.additive_mask.data == nullptr && one_in(random, 3)) add_mask(random, made);
  change_sinks(random, made);
}

}  // namespace

void make_random_case(Random& random, RandomCase& made) {
  made.attention = random_attention(random);
  fill_case(random, made);
}

void make_random_request(Random& random, RandomCase& made) {
  AttentionCase& c = made.attention;
  c = random_attention(random);
  c.batch = 1;
  for (CaseTensor* tensor : {&c.query, &c.key, &c.value}) {
    tensor->scale_block = 1;
    // A cache that rotates or centres takes no codes.
    if (tensor->dtype == INTFLASH_INT8) c.rotate = c.given_centers = false;
  }
  if (!c.given_centers) c.center = INTFLASH_CENTER_NONE;
  // Caches of such values have one digit.
  if (c.mode == INTFLASH_MODE_INT8_QK) c.score_digits = 1;
  fill_case(random, made);
}

void make_random_request_beside(const RandomCase& first, Random& random, RandomCase& made) {
  AttentionCase& c = made.attention;
  c = first.attention;
  choose_lengths(random, c);
  choose_mask(random, c);
  choose_softmax_scale(random, c);
  c.data = static_cast<CaseData>(random.below(static_cast<int>(CaseData::kSinks) + 1));
  if (one_in(random, 2))
    c.query.magnitude = c.key.magnitude = c.value.magnitude = random_magnitude(random);
  c.seed = random.next();
  fill_case(random, made);
  // What all requests of a batch share.
  intflash_attend_args& args = made.tensors.args;
  args.sinks = first.tensors.args.sinks;
  args.alibi_slopes = first.tensors.args.alibi_slopes;
  args.key_center = first.tensors.args.key_center;
  args.value_center = first.tensors.args.value_center;
}

}  // namespace intflash::internal

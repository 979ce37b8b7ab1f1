// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "attention_case.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <sstream>

#include "backend/backend.h"
#include "core/checks.h"
#include "element.h"
#include "inputs/tensor.h"
#include "random.h"

namespace intflash::internal {
namespace {

constexpr std::size_t kAlignment = 64;

void* allocate(void*, std::size_t bytes, std::size_t alignment) {
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
void deallocate(void*, void* pointer) { std::free(pointer); }

bool is_ggml(intflash_dtype dtype) { return dtype == INTFLASH_Q8_0 || dtype == INTFLASH_Q4_0; }

// Wider than any case's number of threads.
ThreadPool& test_pool() {
  static pthread_t helpers[31];
  static ThreadPool pool(helpers, this_threads_cpus());
  return pool;
}

// One tensor of a case as it is filled.
struct Filled {
  intflash_tensor tensor;
  intflash_dtype dtype;
  std::int64_t batch, heads, tokens, dim;
  float magnitude;
};

Filled make_tensor(const CaseTensor& spec, std::int64_t batch, std::int64_t heads,
                   std::int64_t tokens, std::int64_t dim, Random& random, Memory& memory) {
  std::int64_t elements = 0;
  intflash_tensor tensor = strided_tensor(spec.layout, batch, heads, tokens, dim, &elements,
                                          is_ggml(spec.dtype) ? kBlockElements : kRowPadding);
  const std::size_t bytes = static_cast<std::size_t>(bytes_of(spec.dtype, elements));
  tensor.data = memory.take(bytes);
  std::memset(tensor.data, 0xff, bytes);  // NaN between the rows of floats: nothing may read it
  if (spec.dtype == INTFLASH_INT8) {
    tensor.scale_block = spec.scale_block;
    const std::int64_t count = spec.scale_block == 0 ? 1 : (tokens - 1) / spec.scale_block + 1;
    tensor.scale_stride_head = spec.one_scale ? 0 : count;
    tensor.scale_stride_batch = spec.one_scale ? 0 : count * heads;
    const std::int64_t scales = spec.one_scale ? count : count * heads * batch;
    float* scale = reinterpret_cast<float*>(memory.take(static_cast<std::size_t>(scales) * 4));
    for (std::int64_t i = 0; i < scales; ++i)
      scale[i] = spec.magnitude / 36 * static_cast<float>(0.5 + random.uniform());
    tensor.scale = scale;
  }
  return {tensor, spec.dtype, batch, heads, tokens, dim, spec.magnitude};
}

// A block of ggml's: its scale, a half, puts the largest element on the largest code.
void store_block(intflash_dtype dtype, const float* x, float magnitude, std::uint8_t* block) {
  const int largest_code = dtype == INTFLASH_Q8_0 ? 127 : 7;
  float largest = 0;
  for (std::int64_t i = 0; i < kBlockElements; ++i)
    largest = std::max(largest, std::fabs(x[i] * magnitude));
  std::uint16_t scale_bits = 0;
  intflash_tensor scale_of_block{};
  scale_of_block.data = &scale_bits;
  store_element(scale_of_block, INTFLASH_F16, 0, 0, 0, 0,
                std::min(largest / static_cast<float>(largest_code), 65504.0f));
  std::memcpy(block, &scale_bits, sizeof scale_bits);
  const auto scale = static_cast<float>(sixteen_bit_value(INTFLASH_F16, scale_bits));
  for (std::int64_t i = 0; i < kBlockElements; ++i) {
    const float steps = scale == 0 ? 0 : std::nearbyint(x[i] * magnitude / scale);
    const int code = std::clamp(static_cast<int>(std::clamp(steps, -127.0f, 127.0f)), -largest_code,
                                largest_code);
    if (dtype == INTFLASH_Q8_0)
      block[2 + i] = static_cast<std::uint8_t>(code);
    else if (i < 16)
      block[2 + i] = static_cast<std::uint8_t>(code + 8);
    else
      block[2 + i - 16] |= static_cast<std::uint8_t>((code + 8) << 4);
  }
}

// Stores x * magnitude, or for INT8 the codes of x on a grid of step 1 / 36; finite in any dtype.
void store_row(const Filled& t, std::int64_t b, std::int64_t h, std::int64_t token,
               const std::vector<float>& x) {
  const std::int64_t first =
      b * t.tensor.stride_batch + h * t.tensor.stride_head + token * t.tensor.stride_token;
  auto* row = static_cast<std::uint8_t*>(t.tensor.data) + bytes_of(t.dtype, first);
  for (std::int64_t c = 0; is_ggml(t.dtype) && c < t.dim; c += kBlockElements)
    store_block(t.dtype, x.data() + c, t.magnitude, row + bytes_of(t.dtype, c));
  for (std::int64_t c = 0; !is_ggml(t.dtype) && c < t.dim; ++c) {
    const float element = x[static_cast<std::size_t>(c)];
    if (t.dtype == INTFLASH_INT8)
      row[c] = static_cast<std::uint8_t>(
          static_cast<int>(std::clamp(std::nearbyint(element * 36), -127.0f, 127.0f)));
    else
      store_finite(t.tensor, t.dtype, b, h, token, c, static_cast<double>(element * t.magnitude));
  }
}

template <class RowFn>
void for_each_row(const Filled& t, RowFn fn) {
  for (std::int64_t b = 0; b < t.batch; ++b) {
    for (std::int64_t h = 0; h < t.heads; ++h) {
      for (std::int64_t token = 0; token < t.tokens; ++token) fn(b, h, token);
    }
  }
}

// Every row of t is factor_of_row() times a row of the case's distribution.
void fill(const Filled& t, CaseData data, bool is_query, Random& random,
          const std::function<float(std::int64_t token)>& factor_of_token) {
  std::vector<float> bias(static_cast<std::size_t>(t.dim), 0.0f);
  if (data == CaseData::kChannelBias && !is_query) {
    for (float& x : bias) x = random.below(16) == 0 ? 12.0f * random.normal() : 0.0f;
  }
  std::vector<float> head_row(static_cast<std::size_t>(t.dim));
  std::vector<float> row(static_cast<std::size_t>(t.dim));
  for_each_row(t, [&](std::int64_t b, std::int64_t h, std::int64_t token) {
    if (token == 0) {
      for (float& x : head_row) x = random.normal();
    }
    const bool zero = data == CaseData::kZeroRows && random.below(3) == 0;
    const float factor = zero ? 0.0f : factor_of_token(token);
    for (std::int64_t c = 0; c < t.dim; ++c) {
      float x = random.normal() + bias[static_cast<std::size_t>(c)];
      if (data == CaseData::kOutliers && random.below(100) == 0) x *= 100 * random.normal();
      if (data == CaseData::kAllEqual && !is_query) x = head_row[static_cast<std::size_t>(c)];
      row[static_cast<std::size_t>(c)] = x * factor;
    }
    store_row(t, b, h, token, row);
  });
}

// Keys that the queries point at, half of them: their values are the small ones.
constexpr float kSinkValues[] = {1.0f, 0.0f, 1.0f, 1e-4f, 1.0f, 1e-30f};
bool is_sink(std::int64_t token) { return kSinkValues[token % 6] != 1.0f; }

const float* make_center(std::int64_t heads, std::int64_t dim, float magnitude, Random& random,
                         Memory& memory) {
  float* center = reinterpret_cast<float*>(memory.take(static_cast<std::size_t>(heads * dim) * 4));
  for (std::int64_t i = 0; i < heads * dim; ++i) center[i] = magnitude * random.normal();
  return center;
}

template <class T>
T* take(Memory& memory, std::int64_t count) {
  return reinterpret_cast<T*>(memory.take(static_cast<std::size_t>(count) * sizeof(T)));
}

// Hidden keys, runs of zeros and, where any are wanted, finite biases.
void make_additive_mask(const AttentionCase& c, intflash_dtype dtype, bool by_head, bool finite,
                        Random& random, Memory& memory, intflash_additive_mask& mask) {
  const std::int64_t heads = by_head ? c.batch * c.num_kv_heads * c.group_size : 1;
  mask.dtype = dtype;
  mask.stride_query = c.kv_len + 3;
  mask.stride_head = by_head ? c.query_len * mask.stride_query : 0;
  mask.stride_batch = mask.stride_head * c.num_kv_heads * c.group_size;
  const std::int64_t count = heads * c.query_len * mask.stride_query;
  float* as_f32 = take<float>(memory, count);
  std::uint16_t* as_f16 = take<std::uint16_t>(memory, count);
  mask.data = dtype == INTFLASH_F32 ? static_cast<void*>(as_f32) : as_f16;
  intflash_tensor halves{};
  halves.data = as_f16;
  const float lowest = dtype == INTFLASH_F32 ? -FLT_MAX : -65504.0f;
  bool zeros = true;
  for (std::int64_t i = 0; i < count; ++i) {
    if (random.below(150) == 0) zeros = !zeros;
    float x = zeros || !finite ? 0.0f : 3 * random.normal();
    if (random.below(5) == 0) x = random.below(2) == 0 ? lowest : -INFINITY;
    // Behind a row's last key stands what must not be read.
    if (i % mask.stride_query >= c.kv_len) x = NAN;
    if (dtype == INTFLASH_F32) {
      as_f32[i] = x;
    } else {
      store_element(halves, INTFLASH_F16, 0, 0, 0, i, x);
    }
  }
}

float* make_slopes(const AttentionCase& c, Memory& memory) {
  const std::int64_t heads = c.num_kv_heads * c.group_size;
  float* slopes = take<float>(memory, heads);
  for (std::int64_t h = 0; h < heads; ++h)
    slopes[h] = h == 1 ? 0.0f : std::exp2(-static_cast<float>(h % 8) / 2);
  return slopes;
}

// Beside scores of magnitude 1 some take most of the weight, and some little.
const float* make_sinks(std::int64_t heads, Random& random, Memory& memory) {
  float* sinks = take<float>(memory, heads);
  for (std::int64_t h = 0; h < heads; ++h)
    sinks[h] = h % 3 == 1 ? -INFINITY : 5 + 3 * random.normal();
  return sinks;
}

intflash_bit_mask make_bits(const AttentionCase& c, Random& random, Memory& memory) {
  intflash_bit_mask mask{};
  mask.num_keys = std::min<std::int64_t>(c.kv_len, 100);
  const std::int64_t count = c.query_len * ((mask.num_keys + 63) / 64);
  std::uint64_t* words = take<std::uint64_t>(memory, count);
  for (std::int64_t i = 0; i < count; ++i) {
    words[i] = 0;
    for (int bit = 0; bit < 64; ++bit)
      words[i] |= static_cast<std::uint64_t>(random.below(2)) << bit;
  }
  mask.words = words;
  return mask;
}

void make_bias(const AttentionCase& c, Random& random, Memory& memory, intflash_attend_args& args) {
  const bool all = c.bias == CaseBias::kAll;
  if (c.bias == CaseBias::kHiding)
    make_additive_mask(c, INTFLASH_F16, false, false, random, memory, args.additive_mask);
  if (all) make_additive_mask(c, INTFLASH_F16, true, true, random, memory, args.additive_mask);
  if (c.bias == CaseBias::kAdditive) {
    make_additive_mask(c, INTFLASH_F32, true, true, random, memory, args.additive_mask);
    args.additive_mask.head_scale = make_slopes(c, memory);
  }
  if (c.bias == CaseBias::kAlibi || all) args.alibi_slopes = make_slopes(c, memory);
  if (c.bias == CaseBias::kTree || all) args.bit_mask = make_bits(c, random, memory);
}

}  // namespace

void store_finite(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                  std::int64_t h, std::int64_t token, std::int64_t c, double value) {
  const double most = dtype == INTFLASH_F16 ? 65504 : 3e38;
  const auto x = static_cast<float>(std::clamp(value, -most, most));
  if (dtype != INTFLASH_F8_E4M3 && dtype != INTFLASH_F8_E5M2)
    return store_element(tensor, dtype, b, h, token, c, x);
  const std::int64_t at =
      b * tensor.stride_batch + h * tensor.stride_head + token * tensor.stride_token + c;
  static_cast<std::uint8_t*>(tensor.data)[at] = eight_bit_code(dtype, x);
}

intflash_tensor strided_tensor(Layout layout, std::int64_t batch, std::int64_t heads,
                               std::int64_t tokens, std::int64_t dim, std::int64_t* elements,
                               std::int64_t row_padding) {
  intflash_tensor tensor = {};
  const std::int64_t padding = layout == Layout::kPaddedRows ? row_padding : 0;
  if (layout == Layout::kTokensFirst) {
    tensor.stride_head = dim;
    tensor.stride_token = heads * dim;
  } else {
    tensor.stride_token = dim + padding;
    tensor.stride_head = tokens * tensor.stride_token;
  }
  tensor.stride_batch = heads * tokens * (dim + padding);
  *elements = batch * tensor.stride_batch;
  // The last row of a padded tensor may end where its memory ends.
  if (*elements > 0) *elements -= padding;
  return tensor;
}

std::string describe(const AttentionCase& c) {
  std::ostringstream text;
  const char* dtypes[] = {"?",    "f32",  "f16",  "bf16",    "int8",
                          "q8_0", "q4_0", "bool", "f8_e4m3", "f8_e5m2"};
  const auto tensor = [&](const char* name, const CaseTensor& t) {
    text << ' ' << name << '(' << dtypes[t.dtype] << " layout " << static_cast<int>(t.layout);
    if (t.dtype == INTFLASH_INT8)
      text << " scale_block " << t.scale_block << (t.one_scale ? " shared" : "");
    text << " magnitude " << t.magnitude << ')';
  };
  text << "batch " << c.batch << " kv_heads " << c.num_kv_heads << " group " << c.group_size
       << " query_len " << c.query_len << " kv_len " << c.kv_len << " head_dim " << c.head_dim
       << " head_dim_v " << c.head_dim_v;
  tensor("query", c.query);
  tensor("key", c.key);
  tensor("value", c.value);
  tensor("out", c.out);
  text << " mode " << c.mode << " mask " << c.mask << " window " << c.window_left << ','
       << c.window_right << " prefix " << c.prefix_len << " softmax_scale " << c.softmax_scale
       << " cap " << c.score_cap << " center " << c.center << (c.given_centers ? " given" : "")
       << (c.rotate ? " rotated" : "") << " digits " << c.score_digits << (c.sinks ? " sinks" : "")
       << " bias " << static_cast<int>(c.bias) << " data " << static_cast<int>(c.data) << " seed "
       << c.seed;
  return text.str();
}

intflash_attend_desc desc_of(const AttentionCase& c) {
  intflash_attend_desc desc = {};
  desc.struct_size = sizeof desc;
  desc.mode = c.mode;
  desc.batch = c.batch;
  desc.num_query_heads = c.num_kv_heads * c.group_size;
  desc.num_kv_heads = c.num_kv_heads;
  desc.query_len = c.query_len;
  desc.kv_len = c.kv_len;
  desc.head_dim = c.head_dim;
  desc.head_dim_v = c.head_dim_v;
  desc.query_dtype = c.query.dtype;
  desc.key_dtype = c.key.dtype;
  desc.value_dtype = c.value.dtype;
  desc.out_dtype = c.out.dtype;
  desc.mask = c.mask;
  desc.window_left = c.window_left;
  desc.window_right = c.window_right;
  desc.softmax_scale = c.softmax_scale;
  desc.score_cap = c.score_cap;
  desc.center = c.center;
  desc.rotation = c.rotate ? INTFLASH_ROTATION_AUTO : INTFLASH_ROTATION_NONE;
  desc.prefix_len = c.prefix_len;
  desc.score_digits = c.score_digits;
  return desc;
}

std::byte* Memory::take(std::size_t bytes) {
  const std::size_t rounded = (bytes + kAlignment) / kAlignment * kAlignment;  // never 0
  blocks_.emplace_back(static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded)));
  if (blocks_.back() == nullptr) throw std::bad_alloc();
  return blocks_.back().get();
}
void Memory::Free::operator()(std::byte* bytes) const { std::free(bytes); }

CaseTensors make_tensors(const AttentionCase& c, Memory& memory) {
  Random random(c.seed * 0x9e3779b97f4a7c15 + 1);
  const std::int64_t query_heads = c.num_kv_heads * c.group_size;
  const Filled query =
      make_tensor(c.query, c.batch, query_heads, c.query_len, c.head_dim, random, memory);
  const Filled key =
      make_tensor(c.key, c.batch, c.num_kv_heads, c.kv_len, c.head_dim, random, memory);
  const Filled value =
      make_tensor(c.value, c.batch, c.num_kv_heads, c.kv_len, c.head_dim_v, random, memory);

  // Scores reach 1e5: |query| |key| softmax_scale = 1e5 for rows that point the same way.
  const float one_hot =
      static_cast<float>(std::sqrt(1e5 / std::sqrt(static_cast<double>(c.head_dim))));
  const float spread = c.data == CaseData::kOneHot ? one_hot : 1.0f;
  fill(query, c.data, true, random, [&](std::int64_t) { return spread; });
  fill(key, c.data, false, random, [&](std::int64_t token) {
    return c.data == CaseData::kSinks && is_sink(token) ? 3.0f : spread;
  });
  fill(value, c.data, false, random, [&](std::int64_t token) {
    return c.data == CaseData::kSinks ? kSinkValues[token % 6] : 1.0f;
  });

  CaseTensors tensors = {};
  tensors.desc = desc_of(c);
  std::int64_t elements = 0;
  tensors.args.struct_size = sizeof tensors.args;
  tensors.args.query = query.tensor;
  tensors.args.key = key.tensor;
  tensors.args.value = value.tensor;
  tensors.args.out =
      strided_tensor(c.out.layout, c.batch, query_heads, c.query_len, c.head_dim_v, &elements);
  tensors.out_bytes = static_cast<std::size_t>(bytes_of(c.out.dtype, elements));
  tensors.out = memory.take(tensors.out_bytes);
  std::memset(tensors.out, CaseTensors::kPoison, tensors.out_bytes);
  tensors.args.out.data = tensors.out;
  if (c.lse) {
    tensors.lse_count = static_cast<std::size_t>(c.batch * query_heads * c.query_len);
    tensors.args.lse = reinterpret_cast<float*>(memory.take(tensors.lse_count * 4));
    std::memset(tensors.args.lse, CaseTensors::kPoison, tensors.lse_count * 4);
  }
  if (c.given_centers) {
    const std::int64_t heads = c.batch * c.num_kv_heads;
    tensors.args.key_center = make_center(heads, c.head_dim, c.key.magnitude, random, memory);
    tensors.args.value_center = make_center(heads, c.head_dim_v, c.value.magnitude, random, memory);
  }
  make_bias(c, random, memory, tensors.args);
  if (c.sinks) tensors.args.sinks = make_sinks(query_heads, random, memory);
  return tensors;
}

bool CaseResult::operator==(const CaseResult& other) const {
  const auto same_bits = [](float a, float b) {
    return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
  };
  return status == other.status && out == other.out &&
         std::equal(lse.begin(), lse.end(), other.lse.begin(), other.lse.end(), same_bits);
}

intflash_context make_context(const PortEntry& port, const RunOptions& options) {
  intflash_context context = {};
  context.device = &kCpuDevice;
  context.port = &port;
  context.num_threads = options.num_threads;
  context.parallel = options.parallel.run == nullptr ? test_pool().parallel() : options.parallel;
  context.allocate = allocate;
  context.deallocate = deallocate;
  context.l2_bytes = options.l2_bytes;
  return context;
}

CaseResult run_tensors(CaseTensors& tensors, const PortEntry& port, const RunOptions& options,
                       Memory& memory) {
  intflash_context context = make_context(port, options);
  CaseResult result;
  intflash_plan* plan = nullptr;
  result.status = intflash_plan_attend(&context, &tensors.desc, &plan);
  if (result.status == INTFLASH_OK) {
    const std::size_t bytes = intflash_plan_workspace_bytes(plan);
    std::byte* workspace = memory.take(bytes);
    std::memset(workspace, CaseTensors::kPoison, bytes);
    if (options.packed) {
      intflash_attend_args pack_args = tensors.args;
      pack_args.query = pack_args.out = {};
      result.status = intflash_pack(plan, &pack_args, workspace, bytes);
      if (result.status == INTFLASH_OK)
        result.status = intflash_run_packed(plan, &tensors.args, workspace, bytes);
    } else {
      result.status = intflash_run(plan, &tensors.args, workspace, bytes);
    }
    intflash_plan_destroy(plan);
  }
  if (result.status != INTFLASH_OK) result.error = intflash_last_error();
  result.out.assign(tensors.out, tensors.out + tensors.out_bytes);
  result.lse.assign(tensors.args.lse, tensors.args.lse + tensors.lse_count);
  return result;
}

CaseResult run_case(const AttentionCase& c, const PortEntry& port, const RunOptions& options) {
  Memory memory;
  CaseTensors tensors = make_tensors(c, memory);
  return run_tensors(tensors, port, options, memory);
}

std::string difference(const AttentionCase& c, const CaseResult& a, const CaseResult& b) {
  if (a == b) return "";
  std::ostringstream text;
  if (a.status != b.status) {
    text << "status " << intflash_status_name(a.status) << " (" << a.error << ") against "
         << intflash_status_name(b.status) << " (" << b.error << ")";
    return text.str();
  }
  const Numbers x = numbers_of(c, a);
  const Numbers y = numbers_of(c, b);
  for (std::size_t i = 0; i < x.out.size(); ++i) {
    if (x.out[i] == y.out[i]) continue;
    const std::size_t dim = static_cast<std::size_t>(c.head_dim_v);
    text << "out row " << i / dim << " channel " << i % dim << ": " << x.out[i] << " against "
         << y.out[i];
    return text.str();
  }
  for (std::size_t i = 0; i < x.lse.size(); ++i) {
    if (x.lse[i] == y.lse[i]) continue;
    text << "lse row " << i << ": " << x.lse[i] << " against " << y.lse[i];
    return text.str();
  }
  return "the bytes between rows, or a sign of zero, or NaN";
}

Numbers numbers_of(const AttentionCase& c, const CaseResult& result) {
  const std::int64_t heads = c.num_kv_heads * c.group_size;
  std::int64_t elements = 0;
  intflash_tensor out =
      strided_tensor(c.out.layout, c.batch, heads, c.query_len, c.head_dim_v, &elements);
  out.data = const_cast<std::byte*>(result.out.data());  // read only
  Numbers numbers;
  numbers.out.reserve(static_cast<std::size_t>(c.batch * heads * c.query_len * c.head_dim_v));
  for (std::int64_t b = 0; b < c.batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < c.query_len; ++i) {
        for (std::int64_t channel = 0; channel < c.head_dim_v; ++channel)
          numbers.out.push_back(element_of(out, c.out.dtype, b, h, i, channel));
      }
    }
  }
  numbers.lse.assign(result.lse.begin(), result.lse.end());
  return numbers;
}

}  // namespace intflash::internal

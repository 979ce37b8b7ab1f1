// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "graph.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "ggml-alloc.h"

namespace intflash::llama {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<float> normal_numbers(std::int64_t count, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<float> numbers(static_cast<std::size_t>(count));
  for (float& number : numbers) number = normal(random);
  return numbers;
}

std::vector<char> rows_of_type(const std::vector<float>& numbers, std::int64_t dim,
                               ggml_type type) {
  const std::int64_t rows = static_cast<std::int64_t>(numbers.size()) / dim;
  std::vector<char> bytes(static_cast<std::size_t>(rows) * ggml_row_size(type, dim));
  ggml_quantize_chunk(type, numbers.data(), bytes.data(), 0, rows, dim, nullptr);
  return bytes;
}

std::vector<double> numbers_of(const std::vector<char>& bytes, std::int64_t dim, ggml_type type) {
  const std::size_t row_bytes = ggml_row_size(type, dim);
  const std::size_t rows = bytes.size() / row_bytes;
  std::vector<float> row(static_cast<std::size_t>(dim));
  std::vector<double> numbers;
  for (std::size_t r = 0; r < rows; ++r) {
    const char* from = bytes.data() + r * row_bytes;
    if (type == GGML_TYPE_F32) {
      std::copy_n(reinterpret_cast<const float*>(from), dim, row.data());
    } else {
      ggml_get_type_traits(type)->to_float(from, row.data(), dim);
    }
    numbers.insert(numbers.end(), row.begin(), row.end());
  }
  return numbers;
}

bool sees(const Attention& a, std::int64_t token, std::int64_t key, std::mt19937_64& random) {
  switch (a.mask) {
    case MaskKind::kNone:
      return true;
    case MaskKind::kCausal:
      return key <= a.kv_len - a.query_len + token;
    case MaskKind::kRandom:
      return random() % 3 != 0 && token > 0;
    case MaskKind::kPadded:
      return key <= a.kv_len * 3 / 4 - a.query_len + token;
    case MaskKind::kLowest:
      return key <= a.kv_len - a.query_len + token && token > 0;
  }
  return true;
}

std::vector<ggml_fp16_t> make_mask(const Attention& a, std::mt19937_64& random) {
  std::vector<ggml_fp16_t> mask;
  if (a.mask == MaskKind::kNone) return mask;
  const float hidden =
      a.mask == MaskKind::kLowest ? -65504.0f : -std::numeric_limits<float>::infinity();
  for (std::int64_t row = 0; row < a.streams * a.query_len; ++row) {
    const std::int64_t token = row % a.query_len;
    for (std::int64_t key = 0; key < a.kv_len; ++key) {
      const std::int64_t distance = std::abs(a.kv_len - a.query_len + token - key);
      const float bias = a.max_bias > 0 ? -static_cast<float>(distance) : 0;
      mask.push_back(ggml_fp32_to_fp16(sees(a, token, key, random) ? bias : hidden));
    }
  }
  return mask;
}

// [dim, tokens, heads, streams] over heads side by side, or over tokens side by side.
ggml_tensor* make_rows(ggml_context* context, const Attention& a, ggml_type type, std::int64_t dim,
                       std::int64_t tokens, std::int64_t heads) {
  if (!a.tokens_first) return ggml_new_tensor_4d(context, type, dim, tokens, heads, a.streams);
  ggml_tensor* tensor = ggml_new_tensor_4d(context, type, dim, heads, tokens, a.streams);
  return ggml_permute(context, tensor, 0, 2, 1, 3);
}

// Rows [streams][tokens][heads] to where a tensor has them.
void set_rows(ggml_tensor* tensor, const void* rows) {
  const std::size_t bytes = ggml_row_size(tensor->type, tensor->ne[0]);
  const char* row = static_cast<const char*>(rows);
  for (std::int64_t stream = 0; stream < tensor->ne[3]; ++stream) {
    for (std::int64_t token = 0; token < tensor->ne[1]; ++token) {
      for (std::int64_t head = 0; head < tensor->ne[2]; ++head, row += bytes) {
        ggml_backend_tensor_set(tensor, row,
                                static_cast<std::size_t>(stream) * tensor->nb[3] +
                                    static_cast<std::size_t>(head) * tensor->nb[2] +
                                    static_cast<std::size_t>(token) * tensor->nb[1],
                                bytes);
      }
    }
  }
}

void set_inputs(const ggml_tensor& op, const Attention& a, const Data& data) {
  set_rows(op.src[0], data.query.data());
  set_rows(op.src[1], data.key.data());
  if (!a.value_in_key) set_rows(op.src[2], data.value.data());
  if (op.src[3] != nullptr)
    ggml_backend_tensor_set(op.src[3], data.mask.data(), 0, ggml_nbytes(op.src[3]));
  if (op.src[4] != nullptr)
    ggml_backend_tensor_set(op.src[4], data.sinks.data(), 0, ggml_nbytes(op.src[4]));
}

double alibi_slope(const Attention& a, std::int64_t head) {
  if (a.max_bias <= 0) return 1;
  const double power = std::exp2(std::floor(std::log2(static_cast<double>(a.num_heads()))));
  const double h = static_cast<double>(head);
  const double exponent = h < power ? h + 1 : h - power + 0.5;
  return std::exp2(-static_cast<double>(a.max_bias) / power * exponent);
}

// One row from the definition; key and value point at the stream's and head's first.
void attend_row(const Attention& a, const float* query, const double* key, const double* value,
                std::int64_t value_stride, const ggml_fp16_t* mask, double slope, double sink,
                float* out) {
  std::vector<double> weights;
  double largest = sink;
  for (std::int64_t t = 0; t < a.kv_len; ++t) {
    double score = 0;
    for (std::int64_t c = 0; c < a.head_dim; ++c)
      score += static_cast<double>(query[c]) * key[t * a.num_kv_heads * a.head_dim + c];
    score /= std::sqrt(static_cast<double>(a.head_dim));
    const double cap = static_cast<double>(a.score_cap);
    if (cap > 0) score = cap * std::tanh(score / cap);
    if (mask != nullptr) score += slope * static_cast<double>(ggml_fp16_to_fp32(mask[t]));
    weights.push_back(score);
    largest = std::max(largest, score);
  }
  if (largest == -kInfinity) {
    std::fill_n(out, a.head_dim_v, 0.0f);
    return;
  }
  double sum = std::exp(sink - largest);
  std::vector<double> mean(static_cast<std::size_t>(a.head_dim_v));
  for (std::int64_t t = 0; t < a.kv_len; ++t) {
    const double weight = std::exp(weights[static_cast<std::size_t>(t)] - largest);
    sum += weight;
    for (std::int64_t c = 0; c < a.head_dim_v; ++c)
      mean[static_cast<std::size_t>(c)] += weight * value[t * a.num_kv_heads * value_stride + c];
  }
  for (std::int64_t c = 0; c < a.head_dim_v; ++c)
    out[c] = static_cast<float>(mean[static_cast<std::size_t>(c)] / sum);
}

}  // namespace

TensorContext::TensorContext() : context(ggml_init({std::size_t{1} << 20, nullptr, true})) {}
TensorContext::~TensorContext() { ggml_free(context); }

Data make_data(const Attention& a, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const std::int64_t keys = a.streams * a.kv_len * a.num_kv_heads;
  Data data;
  data.query = normal_numbers(a.streams * a.query_len * a.num_heads() * a.head_dim, random);
  data.key = rows_of_type(normal_numbers(keys * a.head_dim, random), a.head_dim, a.key_type);
  data.value =
      rows_of_type(normal_numbers(keys * a.head_dim_v, random), a.head_dim_v, a.value_type);
  data.mask = make_mask(a, random);
  if (a.sinks) data.sinks = normal_numbers(a.num_heads(), random);
  return data;
}

Data only_token(const Attention& a, const Data& data, std::int64_t token) {
  Data one = data;
  const std::int64_t row = a.num_heads() * a.head_dim;
  one.query.clear();
  one.mask.clear();
  for (std::int64_t stream = 0; stream < a.streams; ++stream) {
    const std::int64_t index = stream * a.query_len + token;
    one.query.insert(one.query.end(), data.query.begin() + index * row,
                     data.query.begin() + (index + 1) * row);
    if (a.mask == MaskKind::kNone) continue;
    one.mask.insert(one.mask.end(), data.mask.begin() + index * a.kv_len,
                    data.mask.begin() + (index + 1) * a.kv_len);
  }
  return one;
}

ggml_tensor* build(ggml_context* context, const Attention& a) {
  ggml_tensor* query = make_rows(context, a, GGML_TYPE_F32, a.head_dim, a.query_len, a.num_heads());
  ggml_tensor* key = make_rows(context, a, a.key_type, a.head_dim, a.kv_len, a.num_kv_heads);
  ggml_tensor* value =
      a.value_in_key ? ggml_view_4d(context, key, a.head_dim_v, a.kv_len, a.num_kv_heads, a.streams,
                                    key->nb[1], key->nb[2], key->nb[3], 0)
                     : make_rows(context, a, a.value_type, a.head_dim_v, a.kv_len, a.num_kv_heads);
  ggml_tensor* mask =
      a.mask == MaskKind::kNone
          ? nullptr
          : ggml_new_tensor_4d(context, GGML_TYPE_F16, a.kv_len, a.query_len, 1, a.streams);
  ggml_tensor* op =
      ggml_flash_attn_ext(context, query, key, value, mask,
                          1 / std::sqrt(static_cast<float>(a.head_dim)), a.max_bias, a.score_cap);
  if (a.sinks)
    ggml_flash_attn_ext_add_sinks(op, ggml_new_tensor_1d(context, GGML_TYPE_F32, a.num_heads()));
  ggml_prec_set_acc(op, GGML_PREC_F32);
  return op;
}

Graph::Graph(const Attention& a, const Data& data)
    : op_(build(tensors_.context, a)),
      graph_(ggml_new_graph(tensors_.context)),
      buffer_(ggml_backend_alloc_ctx_tensors_from_buft(tensors_.context,
                                                       ggml_backend_cpu_buffer_type())) {
  ggml_build_forward_expand(graph_, op_);
  ggml_backend_buffer_clear(buffer_, 0);
  set_inputs(*op_, a, data);
}
Graph::~Graph() { ggml_backend_buffer_free(buffer_); }

ggml_status Graph::compute(ggml_backend_t backend) {
  return ggml_backend_graph_compute(backend, graph_);
}

std::vector<float> Graph::result() const {
  std::vector<float> out(static_cast<std::size_t>(ggml_nelements(op_)));
  ggml_backend_tensor_get(op_, out.data(), 0, ggml_nbytes(op_));
  return out;
}

std::vector<float> compute(ggml_backend_t backend, const Attention& a, const Data& data) {
  Graph graph(a, data);
  if (graph.compute(backend) != GGML_STATUS_SUCCESS) return {};
  return graph.result();
}

double relative_error(const std::vector<float>& found, const std::vector<float>& right) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < right.size(); ++i) {
    difference += std::fabs(static_cast<double>(found[i]) - static_cast<double>(right[i]));
    size += std::fabs(static_cast<double>(right[i]));
  }
  return difference / size;
}

std::vector<float> compute_exactly(const Attention& a, const Data& data) {
  const std::vector<double> key = numbers_of(data.key, a.head_dim, a.key_type);
  const std::vector<double> value =
      a.value_in_key ? key : numbers_of(data.value, a.head_dim_v, a.value_type);
  const std::int64_t value_stride = a.value_in_key ? a.head_dim : a.head_dim_v;
  std::vector<float> out(
      static_cast<std::size_t>(a.streams * a.query_len * a.num_heads() * a.head_dim_v));
  for (std::int64_t row = 0; row < a.streams * a.query_len; ++row) {
    const std::int64_t first = row / a.query_len * a.kv_len * a.num_kv_heads;
    for (std::int64_t h = 0; h < a.num_heads(); ++h) {
      const std::int64_t kv_head = h / a.group_size;
      const std::int64_t index = row * a.num_heads() + h;
      attend_row(
          a, data.query.data() + index * a.head_dim, key.data() + (first + kv_head) * a.head_dim,
          value.data() + (first + kv_head) * value_stride, value_stride,
          data.mask.empty() ? nullptr : data.mask.data() + row * a.kv_len, alibi_slope(a, h),
          a.sinks ? static_cast<double>(data.sinks[static_cast<std::size_t>(h)]) : -kInfinity,
          out.data() + index * a.head_dim_v);
    }
  }
  return out;
}

}  // namespace intflash::llama

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention as llama.cpp would ask for it: its data from a seed, computed by any backend, and in
// double from the definition.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "ggml-backend.h"
#include "ggml.h"

namespace intflash::llama {

enum class MaskKind {
  kNone,
  kCausal,
  kRandom,  // any key hidden or not; the first token sees none
  kPadded,  // causal over the first three quarters of the keys: cells of a cache not yet used
  kLowest   // causal, with f16's lowest number added where others hide; the first token sees none
};

struct Attention {
  std::int64_t head_dim = 128;
  std::int64_t head_dim_v = 128;
  std::int64_t num_kv_heads = 2;
  std::int64_t group_size = 4;
  std::int64_t query_len = 33;
  std::int64_t kv_len = 512;
  std::int64_t streams = 1;
  ggml_type key_type = GGML_TYPE_F16;
  ggml_type value_type = GGML_TYPE_F16;
  MaskKind mask = MaskKind::kCausal;
  float max_bias = 0;
  float score_cap = 0;
  bool sinks = false;
  bool tokens_first = true;   // as a cache lies: the heads of a token side by side
  bool value_in_key = false;  // values are the first channels of keys (MLA)

  std::int64_t num_heads() const { return num_kv_heads * group_size; }
};

// [streams][tokens][heads][dim], and what a backend gets of it.
struct Data {
  std::vector<float> query;
  std::vector<char> key, value;   // [streams][kv_len][heads] rows of their types
  std::vector<ggml_fp16_t> mask;  // [streams][query_len][kv_len]
  std::vector<float> sinks;
};
Data make_data(const Attention& attention, std::uint64_t seed);

// Data of one token alone, which sees what it saw before.
Data only_token(const Attention& attention, const Data& data, std::int64_t token);

// A context of ggml for tensors without data, ended with the scope.
struct TensorContext {
  TensorContext();
  ~TensorContext();
  TensorContext(const TensorContext&) = delete;
  TensorContext& operator=(const TensorContext&) = delete;
  ggml_context* context;
};

// The op over tensors without data.
ggml_tensor* build(ggml_context* context, const Attention& attention);

// The op in memory of the CPU, which any backend of the CPU computes.
class Graph {
 public:
  Graph(const Attention& attention, const Data& data);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  ggml_status compute(ggml_backend_t backend);
  std::vector<float> result() const;  // [streams][query_len][heads][head_dim_v]

 private:
  TensorContext tensors_;
  ggml_tensor* op_;
  ggml_cgraph* graph_;
  ggml_backend_buffer_t buffer_;
};

// The result, or nothing where the backend fails.
std::vector<float> compute(ggml_backend_t backend, const Attention& attention, const Data& data);

// The same from the definition, over the inputs as their types hold them.
std::vector<float> compute_exactly(const Attention& attention, const Data& data);

// Of the sums of magnitudes. found has as many elements as right.
double relative_error(const std::vector<float>& found, const std::vector<float>& right);

}  // namespace intflash::llama

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "compare_inputs.h"

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "inputs/tensor.h"
#include "synthetic.h"

namespace intflash {
namespace {

Matrix matrix_of(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                 std::int64_t h, std::int64_t tokens, std::int64_t dim) {
  Matrix matrix(tokens, dim);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t c = 0; c < dim; ++c)
      matrix.row(t)[c] = internal::tensor_element(tensor, dtype, b, h, t, c);
  }
  return matrix;
}

constexpr std::int64_t kRandomHeads = 4, kRandomHeadDim = 128;

Distribution distribution_of(const std::string& name) {
  if (name == "uniform") return Distribution::kUniform;
  if (name == "student-t") return Distribution::kStudentT;
  return Distribution::kNormal;
}

// Appends a head to an array of shape [heads, tokens, dim].
void append_head(const Matrix& matrix, NpyArray& array) {
  array.shape = {kRandomHeads, matrix.tokens, matrix.dim};
  const std::vector<float> floats(matrix.data.begin(), matrix.data.end());
  const auto* bytes = reinterpret_cast<const std::byte*>(floats.data());
  array.data.insert(array.data.end(), bytes, bytes + floats.size() * sizeof(float));
}

}  // namespace

AttentionInputs random_inputs(const std::string& distribution, bool quick) {
  AttentionInputs inputs = {};
  inputs.batch = 1;
  inputs.num_query_heads = inputs.num_kv_heads = kRandomHeads;
  inputs.query_len = quick ? 8 : 64;
  inputs.kv_len = quick ? 256 : 4096;
  inputs.head_dim = inputs.head_dim_v = kRandomHeadDim;
  for (std::int64_t h = 0; h < kRandomHeads; ++h) {
    const Head head = make_head(distribution_of(distribution), inputs.query_len, inputs.kv_len,
                                kRandomHeadDim, static_cast<std::uint64_t>(h + 1));
    append_head(head.query, inputs.query);
    append_head(head.key, inputs.key);
    append_head(head.value, inputs.value);
  }
  return inputs;
}

Head head_of(const AttentionInputs& inputs, const intflash_attend_desc& desc, std::int64_t b,
             std::int64_t h) {
  const intflash_attend_args args = inputs.args();
  const std::int64_t kv_head = h / (inputs.num_query_heads / inputs.num_kv_heads);
  return {matrix_of(args.query, desc.query_dtype, b, h, inputs.query_len, inputs.head_dim),
          matrix_of(args.key, desc.key_dtype, b, kv_head, inputs.kv_len, inputs.head_dim),
          matrix_of(args.value, desc.value_dtype, b, kv_head, inputs.kv_len, inputs.head_dim_v),
          desc.softmax_scale, desc.mask == INTFLASH_MASK_CAUSAL};
}

intflash_attend_desc compare_desc(const CompareOptions& options, const AttentionInputs& inputs) {
  intflash_attend_desc desc = inputs.desc();
  desc.mask = options.causal ? INTFLASH_MASK_CAUSAL : INTFLASH_MASK_NONE;
  // Said out loud, so that the simulations use the same number.
  desc.softmax_scale =
      options.softmax_scale != 0
          ? options.softmax_scale
          : static_cast<float>(1 / std::sqrt(static_cast<double>(inputs.head_dim)));
  return desc;
}

std::vector<float> run_library(const Context& context, const intflash_attend_desc& desc,
                               const AttentionInputs& inputs) {
  std::vector<float> out(static_cast<std::size_t>(inputs.num_out_elements()));
  intflash_attend_args args = inputs.args();
  args.out = contiguous(out.data(), inputs.num_query_heads, inputs.query_len, inputs.head_dim_v);
  context.attend(desc, args);
  return out;
}

std::vector<float> attend_heads(Matrix (*attend)(const Head&), const AttentionInputs& inputs,
                                const intflash_attend_desc& desc) {
  std::vector<float> out;
  out.reserve(static_cast<std::size_t>(inputs.num_out_elements()));
  for (std::int64_t b = 0; b < inputs.batch; ++b) {
    for (std::int64_t h = 0; h < inputs.num_query_heads; ++h) {
      for (const double element : attend(head_of(inputs, desc, b, h)).data)
        out.push_back(static_cast<float>(element));
    }
  }
  return out;
}

}  // namespace intflash

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "score_inputs.h"

#include <fmt/format.h>

#include <cmath>
#include <cstddef>

#include "call.h"
#include "failure.h"
#include "inputs/tensor.h"

namespace intflash {
namespace {

// A mask's shape is compared as NumPy broadcasts: from the last axis; those that are missing or 1
// have stride 0. Not the keys, of which the library reads a whole row.
intflash_additive_mask layout_of(const NpyArray& mask, const std::string& path,
                                 const AttentionInputs& inputs) {
  const std::int64_t wanted[] = {inputs.kv_len, inputs.query_len, inputs.num_query_heads,
                                 inputs.batch};
  std::int64_t strides[4] = {};
  std::int64_t stride = 1;
  const std::size_t axes = mask.shape.size();
  bool fits = axes >= 1 && axes <= 4;
  for (std::size_t i = 0; fits && i < axes; ++i) {
    const std::int64_t length = mask.shape[axes - 1 - i];
    fits = length == wanted[i] || (length == 1 && i > 0);
    if (length != 1) strides[i] = stride;
    stride *= length;
  }
  if (!fits) {
    throw Failure(fmt::format(
        "{}: shape ({}) does not fit [batch, heads, query_len, kv_len] = [{}, {}, {}, {}], of "
        "which all but kv_len may be 1, or missing at the front",
        path, fmt::join(mask.shape, ", "), wanted[3], wanted[2], wanted[1], wanted[0]));
  }
  intflash_additive_mask layout = {};
  layout.dtype = mask.dtype;
  layout.stride_batch = strides[3];
  layout.stride_head = strides[2];
  layout.stride_query = strides[1];
  return layout;
}

std::vector<float> read_per_head(const std::string& path, std::int64_t heads) {
  NpyArray array = read_npy(path);
  if (array.shape != std::vector<std::int64_t>{heads}) {
    throw Failure(fmt::format("{}: shape ({}) is not [heads] = [{}]", path,
                              fmt::join(array.shape, ", "), heads));
  }
  const intflash_tensor tensor = contiguous(array.data.data(), 1, 1, heads);
  std::vector<float> values;
  for (std::int64_t h = 0; h < heads; ++h) {
    values.push_back(static_cast<float>(internal::tensor_element(tensor, array.dtype, 0, 0, 0, h)));
  }
  return values;
}

std::vector<float> slopes_of(std::int64_t heads) {
  std::vector<float> slopes;
  for (std::int64_t h = 0; h < heads; ++h) {
    slopes.push_back(static_cast<float>(
        std::exp2(-8 * static_cast<double>(h + 1) / static_cast<double>(heads))));
  }
  return slopes;
}

}  // namespace

void ScoreInputs::add_to(intflash_attend_args& args) const {
  if (!additive_mask.data.empty()) {
    args.additive_mask = mask_layout;
    args.additive_mask.data = additive_mask.data.data();
  }
  if (!sinks.empty()) args.sinks = sinks.data();
  if (!alibi_slopes.empty()) args.alibi_slopes = alibi_slopes.data();
}

ScoreInputs read_score_inputs(const ScoreOptions& options, const AttentionInputs& inputs) {
  ScoreInputs scores;
  if (!options.additive_mask.empty()) {
    scores.additive_mask = read_npy(options.additive_mask, NpyTypes::kFloatsAndBytes);
    scores.mask_layout = layout_of(scores.additive_mask, options.additive_mask, inputs);
  }
  if (!options.sinks.empty()) scores.sinks = read_per_head(options.sinks, inputs.num_query_heads);
  if (!options.alibi_slopes.empty()) {
    scores.alibi_slopes = read_per_head(options.alibi_slopes, inputs.num_query_heads);
  }
  if (options.alibi) scores.alibi_slopes = slopes_of(inputs.num_query_heads);
  return scores;
}

}  // namespace intflash

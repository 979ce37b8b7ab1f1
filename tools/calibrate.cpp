// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "calibrate.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "attention_inputs.h"
#include "call.h"
#include "compare_inputs.h"
#include "digit_report.h"
#include "failure.h"
#include "inputs/tensor.h"
#include "npy.h"

namespace intflash {
namespace {

struct Means {
  std::vector<std::int64_t> shape;  // [heads, dim]
  std::vector<float> elements;
};

// Over the tokens of all the batch, summed in double.
Means means_of(const NpyArray& array, const std::string& path) {
  const HeadAxes axes = head_axes(array, path);
  const std::int64_t tokens = axes.batch * axes.tokens;
  if (tokens == 0) throw Failure(fmt::format("{}: no tokens to take the mean of", path));
  const intflash_tensor tensor = contiguous(array.data.data(), axes.heads, axes.tokens, axes.dim);
  Means means{{axes.heads, axes.dim}, {}};
  for (std::int64_t h = 0; h < axes.heads; ++h) {
    for (std::int64_t c = 0; c < axes.dim; ++c) {
      double sum = 0;
      for (std::int64_t t = 0; t < tokens; ++t)
        sum +=
            internal::tensor_element(tensor, array.dtype, t / axes.tokens, h, t % axes.tokens, c);
      if (!std::isfinite(sum))
        throw Failure(fmt::format("{}: head {}, channel {} is not finite", path, h, c));
      means.elements.push_back(static_cast<float>(sum / static_cast<double>(tokens)));
    }
  }
  return means;
}

void write_centers(const CalibrateOptions& options, const NpyArray& keys, const NpyArray& values) {
  const Means key = means_of(keys, options.key);
  const Means value = means_of(values, options.value);
  const NpyOutput outputs[] = {{options.key_center, key.shape, key.elements.data()},
                               {options.value_center, value.shape, value.elements.data()}};
  write_npy_files(outputs);
}

void report_digits(const CalibrateOptions& options, const AttentionInputs& inputs) {
  CompareOptions scores;
  scores.causal = options.causal;
  scores.softmax_scale = options.softmax_scale;
  const intflash_attend_desc desc = compare_desc(scores, inputs);
  const Context context = create_context(0, "");
  context.query_support(desc);
  const DigitReport report = make_digit_report(context, desc, inputs);
  if (options.json) {
    fmt::print("{}\n", digits_json(report).dump(2));
  } else {
    print_digits(report);
  }
}

}  // namespace

int run_calibrate(const CalibrateOptions& options) {
  if (options.query.empty()) {
    write_centers(options, read_npy(options.key), read_npy(options.value));
    return 0;
  }
  const AttentionInputs inputs = read_attention_inputs(options.query, options.key, options.value);
  if (!options.key_center.empty()) write_centers(options, inputs.key, inputs.value);
  report_digits(options, inputs);
  return 0;
}

}  // namespace intflash

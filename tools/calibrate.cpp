// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "calibrate.h"

#include <fmt/format.h>

#include "attention_inputs.h"
#include "call.h"
#include "channel_means.h"
#include "codec_calibration.h"
#include "compare_inputs.h"
#include "digit_report.h"
#include "npy.h"

namespace intflash {
namespace {

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
  if (options.budget > 0) return run_codec_calibration(options);
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

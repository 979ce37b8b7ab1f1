// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash compare --report`: the library's parts, one by one and together, and all it rounds.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "atomic_file.h"
#include "attention_inputs.h"
#include "call.h"
#include "compare.h"
#include "compare_inputs.h"
#include "error_metrics.h"
#include "error_report.h"
#include "library_parts.h"

namespace intflash {
namespace {

// The elements of one query head, of all batches.
std::vector<float> of_head(const AttentionInputs& inputs, const std::vector<float>& out,
                           std::int64_t head) {
  const std::int64_t size = inputs.query_len * inputs.head_dim_v;
  std::vector<float> elements;
  for (std::int64_t b = 0; b < inputs.batch; ++b) {
    const auto first = out.begin() + (b * inputs.num_query_heads + head) * size;
    elements.insert(elements.end(), first, first + size);
  }
  return elements;
}

ErrorMetrics error_of_head(const AttentionInputs& inputs, const std::vector<float>& out,
                           const std::vector<float>& reference, std::int64_t head) {
  const std::vector<float> reference_of_head = of_head(inputs, reference, head);
  return measure_error(std::span<const float>(of_head(inputs, out, head)), reference_of_head);
}

PartError part_error(std::string name, std::string what, const AttentionInputs& inputs,
                     const std::vector<float>& out, const std::vector<float>& reference) {
  PartError part{std::move(name), std::move(what), 0, {}};
  part.rel_l1 = measure_error(std::span<const float>(out), reference).rel_l1;
  for (std::int64_t h = 0; h < inputs.num_query_heads; ++h)
    part.by_head.push_back(error_of_head(inputs, out, reference, h).rel_l1);
  return part;
}

double mean_abs(const std::vector<float>& elements) {
  double sum = 0;
  for (const float element : elements) sum += std::fabs(static_cast<double>(element));
  return elements.empty() ? 0 : sum / static_cast<double>(elements.size());
}

ErrorReport make_report(const Context& context, intflash_attend_desc desc,
                        const AttentionInputs& inputs) {
  const std::vector<float> reference = attend_heads(attend_unrounded, inputs, desc);
  ErrorReport report;
  std::vector<float> simulated;  // in the end by the last part, which is all of them
  for (const Pipeline& part : library_parts()) {
    simulated = attend_heads(part.attend, inputs, desc);
    report.parts.push_back(part_error(part.name, part.what, inputs, simulated, reference));
  }
  const std::vector<float> library = run_library(context, desc, inputs);
  desc.score_digits = 1;
  const std::vector<float> one_digit = run_library(context, desc, inputs);
  report.parts.push_back(part_error("fixed point", "the next row, against the one above", inputs,
                                    one_digit, simulated));
  report.parts.push_back(part_error("int8, one digit", "all of it, without second digits", inputs,
                                    one_digit, reference));
  report.parts.push_back(part_error("int8", "the default: second digits where scores are large",
                                    inputs, library, reference));
  for (std::int64_t h = 0; h < inputs.num_query_heads; ++h) {
    report.heads.push_back({mean_abs(of_head(inputs, reference, h)),
                            error_of_head(inputs, library, reference, h).max_abs});
  }
  return report;
}

}  // namespace

int run_compare_report(const CompareOptions& options) {
  const AttentionInputs inputs = read_attention_inputs(options.query, options.key, options.value);
  const intflash_attend_desc desc = compare_desc(options, inputs);
  const Context context = create_context(0, "");
  context.query_support(desc);
  // Opened first: what takes long must not end with a path that cannot be written.
  std::unique_ptr<AtomicFile> picture;
  if (!options.picture.empty()) picture = std::make_unique<AtomicFile>(options.picture);
  const ErrorReport report = make_report(context, desc, inputs);
  if (options.json) {
    fmt::print("{}\n", report_json(report).dump(2));
  } else {
    print_report(report);
  }
  if (picture) {
    const std::string text = report_picture(report);
    picture->write(text.data(), text.size());
    picture->commit();
  }
  return 0;
}

}  // namespace intflash

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Files -> every mode through the C interface, every simulated pipeline head by head -> one table.
#include "compare.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "attention_inputs.h"
#include "call.h"
#include "compare_inputs.h"
#include "error_metrics.h"
#include "pipelines.h"

namespace intflash {
namespace {

struct Row {
  std::string name;
  std::string what;
  ErrorMetrics error;
};

struct Mode {
  const char* name;
  const char* what;
  intflash_mode mode;
  intflash_rotation rotation;
  std::int32_t score_digits;
};
constexpr Mode kModes[] = {
    {"intflash int8", "the library's default: all integer; Q, K and V rotated", INTFLASH_MODE_INT8,
     INTFLASH_ROTATION_AUTO, 0},
    {"intflash int8, one digit", "without second digits of Q and K", INTFLASH_MODE_INT8,
     INTFLASH_ROTATION_AUTO, 1},
    {"intflash int8, two digits", "with them in all scores", INTFLASH_MODE_INT8,
     INTFLASH_ROTATION_AUTO, 2},
    {"intflash int8 unrotated", "the default without rotation", INTFLASH_MODE_INT8,
     INTFLASH_ROTATION_NONE, 0},
    {"intflash exact", "double precision, rounded to f32 once", INTFLASH_MODE_EXACT,
     INTFLASH_ROTATION_AUTO, 0},
    {"INT-FA Alg.1", "mode intfa: INT8 QK per token; P in 1/127, V per tensor", INTFLASH_MODE_INTFA,
     INTFLASH_ROTATION_AUTO, 0},
};

Row run_mode(const Context& context, const Mode& mode, intflash_attend_desc desc,
             const AttentionInputs& inputs, std::span<const float> reference) {
  desc.mode = mode.mode;
  desc.rotation = mode.rotation;
  desc.score_digits = mode.score_digits;
  const std::vector<float> out = run_library(context, desc, inputs);
  return {mode.name, mode.what, measure_error(std::span<const float>(out), reference)};
}

void print_text(const std::vector<Row>& rows) {
  fmt::print("{:23} {:>9} {:>10} {:>10} {:>10}  {}\n", "pipeline", "rel L1 %", "RMSE", "cosine",
             "max abs", "what it rounds");
  for (const Row& row : rows) {
    fmt::print("{:23} {:9.4f} {:10.3e} {:10.7f} {:10.3e}  {}\n", row.name, 100 * row.error.rel_l1,
               row.error.rmse, row.error.cosine, row.error.max_abs, row.what);
  }
}

void print_json(const std::vector<Row>& rows) {
  nlohmann::json json;
  for (const Row& row : rows) {
    json["rows"].push_back({{"name", row.name},
                            {"what", row.what},
                            {"error",
                             {{"rel_l1", row.error.rel_l1},
                              {"rmse", row.error.rmse},
                              {"cosine", row.error.cosine},
                              {"max_abs", row.error.max_abs}}}});
  }
  fmt::print("{}\n", json.dump(2));
}

}  // namespace

int run_compare(const CompareOptions& options) {
  const AttentionInputs inputs = read_attention_inputs(options.query, options.key, options.value);
  const intflash_attend_desc desc = compare_desc(options, inputs);
  const Context context = create_context(0, "");
  context.query_support(desc);  // refuses what the library refuses before anything is computed

  // The yardstick is a second, independent computation in double: mode exact is measured like any
  // other.
  const std::vector<float> reference = attend_heads(attend_unrounded, inputs, desc);
  std::vector<Row> rows;
  for (const Mode& mode : kModes) rows.push_back(run_mode(context, mode, desc, inputs, reference));
  for (const Pipeline& pipeline : pipelines()) {
    const std::vector<float> out = attend_heads(pipeline.attend, inputs, desc);
    rows.push_back(
        {pipeline.name, pipeline.what, measure_error(std::span<const float>(out), reference)});
  }
  if (options.json) {
    print_json(rows);
  } else {
    print_text(rows);
  }
  return 0;
}

}  // namespace intflash

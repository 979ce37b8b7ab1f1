// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Files, or random numbers -> every mode and codec through the C interface, every simulated
// pipeline head by head -> one table.
#include "compare.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "attention_inputs.h"
#include "cache_attend.h"
#include "call.h"
#include "compare_inputs.h"
#include "error_metrics.h"
#include "pipelines.h"
#include "turbo.h"

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
    {"intflash int8_qk", "P V in f32, V in f16", INTFLASH_MODE_INT8_QK, INTFLASH_ROTATION_AUTO, 0},
    {"intflash exact", "double precision, rounded to f32 once", INTFLASH_MODE_EXACT,
     INTFLASH_ROTATION_AUTO, 0},
    {"INT-FA Alg.1", "mode intfa: INT8 QK per token; P in 1/127, V per tensor", INTFLASH_MODE_INTFA,
     INTFLASH_ROTATION_AUTO, 0},
};

// Queries attend a cache of the codec.
struct Caches {
  const char* name;
  const char* what;
  CacheForm form;
};
constexpr Caches kCaches[] = {
    {"cache k8v4", "K INT8, V one of 16 levels", {"k8v4", INTFLASH_CODEC_K8V4}},
    {"cache k4v4, 64",
     "both in 4 bits, but for the 64 keys of a query's own block",
     {"k4v4", INTFLASH_CODEC_K4V4, 1, 0}},
    {"cache k8v4, 256 + 64",
     "INT8 for the last 256 keys and the first 64",
     {"k8v4", INTFLASH_CODEC_K8V4, kWindowBlocks, kSinkBlocks}},
    {"cache k4v4, 256 + 64", "the same", {"k4v4", INTFLASH_CODEC_K4V4, kWindowBlocks, kSinkBlocks}},
    {"cache k4v2, 256 + 64",
     "V in 2 bits",
     {"k4v2", INTFLASH_CODEC_K4V2, kWindowBlocks, kSinkBlocks}},
    {"cache k2v2, 256 + 64",
     "both in 2 bits",
     {"k2v2", INTFLASH_CODEC_K2V2, kWindowBlocks, kSinkBlocks}},
};

Row run_mode(const Context& context, const Mode& mode, intflash_attend_desc desc,
             const AttentionInputs& inputs, std::span<const float> reference) {
  desc.mode = mode.mode;
  desc.rotation = mode.rotation;
  desc.score_digits = mode.score_digits;
  const std::vector<float> out = run_library(context, desc, inputs);
  return {mode.name, mode.what, measure_error(std::span<const float>(out), reference)};
}

// Of all rows, in the order of out.
std::vector<float> attend_caches(const Context& context, const intflash_attend_desc& desc,
                                 const AttentionInputs& inputs, const CacheForm& form) {
  const HeadOuts outs =
      attend_over_cache(context, desc, inputs, form, {{0, inputs.query_len}}).outs;
  const std::int64_t size = inputs.query_len * inputs.head_dim_v;
  std::vector<float> out;
  for (std::int64_t b = 0; b < inputs.batch; ++b) {
    for (const std::vector<float>& of_head : outs)
      out.insert(out.end(), of_head.begin() + b * size, of_head.begin() + (b + 1) * size);
  }
  return out;
}

// FlashQ's 4 and 2 bits by head, chosen for each batch's kv heads.
std::vector<float> attend_turbo_heads(const AttentionInputs& inputs,
                                      const intflash_attend_desc& desc) {
  const std::int64_t group = inputs.num_query_heads / inputs.num_kv_heads;
  std::vector<float> out;
  for (std::int64_t b = 0; b < inputs.batch; ++b) {
    std::vector<Head> kv_heads;
    for (std::int64_t h = 0; h < inputs.num_query_heads; h += group)
      kv_heads.push_back(head_of(inputs, desc, b, h));
    const std::vector<TurboBits> bits = turbo_bits(kv_heads);
    for (std::int64_t h = 0; h < inputs.num_query_heads; ++h) {
      const Matrix of_head =
          attend_turbo(head_of(inputs, desc, b, h), bits[static_cast<std::size_t>(h / group)]);
      out.insert(out.end(), of_head.data.begin(), of_head.data.end());
    }
  }
  return out;
}

void print_text(const std::vector<Row>& rows) {
  fmt::print("{:25} {:>9} {:>10} {:>10} {:>10}  {}\n", "pipeline", "rel L1 %", "RMSE", "cosine",
             "max abs", "what it rounds");
  for (const Row& row : rows) {
    fmt::print("{:25} {:9.4f} {:10.3e} {:10.7f} {:10.3e}  {}\n", row.name, 100 * row.error.rel_l1,
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

int run_compare(const CompareOptions& options, bool quick) {
  const AttentionInputs inputs =
      options.random.empty() ? read_attention_inputs(options.query, options.key, options.value)
                             : random_inputs(options.random, quick);
  const intflash_attend_desc desc = compare_desc(options, inputs);
  const Context context = create_context(0, "");
  context.query_support(desc);  // refuses what the library refuses before anything is computed

  // The yardstick is a second, independent computation in double: mode exact is measured like any
  // other.
  const std::vector<float> reference = attend_heads(attend_unrounded, inputs, desc);
  std::vector<Row> rows;
  const auto add = [&](const char* name, const char* what, const std::vector<float>& out) {
    rows.push_back({name, what, measure_error(std::span<const float>(out), reference)});
  };
  for (const Mode& mode : kModes) rows.push_back(run_mode(context, mode, desc, inputs, reference));
  for (const Caches& caches : kCaches)
    add(caches.name, caches.what, attend_caches(context, desc, inputs, caches.form));
  for (const Pipeline& pipeline : pipelines())
    add(pipeline.name, pipeline.what, attend_heads(pipeline.attend, inputs, desc));
  add("Turbo-4/2", "4 bits in half of the kv heads, 2 in those of the least gap * std",
      attend_turbo_heads(inputs, desc));
  if (options.json) {
    print_json(rows);
  } else {
    print_text(rows);
  }
  return 0;
}

}  // namespace intflash

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Files -> plan -> pack and run, timed -> files and a report.
#include "attend.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>
#include <nlohmann/json.hpp>

#include "attention_inputs.h"
#include "call.h"
#include "error_metrics.h"
#include "failure.h"
#include "npy.h"
#include "npy_elements.h"
#include "stopwatch.h"

namespace intflash {
namespace {

intflash_mode parse_mode(const std::string& name) {
  if (name == "exact") return INTFLASH_MODE_EXACT;
  if (name == "intfa") return INTFLASH_MODE_INTFA;
  if (name == "int8_qk") return INTFLASH_MODE_INT8_QK;
  return INTFLASH_MODE_INT8;
}

intflash_center parse_center(const std::string& name) {
  if (name == "k") return INTFLASH_CENTER_KEY;
  if (name == "kv") return INTFLASH_CENTER_KEY_VALUE;
  return INTFLASH_CENTER_NONE;
}

intflash_attend_desc make_desc(const AttendOptions& options, const AttentionInputs& inputs) {
  intflash_attend_desc desc = inputs.desc();
  desc.mode = parse_mode(options.mode);
  desc.center = parse_center(options.center);
  desc.rotation = options.rotate ? INTFLASH_ROTATION_AUTO : INTFLASH_ROTATION_NONE;
  desc.score_digits = options.score_digits;
  desc.softmax_scale = options.softmax_scale;
  desc.score_cap = options.score_cap;
  if (options.window) {
    desc.mask = INTFLASH_MASK_WINDOW;
    desc.window_left = *options.window;
    desc.window_right = 0;
  } else if (options.prefix_len) {
    desc.mask = INTFLASH_MASK_PREFIX;
    desc.prefix_len = *options.prefix_len;
  } else if (options.causal || options.mask == "causal") {
    desc.mask = INTFLASH_MASK_CAUSAL;
  } else if (options.mask == "causal-top-left") {
    desc.mask = INTFLASH_MASK_CAUSAL_TOP_LEFT;
  }
  return desc;
}

// Query, key, value, and what acts on their scores.
intflash_attend_args make_args(const AttentionInputs& inputs, const ScoreInputs& scores) {
  intflash_attend_args args = inputs.args();
  scores.add_to(args);
  return args;
}

struct Outputs {
  AlignedArray<float> out;
  AlignedArray<float> lse;
};

struct Timed {
  intflash_plan_info info;
  double seconds_quantize = 0;
  double seconds_attention = 0;
  Outputs outputs;
};

// Outputs for inputs whose sizes a plan has checked already.
Outputs allocate_outputs(const AttentionInputs& inputs, intflash_attend_args& args) {
  Outputs outputs;
  outputs.out = AlignedArray<float>(static_cast<std::size_t>(inputs.num_out_elements()));
  outputs.lse = AlignedArray<float>(static_cast<std::size_t>(inputs.num_rows()));
  args.out =
      contiguous(outputs.out.data(), inputs.num_query_heads, inputs.query_len, inputs.head_dim_v);
  args.lse = outputs.lse.data();
  return outputs;
}

Timed run_timed(const Context& context, const intflash_attend_desc& desc,
                const AttentionInputs& inputs, const ScoreInputs& scores) {
  const Plan plan(context, desc);
  Timed timed;
  timed.info = plan.info();
  intflash_attend_args args = make_args(inputs, scores);
  timed.outputs = allocate_outputs(inputs, args);
  Workspace workspace = plan.make_workspace();
  const auto pack = [&] { plan.pack(args, workspace); };
  const auto attend = [&] { plan.run_packed(args, workspace); };
  timed.seconds_quantize = best_seconds(pack, 0.1);
  timed.seconds_attention = best_seconds(attend, 0.3);
  return timed;
}

ErrorMetrics check_against_exact(const Context& context, intflash_attend_desc desc,
                                 const AttentionInputs& inputs, const ScoreInputs& scores,
                                 const AlignedArray<float>& out) {
  desc.mode = INTFLASH_MODE_EXACT;
  desc.center = INTFLASH_CENTER_NONE;  // a way to quantize better
  intflash_attend_args args = make_args(inputs, scores);
  const Outputs exact = allocate_outputs(inputs, args);
  context.attend(desc, args);
  return measure_error(std::span<const float>(out.data(), out.size()),
                       std::span<const float>(exact.out.data(), exact.out.size()));
}

void write_outputs(const AttendOptions& options, const AttentionInputs& inputs,
                   const Outputs& outputs) {
  std::vector<NpyOutput> files;
  if (!options.out.empty()) files.push_back({options.out, inputs.out_shape(), outputs.out.data()});
  if (!options.lse.empty()) files.push_back({options.lse, inputs.lse_shape(), outputs.lse.data()});
  write_npy_files(files);
}

// Keys that a window or a prefix lets a query see.
std::int64_t visible_keys(const AttendOptions& options, const AttentionInputs& inputs,
                          std::int64_t query) {
  const std::int64_t position = inputs.kv_len - inputs.query_len + query;
  if (options.window) return std::max<std::int64_t>(std::min(position, *options.window) + 1, 0);
  return std::max(position + 1, *options.prefix_len);
}

// 4 operations (two multiply-adds) per query, key and channel; the causal half is not computed.
double giga_operations(const AttendOptions& options, const AttentionInputs& inputs) {
  const double per_pair = 2.0 * static_cast<double>(inputs.head_dim + inputs.head_dim_v);
  double pairs = static_cast<double>(inputs.num_rows()) * static_cast<double>(inputs.kv_len);
  if (options.window || options.prefix_len) {
    pairs = 0;
    for (std::int64_t i = 0; i < inputs.query_len; ++i) {
      pairs += static_cast<double>(visible_keys(options, inputs, i));
    }
    pairs *= static_cast<double>(inputs.batch * inputs.num_query_heads);
  } else if (options.causal) {
    pairs /= 2;
  }
  return per_pair * pairs * 1e-9;
}

void print_json(const Timed& timed, double gops, const std::optional<ErrorMetrics>& error) {
  nlohmann::ordered_json report = {
      {"port", timed.info.port},
      {"kernel", timed.info.kernel},
      {"mode", timed.info.mode},
      {"threads", timed.info.num_threads},
      {"seconds_quantize", timed.seconds_quantize},
      {"seconds_attention", timed.seconds_attention},
      {"gops", gops},
  };
  if (error) {
    report["error"] = {{"rel_l1", error->rel_l1},
                       {"rmse", error->rmse},
                       {"cosine", error->cosine},
                       {"max_abs", error->max_abs}};
  }
  fmt::print("{}\n", report.dump(2));
}

void print_text(const AttentionInputs& inputs, const Timed& timed, double gops,
                const std::optional<ErrorMetrics>& error) {
  const intflash_plan_info& info = timed.info;
  fmt::print("shape      batch {}, heads {} over {}, {} queries, {} keys, head_dim {}\n",
             inputs.batch, inputs.num_query_heads, inputs.num_kv_heads, inputs.query_len,
             inputs.kv_len, inputs.head_dim);
  fmt::print("mode       {} on port {} ({}), {} thread{}\n", info.mode, info.port, info.kernel,
             info.num_threads, info.num_threads == 1 ? "" : "s");
  fmt::print("quantize   {:.3f} ms\n", timed.seconds_quantize * 1e3);
  fmt::print("attention  {:.3f} ms, {:.1f} GOP/s\n", timed.seconds_attention * 1e3, gops);
  if (!error) return;
  fmt::print("error      relative L1 {:.3f} %, RMSE {:.3g}, cosine {:.7f}\n", error->rel_l1 * 100,
             error->rmse, error->cosine);
  if (error->worst_index < 0) return;
  fmt::print("worst      {:.3g} at {}: {:.6g}, exact {:.6g}\n", error->max_abs,
             index_text(error->worst_index, inputs.out_shape()), error->worst_value,
             error->worst_reference);
}

}  // namespace

int run_attend(const AttendOptions& options) {
  const AttentionInputs inputs = read_attention_inputs(options.query, options.key, options.value);
  const ScoreInputs scores = read_score_inputs(options.scores, inputs);
  const Context context = create_context(options.threads, options.isa);
  const intflash_attend_desc desc = make_desc(options, inputs);
  const Timed timed = run_timed(context, desc, inputs, scores);
  std::optional<ErrorMetrics> error;
  if (options.check) error = check_against_exact(context, desc, inputs, scores, timed.outputs.out);
  write_outputs(options, inputs, timed.outputs);
  const double gops = giga_operations(options, inputs) / timed.seconds_attention;
  if (options.json) {
    print_json(timed, gops, error);
  } else {
    print_text(inputs, timed, gops, error);
  }
  return 0;
}

}  // namespace intflash

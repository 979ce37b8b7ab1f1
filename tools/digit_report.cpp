// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Errors are measured on runs of rows from all over the queries: a reference of all of them would
// take minutes.
#include "digit_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "digit_share.h"
#include "error_metrics.h"
#include "inputs/token_rows.h"

namespace intflash {
namespace {

constexpr std::int64_t kRunRows = 16;
constexpr std::int64_t kRuns = 8;

// Rows [first, first + rows) of all heads.
struct RowRun {
  std::int64_t first, rows;
};

std::vector<RowRun> sample_of(std::int64_t query_len) {
  if (query_len <= kRuns * kRunRows) return {{0, query_len}};
  std::vector<RowRun> runs;
  for (std::int64_t i = 0; i < kRuns; ++i)
    runs.push_back({(query_len - kRunRows) * i / (kRuns - 1), kRunRows});
  return runs;
}

// The outs of a run of rows, by query head: [batch][rows][head_dim_v] each is added to.
using HeadOuts = std::vector<std::vector<float>>;
void attend_run(const Context& context, intflash_attend_desc desc, const AttentionInputs& inputs,
                const RowRun& run, HeadOuts& outs) {
  intflash_attend_args args = inputs.args();
  args.query.data =
      const_cast<void*>(internal::rows_of(args.query, desc.query_dtype, 0, 0, run.first).data);
  // The last of the rows sees the last of the keys.
  if (desc.mask == INTFLASH_MASK_CAUSAL)
    desc.kv_len = std::max<std::int64_t>(desc.kv_len - desc.query_len + run.first + run.rows, 0);
  desc.query_len = run.rows;
  const std::int64_t size = run.rows * desc.head_dim_v;
  std::vector<float> out(static_cast<std::size_t>(desc.batch * desc.num_query_heads * size));
  args.out = contiguous(out.data(), desc.num_query_heads, run.rows, desc.head_dim_v);
  context.attend(desc, args);
  for (std::int64_t i = 0; i < desc.batch * desc.num_query_heads; ++i) {
    std::vector<float>& of_head = outs[static_cast<std::size_t>(i % desc.num_query_heads)];
    of_head.insert(of_head.end(), out.begin() + i * size, out.begin() + (i + 1) * size);
  }
}

HeadOuts attend_sample(const Context& context, const intflash_attend_desc& desc,
                       const AttentionInputs& inputs, const std::vector<RowRun>& runs) {
  HeadOuts outs(static_cast<std::size_t>(desc.num_query_heads));
  for (const RowRun& run : runs) attend_run(context, desc, inputs, run, outs);
  return outs;
}

double error_of(const std::vector<float>& out, const std::vector<float>& reference) {
  return measure_error(std::span<const float>(out), std::span<const float>(reference)).rel_l1;
}

// "head 3", "heads 0, 3".
std::string needy_heads(const DigitReport& report) {
  std::vector<std::size_t> heads;
  for (std::size_t h = 0; h < report.heads.size(); ++h)
    if (report.heads[h].needs_digits()) heads.push_back(h);
  return fmt::format("head{} {}", heads.size() == 1 ? "" : "s", fmt::join(heads, ", "));
}

}  // namespace

bool DigitReport::needs_digits() const {
  return std::any_of(heads.begin(), heads.end(),
                     [](const HeadDigits& head) { return head.needs_digits(); });
}

bool DigitReport::takes_digits() const {
  return std::any_of(heads.begin(), heads.end(),
                     [](const HeadDigits& head) { return head.share > 0; });
}

DigitReport make_digit_report(const Context& context, const intflash_attend_desc& desc,
                              const AttentionInputs& inputs) {
  const std::vector<RowRun> runs = sample_of(desc.query_len);
  const auto with = [&](intflash_mode mode, std::int32_t score_digits) {
    intflash_attend_desc asked = desc;
    asked.mode = mode;
    asked.score_digits = score_digits;
    return attend_sample(context, asked, inputs, runs);
  };
  const HeadOuts reference = with(INTFLASH_MODE_EXACT, 0);
  const HeadOuts one = with(INTFLASH_MODE_INT8, 1);
  const HeadOuts as_needed = with(INTFLASH_MODE_INT8, 0);
  const HeadOuts both = with(INTFLASH_MODE_INT8, 2);
  const std::vector<double> shares = digit_shares(context, desc, inputs);
  DigitReport report{};
  for (const RowRun& run : runs) report.sampled_rows += run.rows;
  for (std::size_t h = 0; h < reference.size(); ++h) {
    report.heads.push_back({shares[h], error_of(one[h], reference[h]),
                            error_of(as_needed[h], reference[h]), error_of(both[h], reference[h])});
  }
  return report;
}

void print_digits(const DigitReport& report) {
  fmt::print("{:4} {:>16}   rel L1 % of {} rows by score digits\n", "", "scores with",
             report.sampled_rows);
  fmt::print("{:4} {:>16} {:>10} {:>10} {:>10}\n", "head", "second digits %", "1", "auto", "2");
  for (std::size_t h = 0; h < report.heads.size(); ++h) {
    const HeadDigits& head = report.heads[h];
    fmt::print("{:4} {:16.3f} {:10.4f} {:10.4f} {:10.4f}{}\n", h, 100 * head.share, 100 * head.one,
               100 * head.as_needed, 100 * head.both,
               head.needs_digits() ? "  needs second digits" : "");
  }
  fmt::print("\ncaches  codec {}\n",
             report.needs_digits()
                 ? fmt::format("int8_wide: one digit is too coarse for {}", needy_heads(report))
                 : "int8: one digit does for all heads");
  fmt::print("calls   score_digits {}\n", report.takes_digits()
                                              ? "0, the default: a second one where it is needed"
                                              : "1 gives the bits of 0: no score takes a second");
}

nlohmann::ordered_json digits_json(const DigitReport& report) {
  nlohmann::ordered_json json = {{"sampled_rows", report.sampled_rows},
                                 {"heads", nlohmann::ordered_json::array()}};
  for (const HeadDigits& head : report.heads) {
    json["heads"].push_back({{"share_with_digits", head.share},
                             {"rel_l1_one_digit", head.one},
                             {"rel_l1_as_needed", head.as_needed},
                             {"rel_l1_two_digits", head.both},
                             {"needs_digits", head.needs_digits()}});
  }
  json["codec"] = report.needs_digits() ? "int8_wide" : "int8";
  json["score_digits"] = report.takes_digits() ? 0 : 1;
  return json;
}

}  // namespace intflash

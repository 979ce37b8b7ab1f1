// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "digit_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "digit_share.h"
#include "sampled_rows.h"

namespace intflash {
namespace {

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
  const std::vector<RowRun> runs = sample_of(0, desc.query_len);
  const auto with = [&](intflash_mode mode, std::int32_t score_digits) {
    intflash_attend_desc asked = desc;
    asked.mode = mode;
    asked.score_digits = score_digits;
    return attend_runs(context, asked, inputs, runs);
  };
  const HeadOuts reference = with(INTFLASH_MODE_EXACT, 0);
  const auto errors = [&](std::int32_t score_digits) {
    return head_errors(with(INTFLASH_MODE_INT8, score_digits), reference).by_head;
  };
  const std::vector<double> one = errors(1), as_needed = errors(0), both = errors(2);
  const std::vector<double> shares = digit_shares(context, desc, inputs);
  DigitReport report{};
  report.sampled_rows = num_rows(runs);
  for (std::size_t h = 0; h < reference.size(); ++h)
    report.heads.push_back({shares[h], one[h], as_needed[h], both[h]});
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

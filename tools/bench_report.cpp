// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Columns, units and the names of the rows that are set in relation.
#include "bench_report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <vector>

namespace intflash {
namespace {

// Four significant digits in the unit that suits.
std::string time_text(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.4g} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.4g} ms", seconds * 1e3);
  return fmt::format("{:.4g} s", seconds);
}

const BenchRow* find_row(std::span<const BenchRow> rows, const std::string& port,
                         const std::string& name) {
  const auto found = std::find_if(rows.begin(), rows.end(), [&](const BenchRow& row) {
    return row.port == port && row.name == name;
  });
  return found == rows.end() ? nullptr : &*found;
}

struct Ratio {
  const char* what;
  const char* row;
  const char* base;
  bool of_shares;  // of rates otherwise
};

// Lengths are those of BenchSize::kFull; the scalar port has none of these rows but those with 512
// in place of 4096.
constexpr Ratio kRatios[] = {
    {"causal / full", "prefill/causal/d128/n{}", "prefill/full/d128/n{}", true},
    {"d64 / d128", "prefill/full/d64/n{}", "prefill/full/d128/n{}", true},
    {"d256 / d128", "prefill/full/d256/n{}", "prefill/full/d128/n{}", true},
    {"1024 / 4096 keys", "prefill/full/d128/n1024", "prefill/full/d128/n{}", true},
    {"16384 / 4096 keys", "prefill/full/d128/n16384", "prefill/full/d128/n{}", true},
    {"65536 / 4096 keys", "prefill/full/d128/n65536", "prefill/full/d128/n{}", true},
    {"captured / random", "prefill/captured", "prefill/random", false},
    {"captured / random, end to end", "end-to-end/captured", "end-to-end/random", false},
    {"end to end / kernel, full", "end-to-end/full/d128/n{}/h8", "prefill/full/d128/n{}/h8", false},
    {"end to end / kernel, causal", "end-to-end/causal/d128/n{}/h8", "prefill/causal/d128/n{}/h8",
     false},
    {"2 threads / 1, full", "prefill/full/d128/n{}/h8/t2", "prefill/full/d128/n{}/h8", false},
    {"2 threads / 1, causal", "prefill/causal/d128/n{}/h8/t2", "prefill/causal/d128/n{}/h8", false},
    {"2 threads / 1, end to end", "end-to-end/full/d128/n{}/h8/t2", "end-to-end/full/d128/n{}/h8",
     false},
};

std::optional<double> ratio_of(std::span<const BenchRow> rows, const std::string& port,
                               const Ratio& ratio) {
  for (const int len : {4096, 512}) {
    const BenchRow* row = find_row(rows, port, fmt::format(fmt::runtime(ratio.row), len));
    const BenchRow* base = find_row(rows, port, fmt::format(fmt::runtime(ratio.base), len));
    if (row == nullptr || base == nullptr) continue;
    return ratio.of_shares ? row->share / base->share : *row->gops / *base->gops;
  }
  return std::nullopt;
}

}  // namespace

void print_table_head() {
  fmt::print("{:<36}{:<13}{:>3}{:>12}{:>16}{:>15}{:>7}{:>7}{:>12}{:>12}{:>12}\n", "case", "port",
             "thr", "time", "rate", "limit", "share", "best", "overhead", "huge pages",
             "times int8");
}

void print_table_row(const BenchRow& row) {
  const char* unit = row.gops ? "GOP/s" : "GB/s";
  const auto rate = [&](double value) { return fmt::format("{:.4g} {:<5}", value, unit); };
  fmt::print("{:<36}{:<13}{:>3}{:>12}{:>16}{:>15}{:>7.3f}{:>7.3f}{:>12}{:>12}{:>12}\n", row.name,
             row.port, row.threads, time_text(row.seconds), rate(row.gops ? *row.gops : *row.gbps),
             rate(row.limit), row.share, row.best_share,
             row.overhead_seconds ? time_text(*row.overhead_seconds) : "",
             row.huge_page_share ? fmt::format("{:.2f}", *row.huge_page_share) : "",
             row.times_int8 ? fmt::format("{:.3f}", *row.times_int8) : "");
  std::fflush(stdout);
}

void print_ratios(std::span<const BenchRow> rows) {
  std::vector<std::string> ports;
  for (const BenchRow& row : rows) {
    if (std::find(ports.begin(), ports.end(), row.port) == ports.end()) ports.push_back(row.port);
  }
  std::string table;
  for (const Ratio& ratio : kRatios) {
    std::string line;
    bool any = false;
    for (const std::string& port : ports) {
      const std::optional<double> value = ratio_of(rows, port, ratio);
      any = any || value;
      line += value ? fmt::format("{:>13.3f}", *value) : fmt::format("{:>13}", "");
    }
    if (any) table += fmt::format("{:<36}{}\n", ratio.what, line);
  }
  if (table.empty()) return;
  std::string head;
  for (const std::string& port : ports) head += fmt::format("{:>13}", port);
  fmt::print("\n{:<36}{}\n{}", "ratio", head, table);
}

nlohmann::ordered_json report_row(const BenchRow& row) {
  const auto optional = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  };
  nlohmann::ordered_json report = {
      {"name", row.name},
      {"port", row.port},
      {"mode", row.mode},
      {"threads", row.threads},
      {"seconds", row.seconds},
      {"gops", optional(row.gops)},
      {"gbps", optional(row.gbps)},
      {"limit", row.limit},
      {"share", row.share},
      {"best_seconds", row.best_seconds},
      {"best_limit", row.best_limit},
      {"best_share", row.best_share},
      {"kernel", row.kernel},
      {"workspace_bytes", row.workspace_bytes},
      {"rel_l1", row.rel_l1},
  };
  if (row.overhead_seconds) report["overhead_seconds"] = *row.overhead_seconds;
  if (row.times_int8) report["times_int8"] = *row.times_int8;
  if (row.huge_page_share) report["huge_page_share"] = *row.huge_page_share;
  return report;
}

ProgressBar::ProgressBar(std::size_t steps)
    : is_terminal_(::isatty(STDERR_FILENO) == 1), steps_(steps) {}

void ProgressBar::begin_step(const std::string& name) {
  if (!is_terminal_) return;
  constexpr std::size_t kWidth = 30;
  const std::size_t filled = kWidth * done_ / std::max<std::size_t>(steps_, 1);
  const std::string bar = std::string(filled, '#') + std::string(kWidth - filled, '.');
  std::fprintf(stderr, "\r\x1b[K[%s] %zu/%zu %s", bar.c_str(), done_, steps_, name.c_str());
}

void ProgressBar::clear() {
  if (!is_terminal_) return;
  std::fputs("\r\x1b[K", stderr);
}

}  // namespace intflash

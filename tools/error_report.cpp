// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Columns of the tables, names in JSON, and places in the picture.
#include "error_report.h"

#include <fmt/format.h>

#include <algorithm>

namespace intflash {
namespace {

// Of the picture, in pixels: names end and bars begin at kBarLeft, figures stand behind the bars.
constexpr int kWidth = 640;
constexpr int kRow = 20;
constexpr int kMargin = 16;
constexpr int kBarLeft = 170;
constexpr int kLongestBar = 390;

constexpr const char* kStyle =
    "text{font:13px sans-serif;fill:#222}.end{text-anchor:end}.title{font-weight:bold}"
    ".back{fill:#fff}.bar{fill:#0072b2}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.back{fill:#161616}.bar{fill:#56b4e9}}";

struct Bar {
  std::string name;
  double rel_l1;
};

// A title and its bars, from y on, which moves behind them.
std::string bars_text(const std::string& title, const std::vector<Bar>& bars, double longest,
                      int& y) {
  std::string text =
      fmt::format("<text class=\"title\" x=\"{}\" y=\"{}\">{}</text>\n", kMargin, y + 14, title);
  y += kRow + 4;
  for (const Bar& bar : bars) {
    const double length = longest > 0 ? kLongestBar * bar.rel_l1 / longest : 0;
    text += fmt::format(
        "<text class=\"end\" x=\"{}\" y=\"{}\">{}</text>"
        "<rect class=\"bar\" x=\"{}\" y=\"{}\" width=\"{:.1f}\" height=\"{}\"/>"
        "<text x=\"{:.1f}\" y=\"{}\">{:.3f}</text>\n",
        kBarLeft - 8, y + 14, bar.name, kBarLeft, y + 2, length, kRow - 4, kBarLeft + length + 6,
        y + 14, 100 * bar.rel_l1);
    y += kRow;
  }
  y += kMargin;
  return text;
}

}  // namespace

void print_report(const ErrorReport& report) {
  fmt::print("{:20} {:>9}  {}\n", "part", "rel L1 %", "what it rounds");
  for (const PartError& part : report.parts)
    fmt::print("{:20} {:9.4f}  {}\n", part.name, 100 * part.rel_l1, part.what);
  fmt::print("\n{:4} {:>10} {:>10} {:>10}\n", "head", "rel L1 %", "max abs", "mean |out|");
  for (std::size_t h = 0; h < report.heads.size(); ++h) {
    fmt::print("{:4} {:10.4f} {:10.3e} {:10.3e}\n", h, 100 * report.parts.back().by_head[h],
               report.heads[h].max_abs, report.heads[h].mean_abs);
  }
}

nlohmann::ordered_json report_json(const ErrorReport& report) {
  nlohmann::ordered_json json = {{"parts", nlohmann::ordered_json::array()},
                                 {"heads", nlohmann::ordered_json::array()}};
  for (const PartError& part : report.parts) {
    json["parts"].push_back({{"name", part.name},
                             {"what", part.what},
                             {"rel_l1", part.rel_l1},
                             {"rel_l1_by_head", part.by_head}});
  }
  for (const HeadSize& head : report.heads)
    json["heads"].push_back({{"mean_abs", head.mean_abs}, {"max_abs", head.max_abs}});
  return json;
}

std::string report_picture(const ErrorReport& report) {
  std::vector<Bar> parts, heads;
  double longest = 0;  // one scale for all bars
  for (const PartError& part : report.parts) {
    parts.push_back({part.name, part.rel_l1});
    longest = std::max(longest, part.rel_l1);
  }
  for (const double rel_l1 : report.parts.back().by_head) {
    heads.push_back({fmt::format("head {}", heads.size()), rel_l1});
    longest = std::max(longest, rel_l1);
  }
  int y = kMargin;
  std::string bars = bars_text("Relative L1 error by part, in %", parts, longest, y);
  bars += bars_text("The library's by query head, in %", heads, longest, y);
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" "
      "viewBox=\"0 0 {0} {1}\">\n<style>{2}</style>\n"
      "<rect class=\"back\" width=\"{0}\" height=\"{1}\"/>\n{3}</svg>\n",
      kWidth, y, kStyle, bars);
}

}  // namespace intflash

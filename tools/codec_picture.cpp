// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Places in the picture: bars of bits by layer, then the front, with the choice on it.
#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "codec_report.h"

namespace intflash {
namespace {

// In pixels: names end and bars begin at kBarLeft; the front's axes cross at (kLeft, bottom).
constexpr int kWidth = 640;
constexpr int kRow = 20;
constexpr int kMargin = 16;
constexpr int kBarLeft = 90;
constexpr int kLongestBar = 330;
constexpr int kLeft = 70, kPlotWidth = 520, kPlotHeight = 240;
constexpr int kTicks = 4;

constexpr const char* kStyle =
    "text{font:13px sans-serif;fill:#222}.end{text-anchor:end}.middle{text-anchor:middle}"
    ".title{font-weight:bold}.back{fill:#fff}.bar,.dot{fill:#0072b2}.choice{fill:#d55e00}"
    ".line{fill:none;stroke:#0072b2}.axis{stroke:#888}.budget{stroke:#d55e00;stroke-dasharray:4}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.back{fill:#161616}.bar,.dot{fill:#56b4e9}"
    ".line{stroke:#56b4e9}}";

double bits_of(const LayerCalibration& layer) {
  return 8 * layer.bytes_per_token_and_head() /
         static_cast<double>(layer.head_dim + layer.head_dim_v);
}

std::string title_text(const std::string& title, int& y) {
  std::string text =
      fmt::format("<text class=\"title\" x=\"{}\" y=\"{}\">{}</text>\n", kMargin, y + 14, title);
  y += kRow + 4;
  return text;
}

std::string bars_text(const CodecCalibration& calibration, int& y) {
  std::string text = title_text("Bits of an element, scales included, by layer", y);
  double longest = 0;
  for (const LayerCalibration& layer : calibration.layers)
    longest = std::max(longest, bits_of(layer));
  for (const LayerCalibration& layer : calibration.layers) {
    const double length = kLongestBar * bits_of(layer) / longest;
    text += fmt::format(
        "<text class=\"end\" x=\"{}\" y=\"{}\">layer {}</text>"
        "<rect class=\"bar\" x=\"{}\" y=\"{}\" width=\"{:.1f}\" height=\"{}\"/>"
        "<text x=\"{:.1f}\" y=\"{}\">{:.2f}: {}, rel. L1 {:.2f} %</text>\n",
        kBarLeft - 8, y + 14, layer.layer, kBarLeft, y + 2, length, kRow - 4, kBarLeft + length + 6,
        y + 14, bits_of(layer), codec_names(layer), 100 * layer.rel_l1);
    y += kRow;
  }
  y += kMargin;
  return text;
}

// Where bytes and errors lie: x from fewest to most, y from 0 to the largest.
struct Axes {
  double least, most, largest;
  int top;

  double x(double bytes) const {
    const double span = most > least ? most - least : 1;
    return kLeft + kPlotWidth * std::clamp((bytes - least) / span, 0.0, 1.0);
  }
  double y(double rel_l1) const {
    return top + kPlotHeight * (1 - (largest > 0 ? rel_l1 / largest : 0));
  }
};

std::string axes_text(const Axes& axes) {
  const int bottom = axes.top + kPlotHeight;
  std::string text = fmt::format("<path class=\"axis\" fill=\"none\" d=\"M{0} {1}V{2}H{3}\"/>\n",
                                 kLeft, axes.top, bottom, kLeft + kPlotWidth);
  for (int i = 0; i <= kTicks; ++i) {
    const double share = static_cast<double>(i) / kTicks;
    const double bytes = axes.least + share * (axes.most - axes.least);
    const double error = share * axes.largest;
    text += fmt::format(
        "<text class=\"middle\" x=\"{:.1f}\" y=\"{}\">{:.0f}</text>"
        "<text class=\"end\" x=\"{}\" y=\"{:.1f}\">{:.2f}</text>\n",
        axes.x(bytes), bottom + 18, bytes, kLeft - 6, axes.y(error) + 4, 100 * error);
  }
  return text;
}

std::string dot_text(const char* kind, int radius, const Axes& axes, const CodecTotal& total) {
  return fmt::format("<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"/>\n", kind,
                     axes.x(total.bytes_per_token), axes.y(total.rel_l1), radius);
}

std::string front_text(const CodecCalibration& calibration, int& y) {
  std::string text = title_text(
      fmt::format("Relative L1 in %, root mean square of {}, by bytes per token and kv head",
                  calibration.by_head ? "heads" : "layers"),
      y);
  const std::vector<CodecTotal>& front = calibration.front;
  const Axes axes = {front.front().bytes_per_token, front.back().bytes_per_token,
                     front.front().rel_l1, y + 4};
  text += axes_text(axes);
  std::string line;
  for (const CodecTotal& total : front) {
    line += fmt::format("{}{:.1f} {:.1f}", line.empty() ? "M" : "L", axes.x(total.bytes_per_token),
                        axes.y(total.rel_l1));
    text += dot_text("dot", 3, axes, total);
  }
  text += fmt::format("<path class=\"line\" d=\"{}\"/>\n", line);
  text += fmt::format("<path class=\"budget\" d=\"M{0:.1f} {1}V{2}\"/>\n",
                      axes.x(calibration.budget), axes.top, axes.top + kPlotHeight);
  text += dot_text("choice", 6, axes, calibration.total);
  y = axes.top + kPlotHeight + 2 * kMargin;
  return text;
}

}  // namespace

std::string codecs_picture(const CodecCalibration& calibration) {
  int y = kMargin;
  std::string text = bars_text(calibration, y);
  text += front_text(calibration, y);
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" "
      "viewBox=\"0 0 {0} {1}\">\n<style>{2}</style>\n"
      "<rect class=\"back\" width=\"{0}\" height=\"{1}\"/>\n{3}</svg>\n",
      kWidth, y, kStyle, text);
}

}  // namespace intflash

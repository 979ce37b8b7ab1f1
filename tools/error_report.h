// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Errors by part and by head, and how they are shown: as tables, JSON, or a picture.
#pragma once

#include <string>
#include <vector>
#include <nlohmann/json.hpp>

namespace intflash {

struct PartError {
  std::string name;
  std::string what;             // what it rounds
  double rel_l1;                // over all heads
  std::vector<double> by_head;  // relative L1 of each query head
};

struct HeadSize {
  double mean_abs;  // of the reference: what a head's share of an error is weighed by
  double max_abs;   // the library's largest error
};

struct ErrorReport {
  std::vector<PartError> parts;  // the last one is the library as it is
  std::vector<HeadSize> heads;   // query heads
};

void print_report(const ErrorReport& report);
nlohmann::ordered_json report_json(const ErrorReport& report);

// An SVG file: a bar for each part, and one for each head, which shows the library's error.
std::string report_picture(const ErrorReport& report);

}  // namespace intflash

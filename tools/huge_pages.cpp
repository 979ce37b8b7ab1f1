// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "huge_pages.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

namespace intflash {

std::optional<double> huge_page_share(std::istream& smaps, std::span<const AddressRange> ranges) {
  bool is_wanted = false;
  bool is_told = false;
  double present = 0, huge = 0;  // in KiB
  for (std::string line; std::getline(smaps, line);) {
    std::istringstream words(line);
    std::uintptr_t begin = 0, end = 0;
    char dash = 0;
    if (words >> std::hex >> begin >> dash >> end && dash == '-') {
      is_wanted = std::any_of(ranges.begin(), ranges.end(), [&](const AddressRange& range) {
        return range.begin < end && begin < range.end;
      });
      continue;
    }
    if (!is_wanted) continue;
    words = std::istringstream(line);
    std::string key;
    double size = 0;
    words >> key >> size;
    if (key == "Rss:") present += size;
    if (key == "AnonHugePages:") {
      huge += size;
      is_told = true;
    }
  }
  if (!is_told || present == 0) return std::nullopt;
  return huge / present;
}

std::optional<double> huge_page_share(std::span<const AddressRange> ranges) {
  std::ifstream smaps("/proc/self/smaps");
  return huge_page_share(smaps, ranges);
}

}  // namespace intflash

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// How much of some memory the system keeps in huge pages.
#pragma once

#include <cstdint>
#include <istream>
#include <optional>
#include <span>

namespace intflash {

struct AddressRange {
  std::uintptr_t begin, end;
};

// Of the memory that is there in the mappings that the ranges lie in, the share in huge pages.
// smaps: the text of a process's /proc/<pid>/smaps. Nothing where it does not say.
std::optional<double> huge_page_share(std::istream& smaps, std::span<const AddressRange> ranges);
// The same of this process.
std::optional<double> huge_page_share(std::span<const AddressRange> ranges);

}  // namespace intflash

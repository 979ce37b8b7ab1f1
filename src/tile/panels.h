// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows cut into panels whose height the inner loop knows.
#pragma once

#include <cstdint>

#include "tile/portability.h"

namespace intflash::internal {
namespace {

// A number of rows as a type.
template <std::int32_t kCount>
struct Panel {
  static constexpr std::int32_t kRows = kCount;
};

// Calls panel(Panel<n>, first row) over the rows from `first` on, for each height n in turn as
// often as it fits.
template <std::int32_t kHeight, std::int32_t... kLower, class Fn>
INTFLASH_INLINE void for_each_panel(std::int32_t rows, Fn panel, std::int32_t first = 0) {
  for (; first + kHeight <= rows; first += kHeight) panel(Panel<kHeight>{}, first);
  if constexpr (sizeof...(kLower) > 0) for_each_panel<kLower...>(rows, panel, first);
}

}  // namespace
}  // namespace intflash::internal

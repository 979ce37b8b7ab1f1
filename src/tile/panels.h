// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows cut into panels whose height the inner loop knows.
#pragma once

#include <cstdint>

#include "tile/portability.h"

namespace intflash {
namespace {

// A number of rows as a type.
template <std::int32_t kCount>
struct Panel {
  static constexpr std::int32_t kRows = kCount;
};

// Calls panel(Panel<n>, first row) over the rows: n = 6 as often as it fits, then what is left.
template <class Fn>
INTFLASH_INLINE void for_each_panel_of_6(std::int32_t rows, Fn panel) {
  std::int32_t r = 0;
  for (; r + 6 <= rows; r += 6) panel(Panel<6>{}, r);
  switch (rows - r) {
    case 1:
      return panel(Panel<1>{}, r);
    case 2:
      return panel(Panel<2>{}, r);
    case 3:
      return panel(Panel<3>{}, r);
    case 4:
      return panel(Panel<4>{}, r);
    case 5:
      return panel(Panel<5>{}, r);
    default:
      return;
  }
}

}  // namespace
}  // namespace intflash

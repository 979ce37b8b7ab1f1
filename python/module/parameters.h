// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Options of calls: Python's objects as numbers of the C interface. What is no such number is an
// ArgumentError that names it.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <intflash/cache.h>

namespace intflash::python {

namespace nb = nanobind;

// None = fallback.
std::int64_t integer(const char* name, nb::handle value, std::int64_t fallback);
float number(const char* name, nb::handle value, float fallback);

// The number that goes with a name.
using Choice = std::pair<const char*, int>;
int choice(const char* name, nb::handle value, std::span<const Choice> choices);

intflash_mode mode_of(nb::handle mode);
intflash_codec codec_of(nb::handle codec);
const char* codec_name(intflash_codec codec);
intflash_center center_of(nb::handle center);
std::int32_t score_digits_of(nb::handle digits);
// 0, which the C interface takes for its default, only where value is None.
float softmax_scale_of(nb::handle scale);
// 0, which is no cap, only where value is None or 0.
float cap_of(nb::handle cap);

// Which keys a query sees, by its position alone.
struct Mask {
  intflash_mask kind = INTFLASH_MASK_NONE;
  std::int64_t window_left = 0;
  std::int64_t window_right = 0;
  std::int64_t prefix_len = 0;
};
Mask mask_of(nb::handle causal, nb::handle window, nb::handle prefix);

// Numbers in f32 from an array or any other sequence; empty from None.
std::vector<float> floats(const char* name, nb::handle values, std::int64_t count);

}  // namespace intflash::python

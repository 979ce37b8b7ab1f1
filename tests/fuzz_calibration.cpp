// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer over files of `intflash calibrate --budget`: any bytes are groups of heads, all of a
// layer's in order, or refused with a message.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>

#include "intflash/calibration.h"

namespace {

using Bytes = std::span<const std::uint8_t>;

std::size_t read_bytes(void* user, void* bytes, std::size_t num_bytes) {
  Bytes& rest = *static_cast<Bytes*>(user);
  const std::size_t count = std::min(num_bytes, rest.size());
  if (count > 0) std::memcpy(bytes, rest.data(), count);
  rest = rest.subspan(count);
  return count;
}

bool is_finite(const float* center, std::int64_t heads, std::int64_t dim) {
  return center == nullptr || std::all_of(center, center + heads * dim,
                                          [](float element) { return std::isfinite(element); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  Bytes file(bytes, size);
  intflash_calibration* calibration = nullptr;
  const intflash_status status = intflash_calibration_load(read_bytes, &file, &calibration);
  if (status == INTFLASH_BAD_FILE && calibration == nullptr && *intflash_last_error() != '\0')
    return 0;
  if (status != INTFLASH_OK || !file.empty()) std::abort();
  intflash_head_group before = {};
  for (std::int64_t i = 0; i < intflash_calibration_num_groups(calibration); ++i) {
    intflash_head_group group = {};
    group.struct_size = sizeof group;
    if (intflash_calibration_get_group(calibration, i, &group) != INTFLASH_OK) std::abort();
    const bool follows = i > 0 && group.layer == before.layer &&
                         group.first_kv_head == before.first_kv_head + before.num_kv_heads;
    if (group.num_kv_heads < 1 || (group.first_kv_head != 0 && !follows)) std::abort();
    if (group.head_dim % 8 != 0 || group.head_dim_v % 8 != 0) std::abort();
    before = group;
    if (!is_finite(group.key_center, group.num_kv_heads, group.head_dim) ||
        !is_finite(group.value_center, group.num_kv_heads, group.head_dim_v))
      std::abort();
  }
  intflash_calibration_destroy(calibration);
  return 0;
}

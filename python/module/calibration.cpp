// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "calibration.h"

#include <cstddef>
#include <cstdint>
#include <memory>

#include <intflash/calibration.h>

#include "errors.h"
#include "parameters.h"
#include "stream.h"

namespace intflash::python {
namespace {

// The elements, in float32; None where there are none.
nb::object center_of(const float* center, std::int64_t heads, std::int64_t dim) {
  if (center == nullptr) return nb::none();
  return nb::bytes(center, sizeof(float) * static_cast<std::size_t>(heads * dim));
}

nb::list load_calibration(nb::handle read) {
  Stream stream{read};
  intflash_calibration* loaded = nullptr;
  const intflash_status status = intflash_calibration_load(read_bytes, &stream, &loaded);
  const std::unique_ptr<intflash_calibration, decltype(&intflash_calibration_destroy)> calibration(
      loaded, intflash_calibration_destroy);
  stream.finish(status);  // read may have raised after all else was there
  nb::list groups;
  for (std::int64_t i = 0; i < intflash_calibration_num_groups(loaded); ++i) {
    intflash_head_group group{};
    group.struct_size = sizeof group;
    check(intflash_calibration_get_group(loaded, i, &group));
    groups.append(nb::make_tuple(
        group.layer, group.first_kv_head, group.num_kv_heads, group.head_dim, group.head_dim_v,
        codec_name(group.codec), group.window_blocks, group.sink_blocks, group.score_digits,
        center_of(group.key_center, group.num_kv_heads, group.head_dim),
        center_of(group.value_center, group.num_kv_heads, group.head_dim_v)));
  }
  return groups;
}

}  // namespace

void add_calibration(nb::module_& module) {
  module.def("load_calibration", load_calibration, nb::arg("read"));
}

}  // namespace intflash::python

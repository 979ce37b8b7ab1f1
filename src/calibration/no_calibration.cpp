// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A library that was built without nlohmann-json, or without INTFLASH_WITH_CALIBRATION.
#include "core/checks.h"
#include "intflash/calibration.h"

using namespace intflash::internal;

intflash_status intflash_calibration_load(intflash_read_fn, void*,
                                          intflash_calibration** calibration) {
  if (calibration != nullptr) *calibration = nullptr;
  return fail(INTFLASH_UNSUPPORTED, "this build reads no calibrations");
}
void intflash_calibration_destroy(intflash_calibration*) {}
int64_t intflash_calibration_num_groups(const intflash_calibration*) { return 0; }
intflash_status intflash_calibration_get_group(const intflash_calibration*, int64_t,
                                               intflash_head_group*) {
  return intflash_calibration_load(nullptr, nullptr, nullptr);
}

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What serves a context: the backends of its device.
#pragma once

#include "intflash/intflash.h"

namespace intflash::internal {

struct Backend;  // backend/backend.h

struct Device {
  const char* name;
  const Backend* backends[INTFLASH_MODE_INTFA + 1];  // by intflash_mode
};

}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What serves a context: where its device keeps caches, and its backends, which read them there.
#pragma once

#include "intflash/intflash.h"

namespace intflash::internal {

struct Backend;  // backend/backend.h
struct Storage;  // cache/storage.h

struct Device {
  const char* name;
  const Storage* storage;
  const Backend* backends[INTFLASH_MODE_INT8_QK + 1];  // by intflash_mode
  // What a new context has of the device for itself, until it is destroyed. nullptr: nothing.
  intflash_status (*open)(intflash_context& context) = nullptr;
  void (*close)(intflash_context& context) = nullptr;
};

}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// intflash.Rope: the tables of a rotary position embedding, read where they lie.
#pragma once

#include <optional>

#include <intflash/cache.h>

#include "array.h"

namespace intflash::python {

class Rope {
 public:
  explicit Rope(nb::handle source);  // None = no embedding
  Rope(const Rope&) = delete;
  Rope& operator=(const Rope&) = delete;
  const intflash_rope& get() const { return rope_; }

 private:
  std::optional<Array> cos_, sin_;
  intflash_rope rope_{};
};

}  // namespace intflash::python

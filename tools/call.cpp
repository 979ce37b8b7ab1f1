// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "call.h"

namespace intflash {

Context create_context(int num_threads, const std::string& isa) {
  intflash_context_options options = context_options();
  options.num_threads = num_threads;
  options.isa = isa.empty() ? nullptr : isa.c_str();
  return Context(options);
}

}  // namespace intflash

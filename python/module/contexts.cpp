// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "contexts.h"

#include <map>

#include "errors.h"
#include "frameworks.h"
#include "parameters.h"

namespace intflash::python {
namespace {

constexpr std::int64_t kDefault = 0;

std::int64_t num_threads(nb::handle threads) {
  if (!threads.is_none()) {
    const std::int64_t asked = integer("threads", threads, kDefault);
    if (asked < 1 || asked > INT32_MAX)
      raise(INTFLASH_INVALID_ARGUMENT,
            "threads is " + std::to_string(asked) + ": at least 1 is wanted, or None");
    return asked;
  }
  const nb::object torch = imported_torch();
  if (!torch.is_valid() || !nb::hasattr(torch, "get_num_threads")) return kDefault;
  return nb::cast<std::int64_t>(torch.attr("get_num_threads")());
}

}  // namespace

intflash_context* context_of(nb::handle threads) {
  static std::map<std::int64_t, intflash_context*> contexts;  // guarded by the GIL
  const std::int64_t count = num_threads(threads);
  intflash_context*& context = contexts[count];
  if (context != nullptr) return context;
  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.num_threads = static_cast<std::int32_t>(count);
  check(intflash_context_create(&options, &context));
  return context;
}

}  // namespace intflash::python

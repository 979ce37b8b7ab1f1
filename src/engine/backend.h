// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The seam between the C interface and what computes: the CPU's ports, and the double-precision
// reference.
#pragma once

#include <cstddef>

#include "core/problem.h"
#include "machine/context.h"

namespace intflash::internal {
struct Backend;
}

// What every backend's plan begins with.
struct intflash_plan {
  const intflash_context* context;
  const intflash::internal::Backend* backend;
  intflash::internal::Problem problem;
  std::size_t workspace_bytes;
  char kernel[64];
};

namespace intflash::internal {

struct Backend {
  const char* name;
  // A plan for a problem that has been validated, from the context's allocator; nullptr: no memory.
  intflash_plan* (*create_plan)(const intflash_context& context, const Problem& problem);
  void (*destroy_plan)(intflash_plan& plan);
  // Key and value into the workspace; nothing where the backend packs nothing.
  intflash_status (*pack)(const intflash_plan& plan, const intflash_attend_args& args,
                          void* workspace);
  // The query against what pack left.
  intflash_status (*attend)(const intflash_plan& plan, const intflash_attend_args& args,
                            void* workspace);
  // Both.
  intflash_status (*run)(const intflash_plan& plan, const intflash_attend_args& args,
                         void* workspace);
};

extern const Backend kCpuBackend;        // mode int8
extern const Backend kReferenceBackend;  // modes exact and intfa

}  // namespace intflash::internal

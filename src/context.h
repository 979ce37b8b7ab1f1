// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the handles of the C interface point to.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch.h"
#include "intflash/intflash.h"
#include "parallel.h"
#include "plan.h"
#include "problem.h"

struct intflash_context {
  const intflash::PortEntry* port;
  std::int32_t num_threads;
  intflash::Parallel parallel;
  void* (*allocate)(void* user, std::size_t bytes, std::size_t alignment);
  void (*deallocate)(void* user, void* pointer);
  void* allocator_user;
  std::int64_t l1_bytes;
  std::int64_t l2_bytes;
  char port_reason[512];
};

namespace intflash {
struct Backend;
}

struct intflash_plan {
  const intflash_context* context;
  const intflash::Backend* backend;
  intflash::Problem problem;
  intflash::Plan layout;
  std::size_t workspace_bytes;
  char kernel[64];
};

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// libintflash_cuda, opened at run time: this library needs nothing of CUDA's.
#pragma once

#include <cstddef>

#include "cuda/table.h"

namespace intflash::internal {

struct CudaLibrary {
  const CudaTable* table;  // nullptr: it could not be opened, or is another version's
  char reason[320];        // why not
};

// What the environment's INTFLASH_CUDA_LIBRARY names, else what lies beside this library, else what
// the system finds; opened when it is first asked for, and never closed.
const CudaLibrary& cuda_library();

// The same of one path, each time.
CudaLibrary open_cuda_library(const char* path);
// What a table that came from there is taken for.
CudaLibrary library_of(const char* path, const CudaTable* table);

}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The backend of a CUDA device, in mode int8; its dense calls: what is served, what is refused, and
// how a run goes.
#pragma once

#include "backend/backend.h"

namespace intflash::internal {

extern const Backend kCudaBackend;  // of all modes, of which it refuses all but int8

}  // namespace intflash::internal

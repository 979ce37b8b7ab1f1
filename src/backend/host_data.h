// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What backends that read the host's memory check of it before a run begins: scales, centres,
// sinks, slopes, rope. Elements of tensors and masks are looked at as the run reads them.
#pragma once

#include "backend/plan.h"
#include "inputs/seen_keys.h"

namespace intflash::internal {

// The keys that count.
SeenKeys seen_keys(const intflash_context& context, const Problem& problem,
                   const intflash_attend_args& args);

intflash_status check_dense_contents(const intflash_context& context, const Problem& problem,
                                     const intflash_attend_args& args, RunPart part);
intflash_status check_batch_contents(const intflash_plan& plan, const intflash_batch_args& args);

}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Key and value into the workspace: centred, rotated, quantized, and packed into pages.
#pragma once

#include "intflash/intflash.h"

struct intflash_plan;

namespace intflash {

intflash_status pack_kv(const intflash_plan& plan, const intflash_attend_args& args,
                        void* workspace);

}  // namespace intflash

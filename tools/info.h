// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash info`: the machine, the ports, which of them is chosen and why, and the measured
// limits.
#pragma once

namespace intflash {

// The exit code; failures are thrown.
int run_info(bool json);

}  // namespace intflash

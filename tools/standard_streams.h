// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The process's stdin, stdout and stderr, which may be closed, full, or pipes that nobody reads.
#pragma once

namespace intflash {

// Called first: whatever befalls the streams is from then on an error of the write that meets it.
void secure_standard_streams();

// Throws Failure where something printed to stdout was lost.
void require_stdout_written();

}  // namespace intflash

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The process's stdin, stdout and stderr, which may be closed, full, or pipes that nobody reads.
#pragma once

#include <string>

namespace intflash {

// Called first: whatever befalls the streams is from then on an error of the write that meets it.
void secure_standard_streams();

// Throws Failure where something printed to stdout was lost.
void require_stdout_written();

// Whether an output of that name goes to stdout: "-", or a name of the file or pipe that stdout is.
// Devices do not count: what they are given, they do not keep.
bool is_stdout(const std::string& path);

// A descriptor of stdout, for an output; what is printed from now on goes to stderr. Closing it is
// the caller's.
int take_stdout();

}  // namespace intflash

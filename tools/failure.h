// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The two ways in which the command fails; main() turns them into exit codes.
#pragma once

#include <stdexcept>

namespace intflash {

// A file, a shape or the library refused: exit code 1.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The command line itself asks for something that does not exist: exit code 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace intflash

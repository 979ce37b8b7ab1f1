// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows of several requests, one request after another: (rows, heads, dim), or, where each has
// equally many, (requests, heads, tokens, dim).
#pragma once

#include <vector>

#include "array.h"

namespace intflash::python {

struct Rows {
  std::int64_t count, heads, dim;
  intflash_tensor tensor;  // [1][heads][count][dim]
  bool has_requests;       // of 4 dimensions
};

// Raises unless array has 3 dimensions, or 4 with num_requests first. Copies, with a CopyWarning,
// where rows of 4 dimensions have no common stride.
Rows rows_of(Array& array, std::int64_t num_requests);

// [num_requests + 1]: where each request's rows begin. lengths: rows of each; None where each has
// equally many, or there is one row a request, or one request.
std::vector<std::int64_t> row_indptr(const char* name, const Rows& rows, std::int64_t num_requests,
                                     nb::handle lengths);

}  // namespace intflash::python

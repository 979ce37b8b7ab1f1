// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "rows.h"

#include "errors.h"
#include "parameters.h"

namespace intflash::python {

Rows rows_of(Array& array, std::int64_t num_requests) {
  array.want_rank(3, kMaxRank);
  array.want_input();
  array.make_rows();
  Rows rows{};
  rows.has_requests = array.rank() == kMaxRank;
  if (rows.has_requests) {
    const std::int64_t requests = array.extent(0);
    if (requests != num_requests) {
      raise(INTFLASH_BAD_SHAPE, std::string(array.name()) + " has shape " + array.shape_text() +
                                    ": its first dimension is not the number of sequences, " +
                                    std::to_string(num_requests));
    }
    array.swap_axes(1, 2);
    array.join_first_axes();
  }
  rows.count = array.extent(0);
  rows.heads = array.extent(1);
  rows.dim = array.extent(2);
  rows.tensor.data = array.data();
  rows.tensor.stride_token = array.stride(0);
  rows.tensor.stride_head = array.stride(1);
  return rows;
}

std::vector<std::int64_t> row_indptr(const char* name, const Rows& rows, std::int64_t num_requests,
                                     nb::handle lengths) {
  std::vector<std::int64_t> indptr = {0};
  if (!lengths.is_none()) {
    for (const nb::handle length : lengths) {
      const std::int64_t rows_of_one = integer("lengths", length, 0);
      if (rows_of_one < 0 || rows_of_one > rows.count - indptr.back() ||
          (rows.has_requests && rows_of_one * num_requests != rows.count)) {
        raise(INTFLASH_BAD_SHAPE, std::string(name) + " has " + std::to_string(rows.count) +
                                      " rows, of which lengths give " +
                                      std::to_string(rows_of_one) + " to sequence " +
                                      std::to_string(indptr.size() - 1));
      }
      indptr.push_back(indptr.back() + rows_of_one);
    }
  } else if (rows.has_requests || num_requests <= 1 || rows.count == num_requests) {
    const std::int64_t each = num_requests == 0 ? 0 : rows.count / num_requests;
    for (std::int64_t i = 0; i < num_requests; ++i) indptr.push_back(indptr.back() + each);
  }
  const auto given = static_cast<std::int64_t>(indptr.size()) - 1;
  if (given == num_requests && indptr.back() == rows.count) return indptr;
  raise(INTFLASH_BAD_SHAPE, std::string(name) + " has " + std::to_string(rows.count) +
                                " rows, and lengths are given for " + std::to_string(given) +
                                " of " + std::to_string(num_requests) + " sequences, " +
                                std::to_string(indptr.back()) + " rows");
}

}  // namespace intflash::python

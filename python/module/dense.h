// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Query, key and value of a dense call, which belong together.
#pragma once

#include "array.h"

namespace intflash::python {

struct DenseInputs {
  Array query, key, value;

  DenseInputs(nb::handle query_source, nb::handle key_source, nb::handle value_source);

  // Copies, with a CopyWarning, what cannot be read in place.
  void make_rows();
  bool have_rows() const { return query.has_rows() && key.has_rows() && value.has_rows(); }

  // Their lengths and types; all else is the default.
  intflash_attend_desc desc() const;
  intflash_attend_args args() const;
  // The shape of query, with the dimension of value.
  Extents out_shape() const;
};

}  // namespace intflash::python

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "merge.h"

#include <memory>
#include <vector>

#include <intflash/cache.h>

#include "errors.h"
#include "frameworks.h"
#include "inputs.h"
#include "run.h"

namespace intflash::python {
namespace {

using Arrays = std::vector<std::unique_ptr<Array>>;

Arrays read_all(const char* name, nb::handle sources) {
  Arrays arrays;
  for (const nb::handle source : sources) {
    Array& array = *arrays.emplace_back(std::make_unique<Array>(name, source));
    if (array.dtype() != INTFLASH_F32)
      raise(INTFLASH_UNSUPPORTED, std::string(name) + " have dtype " + dtype_name(array.dtype()) +
                                      ": states are merged in float32");
  }
  return arrays;
}

nb::object merge_states(nb::handle outs, nb::handle lses) {
  const Arrays out_arrays = read_all("outs", outs), lse_arrays = read_all("lses", lses);
  if (out_arrays.empty() || out_arrays.size() != lse_arrays.size()) {
    raise(INTFLASH_BAD_SHAPE, "there are " + std::to_string(out_arrays.size()) + " outs and " +
                                  std::to_string(lse_arrays.size()) +
                                  " lses: as many of each are wanted, and at least one");
  }
  const Array& first = *out_arrays[0];
  first.want_rank(3, kMaxRank);
  const Extents shape = first.shape();
  const int rank = first.rank();
  Extents lse_shape = shape;
  lse_shape[static_cast<std::size_t>(rank - 1)] = 0;
  std::vector<intflash_tensor> tensors;
  std::vector<std::vector<float>> copies;
  std::vector<const float*> lse_data;
  for (std::size_t i = 0; i < out_arrays.size(); ++i) {
    Array& out = *out_arrays[i];
    const Array& lse = *lse_arrays[i];
    if (out.rank() != rank || out.shape() != shape || lse.rank() != rank - 1 ||
        lse.shape() != lse_shape) {
      raise(INTFLASH_BAD_SHAPE, "outs[" + std::to_string(i) + "] has shape " + out.shape_text() +
                                    " and lses[" + std::to_string(i) + "] " + lse.shape_text() +
                                    ": " + shape_text(shape.data(), rank) + " and " +
                                    shape_text(shape.data(), rank - 1) + " are wanted");
    }
    out.make_rows();
    tensors.push_back(tensor_of(out));
    lse.copy_to(copies.emplace_back(static_cast<std::size_t>(lse.num_elements())).data());
    lse_data.push_back(copies.back().data());
  }
  const nb::object out = make_output(first, shape.data(), rank, INTFLASH_F32);
  const nb::object lse = make_output(first, shape.data(), rank - 1, INTFLASH_F32);
  const Array out_array("out", out), lse_array("lse", lse);
  const Shape extents = shape_of(first);
  intflash_tensor result = tensor_of(out_array);
  float* result_lse = static_cast<float*>(lse_array.data());
  Run run;
  run([&] {
    for (std::int64_t b = 0; b < extents.batch; ++b) {
      const intflash_status status = intflash_merge_states(
          static_cast<std::int64_t>(tensors.size()), tensors.data(), lse_data.data(), extents.heads,
          extents.tokens, extents.dim, &result, result_lse);
      if (status != INTFLASH_OK) return status;
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        tensors[i].data = static_cast<float*>(tensors[i].data) + tensors[i].stride_batch;
        lse_data[i] += extents.heads * extents.tokens;
      }
      result.data = static_cast<float*>(result.data) + result.stride_batch;
      result_lse += extents.heads * extents.tokens;
    }
    return INTFLASH_OK;
  });
  return nb::make_tuple(out, lse);
}

}  // namespace

void add_merge(nb::module_& module) {
  module.def("merge_states", merge_states, nb::arg("outs"), nb::arg("lses"));
}

}  // namespace intflash::python

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "dense.h"

#include "inputs.h"

namespace intflash::python {

DenseInputs::DenseInputs(nb::handle query_source, nb::handle key_source, nb::handle value_source)
    : query("query", query_source), key("key", key_source), value("value", value_source) {
  for (const Array* array : {&query, &key, &value}) {
    array->want_rank(3, 4);
    array->want_input(INTFLASH_INT8);
  }
  want_same("numbers of dimensions", key, key.rank(), query, query.rank());
  want_same("numbers of dimensions", value, value.rank(), query, query.rank());
  const Shape of_query = shape_of(query), of_key = shape_of(key), of_value = shape_of(value);
  want_same("batches", key, of_key.batch, query, of_query.batch);
  want_same("batches", value, of_value.batch, query, of_query.batch);
  want_same("head dimensions", key, of_key.dim, query, of_query.dim);
  want_same("heads", value, of_value.heads, key, of_key.heads);
  want_same("tokens", value, of_value.tokens, key, of_key.tokens);
}

void DenseInputs::make_rows() {
  for (Array* array : {&query, &key, &value}) array->make_rows();
}

intflash_attend_desc DenseInputs::desc() const {
  intflash_attend_desc desc{};
  desc.struct_size = sizeof desc;
  const Shape of_query = shape_of(query), of_key = shape_of(key);
  desc.batch = of_query.batch;
  desc.num_query_heads = of_query.heads;
  desc.num_kv_heads = of_key.heads;
  desc.query_len = of_query.tokens;
  desc.kv_len = of_key.tokens;
  desc.head_dim = of_query.dim;
  desc.head_dim_v = shape_of(value).dim;
  desc.query_dtype = query.dtype();
  desc.key_dtype = key.dtype();
  desc.value_dtype = value.dtype();
  return desc;
}

intflash_attend_args DenseInputs::args() const {
  intflash_attend_args args{};
  args.struct_size = sizeof args;
  args.query = tensor_of(query);
  args.key = tensor_of(key);
  args.value = tensor_of(value);
  return args;
}

Extents DenseInputs::out_shape() const {
  Extents shape = query.shape();
  shape[static_cast<std::size_t>(query.rank() - 1)] = shape_of(value).dim;
  return shape;
}

}  // namespace intflash::python

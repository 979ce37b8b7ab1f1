// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "attend.h"

#include <optional>
#include <vector>

#include "array.h"
#include "contexts.h"
#include "errors.h"
#include "frameworks.h"
#include "inputs.h"
#include "parameters.h"
#include "run.h"

namespace intflash::python {
namespace {

// Query, key and value that belong together.
struct DenseInputs {
  Array query, key, value;

  DenseInputs(nb::handle q, nb::handle k, nb::handle v)
      : query("query", q), key("key", k), value("value", v) {
    for (Array* array : {&query, &key, &value}) {
      array->want_rank(3, 4);
      array->want_dtypes(false);
      array->make_rows();
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
};

struct DenseOptions {
  nb::handle causal, window, prefix, scale, cap, center, score_digits, mode;
  bool rotate;
};

intflash_attend_desc make_desc(const DenseInputs& inputs, const DenseOptions& options) {
  intflash_attend_desc desc{};
  desc.struct_size = sizeof desc;
  desc.mode = mode_of(options.mode);
  const Shape query = shape_of(inputs.query), key = shape_of(inputs.key);
  desc.batch = query.batch;
  desc.num_query_heads = query.heads;
  desc.num_kv_heads = key.heads;
  desc.query_len = query.tokens;
  desc.kv_len = key.tokens;
  desc.head_dim = query.dim;
  desc.head_dim_v = shape_of(inputs.value).dim;
  desc.query_dtype = desc.out_dtype = inputs.query.dtype();
  desc.key_dtype = inputs.key.dtype();
  desc.value_dtype = inputs.value.dtype();
  const Mask mask = mask_of(options.causal, options.window, options.prefix);
  desc.mask = mask.kind;
  desc.window_left = mask.window_left;
  desc.window_right = mask.window_right;
  desc.prefix_len = mask.prefix_len;
  desc.softmax_scale = softmax_scale_of(options.scale);
  desc.score_cap = cap_of(options.cap);
  desc.center = center_of(options.center);
  desc.rotation = options.rotate ? INTFLASH_ROTATION_AUTO : INTFLASH_ROTATION_NONE;
  desc.score_digits = score_digits_of(options.score_digits);
  return desc;
}

// The shape of query, with the dimension of value.
Extents out_shape(const DenseInputs& inputs) {
  Extents shape = inputs.query.shape();
  shape[static_cast<std::size_t>(inputs.query.rank() - 1)] = shape_of(inputs.value).dim;
  return shape;
}

nb::object attend(nb::handle query, nb::handle key, nb::handle value, nb::handle causal,
                  nb::handle window, nb::handle prefix, nb::handle scale, nb::handle cap,
                  nb::handle mask, nb::handle sinks, nb::handle alibi, nb::handle center,
                  bool rotate, nb::handle score_digits, nb::handle mode, bool wants_lse,
                  nb::handle out, nb::handle threads) {
  const DenseInputs inputs(query, key, value);
  intflash_attend_desc desc =
      make_desc(inputs, {causal, window, prefix, scale, cap, center, score_digits, mode, rotate});
  intflash_attend_args args{};
  args.struct_size = sizeof args;
  args.query = tensor_of(inputs.query);
  args.key = tensor_of(inputs.key);
  args.value = tensor_of(inputs.value);

  std::optional<Array> mask_array;
  if (!mask.is_none()) {
    mask_array.emplace("mask", mask);
    args.additive_mask = mask_tensor_of(
        *mask_array, {desc.batch, desc.num_query_heads, desc.query_len, desc.kv_len});
  }
  const std::vector<float> sink_logits = floats("sinks", sinks, desc.num_query_heads);
  const std::vector<float> slopes = floats("alibi", alibi, desc.num_query_heads);
  args.sinks = sink_logits.empty() ? nullptr : sink_logits.data();
  args.alibi_slopes = slopes.empty() ? nullptr : slopes.data();

  const Extents shape = out_shape(inputs);
  const int rank = inputs.query.rank();
  const nb::object result = out.is_none()
                                ? make_output(inputs.query, shape.data(), rank, desc.out_dtype)
                                : nb::borrow(out);
  const Array out_array("out", result);
  want_output(out_array, shape, rank);
  desc.out_dtype = out_array.dtype();
  args.out = tensor_of(out_array);

  nb::object lse;
  std::optional<Array> lse_array;
  if (wants_lse) {
    lse = make_output(inputs.query, shape.data(), rank - 1, INTFLASH_F32);
    lse_array.emplace("lse", lse);
    args.lse = static_cast<float*>(lse_array->data());
  }

  intflash_context* const context = context_of(threads);
  Run run;
  args.should_cancel = Run::should_cancel;
  args.cancel_user = &run;
  run([&] { return intflash_attend(context, &desc, &args); });
  return wants_lse ? nb::make_tuple(result, lse) : result;
}

}  // namespace

void add_attend(nb::module_& module) {
  module.def("attend", attend, nb::arg("query").none(), nb::arg("key").none(),
             nb::arg("value").none(), nb::arg("causal").none(), nb::arg("window").none(),
             nb::arg("prefix").none(), nb::arg("scale").none(), nb::arg("cap").none(),
             nb::arg("mask").none(), nb::arg("sinks").none(), nb::arg("alibi").none(),
             nb::arg("center").none(), nb::arg("rotate"), nb::arg("score_digits").none(),
             nb::arg("mode"), nb::arg("lse"), nb::arg("out").none(), nb::arg("threads").none());
}

}  // namespace intflash::python

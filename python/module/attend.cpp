// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "attend.h"

#include <optional>
#include <vector>

#include "contexts.h"
#include "dense.h"
#include "errors.h"
#include "frameworks.h"
#include "inputs.h"
#include "parameters.h"
#include "run.h"

namespace intflash::python {
namespace {

struct DenseOptions {
  nb::handle causal, window, prefix, scale, cap, score_digits, mode;
  bool rotate;
};

// Which means are taken off: computed where a name says so, or given as an array for keys, or as a
// pair for keys and values.
struct Centers {
  intflash_center kind = INTFLASH_CENTER_NONE;
  std::vector<float> key, value;  // empty = computed

  Centers(nb::handle source, const DenseInputs& inputs) {
    if (source.is_none() || nb::isinstance<nb::str>(source)) {
      kind = center_of(source);
      return;
    }
    const bool is_pair = PyTuple_Check(source.ptr()) && nb::len(source) == 2;
    kind = is_pair ? INTFLASH_CENTER_KEY_VALUE : INTFLASH_CENTER_KEY;
    const Shape of_key = shape_of(inputs.key), of_value = shape_of(inputs.value);
    key = read(is_pair ? nb::object(source[0]) : nb::borrow(source), of_key);
    if (is_pair) value = read(source[1], of_value);
  }

 private:
  static std::vector<float> read(nb::handle source, const Shape& of) {
    return given_center("center", source, "batch", {of.batch, of.heads, of.dim});
  }
};

void set_options(intflash_attend_desc& desc, const DenseOptions& options) {
  desc.mode = mode_of(options.mode);
  const Mask mask = mask_of(options.causal, options.window, options.prefix);
  desc.mask = mask.kind;
  desc.window_left = mask.window_left;
  desc.window_right = mask.window_right;
  desc.prefix_len = mask.prefix_len;
  desc.softmax_scale = softmax_scale_of(options.scale);
  desc.score_cap = cap_of(options.cap);
  desc.rotation = options.rotate ? INTFLASH_ROTATION_AUTO : INTFLASH_ROTATION_NONE;
  desc.score_digits = score_digits_of(options.score_digits);
}

nb::object attend(nb::handle query, nb::handle key, nb::handle value, nb::handle causal,
                  nb::handle window, nb::handle prefix, nb::handle scale, nb::handle cap,
                  nb::handle mask, nb::handle tree, nb::handle sinks, nb::handle alibi,
                  nb::handle query_scale, nb::handle key_scale, nb::handle value_scale,
                  nb::handle center, bool rotate, nb::handle score_digits, nb::handle mode,
                  bool wants_lse, nb::handle out, nb::handle threads) {
  DenseInputs inputs(query, key, value);
  inputs.make_rows();
  intflash_attend_desc desc = inputs.desc();
  set_options(desc, {causal, window, prefix, scale, cap, score_digits, mode, rotate});
  intflash_attend_args args = inputs.args();
  const Scales query_scales("query_scale", query_scale, inputs.query);
  const Scales key_scales("key_scale", key_scale, inputs.key);
  const Scales value_scales("value_scale", value_scale, inputs.value);
  query_scales.put_into(args.query);
  key_scales.put_into(args.key);
  value_scales.put_into(args.value);
  const Centers centers(center, inputs);
  desc.center = centers.kind;
  args.key_center = centers.key.empty() ? nullptr : centers.key.data();
  args.value_center = centers.value.empty() ? nullptr : centers.value.data();

  std::optional<Array> mask_array;
  if (!mask.is_none()) {
    mask_array.emplace("mask", mask);
    args.additive_mask = mask_tensor_of(
        *mask_array, {desc.batch, desc.num_query_heads, desc.query_len, desc.kv_len});
  }
  const Tree bits(tree, desc.query_len);
  args.bit_mask = bits.mask();
  const std::vector<float> sink_logits = floats("sinks", sinks, desc.num_query_heads);
  const std::vector<float> slopes = floats("alibi", alibi, desc.num_query_heads);
  args.sinks = sink_logits.empty() ? nullptr : sink_logits.data();
  args.alibi_slopes = slopes.empty() ? nullptr : slopes.data();

  const Extents shape = inputs.out_shape();
  const int rank = inputs.query.rank();
  const intflash_dtype out_dtype = may_be_out(desc.query_dtype) ? desc.query_dtype : INTFLASH_F32;
  const nb::object result =
      out.is_none() ? make_output(inputs.query, shape.data(), rank, out_dtype) : nb::borrow(out);
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
             nb::arg("mask").none(), nb::arg("tree").none(), nb::arg("sinks").none(),
             nb::arg("alibi").none(), nb::arg("query_scale").none(), nb::arg("key_scale").none(),
             nb::arg("value_scale").none(), nb::arg("center").none(), nb::arg("rotate"),
             nb::arg("score_digits").none(), nb::arg("mode"), nb::arg("lse"), nb::arg("out").none(),
             nb::arg("threads").none());
}

}  // namespace intflash::python

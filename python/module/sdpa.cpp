// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "sdpa.h"

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

// What says, by something that is true, that the dispatcher would do more than call our kernel.
struct Watcher {
  nb::handle function, argument;

  bool is_there() const {
    PyObject* const arguments[] = {argument.ptr()};
    const nb::object answer = nb::steal(
        PyObject_Vectorcall(function.ptr(), arguments, argument.is_valid() ? 1 : 0, nullptr));
    if (!answer.is_valid()) throw nb::python_error();
    return PyObject_IsTrue(answer.ptr()) != 0;
  }
};

// Empty where this version of PyTorch has not all of them.
std::vector<Watcher> find_watchers() {
  const nb::object torch = imported_torch(), none = nb::none();
  const nb::object core = nb::getattr(torch, "_C", none);
  const nb::object functorch = nb::getattr(core, "_functorch", none);
  const nb::object autograd = nb::getattr(torch, "autograd", none);
  std::vector<Watcher> watchers;
  for (const nb::object& function : {nb::getattr(core, "_len_torch_dispatch_stack", none),
                                     nb::getattr(core, "_len_torch_function_stack", none),
                                     nb::getattr(core, "_get_tracing_state", none),
                                     nb::getattr(functorch, "peek_interpreter_stack", none),
                                     nb::getattr(autograd, "_profiler_enabled", none)}) {
    if (function.is_none()) return {};
    watchers.push_back({nb::object(function).release(), {}});
  }
  watchers.push_back(
      {nb::getattr(torch, "is_autocast_enabled").release(), nb::str("cpu").release()});
  return watchers;
}

bool is_watched() {
  static const std::vector<Watcher> watchers = find_watchers();
  for (const Watcher& watcher : watchers)
    if (watcher.is_there()) return true;
  return watchers.empty();
}

bool is_scale(nb::handle scale) {
  if (scale.is_none()) return true;
  constexpr float kLeast = 0x1p-126f, kMost = 0x1p127f;
  const float value = number("scale", scale, 0);
  return value >= kLeast && value <= kMost;
}

// An invalid object where the general way has to say what is to be done.
nb::object attend(nb::handle query, nb::handle key, nb::handle value, nb::handle mask,
                  bool is_causal, nb::handle scale, bool enable_gqa) {
  const DenseInputs inputs(query, key, value);
  intflash_attend_desc desc = inputs.desc();
  const bool fits = inputs.have_rows() && desc.query_dtype == desc.key_dtype &&
                    desc.query_dtype == desc.value_dtype && may_be_out(desc.query_dtype) &&
                    desc.head_dim == desc.head_dim_v && desc.num_query_heads > 0 &&
                    (enable_gqa || desc.num_query_heads == desc.num_kv_heads);
  if (!fits || !is_scale(scale)) return {};
  desc.mask = is_causal ? INTFLASH_MASK_CAUSAL_TOP_LEFT : INTFLASH_MASK_NONE;
  desc.softmax_scale = number("scale", scale, 0);
  desc.out_dtype = desc.query_dtype;
  intflash_attend_args args = inputs.args();
  std::optional<Array> mask_array;
  if (!mask.is_none()) {
    mask_array.emplace("attn_mask", mask);
    if (mask_array->rank() < 2 || !mask_array->has_rows()) return {};
    args.additive_mask = mask_tensor_of(
        *mask_array, {desc.batch, desc.num_query_heads, desc.query_len, desc.kv_len});
  }
  nb::object out = empty_like(query);  // with its strides, as PyTorch does
  const Array out_array("out", out);
  want_output(out_array, inputs.out_shape(), inputs.query.rank());
  args.out = tensor_of(out_array);
  intflash_context* const context = context_of(nb::none());
  Run run;
  args.should_cancel = Run::should_cancel;
  args.cancel_user = &run;
  run([&] { return intflash_attend(context, &desc, &args); });
  return out;
}

// The call's result; or None, and nothing has been done, where anything is not as it mostly is.
nb::object sdpa(nb::handle query, nb::handle key, nb::handle value, nb::handle mask, bool is_causal,
                nb::handle scale, bool enable_gqa) {
  for (const nb::handle tensor : {query, key, value, mask.is_none() ? query : mask})
    if (!is_plain_tensor(tensor) || requires_grad(tensor)) return nb::none();
  if (is_watched()) return nb::none();
  try {
    nb::object out = attend(query, key, value, mask, is_causal, scale, enable_gqa);
    return out.is_valid() ? out : nb::none();
  } catch (nb::python_error& error) {
    if (!error.matches(any_error())) throw;
    return nb::none();
  }
}

}  // namespace

void add_sdpa(nb::module_& module) {
  module.def("sdpa", sdpa, nb::arg("query").none(), nb::arg("key").none(), nb::arg("value").none(),
             nb::arg("mask").none(), nb::arg("is_causal"), nb::arg("scale").none(),
             nb::arg("enable_gqa"));
}

}  // namespace intflash::python

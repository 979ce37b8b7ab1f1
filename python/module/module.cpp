// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The module intflash._core: the C interface with Python's objects. What users see is in the
// package, with types and documentation.
#include <nanobind/nanobind.h>

#include "attend.h"
#include "batch.h"
#include "cache.h"
#include "calibration.h"
#include "contexts.h"
#include "errors.h"
#include "merge.h"
#include "sdpa.h"

namespace intflash::python {
namespace {

nb::list ports() {
  nb::list list;
  for (std::int32_t i = 0; i < intflash_num_ports(); ++i) {
    intflash_port_info info{};
    info.struct_size = sizeof info;
    check(intflash_get_port(i, &info));
    list.append(nb::make_tuple(info.name, info.built != 0, info.supported != 0, info.reason));
  }
  return list;
}

nb::tuple context_info(nb::handle threads) {
  const intflash_context* const context = context_of(threads);
  return nb::make_tuple(intflash_context_device(context), intflash_context_port(context),
                        intflash_context_port_reason(context),
                        intflash_context_num_threads(context));
}

}  // namespace
}  // namespace intflash::python

NB_MODULE(_core, module) {
  namespace python = intflash::python;
  module.attr("version") = intflash_version();
  module.def("ports", python::ports);
  module.def("context_info", python::context_info, nanobind::arg("threads").none());
  python::add_attend(module);
  python::add_merge(module);
  python::add_sdpa(module);
  python::add_cache(module);
  python::add_calibration(module);
  python::add_batch(module);
}

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "rope.h"

#include "errors.h"
#include "parameters.h"

namespace intflash::python {

Rope::Rope(nb::handle source) {
  if (source.is_none()) return;
  static constexpr Choice kPairings[] = {{"adjacent", INTFLASH_ROPE_ADJACENT},
                                         {"halves", INTFLASH_ROPE_HALVES}};
  const nb::object pairing = nb::getattr(source, "pairing", nb::none());
  rope_.pairing = static_cast<intflash_rope_pairing>(choice("rope's pairing", pairing, kPairings));
  cos_.emplace("rope's cos", nb::getattr(source, "cos", nb::none()));
  sin_.emplace("rope's sin", nb::getattr(source, "sin", nb::none()));
  for (Array* table : {&*cos_, &*sin_}) {
    table->want_rank(2, 2);
    if (table->dtype() != INTFLASH_F32) {
      raise(INTFLASH_UNSUPPORTED, std::string(table->name()) + " has dtype " +
                                      dtype_name(table->dtype()) + ": float32 is wanted");
    }
    table->make_dense();
  }
  if (cos_->shape() != sin_->shape()) {
    raise(INTFLASH_BAD_SHAPE, "rope's cos has shape " + cos_->shape_text() + ", and its sin " +
                                  sin_->shape_text() + ": they are one for another");
  }
  rope_.cos = static_cast<const float*>(cos_->data());
  rope_.sin = static_cast<const float*>(sin_->data());
  rope_.num_positions = cos_->extent(0);
  rope_.rope_dim = 2 * cos_->extent(1);
}

}  // namespace intflash::python

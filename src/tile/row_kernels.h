// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Row kernels from an instruction set's operations. Ports that multiply tiles in other ways have
// those of the instruction set that they build on.
#pragma once

#include "tile/expand.h"
#include "tile/f16_values.h"
#include "tile/key_codes.h"
#include "tile/mask_words.h"
#include "tile/pack.h"
#include "tile/quarter_codes.h"
#include "tile/rows.h"
#include "tile/state.h"
#include "tile/value_codes.h"

namespace intflash::internal {
namespace {

// add_f16: RowKernels::add_f16_values, that of the instruction set's vectors.
template <class Ops>
constexpr RowKernels make_row_kernels(void (*add_f16)(const F16ValuesTask&)) {
  return {
      .max_magnitude = max_magnitude<Ops>,
      .sum_rows = sum_rows<Ops>,
      .quantize_rows = quantize_rows<Ops>,
      .sum_magnitudes = sum_magnitudes,
      .pack_keys = pack_keys<Ops>,
      .pack_values = pack_values<Ops>,
      .mask_words = mask_words<Ops>,
      .has_bad_element = has_bad_element,
      .merge_states = merge_states,
      .write_row = write_row<Ops>,
      .code_values = code_values<Ops>,
      .code_keys = {code_keys<2>, code_keys<4>},
      .code_quarters = code_quarters<2 * Ops::kLanes>,
      .halve_rows = halve_rows<Ops>,
      .add_f16_values = add_f16,
      .expand = {nullptr, nullptr, expand_block<Ops, 8, 4>, expand_block<Ops, 4, 4>,
                 expand_block<Ops, 4, 2>, expand_block<Ops, 2, 2>},
  };
}

}  // namespace
}  // namespace intflash::internal

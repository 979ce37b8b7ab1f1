// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "channel_means.h"

#include <fmt/format.h>

#include <cmath>

#include "attention_inputs.h"
#include "call.h"
#include "failure.h"
#include "inputs/tensor.h"

namespace intflash {

Means means_of(const NpyArray& array, const std::string& path) {
  const HeadAxes axes = head_axes(array, path);
  const std::int64_t tokens = axes.batch * axes.tokens;
  if (tokens == 0) throw Failure(fmt::format("{}: no tokens to take the mean of", path));
  const intflash_tensor tensor = contiguous(array.data.data(), axes.heads, axes.tokens, axes.dim);
  Means means{{axes.heads, axes.dim}, {}};
  for (std::int64_t h = 0; h < axes.heads; ++h) {
    for (std::int64_t c = 0; c < axes.dim; ++c) {
      double sum = 0;
      for (std::int64_t t = 0; t < tokens; ++t)
        sum +=
            internal::tensor_element(tensor, array.dtype, t / axes.tokens, h, t % axes.tokens, c);
      if (!std::isfinite(sum))
        throw Failure(fmt::format("{}: head {}, channel {} is not finite", path, h, c));
      means.elements.push_back(static_cast<float>(sum / static_cast<double>(tokens)));
    }
  }
  return means;
}

}  // namespace intflash

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "states/merge.h"

#include <cstdint>
#include <cstdio>
#include <limits>

#include "core/checks.h"
#include "intflash/cache.h"
#include "machine/float_state.h"
#include "tile/float_math.h"
#include "tile/log_sum_exp.h"

namespace intflash::internal {
namespace {

// Results of attention, as the caller has them: out [1][heads][rows][dim], lse [heads][rows].
struct Results {
  std::int64_t heads, rows, dim;

  TensorView view(const char* name, const intflash_tensor& tensor) const {
    return {name, &tensor, INTFLASH_F32, 1, heads, rows, dim};
  }
  static float* row(const intflash_tensor& tensor, std::int64_t head, std::int64_t row) {
    return static_cast<float*>(tensor.data) + head * tensor.stride_head + row * tensor.stride_token;
  }
};

intflash_status check_states(const Results& shape, std::int64_t num_states,
                             const intflash_tensor* outs, const float* const* lses) {
  for (std::int64_t i = 0; i < num_states; ++i) {
    char name[32];
    std::snprintf(name, sizeof name, "outs[%lld]", static_cast<i64>(i));
    intflash_status status = check_tensor(shape.view(name, outs[i]));
    if (status != INTFLASH_OK) return status;
    std::snprintf(name, sizeof name, "lses[%lld]", static_cast<i64>(i));
    if (lses[i] == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "%s = NULL", name);
    status = check_pointer(name, lses[i]);
    if (status != INTFLASH_OK) return status;
    for (std::int64_t r = 0; r < shape.heads * shape.rows; ++r) {
      if (lses[i][r] < std::numeric_limits<float>::infinity()) continue;
      return fail(INTFLASH_NONFINITE_INPUT,
                  "%s[head %lld][%lld] = %g: must be finite, or -infinity", name,
                  static_cast<i64>(r / shape.rows), static_cast<i64>(r % shape.rows),
                  static_cast<double>(lses[i][r]));
    }
  }
  return INTFLASH_OK;
}

// One row of all states. Elements are read before they are written: out may be a state's own.
void merge_row(const Results& shape, std::int64_t num_states, const intflash_tensor* outs,
               const float* const* lses, std::int64_t head, std::int64_t row, float* out,
               float& lse) {
  const std::int64_t index = head * shape.rows + row;
  float largest = kNegativeInfinity;
  for (std::int64_t i = 0; i < num_states; ++i) largest = max_of(largest, lses[i][index]);
  const auto weight = [&](std::int64_t i) {
    const double distance = static_cast<double>(lses[i][index]) - static_cast<double>(largest);
    return static_cast<double>(exp2_of(static_cast<float>(distance / kLn2)));
  };
  if (largest == kNegativeInfinity) {
    for (std::int64_t c = 0; c < shape.dim; ++c) out[c] = 0;
    lse = kNegativeInfinity;
    return;
  }
  double sum = 0;
  for (std::int64_t i = 0; i < num_states; ++i) sum += weight(i);
  constexpr std::int64_t kPiece = 64;
  for (std::int64_t first = 0; first < shape.dim; first += kPiece) {
    const std::int64_t count = min_of(kPiece, shape.dim - first);
    double weighted[kPiece] = {};
    for (std::int64_t i = 0; i < num_states; ++i) {
      if (lses[i][index] == kNegativeInfinity) continue;
      const double factor = weight(i);
      const float* state = Results::row(outs[i], head, row) + first;
      for (std::int64_t c = 0; c < count; ++c)
        weighted[c] += factor * static_cast<double>(state[c]);
    }
    for (std::int64_t c = 0; c < count; ++c) out[first + c] = static_cast<float>(weighted[c] / sum);
  }
  lse = static_cast<float>(static_cast<double>(largest) + natural_log(sum));
}

}  // namespace

float log_sum_exp(float reference, float row_sum, double term) {
  return log_sum_exp_of(reference, row_sum, term);
}

}  // namespace intflash::internal

extern "C" intflash_status intflash_merge_states(int64_t num_states, const intflash_tensor* outs,
                                                 const float* const* lses, int64_t num_heads,
                                                 int64_t num_rows, int64_t dim,
                                                 const intflash_tensor* out, float* lse) {
  using namespace intflash::internal;
  intflash_status status = check_extent("num_states", num_states, 0);
  if (status == INTFLASH_OK) status = check_extent("num_heads", num_heads, 0);
  if (status == INTFLASH_OK) status = check_extent("num_rows", num_rows, 0);
  if (status == INTFLASH_OK) status = check_extent("dim", dim, 1);
  if (status != INTFLASH_OK) return status;
  if (num_heads == 0 || num_rows == 0) return INTFLASH_OK;
  const bool has_states = outs != nullptr && lses != nullptr;
  if ((num_states > 0 && !has_states) || out == nullptr || lse == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "outs, lses, out and lse: must not be NULL");
  const Results shape = {num_heads, num_rows, dim};
  const TensorView target = shape.view("out", *out);
  status = check_pointer("outs", outs);
  if (status == INTFLASH_OK) status = check_pointer("lses", lses);
  if (status == INTFLASH_OK) status = check_pointer("lse", lse);
  if (status == INTFLASH_OK) status = check_tensor(target);
  if (status == INTFLASH_OK) status = check_no_overlap(target);
  if (status == INTFLASH_OK) status = check_states(shape, num_states, outs, lses);
  if (status != INTFLASH_OK) return status;
  const FloatState float_state;
  for (std::int64_t h = 0; h < num_heads; ++h) {
    for (std::int64_t r = 0; r < num_rows; ++r)
      merge_row(shape, num_states, outs, lses, h, r, Results::row(*out, h, r),
                lse[h * num_rows + r]);
  }
  return INTFLASH_OK;
}

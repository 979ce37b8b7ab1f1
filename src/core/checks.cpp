// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "core/checks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <limits>

#include "tile/types.h"
#include "tile/widen.h"

namespace intflash::internal {
namespace {

thread_local char last_message[512] = "";

std::array<Axis, 3> axes_of(const TensorView& view) {
  return {Axis{"stride_batch", view.batch, view.tensor->stride_batch},
          Axis{"stride_head", view.heads, view.tensor->stride_head},
          Axis{"stride_token", view.tokens, view.tensor->stride_token}};
}

// Rows of ggml's types begin with a block.
intflash_status check_block_strides(const TensorView& view) {
  for (const Axis& axis : axes_of(view)) {
    if (axis.stride % kGgmlBlock == 0) continue;
    return fail(INTFLASH_BAD_STRIDE, "%s.%s = %lld: must be a multiple of ggml's block of %lld",
                view.name, axis.name, static_cast<i64>(axis.stride), static_cast<i64>(kGgmlBlock));
  }
  return INTFLASH_OK;
}

// Of queries, keys and values, one by one.
bool has_elements(intflash_dtype dtype) {
  return (dtype >= INTFLASH_F32 && dtype <= INTFLASH_INT8) || dtype == INTFLASH_F8_E4M3 ||
         dtype == INTFLASH_F8_E5M2;
}

intflash_status check_scales(const TensorView& view) {
  const intflash_tensor& tensor = *view.tensor;
  if (tensor.scale == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "%s.scale = NULL: an INT8 tensor needs scales",
                view.name);
  if (tensor.scale_block < 0) {
    return fail(INTFLASH_BAD_STRIDE, "%s.scale_block = %lld: must be >= 0", view.name,
                static_cast<i64>(tensor.scale_block));
  }
  const Axis axes[] = {{"scale_stride_batch", view.batch, tensor.scale_stride_batch},
                       {"scale_stride_head", view.heads, tensor.scale_stride_head}};
  const intflash_status status = check_pointer(view.name, ".scale", tensor.scale);
  return status == INTFLASH_OK ? check_axes(view.name, axes, view.scales_of_head()) : status;
}

}  // namespace

intflash_status fail(intflash_status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(last_message, sizeof last_message, format, arguments);
  va_end(arguments);
  return status;
}

const char* last_error() { return last_message; }

std::int64_t dtype_bytes(intflash_dtype dtype) {
  switch (dtype) {
    case INTFLASH_F32:
      return 4;
    case INTFLASH_INT8:
    case INTFLASH_BOOL:
    case INTFLASH_F8_E4M3:
    case INTFLASH_F8_E5M2:
      return 1;
    case INTFLASH_F16:
    case INTFLASH_BF16:
    case INTFLASH_Q8_0:
    case INTFLASH_Q4_0:
      break;
  }
  return 2;
}

intflash_status check_mode(intflash_mode mode) {
  if (mode >= INTFLASH_MODE_INT8 && mode <= INTFLASH_MODE_INT8_QK) return INTFLASH_OK;
  return fail(INTFLASH_INVALID_ARGUMENT, "mode = %d: must be INT8, EXACT, INTFA or INT8_QK",
              static_cast<int>(mode));
}

const char* mode_name(intflash_mode mode) {
  switch (mode) {
    case INTFLASH_MODE_EXACT:
      return "exact";
    case INTFLASH_MODE_INTFA:
      return "intfa";
    case INTFLASH_MODE_INT8_QK:
      return "int8_qk";
    case INTFLASH_MODE_INT8:
      break;
  }
  return "int8";
}

intflash_status check_extent(const char* name, std::int64_t value, std::int64_t least) {
  if (value >= least && value <= kMaxExtent) return INTFLASH_OK;
  return fail(INTFLASH_BAD_SHAPE, "%s = %lld: must be %lld ... %lld", name, static_cast<i64>(value),
              static_cast<i64>(least), static_cast<i64>(kMaxExtent));
}

intflash_status check_head_dim(const char* name, std::int64_t value) {
  if (value >= 8 && value <= kMaxHeadDim && value % 8 == 0) return INTFLASH_OK;
  return fail(INTFLASH_BAD_SHAPE, "%s = %lld: must be a multiple of 8 from 8 to %d", name,
              static_cast<i64>(value), kMaxHeadDim);
}

intflash_status check_dtype(const char* name, intflash_dtype dtype, bool input) {
  const bool known = input ? has_elements(dtype) : dtype >= INTFLASH_F32 && dtype <= INTFLASH_BF16;
  if (known) return INTFLASH_OK;
  return fail(INTFLASH_INVALID_ARGUMENT, "%s = %d: must be %s", name, static_cast<int>(dtype),
              input ? "F32, F16, BF16, INT8, F8_E4M3 or F8_E5M2" : "F32, F16 or BF16");
}

bool has_blocks(intflash_dtype dtype) { return dtype == INTFLASH_Q8_0 || dtype == INTFLASH_Q4_0; }

intflash_status check_kv_dtype(const char* name, intflash_dtype dtype, std::int64_t dim) {
  if (has_elements(dtype)) return INTFLASH_OK;
  if (!has_blocks(dtype)) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "%s_dtype = %d: must be F32, F16, BF16, INT8, Q8_0, Q4_0, F8_E4M3 or F8_E5M2", name,
                static_cast<int>(dtype));
  }
  if (dim % kGgmlBlock == 0) return INTFLASH_OK;
  return fail(INTFLASH_BAD_SHAPE, "%s: rows of %lld channels: ggml's blocks hold %lld each", name,
              static_cast<i64>(dim), static_cast<i64>(kGgmlBlock));
}

intflash_status check_scalar(const char* name, float value) {
  if (std::isfinite(value) && value >= 0) return INTFLASH_OK;
  return fail(INTFLASH_BAD_SCALE, "%s = %g: must be finite and > 0, or 0 for the default", name,
              static_cast<double>(value));
}

intflash_status check_softmax_scale(float value) {
  const intflash_status status = check_scalar("softmax_scale", value);
  if (status != INTFLASH_OK || value < 0x1p126f) return status;
  return fail(INTFLASH_BAD_SCALE, "softmax_scale = %g: must be below 2^126",
              static_cast<double>(value));
}

intflash_status set_mask(const MaskArguments& given, MaskRule& rule) {
  rule.window_left = -1;
  rule.window_right = given.mask == INTFLASH_MASK_NONE ? -1 : 0;
  rule.prefix_len = 0;
  rule.shift = 0;
  switch (given.mask) {
    case INTFLASH_MASK_NONE:
    case INTFLASH_MASK_CAUSAL:
      return INTFLASH_OK;
    case INTFLASH_MASK_WINDOW:
      if (given.window_left < -1 || given.window_right < -1) {
        return fail(INTFLASH_INVALID_ARGUMENT,
                    "window_left = %lld, window_right = %lld: must be >= 0, or -1 for all",
                    static_cast<i64>(given.window_left), static_cast<i64>(given.window_right));
      }
      rule.window_left = std::min(given.window_left, kMaxExtent);
      rule.window_right = std::min(given.window_right, kMaxExtent);
      return INTFLASH_OK;
    case INTFLASH_MASK_PREFIX:
      if (given.prefix_len < 0 || given.prefix_len > rule.kv_len) {
        return fail(INTFLASH_INVALID_ARGUMENT, "prefix_len = %lld: must be 0 ... kv_len = %lld",
                    static_cast<i64>(given.prefix_len), static_cast<i64>(rule.kv_len));
      }
      rule.prefix_len = given.prefix_len;
      return INTFLASH_OK;
    case INTFLASH_MASK_CAUSAL_TOP_LEFT:
      rule.shift = rule.query_len - rule.kv_len;
      return INTFLASH_OK;
  }
  return fail(INTFLASH_INVALID_ARGUMENT,
              "mask = %d: must be NONE, CAUSAL, WINDOW, PREFIX or CAUSAL_TOP_LEFT",
              static_cast<int>(given.mask));
}

// Rows of out must not share elements: each stride, from the smallest, steps over all that the
// smaller ones reach.
intflash_status check_no_overlap(const TensorView& view) {
  if (view.is_empty()) return INTFLASH_OK;
  std::array<Axis, 3> axes = axes_of(view);
  std::sort(axes.begin(), axes.end(),
            [](const Axis& a, const Axis& b) { return a.stride < b.stride; });
  std::int64_t reach = view.dim;
  for (const Axis& axis : axes) {
    if (axis.extent <= 1) continue;
    if (axis.stride < reach) {
      return fail(INTFLASH_BAD_STRIDE, "%s.%s = %lld: rows would overlap; must be >= %lld",
                  view.name, axis.name, static_cast<i64>(axis.stride), static_cast<i64>(reach));
    }
    reach += axis.stride * (axis.extent - 1);
  }
  return INTFLASH_OK;
}

intflash_status check_alignment(const char* owner, const char* field, const void* pointer,
                                std::size_t alignment) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0) return INTFLASH_OK;
  return fail(INTFLASH_INVALID_ARGUMENT, "%s%s = %p: must be a multiple of %zu", owner, field,
              pointer, alignment);
}

// The last element's offset must be addressable in bytes.
intflash_status check_axes(const char* owner, std::span<const Axis> axes, std::int64_t row) {
  std::int64_t last = row;
  for (const Axis& axis : axes) {
    if (axis.stride < 0) {
      return fail(INTFLASH_BAD_STRIDE, "%s.%s = %lld: must be >= 0", owner, axis.name,
                  static_cast<i64>(axis.stride));
    }
    std::int64_t reach = 0;
    if (axis.extent < 1) continue;
    if (__builtin_mul_overflow(axis.extent - 1, axis.stride, &reach) ||
        __builtin_add_overflow(last, reach, &last) || last > INT64_MAX / 4) {
      return fail(INTFLASH_SIZE_OVERFLOW, "%s.%s = %lld: does not fit the address space", owner,
                  axis.name, static_cast<i64>(axis.stride));
    }
  }
  return INTFLASH_OK;
}

intflash_status check_tensor(const TensorView& view) {
  if (view.tensor->data == nullptr && !view.is_empty())
    return fail(INTFLASH_INVALID_ARGUMENT, "%s.data = NULL: must point to the tensor", view.name);
  // ggml's blocks begin with an f16.
  const std::size_t alignment = static_cast<std::size_t>(dtype_bytes(view.dtype));
  intflash_status status = check_alignment(view.name, ".data", view.tensor->data, alignment);
  if (status == INTFLASH_OK) status = check_axes(view.name, axes_of(view), view.dim);
  if (status != INTFLASH_OK) return status;
  if (has_blocks(view.dtype)) return check_block_strides(view);
  return view.dtype == INTFLASH_INT8 && !view.is_empty() ? check_scales(view) : INTFLASH_OK;
}

intflash_status check_sinks(const float* sinks, std::int64_t num_query_heads) {
  for (std::int64_t h = 0; sinks != nullptr && h < num_query_heads; ++h) {
    if (sinks[h] < std::numeric_limits<float>::infinity()) continue;
    return fail(INTFLASH_NONFINITE_INPUT, "sinks[%lld] = %g: must be finite, or -infinity for none",
                static_cast<i64>(h), static_cast<double>(sinks[h]));
  }
  return INTFLASH_OK;
}

intflash_status check_center(const char* name, const float* center, std::int64_t heads,
                             std::int64_t dim, int max_exponent) {
  if (center == nullptr) return INTFLASH_OK;
  for (std::int64_t i = 0; i < heads * dim; ++i) {
    if (std::fabs(center[i]) < std::ldexp(1.0f, max_exponent)) continue;
    if (std::isfinite(center[i])) {
      return fail(INTFLASH_SCORE_OVERFLOW, "%s[head %lld][%lld] = %g: must be below 2^%d", name,
                  static_cast<i64>(i / dim), static_cast<i64>(i % dim),
                  static_cast<double>(center[i]), max_exponent);
    }
    return fail(INTFLASH_NONFINITE_INPUT, "%s[head %lld][%lld] = %g: must be finite", name,
                static_cast<i64>(i / dim), static_cast<i64>(i % dim),
                static_cast<double>(center[i]));
  }
  return INTFLASH_OK;
}

}  // namespace intflash::internal

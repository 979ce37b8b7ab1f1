// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "problem.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdarg>
#include <cstdio>

#include "float_state.h"
#include "tile/types.h"

namespace intflash {
namespace {

thread_local char last_message[512] = "";

constexpr std::int64_t kMaxExtent = (std::int64_t{1} << 31) - 1;

using i64 = long long;  // for printf

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
  const bool known = dtype >= INTFLASH_F32 && dtype <= (input ? INTFLASH_INT8 : INTFLASH_BF16);
  if (known) return INTFLASH_OK;
  return fail(INTFLASH_INVALID_ARGUMENT, "%s = %d: must be %s", name, static_cast<int>(dtype),
              input ? "F32, F16, BF16 or INT8" : "F32, F16 or BF16");
}

intflash_status check_scalar(const char* name, float value) {
  if (std::isfinite(value) && value >= 0) return INTFLASH_OK;
  return fail(INTFLASH_BAD_SCALE, "%s = %g: must be finite and > 0, or 0 for the default", name,
              static_cast<double>(value));
}

intflash_status set_mask(const intflash_attend_desc& desc, Problem& problem) {
  switch (desc.mask) {
    case INTFLASH_MASK_NONE:
      problem.mask.window_left = problem.mask.window_right = -1;
      return INTFLASH_OK;
    case INTFLASH_MASK_CAUSAL:
      problem.mask.window_left = -1;
      problem.mask.window_right = 0;
      return INTFLASH_OK;
    case INTFLASH_MASK_WINDOW:
      if (desc.window_left < -1 || desc.window_right < -1) {
        return fail(INTFLASH_INVALID_ARGUMENT,
                    "window_left = %lld, window_right = %lld: must be >= 0, or -1 for all",
                    static_cast<i64>(desc.window_left), static_cast<i64>(desc.window_right));
      }
      problem.mask.window_left = std::min(desc.window_left, kMaxExtent);
      problem.mask.window_right = std::min(desc.window_right, kMaxExtent);
      return INTFLASH_OK;
  }
  return fail(INTFLASH_INVALID_ARGUMENT, "mask = %d: must be NONE, CAUSAL or WINDOW",
              static_cast<int>(desc.mask));
}

intflash_status set_center(const intflash_attend_desc& desc, Problem& problem) {
  const bool float_key = desc.key_dtype != INTFLASH_INT8;
  const bool float_value = desc.value_dtype != INTFLASH_INT8;
  switch (desc.center) {
    case INTFLASH_CENTER_DEFAULT:
      problem.center_key = float_key;
      break;
    case INTFLASH_CENTER_NONE:
      break;
    case INTFLASH_CENTER_KEY_VALUE:
      problem.center_value = true;
      [[fallthrough]];
    case INTFLASH_CENTER_KEY:
      problem.center_key = true;
      break;
    default:
      return fail(INTFLASH_INVALID_ARGUMENT, "center = %d: must be DEFAULT, NONE, KEY or KEY_VALUE",
                  static_cast<int>(desc.center));
  }
  if (problem.center_key && !float_key) {
    return fail(INTFLASH_UNSUPPORTED,
                "center = %d with an INT8 key: codes cannot be centred; centre before quantizing",
                static_cast<int>(desc.center));
  }
  if (problem.center_value && !float_value) {
    return fail(INTFLASH_UNSUPPORTED,
                "center = %d with an INT8 value: codes cannot be centred; centre before quantizing",
                static_cast<int>(desc.center));
  }
  return INTFLASH_OK;
}

intflash_status check_rotation(const intflash_attend_desc& desc) {
  if (desc.rotate == 0) return INTFLASH_OK;
  if (desc.rotate != 1)
    return fail(INTFLASH_INVALID_ARGUMENT, "rotate = %d: must be 0 or 1", desc.rotate);
  const std::int64_t odd = desc.head_dim / (desc.head_dim & -desc.head_dim);
  if (odd > 9) {
    return fail(INTFLASH_UNSUPPORTED,
                "rotate = 1 with head_dim = %lld: must be m * 2^k with m odd and <= 9",
                static_cast<i64>(desc.head_dim));
  }
  if (desc.query_dtype == INTFLASH_INT8 || desc.key_dtype == INTFLASH_INT8) {
    return fail(
        INTFLASH_UNSUPPORTED,
        "rotate = 1 with an INT8 query or key: codes cannot be rotated; rotate before quantizing");
  }
  return INTFLASH_OK;
}

// One tensor of args and what problem says of it.
struct TensorView {
  const char* name;
  const intflash_tensor* tensor;
  intflash_dtype dtype;
  std::int64_t batch, heads, tokens, dim;
};

struct Axis {
  const char* name;
  std::int64_t extent;
  std::int64_t stride;
};

std::array<Axis, 3> axes_of(const TensorView& view) {
  return {Axis{"stride_batch", view.batch, view.tensor->stride_batch},
          Axis{"stride_head", view.heads, view.tensor->stride_head},
          Axis{"stride_token", view.tokens, view.tensor->stride_token}};
}

// The last element's offset must be addressable in bytes.
intflash_status check_strides(const TensorView& view) {
  std::int64_t last = view.dim;
  for (const Axis& axis : axes_of(view)) {
    if (axis.stride < 0) {
      return fail(INTFLASH_BAD_STRIDE, "%s.%s = %lld: must be >= 0", view.name, axis.name,
                  static_cast<i64>(axis.stride));
    }
    std::int64_t reach = 0;
    if (axis.extent < 1) continue;
    if (__builtin_mul_overflow(axis.extent - 1, axis.stride, &reach) ||
        __builtin_add_overflow(last, reach, &last) || last > INT64_MAX / 4) {
      return fail(INTFLASH_SIZE_OVERFLOW, "%s.%s = %lld: the tensor does not fit the address space",
                  view.name, axis.name, static_cast<i64>(axis.stride));
    }
  }
  return INTFLASH_OK;
}

// Rows of out must not share elements: each stride, from the smallest, steps over all that the
// smaller ones reach.
intflash_status check_no_overlap(const TensorView& view) {
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

intflash_status check_scales(const TensorView& view) {
  const intflash_tensor& tensor = *view.tensor;
  if (tensor.scale == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "%s.scale = NULL: an INT8 tensor needs scales",
                view.name);
  if (tensor.scale_block < 0 || tensor.scale_stride_batch < 0 || tensor.scale_stride_head < 0) {
    return fail(INTFLASH_BAD_STRIDE, "%s.scale_block = %lld, strides %lld and %lld: must be >= 0",
                view.name, static_cast<i64>(tensor.scale_block),
                static_cast<i64>(tensor.scale_stride_batch),
                static_cast<i64>(tensor.scale_stride_head));
  }
  const std::int64_t count =
      tensor.scale_block == 0 ? 1 : (view.tokens - 1) / tensor.scale_block + (view.tokens > 0);
  std::int64_t last = count;
  const Axis axes[] = {{"scale_stride_batch", view.batch, tensor.scale_stride_batch},
                       {"scale_stride_head", view.heads, tensor.scale_stride_head}};
  for (const Axis& axis : axes) {
    std::int64_t reach = 0;
    if (__builtin_mul_overflow(axis.extent - 1, axis.stride, &reach) ||
        __builtin_add_overflow(last, reach, &last) || last > INT64_MAX / 4) {
      return fail(INTFLASH_SIZE_OVERFLOW, "%s.%s = %lld: the scales do not fit the address space",
                  view.name, axis.name, static_cast<i64>(axis.stride));
    }
  }
  for (std::int64_t b = 0; b < (tensor.scale_stride_batch == 0 ? 1 : view.batch); ++b) {
    for (std::int64_t h = 0; h < (tensor.scale_stride_head == 0 ? 1 : view.heads); ++h) {
      const float* scale =
          tensor.scale + b * tensor.scale_stride_batch + h * tensor.scale_stride_head;
      for (std::int64_t i = 0; i < count; ++i) {
        if (std::isfinite(scale[i]) && scale[i] > 0) continue;
        return fail(INTFLASH_BAD_SCALE,
                    "%s.scale[batch %lld][head %lld][%lld] = %g: must be finite and > 0", view.name,
                    static_cast<i64>(b), static_cast<i64>(h), static_cast<i64>(i),
                    static_cast<double>(scale[i]));
      }
    }
  }
  return INTFLASH_OK;
}

intflash_status check_tensor(const TensorView& view) {
  if (view.tensor->data == nullptr && view.tokens > 0) {
    return fail(INTFLASH_INVALID_ARGUMENT, "%s.data = NULL: must point to the tensor", view.name);
  }
  const intflash_status status = check_strides(view);
  if (status != INTFLASH_OK || view.dtype != INTFLASH_INT8) return status;
  return check_scales(view);
}

intflash_status check_center(const char* name, const float* center, bool used, std::int64_t heads,
                             std::int64_t dim, int max_exponent) {
  if (center == nullptr || !used) return INTFLASH_OK;
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
  return dtype == INTFLASH_F32 ? 4 : dtype == INTFLASH_INT8 ? 1 : 2;
}

intflash_status make_problem(const intflash_attend_desc* desc, Problem& problem) {
  if (desc == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "desc = NULL: must point to a description");
  if (desc->struct_size != sizeof *desc) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "desc.struct_size = %u: must be sizeof(intflash_attend_desc) = %zu",
                desc->struct_size, sizeof *desc);
  }
  if (desc->mode < INTFLASH_MODE_INT8 || desc->mode > INTFLASH_MODE_INTFA) {
    return fail(INTFLASH_INVALID_ARGUMENT, "mode = %d: must be INT8, EXACT or INTFA",
                static_cast<int>(desc->mode));
  }
  problem = Problem{};
  problem.mode = desc->mode;
  problem.batch = desc->batch == 0 ? 1 : desc->batch;
  problem.num_query_heads = desc->num_query_heads;
  problem.num_kv_heads = desc->num_kv_heads;
  problem.query_len = desc->query_len;
  problem.kv_len = desc->kv_len;
  problem.head_dim = desc->head_dim;
  problem.head_dim_v = desc->head_dim_v == 0 ? desc->head_dim : desc->head_dim_v;
  problem.query_dtype = desc->query_dtype;
  problem.key_dtype = desc->key_dtype;
  problem.value_dtype = desc->value_dtype;
  problem.out_dtype = desc->out_dtype;
  problem.score_cap = desc->score_cap;
  problem.rotate = desc->rotate == 1;
  problem.mask.query_len = desc->query_len;
  problem.mask.kv_len = desc->kv_len;
  intflash_status status = check_extent("batch", problem.batch, 1);
  if (status == INTFLASH_OK) status = check_extent("num_query_heads", problem.num_query_heads, 1);
  if (status == INTFLASH_OK) status = check_extent("num_kv_heads", problem.num_kv_heads, 1);
  if (status == INTFLASH_OK) status = check_extent("query_len", problem.query_len, 1);
  if (status == INTFLASH_OK) status = check_extent("kv_len", problem.kv_len, 0);
  if (status == INTFLASH_OK) status = check_head_dim("head_dim", problem.head_dim);
  if (status == INTFLASH_OK) status = check_head_dim("head_dim_v", problem.head_dim_v);
  if (status == INTFLASH_OK) status = check_dtype("query_dtype", desc->query_dtype, true);
  if (status == INTFLASH_OK) status = check_dtype("key_dtype", desc->key_dtype, true);
  if (status == INTFLASH_OK) status = check_dtype("value_dtype", desc->value_dtype, true);
  if (status == INTFLASH_OK) status = check_dtype("out_dtype", desc->out_dtype, false);
  if (status == INTFLASH_OK) status = check_scalar("softmax_scale", desc->softmax_scale);
  if (status == INTFLASH_OK) status = check_scalar("score_cap", desc->score_cap);
  if (status == INTFLASH_OK && desc->softmax_scale >= 0x1p126f)
    status = fail(INTFLASH_BAD_SCALE, "softmax_scale = %g: must be below 2^126",
                  static_cast<double>(desc->softmax_scale));
  if (status == INTFLASH_OK) status = set_mask(*desc, problem);
  if (status == INTFLASH_OK) status = set_center(*desc, problem);
  if (status == INTFLASH_OK) status = check_rotation(*desc);
  if (status != INTFLASH_OK) return status;
  if (problem.num_query_heads % problem.num_kv_heads != 0) {
    return fail(INTFLASH_BAD_SHAPE,
                "num_query_heads = %lld: must be a multiple of num_kv_heads = %lld",
                static_cast<i64>(problem.num_query_heads), static_cast<i64>(problem.num_kv_heads));
  }
  problem.group_size = problem.num_query_heads / problem.num_kv_heads;
  std::int64_t rows = 0;
  // Centres, partial sums, pages and factors of a score block of a head, and of a head without
  // keys.
  constexpr std::int64_t kMaxBlockBytes = std::int64_t{1} << 20;
  const std::int64_t blocks = problem.kv_len / kScoreBlock + 1;
  std::int64_t packed = 0;
  if (__builtin_mul_overflow(problem.batch * problem.num_query_heads, problem.query_len, &rows) ||
      __builtin_mul_overflow(problem.batch * problem.num_kv_heads, blocks, &packed) ||
      rows > INT64_MAX / (8 * kMaxHeadDim) || packed > INT64_MAX / kMaxBlockBytes) {
    return fail(
        INTFLASH_SIZE_OVERFLOW,
        "batch * heads * length does not fit the address space (kv_len = %lld, query_len = %lld)",
        static_cast<i64>(problem.kv_len), static_cast<i64>(problem.query_len));
  }
  const FloatState float_state;  // the caller may round otherwise
  problem.softmax_scale = desc->softmax_scale > 0
                              ? desc->softmax_scale
                              : 1.0f / std::sqrt(static_cast<float>(problem.head_dim));
  return INTFLASH_OK;
}

intflash_status check_args(const Problem& problem, const intflash_attend_args* args, ArgsUse use) {
  if (args == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "args = NULL: must point to the tensors");
  if (args->struct_size != sizeof *args) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "args.struct_size = %u: must be sizeof(intflash_attend_args) = %zu",
                args->struct_size, sizeof *args);
  }
  const Problem& p = problem;
  const TensorView query = {"query",           &args->query, p.query_dtype, p.batch,
                            p.num_query_heads, p.query_len,  p.head_dim};
  const TensorView key = {"key",          &args->key, p.key_dtype, p.batch,
                          p.num_kv_heads, p.kv_len,   p.head_dim};
  const TensorView value = {"value",        &args->value, p.value_dtype, p.batch,
                            p.num_kv_heads, p.kv_len,     p.head_dim_v};
  const TensorView out = {"out",       &args->out,  p.out_dtype, p.batch, p.num_query_heads,
                          p.query_len, p.head_dim_v};
  intflash_status status = INTFLASH_OK;
  const bool reads_query = use != ArgsUse::kPackOnly;
  const bool reads_kv = use != ArgsUse::kPacked || p.mode != INTFLASH_MODE_INT8;
  if (reads_query) status = check_tensor(query);
  if (status == INTFLASH_OK && reads_kv) status = check_tensor(key);
  if (status == INTFLASH_OK && reads_kv) status = check_tensor(value);
  if (status == INTFLASH_OK && reads_query) status = check_tensor(out);
  if (status == INTFLASH_OK && reads_query) status = check_no_overlap(out);
  const std::int64_t heads = p.batch * p.num_kv_heads;
  if (status == INTFLASH_OK)
    status = check_center("key_center", args->key_center, p.center_key, heads, p.head_dim, 100);
  if (status == INTFLASH_OK)
    status =
        check_center("value_center", args->value_center, p.center_value, heads, p.head_dim_v, 90);
  return status;
}

}  // namespace intflash

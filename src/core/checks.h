// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What is checked of a caller's arguments, wherever they come in. Each check sets the last error,
// which names the argument, its value and the rule.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/mask.h"
#include "intflash/intflash.h"

namespace intflash::internal {

constexpr std::int64_t kMaxExtent = (std::int64_t{1} << 31) - 1;

using i64 = long long;  // for printf

// Sets this thread's last error to the printf-style message and returns status.
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
intflash_status
fail(intflash_status status, const char* format, ...);
const char* last_error();

std::int64_t dtype_bytes(intflash_dtype dtype);

intflash_status check_mode(intflash_mode mode);
const char* mode_name(intflash_mode mode);  // of one that was checked
// Whether queries and keys become codes of INT8 in a mode.
constexpr bool is_quantized(intflash_mode mode) {
  return mode == INTFLASH_MODE_INT8 || mode == INTFLASH_MODE_INT8_QK;
}
intflash_status check_extent(const char* name, std::int64_t value, std::int64_t least);
intflash_status check_head_dim(const char* name, std::int64_t value);
intflash_status check_dtype(const char* name, intflash_dtype dtype, bool input);
// Whether rows of this type are ggml's blocks.
bool has_blocks(intflash_dtype dtype);
// Of keys and values, which may be ggml's blocks: rows of dim elements must then be whole ones.
intflash_status check_kv_dtype(const char* name, intflash_dtype dtype, std::int64_t dim);
// Finite and > 0, or 0 for the default.
intflash_status check_scalar(const char* name, float value);
// softmax_scale: the same, and below 2^126.
intflash_status check_softmax_scale(float value);

// Natural alignment, which nullptr has. The message names owner and field: "key" and ".scale".
intflash_status check_alignment(const char* owner, const char* field, const void* pointer,
                                std::size_t alignment);
template <class T>
intflash_status check_pointer(const char* owner, const char* field, const T* pointer) {
  return check_alignment(owner, field, pointer, alignof(T));
}
template <class T>
intflash_status check_pointer(const char* name, const T* pointer) {
  return check_alignment(name, "", pointer, alignof(T));
}

// How many entries an array has along one axis, and how many elements apart they are.
struct Axis {
  const char* name;  // of the stride
  std::int64_t extent;
  std::int64_t stride;
};
// Strides that are not negative, of rows of row elements that all lie in the address space.
intflash_status check_axes(const char* owner, std::span<const Axis> axes, std::int64_t row);

// A mask as the caller words it, into rule, whose lengths are set.
struct MaskArguments {
  intflash_mask mask;
  std::int64_t window_left, window_right, prefix_len;
};
intflash_status set_mask(const MaskArguments& given, MaskRule& rule);

// One tensor of a call and what it must be.
struct TensorView {
  const char* name;
  const intflash_tensor* tensor;
  intflash_dtype dtype;
  std::int64_t batch, heads, tokens, dim;

  bool is_empty() const { return batch == 0 || tokens == 0; }
  // How many scales a head has, where it is INT8 and not empty.
  std::int64_t scales_of_head() const {
    return tensor->scale_block == 0 ? 1 : (tokens - 1) / tensor->scale_block + 1;
  }
};

// Pointers and strides; of ggml's types, that every row begins with a block.
intflash_status check_tensor(const TensorView& view);
// Rows of an output must not share elements.
intflash_status check_no_overlap(const TensorView& view);

// What lies behind pointers that have been checked.

// Sink logits: finite or -infinity.
intflash_status check_sinks(const float* sinks, std::int64_t num_query_heads);
// Given means: finite, and below 2^max_exponent.
intflash_status check_center(const char* name, const float* center, std::int64_t heads,
                             std::int64_t dim, int max_exponent);

}  // namespace intflash::internal

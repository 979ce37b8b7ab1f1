// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Masks that are data, as one query row has them. src/inputs/score_bias.h has the same of the CPU.
#pragma once

#include <cstdint>

#include "cuda/requests.h"
#include "cuda/simt.h"
#include "tile/halves.h"
#include "tile/mask_words.h"

namespace intflash::internal {
namespace {

// What slopes and scales of masks may be.
INTFLASH_DEVICE bool is_factor(float x) { return __builtin_fabsf(x) <= kCudaMaxFactor; }

struct MaskElement {
  float x;  // what is added
  bool hides;
};
INTFLASH_DEVICE MaskElement load_element(const void* elements, Dtype dtype, std::int64_t i) {
  if (dtype == Dtype::kBool) return {0.0f, static_cast<const std::uint8_t*>(elements)[i] == 0};
  if (dtype == Dtype::kF32) {
    const std::uint32_t bits = static_cast<const std::uint32_t*>(elements)[i];
    return {bits_as<float>(bits), bits >= kLowestElement<Dtype::kF32>};
  }
  const std::uint16_t bits = static_cast<const std::uint16_t*>(elements)[i];
  if (dtype == Dtype::kF16) return {widen_f16(bits), bits >= kLowestElement<Dtype::kF16>};
  return {widen_bf16(bits), bits >= kLowestElement<Dtype::kBf16>};
}

INTFLASH_DEVICE const void* elements_of(const CudaMask& mask, std::int64_t query_head,
                                        std::int64_t query) {
  const std::int64_t bytes = mask.dtype == Dtype::kF32 ? 4 : mask.dtype == Dtype::kBool ? 1 : 2;
  const std::int64_t at = query_head * mask.stride_head + query * mask.stride_query;
  return static_cast<const char*>(mask.elements) + at * bytes;
}

// What is added, in units of log2, and hidden: element * factor - slope * |position - key|.
struct RowMask {
  const void* elements;  // from the key at `begin` on; nullptr = none
  Dtype dtype;
  const std::uint64_t* bits;  // from the key at bits_begin on; nullptr = none
  std::int64_t begin, bits_begin, position;
  float factor, slope;

  // Of a key that the request has.
  INTFLASH_DEVICE MaskElement at(std::int64_t key) const {
    MaskElement element = {0.0f, false};
    if (elements != nullptr) element = load_element(elements, dtype, key - begin);
    const std::int64_t bit = key - bits_begin;
    if (bits != nullptr && bit >= 0) element.hides |= (bits[bit / 64] >> bit % 64 & 1) == 0;
    return element;
  }
};

// row: of the request's.
INTFLASH_DEVICE RowMask row_mask(const CudaCall& call, const CudaRequest& request,
                                 std::int64_t kv_head, std::int64_t row) {
  constexpr double kLog2E = 1.44269504088896340736;
  const CudaMask& mask = request.mask;
  const std::int64_t head = kv_head * call.group_size + row % call.group_size;
  const std::int64_t query = row / call.group_size;
  RowMask made{};
  made.position = request.first_rope + query;
  if (mask.elements != nullptr) {
    const double scale =
        mask.head_scale == nullptr ? 1.0 : static_cast<double>(mask.head_scale[head]);
    made.elements = elements_of(mask, head, query);
    made.dtype = mask.dtype;
    made.begin = mask.begin;
    made.factor = mask.dtype == Dtype::kBool ? 0.0f : static_cast<float>(kLog2E * scale);
  }
  if (mask.bits != nullptr) {
    made.bits = mask.bits + query * mask.bit_words;
    made.bits_begin = mask.bits_begin;
  }
  if (call.alibi_slopes != nullptr)
    made.slope = static_cast<float>(kLog2E * static_cast<double>(call.alibi_slopes[head]));
  return made;
}

}  // namespace
}  // namespace intflash::internal

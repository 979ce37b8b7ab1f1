// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "serving_masks.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "inputs/tensor.h"

namespace intflash::internal {
namespace {

template <class T>
T* take(Memory& memory, std::int64_t count) {
  return reinterpret_cast<T*>(memory.take(static_cast<std::size_t>(count) * sizeof(T)));
}

const float* factors_by_head(std::int64_t heads, Memory& memory) {
  float* const factors = take<float>(memory, heads);
  for (std::int64_t h = 0; h < heads; ++h)
    factors[h] = h == 1 ? 0.0f : std::exp2(-static_cast<float>(h % 8) / 2);
  return factors;
}

// Runs of what is hidden, of zeros and of biases.
intflash_additive_mask additive_mask(const MaskCase& c, const intflash_request& request,
                                     std::int64_t heads, std::mt19937& random, Memory& memory) {
  intflash_additive_mask mask{};
  const std::int64_t keys = request.kv_len - request.first_key_position;
  mask.dtype = c.dtype;
  mask.stride_query = keys + 3;
  mask.stride_head = c.by_head ? request.query_len * mask.stride_query : 0;
  mask.stride_batch = 12345;  // which is not read
  const std::int64_t count = (c.by_head ? heads : 1) * request.query_len * mask.stride_query;
  float* const memory_of_all = take<float>(memory, count);
  mask.data = memory_of_all;
  intflash_tensor tensor{};
  tensor.data = memory_of_all;
  std::uint32_t kind = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (random() % 60 == 0) kind = random() % 3;
    const float bias = static_cast<float>(random() % 100) * 0.1f - 5;
    const float x = kind == 1 ? -std::numeric_limits<float>::infinity() : kind == 2 ? bias : 0.0f;
    if (c.dtype == INTFLASH_BOOL) {
      static_cast<std::uint8_t*>(tensor.data)[i] = kind != 1;
    } else {
      store_element(tensor, c.dtype, 0, 0, 0, i, x);
    }
  }
  if (c.by_head) mask.head_scale = factors_by_head(heads, memory);
  return mask;
}

intflash_bit_mask bit_mask(const intflash_request& request, std::mt19937& random, Memory& memory) {
  intflash_bit_mask mask{};
  mask.num_keys = std::min<std::int64_t>(request.kv_len, 70);
  const std::int64_t count = request.query_len * ((mask.num_keys + 63) / 64);
  std::uint64_t* const words = take<std::uint64_t>(memory, count);
  for (std::int64_t i = 0; i < count; ++i)
    words[i] = static_cast<std::uint64_t>(random()) << 32 | random();
  mask.words = words;
  return mask;
}

}  // namespace

void ServingMasks::set(intflash_batch_args& args) const {
  if (!additive.empty()) {
    args.additive_masks = additive.data();
    args.additive_mask_size = sizeof additive[0];
  }
  if (!bits.empty()) {
    args.bit_masks = bits.data();
    args.bit_mask_size = sizeof bits[0];
  }
  args.alibi_slopes = slopes;
}

ServingMasks make_masks(const MaskCase& c, const std::vector<intflash_request>& requests,
                        std::int64_t heads, Memory& memory) {
  std::mt19937 random(17);
  ServingMasks masks;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    const bool is_third = r % 3 == 2;
    if (c.additive)
      masks.additive.push_back(is_third ? intflash_additive_mask{}
                                        : additive_mask(c, requests[r], heads, random, memory));
    if (c.tree) masks.bits.push_back(bit_mask(requests[r], random, memory));
  }
  if (c.slopes) masks.slopes = factors_by_head(heads, memory);
  return masks;
}

}  // namespace intflash::internal

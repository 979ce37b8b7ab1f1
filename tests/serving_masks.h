// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Masks that are data of a batch's requests, made from a seed.
#pragma once

#include <cstdint>
#include <vector>

#include "attention_case.h"
#include "intflash/cache.h"

namespace intflash::internal {

struct MaskCase {
  bool additive = false;  // but of every third request
  intflash_dtype dtype = INTFLASH_F32;
  bool by_head = false;  // with a scale by head, which is 0 of the second
  bool slopes = false;   // of which the second is 0
  bool tree = false;     // of the last 70 keys
};

struct ServingMasks {
  std::vector<intflash_additive_mask> additive;
  std::vector<intflash_bit_mask> bits;
  const float* slopes = nullptr;

  // In args, which must not outlive them.
  void set(intflash_batch_args& args) const;
};
ServingMasks make_masks(const MaskCase& c, const std::vector<intflash_request>& requests,
                        std::int64_t heads, Memory& memory);

}  // namespace intflash::internal

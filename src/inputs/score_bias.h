// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Masks that are data: what is added to the scores of a request, and what hides its keys one by
// one.
#pragma once

#include <cstdint>

#include "core/mask.h"
#include "intflash/intflash.h"
#include "tile/types.h"

namespace intflash::internal {

// A request's masks, of the keys that its rule's positions say.
struct ScoreBias {
  intflash_additive_mask additive;
  const float* alibi_slopes;  // [num_query_heads]; nullptr = none
  intflash_bit_mask bits;
  MaskRule rule;

  bool is_empty() const {
    return additive.data == nullptr && alibi_slopes == nullptr && bits.words == nullptr;
  }
};

// score_cap as kernels take it: 0 = none. Below 2^-100 all scores are the same, and its inverse
// might be no number.
float cap_in_log2(float score_cap);

// Pointers and strides. name: such as "additive_masks[3]"; rule: of the queries and keys that the
// mask is for.
intflash_status check_additive_mask(const char* name, const intflash_additive_mask& mask,
                                    std::int64_t batch, std::int64_t heads, const MaskRule& rule);
intflash_status check_bit_mask(const char* name, const intflash_bit_mask& mask,
                               std::int64_t kv_len);
// What they point to: at most 1e20 in magnitude. The mask's elements are scanned by a run.
intflash_status check_head_scales(const char* name, const intflash_additive_mask& mask,
                                  std::int64_t heads);
intflash_status check_slopes(const float* slopes, std::int64_t heads);

// Whether elements of a query's mask, of any of heads heads, are NaN or +infinity.
bool has_bad_mask(const KernelTable& kernels, const ScoreBias& bias, std::int64_t batch,
                  std::int64_t heads, std::int64_t query);
// The error that names the first of them. name: of the mask, such as "additive_masks[3]".
intflash_status report_bad_mask(const char* name, const ScoreBias& bias, std::int64_t batch,
                                std::int64_t heads, std::int64_t query);

// The errors for one element, and for one slope or scale.
intflash_status report_bad_element(const char* name, std::int64_t batch, std::int64_t head,
                                   std::int64_t query, std::int64_t key, double element);
intflash_status report_bad_factor(const char* owner, const char* field, std::int64_t head,
                                  float factor);

// The keys that a query's additive mask leaves, of all heads, where they lie side by side and it
// adds nothing to them: causal masks, windows, padding. begin < 0: it is another.
KeyRange plain_keys(const KernelTable& kernels, const ScoreBias& bias, std::int64_t batch,
                    std::int64_t query);

// The bits of one query's last keys.
struct BitRow {
  const std::uint64_t* words;  // nullptr = none
  std::int64_t begin, end;     // positions of the keys that they are of
};

BiasRow bias_row(const ScoreBias& bias, std::int64_t batch, std::int64_t head, std::int64_t query);
BitRow bit_row(const ScoreBias& bias, std::int64_t query);

// Takes from a row's keep words [2] of the score block at first_key what its masks hide; returns
// whether it has a bias on any key that is left.
bool mask_row(const KernelTable& kernels, const BiasRow& row, const BitRow& bits,
              std::int64_t first_key, std::uint64_t* keep);

// What one key's masks come to, in double: the bias, or -infinity where the key is hidden.
double bias_of_key(const ScoreBias& bias, std::int64_t batch, std::int64_t head, std::int64_t query,
                   std::int64_t key);

}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Attention over a KV cache of the library's, of arrays from files: what a codec costs.
#pragma once

#include <cstdint>
#include <vector>

#include "attention_inputs.h"
#include "call.h"
#include "sampled_rows.h"

namespace intflash {

struct CacheForm {
  const char* name;  // of the codec
  intflash_codec codec;
  std::int64_t window_blocks = 0, sink_blocks = 0;
};

// The window that docs/codecs.md recommends: 256 tokens, and the first 64.
constexpr std::int64_t kWindowBlocks = 4, kSinkBlocks = 1;

// Subtracted before keys and values are stored; nullptr = none. [kv_heads][head_dim] and
// [kv_heads][head_dim_v].
struct Centers {
  const float* key = nullptr;
  const float* value = nullptr;
};

struct CacheAttention {
  HeadOuts outs;
  std::int64_t block_bytes;         // of 64 tokens of all kv heads, scales included: as the codec
                                    // stores them,
  std::int64_t window_block_bytes;  // and in the window; as above where there is none
};

// Keys and values are appended as far as a run sees them, and then it attends. A causal query
// stands where the mask has it, another one behind all keys: that is the position whose window it
// has. The mask of desc is one of these two, and rows that see no key are 0. Throws Error where the
// library refuses.
CacheAttention attend_over_cache(const Context& context, const intflash_attend_desc& desc,
                                 const AttentionInputs& inputs, const CacheForm& form,
                                 const std::vector<RowRun>& runs, const Centers& centers = {});

}  // namespace intflash

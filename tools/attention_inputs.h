// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Query, key and value from three .npy files, checked against each other.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "intflash/intflash.h"
#include "npy.h"

namespace intflash {

struct AttentionInputs {
  NpyArray query;  // [heads, tokens, head_dim] or [batch, heads, tokens, head_dim]
  NpyArray key;    // the same, with fewer heads in grouped-query attention
  NpyArray value;
  std::int64_t batch;
  std::int64_t num_query_heads;
  std::int64_t num_kv_heads;
  std::int64_t query_len;
  std::int64_t kv_len;
  std::int64_t head_dim;
  std::int64_t head_dim_v;

  std::int64_t num_rows() const { return batch * num_query_heads * query_len; }
  std::int64_t num_out_elements() const { return num_rows() * head_dim_v; }
  // [batch, heads, query_len, head_dim_v] or [heads, query_len, head_dim_v], as the query has it.
  std::vector<std::int64_t> out_shape() const;
  std::vector<std::int64_t> lse_shape() const;

  // Shapes and dtypes; out is f32, everything else at its default.
  intflash_attend_desc desc() const;
  // The three inputs; out and lse are the caller's to set.
  intflash_attend_args args() const;
};

// The axes of one of the arrays; batch is 1 where it has three. Throws Failure naming path unless
// it has three or four.
struct HeadAxes {
  std::int64_t batch, heads, tokens, dim;
};
HeadAxes head_axes(const NpyArray& array, const std::string& path);

// Throws Failure naming the file: unreadable, neither 3-D nor 4-D, or shapes that disagree.
AttentionInputs read_attention_inputs(const std::string& query, const std::string& key,
                                      const std::string& value);

}  // namespace intflash

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// All that a cache does, for tests that compare what it gives back.
#pragma once

#include <cstdint>
#include <vector>

#include "serving.h"

namespace intflash::internal::serving {

// What a cache has given back, in the order in which it was asked.
struct Outcome {
  std::vector<Result> attended;
  std::vector<std::vector<float>> exported;
  std::vector<std::vector<char>> saved;

  bool operator==(const Outcome&) const = default;
};

// Shapes of caches that differ in what may go wrong.
std::vector<Shape> cache_shapes();
// Of a cache of sequences, and of one of pages.
Outcome outcome_of(const Shape& shape, std::uint32_t seed);

// Parts of it.
using File = std::vector<char>;
File save(const Server& server, std::int32_t sequence);
intflash_status load(const Server& server, const File& file, std::int32_t& sequence);
// Tokens [begin, end) to all layers, each of which gets other rows.
void append(Server& server, std::int32_t sequence, const Tokens& tokens, std::int64_t begin,
            std::int64_t end);
// One token's values for each scale, INT8 codes times it, with the keys of `tokens`; to a cache of
// one kv head and one layer.
void append_value_codes(Server& server, std::int32_t sequence, const Tokens& tokens,
                        std::vector<std::int8_t> codes, const std::vector<float>& scales);
// Of a sequence's first layer, (num_kv_heads, kv_len, head_dim_v).
std::vector<float> exported_values(const Server& server, std::int32_t sequence);
void expect_same_bytes_however_appended(const Shape& shape, std::uint32_t seed);
// Mean |found - exact| over mean |exact|.
double relative_error(const std::vector<float>& found, const std::vector<float>& exact);
// The last rows of a sequence.
Request last_rows(const Server& server, std::int32_t sequence, const Tokens& tokens,
                  std::int64_t query_len);

}  // namespace intflash::internal::serving

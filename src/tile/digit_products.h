// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Products of queries and keys with second digits, by the products of codes that a port has.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tile/score_block.h"
#include "tile/types.h"

namespace intflash::internal {
namespace {

// What products with second digits are made of, behind the port's own scratch. Only the rows that
// take them are multiplied: in most blocks of a model few do, and in blocks that follow each other
// the same ones.
template <class Isa>
struct DigitScratch {
  alignas(64) std::int32_t query_digits[Isa::kTileRows][kScoreBlock];  // digits . codes of keys
  alignas(64) std::int32_t key_digits[Isa::kTileRows][kScoreBlock];    // codes . digits of keys
  QueryTile codes, digits;  // of those rows, one behind the other
  std::uint32_t rows;       // a bit for each; 0: none yet
  // The port's own for codes and for digits follow, and what these point to.
};

template <class Isa>
INTFLASH_INLINE std::int64_t products_bytes(std::int32_t head_dim) {
  return round_up(static_cast<std::int64_t>(Isa::query_bytes(head_dim)), 64);
}
template <class Isa>
INTFLASH_INLINE std::int64_t gathered_bytes(std::int32_t head_dim) {
  return round_up(head_dim, 64) * Isa::kTileRows;
}

template <class Isa>
class DigitProducts {
 public:
  INTFLASH_INLINE DigitProducts(const QueryTile& query, void* products)
      : query_(query),
        scratch_(*reinterpret_cast<DigitScratch<Isa>*>(static_cast<char*>(products) +
                                                       products_bytes<Isa>(query.head_dim))) {
    if (query.digits_above != kNoDigits) scratch_.rows = 0;
  }

  // To the products of codes in dots, of a bit per row.
  INTFLASH_NOINLINE void add(const ScoreBlock& block, std::int32_t num_keys, std::uint32_t rows,
                             std::int32_t (*dots)[kScoreBlock]) {
    if (rows != scratch_.rows) gather(rows);
    ScoreBlock digits;
    for (std::int32_t i = 0; i < 2; ++i) {
      digits.half[i].key_codes = block.half[i].key_digits;
      digits.half[i].key_sum = block.half[i].digit_sum;
    }
    Isa::qk_tile(scratch_.codes, products(0), digits, block.half, num_keys, scratch_.key_digits[0]);
    Isa::qk_tile(scratch_.digits, products(1), block, block.half, num_keys,
                 scratch_.query_digits[0]);
    for (std::int32_t r = 0, at = 0; r < query_.rows; ++r) {
      if ((rows >> r & 1) == 0) continue;
      add_to_row(scratch_.query_digits[at], scratch_.key_digits[at], num_keys,
                 digit_bits(query_, r), dots[r]);
      ++at;
    }
  }

 private:
  INTFLASH_INLINE char* products(std::int64_t which) const {
    return reinterpret_cast<char*>(&scratch_ + 1) + which * products_bytes<Isa>(query_.head_dim);
  }
  INTFLASH_INLINE void gather(std::uint32_t rows) {
    std::int8_t* const codes = reinterpret_cast<std::int8_t*>(products(2));
    gather_rows(query_.codes, rows, codes, products(0), scratch_.codes);
    gather_rows(query_.digits, rows, codes + gathered_bytes<Isa>(query_.head_dim), products(1),
                scratch_.digits);
    scratch_.rows = rows;
  }
  INTFLASH_INLINE void gather_rows(const std::int8_t* from, std::uint32_t rows, std::int8_t* to,
                                   void* products, QueryTile& gathered) const {
    gathered.head_dim = query_.head_dim;
    gathered.code_stride = query_.code_stride;
    gathered.codes = to;
    gathered.rows = 0;
    for (std::int32_t r = 0; r < query_.rows; ++r) {
      if ((rows >> r & 1) == 0) continue;
      __builtin_memcpy(to + gathered.rows++ * query_.code_stride, from + r * query_.code_stride,
                       static_cast<std::size_t>(query_.code_stride));
    }
    Isa::prepare_query(gathered, products);
  }
  static INTFLASH_NOINLINE void add_to_row(const std::int32_t* INTFLASH_RESTRICT query_digits,
                                           const std::int32_t* INTFLASH_RESTRICT key_digits,
                                           std::int32_t num_keys, std::int32_t bits,
                                           std::int32_t* INTFLASH_RESTRICT dots) {
    for (std::int32_t key = 0; key < num_keys; ++key)
      dots[key] = add_digits(dots[key], query_digits[key] + key_digits[key], bits);
  }

  const QueryTile& query_;
  DigitScratch<Isa>& scratch_;
};

}  // namespace
}  // namespace intflash::internal

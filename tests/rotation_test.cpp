// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The default: query, key and value are rotated wherever they can be, no centre is computed, and so
// a prompt's chunks give the bits of the whole.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "attention_case.h"
#include "core/rotation.h"
#include "intflash/intflash.hpp"
#include "relative_l1.h"
#include "serving.h"
#include "state_calls.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

struct Rotated {
  std::int32_t keys, values;
  bool operator==(const Rotated&) const = default;
};
Rotated rotated_by_default(std::int64_t head_dim, std::int64_t head_dim_v,
                           intflash_dtype key = INTFLASH_F32, intflash_dtype value = INTFLASH_F32) {
  const Context context;
  intflash_attend_desc desc = attend_desc();
  desc.num_query_heads = desc.num_kv_heads = 1;
  desc.query_len = desc.kv_len = 2;
  desc.head_dim = head_dim;
  desc.head_dim_v = head_dim_v;
  desc.key_dtype = key;
  desc.value_dtype = value;
  const intflash_plan_info info = Plan(context, desc).info();
  return {info.rotates_keys, info.rotates_values};
}

TEST(Rotation, IsTheDefaultOfWhatCanBeRotated) {
  EXPECT_EQ(rotated_by_default(64, 64), (Rotated{1, 1}));
  EXPECT_EQ(rotated_by_default(576, 512), (Rotated{1, 1}));
  EXPECT_EQ(rotated_by_default(88, 64), (Rotated{0, 1}));  // 11 * 8
  EXPECT_EQ(rotated_by_default(64, 88), (Rotated{1, 0}));
  EXPECT_EQ(rotated_by_default(64, 64, INTFLASH_INT8), (Rotated{0, 1}));
  EXPECT_EQ(rotated_by_default(64, 64, INTFLASH_F32, INTFLASH_INT8), (Rotated{1, 0}));
}

TEST(Rotation, IsTheDefaultOfCaches) {
  const Context context;
  intflash_cache_options options = cache_options();
  options.num_kv_heads = 1;
  options.num_pages = 1;
  options.head_dim = 64;
  options.head_dim_v = 88;
  const Cache cache(context, options);
  EXPECT_EQ(cache.info().rotates_keys, 1);
  EXPECT_EQ(cache.info().rotates_values, 0);
}

// As docs/numerics.md defines it, addition by addition.
std::vector<float> unrotated(std::vector<float> row) {
  const std::size_t run = row.size() & -row.size();
  for (std::size_t half = 1; half < run; half *= 2) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      if ((c & half) != 0) continue;
      const float a = row[c], b = row[c + half];
      row[c] = a + b;
      row[c + half] = a - b;
    }
  }
  const int log2_run = std::countr_zero(run);
  const float factor = std::ldexp(log2_run % 2 != 0 ? 0.70710678f : 1.0f, -(log2_run / 2));
  for (std::size_t c = 0; c < row.size(); ++c) {
    const std::uint32_t hash = static_cast<std::uint32_t>(c + 1) * 0x9e3779b1u;
    row[c] *= ((hash ^ (hash << 7)) >> 31) != 0 ? -factor : factor;
  }
  return row;
}

TEST(Rotation, IsUndoneAdditionByAdditionAsDefinedOnEveryPort) {
  for (const std::size_t dim :
       {8u, 16u, 24u, 32u, 40u, 64u, 72u, 96u, 128u, 192u, 256u, 576u, 1024u}) {
    std::vector<float> row(dim);
    std::vector<float> center(dim), four_times(dim);
    for (std::size_t c = 0; c < dim; ++c) {
      row[c] = std::sin(static_cast<float>(c * c % 10007));
      four_times[c] = 4 * row[c];
      center[c] = static_cast<float>(c % 7);
    }
    const std::vector<float> expected = unrotated(row);
    std::vector<float> expected_beside_center = unrotated(four_times);
    for (std::size_t c = 0; c < dim; ++c) expected_beside_center[c] += center[c];
    for (const PortEntry& port : all_test_ports()) {
      std::vector<float> out(dim);
      port.kernels->rows->write_row(row.data(), kRowSumOfOut, static_cast<std::int32_t>(dim),
                                    rotation_signs(true), nullptr, Dtype::kF32, out.data());
      EXPECT_EQ(out, expected) << port.name << ", " << dim;
      port.kernels->rows->write_row(row.data(), kRowSumOfOut / 4, static_cast<std::int32_t>(dim),
                                    rotation_signs(true), center.data(), Dtype::kF32, out.data());
      EXPECT_EQ(out, expected_beside_center) << port.name << ", " << dim;
    }
  }
}

double error_of(AttentionCase c, bool rotate) {
  c.rotate = rotate;
  const std::vector<double> out = numbers_of(c, run_case(c, scalar_port())).out;
  c.mode = INTFLASH_MODE_EXACT;
  const std::vector<double> exact = numbers_of(c, run_case(c, scalar_port())).out;
  return relative_l1(out, exact);
}

TEST(Rotation, MakesOutliersHarmless) {
  AttentionCase c;
  c.num_kv_heads = 4;
  c.query_len = 64;
  c.kv_len = 500;
  c.data = CaseData::kOutliers;
  EXPECT_LT(error_of(c, true), 0.6 * error_of(c, false));
}

// Of one causal prompt, the last rows alone; chunks see fewer keys.
TEST(Defaults, GiveChunksTheBitsOfTheWhole) {
  constexpr std::int64_t kTokens = 300, kDim = 64;
  const Context context;
  std::vector<float> rows(3 * kTokens * kDim);
  for (std::size_t i = 0; i < rows.size(); ++i)
    rows[i] = std::sin(static_cast<float>(i * i % 10007)) + (i % kDim == 5 ? 4.0f : 0.0f);
  const auto attend = [&](std::int64_t query_len, std::int64_t kv_len, std::vector<float>& out) {
    intflash_attend_desc desc = attend_desc();
    desc.num_query_heads = desc.num_kv_heads = 1;
    desc.query_len = query_len;
    desc.kv_len = kv_len;
    desc.head_dim = kDim;
    desc.mask = INTFLASH_MASK_CAUSAL;
    out.resize(static_cast<std::size_t>(query_len * kDim));
    intflash_attend_args args = attend_args();
    args.query = contiguous(rows.data() + (kv_len - query_len) * kDim, 1, query_len, kDim);
    args.key = contiguous(rows.data() + kTokens * kDim, 1, kv_len, kDim);
    args.value = contiguous(rows.data() + 2 * kTokens * kDim, 1, kv_len, kDim);
    args.out = contiguous(out.data(), 1, query_len, kDim);
    context.attend(desc, args);
  };
  std::vector<float> whole, chunk;
  attend(kTokens, kTokens, whole);
  std::int64_t end = 0;
  for (const std::int64_t length : {100, 1, 64, 7, 128}) {
    end += length;
    attend(length, end, chunk);
    EXPECT_EQ(std::memcmp(chunk.data(), whole.data() + (end - length) * kDim,
                          chunk.size() * sizeof(float)),
              0)
        << length << " rows up to " << end;
  }
}

TEST(Rotation, OfStatesIsWhatThePlanSays) {
  serving::Shape shape;
  shape.rotate = true;
  serving::Server server(shape);
  const serving::Tokens tokens = serving::random_tokens(shape, 100, 1);
  const std::int32_t sequence = server.create_sequence();
  ASSERT_EQ(server.append(sequence, tokens, 0, 100), INTFLASH_OK);
  serving::Request request = server.request_of(sequence);
  request.query = tokens.query.data();
  serving::BatchCall batch(shape, {request});
  ASSERT_EQ(batch.make_plan(server.context(), server.cache()), INTFLASH_OK);
  serving::States states = serving::states_of(batch, 0);
  states[0].rotates_values = 0;
  std::vector<intflash_state> given = serving::views(states);
  batch.args.states = given.data();
  batch.args.state_size = sizeof(intflash_state);
  EXPECT_EQ(batch.run(server.cache()), INTFLASH_INVALID_ARGUMENT);
  EXPECT_NE(std::string(intflash_last_error()).find("states[0].rotates_values = 0: must be 1"),
            std::string::npos)
      << intflash_last_error();
  given[0].rotates_values = 1;
  EXPECT_EQ(batch.run(server.cache()), INTFLASH_OK) << intflash_last_error();
}

}  // namespace
}  // namespace intflash::internal

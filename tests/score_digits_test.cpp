// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Second digits of queries and keys: what they are for, what they leave alone, who has them.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "intflash/cache.h"
#include "intflash/intflash.hpp"
#include "relative_l1.h"
#include "seed.h"

namespace intflash::internal {
namespace {

// One head's rows [query_len or kv_len][dim].
struct Rows {
  std::int64_t query_len, kv_len, dim;
  std::vector<float> query, key, value;
};

Rows normal_rows(std::int64_t query_len, std::int64_t kv_len, std::int64_t dim) {
  std::mt19937_64 random(seed_from_test_name());
  std::normal_distribution<float> normal;
  Rows rows{query_len, kv_len, dim, {}, {}, {}};
  const auto fill = [&](std::vector<float>& to, std::int64_t count) {
    to.resize(static_cast<std::size_t>(count * dim));
    for (float& x : to) x = normal(random);
  };
  fill(rows.query, query_len);
  fill(rows.key, kv_len);
  fill(rows.value, kv_len);
  return rows;
}

struct Call {
  std::int32_t score_digits = 0;
  intflash_mode mode = INTFLASH_MODE_INT8;
  intflash_mask mask = INTFLASH_MASK_NONE;
  intflash_rotation rotation = INTFLASH_ROTATION_AUTO;
  float softmax_scale = 0;
  float score_cap = 0;
  bool lse = false;  // behind out
};

std::vector<float> attend(Rows rows, const Call& call) {
  const Context context;
  intflash_attend_desc desc = attend_desc();
  desc.num_query_heads = desc.num_kv_heads = 1;
  desc.query_len = rows.query_len;
  desc.kv_len = rows.kv_len;
  desc.head_dim = rows.dim;
  desc.score_digits = call.score_digits;
  desc.mode = call.mode;
  desc.mask = call.mask;
  desc.rotation = call.rotation;
  desc.softmax_scale = call.softmax_scale;
  desc.score_cap = call.score_cap;
  std::vector<float> out(rows.query.size());
  intflash_attend_args args = attend_args();
  args.query = contiguous(rows.query.data(), 1, rows.query_len, rows.dim);
  args.key = contiguous(rows.key.data(), 1, rows.kv_len, rows.dim);
  args.value = contiguous(rows.value.data(), 1, rows.kv_len, rows.dim);
  args.out = contiguous(out.data(), 1, rows.query_len, rows.dim);
  if (call.lse) {
    out.resize(rows.query.size() + static_cast<std::size_t>(rows.query_len));
    args.out.data = out.data();
    args.lse = out.data() + rows.query.size();
  }
  context.attend(desc, args);
  return out;
}

double error_of(const Rows& rows, Call call) {
  const std::vector<float> out = attend(rows, call);
  call.mode = INTFLASH_MODE_EXACT;
  const std::vector<float> exact = attend(rows, call);
  return relative_l1({out.begin(), out.end()}, {exact.begin(), exact.end()});
}

// Keys with a large constant in a few pairs of channels, turned with the position, which queries
// hardly look at: what models with a bias of keys and rotary embedding have.
Rows biased_rows(float bias, const std::vector<std::int64_t>& pairs) {
  Rows rows = normal_rows(24, 2048, 128);
  for (const std::int64_t pair : pairs) {
    const double frequency = std::pow(1e6, -2.0 * static_cast<double>(pair) / 128);
    for (std::int64_t j = 0; j < rows.kv_len; ++j) {
      float* key = rows.key.data() + j * rows.dim;
      key[pair] += bias * static_cast<float>(std::cos(static_cast<double>(j) * frequency));
      key[pair + 64] += bias * static_cast<float>(std::sin(static_cast<double>(j) * frequency));
    }
    for (std::int64_t i = 0; i < rows.query_len; ++i) {
      rows.query[static_cast<std::size_t>(i * rows.dim + pair)] *= 0.1f;
      rows.query[static_cast<std::size_t>(i * rows.dim + pair + 64)] *= 0.1f;
    }
  }
  return rows;
}

TEST(ScoreDigits, AreTakenWhereKeysHaveALargeBias) {
  for (const float bias : {150.0f, 300.0f}) {
    for (const std::vector<std::int64_t>& pairs :
         {std::vector<std::int64_t>{45, 50, 55, 60}, {1, 4, 7, 10}}) {
      const Rows rows = biased_rows(bias, pairs);
      SCOPED_TRACE(testing::Message() << "bias " << bias << " pair " << pairs[0]);
      EXPECT_LT(error_of(rows, {}), 0.02);
      EXPECT_GT(error_of(rows, {.score_digits = 1}), 0.05);
    }
  }
}

TEST(ScoreDigits, OfTwoMakeNormalInputsFiner) {
  const Rows rows = normal_rows(48, 1500, 128);
  EXPECT_LT(error_of(rows, {.score_digits = 2}), 0.8 * error_of(rows, {.score_digits = 1}));
}

// Rows that are whole numbers of steps.
TEST(ScoreDigits, ThatAreZeroChangeNoBit) {
  Rows rows = normal_rows(40, 300, 64);
  for (std::vector<float>* part : {&rows.query, &rows.key}) {
    for (std::size_t i = 0; i < part->size(); ++i) {
      const float steps = std::fmin(std::fmax(std::nearbyint(40 * (*part)[i]), -127.0f), 127.0f);
      (*part)[i] = (i % 64 == 0 ? 127.0f : steps) / 64;
    }
  }
  const auto check = [&rows](float softmax_scale, float score_cap) {
    Call call;
    call.score_cap = score_cap;
    call.rotation = INTFLASH_ROTATION_NONE;
    call.softmax_scale = softmax_scale;
    call.mask = INTFLASH_MASK_CAUSAL;
    call.lse = true;
    call.score_digits = 1;
    const std::vector<float> one = attend(rows, call);
    call.score_digits = 2;
    EXPECT_EQ(attend(rows, call), one) << softmax_scale;
  };
  // In fixed point, in f32, and so small that the unit is the finest.
  for (const float softmax_scale : {0.25f, 8.0f, 1e-6f}) check(softmax_scale, 0);
  // Factors of queries are subnormal, and the first row's only score, in f32, is below 0.
  for (std::size_t i = 0; i < 64; ++i) rows.key[i] = -rows.query[i];
  for (float& x : rows.query) x *= 0x1p-45f;
  for (float& x : rows.key) x *= 0x1p90f;
  rows.kv_len = rows.query_len;
  check(0x1p-97f, 1e-15f);
}

// The last keys of a block are so large that rows that see them need second digits.
TEST(ScoreDigits, OfARowDependOnWhatItSeesAlone) {
  Rows rows = normal_rows(128, 128, 64);
  const Call causal = {.mask = INTFLASH_MASK_CAUSAL};
  const std::vector<float> before = attend(rows, causal);
  for (std::size_t i = 100 * 64; i < 128 * 64; ++i) rows.key[i] *= 50;
  const std::vector<float> after = attend(rows, causal);
  EXPECT_EQ(std::memcmp(after.data(), before.data(), 100 * 64 * sizeof(float)), 0);
  EXPECT_NE(after, attend(rows, {.score_digits = 1, .mask = INTFLASH_MASK_CAUSAL}));
}

TEST(ScoreDigits, GiveChunksTheBitsOfTheWhole) {
  const Rows rows = normal_rows(400, 400, 64);
  const Call causal = {.mask = INTFLASH_MASK_CAUSAL, .softmax_scale = 1};
  const std::vector<float> whole = attend(rows, causal);
  EXPECT_NE(whole, attend(rows, {.score_digits = 1, .mask = causal.mask, .softmax_scale = 1}));
  for (const std::int64_t begin : {0, 1, 130, 399}) {
    Rows chunk = rows;
    chunk.query.erase(chunk.query.begin(), chunk.query.begin() + begin * 64);
    chunk.query_len -= begin;
    const std::vector<float> out = attend(chunk, causal);
    EXPECT_TRUE(std::equal(out.begin(), out.end(), whole.begin() + begin * 64)) << begin;
  }
}

// Of the last block nobody sees the second half, and nobody multiplies it.
TEST(ScoreDigits, OfHalfABlockLeaveTheOtherHalfAlone) {
  Rows rows = normal_rows(192, 192, 64);
  for (float& x : rows.key) x *= 30;
  const Call causal = {.mask = INTFLASH_MASK_CAUSAL};
  const std::vector<float> whole = attend(rows, causal);
  Rows last = rows;
  last.query.erase(last.query.begin(), last.query.begin() + 191 * 64);
  last.query_len = 1;
  const std::vector<float> out = attend(last, causal);
  EXPECT_TRUE(std::equal(out.begin(), out.end(), whole.begin() + 191 * 64));
  EXPECT_LT(error_of(rows, causal), 0.02);
}

std::int32_t planned_digits(std::int32_t asked, intflash_dtype query, intflash_dtype key) {
  const Context context;
  intflash_attend_desc desc = attend_desc();
  desc.num_query_heads = desc.num_kv_heads = 1;
  desc.query_len = desc.kv_len = 2;
  desc.head_dim = 64;
  desc.query_dtype = query;
  desc.key_dtype = key;
  desc.score_digits = asked;
  return Plan(context, desc).info().score_digits;
}

TEST(ScoreDigits, AreAsAskedForUnlessBothInputsAreCodes) {
  for (const std::int32_t asked : {0, 1, 2}) {
    EXPECT_EQ(planned_digits(asked, INTFLASH_F32, INTFLASH_F16), asked);
    EXPECT_EQ(planned_digits(asked, INTFLASH_F32, INTFLASH_INT8), asked);
    EXPECT_EQ(planned_digits(asked, INTFLASH_INT8, INTFLASH_INT8), 1);
  }
}

TEST(ScoreDigits, OfNoNumberThatThereIsAreRefused) {
  const Context context;
  intflash_attend_desc desc = attend_desc();
  desc.num_query_heads = desc.num_kv_heads = 1;
  desc.head_dim = 64;
  for (const std::int32_t asked : {-1, 3}) {
    desc.score_digits = asked;
    EXPECT_EQ(intflash_query_support(context.get(), &desc, nullptr), INTFLASH_INVALID_ARGUMENT);
    EXPECT_EQ(intflash_last_error(),
              "score_digits = " + std::to_string(asked) + ": must be 1, 2, or 0 for as needed");
  }
}

TEST(ScoreDigits, OfTwoAreRefusedOverKeysOfOne) {
  const Context context;
  intflash_cache_options options = cache_options();
  options.num_kv_heads = options.num_pages = 1;
  options.head_dim = 64;
  intflash_batch_desc desc = batch_desc();
  desc.num_query_heads = 1;
  desc.query_dtype = desc.out_dtype = INTFLASH_F32;
  desc.score_digits = 2;
  const Cache narrow(context, options);
  EXPECT_EQ(intflash_query_batch_support(context.get(), narrow.get(), &desc, nullptr),
            INTFLASH_UNSUPPORTED);
  EXPECT_STREQ(intflash_last_error(),
               "score_digits = 2 over a cache of codec int8, whose keys have one digit: create it "
               "with codec = INT8_WIDE");
  options.codec = INTFLASH_CODEC_INT8_WIDE;
  const Cache wide(context, options);
  intflash_plan_info info{};
  info.struct_size = sizeof info;
  for (const std::int32_t asked : {0, 1, 2}) {
    desc.score_digits = asked;
    EXPECT_EQ(intflash_query_batch_support(context.get(), wide.get(), &desc, &info), INTFLASH_OK);
    EXPECT_EQ(info.score_digits, asked);
    EXPECT_STREQ(info.codec, "int8_wide");
  }
}

}  // namespace
}  // namespace intflash::internal

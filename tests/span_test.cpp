// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Tiles that go through several spans of keys give the bits of the scalar port, whatever blocks
// they meet on the way.
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "attention_case.h"
#include "seed.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

constexpr std::int64_t kKeys = 4 * 1024 + 300;

// One head, with its keys' floats at hand.
class Call {
 public:
  explicit Call(const AttentionCase& c) : case_(c), tensors_(make_tensors(c, memory_)) {}

  CaseTensors& tensors() { return tensors_; }
  float* key(std::int64_t token) {
    return static_cast<float*>(tensors_.args.key.data) + token * case_.head_dim;
  }
  float* value(std::int64_t token) {
    return static_cast<float*>(tensors_.args.value.data) + token * case_.head_dim_v;
  }
  void scale_key(std::int64_t token, float factor) {
    for (std::int64_t i = 0; i < case_.head_dim; ++i) key(token)[i] *= factor;
  }
  void scale_value(std::int64_t token, float factor) {
    for (std::int64_t i = 0; i < case_.head_dim_v; ++i) value(token)[i] *= factor;
  }

  // Where a working set of keys is large or small, tiles take many spans at a time or one.
  void expect_ports_agree(const std::string& what) {
    const CaseResult expected = run_tensors(tensors_, scalar_port(), {}, memory_);
    ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error;
    for (const PortEntry& port : ports_under_test()) {
      for (const std::int64_t l2_bytes : {1, 1 << 19, 64 << 20}) {
        RunOptions options;
        options.l2_bytes = l2_bytes;
        EXPECT_EQ(difference(case_, run_tensors(tensors_, port, options, memory_), expected), "")
            << port.name << ' ' << what << " l2_bytes " << l2_bytes << ' ' << describe(case_);
      }
    }
  }

 private:
  AttentionCase case_;
  Memory memory_;
  CaseTensors tensors_;
};

// Tiles of 32 rows, of 17 to 31 beside them, and of fewer; dims of one slice of 64, two and more.
// Where it is quick that is asked for, each once.
std::vector<AttentionCase> cases() {
  constexpr std::int64_t kQueryLens[] = {17, 64 + 20, 32, 31};
  constexpr std::int64_t kHeadDims[] = {200, 40, 128, 64};
  std::vector<AttentionCase> all;
  for (const std::int64_t& query_len : kQueryLens) {
    for (const std::int64_t& head_dim : kHeadDims) {
      AttentionCase c;
      c.query_len = query_len;
      c.kv_len = kKeys;
      c.head_dim = head_dim;
      c.head_dim_v = head_dim == 40 ? 16 : head_dim == 200 ? 72 : head_dim;
      c.center = INTFLASH_CENTER_NONE;
      c.seed = seed_from_test_name();
      if (!quick_tests() || &query_len - kQueryLens == &head_dim - kHeadDims) all.push_back(c);
    }
  }
  return all;
}

TEST(Spans, OfPlainBlocksGiveTheBitsOfScalar) {
  for (const AttentionCase& c : cases()) Call(c).expect_ports_agree("plain");
}

TEST(Spans, WithLightKeysGiveTheBitsOfScalar) {
  for (const AttentionCase& c : cases()) {
    Call call(c);
    for (const std::int64_t token : {0, 127, 1023, 1024, 2000, 2047, 3071, 4395})
      call.scale_value(token, 1e-4f);
    for (std::int64_t token = 1280; token < 1408; token += 3) call.scale_value(token, 1e-30f);
    call.expect_ports_agree("light");
  }
}

// Scores beyond 2^14 have units of more than an octave, which no pipeline takes: blocks at either
// end of a span, in its middle, and all of one.
TEST(Spans, WithGeneralBlocksAmongPlainOnesGiveTheBitsOfScalar) {
  for (const AttentionCase& c : cases()) {
    Call call(c);
    for (const std::int64_t token : {5, 1000, 1024, 1600, 1700, 3000, 4390})
      call.scale_key(token, 1e5f);
    for (std::int64_t token = 2048; token < 3072; token += 128) call.scale_key(token, 1e5f);
    call.expect_ports_agree("general");
  }
}

TEST(Spans, BelowACapGiveTheBitsOfScalar) {
  for (AttentionCase c : cases()) {
    c.score_cap = 5;
    Call(c).expect_ports_agree("capped");
  }
}

TEST(Spans, WithMaskedBlocksAtTheirEndsGiveTheBitsOfScalar) {
  for (AttentionCase c : cases()) {
    for (const std::int64_t left : {-1, 1000, 2500}) {
      c.mask = INTFLASH_MASK_WINDOW;
      c.window_left = left;
      Call(c).expect_ports_agree("window");
    }
    c.group_size = 3;
    c.mask = INTFLASH_MASK_CAUSAL;
    Call(c).expect_ports_agree("group");
  }
}

// Rows that begin in different spans, the first one last: then the state of a tile holds spans that
// its first row has not seen.
TEST(Spans, ThatSomeRowsSeeBeforeTheFirstRowGiveTheBitsOfScalar) {
  for (const AttentionCase& c : cases()) {
    Call call(c);
    std::vector<float> mask(static_cast<std::size_t>(c.query_len * c.kv_len));
    for (std::int64_t query = 0; query < c.query_len; query += 2) {
      for (std::int64_t k = 0; k < 1024; ++k)
        mask[static_cast<std::size_t>(query * c.kv_len + k)] =
            -std::numeric_limits<float>::infinity();
    }
    intflash_additive_mask& additive = call.tensors().args.additive_mask;
    additive.data = mask.data();
    additive.dtype = INTFLASH_F32;
    additive.stride_query = c.kv_len;
    call.expect_ports_agree("drawn");
  }
}

}  // namespace
}  // namespace intflash::internal

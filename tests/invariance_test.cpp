// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// How a call is cut, ordered, threaded and laid out changes no bit of any row, on any port.
#include <algorithm>
#include <cfenv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "attention_case.h"
#include "core/checks.h"
#include "inputs/tensor.h"
#include "seed.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

// A case's tensors, and parts of it as calls of their own.
class Whole {
 public:
  explicit Whole(AttentionCase c) : attention(c) {
    attention.seed = seed_from_test_name();
    tensors = make_tensors(attention, memory);
  }

  CaseResult run(const PortEntry& port, const RunOptions& options = {}) {
    return run_tensors(tensors, port, options, memory);
  }

  // Query rows [first, first + rows) with keys [0, kv_len): into the tensors' own out and lse.
  void run_rows(const PortEntry& port, std::int64_t first, std::int64_t rows, std::int64_t kv_len,
                intflash_mask mask) {
    CaseTensors part = tensors;
    part.desc.query_len = rows;
    part.desc.kv_len = kv_len;
    part.desc.mask = mask;
    advance(part.args.query, attention.query.dtype, first * part.args.query.stride_token);
    if (part.args.query.scale != nullptr) part.args.query.scale += first;
    advance(part.args.out, attention.out.dtype, first * part.args.out.stride_token);
    // lse is contiguous [batch][heads][query_len]: each part has its own, one head after another.
    std::vector<float> lse(static_cast<std::size_t>(heads() * rows));
    part.args.lse = lse.data();
    part.out_bytes = part.lse_count = 0;
    const CaseResult result = run_tensors(part, port, {}, memory);
    ASSERT_EQ(result.status, INTFLASH_OK) << result.error;
    for (std::int64_t h = 0; h < heads(); ++h)
      std::copy_n(lse.begin() + h * rows, rows, tensors.args.lse + h * attention.query_len + first);
  }

  // What out and lse hold now; poisons them.
  CaseResult take() {
    CaseResult result;
    result.out.assign(tensors.out, tensors.out + tensors.out_bytes);
    result.lse.assign(tensors.args.lse, tensors.args.lse + tensors.lse_count);
    std::memset(tensors.out, CaseTensors::kPoison, tensors.out_bytes);
    std::memset(tensors.args.lse, CaseTensors::kPoison, tensors.lse_count * 4);
    return result;
  }

  std::int64_t heads() const {
    return attention.batch * attention.num_kv_heads * attention.group_size;
  }
  static void advance(intflash_tensor& tensor, intflash_dtype dtype, std::int64_t elements) {
    tensor.data = static_cast<char*>(tensor.data) + elements * dtype_bytes(dtype);
  }

  AttentionCase attention;
  Memory memory;
  CaseTensors tensors;
};

AttentionCase causal_case() {
  AttentionCase c;
  c.query_len = 70;
  c.kv_len = 200;
  c.head_dim = 40;
  c.head_dim_v = 24;
  c.mask = INTFLASH_MASK_CAUSAL;
  c.center = INTFLASH_CENTER_NONE;
  return c;
}

// Cases in which a row could learn of others: by a shared scale, maximum, centre or exponent.
std::vector<AttentionCase> causal_cases() {
  std::vector<AttentionCase> cases;
  for (const CaseData data : {CaseData::kNormal, CaseData::kOutliers, CaseData::kZeroRows,
                              CaseData::kOneHot, CaseData::kSinks}) {
    AttentionCase c = causal_case();
    c.data = data;
    cases.push_back(c);
    c.score_cap = 20;
    cases.push_back(c);
    c.score_cap = 0;
    c.center = INTFLASH_CENTER_KEY_VALUE;
    c.given_centers = true;
    cases.push_back(c);
  }
  AttentionCase c = causal_case();
  c.query.dtype = c.key.dtype = c.value.dtype = INTFLASH_INT8;
  c.group_size = 3;
  cases.push_back(c);
  c = causal_case();
  c.query_len = 9;
  c.kv_len = 1500;  // two spans
  c.group_size = 2;
  c.out.layout = Layout::kTokensFirst;
  cases.push_back(c);
  c = causal_case();
  c.query_len = 150;  // the first rows see no key
  c.kv_len = 100;
  cases.push_back(c);
  return cases;
}

TEST(Invariance, CausalRowsEqualAttentionOverTheirVisibleKeysAlone) {
  for (const AttentionCase& c : causal_cases()) {
    for (const PortEntry& port : all_test_ports()) {
      Whole whole(c);
      ASSERT_EQ(whole.run(port).status, INTFLASH_OK);
      const CaseResult together = whole.take();
      for (std::int64_t i = 0; i < c.query_len; ++i) {
        const std::int64_t visible = std::max<std::int64_t>(0, c.kv_len - c.query_len + i + 1);
        whole.run_rows(port, i, 1, visible, INTFLASH_MASK_NONE);
      }
      EXPECT_EQ(difference(c, whole.take(), together), "") << port.name << ": " << describe(c);
    }
  }
}

TEST(Invariance, ChunksOfQueryRowsEqualTheWhole) {
  for (const AttentionCase& c : causal_cases()) {
    for (const std::int64_t chunk : {16, 5, 33}) {
      if (chunk != 16 && quick_tests()) continue;
      for (const PortEntry& port : all_test_ports()) {
        Whole whole(c);
        ASSERT_EQ(whole.run(port).status, INTFLASH_OK);
        const CaseResult together = whole.take();
        for (std::int64_t first = 0; first < c.query_len; first += chunk) {
          const std::int64_t rows = std::min(chunk, c.query_len - first);
          const std::int64_t known =
              std::max<std::int64_t>(0, c.kv_len - c.query_len + first + rows);
          whole.run_rows(port, first, rows, known, INTFLASH_MASK_CAUSAL);
        }
        EXPECT_EQ(difference(c, whole.take(), together), "") << port.name << ": " << describe(c);
      }
    }
  }
}

TEST(Invariance, HeadsOfAGroupAndOfABatchEqualEachAlone) {
  AttentionCase c = causal_case();
  c.batch = 2;
  c.num_kv_heads = 3;
  c.group_size = 4;
  c.query_len = 11;
  c.center = INTFLASH_CENTER_KEY_VALUE;  // computed: of each kv head alone
  for (const PortEntry& port : all_test_ports()) {
    Whole whole(c);
    ASSERT_EQ(whole.run(port).status, INTFLASH_OK);
    const CaseResult together = whole.take();
    for (std::int64_t b = 0; b < c.batch; ++b) {
      for (std::int64_t h = 0; h < c.num_kv_heads * c.group_size; ++h) {
        CaseTensors part = whole.tensors;
        part.desc.batch = part.desc.num_query_heads = part.desc.num_kv_heads = 1;
        intflash_attend_args& args = part.args;
        for (intflash_tensor* tensor : {&args.query, &args.key, &args.value, &args.out}) {
          const bool is_kv = tensor == &args.key || tensor == &args.value;
          Whole::advance(
              *tensor, INTFLASH_F32,
              b * tensor->stride_batch + (is_kv ? h / c.group_size : h) * tensor->stride_head);
        }
        args.lse += (b * c.num_kv_heads * c.group_size + h) * c.query_len;
        part.out_bytes = part.lse_count = 0;
        ASSERT_EQ(run_tensors(part, port, {}, whole.memory).status, INTFLASH_OK);
      }
    }
    EXPECT_EQ(difference(c, whole.take(), together), "") << port.name;
  }
}

// Enough rows, heads and keys for several items of work, super-blocks and spans.
AttentionCase wide_case() {
  AttentionCase c;
  c.batch = quick_length(2, 1);
  c.num_kv_heads = 2;
  c.group_size = 2;
  c.query_len = quick_length(130, 50);
  c.kv_len = quick_length(3100, 1100);
  c.head_dim = 64;
  c.head_dim_v = 40;
  c.mask = INTFLASH_MASK_CAUSAL;
  c.center = INTFLASH_CENTER_KEY_VALUE;
  return c;
}

void expect_same_bits(const AttentionCase& c, const std::vector<RunOptions>& ways) {
  Whole whole(c);
  for (const PortEntry& port : all_test_ports()) {
    const CaseResult expected = whole.run(port);
    ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error;
    for (std::size_t i = 0; i < ways.size(); ++i) {
      whole.take();
      EXPECT_EQ(difference(c, whole.run(port, ways[i]), expected), "") << port.name << " way " << i;
    }
  }
}

TEST(Invariance, TheNumberOfThreadsChangesNoBit) {
  std::vector<RunOptions> ways;
  for (const std::int32_t threads : {2, 3, 7, 64}) {
    ways.push_back({});
    ways.back().num_threads = threads;
  }
  expect_same_bits(wide_case(), ways);
}

void run_forwards(void*, std::int32_t count, void (*body)(void*, std::int32_t), void* context) {
  for (std::int32_t i = 0; i < count; ++i) body(context, i);
}
void run_backwards(void*, std::int32_t count, void (*body)(void*, std::int32_t), void* context) {
  for (std::int32_t i = count - 1; i >= 0; --i) body(context, i);
}
void run_on_threads(void*, std::int32_t count, void (*body)(void*, std::int32_t), void* context) {
  std::vector<std::thread> threads;
  for (std::int32_t i = 0; i < count; ++i) threads.emplace_back(body, context, i);
  for (std::thread& thread : threads) thread.join();
}

TEST(Invariance, TheCallersParallelLoopChangesNoBit) {
  std::vector<RunOptions> ways;
  for (const auto loop : {run_forwards, run_backwards, run_on_threads}) {
    for (const std::int32_t threads : {2, 5}) {
      ways.push_back({});
      ways.back().num_threads = threads;
      ways.back().parallel.run = loop;
    }
  }
  expect_same_bits(wide_case(), ways);
}

TEST(Invariance, TheSizesOfCachesChangeNoBit) {
  std::vector<RunOptions> ways;
  for (const std::int64_t l2_bytes : {1, 200 << 10, 1 << 30}) {
    for (const std::int32_t threads : {1, 3}) {
      ways.push_back({});
      ways.back().num_threads = threads;
      ways.back().l2_bytes = l2_bytes;
    }
  }
  expect_same_bits(wide_case(), ways);
}

TEST(Invariance, PackingFirstChangesNoBit) {
  RunOptions packed;
  packed.packed = true;
  expect_same_bits(wide_case(), {packed});
  AttentionCase codes = wide_case();
  codes.center = INTFLASH_CENTER_NONE;
  codes.query.dtype = codes.key.dtype = codes.value.dtype = INTFLASH_INT8;
  expect_same_bits(codes, {packed});
}

// Few rows of each head: without packing first, each block is attended as soon as it is packed.
TEST(Invariance, PackingAllKeysFirstChangesNoBitOfFewRows) {
  std::vector<RunOptions> ways;
  for (const bool packed : {true, false}) {
    for (const auto loop : {run_forwards, run_backwards, run_on_threads}) {
      for (const std::int32_t threads : {1, 2, 5, 64}) {
        ways.push_back({});
        ways.back().packed = packed;
        ways.back().num_threads = threads;
        ways.back().parallel.run = loop;
      }
    }
  }
  AttentionCase c = wide_case();
  c.num_kv_heads = 5;
  c.query_len = 3;
  c.key.layout = c.value.layout = Layout::kTokensFirst;
  c.center = INTFLASH_CENTER_NONE;
  expect_same_bits(c, ways);
  c.mask = INTFLASH_MASK_WINDOW;
  c.window_left = 700;
  c.kv_len = 1500;
  expect_same_bits(c, ways);
  c.mask = INTFLASH_MASK_NONE;
  c.bias = CaseBias::kAdditive;
  expect_same_bits(c, ways);
}

TEST(Invariance, PackedKeysAndValuesServeManyCalls) {
  AttentionCase c = causal_case();
  Whole whole(c);
  const CaseResult expected = whole.run(scalar_port());
  intflash_context context = make_context(scalar_port(), {});
  intflash_plan* plan = nullptr;
  ASSERT_EQ(intflash_plan_attend(&context, &whole.tensors.desc, &plan), INTFLASH_OK);
  const std::size_t bytes = intflash_plan_workspace_bytes(plan);
  std::byte* workspace = whole.memory.take(bytes);
  ASSERT_EQ(intflash_pack(plan, &whole.tensors.args, workspace, bytes), INTFLASH_OK);
  intflash_attend_args args = whole.tensors.args;
  args.key = args.value = {};
  for (int i = 0; i < 3; ++i) {
    whole.take();
    ASSERT_EQ(intflash_run_packed(plan, &args, workspace, bytes), INTFLASH_OK);
    EXPECT_EQ(difference(c, whole.take(), expected), "");
  }
  intflash_plan_destroy(plan);
}

// Few rows are attended while they are packed, which leaves no packed keys.
TEST(Invariance, PackedKeysAreThoseThatPackWasTheLastToLeave) {
  AttentionCase c = causal_case();
  c.query_len = 2;
  Whole whole(c);
  const CaseResult expected = whole.run(scalar_port());
  intflash_context context = make_context(scalar_port(), {});
  intflash_plan* plan = nullptr;
  ASSERT_EQ(intflash_plan_attend(&context, &whole.tensors.desc, &plan), INTFLASH_OK);
  const std::size_t bytes = intflash_plan_workspace_bytes(plan);
  std::byte* workspace = whole.memory.take(bytes);
  const intflash_attend_args& args = whole.tensors.args;
  EXPECT_EQ(intflash_run_packed(plan, &args, workspace, bytes), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_pack(plan, &args, workspace, bytes), INTFLASH_OK);
  EXPECT_EQ(intflash_run(plan, &args, workspace, bytes), INTFLASH_OK);
  EXPECT_EQ(intflash_run_packed(plan, &args, workspace, bytes), INTFLASH_INVALID_ARGUMENT);
  EXPECT_NE(std::string(intflash_last_error()).find("intflash_pack"), std::string::npos);
  EXPECT_EQ(intflash_pack(plan, &args, workspace, bytes), INTFLASH_OK);
  whole.take();
  EXPECT_EQ(intflash_run_packed(plan, &args, workspace, bytes), INTFLASH_OK);
  EXPECT_EQ(difference(c, whole.take(), expected), "");
  intflash_plan_destroy(plan);
}

// The later plan stands where the earlier one stood.
TEST(Invariance, WhatAnEarlierPlanHasPackedIsNothingToALaterOne) {
  Whole whole(causal_case());
  intflash_context context = make_context(scalar_port(), {});
  const intflash_attend_args& args = whole.tensors.args;
  struct Bump {
    std::byte* memory;
    std::size_t used;
  } bump{whole.memory.take(1 << 20), 0};
  context.allocator_user = &bump;
  context.allocate = [](void* user, std::size_t size, std::size_t) -> void* {
    Bump& from = *static_cast<Bump*>(user);
    return from.memory + std::exchange(from.used, from.used + (size + 63) / 64 * 64);
  };
  context.deallocate = [](void*, void*) {};
  std::byte* workspace = nullptr;
  std::size_t bytes = 0;
  for (int round = 0; round < 3; ++round) {
    bump.used = 0;
    intflash_plan* plan = nullptr;
    ASSERT_EQ(intflash_plan_attend(&context, &whole.tensors.desc, &plan), INTFLASH_OK);
    if (workspace == nullptr) {
      bytes = intflash_plan_workspace_bytes(plan);
      workspace = whole.memory.take(bytes);
    } else {
      EXPECT_EQ(intflash_run_packed(plan, &args, workspace, bytes), INTFLASH_INVALID_ARGUMENT);
    }
    EXPECT_EQ(intflash_pack(plan, &args, workspace, bytes), INTFLASH_OK);
    intflash_plan_destroy(plan);
  }
}

// intflash_run_packed reads query alone: not the scales of keys and values either.
TEST(Invariance, PackedCodesNeedNoKeysAndValues) {
  AttentionCase c = causal_case();
  c.query.dtype = c.key.dtype = c.value.dtype = INTFLASH_INT8;
  Whole whole(c);
  const CaseResult expected = whole.run(scalar_port());
  intflash_context context = make_context(scalar_port(), {});
  intflash_plan* plan = nullptr;
  ASSERT_EQ(intflash_plan_attend(&context, &whole.tensors.desc, &plan), INTFLASH_OK);
  const std::size_t bytes = intflash_plan_workspace_bytes(plan);
  std::byte* workspace = whole.memory.take(bytes);
  ASSERT_EQ(intflash_pack(plan, &whole.tensors.args, workspace, bytes), INTFLASH_OK);
  intflash_attend_args args = whole.tensors.args;
  args.key = args.value = {};
  whole.take();
  ASSERT_EQ(intflash_run_packed(plan, &args, workspace, bytes), INTFLASH_OK);
  EXPECT_EQ(difference(c, whole.take(), expected), "");
  intflash_plan_destroy(plan);
}

TEST(Invariance, LayoutsChangeNoBit) {
  AttentionCase c = wide_case();
  c.seed = seed_from_test_name();
  const CaseResult expected = run_case(c, scalar_port());
  const Numbers numbers = numbers_of(c, expected);
  for (const Layout layout : {Layout::kTokensFirst, Layout::kPaddedRows}) {
    for (const PortEntry& port : all_test_ports()) {
      AttentionCase other = c;
      other.query.layout = other.key.layout = other.value.layout = other.out.layout = layout;
      const Numbers found = numbers_of(other, run_case(other, port));
      EXPECT_EQ(found.out, numbers.out) << port.name;
      EXPECT_EQ(found.lse, numbers.lse) << port.name;
    }
  }
}

TEST(Invariance, TheSameNumbersInAnotherInputDtypeGiveTheSameBits) {
  for (const intflash_dtype dtype : {INTFLASH_F16, INTFLASH_BF16}) {
    AttentionCase c = causal_case();
    c.query.dtype = c.key.dtype = c.value.dtype = dtype;
    c.center = INTFLASH_CENTER_KEY_VALUE;
    Whole narrow(c);
    c.query.dtype = c.key.dtype = c.value.dtype = INTFLASH_F32;
    Whole wide(c);
    const auto copy = [&](const intflash_tensor& from, const intflash_tensor& to,
                          std::int64_t tokens, std::int64_t dim) {
      for (std::int64_t i = 0; i < tokens * dim; ++i)
        static_cast<float*>(to.data)[i] =
            static_cast<float>(tensor_element(from, dtype, 0, 0, i / dim, i % dim));
    };
    copy(narrow.tensors.args.query, wide.tensors.args.query, c.query_len, c.head_dim);
    copy(narrow.tensors.args.key, wide.tensors.args.key, c.kv_len, c.head_dim);
    copy(narrow.tensors.args.value, wide.tensors.args.value, c.kv_len, c.head_dim_v);
    for (const PortEntry& port : all_test_ports())
      EXPECT_EQ(difference(c, narrow.run(port), wide.run(port)), "") << port.name;
  }
}

TEST(Invariance, OutInSixteenBitsIsOutInF32Rounded) {
  for (const intflash_dtype dtype : {INTFLASH_F16, INTFLASH_BF16}) {
    AttentionCase c = causal_case();
    c.seed = seed_from_test_name();
    const Numbers wide = numbers_of(c, run_case(c, scalar_port()));
    c.out.dtype = dtype;
    const CaseResult narrow = run_case(c, scalar_port());
    std::vector<std::byte> rounded(narrow.out.size());
    intflash_tensor tensor = {};
    tensor.data = rounded.data();
    for (std::size_t i = 0; i < wide.out.size(); ++i)
      store_element(tensor, dtype, 0, 0, 0, static_cast<std::int64_t>(i),
                    static_cast<float>(wide.out[i]));
    EXPECT_EQ(narrow.out, rounded);
  }
}

TEST(Invariance, ScalesOfBlocksEqualTheSameScalesPerToken) {
  for (const std::int64_t scale_block : {0, 1000, 64, 7}) {
    AttentionCase c = causal_case();
    c.query.dtype = c.key.dtype = c.value.dtype = INTFLASH_INT8;
    c.query.scale_block = c.key.scale_block = c.value.scale_block = scale_block;
    Whole whole(c);
    const CaseResult expected = whole.run(scalar_port());
    ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error;
    std::vector<float> scales[3];
    const auto spread = [&](intflash_tensor& tensor, std::int64_t tokens, std::vector<float>& to) {
      for (std::int64_t j = 0; j < tokens; ++j)
        to.push_back(tensor.scale[scale_block == 0 ? 0 : j / scale_block]);
      tensor.scale = to.data();
      tensor.scale_block = 1;
    };
    spread(whole.tensors.args.query, c.query_len, scales[0]);
    spread(whole.tensors.args.key, c.kv_len, scales[1]);
    spread(whole.tensors.args.value, c.kv_len, scales[2]);
    whole.take();
    EXPECT_EQ(difference(c, whole.run(scalar_port()), expected), "") << scale_block;
  }
}

TEST(Invariance, OnePlanServesSeveralThreadsAtOnce) {
  AttentionCase c = wide_case();
  c.seed = seed_from_test_name();
  for (const PortEntry& port : all_test_ports()) {
    const CaseResult expected = run_case(c, port);
    RunOptions options;
    options.num_threads = 2;
    intflash_context context = make_context(port, options);
    intflash_plan* plan = nullptr;
    const intflash_attend_desc desc = desc_of(c);
    ASSERT_EQ(intflash_plan_attend(&context, &desc, &plan), INTFLASH_OK);
    std::vector<std::string> found(3, "did not run");
    std::vector<std::thread> callers;
    for (std::string& text : found) {
      callers.emplace_back([&] {
        Memory memory;
        CaseTensors tensors = make_tensors(c, memory);
        const std::size_t bytes = intflash_plan_workspace_bytes(plan);
        CaseResult result;
        result.status = intflash_run(plan, &tensors.args, memory.take(bytes), bytes);
        result.out.assign(tensors.out, tensors.out + tensors.out_bytes);
        result.lse.assign(tensors.args.lse, tensors.args.lse + tensors.lse_count);
        text = difference(c, result, expected);
      });
    }
    for (std::thread& caller : callers) caller.join();
    intflash_plan_destroy(plan);
    EXPECT_EQ(found, std::vector<std::string>(3, "")) << port.name;
  }
}

// Another rounding mode, and subnormal numbers flushed to zero.
class CallersFloatState {
 public:
  explicit CallersFloatState(int rounding) : rounding_(std::fegetround()) {
    std::fesetround(rounding);
#if defined(__x86_64__)
    control_ = _mm_getcsr();
    _mm_setcsr(control_ | 0x8040);
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(control_));
    __asm__ volatile("msr fpcr, %0" : : "r"(control_ | 1u << 24));
#endif
  }
  ~CallersFloatState() {
#if defined(__x86_64__)
    _mm_setcsr(control_);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(control_));
#endif
    std::fesetround(rounding_);
  }
  CallersFloatState(const CallersFloatState&) = delete;
  CallersFloatState& operator=(const CallersFloatState&) = delete;

 private:
  int rounding_;
#if defined(__aarch64__)
  std::uint64_t control_ = 0;
#else
  unsigned control_ = 0;
#endif
};

TEST(Invariance, TheCallersFloatingPointStateChangesNoBit) {
  // The default softmax scale is rounded, and capped scores take it as it is.
  for (const std::int64_t head_dim : {8, 24, 40, 56, 72, 80, 96, 104, 112, 120, 128}) {
    AttentionCase c = causal_case();
    c.query_len = 10;
    c.head_dim = head_dim;
    c.score_cap = 5;
    c.center = INTFLASH_CENTER_KEY_VALUE;
    Whole whole(c);
    for (const PortEntry& port : all_test_ports()) {
      const CaseResult expected = whole.run(port);
      for (const int rounding : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
        whole.take();
        CaseResult found;
        int rounding_after = 0;
        {
          const CallersFloatState state(rounding);
          found = whole.run(port);
          rounding_after = std::fegetround();
        }
        EXPECT_EQ(difference(c, found, expected), "") << port.name << " head_dim " << head_dim;
        EXPECT_EQ(rounding_after, rounding) << "the caller's state is restored";
      }
    }
  }
}

}  // namespace
}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A batch refuses what it cannot serve, when it is planned and when it is run: each rule by its
// status, with a message that names the argument, its value and the rule, and without touching an
// output.
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include <gtest/gtest.h>

#include "serving_input.h"

namespace intflash::internal::serving {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t kHuge = std::int64_t{1} << 31;

// ---- Plans ----

class BadBatches : public testing::TestWithParam<BadInput> {};

TEST_P(BadBatches, AreRefusedByNameValueAndRule) {
  ServingInput input;
  GetParam().spoil(input);
  intflash_plan* plan = nullptr;
  input.expect_refusal(intflash_plan_batch(input.context, input.cache, &input.batch.desc, &plan),
                       GetParam().status, GetParam().words);
  EXPECT_EQ(plan, nullptr);
  input.expect_refusal(
      intflash_query_batch_support(input.context, input.cache, &input.batch.desc, nullptr),
      GetParam().status, GetParam().words);
}

BadInput shared(const char* name, const std::vector<intflash_shared_prefix>& prefixes,
                intflash_status status, const std::vector<std::string>& words) {
  return {name, [prefixes](ServingInput& i) { i.batch.share(prefixes); }, status, words};
}

const BadInput kBadBatches[] = {
    {"struct_size",
     [](ServingInput& i) { i.batch.desc.struct_size = 12; },
     INTFLASH_INVALID_ARGUMENT,
     {"desc", "struct_size", std::to_string(sizeof(intflash_batch_desc))}},
    {"requests",
     [](ServingInput& i) { i.batch.desc.requests = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"requests", "NULL"}},
    {"num_requests_negative",
     [](ServingInput& i) { i.batch.desc.num_requests = -1; },
     INTFLASH_BAD_SHAPE,
     {"num_requests", "-1", "0 ..."}},
    {"num_requests_huge",
     [](ServingInput& i) { i.batch.desc.num_requests = kHuge; },
     INTFLASH_BAD_SHAPE,
     {"num_requests", "2147483648", "2147483647"}},
    {"no_query_heads",
     [](ServingInput& i) { i.batch.desc.num_query_heads = 0; },
     INTFLASH_BAD_SHAPE,
     {"num_query_heads", "0", "1 ..."}},
    {"heads_not_divisible",
     [](ServingInput& i) { i.batch.desc.num_query_heads = 5; },
     INTFLASH_BAD_SHAPE,
     {"num_query_heads", "5", "multiple", "num_kv_heads = 2"}},
    {"query_dtype",
     [](ServingInput& i) { i.batch.desc.query_dtype = INTFLASH_Q8_0; },
     INTFLASH_INVALID_ARGUMENT,
     {"query_dtype", "5", "F32, F16, BF16, INT8, F8_E4M3 or F8_E5M2"}},
    {"out_dtype",
     [](ServingInput& i) { i.batch.desc.out_dtype = INTFLASH_F8_E5M2; },
     INTFLASH_INVALID_ARGUMENT,
     {"out_dtype", "9", "F32, F16 or BF16"}},
    {"score_cap",
     [](ServingInput& i) { i.batch.desc.score_cap = -1; },
     INTFLASH_BAD_SCALE,
     {"score_cap", "-1", "finite and > 0"}},
    {"query_len_negative",
     [](ServingInput& i) { i.batch.requests[1].query_len = -1; },
     INTFLASH_BAD_SHAPE,
     {"query_len", "-1", "0 ..."}},
    {"query_len_huge",
     [](ServingInput& i) { i.batch.requests[1].query_len = kHuge; },
     INTFLASH_BAD_SHAPE,
     {"query_len", "2147483648", "2147483647"}},
    {"kv_len_negative",
     [](ServingInput& i) { i.batch.requests[0].kv_len = -64; },
     INTFLASH_BAD_SHAPE,
     {"kv_len", "-64", "0 ..."}},
    {"kv_len_huge",
     [](ServingInput& i) { i.batch.requests[0].kv_len = kHuge; },
     INTFLASH_BAD_SHAPE,
     {"kv_len", "2147483648", "2147483647"}},
    {"first_key_position_negative",
     [](ServingInput& i) { i.batch.requests[1].first_key_position = -64; },
     INTFLASH_BAD_SHAPE,
     {"requests[1].first_key_position", "-64", "multiple of page_size = 64"}},
    {"first_key_position_uneven",
     [](ServingInput& i) { i.batch.requests[1].first_key_position = 32; },
     INTFLASH_BAD_SHAPE,
     {"requests[1].first_key_position", "32", "multiple of page_size = 64"}},
    {"first_key_position_behind_the_keys",
     [](ServingInput& i) { i.batch.requests[1].first_key_position = 128; },
     INTFLASH_BAD_SHAPE,
     {"requests[1].first_key_position", "128", "up to kv_len = 94"}},
    {"mask",
     [](ServingInput& i) { i.batch.requests[0].mask = static_cast<intflash_mask>(7); },
     INTFLASH_INVALID_ARGUMENT,
     {"mask", "7", "NONE, CAUSAL, WINDOW, PREFIX or CAUSAL_TOP_LEFT"}},
    {"window_left",
     [](ServingInput& i) {
       i.batch.requests[0].mask = INTFLASH_MASK_WINDOW;
       i.batch.requests[0].window_left = -2;
     },
     INTFLASH_INVALID_ARGUMENT,
     {"window_left", "-2", ">= 0, or -1"}},
    {"softmax_scale",
     [](ServingInput& i) { i.batch.requests[0].softmax_scale = kInfinity; },
     INTFLASH_BAD_SCALE,
     {"softmax_scale", "inf", "finite and > 0"}},
    {"too_many_rows",
     [](ServingInput& i) { i.batch.requests[1].query_len = kHuge / 4; },
     INTFLASH_SIZE_OVERFLOW,
     {"536870915 queries of 4 heads", "2^31 - 1 rows"}},
    {"shared_prefixes",
     [](ServingInput& i) { i.batch.desc.num_shared_prefixes = 1; },
     INTFLASH_INVALID_ARGUMENT,
     {"shared_prefixes", "NULL"}},
    {"num_shared_prefixes_negative",
     [](ServingInput& i) { i.batch.desc.num_shared_prefixes = -1; },
     INTFLASH_BAD_SHAPE,
     {"num_shared_prefixes", "-1", "0 ..."}},
    shared("shared_by_requests_before_the_batch", {{-1, 2, 0}}, INTFLASH_BAD_SHAPE,
           {"shared_prefixes[0]", "first_request = -1", "the batch's 2 requests"}),
    shared("shared_by_requests_behind_the_batch", {{0, 1, 0}, {1, 2, 0}}, INTFLASH_BAD_SHAPE,
           {"shared_prefixes[1]", "first_request = 1, num_requests = 2", "the batch's 2 requests"}),
    shared("shared_by_more_requests_than_64_bits", {{1, INT64_MAX, 0}}, INTFLASH_BAD_SHAPE,
           {"shared_prefixes[0]", "num_requests = 9223372036854775807"}),
    shared("shared_by_no_request", {{1, 0, 0}}, INTFLASH_BAD_SHAPE,
           {"shared_prefixes[0]", "num_requests = 0", "1 or more"}),
    shared("shared_prefix_len_negative", {{0, 2, -1}}, INTFLASH_BAD_SHAPE,
           {"shared_prefixes[0].prefix_len", "-1", "at least 0"}),
    shared("shared_prefix_longer_than_a_member", {{0, 2, 95}}, INTFLASH_BAD_SHAPE,
           {"shared_prefixes[0].prefix_len", "95", "requests[1].kv_len = 94"}),
    {"shared_by_requests_with_other_first_keys",
     [](ServingInput& i) {
       i.batch.requests[1].first_key_position = 64;
       i.batch.share({{0, 2, 64}});
     },
     INTFLASH_BAD_SHAPE,
     {"shared_prefixes[0]", "requests[1].first_key_position = 64", "must be 0"}},
    shared("shared_prefixes_out_of_order", {{1, 1, 10}, {0, 1, 10}}, INTFLASH_INVALID_ARGUMENT,
           {"shared_prefixes[1].first_request", "0", "at least 1"}),
    shared("shared_prefixes_that_overlap", {{0, 1, 10}, {0, 2, 20}}, INTFLASH_INVALID_ARGUMENT,
           {"shared_prefixes[1]", "requests 0 ... 1", "shared_prefixes[0]'s requests 0 ... 0"}),
    shared("shared_prefix_as_long_as_the_one_around_it", {{0, 2, 10}, {0, 1, 10}},
           INTFLASH_INVALID_ARGUMENT,
           {"shared_prefixes[1]", "prefix_len = 10", "larger prefix_len than 10"}),
    shared("shared_prefixes_too_deep", {{0, 2, 1}, {0, 2, 2}, {0, 2, 3}, {0, 2, 4}, {1, 1, 5}},
           INTFLASH_INVALID_ARGUMENT,
           {"shared_prefixes[4]", "4 others", "INTFLASH_MAX_PREFIX_LEVELS = 4"}),
    // 2^64 rows and a few: a product that wraps would be small.
    {"rows_beyond_64_bits",
     [](ServingInput& i) {
       i.batch.desc.num_query_heads = std::int64_t{1} << 30;
       i.batch.requests.assign(16, i.batch.requests[0]);
       for (intflash_request& request : i.batch.requests) request.query_len = std::int64_t{1} << 30;
       i.batch.requests.push_back(i.batch.requests[0]);
       i.batch.requests.back().query_len = 0;
       i.batch.desc.requests = i.batch.requests.data();
       i.batch.desc.num_requests = 17;
     },
     INTFLASH_SIZE_OVERFLOW,
     {"queries of 1073741824 heads", "2^31 - 1 rows"}},
};
INSTANTIATE_TEST_SUITE_P(Description, BadBatches, testing::ValuesIn(kBadBatches), name_of);

// ---- Runs ----

class BadRuns : public testing::TestWithParam<BadInput> {};

TEST_P(BadRuns, AreRefusedByNameValueAndRule) {
  ServingInput input;
  ASSERT_EQ(input.batch.make_plan(input.context, input.cache), INTFLASH_OK);
  GetParam().spoil(input);
  const intflash_cache* cache = input.other_cache == nullptr ? input.cache : input.other_cache;
  input.expect_refusal(input.batch.run(cache), GetParam().status, GetParam().words);
}

// Runs over a cache of a shape that the plan is not for.
template <class Change>
BadInput other_cache(const char* name, Change change, std::vector<std::string> words) {
  const auto spoil = [change](ServingInput& i) {
    intflash_cache_options options = i.cache_options();
    change(options);
    i.other_cache = i.create_cache(options);
  };
  words.push_back("the plan is for");
  return {name, spoil, INTFLASH_BAD_SHAPE, words};
}

const BadInput kBadRuns[] = {
    {"struct_size",
     [](ServingInput& i) { i.batch.args.struct_size = 12; },
     INTFLASH_INVALID_ARGUMENT,
     {"args", "struct_size", std::to_string(sizeof(intflash_batch_args))}},
    {"query_data",
     [](ServingInput& i) { i.batch.args.query.data = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"query.data", "NULL"}},
    {"out_data",
     [](ServingInput& i) { i.batch.args.out.data = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"out.data", "NULL"}},
    {"query_stride_head",
     [](ServingInput& i) { i.batch.args.query.stride_head = -1; },
     INTFLASH_BAD_STRIDE,
     {"query.stride_head", "-1", ">= 0"}},
    {"out_rows_overlap",
     [](ServingInput& i) { i.batch.args.out.stride_token = 31; },
     INTFLASH_BAD_STRIDE,
     {"out.stride_token", "31", "overlap"}},
    {"mask_stride",
     [](ServingInput& i) {
       i.batch.additive_masks.assign(2, {});
       i.batch.additive_masks[1] = {i.batch.query.data(), INTFLASH_F32, 0, 0, 1LL << 62, nullptr};
       i.batch.args.additive_masks = i.batch.additive_masks.data();
     },
     INTFLASH_SIZE_OVERFLOW,
     {"additive_masks[1].stride_query", "4611686018427387904", "address space"}},
    {"bit_mask_longer_than_the_keys",
     [](ServingInput& i) {
       static const std::uint64_t words[4] = {};
       i.batch.bit_masks.assign(2, {});
       i.batch.bit_masks[1] = {words, 95};
       i.batch.args.bit_masks = i.batch.bit_masks.data();
     },
     INTFLASH_BAD_SHAPE,
     {"bit_masks[1].num_keys", "95", "kv_len = 94"}},
    {"page_indptr",
     [](ServingInput& i) { i.batch.args.pages.page_indptr = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"page_indptr", "NULL", "num_requests + 1"}},
    {"page_ids",
     [](ServingInput& i) { i.batch.args.pages.page_ids = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"page_ids", "NULL", "page_indptr[2] = 4"}},
    {"page_indptr_negative",
     [](ServingInput& i) { i.batch.page_indptr[0] = -2; },
     INTFLASH_BAD_SHAPE,
     {"page_indptr[0]", "-2", "at least 0"}},
    {"page_indptr_decreasing",
     [](ServingInput& i) { i.batch.page_indptr[2] = 1; },
     INTFLASH_BAD_SHAPE,
     {"page_indptr[2]", "1", "at least 2"}},
    {"too_few_pages",
     [](ServingInput& i) { i.batch.page_indptr[1] = 1; },
     INTFLASH_BAD_SHAPE,
     {"request 0", "1 pages", "keys up to 100 need 2"}},
    {"page_negative",
     [](ServingInput& i) { i.batch.page_ids[3] = -1; },
     INTFLASH_INVALID_ARGUMENT,
     {"request 1", "page_ids[1]", "-1", "0 ... 7"}},
    {"page_of_no_cache",
     [](ServingInput& i) { i.batch.page_ids[0] = 8; },
     INTFLASH_INVALID_ARGUMENT,
     {"request 0", "page_ids[0]", "8", "0 ... 7"}},
    {"page_twice_in_a_request",
     [](ServingInput& i) { i.batch.page_ids[3] = 5; },
     INTFLASH_INVALID_ARGUMENT,
     {"request 1", "page_ids[1]", "5", "twice"}},
    {"query_nan",
     [](ServingInput& i) { i.batch.query[(4 * 4 + 1) * 32 + 9] = std::nanf(""); },
     INTFLASH_NONFINITE_INPUT,
     {"query", "[head 1][token 4][9]", "nan"}},
    {"query_infinite",
     [](ServingInput& i) { i.batch.query[0] = kInfinity; },
     INTFLASH_NONFINITE_INPUT,
     {"query", "[head 0][token 0][0]", "inf"}},
    {"no_workspace",
     [](ServingInput& i) { i.batch.workspace.reset(); },
     INTFLASH_WORKSPACE_TOO_SMALL,
     {"workspace", "bytes", "multiple of 64"}},
    {"workspace_too_small",
     [](ServingInput& i) { --i.batch.workspace_bytes; },
     INTFLASH_WORKSPACE_TOO_SMALL,
     {"workspace", "bytes", "multiple of 64"}},
    other_cache("cache_of_other_pages", [](auto& o) { o.page_size = 128; }, {"pages of 128"}),
    other_cache("cache_of_more_pages", [](auto& o) { o.num_pages = 9; }, {"9 pages"}),
    other_cache("cache_of_other_heads", [](auto& o) { o.num_kv_heads = 4; }, {"4 kv heads"}),
    other_cache("cache_of_other_head_dim", [](auto& o) { o.head_dim = 24; }, {"24 and 32"}),
    other_cache("cache_of_other_head_dim_v", [](auto& o) { o.head_dim_v = 24; }, {"32 and 24"}),
    other_cache("cache_rotated", [](auto& o) { o.rotation = INTFLASH_ROTATION_NONE; },
                {"rotation of keys 0"}),
};
INSTANTIATE_TEST_SUITE_P(Arguments, BadRuns, testing::ValuesIn(kBadRuns), name_of);

TEST(BatchInput, RequestsThatDoNotHaveTheirSharedPagesInCommonAreRefused) {
  ServingInput input;
  for (intflash_request& request : input.batch.requests) request.kv_len = 128;
  input.batch.share({{0, 2, 128}});
  ASSERT_EQ(input.batch.make_plan(input.context, input.cache), INTFLASH_OK);
  input.batch.page_ids[2] = input.batch.page_ids[0];
  input.expect_refusal(input.batch.run(input.cache), INTFLASH_INVALID_ARGUMENT,
                       {"request 1", "page_ids[1] = 2", "must be 0", "request 0", "position 128"});
}

TEST(BatchInput, AMisalignedWorkspaceIsRefused) {
  ServingInput input;
  ASSERT_EQ(input.batch.make_plan(input.context, input.cache), INTFLASH_OK);
  auto* workspace = static_cast<std::byte*>(input.batch.workspace.get()) + 8;
  input.expect_refusal(intflash_run_batch(input.batch.plan, input.cache, &input.batch.args,
                                          workspace, input.batch.workspace_bytes),
                       INTFLASH_WORKSPACE_TOO_SMALL, {"workspace", "multiple of 64"});
}

TEST(BatchInput, RequestsWithoutKeysNeedNoPages) {
  ServingInput input;
  for (intflash_request& request : input.batch.requests) request.kv_len = 0;
  ASSERT_EQ(input.batch.make_plan(input.context, input.cache), INTFLASH_OK);
  input.batch.page_indptr = {0, 0, 0};
  input.batch.args.pages = {input.batch.page_indptr.data(), nullptr};
  EXPECT_EQ(input.batch.run(input.cache), INTFLASH_OK) << intflash_last_error();
  for (const float x : input.batch.out) EXPECT_EQ(x, 0.0f);
  for (const float x : input.batch.lse) EXPECT_EQ(x, -kInfinity);
}

TEST(BatchInput, WithoutRequestsNothingIsReadOrWritten) {
  ServingInput input;
  input.batch.desc.num_requests = 0;
  input.batch.desc.requests = nullptr;
  ASSERT_EQ(input.batch.make_plan(input.context, input.cache), INTFLASH_OK);
  input.batch.args.query.data = input.batch.args.out.data = nullptr;
  input.batch.args.lse = nullptr;
  input.batch.args.pages = {};
  input.expect_refusal(input.batch.run(input.cache), INTFLASH_OK, {});
  intflash_append_args none{};
  none.struct_size = sizeof none;
  none.key_dtype = none.value_dtype = INTFLASH_F32;
  EXPECT_EQ(intflash_cache_append(input.cache, &none), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(intflash_sequences_append(input.cache, nullptr, &none), INTFLASH_OK);
}

TEST(BatchInput, ACallAfterARefusalSucceeds) {
  ServingInput input;
  ASSERT_EQ(intflash_cache_append(input.cache, &input.append), INTFLASH_OK);
  ASSERT_EQ(input.batch.make_plan(input.context, input.cache), INTFLASH_OK);
  const float query = std::exchange(input.batch.query[0], kInfinity);
  EXPECT_EQ(input.batch.run(input.cache), INTFLASH_NONFINITE_INPUT);
  input.batch.query[0] = query;
  EXPECT_EQ(input.batch.run(input.cache), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(std::count(input.batch.out.begin(), input.batch.out.end(), ServingInput::kUntouched),
            0);
}

TEST(BatchInput, HandlesAreChecked) {
  ServingInput input;
  BatchCall& batch = input.batch;
  intflash_plan_info info{};
  intflash_plan* plan = nullptr;
  const auto refuse = [&](intflash_status status, const std::vector<std::string>& words) {
    input.expect_refusal(status, INTFLASH_INVALID_ARGUMENT, words);
  };
  refuse(intflash_plan_batch(nullptr, input.cache, &batch.desc, &plan), {"context", "NULL"});
  refuse(intflash_plan_batch(input.context, nullptr, &batch.desc, &plan), {"cache", "NULL"});
  refuse(intflash_plan_batch(input.context, input.cache, nullptr, &plan), {"desc", "struct_size"});
  refuse(intflash_plan_batch(input.context, input.cache, &batch.desc, nullptr), {"plan", "NULL"});
  EXPECT_EQ(plan, nullptr);
  refuse(intflash_run_batch(nullptr, input.cache, &batch.args, nullptr, 0), {"plan", "NULL"});
  refuse(intflash_plan_get_info(nullptr, &info), {"plan", "NULL"});
  ASSERT_EQ(batch.make_plan(input.context, input.cache), INTFLASH_OK);
  refuse(intflash_plan_get_info(batch.plan, &info), {"info.struct_size", "0"});
  refuse(intflash_query_batch_support(input.context, input.cache, &batch.desc, &info),
         {"info.struct_size", "0"});
  refuse(intflash_query_batch_support(nullptr, input.cache, &batch.desc, nullptr),
         {"context", "NULL"});
  refuse(intflash_query_batch_support(input.context, nullptr, &batch.desc, nullptr),
         {"cache", "NULL"});
  refuse(intflash_run_batch(batch.plan, nullptr, &batch.args, nullptr, 0), {"cache", "NULL"});
  refuse(intflash_run_batch(batch.plan, input.cache, nullptr, nullptr, 0), {"args", "struct_size"});
  refuse(intflash_end(batch.plan, nullptr), {"workspace", "NULL"});
  intflash_plan_destroy(nullptr);
  EXPECT_EQ(intflash_plan_workspace_bytes(nullptr), 0u);
  EXPECT_EQ(intflash_plan_num_phases(nullptr), 0);
  EXPECT_EQ(intflash_plan_num_tasks(batch.plan, -1), 0);
  EXPECT_EQ(intflash_plan_num_tasks(batch.plan, 99), 0);
}

}  // namespace
}  // namespace intflash::internal::serving

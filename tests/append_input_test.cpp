// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// An append refuses what it cannot store: each rule by its status, with a message that names the
// argument, its value and the rule, and without writing to a page.
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

class BadAppends : public testing::TestWithParam<BadInput> {};

TEST_P(BadAppends, AreRefusedByNameValueAndRule) {
  ServingInput input;
  GetParam().spoil(input);
  input.expect_refusal(intflash_cache_append(input.cache, &input.append), GetParam().status,
                       GetParam().words);
}

const BadInput kBadAppends[] = {
    {"struct_size",
     [](ServingInput& i) { i.append.struct_size = 12; },
     INTFLASH_INVALID_ARGUMENT,
     {"args", "struct_size", std::to_string(sizeof(intflash_append_args))}},
    {"no_token_indptr",
     [](ServingInput& i) { i.append.token_indptr = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"token_indptr", "must not be NULL"}},
    {"no_kv_lens",
     [](ServingInput& i) { i.append.kv_lens = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"kv_lens", "must not be NULL"}},
    {"no_page_indptr",
     [](ServingInput& i) { i.append.pages.page_indptr = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"page_indptr", "NULL", "num_requests + 1"}},
    {"no_page_ids",
     [](ServingInput& i) { i.append.pages.page_ids = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"page_ids", "NULL", "page_indptr[2] = 4"}},
    {"num_requests_negative",
     [](ServingInput& i) { i.append.num_requests = -1; },
     INTFLASH_BAD_SHAPE,
     {"num_requests", "-1", "0 ..."}},
    {"num_requests_huge",
     [](ServingInput& i) { i.append.num_requests = kHuge; },
     INTFLASH_BAD_SHAPE,
     {"num_requests", "2147483648", "2147483647"}},
    {"token_indptr_from_1",
     [](ServingInput& i) { i.token_indptr[0] = 1; },
     INTFLASH_BAD_SHAPE,
     {"token_indptr[0]", "1", "must be 0"}},
    {"token_indptr_decreasing",
     [](ServingInput& i) { i.token_indptr[2] = 99; },
     INTFLASH_BAD_SHAPE,
     {"token_indptr[2]", "99", "100 ..."}},
    {"token_indptr_huge",
     [](ServingInput& i) { i.token_indptr[2] = kHuge; },
     INTFLASH_BAD_SHAPE,
     {"token_indptr[2]", "2147483648", "2147483647"}},
    {"kv_len_negative",
     [](ServingInput& i) { i.kv_lens[0] = -5; },
     INTFLASH_BAD_SHAPE,
     {"kv_lens[0]", "-5", "first_key_position = 0 ..."}},
    {"kv_len_huge",
     [](ServingInput& i) { i.kv_lens[1] = INT64_MAX; },
     INTFLASH_BAD_SHAPE,
     {"kv_lens[1]", std::to_string(INT64_MAX), "2147483617"}},
    {"kv_len_before_the_first_key",
     [](ServingInput& i) { i.first_key_positions[1] = 128; },
     INTFLASH_BAD_SHAPE,
     {"kv_lens[1]", "64", "first_key_position = 128"}},
    {"first_key_position_negative",
     [](ServingInput& i) { i.first_key_positions[1] = -64; },
     INTFLASH_BAD_SHAPE,
     {"request 1", "first_key_position", "-64", "multiple of page_size = 64"}},
    {"first_key_position_uneven",
     [](ServingInput& i) { i.first_key_positions[1] = 32; },
     INTFLASH_BAD_SHAPE,
     {"request 1", "first_key_position", "32", "multiple of page_size = 64"}},
    {"page_indptr_negative",
     [](ServingInput& i) { i.page_indptr[0] = -1; },
     INTFLASH_BAD_SHAPE,
     {"page_indptr[0]", "-1", "at least 0"}},
    {"page_indptr_decreasing",
     [](ServingInput& i) { i.page_indptr[2] = 1; },
     INTFLASH_BAD_SHAPE,
     {"page_indptr[2]", "1", "at least 2"}},
    {"too_few_pages",
     [](ServingInput& i) { i.page_indptr[2] = 3; },
     INTFLASH_BAD_SHAPE,
     {"request 1", "1 pages", "keys up to 94 need 2"}},
    {"page_negative",
     [](ServingInput& i) { i.page_ids[2] = -1; },
     INTFLASH_INVALID_ARGUMENT,
     {"request 1", "page_ids[0]", "-1", "0 ... 7"}},
    {"page_of_no_cache",
     [](ServingInput& i) { i.page_ids[1] = 8; },
     INTFLASH_INVALID_ARGUMENT,
     {"request 0", "page_ids[1]", "8", "0 ... 7"}},
    {"page_twice_in_a_request",
     [](ServingInput& i) { i.page_ids[3] = 5; },
     INTFLASH_INVALID_ARGUMENT,
     {"request 1", "page_ids[1]", "5", "twice"}},
    {"page_written_by_two_requests",
     [](ServingInput& i) { i.page_ids[3] = 3; },
     INTFLASH_INVALID_ARGUMENT,
     {"request 1", "page 3", "a request before it"}},
    {"key_dtype",
     [](ServingInput& i) { i.append.key_dtype = INTFLASH_BOOL; },
     INTFLASH_INVALID_ARGUMENT,
     {"key_dtype", "7", "F32, F16, BF16, INT8, Q8_0, Q4_0, F8_E4M3 or F8_E5M2"}},
    {"value_dtype",
     [](ServingInput& i) { i.append.value_dtype = static_cast<intflash_dtype>(0); },
     INTFLASH_INVALID_ARGUMENT,
     {"value_dtype", "0", "F32, F16, BF16, INT8, Q8_0, Q4_0, F8_E4M3 or F8_E5M2"}},
    {"key_data",
     [](ServingInput& i) { i.append.key.data = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"key.data", "NULL"}},
    {"value_data",
     [](ServingInput& i) { i.append.value.data = nullptr; },
     INTFLASH_INVALID_ARGUMENT,
     {"value.data", "NULL"}},
    {"key_stride_token",
     [](ServingInput& i) { i.append.key.stride_token = -8; },
     INTFLASH_BAD_STRIDE,
     {"key.stride_token", "-8", ">= 0"}},
    {"value_stride_overflow",
     [](ServingInput& i) { i.append.value.stride_token = INT64_MAX / 2; },
     INTFLASH_SIZE_OVERFLOW,
     {"value.stride_token", "address space"}},
    {"key_nan",
     [](ServingInput& i) { i.tokens.key[(101 * 2 + 1) * 32 + 7] = std::nanf(""); },
     INTFLASH_NONFINITE_INPUT,
     {"key[request 1][token 1][head 1][7]", "nan", "finite"}},
    {"value_infinite",
     [](ServingInput& i) { i.tokens.value[99 * 2 * 32] = -kInfinity; },
     INTFLASH_NONFINITE_INPUT,
     {"value[request 0][token 99][head 0][0]", "-inf", "finite"}},
    {"key_beyond_the_range",
     [](ServingInput& i) { i.tokens.key[5] = 0x1p100f; },
     INTFLASH_SCORE_OVERFLOW,
     {"key[request 0][token 0][head 0][5]", "below"}},
};
INSTANTIATE_TEST_SUITE_P(Arguments, BadAppends, testing::ValuesIn(kBadAppends), name_of);

TEST(AppendInput, ACallAfterARefusalSucceeds) {
  ServingInput input;
  input.kv_lens[0] = -1;
  EXPECT_NE(intflash_cache_append(input.cache, &input.append), INTFLASH_OK);
  input.kv_lens[0] = 0;
  EXPECT_EQ(intflash_cache_append(input.cache, &input.append), INTFLASH_OK)
      << intflash_last_error();
}

TEST(AppendInput, RequestsMayShareAPageThatTheyOnlyRead) {
  ServingInput input;
  input.kv_lens[0] = 64;
  input.token_indptr[1] = 30;
  input.token_indptr[2] = 60;
  input.page_ids[2] = 3;
  EXPECT_EQ(intflash_cache_append(input.cache, &input.append), INTFLASH_OK)
      << intflash_last_error();
}

TEST(AppendInput, WithoutARequestTouchesNothing) {
  ServingInput input;
  input.append.num_requests = 0;
  EXPECT_EQ(intflash_cache_append(input.cache, &input.append), INTFLASH_OK)
      << intflash_last_error();
}

TEST(AppendInput, HandlesAndSequencesAreChecked) {
  ServingInput input;
  const auto refuse = [&](intflash_status status, const std::vector<std::string>& words) {
    input.expect_refusal(status, INTFLASH_INVALID_ARGUMENT, words);
  };
  std::int32_t sequences[2] = {-1, -1};
  ASSERT_EQ(intflash_sequence_create(input.cache, &sequences[0]), INTFLASH_OK);
  refuse(intflash_cache_append(nullptr, &input.append), {"cache", "NULL"});
  refuse(intflash_cache_append(input.cache, nullptr), {"args", "struct_size"});
  refuse(intflash_sequences_append(nullptr, sequences, &input.append), {"cache", "NULL"});
  refuse(intflash_sequences_append(input.cache, sequences, nullptr), {"args", "struct_size"});
  refuse(intflash_sequences_append(input.cache, nullptr, &input.append), {"sequences", "NULL"});
  refuse(intflash_sequences_append(input.cache, sequences, &input.append), {"sequence", "-1"});
  sequences[1] = sequences[0];
  refuse(intflash_sequences_append(input.cache, sequences, &input.append),
         {"sequences[1]", "0", "sequences[0] already"});
}

}  // namespace
}  // namespace intflash::internal::serving

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// OCP's 8-bit floats, E4M3 and E5M2: every code is its number, and numbers in them give the bits
// that they give in f32.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "api_call.h"
#include "attention_case.h"
#include "element.h"
#include "host/host_pages.h"
#include "inputs/tensor.h"
#include "random.h"
#include "seed.h"
#include "serving.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

constexpr intflash_dtype kFormats[] = {INTFLASH_F8_E4M3, INTFLASH_F8_E5M2};

TEST(EightBitFormats, EveryCodeIsTheNumberThatItsDefinitionSays) {
  std::uint8_t codes[256];
  for (int code = 0; code < 256; ++code) codes[code] = static_cast<std::uint8_t>(code);
  for (const intflash_dtype dtype : kFormats) {
    for (const PortEntry& port : all_test_ports()) {
      // -0 + x is x to the bit.
      std::vector<float> widened(256, -0.0f);
      port.kernels->rows->sum_rows({codes, static_cast<Dtype>(dtype), 256}, 1, 256, widened.data());
      for (int code = 0; code < 256; ++code) {
        intflash_tensor tensor{};
        tensor.data = codes;
        const double expected = eight_bit_value(dtype, codes[code]);
        const double read = tensor_element(tensor, dtype, 0, 0, 0, code);
        const auto found = static_cast<double>(widened[static_cast<std::size_t>(code)]);
        if (std::isnan(expected)) {
          EXPECT_TRUE(std::isnan(read) && std::isnan(found)) << port.name << ' ' << code;
          continue;
        }
        EXPECT_EQ(std::bit_cast<std::uint64_t>(read), std::bit_cast<std::uint64_t>(expected))
            << dtype << ' ' << code;
        EXPECT_EQ(std::bit_cast<std::uint64_t>(found), std::bit_cast<std::uint64_t>(expected))
            << port.name << ' ' << dtype << ' ' << code;
      }
    }
  }
  // What the paper's table 1 says of each.
  EXPECT_EQ(eight_bit_value(INTFLASH_F8_E4M3, 0x7e), 448);
  EXPECT_EQ(eight_bit_value(INTFLASH_F8_E4M3, 0x08), 0x1p-6);
  EXPECT_EQ(eight_bit_value(INTFLASH_F8_E4M3, 0x01), 0x1p-9);
  EXPECT_EQ(eight_bit_value(INTFLASH_F8_E5M2, 0x7b), 57344);
  EXPECT_EQ(eight_bit_value(INTFLASH_F8_E5M2, 0x04), 0x1p-14);
  EXPECT_EQ(eight_bit_value(INTFLASH_F8_E5M2, 0x81), -0x1p-16);
}

// ---- Dense calls ----

AttentionCase eight_bit_case(intflash_dtype query, intflash_dtype key, intflash_dtype value) {
  AttentionCase c;
  c.batch = 2;
  c.num_kv_heads = 2;
  c.group_size = 3;
  c.query_len = 9;
  c.kv_len = 150;
  c.head_dim = 96;
  c.head_dim_v = 72;
  c.query = {query, Layout::kPaddedRows};
  c.key = {key, Layout::kTokensFirst};
  c.value = {value, Layout::kPaddedRows};
  c.seed = seed_from_test_name();
  return c;
}

// The same elements in f32.
void widen(const intflash_tensor& from, intflash_dtype dtype, const intflash_tensor& to,
           std::int64_t batch, std::int64_t heads, std::int64_t tokens, std::int64_t dim) {
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t token = 0; token < tokens; ++token)
        for (std::int64_t c = 0; c < dim; ++c)
          store_element(to, INTFLASH_F32, b, h, token, c,
                        static_cast<float>(element_of(from, dtype, b, h, token, c)));
}

CaseTensors widened_tensors(const AttentionCase& c, const CaseTensors& given, Memory& memory) {
  AttentionCase in_f32 = c;
  in_f32.query.dtype = in_f32.key.dtype = in_f32.value.dtype = INTFLASH_F32;
  CaseTensors made = make_tensors(in_f32, memory);
  widen(given.args.query, c.query.dtype, made.args.query, c.batch, c.num_kv_heads * c.group_size,
        c.query_len, c.head_dim);
  widen(given.args.key, c.key.dtype, made.args.key, c.batch, c.num_kv_heads, c.kv_len, c.head_dim);
  widen(given.args.value, c.value.dtype, made.args.value, c.batch, c.num_kv_heads, c.kv_len,
        c.head_dim_v);
  return made;
}

TEST(EightBitFormats, AttendAsTheirNumbersInF32OnEveryPort) {
  std::vector<AttentionCase> cases = {
      eight_bit_case(INTFLASH_F8_E4M3, INTFLASH_F8_E4M3, INTFLASH_F8_E4M3),
      eight_bit_case(INTFLASH_F8_E5M2, INTFLASH_F8_E5M2, INTFLASH_F8_E5M2),
      eight_bit_case(INTFLASH_F32, INTFLASH_F8_E4M3, INTFLASH_F8_E5M2),
      eight_bit_case(INTFLASH_F8_E5M2, INTFLASH_F32, INTFLASH_F8_E4M3),
      eight_bit_case(INTFLASH_F8_E4M3, INTFLASH_F8_E5M2, INTFLASH_INT8),
      eight_bit_case(INTFLASH_F8_E4M3, INTFLASH_F8_E4M3, INTFLASH_F8_E5M2),
      eight_bit_case(INTFLASH_F8_E5M2, INTFLASH_F8_E4M3, INTFLASH_F8_E4M3)};
  cases[1].center = INTFLASH_CENTER_KEY_VALUE;
  cases[1].rotate = true;
  cases[2].head_dim = cases[2].head_dim_v = 128;  // whole runs of 64 channels, nothing else
  cases[3].rotate = true;
  cases[4].value = {};  // f32
  cases[5].mode = INTFLASH_MODE_EXACT;
  cases[6].mode = INTFLASH_MODE_INTFA;
  for (const AttentionCase& c : cases) {
    Memory memory;
    CaseTensors given = make_tensors(c, memory);
    CaseTensors widened = widened_tensors(c, given, memory);
    for (const PortEntry& port : all_test_ports()) {
      RunOptions options;
      options.packed = c.mode == INTFLASH_MODE_INT8 && c.query.dtype == INTFLASH_F8_E5M2;
      const CaseResult found = run_tensors(given, port, options, memory);
      ASSERT_EQ(found.status, INTFLASH_OK) << found.error;
      EXPECT_EQ(difference(c, found, run_tensors(widened, port, options, memory)), "")
          << port.name << ": " << describe(c);
    }
  }
}

TEST(EightBitFormats, NanAndInfinityAreNamed) {
  AttentionCase c = eight_bit_case(INTFLASH_F8_E4M3, INTFLASH_F8_E5M2, INTFLASH_F8_E4M3);
  c.query.layout = c.key.layout = c.value.layout = Layout::kHeadsFirst;
  const auto expect_named = [&](intflash_tensor intflash_attend_args::*tensor, std::uint8_t code,
                                const char* words) {
    ApiCall call(c);
    const intflash_tensor& t = call.args().*tensor;
    static_cast<std::uint8_t*>(t.data)[t.stride_head + 3 * t.stride_token + 70] = code;
    call.expect_refused(INTFLASH_NONFINITE_INPUT, {words});
  };
  expect_named(&intflash_attend_args::query, 0xff, "query[batch 0][head 1][token 3][70] = nan");
  expect_named(&intflash_attend_args::key, 0xfc, "key[batch 0][head 1][token 3][70] = -inf");
  expect_named(&intflash_attend_args::key, 0x7e, "key[batch 0][head 1][token 3][70] = nan");
  expect_named(&intflash_attend_args::value, 0x7f, "value[batch 0][head 1][token 3][70] = nan");
}

}  // namespace

// ---- Caches ----

namespace serving {
namespace {

// Codes of numbers below 2, and the numbers.
struct Codes {
  Codes(intflash_dtype dtype, std::size_t count, Random& random) : codes(count) {
    for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random.below(256) & 0xbf);
    for (const std::uint8_t code : codes)
      numbers.push_back(static_cast<float>(eight_bit_value(dtype, code)));
  }
  std::vector<std::uint8_t> codes;
  std::vector<float> numbers;
};

std::vector<char> page_bytes(const Server& server, std::int32_t sequence) {
  const HostPages& host = host_pages(*server.cache());
  std::vector<char> bytes;
  for (const std::int32_t id : server.request_of(sequence).pages)
    bytes.insert(bytes.end(), host.page(0, id, 0), host.page(0, id, 0) + host.page_bytes);
  return bytes;
}

class EightBitTokens : public testing::Test {
 protected:
  static constexpr std::int64_t kTokens = 150;
  static constexpr intflash_dtype kKeys = INTFLASH_F8_E5M2, kOthers = INTFLASH_F8_E4M3;

  intflash_append_args args(const Server& server) {
    intflash_append_args args = server.append_args(tokens, 0);
    args.key_dtype = kKeys;
    args.value_dtype = kOthers;
    args.key.data = key.codes.data();
    args.value.data = value.codes.data();
    return args;
  }

  Shape shape;
  Random random{seed_from_test_name()};
  std::size_t elements = static_cast<std::size_t>(kTokens * shape.num_kv_heads * shape.head_dim);
  Codes key{kKeys, elements, random}, value{kOthers, elements, random};
  Codes query{kOthers, 2 * elements, random};
  Tokens tokens{query.numbers, key.numbers, value.numbers, kTokens};
};

TEST_F(EightBitTokens, AreStoredAndAttendedAsTheirNumbersInF32) {
  for (const bool rotate : {false, true}) {
    shape.rotate = shape.centered = rotate;
    Server server(shape);
    const std::int32_t from_codes = server.create_sequence();
    const std::int32_t from_numbers = server.create_sequence();
    ASSERT_EQ(server.append(from_codes, kTokens, args(server)), INTFLASH_OK)
        << intflash_last_error();
    ASSERT_EQ(server.append(from_numbers, tokens, 0, kTokens), INTFLASH_OK);
    EXPECT_EQ(page_bytes(server, from_codes), page_bytes(server, from_numbers)) << rotate;

    Request request = server.request_of(from_codes);
    request.query_len = kTokens;
    request.query = query.numbers.data();
    for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT}) {
      server.mode = mode;
      BatchCall call(shape, {request});
      call.desc.mode = mode;
      call.desc.query_dtype = kOthers;
      call.args.query.data = query.codes.data();
      ASSERT_EQ(call.make_plan(server.context(), server.cache()), INTFLASH_OK)
          << intflash_last_error();
      ASSERT_EQ(call.run(server.cache()), INTFLASH_OK) << intflash_last_error();
      EXPECT_EQ(call.results()[0], server.attend({request})[0]) << rotate << ' ' << mode;
    }
  }
}

TEST_F(EightBitTokens, ThatAreNotFiniteAreNamedAndNothingIsAppended) {
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  key.codes[static_cast<std::size_t>((3 * shape.num_kv_heads + 1) * shape.head_dim + 5)] = 0x7c;
  EXPECT_EQ(server.append(sequence, kTokens, args(server)), INTFLASH_NONFINITE_INPUT);
  EXPECT_NE(std::string(intflash_last_error()).find("key[request 0][token 3][head 1]"),
            std::string::npos)
      << intflash_last_error();
  EXPECT_EQ(server.free_pages(), shape.num_pages);
}

}  // namespace
}  // namespace serving
}  // namespace intflash::internal

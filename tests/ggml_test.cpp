// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Keys and values that come in ggml's blocks.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "api_call.h"
#include "attention_case.h"
#include "host/host_pages.h"
#include "random.h"
#include "seed.h"
#include "serving.h"
#include "test_ports.h"

namespace intflash::internal::serving {
namespace {

constexpr std::int64_t kBlock = 32;

// Rows of blocks, and what they stand for, by ggml's definition.
struct Blocks {
  std::vector<std::uint8_t> bytes;
  std::vector<float> elements;
};

// A half, and its value: normal ones, and now and then zero or a subnormal.
float add_half(Random& random, std::vector<std::uint8_t>& bytes) {
  const std::int64_t exponent = random.below(8) == 0 ? 0 : 8 + random.below(10);
  const std::int64_t fraction = exponent == 0 && random.below(2) == 0 ? 0 : random.below(1024);
  const bool negative = random.below(2) == 1;
  const std::int64_t bits = (negative ? 0x8000 : 0) | exponent << 10 | fraction;
  bytes.push_back(static_cast<std::uint8_t>(bits & 0xff));
  bytes.push_back(static_cast<std::uint8_t>(bits >> 8));
  const float significand = static_cast<float>(exponent == 0 ? fraction : 1024 + fraction);
  const float magnitude =
      std::ldexp(significand, static_cast<int>(std::max<std::int64_t>(exponent, 1) - 25));
  return negative ? -magnitude : magnitude;
}

Blocks random_blocks(intflash_dtype dtype, std::int64_t count, Random& random) {
  Blocks blocks;
  for (std::int64_t b = 0; b < count; ++b) {
    const float scale = add_half(random, blocks.bytes);
    float elements[kBlock];
    for (std::int64_t i = 0; i < (dtype == INTFLASH_Q8_0 ? kBlock : kBlock / 2); ++i) {
      const auto byte = static_cast<std::uint8_t>(random.below(256));
      blocks.bytes.push_back(byte);
      if (dtype == INTFLASH_Q8_0) {
        elements[i] = static_cast<float>(byte < 128 ? byte : byte - 256) * scale;
      } else {
        elements[i] = static_cast<float>(byte % 16 - 8) * scale;
        elements[i + kBlock / 2] = static_cast<float>(byte / 16 - 8) * scale;
      }
    }
    blocks.elements.insert(blocks.elements.end(), elements, elements + kBlock);
  }
  return blocks;
}

// The bytes of a sequence's pages.
std::vector<char> page_bytes(const Server& server, std::int32_t sequence) {
  const HostPages& host = host_pages(*server.cache());
  std::vector<char> bytes;
  for (const std::int32_t id : server.request_of(sequence).pages)
    bytes.insert(bytes.end(), host.page(0, id, 0), host.page(0, id, 0) + host.page_bytes);
  return bytes;
}

class GgmlBlocks : public testing::Test {
 protected:
  static constexpr std::int64_t kTokens = 150;

  // Tokens of blocks: keys of one type, values of the other.
  void make(const Shape& shape, intflash_dtype key_dtype) {
    Random random(seed_from_test_name());
    value_dtype = key_dtype == INTFLASH_Q8_0 ? INTFLASH_Q4_0 : INTFLASH_Q8_0;
    key = random_blocks(key_dtype, kTokens * shape.num_kv_heads * shape.head_dim / kBlock, random);
    value = random_blocks(value_dtype, kTokens * shape.num_kv_heads * shape.head_dim_v / kBlock,
                          random);
    widened.key = key.elements;
    widened.value = value.elements;
    widened.count = kTokens;
  }
  intflash_append_args args(const Server& server, intflash_dtype key_dtype) {
    intflash_append_args args = server.append_args(widened, 0);
    args.key_dtype = key_dtype;
    args.value_dtype = value_dtype;
    args.key.data = key.bytes.data();
    args.value.data = value.bytes.data();
    return args;
  }

  intflash_dtype value_dtype{};
  Blocks key, value;
  Tokens widened;
};

TEST_F(GgmlBlocks, GetTheCodesOfTheirElementsOnEveryPort) {
  for (const PortEntry& port : all_test_ports()) {
    for (const intflash_dtype dtype : {INTFLASH_Q8_0, INTFLASH_Q4_0}) {
      for (const bool centered : {false, true}) {
        Shape shape;
        shape.head_dim = 96;
        shape.head_dim_v = 64;
        shape.port = &port;
        shape.centered = shape.rotate = centered;
        Server server(shape);
        make(shape, dtype);
        const std::int32_t from_blocks = server.create_sequence();
        const std::int32_t from_elements = server.create_sequence();
        ASSERT_EQ(server.append(from_blocks, kTokens, args(server, dtype)), INTFLASH_OK)
            << intflash_last_error();
        ASSERT_EQ(server.append(from_elements, widened, 0, kTokens), INTFLASH_OK);
        EXPECT_EQ(page_bytes(server, from_blocks), page_bytes(server, from_elements))
            << port.name << " dtype " << dtype << " centered " << centered;
      }
    }
  }
}

TEST_F(GgmlBlocks, InfiniteScalesAreNamedAndNothingIsAppended) {
  Shape shape;
  Server server(shape);
  make(shape, INTFLASH_Q8_0);
  // Token 3, head 1: a row of 32 channels is one block of 34 bytes.
  const std::size_t block = (3 * 2 + 1) * 34;
  key.bytes[block] = 0;
  key.bytes[block + 1] = 0x7c;
  key.bytes[block + 2 + 5] = 1;
  const std::int32_t sequence = server.create_sequence();
  EXPECT_EQ(server.append(sequence, kTokens, args(server, INTFLASH_Q8_0)),
            INTFLASH_NONFINITE_INPUT);
  EXPECT_NE(std::string(intflash_last_error()).find("key[request 0][token 3][head 1]"),
            std::string::npos)
      << intflash_last_error();
  EXPECT_EQ(server.free_pages(), shape.num_pages);
}

TEST_F(GgmlBlocks, RowsThatAreNotWholeBlocksAreRefused) {
  Shape shape;
  Server server(shape);
  make(shape, INTFLASH_Q8_0);
  const std::int32_t sequence = server.create_sequence();
  const intflash_append_args good = args(server, INTFLASH_Q8_0);
  intflash_append_args bad = good;
  bad.key.stride_head = 40;
  EXPECT_EQ(server.append(sequence, 1, bad), INTFLASH_BAD_STRIDE);
  bad = good;
  bad.value.stride_token = 65;
  EXPECT_EQ(server.append(sequence, 1, bad), INTFLASH_BAD_STRIDE);
  bad = good;
  bad.key_dtype = INTFLASH_INT8;
  EXPECT_EQ(server.append(sequence, 1, bad), INTFLASH_INVALID_ARGUMENT);
  bad.key_dtype = static_cast<intflash_dtype>(7);
  EXPECT_EQ(server.append(sequence, 1, bad), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(server.append(sequence, 1, good), INTFLASH_OK) << intflash_last_error();

  shape.head_dim = 40;
  Server uneven(shape);
  EXPECT_EQ(uneven.append(uneven.create_sequence(), 1, good), INTFLASH_BAD_SHAPE);
}

TEST_F(GgmlBlocks, AreRefusedWhereverElseATypeIsNamed) {
  Shape shape;
  Server server(shape);
  intflash_request request{};
  intflash_batch_desc batch{};
  batch.struct_size = sizeof batch;
  batch.request_size = sizeof(intflash_request);
  batch.num_requests = 1;
  batch.requests = &request;
  batch.num_query_heads = shape.num_query_heads();
  batch.query_dtype = INTFLASH_Q8_0;
  batch.out_dtype = INTFLASH_F32;
  intflash_plan* plan = nullptr;
  EXPECT_EQ(intflash_plan_batch(server.context(), server.cache(), &batch, &plan),
            INTFLASH_INVALID_ARGUMENT);
  intflash_attend_desc dense{};
  dense.struct_size = sizeof dense;
  dense.batch = dense.num_query_heads = dense.num_kv_heads = 1;
  dense.query_len = dense.kv_len = 1;
  dense.head_dim = 32;
  dense.key_dtype = dense.value_dtype = dense.out_dtype = INTFLASH_F32;
  dense.query_dtype = INTFLASH_Q4_0;
  EXPECT_EQ(intflash_query_support(server.context(), &dense, nullptr), INTFLASH_INVALID_ARGUMENT);
  EXPECT_NE(std::string(intflash_last_error()).find("query_dtype = 6"), std::string::npos)
      << intflash_last_error();
}

// A dense call whose keys and values stand ready as blocks and as their elements.
struct DenseBlocks {
  explicit DenseBlocks(const AttentionCase& c)
      : key(random_blocks(key_type(c), c.batch * c.num_kv_heads * c.kv_len * c.head_dim / kBlock,
                          random)),
        value(random_blocks(value_type(c),
                            c.batch * c.num_kv_heads * c.kv_len * c.head_dim_v / kBlock, random)) {}

  static bool has_blocks(intflash_dtype dtype) {
    return dtype == INTFLASH_Q8_0 || dtype == INTFLASH_Q4_0;
  }
  static intflash_dtype key_type(const AttentionCase& c) {
    return has_blocks(c.key.dtype) ? c.key.dtype : INTFLASH_Q8_0;
  }
  static intflash_dtype value_type(const AttentionCase& c) {
    return has_blocks(c.value.dtype) ? c.value.dtype : INTFLASH_Q8_0;
  }

  // Tensors of a case whose types of key and value may be ggml's, tokens first.
  CaseTensors tensors(AttentionCase c, bool as_blocks, Memory& memory) {
    const intflash_dtype key_dtype = c.key.dtype;
    const intflash_dtype value_dtype = c.value.dtype;
    c.key = c.value = {INTFLASH_F32, Layout::kTokensFirst};
    CaseTensors made = make_tensors(c, memory);
    const bool key_blocks = as_blocks && has_blocks(key_dtype);
    const bool value_blocks = as_blocks && has_blocks(value_dtype);
    if (key_blocks) made.desc.key_dtype = key_dtype;
    if (value_blocks) made.desc.value_dtype = value_dtype;
    made.args.key.data = key_blocks ? static_cast<void*>(key.bytes.data()) : key.elements.data();
    made.args.value.data =
        value_blocks ? static_cast<void*>(value.bytes.data()) : value.elements.data();
    return made;
  }

  Random random{seed_from_test_name()};
  Blocks key, value;
};

AttentionCase dense_case(intflash_dtype key_dtype, intflash_dtype value_dtype) {
  AttentionCase c;
  c.batch = 2;
  c.num_kv_heads = 2;
  c.group_size = 3;
  c.query_len = 9;
  c.kv_len = 150;
  c.head_dim = 96;
  c.head_dim_v = 64;
  c.key.dtype = key_dtype;
  c.value.dtype = value_dtype;
  return c;
}

// The three modes, with and without what the int8 one does to keys and values first.
std::vector<AttentionCase> dense_cases(intflash_dtype key_dtype, intflash_dtype value_dtype) {
  std::vector<AttentionCase> cases(4, dense_case(key_dtype, value_dtype));
  cases[0].center = INTFLASH_CENTER_NONE;
  cases[1].center = INTFLASH_CENTER_KEY_VALUE;
  cases[1].rotate = true;
  cases[2].mode = INTFLASH_MODE_EXACT;
  cases[3].mode = INTFLASH_MODE_INTFA;
  return cases;
}

TEST(DenseGgmlBlocks, AttendAsTheirElementsOnEveryPort) {
  const std::pair<intflash_dtype, intflash_dtype> types[] = {{INTFLASH_Q8_0, INTFLASH_Q8_0},
                                                             {INTFLASH_Q4_0, INTFLASH_Q4_0},
                                                             {INTFLASH_Q8_0, INTFLASH_Q4_0},
                                                             {INTFLASH_Q4_0, INTFLASH_F32},
                                                             {INTFLASH_F32, INTFLASH_Q8_0}};
  for (const auto& [key_dtype, value_dtype] : types) {
    for (const AttentionCase& c : dense_cases(key_dtype, value_dtype)) {
      DenseBlocks input(c);
      for (const PortEntry& port : all_test_ports()) {
        Memory memory;
        CaseTensors of_blocks = input.tensors(c, true, memory);
        CaseTensors of_elements = input.tensors(c, false, memory);
        const CaseResult found = run_tensors(of_blocks, port, {}, memory);
        ASSERT_EQ(found.status, INTFLASH_OK) << found.error;
        EXPECT_EQ(difference(c, found, run_tensors(of_elements, port, {}, memory)), "")
            << port.name << ": " << describe(c);
      }
    }
  }
}

TEST(DenseGgmlBlocks, RowsThatAreNotWholeBlocksAreRefused) {
  const AttentionCase c = dense_case(INTFLASH_Q8_0, INTFLASH_Q4_0);
  DenseBlocks input(c);
  const auto expect_refused = [&](intflash_status status, const char* word, auto spoil) {
    ApiCall call(c);
    call.tensors = input.tensors(c, true, call.memory);
    spoil(call);
    call.expect_refused(status, {word});
  };
  expect_refused(INTFLASH_BAD_STRIDE, "key.stride_token",
                 [](ApiCall& call) { call.args().key.stride_token += 8; });
  expect_refused(INTFLASH_BAD_STRIDE, "key.stride_head",
                 [](ApiCall& call) { call.args().key.stride_head = 16; });
  expect_refused(INTFLASH_BAD_STRIDE, "value.stride_batch",
                 [](ApiCall& call) { call.args().value.stride_batch += 1; });
  expect_refused(INTFLASH_BAD_SHAPE, "value: rows of 56 channels",
                 [](ApiCall& call) { call.desc().head_dim_v = 56; });
  expect_refused(INTFLASH_INVALID_ARGUMENT, "out_dtype = 5",
                 [](ApiCall& call) { call.desc().out_dtype = INTFLASH_Q8_0; });
}

TEST(DenseGgmlBlocks, InfiniteScalesAreNamed) {
  const AttentionCase c = dense_case(INTFLASH_Q8_0, INTFLASH_Q4_0);
  DenseBlocks input(c);
  // Batch 0, token 3, head 1: values of 64 channels are two blocks of 18 bytes.
  const std::size_t block = static_cast<std::size_t>((3 * 2 + 1) * 2 + 1) * 18;
  input.value.bytes[block] = 0;
  input.value.bytes[block + 1] = 0x7c;
  input.value.bytes[block + 2] = 0x99;
  ApiCall call(c);
  call.tensors = input.tensors(c, true, call.memory);
  call.expect_refused(INTFLASH_NONFINITE_INPUT, {"value[batch 0][head 1][token 3][32]"});
}

}  // namespace
}  // namespace intflash::internal::serving

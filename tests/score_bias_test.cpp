// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Masks that are data: additive masks, ALiBi, and bits of the last keys. Their numbers are tested
// with the other cases of attention (CaseBias); here is what they must not change, and what is
// refused.
#include "inputs/score_bias.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "api_call.h"
#include "serving.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

// A case whose queries see the same keys by rule and by data.
AttentionCase causal_case() {
  AttentionCase c;
  c.num_kv_heads = 2;
  c.group_size = 3;
  c.query_len = 70;
  c.kv_len = 1300;
  c.mask = INTFLASH_MASK_CAUSAL;
  c.center = INTFLASH_CENTER_NONE;
  return c;
}

struct Drawn {
  std::vector<float> f32;
  std::vector<std::uint16_t> f16;
};
// A mask of zeros where the queries of c see keys, and of hidden in f32 elsewhere.
Drawn draw_causal(const AttentionCase& c, float hidden) {
  const std::uint16_t hidden_f16 = hidden == -FLT_MAX ? 0xfbff : 0xfc00;
  Drawn drawn;
  for (std::int64_t i = 0; i < c.query_len; ++i) {
    for (std::int64_t j = 0; j < c.kv_len; ++j) {
      const bool seen = j <= c.kv_len - c.query_len + i;
      drawn.f32.push_back(seen ? 0.0f : hidden);
      drawn.f16.push_back(seen ? 0 : hidden_f16);
    }
  }
  return drawn;
}

CaseResult run_with(const AttentionCase& c, const intflash_additive_mask& mask,
                    const PortEntry& port) {
  Memory memory;
  CaseTensors tensors = make_tensors(c, memory);
  tensors.args.additive_mask = mask;
  return run_tensors(tensors, port, {}, memory);
}

TEST(ScoreBias, AMaskOfZerosAndHiddenKeysIsTheMaskThatItDraws) {
  const AttentionCase causal = causal_case();
  AttentionCase open = causal;
  open.mask = INTFLASH_MASK_NONE;
  for (const float hidden : {-INFINITY, -FLT_MAX}) {
    const Drawn drawn = draw_causal(causal, hidden);
    for (const PortEntry& port : all_test_ports()) {
      const CaseResult expected = run_case(causal, port);
      intflash_additive_mask mask{};
      mask.stride_query = causal.kv_len;
      mask.data = drawn.f32.data();
      mask.dtype = INTFLASH_F32;
      EXPECT_EQ(difference(causal, run_with(open, mask, port), expected), "") << port.name;
      mask.data = drawn.f16.data();
      mask.dtype = INTFLASH_F16;
      EXPECT_EQ(difference(causal, run_with(open, mask, port), expected), "") << port.name;
    }
  }
}

TEST(ScoreBias, AMaskOfZerosChangesNoBitOfALiBiOverTheLeastScores) {
  AttentionCase c = causal_case();
  c.mask = INTFLASH_MASK_NONE;
  c.kv_len = 64;
  c.query_len = 64;
  c.bias = CaseBias::kAlibi;
  c.query.magnitude = c.key.magnitude = 6e-16;
  c.softmax_scale = 1e-15f;  // scores around the least number of f32
  // Two keys are hidden in the middle, by bits and by elements: no run of keys is left without any.
  const std::uint64_t word = ~(std::uint64_t{1} << 20 | std::uint64_t{1} << 40);
  const std::vector<std::uint64_t> words(64, word);
  std::vector<float> elements(64, 0.0f);
  elements[20] = elements[40] = -INFINITY;
  for (const PortEntry& port : all_test_ports()) {
    Memory memory;
    CaseTensors tensors = make_tensors(c, memory);
    tensors.args.bit_mask = {words.data(), 64};
    const CaseResult expected = run_tensors(tensors, port, {}, memory);
    tensors.args.bit_mask = {};
    tensors.args.additive_mask.data = elements.data();
    tensors.args.additive_mask.dtype = INTFLASH_F32;
    EXPECT_EQ(difference(c, run_tensors(tensors, port, {}, memory), expected), "") << port.name;
  }
}

// A mask in bytes or bf16, and in f32, of what either can say.
struct TwoMasks {
  std::vector<std::uint8_t> bytes;
  std::vector<std::uint16_t> bf16;
  std::vector<float> of_bytes, of_bf16;
};
TwoMasks random_masks(const AttentionCase& c) {
  std::mt19937 random(5);
  TwoMasks masks;
  for (std::int64_t i = 0; i < c.query_len * c.kv_len; ++i) {
    const bool kept = random() % 3 != 0;
    masks.bytes.push_back(kept ? static_cast<std::uint8_t>(1 + random() % 255) : 0);
    masks.of_bytes.push_back(kept ? 0.0f : -INFINITY);
    const std::uint32_t number = 0x3e00 + random() % 0x200;  // 0.125 ... 2
    const std::uint32_t half = !kept               ? random() % 2 == 0 ? 0xff7f : 0xff80
                               : random() % 2 == 0 ? 0
                                                   : number | (random() % 2) << 15;
    masks.bf16.push_back(static_cast<std::uint16_t>(half));
    masks.of_bf16.push_back(kept ? std::bit_cast<float>(half << 16) : -INFINITY);
  }
  return masks;
}

TEST(ScoreBias, MasksInBytesAndBf16AreThoseInF32) {
  AttentionCase c = causal_case();
  c.query_len = 20;
  c.kv_len = 333;
  const TwoMasks masks = random_masks(c);
  const float slopes[] = {0.5f, 0, 0.25f, 0.125f, 1, 0.0625f};
  const float factors[] = {1, 2, 0.5f, -1, 0, 3};
  const auto run = [&](const void* data, intflash_dtype dtype, const float* alibi,
                       const PortEntry& port) {
    Memory memory;
    CaseTensors tensors = make_tensors(c, memory);
    tensors.args.additive_mask = {data, dtype, 0, 0, c.kv_len, factors};
    tensors.args.alibi_slopes = alibi;
    return run_tensors(tensors, port, {}, memory);
  };
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT}) {
    c.mode = mode;
    for (const PortEntry& port : all_test_ports()) {
      for (const float* alibi : {static_cast<const float*>(nullptr), slopes}) {
        const CaseResult bytes = run(masks.of_bytes.data(), INTFLASH_F32, alibi, port);
        ASSERT_EQ(bytes.status, INTFLASH_OK) << bytes.error;
        EXPECT_EQ(difference(c, run(masks.bytes.data(), INTFLASH_BOOL, alibi, port), bytes), "")
            << port.name;
        const CaseResult bf16 = run(masks.of_bf16.data(), INTFLASH_F32, alibi, port);
        ASSERT_EQ(bf16.status, INTFLASH_OK) << bf16.error;
        EXPECT_EQ(difference(c, run(masks.bf16.data(), INTFLASH_BF16, alibi, port), bf16), "")
            << port.name;
      }
    }
  }
}

TEST(ScoreBias, BadElementsInBf16AreNamed) {
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT}) {
    for (const std::uint16_t bad : {0x7f80, 0x7f81, 0xff81}) {
      ApiCall call;
      std::vector<std::uint16_t> mask(5 * 7);
      mask[2 * 7 + 6] = bad;
      call.desc().mode = mode;
      call.args().additive_mask = {mask.data(), INTFLASH_BF16, 0, 0, 7, nullptr};
      call.expect_refused(INTFLASH_NONFINITE_INPUT,
                          {"additive_mask[batch 0][head 0][query 2][key 6]"});
    }
  }
}

// As caches of a fixed size are attended: what is hidden behind the keys might as well not be
// there.
TEST(ScoreBias, AHiddenTailIsAShorterCall) {
  AttentionCase whole = causal_case();
  whole.mask = INTFLASH_MASK_NONE;
  whole.query_len = 2;
  whole.key.layout = whole.value.layout = Layout::kTokensFirst;
  for (const std::int64_t length : {1, 30, 63, 64, 65, 127, 128, 129, 1000, 1025}) {
    const std::vector<float> row = [&] {
      std::vector<float> elements(static_cast<std::size_t>(whole.kv_len), 0.0f);
      std::fill(elements.begin() + length, elements.end(), -INFINITY);
      return elements;
    }();
    for (const PortEntry& port : all_test_ports()) {
      Memory memory;
      CaseTensors tensors = make_tensors(whole, memory);
      tensors.args.additive_mask = {row.data(), INTFLASH_F32, 0, 0, 0, nullptr};
      const CaseResult masked = run_tensors(tensors, port, {}, memory);
      tensors.args.additive_mask = {};
      tensors.desc.kv_len = length;
      EXPECT_EQ(difference(whole, masked, run_tensors(tensors, port, {}, memory)), "")
          << port.name << " length " << length;
    }
  }
}

TEST(ScoreBias, BatchesMayHideDifferentTails) {
  AttentionCase c = causal_case();
  c.mask = INTFLASH_MASK_NONE;
  c.query_len = 2;
  c.batch = 3;
  const std::int64_t lengths[] = {700, 0, 130};
  std::vector<std::uint16_t> elements(static_cast<std::size_t>(3 * c.kv_len), 0xfc00);
  for (std::int64_t b = 0; b < 3; ++b)
    std::fill_n(elements.begin() + b * c.kv_len, lengths[b], std::uint16_t{0});
  for (const PortEntry& port : all_test_ports()) {
    Memory memory;
    CaseTensors tensors = make_tensors(c, memory);
    tensors.args.additive_mask = {elements.data(), INTFLASH_F16, c.kv_len, 0, 0, nullptr};
    const CaseResult together = run_tensors(tensors, port, {}, memory);
    std::memset(tensors.out, CaseTensors::kPoison, tensors.out_bytes);
    for (std::int64_t b = 0; b < 3; ++b) {
      CaseTensors one = tensors;
      one.desc.batch = 1;
      one.desc.kv_len = lengths[b];
      one.args.additive_mask = {};
      for (intflash_tensor* tensor : {&one.args.query, &one.args.key, &one.args.value})
        tensor->data = static_cast<float*>(tensor->data) + b * tensor->stride_batch;
      one.args.out.data = static_cast<float*>(one.args.out.data) + b * one.args.out.stride_batch;
      one.args.lse = nullptr;
      one.lse_count = 0;
      ASSERT_EQ(run_tensors(one, port, {}, memory).status, INTFLASH_OK) << intflash_last_error();
    }
    EXPECT_EQ(std::memcmp(tensors.out, together.out.data(), together.out.size()), 0) << port.name;
  }
}

TEST(ScoreBias, ATreeThatIsAChainIsTheCausalMask) {
  AttentionCase causal = causal_case();
  for (const std::int64_t num_keys : {70, 100, 1300}) {
    AttentionCase open = causal;
    open.mask = INTFLASH_MASK_NONE;
    const std::int64_t words = (num_keys + 63) / 64;
    std::vector<std::uint64_t> bits(static_cast<std::size_t>(causal.query_len * words));
    for (std::int64_t i = 0; i < causal.query_len; ++i) {
      for (std::int64_t bit = 0; bit <= num_keys - causal.query_len + i; ++bit)
        bits[static_cast<std::size_t>(i * words + bit / 64)] |= std::uint64_t{1} << (bit % 64);
    }
    Memory memory;
    CaseTensors tensors = make_tensors(open, memory);
    tensors.args.bit_mask = {bits.data(), num_keys};
    EXPECT_EQ(difference(causal, run_tensors(tensors, scalar_port(), {}, memory),
                         run_case(causal, scalar_port())),
              "")
        << num_keys;
  }
}

TEST(ScoreBias, HiddenKeysMayHoldAnythingFinite) {
  AttentionCase c = causal_case();
  c.bias = CaseBias::kHiding;
  Memory memory;
  CaseTensors tensors = make_tensors(c, memory);
  const intflash_attend_args& args = tensors.args;
  auto* mask = static_cast<std::uint16_t*>(const_cast<void*>(args.additive_mask.data));
  for (std::int64_t j = 3; j < c.kv_len; j += 7) {
    for (std::int64_t i = 0; i < c.query_len; ++i)
      mask[i * args.additive_mask.stride_query + j] = 0xfc00;
  }
  const CaseResult expected = run_tensors(tensors, scalar_port(), {}, memory);
  ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error;
  for (std::int64_t j = 3; j < c.kv_len; j += 7) {
    for (std::int64_t h = 0; h < c.num_kv_heads; ++h) {
      const auto change = [&](const intflash_tensor& tensor, float x) {
        static_cast<float*>(tensor.data)[h * tensor.stride_head + j * tensor.stride_token] = x;
      };
      change(args.key, 1e4f);
      change(args.value, -3e4f);
    }
  }
  for (const PortEntry& port : all_test_ports())
    EXPECT_EQ(difference(c, run_tensors(tensors, port, {}, memory), expected), "") << port.name;
}

// Rows of one tile may have plain scores, biased ones and none at all.
TEST(ScoreBias, ARowsBitsDoNotDependOnTheOthersMasks) {
  AttentionCase c = causal_case();
  c.bias = CaseBias::kAdditive;
  Memory memory;
  CaseTensors tensors = make_tensors(c, memory);
  const CaseResult whole = run_tensors(tensors, scalar_port(), {}, memory);
  const Numbers all = numbers_of(c, whole);
  for (const std::int64_t i : {0, 1, 33, 69}) {
    AttentionCase one = c;
    one.query_len = 1;
    one.kv_len = c.kv_len - c.query_len + 1 + i;
    intflash_attend_args args = tensors.args;
    args.query.data = static_cast<float*>(args.query.data) + i * args.query.stride_token;
    args.additive_mask.data =
        static_cast<const float*>(args.additive_mask.data) + i * args.additive_mask.stride_query;
    CaseTensors row = make_tensors(one, memory);
    args.out = row.args.out;
    args.lse = row.args.lse;
    row.args = args;
    const Numbers found = numbers_of(one, run_tensors(row, scalar_port(), {}, memory));
    for (std::int64_t h = 0; h < 6; ++h) {
      for (std::int64_t channel = 0; channel < c.head_dim_v; ++channel) {
        ASSERT_EQ(found.out[static_cast<std::size_t>(h * c.head_dim_v + channel)],
                  all.out[static_cast<std::size_t>((h * c.query_len + i) * c.head_dim_v + channel)])
            << "query " << i << " head " << h;
      }
    }
  }
}

TEST(ScoreBias, HugeBiasesStayFinite) {
  AttentionCase c = causal_case();
  c.query_len = 3;
  std::vector<float> mask(static_cast<std::size_t>(3 * c.kv_len));
  std::mt19937 random(5);
  for (float& x : mask)
    x = std::ldexp(random() % 2 == 0 ? 1.0f : -1.0f, static_cast<int>(random() % 128));
  for (std::size_t j = 0; j < 200; ++j) mask[j] = -1e9f;
  const intflash_additive_mask additive = {mask.data(), INTFLASH_F32, 0, 0, c.kv_len, nullptr};
  const CaseResult expected = run_with(c, additive, scalar_port());
  EXPECT_EQ(expected.status, INTFLASH_OK) << expected.error;
  const Numbers numbers = numbers_of(c, expected);
  for (const double x : numbers.out) EXPECT_TRUE(std::isfinite(x));
  for (const double x : numbers.lse) EXPECT_TRUE(std::isfinite(x));
  for (const PortEntry& port : all_test_ports())
    EXPECT_EQ(difference(c, run_with(c, additive, port), expected), "") << port.name;
}

TEST(ScoreBias, KeepWordsFollowTheDefinitionKeyByKey) {
  std::mt19937 random(9);
  for (const std::int64_t kv_begin : {0, 64, 192}) {
    for (const std::int64_t kv_len : {200, 257, 390}) {
      for (const std::int64_t num_bits :
           {std::int64_t{0}, std::int64_t{1}, std::int64_t{64}, std::int64_t{100}, kv_len}) {
        std::vector<float> elements(static_cast<std::size_t>(kv_len - kv_begin));
        for (float& x : elements)
          x = random() % 3 == 0 ? -INFINITY : random() % 2 == 0 ? 0.0f : 1.0f;
        std::vector<std::uint64_t> bits(static_cast<std::size_t>((num_bits + 63) / 64 + 1));
        for (std::uint64_t& word : bits) word = random() | std::uint64_t{random()} << 32;
        ScoreBias bias{};
        bias.additive = {elements.data(), INTFLASH_F32, 0, 0, 0, nullptr};
        bias.bits = {bits.data(), num_bits};
        bias.rule = {1, kv_begin, kv_len, -1, -1, 0, 0};
        const BiasRow row = bias_row(bias, 0, 0, 0);
        for (std::int64_t first = kv_begin / 128 * 128; first < kv_len; first += 128) {
          std::uint64_t keep[2] = {keep_word({kv_begin, kv_len}, first),
                                   keep_word({kv_begin, kv_len}, first + 64)};
          const bool biased = mask_row(*scalar_port().kernels, row, bit_row(bias, 0), first, keep);
          bool any_bias = false;
          for (std::int64_t key = first; key < first + 128; ++key) {
            const bool present = key >= kv_begin && key < kv_len;
            const double expected = present ? bias_of_key(bias, 0, 0, 0, key) : -INFINITY;
            const bool kept = (keep[(key - first) / 64] >> (key % 64) & 1) != 0;
            ASSERT_EQ(kept, expected > -INFINITY) << key << " of " << kv_begin << " ... " << kv_len;
            any_bias |= kept && expected != 0;
          }
          EXPECT_EQ(biased, any_bias);
        }
      }
    }
  }
}

TEST(ScoreBias, PlainKeysAreTheOneRunThatIsLeftWithNothingAdded) {
  std::mt19937 random(4);
  for (int i = 0; i < 3000; ++i) {
    const std::int64_t kv_begin = random() % 2 * 64;
    const std::int64_t count = 1 + random() % (i % 2 == 0 ? 70 : 300);
    const std::int64_t begin = random() % count;
    const std::int64_t end = begin + random() % (count - begin + 1);
    std::vector<float> elements(static_cast<std::size_t>(count), -INFINITY);
    for (std::int64_t k = begin; k < end; ++k) elements[static_cast<std::size_t>(k)] = 0.0f;
    bool is_plain = true;
    // One more element that is hidden, seen or added to, wherever it is.
    if (i % 3 != 0) {
      const float changed[] = {-FLT_MAX, 0.0f, -1.0f};
      elements[random() % elements.size()] = changed[random() % 3];
      std::int64_t runs = 0;
      for (std::size_t k = 0; k < elements.size(); ++k) {
        const bool seen = elements[k] > -FLT_MAX;
        is_plain &= !seen || elements[k] == 0.0f;
        runs += seen && (k == 0 || elements[k - 1] <= -FLT_MAX) ? 1 : 0;
      }
      is_plain &= runs <= 1;
    }
    std::vector<std::uint16_t> halves;
    for (const float x : elements)
      halves.push_back(x == 0.0f ? 0 : x == -1.0f ? 0xbc00 : x == -FLT_MAX ? 0xfbff : 0xfc00);
    ScoreBias bias{};
    bias.additive = {elements.data(), INTFLASH_F32, 0, 0, 0, nullptr};
    if (i % 2 == 0) bias.additive = {halves.data(), INTFLASH_F16, 0, 0, 0, nullptr};
    bias.rule = {1, kv_begin, kv_begin + count, -1, -1, 0, 0};
    ScoreBias by_head = bias;
    by_head.additive.stride_head = 1;
    for (const PortEntry& port : all_test_ports()) {
      EXPECT_LT(plain_keys(*port.kernels, by_head, 0, 0).begin, 0);
      const KeyRange keys = plain_keys(*port.kernels, bias, 0, 0);
      ASSERT_EQ(keys.begin >= 0, is_plain) << i;
      for (std::int64_t k = 0; is_plain && k < count; ++k) {
        const std::int64_t key = kv_begin + k;
        const bool seen = elements[static_cast<std::size_t>(k)] > -FLT_MAX;
        ASSERT_EQ(key >= keys.begin && key < keys.end, seen) << i << " key " << key;
      }
    }
  }
}

// ---- Batches ----

using serving::page_range;
using serving::Request;
using serving::Server;
using serving::Shape;
using serving::Tokens;

std::vector<float> random_mask(std::int64_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> mask(static_cast<std::size_t>(count));
  for (float& x : mask) x = random() % 4 == 0 ? -INFINITY : normal(random);
  return mask;
}

TEST(ScoreBias, BatchesGiveTheDenseCallsBitsWhateverTheThreads) {
  Shape shape;
  shape.num_pages = 200;
  shape.centered = true;
  shape.slopes = {0.5f, 0, 0.25f, 0.01f};
  const std::int64_t lengths[] = {5000, 90, 1500};
  const std::int64_t query_lens[] = {1, 90, 33};
  for (const std::int32_t threads : {1, 5}) {
    shape.num_threads = threads;
    Server server(shape);
    std::vector<Tokens> tokens;
    std::vector<std::vector<float>> masks;
    std::vector<std::vector<std::uint64_t>> bits;
    std::vector<Request> requests;
    std::int32_t next_page = 0;
    for (std::uint32_t r = 0; r < 3; ++r) {
      tokens.push_back(random_tokens(shape, lengths[r], r));
      masks.push_back(random_mask(lengths[r] * query_lens[r] * 4, r));
      bits.emplace_back(static_cast<std::size_t>(2 * query_lens[r]), 0x5a5a'1234'9876'ffffu);
      Request request;
      request.pages = page_range(next_page, (lengths[r] + 63) / 64);
      next_page += static_cast<std::int32_t>(request.pages.size());
      server.append(tokens[r], 0, lengths[r], request.pages);
      request.query_len = query_lens[r];
      request.kv_len = lengths[r];
      request.query = tokens[r].query.data();
      if (r != 1)
        request.additive = {masks[r].data(), INTFLASH_F32, 0, lengths[r] * query_lens[r],
                            lengths[r],      nullptr};
      if (r != 2) request.bits = {bits[r].data(), std::min<std::int64_t>(lengths[r], 80)};
      requests.push_back(request);
    }
    const std::vector<serving::Result> together = server.attend(requests);
    const std::vector<serving::Result> by_tasks = server.attend_by_tasks(requests, 3);
    for (std::size_t r = 0; r < 3; ++r) {
      const serving::Result alone = server.attend_dense(tokens[r], requests[r]);
      EXPECT_EQ(together[r], alone) << "request " << r << " threads " << threads;
      EXPECT_EQ(by_tasks[r], alone) << "request " << r << " threads " << threads;
    }
  }
}

TEST(ScoreBias, MasksOfDroppedPagesCountFromTheFirstKeyLeft) {
  Shape shape;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 400, 8);
  const std::int32_t sequence = server.create_sequence();
  ASSERT_EQ(server.append(sequence, tokens, 0, 400), INTFLASH_OK);
  const std::vector<float> mask = random_mask(400, 1);
  Request whole = server.request_of(sequence);
  whole.query = tokens.query.data();
  std::vector<float> hidden(mask);
  for (std::size_t j = 0; j < 192; ++j) hidden[j] = -INFINITY;
  whole.additive = {hidden.data(), INTFLASH_F32, 0, 0, 400, nullptr};
  const serving::Result expected = server.attend({whole})[0];
  ASSERT_EQ(intflash_sequence_drop_before(server.cache(), sequence, 192), INTFLASH_OK);
  Request rest = server.request_of(sequence);
  ASSERT_EQ(rest.first_key_position, 192);
  rest.query = tokens.query.data();
  rest.additive = {mask.data() + 192, INTFLASH_F32, 0, 0, 208, nullptr};
  EXPECT_EQ(server.attend({rest})[0], expected);
}

TEST(ScoreBias, BadElementsInABatchAreNamed) {
  Shape shape;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 100, 8);
  server.append(tokens, 0, 100, page_range(0, 2));
  std::vector<float> mask = random_mask(2 * 100, 1);
  for (const float bad : {NAN, INFINITY}) {
    mask[100 + 37] = bad;
    std::vector<Request> requests(2);
    for (Request& request : requests) {
      request.kv_len = 100;
      request.pages = page_range(0, 2);
      request.query = tokens.query.data();
    }
    requests[1].query_len = 2;
    requests[1].additive = {mask.data(), INTFLASH_F32, 0, 0, 100, nullptr};
    EXPECT_EQ(server.status_of(requests), INTFLASH_NONFINITE_INPUT);
    const std::string message = intflash_last_error();
    EXPECT_NE(message.find("additive_masks[1][batch 0][head 0][query 1][key 37]"),
              std::string::npos)
        << message;
  }
}

// ---- What is refused ----

struct MaskedCall : ApiCall {
  MaskedCall() : mask(2 * 4 * 5 * 7) {
    args().additive_mask = {mask.data(), INTFLASH_F32, 140, 35, 7, nullptr};
  }
  std::vector<float> mask;
};

TEST(ScoreBias, BadElementsAreRefusedByBothModes) {
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT}) {
    for (const float bad : {NAN, INFINITY}) {
      MaskedCall call;
      call.desc().mode = mode;
      call.mask[140 + 2 * 35 + 3 * 7 + 4] = bad;
      call.expect_refused(INTFLASH_NONFINITE_INPUT,
                          {"additive_mask[batch 1][head 2][query 3][key 4]"});
    }
  }
}

TEST(ScoreBias, BadDescriptionsAreRefused) {
  {
    MaskedCall call;
    call.args().additive_mask.dtype = INTFLASH_INT8;
    call.expect_refused(INTFLASH_INVALID_ARGUMENT, {"additive_mask.dtype = 4"});
  }
  {
    MaskedCall call;
    call.args().additive_mask.stride_query = -7;
    call.expect_refused(INTFLASH_BAD_STRIDE, {"additive_mask.stride_query = -7", ">= 0"});
  }
  for (const std::int64_t stride : {std::int64_t{1} << 61, INT64_MAX}) {
    for (std::int64_t intflash_additive_mask::*const axis :
         {&intflash_additive_mask::stride_batch, &intflash_additive_mask::stride_head,
          &intflash_additive_mask::stride_query}) {
      MaskedCall call;
      call.args().additive_mask.*axis = stride;
      call.expect_refused(INTFLASH_SIZE_OVERFLOW,
                          {"additive_mask.stride_", std::to_string(stride), "address space"});
    }
  }
  const float factors[] = {1, 1, NAN, 1};
  {
    MaskedCall call;
    call.args().additive_mask.head_scale = factors;
    call.expect_refused(INTFLASH_NONFINITE_INPUT, {"additive_mask.head_scale[2] = nan"});
  }
  {
    ApiCall call;
    call.args().alibi_slopes = factors;
    call.expect_refused(INTFLASH_NONFINITE_INPUT, {"alibi_slopes[2] = nan"});
  }
  const std::uint64_t words[10] = {};
  for (const std::int64_t num_keys : {-1, 8}) {
    ApiCall call;
    call.args().bit_mask = {words, num_keys};
    call.expect_refused(INTFLASH_BAD_SHAPE, {"bit_mask.num_keys", "kv_len = 7"});
  }
}

TEST(ScoreBias, ModeIntfaKnowsNone) {
  MaskedCall call;
  call.desc().mode = INTFLASH_MODE_INTFA;
  call.expect_refused(INTFLASH_UNSUPPORTED, {"INTFA", "additive_mask"});
}

}  // namespace
}  // namespace intflash::internal

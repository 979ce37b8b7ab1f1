// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Fixed calls against hashes that the scalar port gave on x86-64: every port of every platform
// gives those bits.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <sstream>
#include <string>

#include <gtest/gtest.h>

#include "attention_case.h"
#include "attention_inputs.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

struct Hashes {
  std::uint64_t out, lse;
  bool operator==(const Hashes&) const = default;
};
std::ostream& operator<<(std::ostream& stream, const Hashes& hashes) {
  return stream << std::hex << "{0x" << hashes.out << ", 0x" << hashes.lse << "}" << std::dec;
}

struct Golden {
  const char* name;
  Hashes hashes;
  const char* files;  // of data/: the first 60 queries and all keys; nullptr: a generated case
  void (*set)(AttentionCase& c);
};
void PrintTo(const Golden& golden, std::ostream* stream) { *stream << golden.name; }

// FNV-1a.
std::uint64_t hash_of(const void* data, std::size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  std::uint64_t hash = 0xcbf29ce484222325;
  for (std::size_t i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * 0x100000001b3;
  return hash;
}

// The case's mask, cap and the like over tensors from files.
CaseTensors real_tensors(AttentionCase c, const AttentionInputs& inputs, Memory& memory) {
  c.num_kv_heads = inputs.num_kv_heads;
  c.group_size = inputs.num_query_heads / inputs.num_kv_heads;
  c.query_len = 60;
  c.kv_len = inputs.kv_len;
  c.head_dim = inputs.head_dim;
  c.head_dim_v = inputs.head_dim_v;
  c.query.dtype = c.key.dtype = c.value.dtype = inputs.query.dtype;
  CaseTensors tensors = make_tensors(c, memory);
  const intflash_attend_args args = inputs.args();
  tensors.args.query = args.query;
  tensors.args.key = args.key;
  tensors.args.value = args.value;
  return tensors;
}

Hashes run(const Golden& golden, const PortEntry& port) {
  AttentionCase c;
  golden.set(c);
  Memory memory;
  CaseResult result;
  if (golden.files == nullptr) {
    CaseTensors tensors = make_tensors(c, memory);
    result = run_tensors(tensors, port, {}, memory);
  } else {
    const std::string path = std::string(INTFLASH_DATA_DIR "/") + golden.files;
    const AttentionInputs inputs =
        read_attention_inputs(path + "_q.npy", path + "_k.npy", path + "_v.npy");
    CaseTensors tensors = real_tensors(c, inputs, memory);
    result = run_tensors(tensors, port, {}, memory);
  }
  EXPECT_EQ(result.status, INTFLASH_OK) << result.error;
  return {hash_of(result.out.data(), result.out.size()),
          hash_of(result.lse.data(), result.lse.size() * sizeof(float))};
}

const Golden kGolden[] = {
    {"RealCausalGroups",
     {0xbe6c1e1e7e0b0159, 0x5e61fde6f31ef54f},
     "tinyllama_l5",
     [](AttentionCase& c) { c.mask = INTFLASH_MASK_CAUSAL; }},
    {"RealRotatedAndCentred",
     {0x177347edf079ecdd, 0x9275ea21eb9514f3},
     "tinyllama_l5",
     [](AttentionCase& c) {
       c.mask = INTFLASH_MASK_CAUSAL;
       c.center = INTFLASH_CENTER_KEY_VALUE;
       c.rotate = true;
       c.out.dtype = INTFLASH_F16;
     }},
    {"RealCappedWindow",
     {0xa2788d00c0cbd1c2, 0xdae1ef0032175845},
     "tinyllama_l5",
     [](AttentionCase& c) {
       c.mask = INTFLASH_MASK_WINDOW;
       c.window_left = 300;
       c.score_cap = 20;
       c.out.dtype = INTFLASH_BF16;
     }},
    {"RealSink", {0xf7e3c63440e2b469, 0x5d23908639346d8c}, "minilm_l5", [](AttentionCase&) {}},
    {"RealSinkUncentred",
     {0xf7e3c63440e2b469, 0x5d23908639346d8c},
     "minilm_l5",
     [](AttentionCase& c) { c.center = INTFLASH_CENTER_NONE; }},
    {"Codes",
     {0xceab477ff9a068b0, 0xe1fb6e8914154846},
     nullptr,
     [](AttentionCase& c) {
       c.batch = 2;
       c.query_len = c.kv_len = 130;
       c.head_dim = 40;
       c.query.dtype = c.key.dtype = c.value.dtype = INTFLASH_INT8;
     }},
    {"CodesOfOneScale",
     {0x59c85a046204221f, 0xb338c26360c69b},
     nullptr,
     [](AttentionCase& c) {
       c.num_kv_heads = 2;
       c.query_len = 33;
       c.kv_len = 200;
       c.head_dim = 576;
       c.head_dim_v = 512;
       c.value.dtype = INTFLASH_INT8;
       c.value.scale_block = 0;
       c.value.one_scale = true;
     }},
    {"TwoSpansOfBf16",
     {0x8dd3cd1bd52d4132, 0x11ca55153b1ba9d2},
     nullptr,
     [](AttentionCase& c) {
       c.group_size = 4;
       c.query_len = 31;
       c.kv_len = 1200;
       c.head_dim = c.head_dim_v = 128;
       c.mask = INTFLASH_MASK_CAUSAL;
       c.query.dtype = c.key.dtype = c.value.dtype = INTFLASH_BF16;
       c.key.layout = Layout::kTokensFirst;
     }},
    {"SinksUnderACap",
     {0xf10c303835b38666, 0xb631d9f342ccb85f},
     nullptr,
     [](AttentionCase& c) {
       c.query_len = 40;
       c.kv_len = 300;
       c.score_cap = 20;
       c.data = CaseData::kSinks;
     }},
    {"OutliersRotated",
     {0xc72d5713fa9ead0d, 0xce01384df8acd163},
     nullptr,
     [](AttentionCase& c) {
       c.query_len = 60;
       c.kv_len = 190;
       c.head_dim = 72;
       c.head_dim_v = 136;
       c.rotate = true;
       c.given_centers = true;
       c.center = INTFLASH_CENTER_KEY_VALUE;
       c.data = CaseData::kOutliers;
     }},
    {"OneHot",
     {0xf0670bab97f422e2, 0xc5de559ec8a10df5},
     nullptr,
     [](AttentionCase& c) {
       c.query_len = c.kv_len = 150;
       c.mask = INTFLASH_MASK_WINDOW;
       c.window_left = -1;
       c.window_right = 5;
       c.data = CaseData::kOneHot;
     }},
    {"ZeroRowsOfManyMagnitudes",
     {0x7591a474210b36fe, 0x54f42e687ce0b668},
     nullptr,
     [](AttentionCase& c) {
       c.query_len = 50;
       c.kv_len = 140;
       c.query.magnitude = 30;
       c.key.magnitude = 30;
       c.value.magnitude = 1e4f;
       c.data = CaseData::kZeroRows;
     }},
    {"BiasesAndSinks",
     {0x86df0f43d84c597f, 0x372b9b4880e2d1bb},
     nullptr,
     [](AttentionCase& c) {
       c.group_size = 3;
       c.query_len = 21;
       c.kv_len = 280;
       c.mask = INTFLASH_MASK_CAUSAL;
       c.rotate = true;
       c.bias = CaseBias::kAll;
       c.sinks = true;
     }},
    {"TwoDigits",
     {0xb072ed1305d1fac3, 0x22d46c6ed35f2dab},
     nullptr,
     [](AttentionCase& c) {
       c.query_len = 40;
       c.kv_len = 300;
       c.mask = INTFLASH_MASK_CAUSAL;
       c.rotate = true;
       c.score_digits = 2;
     }},
    {"DigitsAsNeeded",
     {0x8467b3c8527227cd, 0xb6b8eb86b2919c20},
     nullptr,
     [](AttentionCase& c) {
       c.query_len = 40;
       c.kv_len = 300;
       c.key.magnitude = 6;
     }},
    {"RealF16Values",
     {0x4504eb4b2104c0fd, 0xba8298daed103a15},
     "tinyllama_l5",
     [](AttentionCase& c) {
       c.mode = INTFLASH_MODE_INT8_QK;
       c.mask = INTFLASH_MASK_CAUSAL;
       c.center = INTFLASH_CENTER_KEY_VALUE;
       c.rotate = true;
     }},
    {"CodesInF16",
     {0x72b7eee935692795, 0xd99d5d40e513a682},
     nullptr,
     [](AttentionCase& c) {
       c.mode = INTFLASH_MODE_INT8_QK;
       c.num_kv_heads = 2;
       c.query_len = 33;
       c.kv_len = 200;
       c.head_dim = 40;
       c.head_dim_v = 24;
       c.value.dtype = INTFLASH_INT8;
     }},
};

class GoldenBits : public testing::TestWithParam<Golden> {};

TEST_P(GoldenBits, AreThoseOfScalarOnX86) {
  for (const PortEntry& port : all_test_ports()) {
    EXPECT_EQ(run(GetParam(), port), GetParam().hashes) << port.name;
  }
}

INSTANTIATE_TEST_SUITE_P(, GoldenBits, testing::ValuesIn(kGolden),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace intflash::internal

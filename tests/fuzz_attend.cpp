// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer over the C interface: bytes become a call, valid or not. Every port gives the scalar
// port's status, message, and bits; a refused call touches no output; an answered one gives no NaN.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "attention_case.h"
#include "core/checks.h"
#include "fuzz_bytes.h"
#include "test_ports.h"

namespace {

using namespace intflash::internal;

float magnitude(Bytes& bytes) {
  const int exponent = bytes.below(8) == 0 ? static_cast<std::int8_t>(bytes.byte()) : 0;
  return std::ldexp(1.0f, exponent);
}

CaseTensor tensor(Bytes& bytes, bool input) {
  constexpr intflash_dtype kTypes[] = {INTFLASH_F32,  INTFLASH_F16,     INTFLASH_BF16,
                                       INTFLASH_INT8, INTFLASH_F8_E4M3, INTFLASH_F8_E5M2};
  CaseTensor t;
  t.dtype = kTypes[bytes.below(input ? 6 : 3)];
  t.layout = static_cast<Layout>(bytes.below(3));
  t.scale_block = bytes.below(5) * 9;
  t.one_scale = bytes.below(2) == 1;
  t.magnitude = magnitude(bytes);
  return t;
}

AttentionCase attention(Bytes& bytes) {
  AttentionCase c;
  c.batch = 1 + bytes.below(2);
  c.num_kv_heads = 1 + bytes.below(3);
  c.group_size = 1 + bytes.below(4);
  c.query_len = 1 + bytes.below(40);
  c.kv_len = bytes.below(131);
  c.head_dim = 8 * (1 + bytes.below(20));
  c.head_dim_v = 8 * (1 + bytes.below(20));
  c.query = tensor(bytes, true);
  c.key = tensor(bytes, true);
  c.value = tensor(bytes, true);
  c.out = tensor(bytes, false);
  c.mask = static_cast<intflash_mask>(bytes.below(3));
  c.window_left = bytes.below(100) - 1;
  c.window_right = bytes.below(50) - 1;
  c.softmax_scale = bytes.below(3) == 0 ? magnitude(bytes) : 0;
  c.score_cap = bytes.below(3) == 0 ? magnitude(bytes) : 0;
  c.center = static_cast<intflash_center>(bytes.below(4));
  c.given_centers = bytes.below(2) == 1;
  c.rotate = bytes.below(3) == 0;
  c.score_digits = bytes.below(3);
  if (bytes.below(4) == 3) c.mode = INTFLASH_MODE_INT8_QK;
  c.lse = bytes.below(4) != 0;
  c.data = static_cast<CaseData>(bytes.below(static_cast<int>(CaseData::kSinks) + 1));
  c.seed = bytes.byte();
  c.bias = static_cast<CaseBias>(bytes.below(static_cast<int>(CaseBias::kAll) + 1));
  return c;
}

// Now and then, one wrong field, or one element of any bits. Pointers and strides that would leave
// the buffers are the caller's fault, and no library can see it.
void spoil(Bytes& bytes, const AttentionCase& c, CaseTensors& tensors) {
  intflash_attend_desc& desc = tensors.desc;
  intflash_attend_args& args = tensors.args;
  if (bytes.rarely()) desc.struct_size = bytes.byte() | 1;
  if (bytes.rarely()) args.struct_size = bytes.byte() | 1;
  if (bytes.rarely()) desc.head_dim = bytes.byte() | 1;
  if (bytes.rarely()) desc.head_dim_v = -1 - bytes.below(100);
  if (bytes.rarely()) desc.num_kv_heads = -bytes.below(3);
  if (bytes.rarely()) desc.softmax_scale = bytes.any<float>();
  if (bytes.rarely()) desc.score_cap = bytes.any<float>();
  if (bytes.rarely()) desc.window_left = bytes.any<std::int64_t>();
  if (bytes.rarely()) desc.window_right = bytes.any<std::int64_t>();
  if (bytes.rarely()) desc.score_digits = bytes.byte() - 128;
  if (bytes.rarely()) desc.rotation = static_cast<intflash_rotation>(bytes.byte());
  if (bytes.rarely()) args.query.stride_token = -1 - bytes.below(100);
  if (bytes.rarely()) args.out.stride_head = bytes.below(8);
  if (bytes.rarely()) args.key.data = nullptr;
  if (bytes.rarely()) args.value.scale = nullptr;
  if (bytes.rarely()) args.key.scale_block = INT64_MAX - bytes.byte();
  if (bytes.rarely()) args.key.scale_stride_head = INT64_MAX - bytes.byte();
  if (bytes.rarely()) args.additive_mask.stride_query = -1 - bytes.below(100);
  if (bytes.rarely()) args.bit_mask.num_keys = c.kv_len + bytes.byte() - 100;
  if (args.alibi_slopes != nullptr && bytes.rarely())
    const_cast<float*>(args.alibi_slopes)[0] = bytes.any<float>();
  if (args.additive_mask.data != nullptr && c.kv_len > 0 && bytes.rarely()) {
    const auto bits = bytes.any<std::uint32_t>();
    std::memcpy(const_cast<void*>(args.additive_mask.data), &bits,
                static_cast<std::size_t>(dtype_bytes(args.additive_mask.dtype)));
  }
  struct Input {
    intflash_tensor& tensor;
    const CaseTensor& spec;
    std::int64_t dim, tokens;
  };
  const Input inputs[] = {{args.query, c.query, c.head_dim, c.query_len},
                          {args.key, c.key, c.head_dim, c.kv_len},
                          {args.value, c.value, c.head_dim_v, c.kv_len}};
  for (const Input& input : inputs) {
    const bool element = bytes.rarely();
    const bool scale = bytes.rarely();
    if (input.tokens == 0 || input.tensor.data == nullptr) continue;
    if (element) {
      const std::int64_t at =
          dtype_bytes(input.spec.dtype) * bytes.below(static_cast<int>(input.dim));
      const auto bits = bytes.any<std::uint32_t>();
      std::memcpy(static_cast<char*>(input.tensor.data) + at, &bits,
                  static_cast<std::size_t>(dtype_bytes(input.spec.dtype)));
    }
    if (scale && input.tensor.scale != nullptr)
      const_cast<float*>(input.tensor.scale)[0] = bytes.any<float>();
  }
}

[[noreturn]] void stop(const AttentionCase& c, const char* port, const std::string& what) {
  std::fprintf(stderr, "%s: %s\n%s\n", port, what.c_str(), describe(c).c_str());
  std::abort();
}

void check_result(const AttentionCase& c, const CaseResult& result) {
  if (result.status != INTFLASH_OK) {
    if (result.error.empty()) stop(c, "scalar", "refused without a message");
    for (const std::byte byte : result.out) {
      if (byte != static_cast<std::byte>(CaseTensors::kPoison))
        stop(c, "scalar", "refused, and wrote: " + result.error);
    }
    return;
  }
  const Numbers numbers = numbers_of(c, result);
  for (const double x : numbers.out) {
    if (std::isnan(x)) stop(c, "scalar", "NaN in out");
  }
  for (const double x : numbers.lse) {
    if (std::isnan(x)) stop(c, "scalar", "NaN in lse");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const AttentionCase c = attention(bytes);
  RunOptions options;
  options.packed = bytes.below(2) == 1;
  // Serial workers: the fuzzer itself runs in one thread.
  options.num_threads = 1 + bytes.below(3);
  options.parallel.run = [](void*, std::int32_t count, void (*body)(void*, std::int32_t),
                            void* context) {
    for (std::int32_t i = 0; i < count; ++i) body(context, i);
  };
  CaseResult expected;
  bool first = true;
  for (const PortEntry& port : all_test_ports()) {
    Memory memory;
    CaseTensors tensors = make_tensors(c, memory);
    Bytes spoiling = bytes;  // the same for each port
    spoil(spoiling, c, tensors);
    const CaseResult result = run_tensors(tensors, port, options, memory);
    if (first) {
      check_result(c, result);
      expected = result;
      first = false;
      continue;
    }
    const std::string different = difference(c, result, expected);
    if (!different.empty()) stop(c, port.name, different);
    if (result.error != expected.error) stop(c, port.name, result.error + " / " + expected.error);
  }
  return 0;
}

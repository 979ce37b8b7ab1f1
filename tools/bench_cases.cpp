// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The table of cases, in the order in which they are printed.
#include "bench_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "call.h"
#include "failure.h"

namespace intflash {
namespace {

BenchCase attention(std::string name, Timed timed, intflash_mask mask, std::int64_t head_dim,
                    std::int64_t len) {
  BenchCase c;
  c.name = std::move(name);
  c.timed = timed;
  c.mask = mask;
  c.head_dim = head_dim;
  c.query_len = c.kv_len = len;
  return c;
}

BenchCase with_heads(BenchCase c, std::int64_t query_heads, std::int64_t kv_heads) {
  c.num_query_heads = query_heads;
  c.num_kv_heads = kv_heads;
  return c;
}

BenchCase prefill(const char* mask_name, std::int64_t head_dim, std::int64_t len) {
  const bool causal = std::string(mask_name) == "causal";
  return attention(fmt::format("prefill/{}/d{}/n{}", mask_name, head_dim, len), Timed::kPacked,
                   causal ? INTFLASH_MASK_CAUSAL : INTFLASH_MASK_NONE, head_dim, len);
}

// A mask that is data beside the full one; drawn-causal is to be held against prefill/causal.
BenchCase masked(const char* name, BenchCase::Additive additive, std::int64_t len) {
  BenchCase c = prefill(name, 128, len);
  c.additive = additive;
  return c;
}

// Second digits in all scores, to be held against prefill/full.
BenchCase two_digits(std::int64_t len) {
  BenchCase c = prefill("two-digits", 128, len);
  c.score_digits = 2;
  return c;
}

// Values in f16, to be held against prefill/full.
BenchCase f16_values(std::int64_t len) {
  BenchCase c = prefill("int8_qk", 128, len);
  c.mode = INTFLASH_MODE_INT8_QK;
  return c;
}

// The cases with eight heads: what a layer of a model does.
std::vector<BenchCase> layer_cases(std::int64_t len) {
  const auto named = [len](const char* what) { return fmt::format("{}/d128/n{}/h8", what, len); };
  return {
      with_heads(attention(named("prefill/full"), Timed::kPacked, INTFLASH_MASK_NONE, 128, len), 8,
                 8),
      with_heads(attention(named("prefill/causal"), Timed::kPacked, INTFLASH_MASK_CAUSAL, 128, len),
                 8, 8),
      with_heads(attention(named("end-to-end/full"), Timed::kWhole, INTFLASH_MASK_NONE, 128, len),
                 8, 8),
      with_heads(
          attention(named("end-to-end/causal"), Timed::kWhole, INTFLASH_MASK_CAUSAL, 128, len), 8,
          8),
      with_heads(attention(named("pack"), Timed::kPack, INTFLASH_MASK_NONE, 128, len), 8, 8),
  };
}

// 65536 keys for 4096 queries: as many operations as 16384 squared, so that it ends.
BenchCase longest_case() {
  BenchCase c = prefill("full", 128, 65536);
  c.query_len = 4096;
  return c;
}

BenchCase short_case(Timed timed, std::int64_t query_len, std::int64_t kv_len) {
  const char* prefix = timed == Timed::kWhole ? "overhead/whole" : "overhead";
  BenchCase c = attention(fmt::format("{}/q{}k{}", prefix, query_len, kv_len), timed,
                          INTFLASH_MASK_NONE, 128, kv_len);
  c.query_len = query_len;
  c.overhead = true;
  return c;
}

std::vector<BenchCase> short_cases() {
  std::vector<BenchCase> cases;
  for (const auto& [query_len, kv_len] :
       {std::pair{1, 1}, {1, 16}, {1, 128}, {4, 64}, {16, 16}, {16, 128}}) {
    cases.push_back(short_case(Timed::kPacked, query_len, kv_len));
  }
  cases.push_back(short_case(Timed::kWhole, 1, 1));
  cases.push_back(short_case(Timed::kWhole, 16, 128));
  return cases;
}

std::vector<BenchCase> one_thread_cases(BenchSize size) {
  const std::int64_t len = size == BenchSize::kScalar ? 512 : 4096;
  std::vector<BenchCase> cases = {
      prefill("full", 128, len),
      prefill("causal", 128, len),
      prefill("full", 64, len),
      prefill("full", 256, len),
  };
  if (size != BenchSize::kScalar) {
    cases.push_back(prefill("full", 128, 1024));
    cases.push_back(prefill("full", 128, 16384));
  }
  if (size == BenchSize::kFull) cases.push_back(longest_case());
  if (size != BenchSize::kScalar) {
    cases.push_back(masked("additive", BenchCase::Additive::kBiases, len));
    cases.push_back(masked("drawn-causal", BenchCase::Additive::kCausal, len));
  }
  cases.push_back(two_digits(len));
  cases.push_back(f16_values(len));
  BenchCase grouped = with_heads(prefill("causal", 128, len), 8, 2);
  grouped.name += "/h8-2";
  cases.push_back(grouped);
  for (const BenchCase& c : layer_cases(len)) cases.push_back(c);
  for (const BenchCase& c : short_cases()) cases.push_back(c);
  return cases;
}

// A short call runs on one thread whatever the context has: the suffix would promise something
// else.
void set_threads(BenchCase& c, int threads) {
  if (threads == 1 || c.overhead) return;
  c.threads = threads;
  c.name += fmt::format("/t{}", threads);
}

}  // namespace

double BenchCase::operations() const {
  double pairs = static_cast<double>(query_len) * static_cast<double>(kv_len);
  // Query i sees kv_len - query_len + i + 1 keys: a triangle is missing, its diagonal is not.
  if (mask == INTFLASH_MASK_CAUSAL || additive == Additive::kCausal) {
    pairs -= static_cast<double>(query_len) * static_cast<double>(query_len - 1) / 2;
  }
  return 4.0 * pairs * static_cast<double>(head_dim) * static_cast<double>(num_query_heads);
}

double BenchCase::packed_bytes() const {
  // Of a key or value: head_dim floats, as many codes, and a scale; of a key also the sum of its
  // codes.
  const double token_bytes = 2 * (static_cast<double>(head_dim) * (4 + 1) + 4) + 4;
  return token_bytes * static_cast<double>(kv_len) * static_cast<double>(num_kv_heads);
}

intflash_attend_desc BenchCase::desc() const {
  intflash_attend_desc desc = inputs != nullptr ? inputs->desc() : attend_desc();
  desc.num_query_heads = num_query_heads;
  desc.num_kv_heads = num_kv_heads;
  desc.query_len = query_len;
  desc.kv_len = kv_len;
  desc.head_dim = head_dim;
  desc.mask = mask;
  desc.score_digits = score_digits;
  desc.mode = mode;
  return desc;
}

std::vector<BenchCase> captured_cases(std::shared_ptr<const AttentionInputs> inputs, bool causal,
                                      int threads) {
  if (inputs->batch != 1)
    throw Failure(fmt::format("--query: {} batches, must be one", inputs->batch));
  if (inputs->head_dim_v != inputs->head_dim)
    throw Failure(fmt::format("--value: {} dims where keys have {}: must be as many",
                              inputs->head_dim_v, inputs->head_dim));
  std::vector<BenchCase> cases;
  for (const auto& [timed, part] :
       {std::pair{Timed::kPacked, "prefill"}, {Timed::kWhole, "end-to-end"}}) {
    for (const bool captured : {true, false}) {
      BenchCase c =
          with_heads(attention(fmt::format("{}/{}", part, captured ? "captured" : "random"), timed,
                               causal ? INTFLASH_MASK_CAUSAL : INTFLASH_MASK_NONE, inputs->head_dim,
                               inputs->kv_len),
                     inputs->num_query_heads, inputs->num_kv_heads);
      c.query_len = inputs->query_len;
      if (captured) c.inputs = inputs;
      if (threads > 0) set_threads(c, threads);
      cases.push_back(std::move(c));
    }
  }
  return cases;
}

std::vector<BenchCase> bench_cases(BenchSize size, int threads, int max_threads) {
  std::vector<BenchCase> cases = one_thread_cases(size);
  if (threads > 0) {
    for (BenchCase& c : cases) set_threads(c, threads);
    return cases;
  }
  if (max_threads < 2) return cases;
  const std::int64_t len = size == BenchSize::kScalar ? 512 : 4096;
  std::vector<BenchCase> scaling = {prefill("full", 128, len), prefill("causal", 128, len)};
  for (const BenchCase& c : layer_cases(len)) scaling.push_back(c);
  for (BenchCase& c : scaling) {
    set_threads(c, 2);
    cases.push_back(c);
  }
  return cases;
}

}  // namespace intflash

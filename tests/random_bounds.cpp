// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
//   random_bounds SECONDS [CALL]
//
// Random calls, dense and of batches over caches, for so many seconds: every element of out and
// log-sum-exp is within the bound of error_bound.h of what float64 makes of the definition, or the
// call is refused because its magnitudes leave the ranges that are documented. A batch has the bits
// of the dense calls, and now and then the best port is compared with the scalar one. Calls are
// numbered, and each is made of its number alone: 0 seconds are one call.
#include <algorithm>
#include <cfloat>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "attention_case.h"
#include "batched_cases.h"
#include "element.h"
#include "error_bound.h"
#include "random_case.h"
#include "test_ports.h"
#include "tile/limits.h"

namespace {

using namespace intflash::internal;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// ---- What is told in the end ----

struct Kind {
  std::int64_t calls = 0;
  double out = 0, lse = 0;  // the largest error / bound
};

struct Report {
  std::map<std::string, Kind> kinds;
  std::int64_t calls = 0, dense = 0, refused = 0, batches = 0, compared = 0;
  std::int64_t numbers = 0, unbounded = 0;
};

std::vector<std::string> kinds_of(const RandomCase& one) {
  const AttentionCase& c = one.attention;
  const char* dtypes[] = {"?",    "f32",  "f16",  "bf16",    "int8",
                          "q8_0", "q4_0", "bool", "f8_e4m3", "f8_e5m2"};
  const char* data[] = {"normal",    "outliers", "channel bias", "all equal",
                        "zero rows", "one hot",  "sinks"};
  const char* biases[] = {"none", "hiding", "additive", "ALiBi", "tree", "all"};
  std::vector<std::string> kinds = {"all",
                                    std::string("query ") + dtypes[c.query.dtype],
                                    std::string("key ") + dtypes[c.key.dtype],
                                    std::string("value ") + dtypes[c.value.dtype],
                                    std::string("out ") + dtypes[c.out.dtype],
                                    std::string("data ") + data[static_cast<int>(c.data)],
                                    "digits " + std::to_string(c.score_digits)};
  if (c.bias != CaseBias::kNone)
    kinds.push_back(std::string("bias ") + biases[static_cast<int>(c.bias)]);
  if (c.mode == INTFLASH_MODE_INT8_QK) kinds.push_back("values in f16");
  if (c.rotate) kinds.push_back("rotated");
  if (c.score_cap > 0) kinds.push_back("cap");
  if (c.center != INTFLASH_CENTER_NONE)
    kinds.push_back(c.given_centers ? "given centre" : "computed centre");
  if (c.sinks) kinds.push_back("sinks");
  if (c.kv_len > 1024) kinds.push_back("several spans");
  kinds.insert(kinds.end(), one.changes.begin(), one.changes.end());
  return kinds;
}

void print(const Report& report) {
  std::printf("%-34s %9s %9s %9s\n", "largest error / bound", "calls", "out", "lse");
  for (const auto& [name, kind] : report.kinds)
    std::printf("%-34s %9lld %9.4f %9.4f\n", name.c_str(), static_cast<long long>(kind.calls),
                kind.out, kind.lse);
  std::printf(
      "%lld calls: %lld answered, %lld refused; %lld in batches, %lld also on the scalar port; "
      "%lld numbers, %lld without a bound\n",
      static_cast<long long>(report.calls), static_cast<long long>(report.dense),
      static_cast<long long>(report.refused), static_cast<long long>(report.batches),
      static_cast<long long>(report.compared), static_cast<long long>(report.numbers),
      static_cast<long long>(report.unbounded));
}

// ---- Checks ----

[[noreturn]] void stop(std::uint64_t call, const RandomCase& one, const std::string& what) {
  std::printf("call %llu: %s\n%s\n", static_cast<unsigned long long>(call), what.c_str(),
              describe(one.attention).c_str());
  for (const std::string& change : one.changes) std::printf("  %s\n", change.c_str());
  std::printf("again: random_bounds 0 %llu\n", static_cast<unsigned long long>(call));
  std::exit(1);
}

std::string text_of(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", x);
  return text;
}

double largest_of(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t batch,
                  std::int64_t heads, std::int64_t tokens, std::int64_t dim) {
  double largest = 0;
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t token = 0; token < tokens; ++token) {
        // Of INT8 the scale alone is looked at.
        const std::int64_t group = tensor.scale_block == 0 ? 0 : token / tensor.scale_block;
        const std::int64_t scale = b * tensor.scale_stride_batch + h * tensor.scale_stride_head;
        if (dtype == INTFLASH_INT8)
          largest = std::max(largest, 127.01 * static_cast<double>(tensor.scale[scale + group]));
        for (std::int64_t c = 0; dtype != INTFLASH_INT8 && c < dim; ++c)
          largest = std::max(largest, std::fabs(element_of(tensor, dtype, b, h, token, c)));
      }
    }
  }
  return largest;
}

double largest_center(const float* center, std::int64_t count) {
  double largest = 0;
  for (std::int64_t i = 0; center != nullptr && i < count; ++i)
    largest = std::max(largest, static_cast<double>(std::fabs(center[i])));
  return largest;
}

// The magnitudes that a call may be refused for.
struct Magnitudes {
  double query = 0, key = 0, value = 0, scale = 0;
  double dim = 0, dim_v = 0;

  void add(const RandomCase& one) {
    const AttentionCase& c = one.attention;
    const intflash_attend_args& args = one.tensors.args;
    const std::int64_t kv = c.batch * c.num_kv_heads;
    query = std::max(query, largest_of(args.query, c.query.dtype, c.batch,
                                       c.num_kv_heads * c.group_size, c.query_len, c.head_dim));
    key = std::max(
        key, largest_of(args.key, c.key.dtype, c.batch, c.num_kv_heads, c.kv_len, c.head_dim) +
                 largest_center(args.key_center, kv * c.head_dim));
    value = std::max(value, largest_of(args.value, c.value.dtype, c.batch, c.num_kv_heads, c.kv_len,
                                       c.head_dim_v) +
                                largest_center(args.value_center, kv * c.head_dim_v));
    const double given = static_cast<double>(c.softmax_scale);
    scale = std::max(scale, given > 0 ? given : 1.0);
    dim = static_cast<double>(c.head_dim);
    dim_v = static_cast<double>(c.head_dim_v);
  }
  // Centred or rotated, in f32.
  bool may_be_refused() const {
    const double factor = query * std::max(1.0, scale * kLog2E);
    return 2.01 * std::sqrt(dim_v) * value >= kMaxValue || 2.01 * std::sqrt(dim) * key >= kMaxKey ||
           1.01 * std::sqrt(dim) * query >= kMaxQuery || factor >= 0x1p126 ||
           2.01 * factor * key * dim * dim * std::sqrt(dim) >= 0x1p126;
  }
};

struct Worst {
  double ratio = 0;
  std::string text;
};

Worst worst_of(const char* name, std::int64_t row_size, const std::vector<double>& found,
               const std::vector<double>& wanted, const std::vector<double>& bound,
               Report& report) {
  Worst worst;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    ++report.numbers;
    if (bound[i] == kInfinity) ++report.unbounded;
    if (found[i] == wanted[i]) continue;
    double ratio = std::fabs(found[i] - wanted[i]) / bound[i];
    if (!std::isfinite(found[i]) || std::isnan(ratio)) ratio = kInfinity;
    if (ratio <= worst.ratio) continue;
    const auto at = static_cast<std::int64_t>(i);
    worst = {ratio, std::string(name) + " row " + std::to_string(at / row_size) + " channel " +
                        std::to_string(at % row_size) + ": found " + text_of(found[i]) +
                        ", wanted " + text_of(wanted[i]) + ", bound " + text_of(bound[i])};
  }
  return worst;
}

// What is beyond the largest finite number of lse's or out's type is that number.
void hold(std::vector<double>& numbers, double most) {
  for (double& x : numbers) {
    if (std::isfinite(x)) x = std::clamp(x, -most, most);
  }
}

void check_bound(std::uint64_t call, const RandomCase& one, const Numbers& found, Report& report) {
  const AttentionCase& c = one.attention;
  Numbers wanted = oracle(c, one.tensors);
  hold(wanted.lse, static_cast<double>(FLT_MAX));
  if (c.out.dtype == INTFLASH_F16) hold(wanted.out, 65504);
  const Numbers bound = error_bound(c, one.tensors);
  const Worst out = worst_of("out", c.head_dim_v, found.out, wanted.out, bound.out, report);
  const Worst lse = worst_of("lse", 1, found.lse, wanted.lse, bound.lse, report);
  for (const std::string& name : kinds_of(one)) {
    Kind& kind = report.kinds[name];
    ++kind.calls;
    kind.out = std::max(kind.out, out.ratio);
    kind.lse = std::max(kind.lse, lse.ratio);
  }
  if (out.ratio > 1) stop(call, one, out.text);
  if (lse.ratio > 1) stop(call, one, lse.text);
}

const PortEntry& best_port() {
  return ports_under_test().empty() ? scalar_port() : ports_under_test().front();
}

CaseResult run(RandomCase& one, const PortEntry& port) {
  std::fill_n(one.tensors.out, one.tensors.out_bytes, std::byte{CaseTensors::kPoison});
  return run_tensors(one.tensors, port, {}, one.memory);
}

// Runs a case as a dense call, and holds what it gives against the bound; whether it was answered.
bool check_dense(std::uint64_t call, RandomCase& one, Numbers& found, Report& report) {
  const CaseResult result = run(one, best_port());
  ++report.calls;
  if (call % 8 == 0) {
    ++report.compared;
    const std::string different = difference(one.attention, result, run(one, scalar_port()));
    if (!different.empty()) stop(call, one, std::string(best_port().name) + ": " + different);
  }
  if (result.status != INTFLASH_OK) {
    Magnitudes magnitudes;
    magnitudes.add(one);
    if (result.status != INTFLASH_SCORE_OVERFLOW || !magnitudes.may_be_refused())
      stop(call, one, "refused: " + result.error);
    if (std::count(result.out.begin(), result.out.end(), std::byte{CaseTensors::kPoison}) !=
        static_cast<std::ptrdiff_t>(result.out.size()))
      stop(call, one, "refused, and wrote: " + result.error);
    ++report.refused;
    return false;
  }
  ++report.dense;
  found = numbers_of(one.attention, result);
  check_bound(call, one, found, report);
  return true;
}

void expect_equal(std::uint64_t call, const RandomCase& one, const std::string& where,
                  const std::vector<double>& found, const std::vector<double>& wanted) {
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (found[i] == wanted[i]) continue;
    stop(call, one,
         where + ' ' + std::to_string(i) + ": found " + text_of(found[i]) + ", wanted " +
             text_of(wanted[i]));
  }
}

// Requests that dense calls answer, together.
void check_batch(std::uint64_t call, Random& random, Report& report) {
  std::vector<std::unique_ptr<RandomCase>> made;
  std::vector<BatchedCase> cases;
  std::vector<Numbers> dense;
  Magnitudes magnitudes;
  const std::int64_t count = 1 + random.below(4);
  for (std::int64_t r = 0; r < count; ++r) {
    made.push_back(std::make_unique<RandomCase>());
    if (r == 0)
      make_random_request(random, *made.back());
    else
      make_random_request_beside(*made[0], random, *made.back());
    Numbers found;
    if (!check_dense(call, *made.back(), found, report)) {
      if (r == 0) return;
      made.pop_back();
      continue;
    }
    dense.push_back(found);
    magnitudes.add(*made.back());
    cases.push_back({&made.back()->attention, &made.back()->tensors, {}});
  }
  const BatchOutcome outcome = run_as_batch(cases, best_port(), random);
  if (outcome.status == INTFLASH_SCORE_OVERFLOW && magnitudes.may_be_refused()) {
    ++report.refused;
    return;
  }
  if (outcome.status != INTFLASH_OK) stop(call, *made[0], "batch refused: " + outcome.error);
  for (std::size_t r = 0; r < cases.size(); ++r) {
    ++report.batches;
    const std::string where = "request " + std::to_string(r) + " is not as in a dense call: ";
    expect_equal(call, *made[r], where + "out", cases[r].found.out, dense[r].out);
    expect_equal(call, *made[r], where + "lse", cases[r].found.lse, dense[r].lse);
  }
}

void try_call(std::uint64_t call, Report& report) {
  Random random(Random(call).next());
  if (random.below(4) == 0) {
    check_batch(call, random, report);
    return;
  }
  RandomCase one;
  Numbers found;
  make_random_case(random, one);
  check_dense(call, one, found, report);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || count > 3) {
    std::fprintf(stderr, "usage: random_bounds SECONDS [CALL]\n");
    return 2;
  }
  const std::chrono::duration<double> limit(std::strtod(arguments[1], nullptr));
  std::uint64_t call = count == 3 ? std::strtoull(arguments[2], nullptr, 10) : 1;
  Report report;
  const auto start = std::chrono::steady_clock::now();
  do {
    try_call(call++, report);
  } while (std::chrono::steady_clock::now() - start < limit);
  print(report);
  // A bound that is hardly ever there would hold anything.
  return report.unbounded * 100 > report.numbers ? 1 : 0;
}

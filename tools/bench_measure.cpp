// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A measurement is a row of turns: a sample of the limit, a sample of the case, and so on. The
// medians are compared, so that a machine whose clock or neighbours change affects both sides
// alike.
#include "bench_measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <random>
#include <vector>

#include "context/ports.h"
#include "core/checks.h"
#include "error_metrics.h"
#include "failure.h"
#include "stopwatch.h"

namespace intflash {
namespace {

// Long enough that reading the clock and waking a thread are nothing beside it.
constexpr double kSampleSeconds = 0.01;
// An answer further than this from the exact one is wrong: quantization costs 1.4 % on such inputs,
// a mistake 100 %. Captured inputs may be harder.
constexpr double kWrong = 0.04;
constexpr double kWrongOfCaptured = 0.2;
constexpr double kGiga = 1e9;

// Independent N(0, 1): the Box-Muller transform gives two at a time.
AlignedArray<float> normal_array(std::size_t size, std::uint64_t seed) {
  AlignedArray<float> values(size);
  std::mt19937_64 random(seed);
  for (std::size_t i = 0; i < size; i += 2) {
    const std::uint64_t bits = random();
    const float radius_uniform = static_cast<float>((bits >> 40) + 1) * 0x1p-24f;  // (0, 1]
    const float angle_uniform = static_cast<float>(bits & 0xffffff) * 0x1p-24f;
    const float radius = std::sqrt(-2 * std::log(radius_uniform));
    const float angle = 2 * std::numbers::pi_v<float> * angle_uniform;
    values[i] = radius * std::cos(angle);
    if (i + 1 < size) values[i + 1] = radius * std::sin(angle);
  }
  return values;
}

}  // namespace

// One case, ready to be called: plan, inputs, outputs, workspace.
class PreparedCase {
 public:
  PreparedCase(const Context& context, const BenchCase& c)
      : case_(c), plan_(context, c.desc()), workspace_(plan_.make_workspace()) {
    const auto elements = [&](std::int64_t heads, std::int64_t tokens) {
      return static_cast<std::size_t>(heads * tokens * c.head_dim);
    };
    if (c.inputs != nullptr) {
      args_ = c.inputs->args();
    } else {
      query_ = normal_array(elements(c.num_query_heads, c.query_len), 1);
      key_ = normal_array(elements(c.num_kv_heads, c.kv_len), 2);
      value_ = normal_array(elements(c.num_kv_heads, c.kv_len), 3);
      args_ = attend_args();
      args_.query = contiguous(query_.data(), c.num_query_heads, c.query_len, c.head_dim);
      args_.key = contiguous(key_.data(), c.num_kv_heads, c.kv_len, c.head_dim);
      args_.value = contiguous(value_.data(), c.num_kv_heads, c.kv_len, c.head_dim);
    }
    out_ = AlignedArray<float>(elements(c.num_query_heads, c.query_len));
    args_.out = contiguous(out_.data(), c.num_query_heads, c.query_len, c.head_dim);
    if (c.additive != BenchCase::Additive::kNone) make_mask();
  }

  const BenchCase& bench_case() const { return case_; }

  // What is known before anything is timed.
  BenchRow row() const {
    const intflash_plan_info info = plan_.info();
    BenchRow row;
    row.name = case_.name;
    row.port = info.port;
    row.kernel = info.kernel;
    row.mode = info.mode;
    row.threads = info.num_threads;
    row.workspace_bytes = info.workspace_bytes;
    return row;
  }

  void pack() { plan_.pack(args_, workspace_); }
  void run_packed() { plan_.run_packed(args_, workspace_); }
  void run_whole() { plan_.run(args_, workspace_); }
  void run_timed_part() {
    if (case_.timed == Timed::kPack) return pack();
    if (case_.timed == Timed::kPacked) return run_packed();
    run_whole();
  }

  // Computes all of out, and returns its error against mode exact on the first, the middle and the
  // last query of each head.
  double check(const Context& context) {
    std::fill(out_.begin(), out_.end(), 0.0f);
    pack();
    if (case_.timed == Timed::kWhole) {
      run_whole();
    } else {
      run_packed();
    }
    std::vector<float> computed, exact;
    for (const std::int64_t row : {std::int64_t{0}, case_.query_len / 2, case_.query_len - 1}) {
      append_row(context, row, computed, exact);
    }
    return measure_error(std::span<const float>(computed), std::span<const float>(exact)).rel_l1;
  }

 private:
  // In f16, shared by the heads.
  void make_mask() {
    constexpr std::uint16_t kHidden = 0xfc00;  // -infinity
    mask_ = AlignedArray<std::uint16_t>(static_cast<std::size_t>(case_.query_len * case_.kv_len));
    std::mt19937_64 random(4);
    std::size_t at = 0;
    for (std::int64_t i = 0; i < case_.query_len; ++i) {
      for (std::int64_t j = 0; j < case_.kv_len; ++j, ++at) {
        const bool seen = j <= case_.kv_len - case_.query_len + i;
        // Halves between 1 and 2, of either sign.
        mask_[at] = case_.additive == BenchCase::Additive::kCausal
                        ? (seen ? std::uint16_t{0} : kHidden)
                        : static_cast<std::uint16_t>(0x3c00 | (random() & 0x83ff));
      }
    }
    args_.additive_mask.data = mask_.data();
    args_.additive_mask.dtype = INTFLASH_F16;
    args_.additive_mask.stride_query = case_.kv_len;
  }

  // Query 'row' of every head, as it was computed and as mode exact computes it from the keys that
  // it sees.
  void append_row(const Context& context, std::int64_t row, std::vector<float>& computed,
                  std::vector<float>& exact) {
    intflash_attend_desc desc = case_.desc();
    desc.mode = INTFLASH_MODE_EXACT;
    desc.mask = INTFLASH_MASK_NONE;
    desc.query_len = 1;
    if (case_.mask == INTFLASH_MASK_CAUSAL) desc.kv_len += row + 1 - case_.query_len;
    const auto row_elements = static_cast<std::size_t>(case_.num_query_heads * case_.head_dim);
    std::vector<float> out(row_elements);
    intflash_attend_args args = args_;
    args.query.data = static_cast<char*>(args.query.data) +
                      row * args.query.stride_token * internal::dtype_bytes(desc.query_dtype);
    if (mask_.size() > 0) args.additive_mask.data = mask_.data() + row * case_.kv_len;
    args.out = contiguous(out.data(), case_.num_query_heads, 1, case_.head_dim);
    context.attend(desc, args);
    exact.insert(exact.end(), out.begin(), out.end());
    for (std::int64_t head = 0; head < case_.num_query_heads; ++head) {
      const float* begin = out_.data() + (head * case_.query_len + row) * case_.head_dim;
      computed.insert(computed.end(), begin, begin + case_.head_dim);
    }
  }

  BenchCase case_;
  Plan plan_;
  Workspace workspace_;
  AlignedArray<float> query_, key_, value_, out_;
  AlignedArray<std::uint16_t> mask_;  // of the cases that have one
  intflash_attend_args args_;
};

Turns time_by_turns(const std::function<void()>& call, const std::function<double()>& limit,
                    const std::function<double()>& long_call_seconds, bool quick) {
  const std::size_t most_turns = quick ? 5 : 15;
  const std::size_t fewest_turns = 3;  // of calls that take seconds
  const double enough = quick ? 1.0 : 4.0;
  const double once = shortest_of_three(call);
  const int calls = static_cast<int>(std::clamp(kSampleSeconds / once, 1.0, 1e6));
  Turns turns;
  const Stopwatch watch;
  while (turns.seconds.size() < most_turns) {
    turns.limit.push_back(limit());
    turns.long_call_seconds.push_back(long_call_seconds());
    const double all = seconds_of([&] {
      for (int i = 0; i < calls; ++i) call();
    });
    turns.seconds.push_back(all / calls);
    if (turns.seconds.size() >= fewest_turns && watch.seconds() > enough) break;
  }
  return turns;
}

BenchPort::BenchPort(std::string name, bool quick) : name_(std::move(name)), quick_(quick) {}
BenchPort::~BenchPort() = default;

const Context& BenchPort::context(int threads) {
  const auto found = contexts_.find(threads);
  if (found != contexts_.end()) return found->second;
  return contexts_.emplace(threads, create_context(threads, name_)).first->second;
}

IntegerPeak& BenchPort::integer_peak(int threads) {
  std::unique_ptr<IntegerPeak>& peak = peaks_[threads];
  if (!peak) {
    peak = std::make_unique<IntegerPeak>(*internal::find_kernels(name_.c_str()), threads,
                                         kSampleSeconds);
  }
  return *peak;
}

double BenchPort::long_call_seconds(double operations) {
  if (!long_call_) {
    BenchCase c;
    c.query_len = c.kv_len = 1024;  // keys and values fit the L2, as those of a short call do
    long_call_ = std::make_unique<PreparedCase>(context(1), c);
    long_call_->pack();
  }
  const double seconds = seconds_of([&] { long_call_->run_packed(); });
  return seconds * operations / long_call_->bench_case().operations();
}

BenchRow BenchPort::measure(const BenchCase& c) {
  PreparedCase prepared(context(c.threads), c);
  BenchRow row = prepared.row();
  row.rel_l1 = prepared.check(context(c.threads));
  if (!(row.rel_l1 <= (c.inputs != nullptr ? kWrongOfCaptured : kWrong))) {
    throw Failure(fmt::format("{} on {}: relative L1 error {:.3g} against mode exact: not timed",
                              c.name, name_, row.rel_l1));
  }
  const bool moves_bytes = c.timed == Timed::kPack;
  std::optional<MemoryRate> memory;
  if (moves_bytes) memory.emplace(static_cast<std::size_t>(c.packed_bytes()));
  const Turns turns = time_by_turns(
      [&] { prepared.run_timed_part(); },
      [&] {
        return (memory ? memory->copy(c.threads) : integer_peak(c.threads).measure()) / kGiga;
      },
      [&] { return c.overhead ? long_call_seconds(c.operations()) : 0; }, quick_);
  const double work = (moves_bytes ? c.packed_bytes() : c.operations()) / kGiga;
  row.seconds = median(turns.seconds);
  row.limit = median(turns.limit);
  (moves_bytes ? row.gbps : row.gops) = work / row.seconds;
  row.share = work / row.seconds / row.limit;
  row.best_seconds = *std::min_element(turns.seconds.begin(), turns.seconds.end());
  row.best_limit = *std::max_element(turns.limit.begin(), turns.limit.end());
  row.best_share = work / row.best_seconds / row.best_limit;
  if (c.overhead) row.overhead_seconds = row.seconds - median(turns.long_call_seconds);
  return row;
}

}  // namespace intflash

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Arrivals -> admission -> one batch of prefill chunks and decoded tokens per step -> figures. The
// clock is the time that the steps take; while no request is there it jumps to the next arrival.
#include "serve_sim.h"

#include <sys/resource.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>
#include <vector>
#include <nlohmann/json.hpp>

#include "failure.h"
#include "simulated_server.h"
#include "synthetic.h"

namespace intflash {
namespace {

// Lengths are exponential up to so many means, so that a pool can be large enough for any.
constexpr double kLongest = 4;

struct SimulatedRequest {
  double arrival;       // seconds
  bool is_forked;       // its prompt begins with the common prefix
  std::int64_t prompt;  // tokens that are still to come
  std::int64_t output;
  std::int64_t pages = 0;  // reserved for it
  std::int32_t sequence = -1;
};

struct Figures {
  std::int64_t served = 0, forked = 0, tokens = 0;
  std::vector<double> step_seconds;
  std::vector<double> held_pages;  // after each step
  double largest_error = 0;
};

double sum_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}
double largest_of(const std::vector<double>& values) {
  return *std::max_element(values.begin(), values.end());
}
double quantile(std::vector<double> samples, double share) {
  const auto at = static_cast<std::ptrdiff_t>(share * static_cast<double>(samples.size() - 1));
  std::nth_element(samples.begin(), samples.begin() + at, samples.end());
  return samples[static_cast<std::size_t>(at)];
}

class Simulation {
 public:
  explicit Simulation(const ServeSimOptions& options)
      : options_(options),
        server_(
            {options.heads, options.kv_heads, options.head_dim, options.page_size, options.pages},
            options.threads, options.isa, options.seed, options.verify),
        random_(options.seed + 1) {
    prefix_len_ = options.shared > 0 ? std::lround(options.prompt_mean / 2) : 0;
    const std::int64_t most =
        pages_for(prefix_len_ + longest(options.prompt_mean) + longest(options.output_mean)) + 1;
    if (pages_for(prefix_len_) + most > options.pages) {
      throw UsageError(fmt::format("--pages {}: the longest request may need {}", options.pages,
                                   pages_for(prefix_len_) + most));
    }
    double arrival = 0;
    for (std::int64_t i = 0; i < options.requests; ++i) {
      arrival += exponential() / options.rate;
      waiting_.push_back({arrival, random_.uniform() < options.shared, length(options.prompt_mean),
                          length(options.output_mean)});
    }
  }

  Figures run() {
    reserved_pages_ = pages_for(prefix_len_);
    const std::int32_t prefix = server_.create();
    for (std::int64_t left = prefix_len_; left > 0; left -= std::min(left, options_.chunk))
      step({{prefix, std::min(left, options_.chunk)}});
    while (!waiting_.empty() || !active_.empty()) {
      admit(prefix);
      step_all();
      retire();
    }
    server_.free(prefix);
    if (server_.info().free_pages != options_.pages) throw Failure("pages of the cache were lost");
    return figures_;
  }
  const SimulatedServer& server() const { return server_; }

 private:
  double exponential() { return -std::log1p(-random_.uniform()); }
  static std::int64_t longest(double mean) {
    return static_cast<std::int64_t>(std::ceil(kLongest * mean));
  }
  std::int64_t length(double mean) {
    return std::clamp<std::int64_t>(std::llround(exponential() * mean), 1, longest(mean));
  }
  std::int64_t pages_for(std::int64_t tokens) const {
    return (tokens + options_.page_size - 1) / options_.page_size;
  }
  // What a request will hold in the end, if none is shared, and one while a page is copied.
  std::int64_t pages_of(const SimulatedRequest& request) const {
    return pages_for((request.is_forked ? prefix_len_ : 0) + request.prompt + request.output) + 1;
  }

  // In the order of arrival, while the pool has room for all of a request.
  void admit(std::int32_t prefix) {
    if (active_.empty()) now_ = std::max(now_, waiting_.front().arrival);
    while (!waiting_.empty() && waiting_.front().arrival <= now_ &&
           static_cast<std::int64_t>(active_.size()) < options_.max_batch) {
      SimulatedRequest request = waiting_.front();
      request.pages = pages_of(request);
      if (reserved_pages_ + request.pages > options_.pages) return;
      waiting_.pop_front();
      reserved_pages_ += request.pages;
      request.sequence = request.is_forked ? server_.fork(prefix) : server_.create();
      figures_.forked += request.is_forked ? 1 : 0;
      active_.push_back(request);
    }
  }
  void step(const std::vector<StepPart>& parts) {
    const double seconds = server_.step(parts);
    now_ += seconds;
    figures_.step_seconds.push_back(seconds);
    for (const StepPart& part : parts) figures_.tokens += part.count;
    const intflash_cache_info info = server_.info();
    figures_.held_pages.push_back(static_cast<double>(info.num_pages - info.free_pages));
    if (options_.verify)
      figures_.largest_error = std::max(figures_.largest_error, server_.verify(parts));
  }
  // A chunk of each prompt, or one token of each output.
  void step_all() {
    std::vector<StepPart> parts;
    for (SimulatedRequest& request : active_) {
      const std::int64_t count = request.prompt > 0 ? std::min(request.prompt, options_.chunk) : 1;
      (request.prompt > 0 ? request.prompt : request.output) -= count;
      parts.push_back({request.sequence, count});
    }
    step(parts);
  }
  void retire() {
    for (std::size_t i = active_.size(); i-- > 0;) {
      if (active_[i].prompt > 0 || active_[i].output > 0) continue;
      server_.free(active_[i].sequence);
      reserved_pages_ -= active_[i].pages;
      active_.erase(active_.begin() + static_cast<std::ptrdiff_t>(i));
      ++figures_.served;
    }
  }

  const ServeSimOptions options_;
  SimulatedServer server_;
  RandomNumbers random_;
  std::int64_t prefix_len_ = 0;
  std::deque<SimulatedRequest> waiting_;
  std::vector<SimulatedRequest> active_;
  std::int64_t reserved_pages_ = 0;
  double now_ = 0;
  Figures figures_;
};

double peak_process_bytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

nlohmann::ordered_json report_of(const ServeSimOptions& options, const Simulation& simulation,
                                 const Figures& figures) {
  const double seconds = sum_of(figures.step_seconds);
  const double steps = static_cast<double>(figures.step_seconds.size());
  const double peak = largest_of(figures.held_pages);
  const intflash_cache_info cache = simulation.server().info();
  nlohmann::ordered_json report = {
      {"port", simulation.server().port()},
      {"requests", figures.served},
      {"forked", figures.forked},
      {"steps", figures.step_seconds.size()},
      {"tokens", figures.tokens},
      {"tokens_per_second", static_cast<double>(figures.tokens) / seconds},
      {"step_seconds_p50", quantile(figures.step_seconds, 0.5)},
      {"step_seconds_p99", quantile(figures.step_seconds, 0.99)},
      {"pages", options.pages},
      {"pages_mean", sum_of(figures.held_pages) / steps},
      {"pages_peak", peak},
      {"pages_peak_bytes", peak * static_cast<double>(cache.page_bytes)},
      {"process_peak_bytes", peak_process_bytes()},
  };
  if (options.verify) report["largest_relative_error"] = figures.largest_error;
  return report;
}

void print_text(const nlohmann::ordered_json& report) {
  const auto number = [&](const char* key) { return report[key].get<double>(); };
  constexpr double kMebi = 1 << 20;
  fmt::print("served     {} requests, {} of them forked, in {} steps on port {}\n",
             number("requests"), number("forked"), number("steps"),
             report["port"].get<std::string>());
  fmt::print("attention  {:.0f} tokens/s of {} tokens, append included, one layer\n",
             number("tokens_per_second"), number("tokens"));
  fmt::print("step       p50 {:.3f} ms, p99 {:.3f} ms\n", number("step_seconds_p50") * 1e3,
             number("step_seconds_p99") * 1e3);
  fmt::print("pages      mean {:.1f}, peak {} of {}\n", number("pages_mean"), number("pages_peak"),
             number("pages"));
  fmt::print("memory     peak {:.1f} MiB of pages, {:.1f} MiB of the process\n",
             number("pages_peak_bytes") / kMebi, number("process_peak_bytes") / kMebi);
  if (!report.contains("largest_relative_error")) return;
  fmt::print("verified   every output: the dense call's bits, relative L1 error at most {:.2f} %\n",
             number("largest_relative_error") * 100);
}

}  // namespace

int run_serve_sim(const ServeSimOptions& options) {
  Simulation simulation(options);
  const Figures figures = simulation.run();
  const nlohmann::ordered_json report = report_of(options, simulation, figures);
  if (options.json) {
    fmt::print("{}\n", report.dump(2));
  } else {
    print_text(report);
  }
  return 0;
}

}  // namespace intflash

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Times of what surrounds the products, per port, on data in L2: scanning, quantizing, packing,
// writing out; and of waking a second thread. For whole calls and their shares of the machine's
// limit there is `intflash bench`.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "context/ports.h"
#include "core/rotation.h"
#include "threads/thread_pool.h"

namespace intflash::internal {
namespace {

constexpr std::int64_t kDim = 128;
constexpr std::int64_t kTokens = 1024;

struct Aligned {
  explicit Aligned(std::size_t bytes)
      : data(std::aligned_alloc(64, (bytes + 63) / 64 * 64), &std::free) {
    std::memset(data.get(), 0, bytes);
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data.get());
  }
  std::unique_ptr<void, void (*)(void*)> data;
};

struct Block {
  Aligned source{kTokens * kDim * 4};
  Aligned codes{kBlockTokens * kDim};
  Aligned scale{kBlockTokens * 4};
  Aligned tiles{kBlockTokens * kDim};
  Aligned key_sum{kBlockTokens * 4};

  Block() {
    for (std::int64_t i = 0; i < kTokens * kDim; ++i) {
      source.as<float>()[i] = static_cast<float>((i * 7919) % 1009) / 504.5f - 1.0f;
    }
  }
  RowSource rows(std::int64_t token) const {
    return {source.as<float>() + token * kDim, Dtype::kF32, kDim};
  }
};

// Calls part(first token) for each block of 64 tokens, and counts the bytes of f32 that it stands
// for.
template <class Part>
void time_blocks(benchmark::State& state, Part part) {
  for (auto _ : state) {
    for (std::int64_t token = 0; token < kTokens; token += kBlockTokens) part(token);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * kTokens * kDim * 4);
}

void scan(benchmark::State& state, const KernelTable& kernels) {
  const Block block;
  time_blocks(state, [&](std::int64_t token) {
    benchmark::DoNotOptimize(kernels.rows->max_magnitude(block.rows(token), kBlockTokens, kDim));
  });
}

void sum(benchmark::State& state, const KernelTable& kernels) {
  const Block block;
  std::vector<float> sums(kDim);
  time_blocks(state, [&](std::int64_t token) {
    benchmark::DoNotOptimize(
        kernels.rows->sum_rows(block.rows(token), kBlockTokens, kDim, sums.data()));
  });
}

void quantize_rows(benchmark::State& state, const KernelTable& kernels,
                   const std::uint32_t* signs) {
  const Block block;
  time_blocks(state, [&](std::int64_t token) {
    kernels.rows->quantize_rows({block.rows(token),
                                 kBlockTokens,
                                 kDim,
                                 nullptr,
                                 signs,
                                 block.codes.as<std::int8_t>(),
                                 nullptr,
                                 kDim,
                                 block.scale.as<float>(),
                                 false,
                                 {}});
  });
}
void quantize(benchmark::State& state, const KernelTable& kernels) {
  quantize_rows(state, kernels, nullptr);
}
void rotate_and_quantize(benchmark::State& state, const KernelTable& kernels) {
  quantize_rows(state, kernels, rotation_signs(true));
}

void pack_keys(benchmark::State& state, const KernelTable& kernels) {
  const Block block;
  time_blocks(state, [&](std::int64_t) {
    kernels.rows->pack_keys(block.codes.as<std::int8_t>(), kDim, kDim,
                            block.tiles.as<std::int8_t>(), block.key_sum.as<std::int32_t>());
  });
}

void pack_values(benchmark::State& state, const KernelTable& kernels) {
  const Block block;
  time_blocks(state, [&](std::int64_t) {
    kernels.rows->pack_values(block.codes.as<std::int8_t>(), kDim, kDim,
                              block.tiles.as<std::int8_t>());
  });
}

// Calls write_row for rows of out in turn.
void write_rows(benchmark::State& state, const KernelTable& kernels, const std::uint32_t* signs) {
  const Block block;
  time_blocks(state, [&](std::int64_t token) {
    for (std::int64_t r = token; r < token + kBlockTokens; ++r) {
      kernels.rows->write_row(block.source.as<float>() + r * kDim, 1.0f, kDim, signs, nullptr,
                              Dtype::kF32, block.tiles.as<float>());
    }
  });
}
void write_row(benchmark::State& state, const KernelTable& kernels) {
  write_rows(state, kernels, nullptr);
}
void unrotate_and_write_row(benchmark::State& state, const KernelTable& kernels) {
  write_rows(state, kernels, rotation_signs(true));
}

// Two workers that each wait for the other: both threads must be there. Where other programs take a
// CPU away the mean says nothing; the counter is the median.
void wake_and_join(benchmark::State& state, const Parallel& parallel) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  for (auto _ : state) {
    std::atomic<int> missing = 2;
    const auto start = Clock::now();
    run_parallel(
        parallel, 2,
        [](void* context, std::int32_t) {
          std::atomic<int>& missing = *static_cast<std::atomic<int>*>(context);
          --missing;
          while (missing > 0) continue;
        },
        &missing);
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
  state.counters["median_s"] = seconds[seconds.size() / 2];
}

void wake_and_join_pool(benchmark::State& state) {
  pthread_t helper;
  ThreadPool pool({&helper, 1}, this_threads_cpus());
  wake_and_join(state, pool.parallel());
}

using PartFn = void (*)(benchmark::State&, const KernelTable&);

// One benchmark per part and port that this CPU runs.
const int registered = [] {
  struct Named {
    const char* name;
    PartFn part;
  };
  const Named parts[] = {
      {"scan", scan},           {"sum", sum},
      {"quantize", quantize},   {"rotate_and_quantize", rotate_and_quantize},
      {"pack_keys", pack_keys}, {"pack_values", pack_values},
      {"write_row", write_row}, {"unrotate_and_write_row", unrotate_and_write_row}};
  for (const Named& named : parts) {
    for (const PortEntry& port : ports()) {
      const KernelTable* kernels = find_kernels(port.name);
      if (kernels == nullptr) continue;
      const std::string name = std::string(named.name) + "/" + port.name;
      benchmark::RegisterBenchmark(
          name.c_str(), [part = named.part, kernels](benchmark::State& s) { part(s, *kernels); });
    }
  }
  benchmark::RegisterBenchmark("wake_and_join/pool", wake_and_join_pool)->Iterations(5000);
  if (has_openmp()) {
    benchmark::RegisterBenchmark("wake_and_join/openmp", [](benchmark::State& state) {
      wake_and_join(state, openmp_parallel());
    })->Iterations(5000);
  }
  return 0;
}();

}  // namespace
}  // namespace intflash::internal

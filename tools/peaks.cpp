// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The limits are measured on threads like those of the library's runs.
#include "peaks.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "machine/machine.h"
#include "stopwatch.h"
#include "threads/thread_pool.h"

namespace intflash {
namespace {

internal::ThreadPool& pool() {
  static pthread_t helpers[internal::kMaxCpus];
  static internal::ThreadPool pool(helpers, internal::this_threads_cpus());
  return pool;
}

// Runs work(worker) on so many threads at once and returns the seconds that all of them took.
template <class Work>
double seconds_on_threads(int threads, const Work& work) {
  const auto call = [](void* context, std::int32_t worker) {
    (*static_cast<const Work*>(context))(worker);
  };
  return seconds_of([&] { pool().run(threads, call, const_cast<Work*>(&work)); });
}

// Keeps the compiler from dropping a result nobody reads.
template <class T>
void keep(const T& value) {
  asm volatile("" : : "m"(value) : "memory");
}

using Words = std::uint64_t
    __attribute__((vector_size(16)));  // what every x86-64 and AArch64 CPU loads at once

// Four streams, a part of the buffer each: one alone leaves memory waiting for its prefetcher at
// every page.
Words sum_words(const std::byte* bytes, std::size_t size) {
  constexpr std::size_t kStreams = 4, kWordsPerLine = 64 / sizeof(Words);
  const std::size_t words = size / kStreams / 64 * kWordsPerLine;  // of a stream
  const auto* first = reinterpret_cast<const Words*>(bytes);
  Words sums[kStreams] = {};
  constexpr std::size_t kAhead = 16 * kWordsPerLine;
  for (std::size_t line = 0; line < words; line += kWordsPerLine) {
    for (std::size_t s = 0; s < kStreams; ++s)
      __builtin_prefetch(first + s * words + line + kAhead);
    for (std::size_t word = line; word < line + kWordsPerLine; ++word) {
      for (std::size_t s = 0; s < kStreams; ++s) sums[s] += first[s * words + word];
    }
  }
  return sums[0] + sums[1] + sums[2] + sums[3];
}

// What each thread gets of size bytes: whole lines in each of the streams of sum_words.
std::size_t part_of(std::size_t size, int threads) {
  return size / static_cast<std::size_t>(threads) / 256 * 256;
}

constexpr std::size_t kMebibyte = std::size_t{1} << 20;

}  // namespace

IntegerPeak::IntegerPeak(const internal::KernelTable& kernels, int threads, double sample_seconds)
    : kernels_(kernels), threads_(threads) {
  // Doubled until a sample is long enough: the first ones also wake the clock up.
  const auto sample = [&] { keep(kernels_.integer_peak(repeats_)); };
  while (shortest_of_three(sample) < sample_seconds) repeats_ *= 2;
}

double IntegerPeak::measure() {
  std::vector<double> operations(static_cast<std::size_t>(threads_));
  const double seconds = seconds_on_threads(threads_, [&](std::int32_t worker) {
    operations[static_cast<std::size_t>(worker)] = kernels_.integer_peak(repeats_);
  });
  double sum = 0;
  for (const double count : operations) sum += count;
  return sum / seconds;
}

MemoryRate::MemoryRate(std::size_t bytes) : buffer_(bytes) {
  // 4 KiB pages cost up to a tenth of the rate. Advice only: nothing fails without huge pages.
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t to_page = page - reinterpret_cast<std::uintptr_t>(buffer_.data()) % page;
  if (bytes > 2 * page) {
    ::madvise(buffer_.data() + to_page, (bytes - to_page) / page * page, MADV_HUGEPAGE);
  }
  std::memset(buffer_.data(), 1, buffer_.size());  // untouched pages would all be one page of zeros
}

double MemoryRate::read(int threads) {
  const std::size_t part = part_of(bytes(), threads);
  const double seconds = seconds_on_threads(threads, [&](std::int32_t worker) {
    keep(sum_words(buffer_.data() + part * static_cast<std::size_t>(worker), part));
  });
  return static_cast<double>(part * static_cast<std::size_t>(threads)) / seconds;
}

double MemoryRate::copy(int threads) {
  const std::size_t half = bytes() / 2;
  const std::size_t part = part_of(half, threads);
  const double seconds = seconds_on_threads(threads, [&](std::int32_t worker) {
    std::byte* from = buffer_.data() + part * static_cast<std::size_t>(worker);
    std::memcpy(from + half, from, part);
    keep(from);
  });
  return static_cast<double>(2 * part * static_cast<std::size_t>(threads)) / seconds;
}

std::size_t l3_test_bytes() {
  const internal::Machine& machine = internal::this_machine();
  const auto l2 = static_cast<std::size_t>(machine.l2_bytes * std::max(machine.num_cores, 1));
  const auto l3 = static_cast<std::size_t>(machine.l3_bytes);
  // Eight times the L2 caches leaves them little to contribute; half of the L3 leaves room for what
  // else runs.
  return std::clamp(8 * l2, kMebibyte, std::max(l3 / 2, kMebibyte));
}

std::size_t dram_test_bytes() {
  const auto l3 = static_cast<std::size_t>(internal::this_machine().l3_bytes);
  const auto available = static_cast<std::size_t>(::sysconf(_SC_AVPHYS_PAGES)) *
                         static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  // Four times the L3: at most a quarter of what is read again can come from it.
  const std::size_t affordable = std::clamp(available / 4, kMebibyte, 2048 * kMebibyte);
  return std::min(std::max(4 * l3, 256 * kMebibyte), affordable);
}

}  // namespace intflash

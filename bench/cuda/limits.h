// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a device can do at most of what attention is made of.
#pragma once

#include <cstddef>
#include <cstdint>

namespace intflash::bench {

// A kernel of mma.sync.m16n8k32 in s8 alone, on registers: so many blocks, each of which repeats
// its products so many times.
struct Products {
  static constexpr int kThreads = 256;
  static constexpr int kChains = 8;  // that do not wait for each other, of each warp
  std::int64_t blocks;
  std::int32_t repeats;

  // Multiplications and additions.
  double operations() const {
    return static_cast<double>(blocks * repeats) * (kThreads / 32) * kChains * 2 * 16 * 8 * 32;
  }
  std::size_t sums_bytes() const {
    return static_cast<std::size_t>(blocks) * kThreads * sizeof(std::int32_t);
  }
};
// Enqueues it; sums: so many bytes of the device's. nullptr, or what CUDA says is wrong.
__attribute__((visibility("default"))) const char* enqueue_products(const Products& products,
                                                                    void* stream,
                                                                    std::int32_t* sums);

// A kernel that only reads, each byte once: so many blocks.
struct Reads {
  static constexpr int kThreads = 256;
  static constexpr int kLoads = 32;  // of 16 bytes, of each thread
  std::int64_t blocks;

  std::size_t bytes() const { return static_cast<std::size_t>(blocks) * kThreads * kLoads * 16; }
};
// The same of it; from: its bytes; sink: a number that the compiler must take for written.
__attribute__((visibility("default"))) const char* enqueue_reads(const Reads& reads, void* stream,
                                                                 const void* from,
                                                                 std::uint32_t* sink);

}  // namespace intflash::bench

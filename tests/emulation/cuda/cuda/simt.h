// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// In place of src/cuda/simt.h: what a thread of a device can do, on the host. Products of matrices
// go by the fragments of the PTX ISA's mma.sync.m16n8k16 and m16n8k32 (9.7.15), whatever kernels
// make of them.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "block.h"
#include "stream.h"
#include "tile/portability.h"

#define INTFLASH_DEVICE inline
#define INTFLASH_KERNEL(threads) void
#define INTFLASH_DEVICE_TABLE const

namespace intflash::internal {
namespace {

constexpr int kWarpThreads = 32;

using BlockPlace3 = emulation::Place;
inline BlockPlace3 block_place() { return emulation::Block::current().place(); }
inline std::int32_t thread_place() { return emulation::Block::current().thread(); }

inline void sync_block() { emulation::Block::current().sync_block(); }
inline void sync_warp() { emulation::Block::current().sync_warp(); }

// ---- What a warp does together ----

inline std::int32_t warp_max(std::int32_t x) {
  static constexpr emulation::Meeting kMeeting = {
      "max", [](void* const* lanes) {
        std::int32_t largest = *static_cast<std::int32_t*>(lanes[0]);
        for (int i = 1; i < kWarpThreads; ++i)
          largest = std::max(largest, *static_cast<std::int32_t*>(lanes[i]));
        for (int i = 0; i < kWarpThreads; ++i) *static_cast<std::int32_t*>(lanes[i]) = largest;
      }};
  emulation::Block::current().meet(kMeeting, &x);
  return x;
}
inline std::int32_t warp_sum(std::int32_t x) {
  static constexpr emulation::Meeting kMeeting = {"sum", [](void* const* lanes) {
                                                    std::uint32_t sum = 0;
                                                    for (int i = 0; i < kWarpThreads; ++i)
                                                      sum += *static_cast<std::uint32_t*>(lanes[i]);
                                                    for (int i = 0; i < kWarpThreads; ++i)
                                                      *static_cast<std::uint32_t*>(lanes[i]) = sum;
                                                  }};
  emulation::Block::current().meet(kMeeting, &x);
  return x;
}
inline bool warp_any(bool x) {
  static constexpr emulation::Meeting kMeeting = {"any", [](void* const* lanes) {
                                                    bool any = false;
                                                    for (int i = 0; i < kWarpThreads; ++i)
                                                      any |= *static_cast<bool*>(lanes[i]);
                                                    for (int i = 0; i < kWarpThreads; ++i)
                                                      *static_cast<bool*>(lanes[i]) = any;
                                                  }};
  emulation::Block::current().meet(kMeeting, &x);
  return x;
}
// Of lanes 4 i ... 4 i + 3.
template <class Combine>
void combine_quads(void* const* lanes, Combine combine) {
  for (int first = 0; first < kWarpThreads; first += 4) {
    std::int32_t all = *static_cast<std::int32_t*>(lanes[first]);
    for (int i = first + 1; i < first + 4; ++i)
      all = combine(all, *static_cast<std::int32_t*>(lanes[i]));
    for (int i = first; i < first + 4; ++i) *static_cast<std::int32_t*>(lanes[i]) = all;
  }
}
inline std::int32_t quad_max(std::int32_t x) {
  static constexpr emulation::Meeting kMeeting = {
      "quad max", [](void* const* lanes) {
        combine_quads(lanes, [](std::int32_t a, std::int32_t b) { return std::max(a, b); });
      }};
  emulation::Block::current().meet(kMeeting, &x);
  return x;
}
inline std::int32_t quad_sum(std::int32_t x) {
  static constexpr emulation::Meeting kMeeting = {
      "quad sum", [](void* const* lanes) {
        combine_quads(lanes, [](std::int32_t a, std::int32_t b) { return a + b; });
      }};
  emulation::Block::current().meet(kMeeting, &x);
  return x;
}
inline float lane_value(float x, std::int32_t lane) {
  struct Asked {
    float x;
    std::int32_t lane;
  };
  static constexpr emulation::Meeting kMeeting = {"lane", [](void* const* lanes) {
                                                    float all[kWarpThreads];
                                                    for (int i = 0; i < kWarpThreads; ++i)
                                                      all[i] = static_cast<Asked*>(lanes[i])->x;
                                                    for (int i = 0; i < kWarpThreads; ++i) {
                                                      auto* const asked =
                                                          static_cast<Asked*>(lanes[i]);
                                                      asked->x = all[asked->lane];
                                                    }
                                                  }};
  Asked asked = {x, lane};
  emulation::Block::current().meet(kMeeting, &asked);
  return asked.x;
}

// ---- What a thread does ----

inline std::int32_t any_value() { return 0x6b6b; }  // what a product may be
inline std::int32_t made_once(std::int32_t x) { return x; }
template <class T>
const T* made_once(const T* x) {
  return x;
}
inline std::uint32_t shift_right(std::uint32_t x, std::uint32_t bits) {
  return bits < 32 ? x >> bits : 0;
}
inline std::uint32_t pick_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t which) {
  const std::uint64_t bytes = std::uint64_t{b} << 32 | a;
  std::uint32_t picked = 0;
  for (int i = 0; i < 4; ++i)
    picked |= static_cast<std::uint32_t>(bytes >> 8 * (which >> 4 * i & 7) & 0xff) << 8 * i;
  return picked;
}
inline std::uint32_t add_low_products(std::uint32_t c, std::uint32_t a, std::uint32_t b) {
  return c + (a & 0xffff) * (b & 0xff) + (a >> 16) * (b >> 8 & 0xff);
}
inline std::uint32_t add_high_products(std::uint32_t c, std::uint32_t a, std::uint32_t b) {
  return add_low_products(c, a, b >> 16);
}

// ---- Products of matrices ----

// A lane's fragments of a product of matrices.
struct Fragments {
  std::int32_t* c;
  std::uint32_t a[4], b[2];
};
// Over so many products.
template <class B, int kProducts>
void multiply_matrices(void* const* lanes) {
  std::int32_t a[16][kProducts], b[8][kProducts];
  for (int lane = 0; lane < kWarpThreads; ++lane) {
    const auto& of = *static_cast<const Fragments*>(lanes[lane]);
    const int group = lane / 4, place = lane % 4;
    for (int i = 0; i < kProducts / 2; ++i) {
      const int row = i < 4 || (i >= 8 && i < 12) ? group : group + 8;
      const int column = place * 4 + i % 4 + (i >= 8 ? 16 : 0);
      a[row][column] = static_cast<std::int8_t>(of.a[i / 4] >> 8 * (i % 4));
    }
    for (int i = 0; i < kProducts / 4; ++i)
      b[group][place * 4 + i % 4 + (i >= 4 ? 16 : 0)] = static_cast<B>(of.b[i / 4] >> 8 * (i % 4));
  }
  for (int lane = 0; lane < kWarpThreads; ++lane) {
    std::int32_t* const c = static_cast<const Fragments*>(lanes[lane])->c;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < kProducts; ++k) c[i] += a[row][k] * b[column][k];
    }
  }
}
inline void multiply_add_s8(std::int32_t (&c)[4], std::uint32_t a0, std::uint32_t a1,
                            std::uint32_t b0) {
  static constexpr emulation::Meeting kMeeting = {"s8 mma", multiply_matrices<std::int8_t, 16>};
  Fragments fragments = {c, {a0, a1, 0, 0}, {b0, 0}};
  emulation::Block::current().meet(kMeeting, &fragments);
}
inline void multiply_add_u8(std::int32_t (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                            std::uint32_t b1) {
  static constexpr emulation::Meeting kMeeting = {"u8 mma", multiply_matrices<std::uint8_t, 32>};
  Fragments fragments = {c, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  emulation::Block::current().meet(kMeeting, &fragments);
}

template <class A>
std::int32_t add_four(std::int32_t c, std::uint32_t a, std::uint32_t b) {
  for (int i = 0; i < 4; ++i)
    c += static_cast<A>(a >> 8 * i) * static_cast<std::int8_t>(b >> 8 * i);
  return c;
}
inline std::int32_t add_four_s8(std::int32_t c, std::uint32_t a, std::uint32_t b) {
  return add_four<std::int8_t>(c, a, b);
}
inline std::int32_t add_four_u8(std::int32_t c, std::uint32_t a, std::uint32_t b) {
  return add_four<std::uint8_t>(c, a, b);
}

// ---- Memory ----

inline void raise_to(std::uint32_t* largest, std::uint32_t x) { *largest = std::max(*largest, x); }
inline void lower_to(std::int64_t* least, std::int64_t x) { *least = std::min(*least, x); }

template <class T>
class Shared {
 public:
  explicit Shared(std::size_t byte) : byte_(byte) {}
  T load(std::int64_t i) const {
    T x;
    emulation::Block::current().load(bytes(i), &x);
    return x;
  }
  void store(std::int64_t i, T x) const { emulation::Block::current().store(bytes(i), &x); }
  emulation::Bytes bytes(std::int64_t i) const {
    return {byte_ + static_cast<std::size_t>(i) * sizeof(T), sizeof(T), alignof(T)};
  }

 private:
  std::size_t byte_;
};

struct alignas(16) Bytes16 {
  std::uint32_t word[4];
};
inline void copy_async(Shared<Bytes16> to, std::int64_t i, const void* from, bool is_there) {
  static constexpr Bytes16 kZeros = {};
  emulation::Block::current().begin_copy(to.bytes(i), is_there ? from : &kZeros);
}
inline void end_copies() { emulation::Block::current().end_copies(); }
template <int kLeft>
void wait_copies() {
  emulation::Block::current().wait_copies(kLeft);
}

// ---- Launching ----

struct Grid {
  std::int64_t x, y, z;
  std::int32_t threads;
  std::size_t shared_bytes;
};

// Blocks one after the other, up to the first fault.
inline cudaError_t run_blocks(const Grid& grid, const std::function<void()>& body) {
  if (!emulation::take_launch()) return emulation::launch_failure("the device is lost");
  const std::int64_t blocks = grid.x * grid.y * grid.z;
  for (std::int64_t i = 0; i < blocks; ++i) {
    const emulation::Place place = {static_cast<std::int32_t>(i % grid.x),
                                    static_cast<std::int32_t>(i / grid.x % grid.y),
                                    static_cast<std::int32_t>(i / grid.x / grid.y)};
    emulation::Block block(place, grid.threads, grid.shared_bytes);
    const std::string fault = block.run(body);
    if (!fault.empty()) return emulation::launch_failure(fault);
  }
  return cudaSuccess;
}

template <class... Arguments>
cudaError_t launch(void (*kernel)(Arguments...), const Grid& grid, void* stream,
                   const Arguments&... arguments) {
  if (!emulation::take_call()) return cudaErrorLaunchOutOfResources;
  emulation::enqueue(stream, [=] { return run_blocks(grid, [&] { kernel(arguments...); }); });
  return cudaSuccess;
}

}  // namespace
}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a thread of a device can do that a CPU cannot, one instruction to a function, named by
// meaning. tests/emulation/cuda has these for the host; kernels use nothing else of CUDA's.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "tile/portability.h"

#define INTFLASH_DEVICE __device__ inline __attribute__((always_inline))
// 256 threads at a time leave each as many registers as it can have: where the compiler aims at
// more of them, it spills some.
#define INTFLASH_KERNEL(threads) __global__ void __launch_bounds__(threads, (threads) < 256 ? 2 : 1)
// A table that kernels look up by an index.
#define INTFLASH_DEVICE_TABLE __device__ const

namespace intflash::internal {
namespace {

constexpr int kWarpThreads = 32;

struct BlockPlace3 {
  std::int32_t x, y, z;
};
INTFLASH_DEVICE BlockPlace3 block_place() {
  return {static_cast<std::int32_t>(blockIdx.x), static_cast<std::int32_t>(blockIdx.y),
          static_cast<std::int32_t>(blockIdx.z)};
}
INTFLASH_DEVICE std::int32_t thread_place() { return static_cast<std::int32_t>(threadIdx.x); }

// All threads of the block, or of the warp, see what the others have written before.
INTFLASH_DEVICE void sync_block() { __syncthreads(); }
INTFLASH_DEVICE void sync_warp() { __syncwarp(); }

// Of all lanes of the warp, which call it together.
INTFLASH_DEVICE std::int32_t warp_max(std::int32_t x) { return __reduce_max_sync(~0u, x); }
INTFLASH_DEVICE std::int32_t warp_sum(std::int32_t x) { return __reduce_add_sync(~0u, x); }
INTFLASH_DEVICE bool warp_any(bool x) { return __any_sync(~0u, x) != 0; }
// Of lanes 4 i ... 4 i + 3, for each of them.
INTFLASH_DEVICE std::int32_t quad_max(std::int32_t x) {
  x = max_of(x, __shfl_xor_sync(~0u, x, 1));
  return max_of(x, __shfl_xor_sync(~0u, x, 2));
}
INTFLASH_DEVICE std::int32_t quad_sum(std::int32_t x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
INTFLASH_DEVICE float lane_value(float x, std::int32_t lane) { return __shfl_sync(~0u, x, lane); }

// What nobody takes: it costs no instruction.
INTFLASH_DEVICE std::int32_t any_value() {
  std::int32_t x;
  asm("" : "=r"(x));
  return x;
}
// x, of which the compiler knows nothing: so that it puts no operation off into a loop.
INTFLASH_DEVICE std::int32_t made_once(std::int32_t x) {
  asm("" : "+r"(x));
  return x;
}
template <class T>
INTFLASH_DEVICE const T* made_once(const T* x) {
  asm("" : "+l"(x));
  return x;
}
// x >> bits; 0 from 32 on.
INTFLASH_DEVICE std::uint32_t shift_right(std::uint32_t x, std::uint32_t bits) {
  std::uint32_t shifted;
  asm("shr.u32 %0, %1, %2;" : "=r"(shifted) : "r"(x), "r"(bits));
  return shifted;
}
// Four of the bytes of a, which are 0 to 3, and b, 4 to 7: a hexadecimal digit for each.
INTFLASH_DEVICE std::uint32_t pick_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t which) {
  return __byte_perm(a, b, which);
}
// c plus both halves of a times bytes 0 and 1 of b, or 2 and 3.
INTFLASH_DEVICE std::uint32_t add_low_products(std::uint32_t c, std::uint32_t a, std::uint32_t b) {
  return __dp2a_lo(a, b, c);
}
INTFLASH_DEVICE std::uint32_t add_high_products(std::uint32_t c, std::uint32_t a, std::uint32_t b) {
  return __dp2a_hi(a, b, c);
}

// a * b + c in a matrix of 16 rows and 8 columns, by the fragments of the PTX ISA's
// mma.sync.m16n8k16 and m16n8k32: with group = lane / 4 and quad = lane % 4,
//   a[0], a[2]  row group, columns 4 quad ... 4 quad + 3, and the same behind 16
//   a[1], a[3]  row group + 8 likewise
//   b0, b1      column group, rows 4 quad ... 4 quad + 3, and the same behind 16
//   c[0], c[1]  row group, columns 2 quad and 2 quad + 1
//   c[2], c[3]  row group + 8 likewise
// Of s8 and s8, over 16 products.
INTFLASH_DEVICE void multiply_add_s8(std::int32_t (&c)[4], std::uint32_t a0, std::uint32_t a1,
                                     std::uint32_t b0) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(b0));
}
// Of s8 and u8, over 32.
INTFLASH_DEVICE void multiply_add_u8(std::int32_t (&c)[4], const std::uint32_t (&a)[4],
                                     std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c plus four products of bytes of a and b, which are signed; of a unsigned.
INTFLASH_DEVICE std::int32_t add_four_s8(std::int32_t c, std::uint32_t a, std::uint32_t b) {
  std::int32_t sum;
  asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
}
INTFLASH_DEVICE std::int32_t add_four_u8(std::int32_t c, std::uint32_t a, std::uint32_t b) {
  std::int32_t sum;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
}

// Atomically, in the device's memory.
INTFLASH_DEVICE void raise_to(std::uint32_t* largest, std::uint32_t x) { atomicMax(largest, x); }
INTFLASH_DEVICE void lower_to(std::int64_t* least, std::int64_t x) {
  atomicMin(reinterpret_cast<long long*>(least), static_cast<long long>(x));
}

// Elements of the block's shared memory from a byte on, which is a multiple of their alignment.
template <class T>
class Shared {
 public:
  INTFLASH_DEVICE explicit Shared(std::size_t byte) {
    extern __shared__ __align__(128) char memory[];
    data_ = reinterpret_cast<T*>(memory + byte);
  }
  INTFLASH_DEVICE T load(std::int64_t i) const { return data_[i]; }
  INTFLASH_DEVICE void store(std::int64_t i, T x) const { data_[i] = x; }
  INTFLASH_DEVICE T* address(std::int64_t i) const { return data_ + i; }

 private:
  T* data_;
};

// 16 bytes of the device's memory into shared memory, on their own time: they are there once the
// thread has waited for the group that it was in, and others have met it at a barrier.
struct alignas(16) Bytes16 {
  std::uint32_t word[4];
};
// is_there = false: zeros, and nothing is read.
INTFLASH_DEVICE void copy_async(Shared<Bytes16> to, std::int64_t i, const void* from,
                                bool is_there) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to.address(i)));
  const std::int32_t bytes = is_there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(address), "l"(from), "r"(bytes)
               : "memory");
}
// Ends a group of copies.
INTFLASH_DEVICE void end_copies() { asm volatile("cp.async.commit_group;" : : : "memory"); }
// Waits for all groups of this thread's but the last kLeft.
template <int kLeft>
INTFLASH_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" : : "n"(kLeft) : "memory");
}

// Blocks of a kernel, and what they have of a multiprocessor.
struct Grid {
  std::int64_t x, y, z;
  std::int32_t threads;
  std::size_t shared_bytes;
};

template <class... Arguments>
cudaError_t launch(void (*kernel)(Arguments...), const Grid& grid, void* stream,
                   const Arguments&... arguments) {
  const auto* address = reinterpret_cast<const void*>(kernel);
  // What every kernel has unasked; those that want more want the same at each launch, for the
  // attribute is the kernel's, and other threads launch it too.
  constexpr std::size_t kSharedBytes = 48 * 1024;
  if (grid.shared_bytes > kSharedBytes) {
    const cudaError_t error = cudaFuncSetAttribute(
        address, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(grid.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  const void* pointers[] = {&arguments...};
  return cudaLaunchKernel(address,
                          dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                               static_cast<unsigned>(grid.z)),
                          dim3(static_cast<unsigned>(grid.threads)), const_cast<void**>(pointers),
                          grid.shared_bytes, static_cast<cudaStream_t>(stream));
}

}  // namespace
}  // namespace intflash::internal

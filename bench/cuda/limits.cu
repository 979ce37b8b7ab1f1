// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "limits.h"

#include "cuda/simt.h"

namespace intflash::bench {
namespace {

using namespace intflash::internal;

INTFLASH_KERNEL(Products::kThreads)
repeat_products(std::int32_t repeats, std::int32_t* sums) {
  const auto thread = static_cast<std::uint32_t>(thread_place());
  // All bytes of the operands differ: products of zeros would take less power.
  const std::uint32_t seed = thread * 2654435761u + 0x9e3779b9u;
  const std::uint32_t a[4] = {seed, seed * 3, seed * 5, seed * 7};
  std::int32_t c[Products::kChains][4] = {};
  for (std::int32_t i = 0; i < repeats; ++i) {
#pragma unroll
    for (int chain = 0; chain < Products::kChains; ++chain)
      multiply_add_u8(c[chain], a, seed * 9, seed * 11);
  }
  // In unsigned: they may wrap.
  std::uint32_t sum = 0;
  for (const auto& fragment : c) {
    for (const std::int32_t x : fragment) sum += static_cast<std::uint32_t>(x);
  }
  sums[std::int64_t{block_place().x} * Products::kThreads + thread_place()] =
      static_cast<std::int32_t>(sum);
}

INTFLASH_KERNEL(Reads::kThreads)
read_bytes(const Bytes16* from, std::uint32_t* sink) {
  constexpr int kAtATime = 8;
  const Bytes16* next =
      from + std::int64_t{block_place().x} * Reads::kThreads * Reads::kLoads + thread_place();
  std::uint32_t sum = 0;
  for (int i = 0; i < Reads::kLoads; i += kAtATime) {
    Bytes16 read[kAtATime];
#pragma unroll
    for (Bytes16& bytes : read) {
      bytes = *next;
      next += Reads::kThreads;
    }
#pragma unroll
    for (const Bytes16& bytes : read)
      sum |= bytes.word[0] | bytes.word[1] | bytes.word[2] | bytes.word[3];
  }
  if (sum == 0x9e3779b9u) *sink = sum;
}

}  // namespace

const char* enqueue_reads(const Reads& reads, void* stream, const void* from, std::uint32_t* sink) {
  const Grid grid = {reads.blocks, 1, 1, Reads::kThreads, 0};
  const auto* const first = static_cast<const Bytes16*>(from);
  const cudaError_t error = launch(read_bytes, grid, stream, first, sink);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

const char* enqueue_products(const Products& products, void* stream, std::int32_t* sums) {
  const Grid grid = {products.blocks, 1, 1, Products::kThreads, 0};
  const cudaError_t error = launch(repeat_products, grid, stream, products.repeats, sums);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace intflash::bench

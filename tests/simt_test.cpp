// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The emulated device itself: its products are those of whole matrices, and what no device would
// promise to serve is reported.
#include <cstdint>
#include <string>

#include <gtest/gtest.h>

#include "cuda/simt.h"
#include "random.h"
#include "seed.h"

namespace intflash::internal {
namespace {

// What a kernel comes to, in one block: "" or its fault.
template <class Kernel>
std::string run(std::int32_t threads, std::size_t shared_bytes, Kernel kernel) {
  emulation::Block block({0, 0, 0}, threads, shared_bytes);
  return block.run(kernel);
}

void expect_fault(const std::string& fault, const std::string& part) {
  EXPECT_NE(fault.find(part), std::string::npos) << "\"" << fault << "\"";
}

// ---- Products ----

// By the tables of the PTX ISA, section "Matrix fragments for mma.m16n8k32", of which those for
// m16n8k16 are the lower half: which element of a matrix byte i of a lane is.
struct Place {
  int row, column;
};
Place place_of_a(int lane, int i) {
  return {lane / 4 + (i / 4 % 2 == 1 ? 8 : 0), lane % 4 * 4 + i % 4 + (i >= 8 ? 16 : 0)};
}
Place place_of_b(int lane, int i) { return {lane % 4 * 4 + i % 4 + (i >= 4 ? 16 : 0), lane / 4}; }
Place place_of_c(int lane, int i) { return {lane / 4 + (i >= 2 ? 8 : 0), lane % 4 * 2 + i % 2}; }

template <class B, int kProducts, class Multiply>
void expect_products(Multiply multiply) {
  Random random(seed_from_test_name());
  std::uint8_t a[16][32], b[32][8];
  for (auto& row : a)
    for (std::uint8_t& x : row) x = static_cast<std::uint8_t>(random.below(256));
  for (auto& row : b)
    for (std::uint8_t& x : row) x = static_cast<std::uint8_t>(random.below(256));
  std::int32_t found[16][8] = {};
  const std::string fault = run(kWarpThreads, 0, [&] {
    const int lane = thread_place();
    std::uint32_t of_a[4] = {}, of_b[2] = {};
    for (int i = 0; i < 16; ++i) {
      const Place place = place_of_a(lane, i);
      of_a[i / 4] |= static_cast<std::uint32_t>(a[place.row][place.column]) << 8 * (i % 4);
    }
    for (int i = 0; i < 8; ++i) {
      const Place place = place_of_b(lane, i);
      of_b[i / 4] |= static_cast<std::uint32_t>(b[place.row][place.column]) << 8 * (i % 4);
    }
    std::int32_t c[4] = {7, 7, 7, 7};
    multiply(c, of_a, of_b);
    for (int i = 0; i < 4; ++i) found[place_of_c(lane, i).row][place_of_c(lane, i).column] = c[i];
  });
  EXPECT_EQ(fault, "");
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      std::int32_t expected = 7;
      for (int k = 0; k < kProducts; ++k)
        expected += static_cast<std::int8_t>(a[row][k]) * static_cast<B>(b[k][column]);
      EXPECT_EQ(found[row][column], expected) << row << ", " << column;
    }
  }
}

using OfA = std::uint32_t (&)[4];
using OfB = std::uint32_t (&)[2];
TEST(Simt, SignedProductsAreThoseOfMatrices) {
  expect_products<std::int8_t, 16>(
      [](std::int32_t(&c)[4], OfA a, OfB b) { multiply_add_s8(c, a[0], a[1], b[0]); });
}
TEST(Simt, UnsignedProductsAreThoseOfMatrices) {
  expect_products<std::uint8_t, 32>(
      [](std::int32_t(&c)[4], OfA a, OfB b) { multiply_add_u8(c, a, b[0], b[1]); });
}

// ---- A thread ----

TEST(Simt, ShiftsEndAtZero) {
  EXPECT_EQ(shift_right(0x80000000u, 31), 1u);
  EXPECT_EQ(shift_right(0x80000000u, 32), 0u);
  EXPECT_EQ(shift_right(0x80000000u, 1000), 0u);
}

TEST(Simt, BytesArePickedFromBothWords) {
  EXPECT_EQ(pick_bytes(0x33221100u, 0x77665544u, 0x7531), 0x77553311u);
  EXPECT_EQ(pick_bytes(0x33221100u, 0x77665544u, 0x7632), 0x77663322u);
}

TEST(Simt, HalvesAreMultipliedByBytes) {
  EXPECT_EQ(add_low_products(5, 0xfff00003u, 0x11ff0207u), 5 + 3 * 7 + 0xfff0 * 2u);
  EXPECT_EQ(add_high_products(5, 0xfff00003u, 0x11ff0207u), 5 + 3 * 0xff + 0xfff0 * 0x11u);
}

// ---- A warp ----

TEST(Simt, LanesGiveTheirValuesToAll) {
  std::int32_t largest = 0, sum = 0, largest_of_four = 0, sum_of_four = 0;
  bool any[2] = {};
  float third = 0;
  EXPECT_EQ(run(2 * kWarpThreads, 0,
                [&] {
                  const std::int32_t thread = thread_place();
                  largest = warp_max(thread == 40 ? 9 : -thread);
                  sum = warp_sum(thread);
                  any[thread / 32] = warp_any(thread == 5);
                  const std::int32_t four = quad_max(-thread);
                  if (thread == 46) largest_of_four = four;
                  const std::int32_t added = quad_sum(thread);
                  if (thread == 46) sum_of_four = added;
                  third = lane_value(static_cast<float>(thread), 3);
                }),
            "");
  EXPECT_EQ(largest, 9);
  EXPECT_EQ(sum, 32 * 32 + 31 * 16);
  EXPECT_EQ(largest_of_four, -44);
  EXPECT_EQ(sum_of_four, 44 + 45 + 46 + 47);
  EXPECT_TRUE(any[0]);
  EXPECT_FALSE(any[1]);
  EXPECT_EQ(third, 35.0f);
}

TEST(Simt, LanesThatMeetAtDifferentPlacesAreAFault) {
  expect_fault(run(kWarpThreads, 0,
                   [] {
                     if (thread_place() == 3) {
                       warp_sum(1);
                     } else {
                       warp_max(1);
                     }
                   }),
               "lanes of a warp meet at different places: max and sum");
}

TEST(Simt, AThreadThatDoesNotComeIsAFault) {
  expect_fault(run(kWarpThreads, 0,
                   [] {
                     if (thread_place() != 3) warp_sum(1);
                   }),
               "threads wait for others");
  expect_fault(run(2 * kWarpThreads, 0,
                   [] {
                     if (thread_place() < 32) {
                       sync_block();
                     } else if (thread_place() != 40) {
                       sync_warp();
                     }
                   }),
               "threads wait for others");
}

// ---- Shared memory ----

TEST(Simt, WhatBarriersPartIsNoRace) {
  std::int32_t seen = 0;
  EXPECT_EQ(run(2 * kWarpThreads, 4 * 64,
                [&] {
                  const Shared<std::int32_t> words(0);
                  const std::int32_t thread = thread_place();
                  words.store(thread, thread);
                  sync_block();
                  const std::int32_t next = words.load((thread + 1) % 64);
                  sync_block();
                  words.store(thread, next);
                  sync_warp();
                  seen = words.load(thread ^ 1);
                }),
            "");
  EXPECT_EQ(seen, 63);
}

TEST(Simt, ReadingWhatAnotherThreadWritesIsARace) {
  expect_fault(run(kWarpThreads, 4 * 64,
                   [] {
                     const Shared<std::int32_t> words(0);
                     words.store(thread_place(), 1);
                     words.load(thread_place() / 2);
                   }),
               "a race: shared memory is read as it is written");
  // A warp's barrier is none between warps.
  expect_fault(run(2 * kWarpThreads, 4 * 64,
                   [] {
                     const Shared<std::int32_t> words(0);
                     words.store(thread_place(), 1);
                     sync_warp();
                     words.load(63 - thread_place());
                   }),
               "a race: shared memory is read as it is written");
}

TEST(Simt, WritingWhatAnotherThreadReadsIsARace) {
  const auto kernel = [](bool also_own) {
    return [also_own] {
      const Shared<std::int32_t> words(0);
      const std::int32_t thread = thread_place();
      if (thread == 0) words.store(0, 1);
      sync_block();
      if (thread == 0) words.load(0);
      // The thread that writes may be the last that has read.
      if (thread == 1 && also_own) words.load(0);
      if (thread == 1) words.store(0, 2);
    };
  };
  for (const bool also_own : {false, true})
    expect_fault(run(kWarpThreads, 4 * 64, kernel(also_own)),
                 "a race: shared memory is written as it is read");
}

TEST(Simt, WritingByTwoIsARace) {
  expect_fault(run(kWarpThreads, 4,
                   [] {
                     const Shared<std::int32_t> words(0);
                     words.store(0, 1);
                   }),
               "a race: shared memory is written by two");
}

TEST(Simt, MemoryThatNobodyHasWrittenHoldsNothing) {
  expect_fault(run(kWarpThreads, 4 * 64, [] { Shared<std::int32_t>(0).load(thread_place()); }),
               "nobody has written");
}

TEST(Simt, BehindTheEndAndMisalignedIsNothing) {
  expect_fault(run(kWarpThreads, 8, [] { Shared<std::int32_t>(0).load(2); }), "behind its end");
  expect_fault(run(kWarpThreads, 8, [] { Shared<std::int32_t>(2).store(0, 1); }), "misaligned");
}

// ---- Copies ----

struct CopyKernel {
  alignas(16) static constexpr std::uint32_t kWords[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  bool waits, meets;

  void operator()() const {
    const Shared<Bytes16> room(0);
    if (thread_place() == 0) {
      copy_async(room, 0, kWords, true);
      end_copies();
      copy_async(room, 1, kWords + 4, true);
      end_copies();
      if (waits) wait_copies<1>();
    }
    if (meets) sync_block();
    EXPECT_EQ(room.load(0).word[0], waits && meets ? 1u : 0xa5a5a5a5u);
  }
};

TEST(Simt, CopiesComeWhenTheyAreWaitedForAndNotBefore) {
  EXPECT_EQ(run(kWarpThreads, 32, CopyKernel{true, true}), "");
  expect_fault(run(kWarpThreads, 32, CopyKernel{false, true}), "before a copy has come");
}

TEST(Simt, CopiesOfNothingAreZeros) {
  EXPECT_EQ(run(kWarpThreads, 16,
                [] {
                  const Shared<Bytes16> room(0);
                  if (thread_place() != 0) return;
                  copy_async(room, 0, nullptr, false);
                  end_copies();
                  wait_copies<0>();
                  for (const std::uint32_t word : room.load(0).word) EXPECT_EQ(word, 0u);
                }),
            "");
}

TEST(Simt, CopiesThatAnotherThreadWaitedForAreARaceUntilItIsMet) {
  const Shared<Bytes16> room(0);
  expect_fault(run(kWarpThreads, 32,
                   [&] {
                     if (thread_place() == 0) {
                       copy_async(room, 0, CopyKernel::kWords, true);
                       end_copies();
                       wait_copies<0>();
                     }
                     room.load(0);
                   }),
               "a race: shared memory is read as it is written");
}

TEST(Simt, TheLastGroupOfCopiesMayStillBeOnItsWay) {
  expect_fault(run(kWarpThreads, 32,
                   [] {
                     const Shared<Bytes16> room(0);
                     if (thread_place() != 0) return;
                     copy_async(room, 0, CopyKernel::kWords, true);
                     end_copies();
                     copy_async(room, 1, CopyKernel::kWords + 4, true);
                     end_copies();
                     wait_copies<1>();
                     room.load(0);
                     room.load(1);
                   }),
               "before a copy has come");
}

}  // namespace
}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory as tests hand it to a context: a chosen allocation fails, and what is held is known.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <map>

#include <gtest/gtest.h>

#include "intflash/intflash.h"

namespace intflash::internal {

// What this program has taken from malloc and operator new so far, the library in it included.
long num_allocations();
// The call of operator new after so many more throws std::bad_alloc; a negative number: none does.
void fail_new_after(long calls);

// An allocator whose n-th call fails, from 0; none where n is negative.
class CountingAllocator {
 public:
  explicit CountingAllocator(int failing_call) : failing_call_(failing_call) {}

  intflash_context_options options() {
    intflash_context_options options = {};
    options.struct_size = sizeof options;
    options.num_threads = 1;
    options.allocate = [](void* self, std::size_t bytes, std::size_t alignment) {
      return static_cast<CountingAllocator*>(self)->allocate(bytes, alignment);
    };
    options.deallocate = [](void* self, void* pointer) {
      static_cast<CountingAllocator*>(self)->deallocate(pointer);
    };
    options.allocator_user = this;
    return options;
  }
  int calls() const { return calls_; }
  std::size_t held() const { return held_.size(); }

 private:
  void* allocate(std::size_t bytes, std::size_t alignment) {
    EXPECT_GT(bytes, 0u);
    EXPECT_EQ(alignment, 64u);
    if (calls_++ == failing_call_) return nullptr;
    void* pointer = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    held_[pointer] = bytes;
    return pointer;
  }
  void deallocate(void* pointer) {
    EXPECT_EQ(held_.erase(pointer), 1u) << "not from this allocator, or twice";
    std::free(pointer);
  }

  int failing_call_;
  int calls_ = 0;
  std::map<void*, std::size_t> held_;
};

}  // namespace intflash::internal

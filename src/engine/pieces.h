// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Arrays that grow in the context's memory while a schedule is cut: how many items and merges there
// will be is known at the end.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>

#include "context/context.h"

namespace intflash::internal {

template <class T>
std::int64_t bytes_of(std::int64_t count) {
  return count * static_cast<std::int64_t>(sizeof(T));
}

inline char* allocate(const intflash_context& context, std::int64_t bytes) {
  return static_cast<char*>(
      context.allocate(context.allocator_user, static_cast<std::size_t>(bytes), 64));
}
inline void deallocate(const intflash_context& context, void* memory) {
  if (memory != nullptr) context.deallocate(context.allocator_user, memory);
}

// Items or merges, one behind the other: in memory that is there, or in an allocation of their own
// once they become too many for it. Where the context has no memory has_memory becomes false, and
// what is added is lost.
template <class T>
class Pieces {
 public:
  Pieces(const intflash_context& context, T* memory, std::int64_t room, void*& own,
         bool& has_memory)
      : context_(context), own_(own), has_memory_(has_memory), data_(memory), room_(room) {}

  T* data() const { return data_; }
  std::int64_t size() const { return size_; }
  // Gives the copy, which stays where it is until the next comes.
  T& add(const T& piece) {
    if (size_ == room_ && !grow()) return lost_ = piece;
    return *new (data_ + size_++) T(piece);
  }

 private:
  bool grow() {
    if (!has_memory_) return false;
    const std::int64_t room = std::max<std::int64_t>(2 * room_, 16);
    T* const data = reinterpret_cast<T*>(allocate(context_, bytes_of<T>(room)));
    has_memory_ = data != nullptr;
    if (!has_memory_) return false;
    std::copy_n(data_, size_, data);
    deallocate(context_, own_);
    own_ = data_ = data;
    room_ = room;
    return true;
  }

  const intflash_context& context_;
  void*& own_;  // nullptr: none yet
  bool& has_memory_;
  T* data_;
  std::int64_t size_ = 0, room_;
  T lost_;
};

}  // namespace intflash::internal

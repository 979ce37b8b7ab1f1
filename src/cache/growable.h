// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// An array that grows through the context's allocator, and says so where it cannot.
#pragma once

#include <cstdint>
#include <new>
#include <utility>

#include "context/context.h"

namespace intflash::internal {

template <class T>
class Growable {
 public:
  // Room for count elements in all. False: no memory, and nothing has changed.
  bool reserve(const intflash_context& context, std::int64_t count) {
    if (count <= capacity_) return true;
    const std::int64_t capacity = count > 2 * capacity_ ? count : 2 * capacity_;
    void* memory = context.allocate(context.allocator_user,
                                    static_cast<std::size_t>(capacity) * sizeof(T), 64);
    if (memory == nullptr) return false;
    T* data = static_cast<T*>(memory);
    for (std::int64_t i = 0; i < size_; ++i) {
      new (data + i) T(std::move(data_[i]));
      data_[i].~T();
    }
    if (data_ != nullptr) context.deallocate(context.allocator_user, data_);
    data_ = data;
    capacity_ = capacity;
    return true;
  }
  // Within what has been reserved.
  void push(T value) { new (data_ + size_++) T(std::move(value)); }
  void pop() { data_[--size_].~T(); }
  void erase_front(std::int64_t count) {
    for (std::int64_t i = count; i < size_; ++i) data_[i - count] = std::move(data_[i]);
    for (; count > 0; --count) pop();
  }
  void release(const intflash_context& context) {
    while (size_ > 0) pop();
    if (data_ != nullptr) context.deallocate(context.allocator_user, data_);
    data_ = nullptr;
    capacity_ = 0;
  }

  std::int64_t size() const { return size_; }
  T* data() const { return data_; }
  T* end() const { return data_ + size_; }
  T& operator[](std::int64_t i) const { return data_[i]; }
  T& back() const { return data_[size_ - 1]; }

 private:
  T* data_ = nullptr;
  std::int64_t size_ = 0;
  std::int64_t capacity_ = 0;
};

}  // namespace intflash::internal

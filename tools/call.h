// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the command's calls of the library have in common, beyond the owners of intflash.hpp.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <string>

#include "intflash/intflash.hpp"

namespace intflash {

// num_threads 0 and an empty isa leave the choice to the library.
Context create_context(int num_threads, const std::string& isa);

// 64-byte aligned, uninitialised.
template <class T>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(std::size_t size)
      : elements_(static_cast<T*>(::operator new(size * sizeof(T), kAlignment))), size_(size) {}

  T* data() { return elements_.get(); }
  const T* data() const { return elements_.get(); }
  std::size_t size() const { return size_; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  T& operator[](std::size_t i) { return data()[i]; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* elements) const { ::operator delete(elements, kAlignment); }
  };
  std::unique_ptr<T, Free> elements_;
  std::size_t size_ = 0;
};

}  // namespace intflash

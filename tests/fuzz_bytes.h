// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a fuzzer's bytes are turned into calls with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace intflash::internal {

// Takes values from the fuzzer's bytes; zeros where they have run out.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  std::uint8_t byte() {
    if (used_ >= size_) return 0;
    return data_[used_++];
  }
  // 0 ... count - 1
  int below(int count) { return byte() % count; }
  bool rarely() { return byte() == 0xff; }
  template <class T>
  T any() {
    T value{};
    std::uint8_t bytes[sizeof value];
    for (std::uint8_t& b : bytes) b = byte();
    std::memcpy(&value, bytes, sizeof value);
    return value;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t used_ = 0;
};

}  // namespace intflash::internal

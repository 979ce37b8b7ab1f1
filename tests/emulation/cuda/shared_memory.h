// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A block's shared memory, which knows who touched each byte: two threads that touch one without a
// barrier between them, one of them writing, are a race.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace intflash::emulation {

// A thread at a time: barriers of its block, and of its warp, that it has passed.
struct Moment {
  std::int32_t thread = -1;  // -1: nobody yet
  std::int32_t block_epoch = 0, warp_epoch = 0;

  std::int32_t warp() const { return thread / 32; }
};

struct Bytes {
  std::size_t first, count, alignment;
};

class SharedMemory {
 public:
  // Poisoned, and nobody's.
  explicit SharedMemory(std::size_t bytes);

  // Each returns nullptr, or what is wrong with it.
  const char* load(const Bytes& bytes, const Moment& now, void* to);
  const char* store(const Bytes& bytes, const Moment& now, const void* from);
  // A copy that is on its way: until it has come nobody may touch the bytes.
  const char* begin_copy(const Bytes& bytes, const Moment& now);
  void finish_copy(const Bytes& bytes, const Moment& now, const void* from);

 private:
  struct Shadow {
    Moment writer;
    Moment reader;            // the last since then
    bool many_lanes = false;  // of its warp have read it since the warp's last barrier
    bool many_warps = false;  // have read it since the block's last one
    bool is_coming = false;

    bool is_read_before(const Moment& now) const;
  };
  const char* check(const Bytes& bytes) const;
  const char* note_write(Shadow& shadow, const Moment& now);

  std::vector<unsigned char> memory_;
  std::vector<Shadow> shadow_;
};

}  // namespace intflash::emulation

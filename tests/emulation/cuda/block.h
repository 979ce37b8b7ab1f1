// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A block of threads on the host: each is a fiber, and they meet at barriers and at what a warp
// does together. What no device would promise to serve is a fault, of which the first is kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "shared_memory.h"

namespace intflash::emulation {

struct Place {
  std::int32_t x, y, z;
};

// What all lanes of a warp do together: each hands in a pointer, and the last to come serves all.
struct Meeting {
  const char* name;
  void (*serve)(void* const* lanes);  // [32]
};

class Block {
 public:
  Block(Place place, std::int32_t threads, std::size_t shared_bytes);

  // Runs body on all threads to its end; returns "" or the first fault.
  std::string run(const std::function<void()>& body);

  // The block that this host thread runs, and of its threads the one that does.
  static Block& current();
  const Place& place() const { return place_; }
  std::int32_t thread() const { return running_; }

  void sync_block();
  void sync_warp();
  void meet(const Meeting& meeting, void* lane);

  void load(const Bytes& bytes, void* to) { note(shared_.load(bytes, now(), to)); }
  void store(const Bytes& bytes, const void* from) { note(shared_.store(bytes, now(), from)); }
  void begin_copy(const Bytes& bytes, const void* from);
  void end_copies();
  void wait_copies(std::size_t groups_left);

 private:
  struct Copy {
    Bytes to;
    const void* from;
  };
  enum class State { kReady, kAtBlock, kAtWarp, kDone };
  struct Thread {
    State state = State::kReady;
    const Meeting* meeting = nullptr;
    void* lane = nullptr;
    std::vector<std::vector<Copy>> groups = {{}};  // of copies; the last is still open
  };

  static void run_thread();
  void note(const char* fault);
  Moment now() const;
  void give_way(State state);
  bool run_ready();
  bool serve_warps();
  bool release_block();

  Place place_;
  std::int32_t block_epoch_ = 0;
  std::vector<std::int32_t> warp_epoch_;
  std::vector<Thread> threads_;
  SharedMemory shared_;
  const std::function<void()>* body_ = nullptr;
  std::int32_t running_ = 0;
  std::string fault_;
};

}  // namespace intflash::emulation

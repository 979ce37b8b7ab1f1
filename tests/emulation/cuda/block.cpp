// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "block.h"

#include <algorithm>

namespace intflash::emulation {
namespace {

constexpr std::int32_t kWarpThreads = 32;

thread_local Block* current_block = nullptr;

// Stacks of the threads of one block after another.
Fiber& fiber_of(std::int32_t thread) {
  thread_local std::vector<std::unique_ptr<Fiber>> fibers;
  while (static_cast<std::int32_t>(fibers.size()) <= thread)
    fibers.push_back(std::make_unique<Fiber>());
  return *fibers[static_cast<std::size_t>(thread)];
}

constexpr Meeting kWarpBarrier = {"a barrier", [](void* const*) {}};

}  // namespace

Block::Block(Place place, std::int32_t threads, std::size_t shared_bytes)
    : place_(place),
      warp_epoch_(static_cast<std::size_t>(threads / kWarpThreads)),
      threads_(static_cast<std::size_t>(threads)),
      shared_(shared_bytes) {}

Block& Block::current() { return *current_block; }

Moment Block::now() const {
  return {running_, block_epoch_, warp_epoch_[static_cast<std::size_t>(running_ / kWarpThreads)]};
}

void Block::note(const char* fault) {
  if (fault == nullptr || !fault_.empty()) return;
  fault_ = std::string(fault) + ", by thread " + std::to_string(running_) + " of block " +
           std::to_string(place_.x) + ", " + std::to_string(place_.y) + ", " +
           std::to_string(place_.z);
}

void Block::run_thread() {
  Block& block = current();
  (*block.body_)();
  // Fibers outlive the block, which may be on another by now.
  current().give_way(State::kDone);
}

void Block::give_way(State state) {
  const std::int32_t thread = running_;
  threads_[static_cast<std::size_t>(thread)].state = state;
  fiber_of(thread).give_way();
}

void Block::sync_block() { give_way(State::kAtBlock); }
void Block::sync_warp() { meet(kWarpBarrier, nullptr); }
void Block::meet(const Meeting& meeting, void* lane) {
  Thread& thread = threads_[static_cast<std::size_t>(running_)];
  thread.meeting = &meeting;
  thread.lane = lane;
  give_way(State::kAtWarp);
}

void Block::begin_copy(const Bytes& bytes, const void* from) {
  note(shared_.begin_copy(bytes, now()));
  threads_[static_cast<std::size_t>(running_)].groups.back().push_back({bytes, from});
}
void Block::end_copies() { threads_[static_cast<std::size_t>(running_)].groups.emplace_back(); }
void Block::wait_copies(std::size_t groups_left) {
  auto& groups = threads_[static_cast<std::size_t>(running_)].groups;
  while (groups.size() - 1 > groups_left) {
    for (const Copy& copy : groups.front()) shared_.finish_copy(copy.to, now(), copy.from);
    groups.erase(groups.begin());
  }
}

// Each thread that can go on does so until it waits. In every other block the last goes first: what
// depends on the order is no order that a device has.
bool Block::run_ready() {
  bool any = false;
  const auto count = static_cast<std::int32_t>(threads_.size());
  for (std::int32_t i = 0; i < count; ++i) {
    running_ = (place_.x + place_.y) % 2 == 0 ? i : count - 1 - i;
    if (threads_[static_cast<std::size_t>(running_)].state != State::kReady) continue;
    fiber_of(running_).resume();
    any = true;
  }
  return any;
}

// Warps whose lanes have all met.
bool Block::serve_warps() {
  bool any = false;
  for (std::size_t warp = 0; warp < warp_epoch_.size(); ++warp) {
    Thread* const lanes = &threads_[warp * kWarpThreads];
    if (!std::all_of(lanes, lanes + kWarpThreads,
                     [](const Thread& t) { return t.state == State::kAtWarp; }))
      continue;
    void* handed[kWarpThreads];
    running_ = static_cast<std::int32_t>(warp) * kWarpThreads;
    for (std::int32_t i = 0; i < kWarpThreads; ++i) {
      if (lanes[i].meeting != lanes[0].meeting)
        note((std::string("lanes of a warp meet at different places: ") + lanes[0].meeting->name +
              " and " + lanes[i].meeting->name)
                 .c_str());
      handed[i] = lanes[i].lane;
      lanes[i].state = State::kReady;
    }
    if (fault_.empty()) lanes[0].meeting->serve(handed);
    if (lanes[0].meeting == &kWarpBarrier) ++warp_epoch_[warp];
    any = true;
  }
  return any;
}

// The block's barrier, once all threads that are left have come.
bool Block::release_block() {
  if (std::any_of(threads_.begin(), threads_.end(), [](const Thread& t) {
        return t.state == State::kReady || t.state == State::kAtWarp;
      }))
    return false;
  bool any = false;
  for (Thread& thread : threads_) {
    any |= thread.state == State::kAtBlock;
    if (thread.state == State::kAtBlock) thread.state = State::kReady;
  }
  ++block_epoch_;
  return any;
}

std::string Block::run(const std::function<void()>& body) {
  Block* const before = current_block;
  current_block = this;
  body_ = &body;
  for (std::size_t i = 0; i < threads_.size(); ++i)
    fiber_of(static_cast<std::int32_t>(i)).start(run_thread);
  while (fault_.empty() && (run_ready() || serve_warps() || release_block())) continue;
  if (fault_.empty() && !std::all_of(threads_.begin(), threads_.end(),
                                     [](const Thread& t) { return t.state == State::kDone; }))
    note("threads wait for others that do not come");
  current_block = before;
  return fault_;
}

}  // namespace intflash::emulation

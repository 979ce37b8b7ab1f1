// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "shared_memory.h"

#include <cstring>

namespace intflash::emulation {
namespace {

constexpr unsigned char kPoison = 0xa5;

// Whether what happened then has happened before now, to all who look.
bool is_before(const Moment& then, const Moment& now) {
  return then.thread < 0 || then.thread == now.thread || then.block_epoch < now.block_epoch ||
         (then.warp() == now.warp() && then.warp_epoch < now.warp_epoch);
}

}  // namespace

SharedMemory::SharedMemory(std::size_t bytes) : memory_(bytes, kPoison), shadow_(bytes) {}

// A barrier that all readers have passed lies between.
bool SharedMemory::Shadow::is_read_before(const Moment& now) const {
  if (reader.thread < 0 || reader.block_epoch < now.block_epoch) return true;
  if (many_warps) return false;
  if (many_lanes) return reader.warp() == now.warp() && reader.warp_epoch < now.warp_epoch;
  return is_before(reader, now);
}

const char* SharedMemory::check(const Bytes& bytes) const {
  if (bytes.first > memory_.size() || bytes.count > memory_.size() - bytes.first)
    return "shared memory is touched behind its end";
  return bytes.first % bytes.alignment == 0 ? nullptr : "shared memory is touched misaligned";
}

const char* SharedMemory::load(const Bytes& bytes, const Moment& now, void* to) {
  const char* fault = check(bytes);
  if (fault != nullptr) return fault;
  for (std::size_t i = bytes.first; i < bytes.first + bytes.count; ++i) {
    Shadow& shadow = shadow_[i];
    if (shadow.is_coming) fault = "shared memory is read before a copy has come";
    if (shadow.writer.thread < 0) fault = "shared memory is read that nobody has written";
    if (!is_before(shadow.writer, now)) fault = "a race: shared memory is read as it is written";
    const Moment& last = shadow.reader;
    const bool is_same_block_epoch = last.thread >= 0 && last.block_epoch == now.block_epoch;
    const bool is_same_warp = last.warp() == now.warp();
    const bool is_same_warp_epoch =
        is_same_block_epoch && is_same_warp && last.warp_epoch == now.warp_epoch;
    shadow.many_warps = is_same_block_epoch && (shadow.many_warps || !is_same_warp);
    shadow.many_lanes = is_same_warp_epoch && (shadow.many_lanes || last.thread != now.thread);
    shadow.reader = now;
  }
  std::memcpy(to, memory_.data() + bytes.first, bytes.count);
  return fault;
}

const char* SharedMemory::note_write(Shadow& shadow, const Moment& now) {
  const char* fault = nullptr;
  if (shadow.is_coming) fault = "shared memory is written before a copy has come";
  if (!is_before(shadow.writer, now)) fault = "a race: shared memory is written by two";
  if (!shadow.is_read_before(now)) fault = "a race: shared memory is written as it is read";
  shadow = {};
  shadow.writer = now;
  return fault;
}

const char* SharedMemory::store(const Bytes& bytes, const Moment& now, const void* from) {
  const char* fault = check(bytes);
  if (fault != nullptr) return fault;
  for (std::size_t i = bytes.first; i < bytes.first + bytes.count; ++i) {
    const char* const found = note_write(shadow_[i], now);
    if (found != nullptr) fault = found;
  }
  std::memcpy(memory_.data() + bytes.first, from, bytes.count);
  return fault;
}

const char* SharedMemory::begin_copy(const Bytes& bytes, const Moment& now) {
  const char* fault = check(bytes);
  if (fault != nullptr) return fault;
  for (std::size_t i = bytes.first; i < bytes.first + bytes.count; ++i) {
    const char* const found = note_write(shadow_[i], now);
    if (found != nullptr) fault = found;
    shadow_[i].is_coming = true;
  }
  return fault;
}

void SharedMemory::finish_copy(const Bytes& bytes, const Moment& now, const void* from) {
  for (std::size_t i = bytes.first; i < bytes.first + bytes.count; ++i) {
    shadow_[i].is_coming = false;
    shadow_[i].writer = now;
  }
  std::memcpy(memory_.data() + bytes.first, from, bytes.count);
}

}  // namespace intflash::emulation

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The emulated CUDA device (tests/emulation/cuda), as the library opens it: contexts on it, memory
// of it, and what the machine that it is in is like.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "attention_case.h"
#include "emulation/cuda/machine.h"
#include "intflash/intflash.h"

namespace intflash::internal {

// Of a card, whose library INTFLASH_CUDA_LIBRARY may name (bench/cuda/run), nothing changes by it.
emulation::EmulatedMachine& emulated_machine();

// How many multiprocessors plans are cut for, on any device: the library has asked it once.
void cut_for_multiprocessors(int count);

// Tensors in the device's memory, which the host can read too.
class DeviceMemory : public Memory {
 public:
  DeviceMemory() = default;
  ~DeviceMemory() override;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  std::byte* take(std::size_t bytes) override;

 private:
  void* pool_ = nullptr;
  std::vector<void*> blocks_;
};

// A context on the emulated device.
class DeviceContext {
 public:
  DeviceContext();
  ~DeviceContext();
  DeviceContext(const DeviceContext&) = delete;
  DeviceContext& operator=(const DeviceContext&) = delete;
  intflash_context* get() const { return context_; }

 private:
  intflash_context* context_ = nullptr;
};

// The case's tensors made in such memory, and attended on such a context.
CaseResult run_on_device(const AttentionCase& c);
CaseResult run_on_device(CaseTensors& tensors);

// Whether nothing has been written to out.
bool is_untouched(const CaseTensors& tensors);

}  // namespace intflash::internal

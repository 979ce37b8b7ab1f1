// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Streams of the emulated device: what is enqueued is done when somebody waits, and not before; and
// graphs, which keep what a stream was given while it was captured.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "cuda_runtime.h"

namespace intflash::emulation {

using Operation = std::function<cudaError_t()>;

// Operations in their order, and what they need while they may be done.
struct Graph {
  std::vector<Operation> operations;
  std::vector<std::shared_ptr<void>> memory;
  bool is_ended = false;
};

void enqueue(cudaStream_t stream, Operation operation);
// Does all that a stream was given. After the first that fails no other is done, and that is told
// once.
cudaError_t drain(cudaStream_t stream);
// The graph that a stream is captured into; nullptr: none.
Graph* captured(cudaStream_t stream);

// By a call that cannot be captured, which there then is no graph for; whether there was one.
bool end_captured(cudaStream_t stream);

cudaError_t begin_capture(cudaStream_t stream);
cudaError_t end_capture(cudaStream_t stream, Graph*& graph);

}  // namespace intflash::emulation

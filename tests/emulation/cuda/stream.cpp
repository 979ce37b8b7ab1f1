// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "stream.h"

#include <map>
#include <utility>

namespace intflash::emulation {
namespace {

struct Stream {
  std::vector<Operation> waiting;
  std::unique_ptr<Graph> graph;
};
std::map<cudaStream_t, Stream> streams;

}  // namespace

void enqueue(cudaStream_t stream, Operation operation) {
  Stream& to = streams[stream];
  (to.graph == nullptr ? to.waiting : to.graph->operations).push_back(std::move(operation));
}

cudaError_t drain(cudaStream_t stream) {
  const std::vector<Operation> operations = std::exchange(streams[stream].waiting, {});
  cudaError_t error = cudaSuccess;
  for (const Operation& operation : operations) {
    if (error == cudaSuccess) error = operation();
  }
  return error;
}

Graph* captured(cudaStream_t stream) { return streams[stream].graph.get(); }

bool end_captured(cudaStream_t stream) {
  Graph* const graph = captured(stream);
  if (graph != nullptr) graph->is_ended = true;
  return graph != nullptr;
}

cudaError_t begin_capture(cudaStream_t stream) {
  if (captured(stream) != nullptr) return cudaErrorInvalidValue;
  streams[stream].graph = std::make_unique<Graph>();
  return cudaSuccess;
}

cudaError_t end_capture(cudaStream_t stream, Graph*& graph) {
  std::unique_ptr<Graph> made = std::move(streams[stream].graph);
  graph = nullptr;
  if (made == nullptr) return cudaErrorInvalidValue;
  if (made->is_ended) return cudaErrorStreamCaptureInvalidated;
  graph = made.release();
  return cudaSuccess;
}

}  // namespace intflash::emulation

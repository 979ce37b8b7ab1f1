// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What c/cuda_runtime_api.h declares.
#include <cstddef>

#include "cuda_runtime.h"
#include "memory.h"
#include "stream.h"

#define INTFLASH_EXPORTED extern "C" __attribute__((visibility("default")))

using namespace intflash::emulation;

INTFLASH_EXPORTED int cudaMalloc(void** memory, std::size_t bytes) {
  int device = 0;
  cudaGetDevice(&device);
  return allocate(memory, bytes, device, nullptr);
}
INTFLASH_EXPORTED int cudaFree(void* memory) {
  cudaStreamSynchronize(nullptr);
  return release(memory, nullptr);
}
INTFLASH_EXPORTED int cudaMallocHost(void** memory, std::size_t bytes) {
  return allocate(memory, bytes, -1, nullptr);
}
INTFLASH_EXPORTED int cudaFreeHost(void* memory) { return cudaFree(memory); }
INTFLASH_EXPORTED int cudaMemcpy(void* to, const void* from, std::size_t bytes,
                                 cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return error == cudaSuccess ? cudaStreamSynchronize(nullptr) : error;
}

INTFLASH_EXPORTED int cudaStreamCreate(cudaStream_t* stream) {
  *stream = new char;
  return cudaSuccess;
}
INTFLASH_EXPORTED int cudaStreamDestroy(cudaStream_t stream) {
  cudaStreamSynchronize(stream);
  delete static_cast<char*>(stream);
  return cudaSuccess;
}
INTFLASH_EXPORTED int cudaStreamBeginCapture(cudaStream_t stream, int) {
  return begin_capture(stream);
}
INTFLASH_EXPORTED int cudaStreamEndCapture(cudaStream_t stream, Graph** graph) {
  return end_capture(stream, *graph);
}
INTFLASH_EXPORTED int cudaGraphInstantiate(Graph** made, const Graph* graph, unsigned long long) {
  *made = new Graph(*graph);
  return cudaSuccess;
}
INTFLASH_EXPORTED int cudaGraphLaunch(const Graph* graph, cudaStream_t stream) {
  for (const Operation& operation : graph->operations) enqueue(stream, operation);
  return cudaSuccess;
}
INTFLASH_EXPORTED int cudaGraphExecDestroy(Graph* graph) {
  delete graph;
  return cudaSuccess;
}
INTFLASH_EXPORTED int cudaGraphDestroy(Graph* graph) { return cudaGraphExecDestroy(graph); }

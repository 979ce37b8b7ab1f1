// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Times flash attention on the plugin's device and on ggml's CPU backend, in turns over the same
// tensors:
//   llama_op_bench PLUGIN [THREADS [ROUNDS]]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "graph.h"

namespace {

using namespace intflash::llama;

constexpr double kMaxError = 0.03;  // of the device against the CPU backend

Attention prefill(std::int64_t query_len, std::int64_t kv_len, std::int64_t heads,
                  std::int64_t kv_heads, std::int64_t dim, ggml_type type) {
  Attention a;
  a.head_dim = a.head_dim_v = dim;
  a.num_kv_heads = kv_heads;
  a.group_size = heads / kv_heads;
  a.query_len = query_len;
  a.kv_len = kv_len;
  a.key_type = a.value_type = type;
  return a;
}

double seconds_of(Graph& graph, ggml_backend_t backend) {
  const auto start = std::chrono::steady_clock::now();
  if (graph.compute(backend) != GGML_STATUS_SUCCESS) std::exit(1);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void set_threads(ggml_backend_t backend, int threads) {
  const ggml_backend_reg_t registration =
      ggml_backend_dev_backend_reg(ggml_backend_get_device(backend));
  reinterpret_cast<ggml_backend_set_n_threads_t>(ggml_backend_reg_get_proc_address(
      registration, "ggml_backend_set_n_threads"))(backend, threads);
}

// The best of the rounds: what other work on the machine does to a time only adds to it.
void time_case(const Attention& a, ggml_backend_t device, ggml_backend_t cpu, int rounds) {
  Graph graph(a, make_data(a, 1));
  graph.compute(cpu);
  const std::vector<float> right = graph.result();
  graph.compute(device);
  const double error = relative_error(graph.result(), right);
  double on_device = 1e9, on_cpu = 1e9;
  for (int round = 0; round < rounds; ++round) {
    on_device = std::min(on_device, seconds_of(graph, device));
    on_cpu = std::min(on_cpu, seconds_of(graph, cpu));
  }
  std::printf(
      "| %5lld x %-6lld | %2lld/%-2lld | %3lld | %-4s | %9.2f | %9.2f | %6.2f | %.1f %%%s |\n",
      static_cast<long long>(a.query_len), static_cast<long long>(a.kv_len),
      static_cast<long long>(a.num_heads()), static_cast<long long>(a.num_kv_heads),
      static_cast<long long>(a.head_dim), ggml_type_name(a.key_type), on_cpu * 1e3, on_device * 1e3,
      on_cpu / on_device, error * 100, error < kMaxError ? "" : " TOO FAR");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: llama_op_bench PLUGIN [THREADS [ROUNDS]]\n");
    return 2;
  }
  const int threads = argc > 2 ? std::atoi(argv[2]) : 1;
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 3;
  const ggml_backend_reg_t registration = ggml_backend_load(argv[1]);
  if (registration == nullptr) return 1;
  ggml_backend_t device = ggml_backend_dev_init(ggml_backend_reg_dev_get(registration, 0), nullptr);
  ggml_backend_t cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
  set_threads(device, threads);
  set_threads(cpu, threads);
  std::printf(
      "| query x keys | heads | dim | type | ggml CPU ms | plugin ms | times | differs |\n");
  std::printf("|---|---|---|---|---|---|---|---|\n");
  for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0}) {
    for (const std::int64_t kv_len : {1, 64, 256, 1024, 4096, 32768})
      time_case(prefill(1, kv_len, 32, 8, 128, type), device, cpu,
                rounds * (kv_len > 8192 ? 1 : 20));
    for (const std::int64_t kv_heads : {32, 16}) {
      for (const std::int64_t kv_len : {64, 256, 4096})
        time_case(prefill(1, kv_len, 32, kv_heads, 128, type), device, cpu, rounds * 20);
    }
    for (const std::int64_t query_len : {4, 32})
      time_case(prefill(query_len, 4096, 32, 8, 128, type), device, cpu, rounds);
    time_case(prefill(512, 8192, 32, 8, 128, type), device, cpu, 1);
    time_case(prefill(4096, 4096, 4, 4, 128, type), device, cpu, 1);
    time_case(prefill(4096, 4096, 4, 4, 64, type), device, cpu, 1);
  }
  ggml_backend_free(device);
  ggml_backend_free(cpu);
  return 0;
}

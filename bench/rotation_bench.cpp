// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What rotating queries and undoing it on rows of out costs a call over packed keys and values:
// each shape with and without. --benchmark_enable_random_interleaving=true lets them take turns.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "intflash/intflash.hpp"

namespace intflash {
namespace {

struct Shape {
  const char* name;
  std::int64_t heads, kv_heads, query_len, kv_len;
};
constexpr Shape kShapes[] = {
    {"prefill", 1, 1, 4096, 4096}, {"decode", 32, 8, 1, 4096}, {"decode", 32, 8, 1, 32768}};
constexpr std::int64_t kDim = 128;

std::vector<float> rows(std::int64_t count) {
  std::vector<float> channels(static_cast<std::size_t>(count * kDim));
  for (std::size_t i = 0; i < channels.size(); ++i)
    channels[i] = std::sin(static_cast<float>(i * i % 10007));
  return channels;
}

void attend_packed(benchmark::State& state, const Shape& shape, intflash_rotation rotation) {
  intflash_context_options options = context_options();
  options.num_threads = 1;
  const Context context(options);
  intflash_attend_desc desc = attend_desc();
  desc.num_query_heads = shape.heads;
  desc.num_kv_heads = shape.kv_heads;
  desc.query_len = shape.query_len;
  desc.kv_len = shape.kv_len;
  desc.head_dim = kDim;
  desc.rotation = rotation;
  std::vector<float> query = rows(shape.heads * shape.query_len);
  std::vector<float> key = rows(shape.kv_heads * shape.kv_len);
  std::vector<float> out(query.size());
  intflash_attend_args args = attend_args();
  args.query = contiguous(query.data(), shape.heads, shape.query_len, kDim);
  args.key = args.value = contiguous(key.data(), shape.kv_heads, shape.kv_len, kDim);
  args.out = contiguous(out.data(), shape.heads, shape.query_len, kDim);
  const Plan plan(context, desc);
  Workspace workspace = plan.make_workspace();
  plan.pack(args, workspace);
  for (auto _ : state) plan.run_packed(args, workspace);
}

const int registered = [] {
  for (const Shape& shape : kShapes) {
    for (const bool rotated : {false, true}) {
      const std::string name = std::string(shape.name) + "/" + std::to_string(shape.kv_len) +
                               (rotated ? "/rotated" : "/unrotated");
      benchmark::RegisterBenchmark(name.c_str(), [&shape, rotated](benchmark::State& state) {
        attend_packed(state, shape, rotated ? INTFLASH_ROTATION_AUTO : INTFLASH_ROTATION_NONE);
      });
    }
  }
  return 0;
}();

}  // namespace
}  // namespace intflash

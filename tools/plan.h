// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash plan`: how a batch of equal requests is cut for so many workers.
#pragma once

#include <cstdint>
#include <string>

namespace intflash {

struct PlanOptions {
  std::int64_t query_heads = 32;
  std::int64_t kv_heads = 8;
  std::int64_t query_len = 1;
  std::int64_t kv_len = 4096;
  std::int64_t head_dim = 128;
  std::int64_t batch = 1;
  std::int64_t window = 0;
  std::int64_t prefix_len = 0;
  std::string mask = "causal";
  int workers = 1;
  int nodes = 1;
  std::string isa;
  bool json = false;
};

// The exit code; failures are thrown.
int run_plan(const PlanOptions& options);

}  // namespace intflash

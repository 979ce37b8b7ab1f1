// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash serve-sim`: a simulated server's load over one layer's cache.
#pragma once

#include <cstdint>
#include <string>

namespace intflash {

struct ServeSimOptions {
  std::int64_t requests = 64;
  double rate = 1000;        // arrivals per second: of one layer, so more than a model's
  double prompt_mean = 256;  // tokens
  double output_mean = 64;
  double shared = 0.3;      // of the requests: begin with a common prefix
  std::int64_t chunk = 64;  // tokens of a prompt in one step
  std::int64_t max_batch = 16;
  std::int64_t pages = 256;
  std::int64_t page_size = 64;
  std::int64_t heads = 8;
  std::int64_t kv_heads = 2;
  std::int64_t head_dim = 128;
  int threads = 0;  // 0 = the library's choice
  std::string isa;
  std::uint64_t seed = 1;
  bool verify = false;
  bool json = false;
};

// 0; failures, a wrong output among them, are thrown.
int run_serve_sim(const ServeSimOptions& options);

}  // namespace intflash

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// One layer of a server: sequences in a cache, and steps that append random tokens to some of them
// and attend those.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "call.h"
#include "intflash/cache.h"
#include "synthetic.h"

namespace intflash {

struct ServerShape {
  std::int64_t num_query_heads;
  std::int64_t num_kv_heads;
  std::int64_t head_dim;
  std::int64_t page_size;
  std::int64_t num_pages;
};

// New tokens of one sequence: a chunk of its prompt, or the next one of its output.
struct StepPart {
  std::int32_t sequence;
  std::int64_t count;
};

class SimulatedServer {
 public:
  // Keeps the floats of all tokens where outputs are to be verified.
  SimulatedServer(const ServerShape& shape, int threads, const std::string& isa, std::uint64_t seed,
                  bool keeps_floats);

  std::int32_t create();
  std::int32_t fork(std::int32_t sequence);
  void free(std::int32_t sequence);
  // Plans, appends and attends; the seconds that these took.
  double step(std::span<const StepPart> parts);
  // Compares what the step gave with the dense call, to the bit, and with mode exact. Returns the
  // largest relative L1 error of a sequence; throws Failure where an output is wrong.
  double verify(std::span<const StepPart> parts) const;

  intflash_cache_info info() const;
  std::string port() const { return intflash_context_port(context_.get()); }

 private:
  // [tokens][heads][head_dim]
  struct Floats {
    std::vector<float> key, value;
  };

  void append(std::span<const StepPart> parts, const std::vector<std::int64_t>& token_indptr);
  void attend(std::span<const StepPart> parts, const Plan& plan);
  void keep(std::span<const StepPart> parts, const std::vector<std::int64_t>& token_indptr);
  std::vector<float> attend_dense(const Floats& floats, std::int64_t first_row, std::int64_t count,
                                  intflash_mode mode) const;
  std::int64_t kv_len(std::int32_t sequence) const;
  // Elements of a token's query, and of its key.
  std::int64_t query_row() const { return shape_.num_query_heads * shape_.head_dim; }
  std::int64_t key_row() const { return shape_.num_kv_heads * shape_.head_dim; }

  const ServerShape shape_;
  const bool keeps_floats_;
  Context context_;
  Cache cache_;
  Workspace workspace_;
  RandomNumbers random_;
  std::vector<float> query_, key_, value_, out_;  // of the step: [tokens][heads][head_dim]
  std::map<std::int32_t, Floats> floats_;
};

}  // namespace intflash

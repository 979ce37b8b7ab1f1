// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Runs flash attention on a number of threads: plans by shape, and memory that grows before it is
// needed.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ggml.h"
#include "intflash/intflash.hpp"
#include "op.h"

namespace intflash::llama {

// Memory that only grows, aligned to 64 bytes.
class Memory {
 public:
  bool grow_to(std::size_t bytes);
  void* data() const { return data_.get(); }
  std::size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
  std::size_t bytes_ = 0;
};

// Shared by an engine's plans of all numbers of threads.
struct Scratch {
  Memory workspace, key, value, mask;
  std::vector<float> slopes;
};

class Engine {
 public:
  // num_threads = 0: as many as the library would take.
  explicit Engine(int num_threads, Rotation rotation);

  bool is_valid() const { return context_.has_value(); }  // else intflash_last_error() has it
  int num_threads() const { return num_threads_; }        // as asked for
  const char* port() const { return context_ ? context_->port() : ""; }
  const char* port_reason() const { return context_ ? context_->port_reason() : ""; }

  // Whether an op can be served; else reason says why not.
  bool supports(const ggml_tensor& op, std::string& reason) const;
  // Makes the op's plan and the memory it needs.
  ggml_status prepare(const ggml_tensor& op, Scratch& scratch, std::string& error);
  // Computes an op that was prepared.
  ggml_status run(const ggml_tensor& op, Scratch& scratch, std::string& error);

 private:
  struct PlanEntry {
    intflash_attend_desc desc;
    Plan plan;
  };
  bool describe_served(const ggml_tensor& op, Call& call, std::string& reason) const;
  // An Error where there is none.
  const Plan& plan_for(const intflash_attend_desc& desc);
  bool is_served(const intflash_attend_desc& desc) const;

  std::optional<Context> context_;
  int num_threads_;
  Rotation rotation_;
  std::vector<PlanEntry> plans_;  // the last used at the end
};

}  // namespace intflash::llama

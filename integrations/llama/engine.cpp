// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "engine.h"

#include <algorithm>
#include <tuple>

namespace intflash::llama {
namespace {

// A graph has few shapes of attention, the same in every layer of a kind; n_kv grows now and then.
constexpr std::size_t kMaxPlans = 16;

// What describe sets of it.
bool same_desc(const intflash_attend_desc& a, const intflash_attend_desc& b) {
  const auto fields = [](const intflash_attend_desc& d) {
    return std::tie(d.batch, d.num_query_heads, d.num_kv_heads, d.query_len, d.kv_len, d.head_dim,
                    d.head_dim_v, d.key_dtype, d.value_dtype, d.softmax_scale, d.score_cap,
                    d.rotate);
  };
  return fields(a) == fields(b);
}

void convert(const ggml_tensor& tensor, int num_threads, float* converted) {
  const std::int64_t rows = tensor.ne[1] * tensor.ne[2] * tensor.ne[3];
#if defined(_OPENMP)
#pragma omp parallel for num_threads(num_threads)
#endif
  for (std::int64_t i = 0; i < rows; ++i) convert_row(tensor, i, converted);
}

}  // namespace

bool Memory::grow_to(std::size_t bytes) {
  if (bytes <= bytes_) return true;
  constexpr std::size_t kAlignment = 64;
  const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  data_.reset();
  data_.reset(std::aligned_alloc(kAlignment, rounded));
  bytes_ = data_ == nullptr ? 0 : rounded;
  return data_ != nullptr;
}

Engine::Engine(int num_threads, bool rotate) : num_threads_(num_threads), rotate_(rotate) {
  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.num_threads = num_threads;
#if defined(_OPENMP)
  options.threads = INTFLASH_THREADS_OPENMP;  // ggml's, whose workers may still spin
#endif
  if (intflash_context_create(&options, &context_) != INTFLASH_OK) context_ = nullptr;
}

Engine::~Engine() {
  for (const PlanEntry& entry : plans_) intflash_plan_destroy(entry.plan);
  intflash_context_destroy(context_);
}

bool Engine::describe_served(const ggml_tensor& op, Call& call, std::string& reason) const {
  if (!describe(op, rotate_, call, reason)) return false;
  if (intflash_query_support(context_, &call.desc, nullptr) == INTFLASH_OK) return true;
  // Not every head_dim has a rotation; attention without it is right all the same.
  call.desc.rotate = 0;
  if (intflash_query_support(context_, &call.desc, nullptr) == INTFLASH_OK) return true;
  reason = intflash_last_error();
  return false;
}

bool Engine::supports(const ggml_tensor& op, std::string& reason) const {
  Call call;
  return describe_served(op, call, reason);
}

intflash_plan* Engine::plan_for(const intflash_attend_desc& desc) {
  const auto found = std::find_if(plans_.begin(), plans_.end(), [&](const PlanEntry& entry) {
    return same_desc(entry.desc, desc);
  });
  if (found != plans_.end()) {
    std::rotate(found, found + 1, plans_.end());
    return plans_.back().plan;
  }
  intflash_plan* plan = nullptr;
  if (intflash_plan_attend(context_, &desc, &plan) != INTFLASH_OK) return nullptr;
  if (plans_.size() == kMaxPlans) {
    intflash_plan_destroy(plans_.front().plan);
    plans_.erase(plans_.begin());
  }
  plans_.push_back({desc, plan});
  return plan;
}

ggml_status Engine::prepare(const ggml_tensor& op, Scratch& scratch, std::string& error) {
  Call call;
  if (!describe_served(op, call, error)) return GGML_STATUS_FAILED;
  const intflash_plan* plan = plan_for(call.desc);
  if (plan == nullptr) {
    error = intflash_last_error();
    return GGML_STATUS_FAILED;
  }
  if (scratch.workspace.grow_to(intflash_plan_workspace_bytes(plan)) &&
      scratch.key.grow_to(call.key_bytes()) && scratch.value.grow_to(call.value_bytes()))
    return GGML_STATUS_SUCCESS;
  error = "no memory for the workspace";
  return GGML_STATUS_ALLOC_FAILED;
}

ggml_status Engine::run(const ggml_tensor& op, Scratch& scratch, std::string& error) {
  Call call;
  if (!describe_served(op, call, error)) return GGML_STATUS_FAILED;
  const int threads = intflash_context_num_threads(context_);
  if (call.convert_key) convert(*op.src[1], threads, static_cast<float*>(scratch.key.data()));
  if (call.convert_value) convert(*op.src[2], threads, static_cast<float*>(scratch.value.data()));
  const intflash_attend_args args =
      arguments(op, call, scratch.key.data(), scratch.value.data(), scratch.slopes);
  const intflash_status status =
      intflash_run(plan_for(call.desc), &args, scratch.workspace.data(), scratch.workspace.bytes());
  if (status == INTFLASH_OK) return GGML_STATUS_SUCCESS;
  error = intflash_last_error();
  return GGML_STATUS_FAILED;
}

}  // namespace intflash::llama

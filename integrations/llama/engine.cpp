// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "engine.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace intflash::llama {
namespace {

// A graph has few shapes of attention, the same in every layer of a kind; n_kv grows now and then.
constexpr std::size_t kMaxPlans = 16;

// What describe sets of it.
bool same_desc(const intflash_attend_desc& a, const intflash_attend_desc& b) {
  const auto fields = [](const intflash_attend_desc& d) {
    return std::tie(d.batch, d.num_query_heads, d.num_kv_heads, d.query_len, d.kv_len, d.head_dim,
                    d.head_dim_v, d.key_dtype, d.value_dtype, d.softmax_scale, d.score_cap,
                    d.rotation);
  };
  return fields(a) == fields(b);
}

void convert(const ggml_tensor& tensor, int num_threads, float* converted) {
  const std::int64_t rows = ggml_nrows(&tensor);
#if defined(_OPENMP)
#pragma omp parallel for num_threads(num_threads)
#endif
  for (std::int64_t i = 0; i < rows; ++i) convert_row(tensor, i, converted);
}

bool has_lowest_numbers(const ggml_tensor& mask, int num_threads) {
  const std::int64_t rows = ggml_nrows(&mask);
  bool found = false;
#if defined(_OPENMP)
#pragma omp parallel for num_threads(num_threads) reduction(|| : found) if (rows > 1)
#endif
  for (std::int64_t i = 0; i < rows; ++i) found = found || has_lowest_number(mask, i);
  return found;
}

// Sets converted where the mask has to be; false without memory for it.
bool convert_mask(const ggml_tensor* mask, int num_threads, Memory& memory, void*& converted) {
  if (mask == nullptr || !has_lowest_numbers(*mask, num_threads)) return true;
  if (!memory.grow_to(static_cast<std::size_t>(ggml_nelements(mask)) * sizeof(float))) return false;
  convert(*mask, num_threads, static_cast<float*>(memory.data()));
  converted = memory.data();
  return true;
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

Engine::Engine(int num_threads, Rotation rotation)
    : num_threads_(num_threads), rotation_(rotation) {
  intflash_context_options options = context_options();
  options.num_threads = num_threads;
#if defined(_OPENMP)
  options.threads = INTFLASH_THREADS_OPENMP;  // ggml's, whose workers may still spin
#endif
  try {
    context_.emplace(options);
  } catch (const Error&) {
    // The last error has it.
  }
}

bool Engine::is_served(const intflash_attend_desc& desc) const {
  return intflash_query_support(context_->get(), &desc, nullptr) == INTFLASH_OK;
}

bool Engine::describe_served(const ggml_tensor& op, Call& call, std::string& reason) const {
  if (!describe(op, rotation_, call, reason)) return false;
  if (is_served(call.desc)) return true;
  reason = intflash_last_error();
  return false;
}

bool Engine::supports(const ggml_tensor& op, std::string& reason) const {
  Call call;
  return describe_served(op, call, reason);
}

const Plan& Engine::plan_for(const intflash_attend_desc& desc) {
  const auto found = std::find_if(plans_.begin(), plans_.end(), [&](const PlanEntry& entry) {
    return same_desc(entry.desc, desc);
  });
  if (found != plans_.end()) {
    std::rotate(found, found + 1, plans_.end());
    return plans_.back().plan;
  }
  PlanEntry made{desc, Plan(*context_, desc)};
  if (plans_.size() == kMaxPlans) plans_.erase(plans_.begin());
  plans_.push_back(std::move(made));
  return plans_.back().plan;
}

ggml_status Engine::prepare(const ggml_tensor& op, Scratch& scratch, std::string& error) {
  Call call;
  if (!describe_served(op, call, error)) return GGML_STATUS_FAILED;
  try {
    if (scratch.workspace.grow_to(plan_for(call.desc).workspace_bytes()) &&
        scratch.key.grow_to(call.key_bytes()) && scratch.value.grow_to(call.value_bytes()))
      return GGML_STATUS_SUCCESS;
  } catch (const Error& refusal) {
    error = refusal.what();
    return GGML_STATUS_FAILED;
  }
  error = "no memory for the workspace";
  return GGML_STATUS_ALLOC_FAILED;
}

ggml_status Engine::run(const ggml_tensor& op, Scratch& scratch, std::string& error) {
  Call call;
  if (!describe_served(op, call, error)) return GGML_STATUS_FAILED;
  const int threads = context_->num_threads();
  if (call.convert_key) convert(*op.src[1], threads, static_cast<float*>(scratch.key.data()));
  if (call.convert_value) convert(*op.src[2], threads, static_cast<float*>(scratch.value.data()));
  Converted converted = {scratch.key.data(), scratch.value.data(), nullptr};
  if (!convert_mask(op.src[3], threads, scratch.mask, converted.mask)) {
    error = "no memory for the mask";
    return GGML_STATUS_ALLOC_FAILED;
  }
  const intflash_attend_args args = arguments(op, call, converted, scratch.slopes);
  try {
    check(intflash_run(plan_for(call.desc).get(), &args, scratch.workspace.data(),
                       scratch.workspace.bytes()));
    return GGML_STATUS_SUCCESS;
  } catch (const Error& refusal) {
    error = refusal.what();
    return GGML_STATUS_FAILED;
  }
}

}  // namespace intflash::llama

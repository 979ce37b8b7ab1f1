// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Owners over the C interface for the command: what the library refuses becomes a Failure with its
// message.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <string>

#include "intflash/cache.h"
#include "intflash/intflash.h"

namespace intflash {

// Throws Failure with intflash_last_error() unless status is INTFLASH_OK.
void require_ok(intflash_status status);

struct DestroyContext {
  void operator()(intflash_context* context) const { intflash_context_destroy(context); }
};
using Context = std::unique_ptr<intflash_context, DestroyContext>;

struct DestroyPlan {
  void operator()(intflash_plan* plan) const { intflash_plan_destroy(plan); }
};
using Plan = std::unique_ptr<intflash_plan, DestroyPlan>;

struct DestroyCache {
  void operator()(intflash_cache* cache) const { intflash_cache_destroy(cache); }
};
using Cache = std::unique_ptr<intflash_cache, DestroyCache>;

struct DestroyBatchPlan {
  void operator()(intflash_batch_plan* plan) const { intflash_batch_plan_destroy(plan); }
};
using BatchPlan = std::unique_ptr<intflash_batch_plan, DestroyBatchPlan>;

// num_threads 0 and an empty isa leave the choice to the library. Destroy a context after its
// plans and caches.
Context create_context(int num_threads, const std::string& isa);
Plan create_plan(const Context& context, const intflash_attend_desc& desc);
Cache create_cache(const Context& context, const intflash_cache_options& options);
BatchPlan create_batch_plan(const Context& context, const Cache& cache,
                            const intflash_batch_desc& desc);

struct PlanInfo {
  std::string mode, port, kernel;  // as in intflash_plan_info, but they outlive the plan
  int num_threads;
  std::size_t workspace_bytes;
};
PlanInfo info_of(const Plan& plan);

// 64-byte aligned, uninitialised.
template <class T>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(std::size_t size)
      : elements_(static_cast<T*>(::operator new(size * sizeof(T), kAlignment))), size_(size) {}

  T* data() { return elements_.get(); }
  const T* data() const { return elements_.get(); }
  std::size_t size() const { return size_; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  T& operator[](std::size_t i) { return data()[i]; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* elements) const { ::operator delete(elements, kAlignment); }
  };
  std::unique_ptr<T, Free> elements_;
  std::size_t size_ = 0;
};

using Workspace = AlignedArray<std::byte>;
inline Workspace workspace_for(const Plan& plan) {
  return Workspace(intflash_plan_workspace_bytes(plan.get()));
}

// The strides of a tensor [batch][heads][tokens][dim] without gaps.
intflash_tensor contiguous_tensor(void* data, std::int64_t heads, std::int64_t tokens,
                                  std::int64_t dim);

// Desc and args with struct_size set and everything else at its default.
intflash_attend_desc default_desc();
intflash_attend_args default_args();

}  // namespace intflash

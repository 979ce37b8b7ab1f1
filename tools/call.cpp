// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Creation of the owners, with errors turned into exceptions.
#include "call.h"

#include "failure.h"

namespace intflash {

void require_ok(intflash_status status) {
  if (status == INTFLASH_OK) return;
  const std::string message = intflash_last_error();
  throw Failure(message.empty() ? intflash_status_name(status) : message);
}

Context create_context(int num_threads, const std::string& isa) {
  intflash_context_options options = {};
  options.struct_size = sizeof options;
  options.num_threads = num_threads;
  options.isa = isa.empty() ? nullptr : isa.c_str();
  intflash_context* context = nullptr;
  require_ok(intflash_context_create(&options, &context));
  return Context(context);
}

Plan create_plan(const Context& context, const intflash_attend_desc& desc) {
  intflash_plan* plan = nullptr;
  require_ok(intflash_plan_attend(context.get(), &desc, &plan));
  return Plan(plan);
}

Cache create_cache(const Context& context, const intflash_cache_options& options) {
  intflash_cache* cache = nullptr;
  require_ok(intflash_cache_create(context.get(), &options, &cache));
  return Cache(cache);
}

BatchPlan create_batch_plan(const Context& context, const Cache& cache,
                            const intflash_batch_desc& desc) {
  intflash_batch_plan* plan = nullptr;
  require_ok(intflash_plan_batch(context.get(), cache.get(), &desc, &plan));
  return BatchPlan(plan);
}

PlanInfo info_of(const Plan& plan) {
  intflash_plan_info info = {};
  info.struct_size = sizeof info;
  require_ok(intflash_plan_get_info(plan.get(), &info));
  return {info.mode, info.port, info.kernel, info.num_threads, info.workspace_bytes};
}

intflash_tensor contiguous_tensor(void* data, std::int64_t heads, std::int64_t tokens,
                                  std::int64_t dim) {
  intflash_tensor tensor = {};
  tensor.data = data;
  tensor.stride_token = dim;
  tensor.stride_head = tokens * dim;
  tensor.stride_batch = heads * tokens * dim;
  return tensor;
}

intflash_attend_desc default_desc() {
  intflash_attend_desc desc = {};
  desc.struct_size = sizeof desc;
  desc.batch = 1;
  desc.query_dtype = desc.key_dtype = desc.value_dtype = desc.out_dtype = INTFLASH_F32;
  return desc;
}

intflash_attend_args default_args() {
  intflash_attend_args args = {};
  args.struct_size = sizeof args;
  return args;
}

}  // namespace intflash

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "backend/plan.h"

#include <cmath>

#include "cache/kv_cache.h"
#include "core/serial.h"
#include "core/structs.h"
#include "machine/float_state.h"

namespace intflash::internal {
namespace {

void make_dense_request(const void* user, std::int64_t, Request& request) {
  const Problem& problem = *static_cast<const Problem*>(user);
  request.mask = problem.mask;
  request.softmax_scale = problem.softmax_scale;
}

struct RequestMaker {
  const intflash_batch_desc& desc;
  float default_scale;
};

void make_batch_request(const void* user, std::int64_t index, Request& request) {
  const RequestMaker& maker = *static_cast<const RequestMaker*>(user);
  const intflash_request given = element_of(maker.desc.requests, maker.desc.request_size, index);
  request.mask.query_len = given.query_len;
  request.mask.kv_begin = given.first_key_position;
  request.mask.kv_len = given.kv_len;
  request.keys = {given.key_begin, given.key_end};
  set_mask({given.mask, given.window_left, given.window_right, given.prefix_len}, request.mask);
  request.softmax_scale = given.softmax_scale > 0 ? given.softmax_scale : maker.default_scale;
}

Problem problem_of(const intflash_cache& cache, const intflash_batch_desc& desc) {
  Problem problem{};
  problem.mode = desc.mode;
  problem.batch = 1;
  problem.num_query_heads = desc.num_query_heads;
  problem.num_kv_heads = cache.num_kv_heads;
  problem.group_size = desc.num_query_heads / cache.num_kv_heads;
  problem.head_dim = cache.layout.head_dim;
  problem.head_dim_v = cache.layout.head_dim_v;
  problem.query_dtype = desc.query_dtype;
  problem.out_dtype = desc.out_dtype;
  problem.score_cap = desc.score_cap;
  problem.rotation = cache.rotation;
  choose_digits(desc.score_digits, is_quantized(desc.mode) && cache.codec->has_digits,
                problem.digits_above);
  return problem;
}

}  // namespace

bool cut_dense(const intflash_context& context, const Problem& problem, const ScheduleShape& shape,
               intflash_plan& plan) {
  plan.serial = next_serial();
  plan.context = &context;
  plan.problem = problem;
  Batch batch{};
  batch.shape = shape;
  batch.num_requests = problem.is_empty() ? 0 : problem.batch;
  batch.make_request = make_dense_request;
  batch.user = &problem;
  batch.page_size = kBlockTokens;
  return make_schedule(context, batch, plan.schedule);
}

bool cut_batch(const intflash_context& context, const intflash_cache& cache,
               const intflash_batch_desc& desc, const ScheduleShape& shape, intflash_plan& plan) {
  plan.serial = next_serial();
  plan.context = &context;
  plan.is_batch = true;
  plan.problem = problem_of(cache, desc);
  plan.cache = {cache.layout,   cache.num_kv_heads, cache.num_pages,
                cache.rotation, cache.codec,        cache.window};
  const FloatState float_state;  // the caller may round otherwise
  const RequestMaker maker = {desc, 1.0f / std::sqrt(static_cast<float>(cache.layout.head_dim))};
  Batch batch{};
  batch.shape = shape;
  batch.num_requests = desc.num_requests;
  batch.make_request = make_batch_request;
  batch.user = &maker;
  batch.shared_prefixes = desc.shared_prefixes;
  batch.shared_prefix_size = desc.shared_prefix_size;
  batch.num_shared_prefixes = desc.num_shared_prefixes;
  batch.page_size = cache.layout.page_size;
  if (!make_schedule(context, batch, plan.schedule)) return false;
  plan.problem.query_len = plan.schedule.num_queries;
  return true;
}

void destroy_plan(intflash_plan& plan) {
  const intflash_context& context = *plan.context;
  free_schedule(context, plan.schedule);
  context.deallocate(context.allocator_user, &plan);
}

}  // namespace intflash::internal

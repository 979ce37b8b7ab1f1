// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The C entry points of batches: arguments -> plan -> run.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <new>

#include "core/checks.h"
#include "core/rope.h"
#include "core/score_bias.h"
#include "core/structs.h"
#include "cpu/batch.h"
#include "engine/shared_prefix.h"
#include "engine/state_set.h"

namespace {

using namespace intflash::internal;
constexpr std::size_t kAlignment = 64;

// How many states a run leaves of a request of the plan.
std::int64_t num_states(const intflash_batch_plan& plan, std::int64_t request) {
  const Schedule& schedule = plan.schedule;
  const std::int64_t end = request + 1 == schedule.num_requests
                               ? schedule.num_states
                               : schedule.requests[request + 1].first_state;
  return end - schedule.requests[request].first_state;
}

// Of one of these.
KeyRange state_keys(const Request& request, std::int64_t index) {
  KeyRange keys{};
  const KeyRange spans = attended_spans(request);
  for_each_node(spans.begin, spans.end, [&](std::int64_t first, std::int64_t count) {
    if (index-- == 0) keys = {first * kSpanTokens, (first + count) * kSpanTokens};
  });
  return keys;
}

// That the keys to attend are whole spans, but for the request's ends.
intflash_status check_key_range(const intflash_request& request, std::int64_t index) {
  const auto may_end = [&](std::int64_t position) {
    return position % kSpanTokens == 0 || position == request.first_key_position ||
           position == request.kv_len;
  };
  const bool is_all = request.key_begin == 0 && request.key_end == 0;
  if (is_all ||
      (request.key_begin >= request.first_key_position && request.key_begin <= request.key_end &&
       request.key_end <= request.kv_len && may_end(request.key_begin) && may_end(request.key_end)))
    return INTFLASH_OK;
  return fail(INTFLASH_BAD_SHAPE,
              "requests[%lld]: key_begin = %lld, key_end = %lld: must be multiples of %d, "
              "first_key_position = %lld or kv_len = %lld, in this order",
              static_cast<i64>(index), static_cast<i64>(request.key_begin),
              static_cast<i64>(request.key_end), kSpanTokens,
              static_cast<i64>(request.first_key_position), static_cast<i64>(request.kv_len));
}

intflash_status check_request(const intflash_request& request, std::int64_t index,
                              std::int64_t page_size) {
  intflash_status status = check_extent("query_len", request.query_len, 0);
  if (status == INTFLASH_OK) status = check_extent("kv_len", request.kv_len, 0);
  if (status == INTFLASH_OK) status = check_softmax_scale(request.softmax_scale);
  MaskRule rule{};
  rule.query_len = request.query_len;
  rule.kv_len = request.kv_len;
  if (status == INTFLASH_OK)
    status = set_mask({request.mask, request.window_left, request.window_right, request.prefix_len},
                      rule);
  if (status != INTFLASH_OK) return status;
  if (request.first_key_position < 0 || request.first_key_position % page_size != 0 ||
      request.first_key_position > request.kv_len) {
    return fail(INTFLASH_BAD_SHAPE,
                "requests[%lld].first_key_position = %lld: must be a multiple of page_size = %lld "
                "up to kv_len = %lld",
                static_cast<i64>(index), static_cast<i64>(request.first_key_position),
                static_cast<i64>(page_size), static_cast<i64>(request.kv_len));
  }
  return check_key_range(request, index);
}

intflash_status check_desc(const intflash_cache& cache, const intflash_batch_desc& desc) {
  intflash_status status = check_extent("num_requests", desc.num_requests, 0);
  if (status == INTFLASH_OK) status = check_extent("num_query_heads", desc.num_query_heads, 1);
  if (status == INTFLASH_OK) status = check_dtype("query_dtype", desc.query_dtype, false);
  if (status == INTFLASH_OK) status = check_dtype("out_dtype", desc.out_dtype, false);
  if (status == INTFLASH_OK) status = check_scalar("score_cap", desc.score_cap);
  if (status != INTFLASH_OK) return status;
  if (desc.num_query_heads % cache.num_kv_heads != 0) {
    return fail(INTFLASH_BAD_SHAPE,
                "num_query_heads = %lld: must be a multiple of the cache's num_kv_heads = %lld",
                static_cast<i64>(desc.num_query_heads), static_cast<i64>(cache.num_kv_heads));
  }
  status = check_elements("requests", "intflash_request", desc.requests, desc.num_requests,
                          desc.request_size);
  if (status != INTFLASH_OK) return status;
  std::int64_t queries = 0;
  for (std::int64_t r = 0; r < desc.num_requests; ++r) {
    const intflash_request request = element_of(desc.requests, desc.request_size, r);
    status = check_request(request, r, cache.layout.page_size);
    if (status != INTFLASH_OK) return status;
    queries += request.query_len;
  }
  if (queries > kMaxExtent / desc.num_query_heads) {
    return fail(INTFLASH_SIZE_OVERFLOW,
                "%lld queries of %lld heads in one batch: must be at most 2^31 - 1 rows",
                static_cast<i64>(queries), static_cast<i64>(desc.num_query_heads));
  }
  return check_shared_prefixes(desc);
}

intflash_status make_plan(const intflash_context* context, const intflash_cache* cache,
                          const intflash_batch_desc* given, intflash_batch_plan*& plan) {
  if (context == nullptr || cache == nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT, "context = %p, cache = %p: must not be NULL",
                static_cast<const void*>(context), static_cast<const void*>(cache));
  }
  intflash_batch_desc desc;
  intflash_status status = read_struct("desc", "intflash_batch_desc", given, desc);
  if (status == INTFLASH_OK) status = check_desc(*cache, desc);
  if (status != INTFLASH_OK) return status;
  intflash_batch_plan* made = make_batch_plan(*context, *cache, desc);
  if (made == nullptr) {
    return fail(INTFLASH_OUT_OF_MEMORY, "no memory for a plan of %lld requests",
                static_cast<i64>(desc.num_requests));
  }
  plan = made;
  return INTFLASH_OK;
}

void fill_info(const intflash_batch_plan& plan, intflash_plan_info* target) {
  intflash_plan_info info{};
  info.mode = "int8";
  info.port = plan.context->port->name;
  std::snprintf(info.kernel, sizeof info.kernel, "batch/int8%s/%s/rows%dx%d",
                plan.score_cap > 0 ? "+cap" : "", info.port,
                static_cast<int>(plan.schedule.tile_rows), kScoreBlock);
  info.num_threads = plan.num_workers();
  info.workspace_bytes = intflash_batch_workspace_bytes(&plan);
  write_struct(info, target);
}

intflash_status check_cache(const intflash_batch_plan& plan, const intflash_cache* cache) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  const PageLayout& page = plan.page;
  if (cache->layout.head_dim == page.head_dim && cache->layout.head_dim_v == page.head_dim_v &&
      cache->layout.page_size == page.page_size && cache->num_kv_heads == plan.num_kv_heads &&
      cache->num_pages == plan.num_pages && cache->rotate == plan.rotate)
    return INTFLASH_OK;
  return fail(INTFLASH_BAD_SHAPE,
              "cache: %lld kv heads of %lld and %lld channels, %lld pages of %lld, rotate = %d: "
              "the plan is for %lld of %lld and %lld, %lld of %lld, rotate = %d",
              static_cast<i64>(cache->num_kv_heads), static_cast<i64>(cache->layout.head_dim),
              static_cast<i64>(cache->layout.head_dim_v), static_cast<i64>(cache->num_pages),
              static_cast<i64>(cache->layout.page_size), cache->rotate ? 1 : 0,
              static_cast<i64>(plan.num_kv_heads), static_cast<i64>(page.head_dim),
              static_cast<i64>(page.head_dim_v), static_cast<i64>(plan.num_pages),
              static_cast<i64>(page.page_size), plan.rotate ? 1 : 0);
}

intflash_status check_additive_masks(const intflash_batch_plan& plan,
                                     const intflash_batch_args& args) {
  const std::int64_t count = args.additive_masks == nullptr ? 0 : plan.schedule.num_requests;
  intflash_status status = check_elements("additive_masks", "intflash_additive_mask",
                                          args.additive_masks, count, args.additive_mask_size);
  for (std::int64_t r = 0; status == INTFLASH_OK && r < count; ++r) {
    const auto mask = element_of(args.additive_masks, args.additive_mask_size, r);
    if (mask.data == nullptr) continue;
    char name[48];
    std::snprintf(name, sizeof name, "additive_masks[%lld]", static_cast<i64>(r));
    status =
        check_additive_mask(name, mask, 1, plan.num_query_heads, plan.schedule.requests[r].mask);
  }
  return status;
}

intflash_status check_bit_masks(const intflash_batch_plan& plan, const intflash_batch_args& args) {
  const std::int64_t count = args.bit_masks == nullptr ? 0 : plan.schedule.num_requests;
  intflash_status status =
      check_elements("bit_masks", "intflash_bit_mask", args.bit_masks, count, args.bit_mask_size);
  for (std::int64_t r = 0; status == INTFLASH_OK && r < count; ++r) {
    const auto mask = element_of(args.bit_masks, args.bit_mask_size, r);
    if (mask.words == nullptr) continue;
    char name[48];
    std::snprintf(name, sizeof name, "bit_masks[%lld]", static_cast<i64>(r));
    status = check_bit_mask(name, mask, plan.schedule.requests[r].mask.kv_len);
  }
  return status;
}

// That they have memory, and the keys that the plan says.
intflash_status check_left_states(const intflash_batch_plan& plan,
                                  const intflash_batch_args& args) {
  const Schedule& schedule = plan.schedule;
  intflash_status status =
      check_elements("states", "intflash_state", args.states, schedule.num_states, args.state_size);
  for (std::int64_t r = 0; status == INTFLASH_OK && r < schedule.num_requests; ++r) {
    const Request& request = schedule.requests[r];
    for (std::int64_t i = 0; status == INTFLASH_OK && i < num_states(plan, r); ++i) {
      const std::int64_t index = request.first_state + i;
      const intflash_state state = element_of(args.states, args.state_size, index);
      status = check_state("states", index, state, request.mask.query_len > 0);
      const KeyRange keys = state_keys(request, i);
      if (status != INTFLASH_OK ||
          (state.first_key == keys.begin && state.num_keys == keys.end - keys.begin))
        continue;
      return fail(INTFLASH_BAD_SHAPE,
                  "states[%lld]: %lld keys from %lld on: must be %lld from %lld on, as the plan "
                  "says of request %lld",
                  static_cast<i64>(index), static_cast<i64>(state.num_keys),
                  static_cast<i64>(state.first_key), static_cast<i64>(keys.end - keys.begin),
                  static_cast<i64>(keys.begin), static_cast<i64>(r));
    }
  }
  return status;
}

intflash_status check_batch_args(const intflash_batch_plan& plan, const intflash_batch_args& args) {
  intflash_status status =
      check_tensor({"query", &args.query, plan.query_dtype, 1, plan.num_query_heads,
                    plan.schedule.num_queries, plan.page.head_dim});
  const TensorView out = {"out",
                          &args.out,
                          plan.out_dtype,
                          1,
                          plan.num_query_heads,
                          plan.schedule.num_queries,
                          plan.page.head_dim_v};
  if (status == INTFLASH_OK && args.states != nullptr) {
    status = check_left_states(plan, args);
  } else if (status == INTFLASH_OK) {
    status = check_tensor(out);
    if (status == INTFLASH_OK) status = check_pointer("lse", args.lse);
    if (status == INTFLASH_OK) status = check_sinks(args.sinks, plan.num_query_heads);
    if (status == INTFLASH_OK) status = check_no_overlap(out);
  }
  if (status == INTFLASH_OK) status = check_rope(args.rope, plan.page.head_dim);
  for (std::int64_t r = 0; status == INTFLASH_OK && r < plan.schedule.num_requests; ++r)
    status = check_rope_positions(args.rope, r, first_position(plan.schedule.requests[r]),
                                  plan.schedule.requests[r].mask.kv_len);
  if (status == INTFLASH_OK) status = check_slopes(args.alibi_slopes, plan.num_query_heads);
  if (status == INTFLASH_OK) status = check_additive_masks(plan, args);
  if (status == INTFLASH_OK) status = check_bit_masks(plan, args);
  return status;
}

intflash_status check_pages_of_tables(const intflash_batch_plan& plan, const intflash_cache& cache,
                                      const intflash_batch_args& args, char* workspace) {
  intflash_status status = check_page_table(args.pages, plan.schedule.num_requests);
  const PageSet seen{reinterpret_cast<std::uint64_t*>(workspace + plan.layout.page_set_offset)};
  for (std::int64_t r = 0; status == INTFLASH_OK && r < plan.schedule.num_requests; ++r) {
    const Request& request = plan.schedule.requests[r];
    const PageRun pages = batch_pages(cache, args, r, request.mask.kv_begin);
    status = check_pages(cache, r, pages, request.keys, seen);
  }
  return status;
}

// Sequences in place of tables: what the plan says of them, they are.
intflash_status check_batch_sequences(const intflash_batch_plan& plan, const intflash_cache& cache,
                                      const intflash_batch_args& args) {
  if (args.pages.page_indptr != nullptr || args.pages.page_ids != nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "pages and sequences = %p: exactly one of both must be given",
                static_cast<const void*>(args.sequences));
  }
  for (std::int64_t r = 0; r < plan.schedule.num_requests; ++r) {
    const intflash_status status = check_sequence(cache, args.sequences[r]);
    if (status != INTFLASH_OK) return status;
    const Sequence& sequence = cache.sequences[args.sequences[r]];
    const MaskRule& mask = plan.schedule.requests[r].mask;
    const std::int64_t end = plan.schedule.requests[r].keys.end;
    const std::int64_t length = sequence.length(args.layer);
    const bool has_keys = end < mask.kv_len ? length >= end : length == mask.kv_len;
    if (has_keys && sequence.first_key_position == mask.kv_begin) continue;
    return fail(
        INTFLASH_BAD_SHAPE,
        "sequences[%lld] = %d: positions %lld ... %lld in layer %lld: the plan's request has "
        "%lld ... %lld",
        static_cast<i64>(r), args.sequences[r], static_cast<i64>(sequence.first_key_position),
        static_cast<i64>(length), static_cast<i64>(args.layer), static_cast<i64>(mask.kv_begin),
        static_cast<i64>(end));
  }
  return INTFLASH_OK;
}

intflash_status check_batch_pages(const intflash_batch_plan& plan, const intflash_cache& cache,
                                  const intflash_batch_args& args, char* workspace) {
  intflash_status status = check_layer(cache, args.layer);
  if (status == INTFLASH_OK)
    status = args.sequences == nullptr ? check_pages_of_tables(plan, cache, args, workspace)
                                       : check_batch_sequences(plan, cache, args);
  for (std::int64_t s = 0; status == INTFLASH_OK && s < plan.schedule.num_sections; ++s) {
    const Section& section = plan.schedule.sections[s];
    if (section.is_shared) status = check_shared_pages(plan.schedule, section, cache, args);
  }
  return status;
}

std::int64_t count_tasks(const intflash_batch_plan& plan) {
  std::int64_t tasks = 0;
  for (std::int32_t phase = 0; phase < num_phases(plan); ++phase) tasks += num_tasks(plan, phase);
  return tasks;
}

bool is_aligned(const void* workspace) {
  return workspace != nullptr && reinterpret_cast<std::uintptr_t>(workspace) % kAlignment == 0;
}

// The run of this plan that the workspace holds, or nullptr and the last error.
BatchRun* begun_run(const intflash_batch_plan* plan, void* workspace) {
  if (plan == nullptr || !is_aligned(workspace)) {
    fail(INTFLASH_INVALID_ARGUMENT,
         "plan = %p, workspace = %p: must be those of a run, and not NULL",
         static_cast<const void*>(plan), workspace);
    return nullptr;
  }
  BatchRun* const run = static_cast<BatchRun*>(workspace);
  if (run->mark == run_mark(*plan)) return run;
  fail(INTFLASH_INVALID_ARGUMENT,
       "workspace = %p: holds no run that intflash_batch_begin has begun of this plan", workspace);
  return nullptr;
}

double largest_key(const intflash_batch_plan& plan, const intflash_cache& cache,
                   const intflash_batch_args& args) {
  std::uint32_t largest = 0;
  for (std::int64_t r = 0; r < plan.schedule.num_requests; ++r) {
    const Request& request = plan.schedule.requests[r];
    const PageRun pages = batch_pages(cache, args, r, request.mask.kv_begin);
    largest = std::max(largest, cache.largest_key_of(pages, request.keys));
  }
  return static_cast<double>(std::bit_cast<float>(largest)) +
         static_cast<double>(cache.layers[args.layer].largest_key_center);
}

}  // namespace

extern "C" {

intflash_status intflash_plan_batch(intflash_context* context, const intflash_cache* cache,
                                    const intflash_batch_desc* desc, intflash_batch_plan** plan) {
  if (plan == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "plan = NULL: must point to where the handle goes");
  return make_plan(context, cache, desc, *plan);
}

intflash_status intflash_query_batch_support(const intflash_context* context,
                                             const intflash_cache* cache,
                                             const intflash_batch_desc* desc,
                                             intflash_plan_info* info) {
  if (info != nullptr) {
    const intflash_status status = check_struct("info", "intflash_plan_info", info);
    if (status != INTFLASH_OK) return status;
  }
  intflash_batch_plan* plan = nullptr;
  const intflash_status status = make_plan(context, cache, desc, plan);
  if (status == INTFLASH_OK && info != nullptr) fill_info(*plan, info);
  intflash_batch_plan_destroy(plan);
  return status;
}

void intflash_batch_plan_destroy(intflash_batch_plan* plan) {
  if (plan != nullptr) free_batch_plan(*plan);
}

size_t intflash_batch_workspace_bytes(const intflash_batch_plan* plan) {
  return plan == nullptr ? 0 : static_cast<size_t>(plan->layout.total_bytes);
}

intflash_status intflash_batch_get_info(const intflash_batch_plan* plan, intflash_plan_info* info) {
  if (plan == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "plan = NULL: create one first");
  const intflash_status status = check_struct("info", "intflash_plan_info", info);
  if (status == INTFLASH_OK) fill_info(*plan, info);
  return status;
}

int64_t intflash_batch_num_states(const intflash_batch_plan* plan, int64_t request) {
  return plan == nullptr || request < 0 || request >= plan->schedule.num_requests
             ? 0
             : num_states(*plan, request);
}

intflash_status intflash_batch_get_state_keys(const intflash_batch_plan* plan, int64_t request,
                                              int64_t index, int64_t* first_key,
                                              int64_t* num_keys) {
  if (plan == nullptr || first_key == nullptr || num_keys == nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "plan = %p, first_key = %p, num_keys = %p: must not be NULL",
                static_cast<const void*>(plan), static_cast<void*>(first_key),
                static_cast<void*>(num_keys));
  }
  const std::int64_t count = intflash_batch_num_states(plan, request);
  if (index < 0 || index >= count) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "request = %lld, index = %lld: must be a request of the plan, and below its %lld",
                static_cast<i64>(request), static_cast<i64>(index), static_cast<i64>(count));
  }
  const KeyRange keys = state_keys(plan->schedule.requests[request], index);
  *first_key = keys.begin;
  *num_keys = keys.end - keys.begin;
  return INTFLASH_OK;
}

intflash_status intflash_batch_begin(const intflash_batch_plan* plan, const intflash_cache* cache,
                                     const intflash_batch_args* given, void* workspace,
                                     size_t workspace_bytes) {
  if (plan == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "plan = NULL: create one first");
  // What was begun here before is over, whether this begins or not.
  if (is_aligned(workspace) && workspace_bytes >= sizeof(BatchRun::mark))
    static_cast<BatchRun*>(workspace)->mark = 0;
  intflash_batch_args args;
  intflash_status status = check_cache(*plan, cache);
  if (status == INTFLASH_OK) status = read_struct("args", "intflash_batch_args", given, args);
  if (status == INTFLASH_OK) status = check_batch_args(*plan, args);
  if (status != INTFLASH_OK) return status;
  if (!is_aligned(workspace) || workspace_bytes < intflash_batch_workspace_bytes(plan)) {
    return fail(INTFLASH_WORKSPACE_TOO_SMALL,
                "workspace = %p of %zu bytes: must be %zu bytes at a multiple of %zu", workspace,
                workspace_bytes, intflash_batch_workspace_bytes(plan), kAlignment);
  }
  status = check_batch_pages(*plan, *cache, args, static_cast<char*>(workspace));
  if (status != INTFLASH_OK) return status;
  begin_run(*plan, *cache, args, largest_key(*plan, *cache, args), workspace);
  return INTFLASH_OK;
}

int32_t intflash_batch_num_phases(const intflash_batch_plan* plan) {
  return plan == nullptr ? 0 : num_phases(*plan);
}

int64_t intflash_batch_num_tasks(const intflash_batch_plan* plan, int32_t phase) {
  return plan == nullptr || phase < 0 || phase >= num_phases(*plan) ? 0 : num_tasks(*plan, phase);
}

intflash_status intflash_batch_run_task(const intflash_batch_plan* plan, void* workspace,
                                        int32_t phase, int64_t task, int32_t worker) {
  BatchRun* const run = begun_run(plan, workspace);
  if (run == nullptr) return INTFLASH_INVALID_ARGUMENT;
  const std::int64_t tasks = intflash_batch_num_tasks(plan, phase);
  if (task < 0 || task >= tasks || worker < 0 || worker >= plan->num_workers()) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "phase = %d, task = %lld, worker = %d: must be a phase of the plan, below %lld and "
                "below %d",
                phase, static_cast<i64>(task), worker, static_cast<i64>(tasks),
                plan->num_workers());
  }
  const FloatState float_state;
  run_task(*run, phase, task, run->team().worker(worker));
  run->tasks_run.fetch_add(1, std::memory_order_relaxed);
  return INTFLASH_OK;
}

intflash_status intflash_batch_end(const intflash_batch_plan* plan, void* workspace) {
  BatchRun* const run = begun_run(plan, workspace);
  if (run == nullptr) return INTFLASH_INVALID_ARGUMENT;
  const std::int64_t tasks_run = run->tasks_run.load(std::memory_order_relaxed);
  if (tasks_run != count_tasks(*plan)) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "%lld tasks of this run have run: must be the plan's %lld, each once",
                static_cast<i64>(tasks_run), static_cast<i64>(count_tasks(*plan)));
  }
  run->mark = 0;
  return result_of(*run);
}

intflash_status intflash_batch_run(const intflash_batch_plan* plan, const intflash_cache* cache,
                                   const intflash_batch_args* args, void* workspace,
                                   size_t workspace_bytes) {
  const intflash_status status =
      intflash_batch_begin(plan, cache, args, workspace, workspace_bytes);
  if (status != INTFLASH_OK) return status;
  BatchRun& run = *static_cast<BatchRun*>(workspace);
  for (std::int32_t phase = 0; phase < num_phases(*plan); ++phase) {
    run.team().for_each(num_tasks(*plan, phase), [&](const Worker& worker, std::int64_t task) {
      run_task(run, phase, task, worker);
    });
  }
  run.mark = 0;
  return result_of(run);
}

}  // extern "C"

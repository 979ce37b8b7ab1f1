// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The C entry points of batches: arguments -> plan -> run.
#include <cstdint>
#include <cstdio>

#include "api/plans.h"
#include "cache/storage.h"
#include "core/checks.h"
#include "engine/shared_prefix.h"
#include "inputs/rope.h"
#include "inputs/score_bias.h"
#include "states/state_set.h"

namespace {

using namespace intflash::internal;

// How many states a run leaves of a request of the plan.
std::int64_t num_states(const intflash_plan& plan, std::int64_t request) {
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
  if (status == INTFLASH_OK) status = check_mode(desc.mode);
  if (status == INTFLASH_OK) status = check_extent("num_query_heads", desc.num_query_heads, 1);
  if (status == INTFLASH_OK) status = check_dtype("query_dtype", desc.query_dtype, true);
  if (status == INTFLASH_OK) status = check_dtype("out_dtype", desc.out_dtype, false);
  if (status == INTFLASH_OK) status = check_scalar("score_cap", desc.score_cap);
  if (status != INTFLASH_OK) return status;
  std::int32_t digits_above = 0;
  status = choose_digits(desc.score_digits, cache.codec->has_digits, digits_above);
  if (status != INTFLASH_OK) return status;
  if (is_quantized(desc.mode) &&
      cache.codec->has_f16_values != (desc.mode == INTFLASH_MODE_INT8_QK)) {
    return fail(INTFLASH_UNSUPPORTED,
                "mode = %s over a cache of codec %s, whose values are %s: must be %s, or EXACT",
                desc.mode == INTFLASH_MODE_INT8 ? "INT8" : "INT8_QK", cache.codec->name,
                cache.codec->has_f16_values ? "in F16" : "codes",
                cache.codec->has_f16_values ? "INT8_QK" : "INT8");
  }
  if (desc.score_digits == 2 && is_quantized(desc.mode) && !cache.codec->has_digits) {
    return fail(INTFLASH_UNSUPPORTED,
                "score_digits = 2 over a cache of codec %s, whose keys have one digit%s",
                cache.codec->name,
                cache.codec->has_f16_values ? "" : ": create it with codec = INT8_WIDE");
  }
  if (desc.query_dtype == INTFLASH_INT8 && cache.rotation.keys) {
    return fail(
        INTFLASH_UNSUPPORTED,
        "query_dtype = INT8 over a cache that rotates keys: codes cannot be rotated; create "
        "the cache with rotation = NONE");
  }
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
  if (desc.num_shared_prefixes > 0 && !cache.window.is_none()) {
    return fail(INTFLASH_UNSUPPORTED,
                "num_shared_prefixes = %lld over a cache with window_blocks = %lld: must be 0",
                static_cast<i64>(desc.num_shared_prefixes),
                static_cast<i64>(cache.window.num_blocks));
  }
  return check_shared_prefixes(desc);
}

// That the context's device reads what the cache has stored.
intflash_status check_storage(const intflash_context& context, const intflash_cache& cache) {
  const Device& device = *context.device;
  if (cache.storage == device.storage) return INTFLASH_OK;
  return fail(INTFLASH_UNSUPPORTED, "cache: it lies in storage %s: device %s reads %s alone",
              cache.storage->name, device.name, device.storage->name);
}

intflash_status make_plan(const intflash_context* context, const intflash_cache* cache,
                          const intflash_batch_desc* given, intflash_plan*& plan) {
  if (context == nullptr || cache == nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT, "context = %p, cache = %p: must not be NULL",
                static_cast<const void*>(context), static_cast<const void*>(cache));
  }
  intflash_batch_desc desc;
  intflash_status status = read_struct("desc", "intflash_batch_desc", given, desc);
  if (status == INTFLASH_OK) status = check_storage(*context, *cache);
  if (status == INTFLASH_OK) status = check_desc(*cache, desc);
  if (status != INTFLASH_OK) return status;
  return backend_of(*context, desc.mode).create_batch_plan(*context, *cache, desc, plan);
}

intflash_status check_cache(const intflash_plan& plan, const intflash_cache* cache) {
  if (cache == nullptr) return fail(INTFLASH_INVALID_ARGUMENT, "cache = NULL: create one first");
  const intflash_status status = check_storage(*plan.context, *cache);
  if (status != INTFLASH_OK) return status;
  const PageLayout& page = plan.cache.layout;
  if (cache->layout.head_dim == page.head_dim && cache->layout.head_dim_v == page.head_dim_v &&
      cache->layout.page_size == page.page_size && cache->num_kv_heads == plan.cache.num_kv_heads &&
      cache->num_pages == plan.cache.num_pages && cache->rotation == plan.cache.rotation &&
      cache->codec == plan.cache.codec && cache->window == plan.cache.window)
    return INTFLASH_OK;
  return fail(
      INTFLASH_BAD_SHAPE,
      "cache: %lld kv heads of %lld and %lld channels, %lld pages of %lld, rotation of keys %d and "
      "values %d, codec %s, window_blocks %lld and sink_blocks %lld: the plan is for %lld of %lld "
      "and %lld, %lld of %lld, rotation %d and %d, codec %s, %lld and %lld",
      static_cast<i64>(cache->num_kv_heads), static_cast<i64>(cache->layout.head_dim),
      static_cast<i64>(cache->layout.head_dim_v), static_cast<i64>(cache->num_pages),
      static_cast<i64>(cache->layout.page_size), cache->rotation.keys ? 1 : 0,
      cache->rotation.values ? 1 : 0, cache->codec->name,
      static_cast<i64>(cache->window.num_blocks), static_cast<i64>(cache->window.sink_blocks),
      static_cast<i64>(plan.cache.num_kv_heads), static_cast<i64>(page.head_dim),
      static_cast<i64>(page.head_dim_v), static_cast<i64>(plan.cache.num_pages),
      static_cast<i64>(page.page_size), plan.cache.rotation.keys ? 1 : 0,
      plan.cache.rotation.values ? 1 : 0, plan.cache.codec->name,
      static_cast<i64>(plan.cache.window.num_blocks),
      static_cast<i64>(plan.cache.window.sink_blocks));
}

intflash_status check_additive_masks(const intflash_plan& plan, const intflash_batch_args& args) {
  const std::int64_t count = args.additive_masks == nullptr ? 0 : plan.schedule.num_requests;
  intflash_status status = check_elements("additive_masks", "intflash_additive_mask",
                                          args.additive_masks, count, args.additive_mask_size);
  for (std::int64_t r = 0; status == INTFLASH_OK && r < count; ++r) {
    const auto mask = element_of(args.additive_masks, args.additive_mask_size, r);
    if (mask.data == nullptr) continue;
    char name[48];
    std::snprintf(name, sizeof name, "additive_masks[%lld]", static_cast<i64>(r));
    status = check_additive_mask(name, mask, 1, plan.problem.num_query_heads,
                                 plan.schedule.requests[r].mask);
  }
  return status;
}

intflash_status check_bit_masks(const intflash_plan& plan, const intflash_batch_args& args) {
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
intflash_status check_left_states(const intflash_plan& plan, const intflash_batch_args& args) {
  const Schedule& schedule = plan.schedule;
  intflash_status status =
      check_elements("states", "intflash_state", args.states, schedule.num_states, args.state_size);
  for (std::int64_t r = 0; status == INTFLASH_OK && r < schedule.num_requests; ++r) {
    const Request& request = schedule.requests[r];
    for (std::int64_t i = 0; status == INTFLASH_OK && i < num_states(plan, r); ++i) {
      const std::int64_t index = request.first_state + i;
      const intflash_state state = element_of(args.states, args.state_size, index);
      status = check_state("states", index, state, request.mask.query_len > 0);
      const std::int32_t rotates = plan.problem.rotation.values ? 1 : 0;
      if (status == INTFLASH_OK && state.rotates_values != rotates)
        return fail(INTFLASH_INVALID_ARGUMENT,
                    "states[%lld].rotates_values = %d: must be %d, as the plan's info says",
                    static_cast<i64>(index), state.rotates_values, rotates);
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

intflash_status check_batch_args(const intflash_plan& plan, const intflash_batch_args& args) {
  const Problem& p = plan.problem;
  const TensorView out = {"out",       &args.out,   p.out_dtype, 1, p.num_query_heads,
                          p.query_len, p.head_dim_v};
  intflash_status status = check_tensor(
      {"query", &args.query, p.query_dtype, 1, p.num_query_heads, p.query_len, p.head_dim});
  if (status == INTFLASH_OK && args.states != nullptr) {
    status = check_left_states(plan, args);
  } else if (status == INTFLASH_OK) {
    status = check_tensor(out);
    if (status == INTFLASH_OK) status = check_pointer("lse", args.lse);
    if (status == INTFLASH_OK) status = check_no_overlap(out);
  }
  if (status == INTFLASH_OK) status = check_pointer("sinks", args.sinks);
  if (status == INTFLASH_OK) status = check_rope(args.rope, p.head_dim);
  if (status == INTFLASH_OK && args.rope.cos != nullptr && p.query_dtype == INTFLASH_INT8)
    status = fail(INTFLASH_UNSUPPORTED,
                  "rope with a query in INT8: codes cannot be turned; turn before quantizing");
  for (std::int64_t r = 0; status == INTFLASH_OK && r < plan.schedule.num_requests; ++r)
    status = check_rope_positions(args.rope, r, first_position(plan.schedule.requests[r]),
                                  plan.schedule.requests[r].mask.kv_len);
  if (status == INTFLASH_OK) status = check_pointer("alibi_slopes", args.alibi_slopes);
  if (status == INTFLASH_OK) status = check_additive_masks(plan, args);
  if (status == INTFLASH_OK) status = check_bit_masks(plan, args);
  return status;
}

intflash_status check_pages_of_tables(const intflash_plan& plan, const intflash_cache& cache,
                                      const intflash_batch_args& args, char* workspace) {
  intflash_status status = check_page_table(args.pages, plan.schedule.num_requests);
  const PageSet seen{reinterpret_cast<std::uint64_t*>(workspace + plan.page_set_offset)};
  for (std::int64_t r = 0; status == INTFLASH_OK && r < plan.schedule.num_requests; ++r) {
    const Request& request = plan.schedule.requests[r];
    const PageRun pages = batch_pages(cache, args, r, request.mask.kv_begin);
    status = check_pages(cache, r, pages, request.keys, seen);
  }
  return status;
}

// Sequences in place of tables: what the plan says of them, they are.
intflash_status check_batch_sequences(const intflash_plan& plan, const intflash_cache& cache,
                                      const intflash_batch_args& args) {
  if (args.pages.page_indptr != nullptr || args.pages.page_ids != nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "pages and sequences = %p: exactly one of both must be given",
                static_cast<const void*>(args.sequences));
  }
  const intflash_status aligned = check_pointer("sequences", args.sequences);
  if (aligned != INTFLASH_OK) return aligned;
  for (std::int64_t r = 0; r < plan.schedule.num_requests; ++r) {
    const intflash_status status = check_sequence(cache, args.sequences[r]);
    if (status != INTFLASH_OK) return status;
    const Sequence& sequence = cache.sequences[args.sequences[r]];
    const MaskRule& mask = plan.schedule.requests[r].mask;
    const std::int64_t end = plan.schedule.requests[r].keys.end;
    const std::int64_t length = sequence.length(args.layer);
    const bool has_keys = end < mask.kv_len ? length >= end : length == mask.kv_len;
    if (has_keys && sequence.first_key_position == mask.kv_begin) {
      const std::int64_t first = mask.kv_len - mask.query_len;
      if (mask.query_len == 0 || has_window(cache, sequence, first)) continue;
      char name[48];
      std::snprintf(name, sizeof name, "requests[%lld]: first query", static_cast<i64>(r));
      return report_no_window(cache, name, sequence, first);
    }
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

intflash_status check_batch_pages(const intflash_plan& plan, const intflash_cache& cache,
                                  const intflash_batch_args& args, char* workspace) {
  intflash_status status = check_layer(cache, args.layer);
  if (status == INTFLASH_OK && args.sequences == nullptr) status = check_pages_are_callers(cache);
  if (status != INTFLASH_OK) return status;
  status = args.sequences == nullptr ? check_pages_of_tables(plan, cache, args, workspace)
                                     : check_batch_sequences(plan, cache, args);
  for (std::int64_t s = 0; status == INTFLASH_OK && s < plan.schedule.num_sections; ++s) {
    const Section& section = plan.schedule.sections[s];
    if (section.is_shared) status = check_shared_pages(plan.schedule, section, cache, args);
  }
  return status;
}

}  // namespace

extern "C" {

intflash_status intflash_plan_batch(intflash_context* context, const intflash_cache* cache,
                                    const intflash_batch_desc* desc, intflash_plan** plan) {
  if (plan == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "plan = NULL: must point to where the handle goes");
  return make_plan(context, cache, desc, *plan);
}

intflash_status intflash_query_batch_support(const intflash_context* context,
                                             const intflash_cache* cache,
                                             const intflash_batch_desc* desc,
                                             intflash_plan_info* info) {
  return query_plan(info,
                    [&](intflash_plan*& plan) { return make_plan(context, cache, desc, plan); });
}

int64_t intflash_plan_num_states(const intflash_plan* plan, int64_t request) {
  if (plan == nullptr || !plan->is_batch || !plan->problem.is_quantized()) return 0;
  return request < 0 || request >= plan->schedule.num_requests ? 0 : num_states(*plan, request);
}

intflash_status intflash_plan_get_state_keys(const intflash_plan* plan, int64_t request,
                                             int64_t index, int64_t* first_key, int64_t* num_keys) {
  if (plan == nullptr || first_key == nullptr || num_keys == nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "plan = %p, first_key = %p, num_keys = %p: must not be NULL",
                static_cast<const void*>(plan), static_cast<void*>(first_key),
                static_cast<void*>(num_keys));
  }
  const std::int64_t count = intflash_plan_num_states(plan, request);
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

intflash_status intflash_begin_batch(const intflash_plan* plan, const intflash_cache* cache,
                                     const intflash_batch_args* given, void* workspace,
                                     size_t bytes) {
  intflash_status status = check_plan(plan, true);
  if (status != INTFLASH_OK) return status;
  forget_run(workspace, bytes);
  intflash_batch_args args;
  status = check_cache(*plan, cache);
  if (status == INTFLASH_OK) status = read_struct("args", "intflash_batch_args", given, args);
  if (status == INTFLASH_OK) status = check_batch_args(*plan, args);
  if (status == INTFLASH_OK) status = check_workspace(*plan, workspace, bytes);
  if (status != INTFLASH_OK) return status;
  static_cast<Run*>(workspace)->packed = 0;  // what is checked next is checked in its place
  status = check_batch_pages(*plan, *cache, args, static_cast<char*>(workspace));
  if (status != INTFLASH_OK) return status;
  return plan->calls->begin_batch(*plan, *cache, args, workspace);
}

intflash_status intflash_run_batch(const intflash_plan* plan, const intflash_cache* cache,
                                   const intflash_batch_args* args, void* workspace, size_t bytes) {
  const intflash_status status = intflash_begin_batch(plan, cache, args, workspace, bytes);
  return status == INTFLASH_OK ? finish_run(*plan, RunPart::kAll, workspace) : status;
}

}  // extern "C"

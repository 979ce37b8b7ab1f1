// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda_run.h"

#include <algorithm>

#include "inputs/score_bias.h"
#include "tile/limits.h"

namespace intflash::internal {
namespace {

CudaRequest request_on_device(const Problem& p, const Request& request) {
  const KeyRange seen = keys_that_are_seen(request);
  CudaRequest made{};
  made.first_position = first_position(request) + request.mask.shift;
  made.window_left = request.mask.window_left;
  made.window_right = request.mask.window_right;
  made.prefix_len = request.mask.prefix_len;
  made.key_begin = seen.begin;
  made.key_end = seen.end;
  made.query_len = request.mask.query_len;
  made.first_rope = first_position(request);
  made.first_row = request.first_query * p.group_size;
  made.softmax_scale = request.softmax_scale;
  made.softmax_factor = static_cast<float>(static_cast<double>(request.softmax_scale) * kLog2E);
  return made;
}

// Requests one after the other: what each has before it.
void make_requests(CudaRun& run) {
  const CudaPlan& plan = run.cuda_plan();
  CudaCall& call = run.call;
  std::int64_t blocks = 0, items = 0, states = 0;
  for (std::int64_t r = 0; r < plan.schedule.num_requests; ++r) {
    const Request& request = plan.schedule.requests[r];
    const KeyRange seen = keys_that_are_seen(request);
    const KeyRange own = blocks_of(seen);
    const KeyRange parts = cuda_parts(seen, plan.cut.spans_per_part);
    const std::int64_t tiles = cuda_tiles(plan, request);
    CudaRequest& made =
        *new (run.requests + r) CudaRequest(request_on_device(plan.problem, request));
    made.first_entry = blocks - own.begin;
    made.first_block = blocks;
    made.first_part = parts.begin;
    made.num_parts = parts.end - parts.begin;
    made.first_item = items;
    made.first_state = states;
    made.first_merge = call.num_merges;
    blocks += own.end - own.begin;
    items += tiles * made.num_parts;
    if (made.num_parts == 1) continue;
    states += tiles * made.num_parts;
    call.num_merges += tiles;
  }
}

}  // namespace

void begin_cuda_run(const intflash_plan& any_plan, void* workspace, CudaRun& run) {
  const CudaPlan& plan = static_cast<const CudaPlan&>(any_plan);
  const Problem& p = plan.problem;
  begin_run(plan, RunPart::kAll, workspace, run);
  char* const staging = run.workspace + plan.staging_offset;
  new (staging) CudaFindings{};
  run.requests = reinterpret_cast<CudaRequest*>(staging + plan.staging.requests);
  run.blocks = reinterpret_cast<std::int32_t*>(staging + plan.staging.blocks);
  run.runs = reinterpret_cast<CudaTokenRun*>(staging + plan.staging.runs);
  CudaCall& call = run.call;
  call.stream = plan.context->stream;
  call.num_requests = plan.schedule.num_requests;
  call.num_kv_heads = p.num_kv_heads;
  call.group_size = p.group_size;
  call.head_dim = p.head_dim;
  call.head_dim_v = p.head_dim_v;
  call.tile_dim = cuda_tile_dim(p.head_dim, p.head_dim_v);
  call.num_rows = plan.schedule.num_queries * p.group_size;
  call.rotates_keys = p.rotation.keys;
  call.rotates_values = p.rotation.values;
  call.digits_above = p.digits_above;
  call.largest_softmax_scale = plan.largest_softmax_scale;
  call.score_cap = cap_in_log2(p.score_cap);
  call.num_blocks = plan.staging.num_blocks;
  call.num_items = plan.cut.num_items;
  call.num_workers = plan.cut.num_workers;
  call.spans_per_part = plan.cut.spans_per_part;
  call.waiting_states = plan.cut.waiting_states;
  make_requests(run);
}

namespace {

// What centring took from scores matters to what else is in the denominator, and to that itself.
bool wants_center_score(const CudaCall& call) {
  return (call.centers.key != nullptr || call.computes_key_means) &&
         (call.lse != nullptr || call.sinks != nullptr || call.score_cap > 0);
}

// The device's memory for all that a run hands over and leaves for itself.
struct CudaRoom {
  std::int64_t staging, codes, digits, scale, center_score, pages, states, part_states;
  std::int64_t key_means, value_means, mean_sums, mean_gains;
};

void take_means(const CudaRun& run, Scratch& scratch, CudaRoom& room) {
  const Problem& p = run.plan->problem;
  const std::int64_t heads = p.batch * p.num_kv_heads;
  const std::int64_t dim = run.call.computes_key_means ? p.head_dim : 0;
  const std::int64_t dim_v = run.call.computes_value_means ? p.head_dim_v : 0;
  room.key_means = scratch.take(heads * dim * 4);
  room.value_means = scratch.take(heads * dim_v * 4);
  if (dim == 0 && dim_v == 0) return;
  room.mean_sums =
      scratch.take(heads * ceil_div(p.kv_len, kSpanTokens) * (std::max(dim, dim_v) + 1) * 8);
  room.mean_gains = scratch.take(heads * p.kv_len * 8);
}

CudaRoom take_room(const CudaRun& run, std::int64_t num_pages, Scratch& scratch) {
  const CudaCall& call = run.call;
  const std::int64_t rows = call.num_kv_heads * call.num_rows;
  const std::int64_t state_bytes = tile_state_bytes(call.tile_dim);
  std::int64_t part_states = 0;
  for (std::int64_t r = 0; r < call.num_requests; ++r) {
    const std::int64_t parts = run.requests[r].num_parts;
    if (parts > 1)
      part_states += parts * cuda_tiles(run.cuda_plan(), run.plan->schedule.requests[r]);
  }
  CudaRoom room{};
  room.staging = scratch.take(run.cuda_plan().staging.bytes);
  room.codes = scratch.take(rows * call.tile_dim);
  room.digits = scratch.take(call.has_digits() ? rows * call.tile_dim : 0);
  room.scale = scratch.take(rows * 4);
  room.center_score = scratch.take(wants_center_score(call) ? rows * 8 : 0);
  room.pages = scratch.take(num_pages * call.pages.page_bytes);
  room.states = scratch.take(call.num_workers * call.waiting_states * state_bytes);
  room.part_states = scratch.take(part_states * state_bytes);
  take_means(run, scratch, room);
  return room;
}

void set_means(const Scratch& scratch, const CudaRoom& room, CudaRun& run) {
  const CudaCall& call = run.call;
  const auto means = [&](bool of_values, bool rotates, std::int64_t center) {
    return CudaMeans{of_values, rotates, scratch.at<float>(center),
                     scratch.at<double>(room.mean_sums), scratch.at<double>(room.mean_gains)};
  };
  run.key_means = means(false, call.rotates_keys, room.key_means);
  run.value_means = means(true, call.rotates_values, room.value_means);
  if (run.call.computes_key_means) run.call.centers.key = run.key_means.center;
  if (run.call.computes_value_means) run.call.centers.value = run.value_means.center;
  run.tokens.centers = call.centers;
}

// Pages of the run's own are those that it has tokens for.
intflash_status allocate(CudaRun& run, Scratch& scratch) {
  const CudaStaging& staging = run.cuda_plan().staging;
  CudaCall& call = run.call;
  const CudaRoom room = take_room(run, staging.num_runs, scratch);
  const intflash_status status = scratch.allocate();
  if (status != INTFLASH_OK) return status;
  call.findings = scratch.at<CudaFindings>(room.staging);
  call.requests = scratch.at<CudaRequest>(room.staging + staging.requests);
  call.blocks = scratch.at<std::int32_t>(room.staging + staging.blocks);
  call.query_codes = scratch.at<std::int8_t>(room.codes);
  call.query_digits = scratch.at<std::int8_t>(room.digits);
  call.query_scale = scratch.at<float>(room.scale);
  if (wants_center_score(call)) call.center_score = scratch.at<double>(room.center_score);
  if (staging.num_runs > 0) call.pages.first = scratch.at<char>(room.pages);
  call.states = scratch.at<char>(room.states);
  call.part_states = scratch.at<char>(room.part_states);
  set_means(scratch, room, run);
  run.tokens.stream = call.stream;
  run.tokens.pages = call.pages;
  run.tokens.findings = call.findings;
  run.tokens.runs = scratch.at<CudaTokenRun>(room.staging + staging.runs);
  return INTFLASH_OK;
}

CudaError compute_means(const CudaRun& run) {
  const CudaDevice& device = run.device();
  CudaError error{};
  if (run.call.computes_key_means)
    error = device.table->compute_means(device.index, run.call, run.tokens, run.key_means);
  if (run.call.computes_value_means && error.is_none())
    error = device.table->compute_means(device.index, run.call, run.tokens, run.value_means);
  return error;
}

CudaError enqueue(CudaRun& run) {
  const std::int32_t device = run.device().index;
  const CudaTable& table = *run.device().table;
  const CudaCall& call = run.call;
  const CudaPlan& plan = run.cuda_plan();
  CudaError error = table.copy(device, call.stream, run.workspace + plan.staging_offset,
                               static_cast<std::size_t>(plan.staging.bytes), call.findings);
  if (error.is_none()) error = compute_means(run);
  if (error.is_none()) error = table.store_tokens(device, run.tokens);
  if (error.is_none()) error = table.quantize_queries(device, call);
  if (error.is_none()) error = table.check_masks(device, call);
  if (error.is_none()) error = table.judge(device, call, run.tokens);
  if (error.is_none()) error = table.attend(device, call);
  if (!error.is_none()) return error;
  return table.copy(device, call.stream, call.findings, sizeof run.found, &run.found);
}

intflash_status check_run(const CudaRun& run, const CudaError& error) {
  if (run.stored != nullptr) return run.stored->check("a run", error);
  return check_cuda(run.device(), "a run", error);
}

// That a run into a stream that is being captured has a workspace that copies wait for.
intflash_status check_captured(const CudaRun& run) {
  const CudaDevice& device = run.device();
  const CudaError error = device.table->check_capture(device.index, run.call.stream);
  if (error.kind != CudaErrorKind::kCapturing) return check_run(run, error);
  std::int32_t found = -1;
  const intflash_status status =
      check_run(run, device.table->locate(device.index, run.workspace, &found));
  if (status != INTFLASH_OK || found >= -1) return status;
  return fail(INTFLASH_UNSUPPORTED,
              "workspace = %p: device %s, a run into a stream that is being captured: must be "
              "page-locked",
              static_cast<const void*>(run.workspace), device.name);
}

}  // namespace

intflash_status enqueue_run(CudaRun& run) {
  if (was_cancelled(run)) return INTFLASH_OK;
  const intflash_status captured = check_captured(run);
  if (captured != INTFLASH_OK) return captured;
  Scratch scratch(*run.plan->context);
  const intflash_status status = allocate(run, scratch);
  if (status != INTFLASH_OK) return status;
  return check_run(run, enqueue(run));
}

intflash_status finish_cuda_run(CudaRun& run, intflash_status (*explain)(CudaRun& run)) {
  const CudaDevice& device = run.device();
  intflash_status status = check_cuda(device, "the status of a run",
                                      device.table->check_capture(device.index, run.call.stream));
  if (status != INTFLASH_OK) return status;
  status = check_run(run, device.table->wait(device.index, run.call.stream));
  if (status != INTFLASH_OK || run.found.refused == 0) return status;
  status = explain(run);
  if (status != INTFLASH_OK) return status;
  return fail(INTFLASH_NONFINITE_INPUT,
              "an input of the run was NaN, infinity or out of range, and has changed since then");
}

std::int64_t no_tasks(const intflash_plan&, std::int32_t) { return 0; }

intflash_status end_cuda_run(Run& run) { return check_cancelled(run); }

}  // namespace intflash::internal

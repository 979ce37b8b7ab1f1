// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda_backend.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <iterator>
#include <new>

#include "backend/score_range.h"
#include "core/limits.h"
#include "gpu/cuda_device.h"
#include "states/span_tree.h"

namespace intflash::internal {
namespace {

// Of a grid's second and third dimension.
constexpr std::int64_t kMaxBlocks = 65535;
// Kernels count rows of a kv head, and parts of all tiles, in 32 bits.
constexpr std::int64_t kMaxRows = std::int64_t{1} << 30;
constexpr std::int64_t kMaxTiles = std::int64_t{1} << 29;

// ---- What is served ----

intflash_status refuse(const intflash_context& context, const char* what) {
  return fail(INTFLASH_UNSUPPORTED, "%s: device %s does not serve it (docs/cuda.md)", what,
              context.device->name);
}

intflash_status check_served(const intflash_context& context, const Problem& p) {
  if (p.mode != INTFLASH_MODE_INT8) return refuse(context, "a mode other than int8");
  const bool has_kernel = std::find(std::begin(kCudaHeadDims), std::end(kCudaHeadDims),
                                    p.head_dim) != std::end(kCudaHeadDims);
  if (!has_kernel || p.head_dim_v != p.head_dim)
    return refuse(context, "a head_dim other than 64, 80, 96 and 128, or another head_dim_v");
  for (const intflash_dtype dtype : {p.query_dtype, p.key_dtype, p.value_dtype}) {
    if (dtype != INTFLASH_F32 && dtype != INTFLASH_F16 && dtype != INTFLASH_BF16)
      return refuse(context, "a dtype other than f32, f16 and bf16");
  }
  if (p.score_cap > 0) return refuse(context, "score_cap");
  if (p.center_key || p.center_value) return refuse(context, "center");
  if (p.num_kv_heads > kMaxBlocks || p.batch > kMaxBlocks)
    return refuse(context, "more than 65535 kv heads or batches");
  const std::int64_t rows = p.group_size * p.query_len;
  if (rows > kMaxRows || p.batch * p.num_kv_heads * ceil_div(rows, kCudaTileRows) > kMaxTiles)
    return refuse(context, "so many query rows, more than 2^30 of a kv head or 2^29 tiles of 64");
  return INTFLASH_OK;
}

intflash_status check_served(const intflash_context& context, const intflash_attend_args& args) {
  if (args.sinks != nullptr) return refuse(context, "sinks");
  if (args.alibi_slopes != nullptr) return refuse(context, "alibi_slopes");
  if (args.additive_mask.data != nullptr) return refuse(context, "additive_mask");
  if (args.bit_mask.words != nullptr) return refuse(context, "bit_mask");
  return INTFLASH_OK;
}

// ---- A run ----

// At the front of the workspace, in the host's memory. What a run needs of the device's it takes
// from the stream's pool, and gives back before begin returns.
struct CudaRun : Run {};

// Memory of the device's for as long as it lives, cut from the front.
class Scratch {
 public:
  Scratch(const CudaDevice& device, void* stream) : device_(device), stream_(stream) {}
  ~Scratch() {
    if (memory_ != nullptr) device_.table->release(device_.index, stream_, memory_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // The place of so many bytes more.
  std::int64_t take(std::int64_t bytes) {
    const std::int64_t place = bytes_;
    bytes_ += round_up(bytes, 256);
    return place;
  }
  intflash_status allocate() {
    const char* const error =
        device_.table->allocate(device_.index, stream_, static_cast<std::size_t>(bytes_), &memory_);
    if (error == nullptr) return INTFLASH_OK;
    memory_ = nullptr;
    return fail(INTFLASH_OUT_OF_MEMORY, "device %s, %lld bytes of its memory: %s", device_.name,
                static_cast<i64>(bytes_), error);
  }
  template <class T>
  T* at(std::int64_t place) const {
    return reinterpret_cast<T*>(static_cast<char*>(memory_) + place);
  }

 private:
  const CudaDevice& device_;
  void* stream_;
  void* memory_ = nullptr;
  std::int64_t bytes_ = 0;
};

intflash_status check_place(const CudaDevice& device, const char* name, const void* pointer) {
  std::int32_t found = -1;
  const intflash_status status = check_cuda(device, name, device.table->locate(pointer, &found));
  if (status != INTFLASH_OK || found == device.index) return status;
  if (found < 0) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "%s = %p: is in the host's memory: must be in that of device %s", name, pointer,
                device.name);
  }
  return fail(INTFLASH_INVALID_ARGUMENT, "%s = %p: is of device cuda:%d: must be of %s", name,
              pointer, found, device.name);
}

intflash_status check_places(const CudaDevice& device, const Problem& p,
                             const intflash_attend_args& args) {
  intflash_status status = check_place(device, "query", args.query.data);
  if (status == INTFLASH_OK && p.kv_len > 0) status = check_place(device, "key", args.key.data);
  if (status == INTFLASH_OK && p.kv_len > 0) status = check_place(device, "value", args.value.data);
  if (status == INTFLASH_OK) status = check_place(device, "out", args.out.data);
  if (status == INTFLASH_OK && args.lse != nullptr) status = check_place(device, "lse", args.lse);
  return status;
}

CudaTensor cuda_tensor(const intflash_tensor& tensor, intflash_dtype dtype) {
  return {tensor.data, static_cast<Dtype>(dtype), tensor.stride_batch, tensor.stride_head,
          tensor.stride_token};
}

// Two blocks of threads to a multiprocessor; where tiles are fewer their keys are cut, to as few
// parts as give each block one.
void cut_keys(std::int32_t num_multiprocessors, CudaCall& call) {
  const std::int64_t spans = std::max<std::int64_t>(1, ceil_div(call.kv_len, kSpanTokens));
  const std::int64_t blocks = 2 * num_multiprocessors;
  const std::int64_t wanted = std::min(spans, ceil_div(blocks, call.num_tiles()));
  const auto spans_of_part = static_cast<std::uint64_t>(ceil_div(spans, wanted));
  call.spans_per_part = static_cast<std::int64_t>(wanted == 1 ? std::bit_ceil(spans_of_part)
                                                              : std::bit_floor(spans_of_part));
  call.num_parts = ceil_div(spans, call.spans_per_part);
  call.num_blocks = std::min(blocks, call.num_items());
  call.waiting_states = std::max(most_waiting_states(1, std::min(spans, call.spans_per_part)),
                                 most_waiting_states(1, call.num_parts));
}

// All of a call but its scratch memory.
CudaCall make_call(const intflash_plan& plan, const intflash_attend_args& args) {
  const Problem& p = plan.problem;
  CudaCall call{};
  call.stream = plan.context->stream;
  call.batch = p.batch;
  call.num_kv_heads = p.num_kv_heads;
  call.group_size = p.group_size;
  call.query_len = p.query_len;
  call.kv_len = p.kv_len;
  call.head_dim = p.head_dim;
  call.head_dim_v = p.head_dim_v;
  call.query = cuda_tensor(args.query, p.query_dtype);
  call.key = cuda_tensor(args.key, p.key_dtype);
  call.value = cuda_tensor(args.value, p.value_dtype);
  call.out = cuda_tensor(args.out, p.out_dtype);
  call.lse = args.lse;
  call.softmax_factor = static_cast<float>(static_cast<double>(p.softmax_scale) * kLog2E);
  call.rotates_keys = p.rotation.keys;
  call.rotates_values = p.rotation.values;
  call.first_position = p.mask.kv_len - p.mask.query_len + p.mask.shift;
  call.window_left = p.mask.window_left;
  call.window_right = p.mask.window_right;
  call.prefix_len = p.mask.prefix_len;
  // What the queries see grows and moves on from one to the next.
  for (const std::int64_t query : {std::int64_t{0}, p.query_len - 1}) {
    const KeyRange seen = visible_keys(p.mask, query);
    if (query == 0 || seen.begin < seen.end) call.seen_end = seen.end;
  }
  call.seen_begin = p.mask.window_left < 0
                        ? 0
                        : std::max<std::int64_t>(0, call.first_position - p.mask.window_left);
  call.blocks_per_head = ceil_div(p.kv_len, kScoreBlock);
  const PageLayout page = page_layout(p.has_digits() ? kInt8WideCodec : kInt8Codec, p.head_dim,
                                      p.head_dim_v, kBlockTokens);
  call.page_bytes = page.bytes();
  call.key_block_bytes = page.key_block_bytes;
  call.digits_above = p.digits_above;
  cut_keys(cuda_device(*plan.context).num_multiprocessors, call);
  return call;
}

intflash_status allocate(CudaCall& call, Scratch& scratch) {
  const std::int64_t heads = call.batch * call.num_kv_heads;
  const std::int64_t findings = scratch.take(sizeof(CudaFindings));
  const std::int64_t codes = scratch.take(heads * call.rows() * call.head_dim);
  const std::int64_t digits =
      scratch.take(call.has_digits() ? heads * call.rows() * call.head_dim : 0);
  const std::int64_t scale = scratch.take(heads * call.rows() * 4);
  const std::int64_t pages = scratch.take(heads * call.blocks_per_head * 2 * call.page_bytes);
  const std::int64_t state_bytes = tile_state_bytes(call.head_dim_v);
  const std::int64_t states = scratch.take(call.num_blocks * call.waiting_states * state_bytes);
  const std::int64_t part_states =
      scratch.take(call.num_parts > 1 ? call.num_items() * state_bytes : 0);
  const intflash_status status = scratch.allocate();
  if (status != INTFLASH_OK) return status;
  call.findings = scratch.at<CudaFindings>(findings);
  call.query_codes = scratch.at<std::int8_t>(codes);
  call.query_digits = scratch.at<std::int8_t>(digits);
  call.query_scale = scratch.at<float>(scale);
  call.pages = scratch.at<char>(pages);
  call.states = scratch.at<char>(states);
  call.part_states = scratch.at<char>(part_states);
  return INTFLASH_OK;
}

// ---- What quantizing found ----

double largest_of(const CudaFinding& finding) {
  return static_cast<double>(std::bit_cast<float>(finding.magnitude));
}

intflash_status check_finite(const char* name, const CudaFinding& finding, std::int64_t heads,
                             std::int64_t tokens) {
  if (finding.first_bad == INT64_MAX) return INTFLASH_OK;
  const std::int64_t row = finding.first_bad / tokens;
  return fail(INTFLASH_NONFINITE_INPUT,
              "%s[batch %lld][head %lld][token %lld]: holds NaN or infinity: must be finite", name,
              static_cast<i64>(row / heads), static_cast<i64>(row % heads),
              static_cast<i64>(finding.first_bad % tokens));
}

intflash_status check_findings(const Problem& p, const CudaFindings& found) {
  intflash_status status = check_finite("key", found.key, p.num_kv_heads, p.kv_len);
  if (status == INTFLASH_OK) status = check_finite("value", found.value, p.num_kv_heads, p.kv_len);
  if (status == INTFLASH_OK && largest_of(found.key) >= kMaxKey)
    status = fail(INTFLASH_SCORE_OVERFLOW, "key: largest magnitude %g: must be below 2^100",
                  largest_of(found.key));
  if (status == INTFLASH_OK && largest_of(found.value) >= kMaxValue)
    status = fail(INTFLASH_SCORE_OVERFLOW, "value: largest magnitude %g: must be below 2^90",
                  largest_of(found.value));
  if (status == INTFLASH_OK)
    status = check_finite("query", found.query, p.num_query_heads, p.query_len);
  if (status != INTFLASH_OK || p.kv_len == 0) return status;
  return check_score_range({largest_of(found.query), largest_of(found.key),
                            static_cast<double>(p.softmax_scale), p.head_dim, p.rotation.keys});
}

// ---- The plan's functions ----

// Quantizes, looks at what that found, and only then lets anything be written.
intflash_status run_call(CudaRun& run, const CudaDevice& device, CudaCall& call) {
  const CudaTable& table = *device.table;
  Scratch scratch(device, call.stream);
  intflash_status status = allocate(call, scratch);
  if (status != INTFLASH_OK || was_cancelled(run)) return status;
  status = check_cuda(device, "quantizing", table.quantize(device.index, call));
  CudaFindings found{};
  if (status == INTFLASH_OK)
    status = check_cuda(device, "quantizing",
                        table.read(device.index, call.stream, call.findings, sizeof found, &found));
  if (status == INTFLASH_OK) status = check_findings(run.plan->problem, found);
  if (status != INTFLASH_OK || was_cancelled(run)) return status;
  status = check_cuda(device, "attending", table.attend(device.index, call));
  if (status == INTFLASH_OK)
    status = check_cuda(device, "attending", table.wait(device.index, call.stream));
  return status;
}

intflash_status begin(const intflash_plan& plan, const intflash_attend_args& args, RunPart part,
                      void* workspace) {
  const intflash_context& context = *plan.context;
  const CudaDevice& device = cuda_device(context);
  if (part != RunPart::kAll) return refuse(context, "intflash_pack and intflash_run_packed");
  intflash_status status = check_served(context, args);
  if (status == INTFLASH_OK) status = check_places(device, plan.problem, args);
  if (status != INTFLASH_OK) return status;
  CudaRun& run = *new (workspace) CudaRun{};
  begin_run(plan, part, workspace, run);
  run.should_cancel = args.should_cancel;
  run.cancel_user = args.cancel_user;
  CudaCall call = make_call(plan, args);
  status = run_call(run, device, call);
  if (status != INTFLASH_OK) run.mark = 0;
  return status;
}

intflash_status end(Run& run) { return check_cancelled(run); }

std::int64_t no_tasks(const intflash_plan&, std::int32_t) { return 0; }

constexpr RunCalls kCudaCalls = {begin, nullptr, no_tasks, nullptr, end};

intflash_status create_cuda_plan(const intflash_context& context, const Problem& problem,
                                 intflash_plan*& plan) {
  const intflash_status served = check_served(context, problem);
  if (served != INTFLASH_OK) return served;
  intflash_plan* made = nullptr;
  const intflash_status status = create_plan(context, made, [&](intflash_plan& cut) {
    const ScheduleShape shape = {
        problem.num_kv_heads, problem.group_size, kCudaTileRows, 0, 1, false};
    return cut_dense(context, problem, shape, cut);
  });
  if (status != INTFLASH_OK) return status;
  made->calls = &kCudaCalls;
  made->port = context.device->name;
  std::snprintf(made->kernel, sizeof made->kernel, "attend/int8/%s/rows%dx%d", made->port,
                static_cast<int>(kCudaTileRows), kScoreBlock);
  made->workspace_bytes = sizeof(CudaRun);
  plan = made;
  return INTFLASH_OK;
}

intflash_status refuse_batch(const intflash_context& context, const intflash_cache&,
                             const intflash_batch_desc&, intflash_plan*&) {
  return refuse(context, "a batch over a cache");
}

}  // namespace

const Backend kCudaBackend = {"cuda", create_cuda_plan, refuse_batch};

}  // namespace intflash::internal

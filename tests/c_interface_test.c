// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The header is C11, and a C program can do all that it offers: options, plan, workspace, both ways
// of running, errors.
#include <intflash/cache.h>
#include <intflash/calibration.h>
#include <intflash/intflash.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kHeads = 2, kTokens = 3, kDim = 8, kElements = kHeads * kTokens * kDim };

static int failures = 0;

static void expect(int condition, const char* what) {
  if (condition) return;
  ++failures;
  fprintf(stderr, "not so: %s (last error: %s)\n", what, intflash_last_error());
}
#define EXPECT(condition) expect((condition) != 0, #condition)

static intflash_tensor tensor_of(float* data) {
  return (intflash_tensor){
      .data = data, .stride_batch = kElements, .stride_head = kTokens * kDim, .stride_token = kDim};
}

static int num_loops = 0;
static void run_serially(void* user, int32_t count, void (*body)(void* context, int32_t index),
                         void* context) {
  ++*(int*)user;
  for (int32_t i = 0; i < count; ++i) body(context, i);
}

static int num_allocations = 0;
static void* allocate(void* user, size_t bytes, size_t alignment) {
  ++*(int*)user;
  return aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
static void deallocate(void* user, void* pointer) {
  --*(int*)user;
  free(pointer);
}

static size_t read_nothing(void* user, void* bytes, size_t num_bytes) {
  (void)user, (void)bytes, (void)num_bytes;
  return 0;
}

int main(void) {
  float query[kElements], key[kElements], value[kElements], out[kElements], again[kElements];
  float lse[kHeads * kTokens];
  for (int i = 0; i < kElements; ++i) {
    query[i] = (float)(i % 5) - 2;
    key[i] = (float)(i % 7) - 3;
    value[i] = (float)(i % 11) - 5;
  }

  EXPECT(intflash_abi_version() == INTFLASH_ABI_VERSION);
  EXPECT(intflash_page_layout_version() == INTFLASH_PAGE_LAYOUT_VERSION);
  EXPECT(strlen(intflash_version()) > 0);
  EXPECT(intflash_num_ports() > 0);
  // One way or the other, in builds that read calibrations and in those that do not.
  intflash_calibration* calibration = NULL;
  const intflash_status loaded = intflash_calibration_load(read_nothing, NULL, &calibration);
  EXPECT(loaded == INTFLASH_BAD_FILE || loaded == INTFLASH_UNSUPPORTED);
  EXPECT(calibration == NULL && intflash_calibration_num_groups(calibration) == 0);
  intflash_calibration_destroy(calibration);
  intflash_port_info port = {.struct_size = sizeof port};
  EXPECT(intflash_get_port(intflash_num_ports() - 1, &port) == INTFLASH_OK);
  EXPECT(strcmp(port.name, "scalar") == 0 && port.built && port.supported);

  const intflash_context_options options = {.struct_size = sizeof options,
                                            .num_threads = 2,
                                            .parallel_for = run_serially,
                                            .parallel_for_user = &num_loops,
                                            .allocate = allocate,
                                            .deallocate = deallocate,
                                            .allocator_user = &num_allocations};
  intflash_context* context = NULL;
  EXPECT(intflash_context_create(&options, &context) == INTFLASH_OK);
  if (context == NULL) return 1;
  EXPECT(intflash_context_num_threads(context) == 2);
  EXPECT(strlen(intflash_context_port(context)) > 0);
  EXPECT(intflash_context_port_reason(context) != NULL);

  intflash_attend_desc desc = {.struct_size = sizeof desc,
                               .batch = 1,
                               .num_query_heads = kHeads,
                               .num_kv_heads = kHeads,
                               .query_len = kTokens,
                               .kv_len = kTokens,
                               .head_dim = kDim,
                               .query_dtype = INTFLASH_F32,
                               .key_dtype = INTFLASH_F32,
                               .value_dtype = INTFLASH_F32,
                               .out_dtype = INTFLASH_F32,
                               .mask = INTFLASH_MASK_CAUSAL};
  intflash_attend_args args = {.struct_size = sizeof args,
                               .query = tensor_of(query),
                               .key = tensor_of(key),
                               .value = tensor_of(value),
                               .out = tensor_of(out),
                               .lse = lse};
  intflash_plan_info info = {.struct_size = sizeof info};
  EXPECT(intflash_query_support(context, &desc, &info) == INTFLASH_OK);
  EXPECT(strcmp(info.mode, "int8") == 0);
  EXPECT(intflash_attend(context, &desc, &args) == INTFLASH_OK);
  EXPECT(num_loops > 0);
  // Under the causal mask the first query sees the first key alone.
  for (int c = 0; c < kDim; ++c) EXPECT(fabsf(out[c] - value[c]) <= 0.05f);

  intflash_plan* plan = NULL;
  EXPECT(intflash_plan_attend(context, &desc, &plan) == INTFLASH_OK);
  EXPECT(intflash_plan_get_info(plan, &info) == INTFLASH_OK);
  const size_t bytes = intflash_plan_workspace_bytes(plan);
  EXPECT(info.workspace_bytes == bytes);
  void* workspace = aligned_alloc(64, (bytes + 63) / 64 * 64);
  args.out = tensor_of(again);
  EXPECT(intflash_run(plan, &args, workspace, bytes) == INTFLASH_OK);
  EXPECT(memcmp(out, again, sizeof out) == 0);
  memset(again, 0, sizeof again);
  EXPECT(intflash_pack(plan, &args, workspace, bytes) == INTFLASH_OK);
  EXPECT(intflash_run_packed(plan, &args, workspace, bytes) == INTFLASH_OK);
  EXPECT(memcmp(out, again, sizeof out) == 0);

  desc.head_dim = 12;
  EXPECT(intflash_attend(context, &desc, &args) == INTFLASH_BAD_SHAPE);
  EXPECT(strstr(intflash_last_error(), "head_dim") != NULL);
  EXPECT(strcmp(intflash_status_name(INTFLASH_BAD_SHAPE), "INTFLASH_BAD_SHAPE") == 0);

  free(workspace);
  intflash_plan_destroy(plan);
  intflash_context_destroy(context);
  EXPECT(num_allocations == 0);
  return failures == 0 ? 0 : 1;
}

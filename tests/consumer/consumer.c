// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A small use of intflash on threads of the program's own: a query that sees one key gets that
// key's value.
#include <intflash/intflash.h>
#include <math.h>
#include <stdio.h>
#include <threads.h>

#define HEADS 4
#define HEAD_DIM 8
#define MAX_WORKERS 4

typedef struct {
  void (*body)(void* body_context, int32_t index);
  void* body_context;
  int32_t index;
} piece;

static int run_piece(void* opaque) {
  const piece* p = opaque;
  p->body(p->body_context, p->index);
  return 0;
}

// The caller's threads, as intflash_parallel_for_fn wants them: one for each index.
static void run_on_threads(void* user, int32_t count,
                           void (*body)(void* body_context, int32_t index), void* body_context) {
  thrd_t threads[MAX_WORKERS];
  piece pieces[MAX_WORKERS];
  int started[MAX_WORKERS];
  for (int32_t i = 0; i < count; ++i) {
    pieces[i] = (piece){body, body_context, i};
    started[i] = thrd_create(&threads[i], run_piece, &pieces[i]) == thrd_success;
    if (!started[i]) run_piece(&pieces[i]);
  }
  for (int32_t i = 0; i < count; ++i) {
    if (started[i]) thrd_join(threads[i], NULL);
  }
  ++*(int*)user;
}

static int fail(const char* what) {
  fprintf(stderr, "%s: %s\n", what, intflash_last_error());
  return 1;
}

// One token of each head.
static intflash_tensor one_token(float* data) {
  return (intflash_tensor){.data = data,
                           .stride_batch = HEADS * HEAD_DIM,
                           .stride_head = HEAD_DIM,
                           .stride_token = HEAD_DIM};
}

int main(void) {
  float query[HEADS * HEAD_DIM], key[HEADS * HEAD_DIM];
  float value[HEADS * HEAD_DIM], out[HEADS * HEAD_DIM];
  for (int i = 0; i < HEADS * HEAD_DIM; ++i) {
    query[i] = 1;
    key[i] = (float)i;
    value[i] = (float)(i % HEAD_DIM - i / HEAD_DIM);
  }

  int parallel_loops = 0;
  const intflash_context_options options = {
      .struct_size = sizeof options,
      .num_threads = MAX_WORKERS,
      .parallel_for = run_on_threads,
      .parallel_for_user = &parallel_loops,
  };
  const intflash_attend_desc desc = {
      .struct_size = sizeof desc,
      .batch = 1,
      .num_query_heads = HEADS,
      .num_kv_heads = HEADS,
      .query_len = 1,
      .kv_len = 1,
      .head_dim = HEAD_DIM,
      .query_dtype = INTFLASH_F32,
      .key_dtype = INTFLASH_F32,
      .value_dtype = INTFLASH_F32,
      .out_dtype = INTFLASH_F32,
  };
  const intflash_attend_args args = {
      .struct_size = sizeof args,
      .query = one_token(query),
      .key = one_token(key),
      .value = one_token(value),
      .out = one_token(out),
  };

  intflash_context* context;
  if (intflash_context_create(&options, &context) != INTFLASH_OK) return fail("context");
  if (intflash_attend(context, &desc, &args) != INTFLASH_OK) return fail("attend");
  printf("intflash %s on port %s, %d parallel loops\n", intflash_version(),
         intflash_context_port(context), parallel_loops);
  intflash_context_destroy(context);
  if (parallel_loops == 0) {
    fprintf(stderr, "parallel_for was not called\n");
    return 1;
  }

  // A row, whose length is at most 11.84, is rotated before it is rounded to an INT8 grid: no
  // element is further out than that, and an error of half a step in all eight may come back in
  // one.
  const float bound = 2.83f * 11.84f / 127 / 2;
  for (int i = 0; i < HEADS * HEAD_DIM; ++i) {
    if (!(fabsf(out[i] - value[i]) <= bound)) {
      fprintf(stderr, "out[%d] is %g, not %g\n", i, out[i], value[i]);
      return 1;
    }
  }
  return 0;
}

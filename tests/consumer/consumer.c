// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The smallest use of an installed intflash: a query that sees one key gets that key's value.
#include <intflash/intflash.h>
#include <math.h>
#include <stdio.h>

#define HEAD_DIM 8

static int fail(const char* what) {
  fprintf(stderr, "%s: %s\n", what, intflash_last_error());
  return 1;
}

static intflash_tensor one_token(float* data) {
  return (intflash_tensor){
      .data = data, .stride_batch = HEAD_DIM, .stride_head = HEAD_DIM, .stride_token = HEAD_DIM};
}

int main(void) {
  float query[HEAD_DIM], key[HEAD_DIM], value[HEAD_DIM], out[HEAD_DIM];
  for (int i = 0; i < HEAD_DIM; ++i) {
    query[i] = 1;
    key[i] = (float)i;
    value[i] = (float)(i - 3);
  }

  const intflash_attend_desc desc = {
      .struct_size = sizeof desc,
      .num_query_heads = 1,
      .num_kv_heads = 1,
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
  if (intflash_context_create(NULL, &context) != INTFLASH_OK) return fail("context");
  if (intflash_attend(context, &desc, &args) != INTFLASH_OK) return fail("attend");
  printf("intflash %s on port %s\n", intflash_version(), intflash_context_port(context));
  intflash_context_destroy(context);

  const float half_step = 4.0f / 127 / 2;  // of the INT8 grid that the largest value, 4, spans
  for (int i = 0; i < HEAD_DIM; ++i) {
    if (!(fabsf(out[i] - value[i]) <= 1.01f * half_step)) {
      fprintf(stderr, "out[%d] is %g, not %g\n", i, out[i], value[i]);
      return 1;
    }
  }
  return 0;
}

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which cache each layer of a model is to have, and each of its kv heads: what
// `intflash calibrate --budget BYTES --out FILE` measured, and wrote.
#ifndef INTFLASH_CALIBRATION_H_
#define INTFLASH_CALIBRATION_H_

#include <intflash/cache.h>

#ifdef __cplusplus
extern "C" {
#endif

#define INTFLASH_CALIBRATION_VERSION 3  // of the file

typedef struct intflash_calibration intflash_calibration;

// Adjacent kv heads of a layer that have one codec: those of a cache of their own, or, with the
// same heads of other layers that are alike, of one of its layers.
typedef struct intflash_head_group {
  uint32_t struct_size;
  int64_t layer;          // its number in the model
  int64_t first_kv_head;  // of the layer
  // As intflash_cache_options has them.
  int64_t num_kv_heads;
  int64_t head_dim;
  int64_t head_dim_v;
  intflash_codec codec;
  int64_t window_blocks;
  int64_t sink_blocks;
  const float* key_center;  // [num_kv_heads][head_dim], the calibration's; NULL = none was measured
  const float* value_center;  // [num_kv_heads][head_dim_v], likewise
  int32_t score_digits;       // as batches are to ask for
} intflash_head_group;

// Reads a file of calibrate to its end, which is where read returns 0. INTFLASH_BAD_FILE names what
// is missing or wrong in it, and INTFLASH_UNSUPPORTED says that the library was built without
// (INTFLASH_WITH_CALIBRATION). Whether a codec can have its window is said where the cache is made.
INTFLASH_API intflash_status intflash_calibration_load(intflash_read_fn read, void* user,
                                                       intflash_calibration** calibration);
// NULL is allowed.
INTFLASH_API void intflash_calibration_destroy(intflash_calibration* calibration);

// Those of a layer follow each other, from kv head 0 to its last, and layers come as in the file.
INTFLASH_API int64_t intflash_calibration_num_groups(const intflash_calibration* calibration);
INTFLASH_API intflash_status intflash_calibration_get_group(const intflash_calibration* calibration,
                                                            int64_t index,
                                                            intflash_head_group* group);

#ifdef __cplusplus
}
#endif

#endif  // INTFLASH_CALIBRATION_H_

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash calibrate --budget`: what each codec costs each layer of a model, by its own queries,
// keys and values, and the codecs that a budget of bytes is best spent on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cache_attend.h"
#include "calibrate.h"
#include "codec_budget.h"
#include "sampled_rows.h"

namespace intflash {

// A codec in a layer, against exact attention.
struct LayerCodec {
  CacheForm form;
  std::int32_t score_digits;                     // as calls are to ask for
  std::int64_t block_bytes, window_block_bytes;  // as CacheAttention has them
  HeadErrors errors;
};

// Adjacent kv heads of one codec: those of a cache.
struct HeadGroup {
  std::int64_t first_kv_head, num_kv_heads;
  const LayerCodec& codec;
};

struct LayerCalibration {
  std::int64_t layer;  // its number
  std::int64_t num_kv_heads, head_dim, head_dim_v, kv_len;
  std::int64_t rows;  // that errors were measured on, of each head and batch
  std::vector<float> key_center, value_center;  // [num_kv_heads][dim]; empty = none
  std::vector<LayerCodec> codecs;
  std::vector<std::size_t> choice;  // of codecs, for each kv head
  double rel_l1;                    // of that

  std::vector<HeadGroup> groups() const;
  // Of so many bytes for 64 tokens.
  double bytes_per_token_and_head(std::int64_t block_bytes) const {
    return static_cast<double>(block_bytes) / static_cast<double>(64 * num_kv_heads);
  }
  // Of the choice, in the mean of its kv heads.
  double bytes_per_token_and_head() const {
    double bytes = 0;
    for (const std::size_t c : choice) bytes += bytes_per_token_and_head(codecs[c].block_bytes);
    return bytes / static_cast<double>(num_kv_heads);
  }
};

// Of all layers: a mean of bytes per token and kv head, and the root mean square of relative L1, of
// layers, or of heads where these have codecs of their own.
struct CodecTotal {
  double bytes_per_token, rel_l1;
};

struct CodecCalibration {
  double budget;  // bytes per token and kv head, in the mean of layers
  bool by_head;
  std::vector<LayerCalibration> layers;
  CodecTotal total;
  std::vector<CodecTotal> front;  // corners of the convex hull, fewest bytes first
};

// The exit code; failures are thrown.
int run_codec_calibration(const CalibrateOptions& options);

}  // namespace intflash

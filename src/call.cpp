// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "call.h"

#include <cstring>

namespace intflash {

Worker Call::worker(std::int32_t index) const {
  const Plan& plan_layout = layout();
  char* base = workspace + plan_layout.workers_offset +
               static_cast<std::size_t>(index) * plan_layout.worker_bytes;
  const WorkerLayout at = worker_layout(problem(), plan_layout, 0);
  Worker worker{};
  worker.tiles = base;
  worker.tile_bytes = plan_layout.tile_state_bytes;
  float* part = reinterpret_cast<float*>(base + at.part);
  worker.part = {part, part + kMaxTileRows, part + 2 * kMaxTileRows,
                 plan_layout.accumulator_stride};
  worker.keep = reinterpret_cast<std::uint64_t*>(base + at.keep);
  worker.codes = reinterpret_cast<std::int8_t*>(base + at.codes);
  worker.scratch = base + at.scratch;
  return worker;
}

CallTensor query_tensor(const Call& call) {
  const Problem& p = call.problem();
  return {"query",           call.args.query, p.query_dtype, p.batch,
          p.num_query_heads, p.query_len,     p.head_dim};
}
CallTensor key_tensor(const Call& call) {
  const Problem& p = call.problem();
  return {"key", call.args.key, p.key_dtype, p.batch, p.num_kv_heads, p.kv_len, p.head_dim};
}
CallTensor value_tensor(const Call& call) {
  const Problem& p = call.problem();
  return {"value", call.args.value, p.value_dtype, p.batch, p.num_kv_heads, p.kv_len, p.head_dim_v};
}

RowSource rows_of(const intflash_tensor& tensor, intflash_dtype dtype, std::int64_t b,
                  std::int64_t h, std::int64_t token) {
  const std::int64_t offset =
      b * tensor.stride_batch + h * tensor.stride_head + token * tensor.stride_token;
  return {static_cast<const char*>(tensor.data) + offset * dtype_bytes(dtype),
          static_cast<Dtype>(dtype), tensor.stride_token};
}

float scale_of(const intflash_tensor& tensor, std::int64_t b, std::int64_t h, std::int64_t token) {
  const std::int64_t block = tensor.scale_block == 0 ? 0 : token / tensor.scale_block;
  const float scale =
      tensor.scale[b * tensor.scale_stride_batch + h * tensor.scale_stride_head + block];
  return scale < kTinyMagnitude / 127 ? 0.0f : scale;
}

std::uint32_t quantize_tokens(const Call& call, const CallTensor& t, std::int64_t b, std::int64_t h,
                              std::int64_t token, std::int32_t rows, const float* center,
                              bool rotate, std::int64_t code_stride, std::int8_t* codes,
                              float* scale) {
  const RowSource source = rows_of(t.tensor, t.dtype, b, h, token);
  if (t.dtype != INTFLASH_INT8) {
    return call.kernels().quantize_rows({source, rows, static_cast<std::int32_t>(t.dim), center,
                                         rotate ? 1 : 0, codes, code_stride, scale});
  }
  for (std::int32_t r = 0; r < rows; ++r) {
    std::memcpy(codes + r * code_stride,
                static_cast<const std::int8_t*>(source.data) + r * source.stride,
                static_cast<std::size_t>(t.dim));
    std::memset(codes + r * code_stride + t.dim, 0, static_cast<std::size_t>(code_stride - t.dim));
    scale[r] = scale_of(t.tensor, b, h, token + r);
  }
  return call.kernels().max_magnitude(source, rows, t.dim);
}

}  // namespace intflash

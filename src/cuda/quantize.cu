// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows of queries, keys and values in INT8: rotated, quantized, and keys and values packed into
// pages. docs/numerics.md, section 1; a warp has a row at a time.
#include "cuda/attend.h"
#include "cuda/simt.h"
#include "cuda/tensor_row.h"
#include "cuda/transform.h"
#include "tile/float_math.h"
#include "tile/hadamard.h"
#include "tile/scale_grid.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kWarps = 4;
constexpr std::int32_t kThreads = kWarps * kWarpThreads;

INTFLASH_DEVICE_TABLE ScaleGrid kDeviceScaleGrid = scale_grid();

// What a row is quantized by, and what it held.
struct RowQuantum {
  float scale, inverse;
  std::uint32_t raw_magnitude, magnitude;  // bits of the largest |x|, as it came and as it is

  INTFLASH_DEVICE bool is_finite() const { return raw_magnitude < 0x7f800000u; }
};

INTFLASH_DEVICE std::int32_t magnitude_bits(float x) {
  return bits_as<std::int32_t>(x) & 0x7fffffff;
}

// The smallest 2^(k/64) that is not below the scale.
INTFLASH_DEVICE float on_grid(float scale) {
  const float log2 = log2_of_mantissa(mantissa_of(scale));
  const std::int32_t nearest = kScaleSteps + round_to_int(log2 * static_cast<float>(kScaleSteps));
  const float below = kDeviceScaleGrid.mantissa[nearest];
  const float above = kDeviceScaleGrid.mantissa[nearest + 1];
  const float mantissa = below < mantissa_of(scale) ? above : below;
  return mantissa * power_of_two(exponent_of(scale));
}

// Leaves the row's channels as they are to be coded in buffer.
INTFLASH_DEVICE RowQuantum prepare_row(const TensorRow& from, std::int32_t dim, bool rotates,
                                       bool grid, Shared<float> buffer, std::int32_t lane) {
  std::int32_t raw = 0;
  for (std::int32_t c = lane; c < dim; c += kWarpThreads) {
    const float x = from.load(c);
    raw = max_of(raw, magnitude_bits(x));
    const std::uint32_t flip = rotates ? rotation_sign(static_cast<std::uint32_t>(c)) : 0u;
    buffer.store(c, bits_as<float>(bits_as<std::uint32_t>(x) ^ flip));
  }
  if (rotates) transform_rows(buffer, 1, dim, lane);
  const float times = rotates ? transform_factor(dim) : 1.0f;
  std::int32_t magnitude = 0;
  for (std::int32_t c = lane; c < dim; c += kWarpThreads) {
    const float x = buffer.load(c) * times;
    magnitude = max_of(magnitude, magnitude_bits(x));
    buffer.store(c, x);
  }
  RowQuantum row{};
  row.raw_magnitude = static_cast<std::uint32_t>(warp_max(raw));
  row.magnitude = static_cast<std::uint32_t>(warp_max(magnitude));
  const float largest = bits_as<float>(row.magnitude);
  // What is not finite is an error, and gets codes of 0 until it is reported.
  if (largest < kTinyMagnitude || row.magnitude >= 0x7f800000u) return row;
  row.scale = largest / 127.0f;
  row.inverse = 127.0f / largest;
  if (grid) {
    row.scale = on_grid(row.scale);
    row.inverse = 1.0f / row.scale;
  }
  return row;
}

INTFLASH_DEVICE void note(CudaFinding* finding, const RowQuantum& row, std::uint32_t magnitude,
                          std::int64_t index, std::int32_t lane) {
  if (lane != 0) return;
  if (row.is_finite()) {
    raise_to(&finding->magnitude, magnitude);
  } else {
    lower_to(&finding->first_bad, index);
  }
}

INTFLASH_DEVICE std::int8_t code_of(float x, float inverse) {
  return static_cast<std::int8_t>(round_to_int(x * inverse));
}

// What a code leaves of x, in 1/256 of a step.
INTFLASH_DEVICE std::int8_t digit_of(float x, float inverse) {
  const float steps = x * inverse;
  const float rest = steps - static_cast<float>(round_to_int(steps));
  return static_cast<std::int8_t>(min_of(max_of(round_to_int(rest * 256.0f), -127), 127));
}

INTFLASH_KERNEL(kThreads)
quantize_queries(CudaCall call) {
  const BlockPlace3 place = block_place();
  const std::int32_t warp = thread_place() / kWarpThreads;
  const std::int32_t lane = thread_place() % kWarpThreads;
  const auto dim = static_cast<std::int32_t>(call.head_dim);
  const std::int64_t row = static_cast<std::int64_t>(place.x) * kWarps + warp;
  if (row >= call.rows()) return;
  const Shared<float> buffer(static_cast<std::size_t>(warp * dim) * sizeof(float));
  const std::int64_t query_head = place.y * call.group_size + row % call.group_size;
  const std::int64_t query = row / call.group_size;
  const RowQuantum quantum = prepare_row(row_of(call.query, place.z, query_head, query), dim,
                                         call.rotates_keys, false, buffer, lane);
  const std::int64_t num_query_heads = call.num_kv_heads * call.group_size;
  note(&call.findings->query, quantum, quantum.raw_magnitude,
       (place.z * num_query_heads + query_head) * call.query_len + query, lane);
  const std::int64_t at = (place.z * call.num_kv_heads + place.y) * call.rows() + row;
  for (std::int32_t c = lane; c < dim; c += kWarpThreads)
    call.query_codes[at * dim + c] = code_of(buffer.load(c), quantum.inverse);
  for (std::int32_t c = lane; call.has_digits() && c < dim; c += kWarpThreads)
    call.query_digits[at * dim + c] = digit_of(buffer.load(c), quantum.inverse);
  if (lane == 0) call.query_scale[at] = quantum.scale;
}

// A page that is being packed. Codes come first as rows of tokens, in shared memory.
struct PageRoom {
  std::int32_t dim;
  std::size_t codes;   // where they begin
  bool has_digits;     // second digits
  std::size_t digits;  // where those begin
  float* scale;        // [64], in the page
};

// The codes and scale of one token; zeros of one that no query sees.
INTFLASH_DEVICE void quantize_token(const TensorRow& from, bool rotates, bool grid,
                                    const PageRoom& room, std::int32_t token, Shared<float> buffer,
                                    CudaFinding* finding, std::int64_t index, std::int32_t lane) {
  const Shared<std::int8_t> codes(room.codes + static_cast<std::size_t>(token * room.dim));
  RowQuantum quantum{};
  if (from.data != nullptr) {
    quantum = prepare_row(from, room.dim, rotates, grid, buffer, lane);
    note(finding, quantum, quantum.magnitude, index, lane);
  }
  for (std::int32_t c = lane; c < room.dim; c += kWarpThreads)
    codes.store(c,
                from.data == nullptr ? std::int8_t{0} : code_of(buffer.load(c), quantum.inverse));
  const Shared<std::int8_t> digits(room.digits + static_cast<std::size_t>(token * room.dim));
  for (std::int32_t c = lane; room.has_digits && c < room.dim; c += kWarpThreads)
    digits.store(c,
                 from.data == nullptr ? std::int8_t{0} : digit_of(buffer.load(c), quantum.inverse));
  if (lane == 0) room.scale[token] = quantum.scale;
  sync_warp();
}

// Four codes as a word, step bytes apart.
INTFLASH_DEVICE std::uint32_t word_of(Shared<std::int8_t> codes, std::int32_t first,
                                      std::int32_t step) {
  std::uint32_t word = 0;
  for (std::int32_t i = 0; i < 4; ++i)
    word |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(codes.load(first + i * step)))
            << 8 * i;
  return word;
}

// Codes or digits of keys, [64][dim], into tiles, and their sums.
INTFLASH_DEVICE void store_keys(Shared<std::int8_t> codes, std::int32_t dim, std::uint32_t* words,
                                std::int32_t* sums, std::int32_t thread) {
  const std::int32_t quads = dim / 4;
  for (std::int32_t i = thread; i < kBlockTokens * quads; i += kThreads) {
    const std::int32_t token = i / (16 * quads) * 16 + i % 16;
    words[i] = word_of(codes, token * dim + i / 16 % quads * 4, 1);
  }
  if (thread >= kBlockTokens) return;
  std::int32_t sum = 0;
  for (std::int32_t c = 0; c < dim; ++c) sum += codes.load(thread * dim + c);
  sums[thread] = sum;
}

INTFLASH_DEVICE void store_values(const PageRoom& room, std::uint32_t* words, std::int32_t thread) {
  const Shared<std::int8_t> codes(room.codes);
  for (std::int32_t i = thread; i < kBlockTokens / 4 * room.dim; i += kThreads) {
    const std::int32_t channel = i / 256 * 16 + i % 16;
    words[i] = word_of(codes, i / 16 % 16 * 4 * room.dim + channel, room.dim);
  }
}

INTFLASH_KERNEL(kThreads)
pack_page(CudaCall call) {
  const BlockPlace3 place = block_place();
  const std::int32_t thread = thread_place();
  const std::int32_t warp = thread / kWarpThreads;
  const std::int32_t lane = thread % kWarpThreads;
  const auto dim = static_cast<std::int32_t>(call.head_dim);
  const auto dim_v = static_cast<std::int32_t>(call.head_dim_v);
  const std::int64_t head = place.z * call.num_kv_heads + place.y;
  char* const page = call.pages + (head * call.blocks_per_head * 2 + place.x) * call.page_bytes;
  char* const values = page + call.key_block_bytes;
  auto* const scales = reinterpret_cast<float*>(values + kBlockTokens * dim_v);
  const std::size_t buffers = kWarps * static_cast<std::size_t>(max_of(dim, dim_v)) * sizeof(float);
  const std::size_t key_bytes = kBlockTokens * static_cast<std::size_t>(dim);
  const std::size_t value_bytes = kBlockTokens * static_cast<std::size_t>(dim_v);
  const std::size_t digits = buffers + key_bytes + value_bytes;
  const PageRoom key_room = {dim, buffers, call.has_digits(), digits, scales};
  const PageRoom value_room = {dim_v, buffers + key_bytes, false, 0, scales + kBlockTokens};
  const Shared<float> buffer(static_cast<std::size_t>(warp * max_of(dim, dim_v)) * sizeof(float));
  for (std::int32_t token = warp; token < kBlockTokens; token += kWarps) {
    const std::int64_t key = static_cast<std::int64_t>(place.x) * kBlockTokens + token;
    const bool is_seen = key >= call.seen_begin && key < call.seen_end;
    const std::int64_t index = head * call.kv_len + key;
    quantize_token(is_seen ? row_of(call.key, place.z, place.y, key) : TensorRow{},
                   call.rotates_keys, false, key_room, token, buffer, &call.findings->key, index,
                   lane);
    quantize_token(is_seen ? row_of(call.value, place.z, place.y, key) : TensorRow{},
                   call.rotates_values, true, value_room, token, buffer, &call.findings->value,
                   index, lane);
  }
  sync_block();
  store_keys(Shared<std::int8_t>(buffers), dim, reinterpret_cast<std::uint32_t*>(page),
             reinterpret_cast<std::int32_t*>(scales + 2 * kBlockTokens), thread);
  if (call.has_digits())
    store_keys(Shared<std::int8_t>(digits), dim, reinterpret_cast<std::uint32_t*>(page + key_bytes),
               reinterpret_cast<std::int32_t*>(page + 2 * key_bytes), thread);
  store_values(value_room, reinterpret_cast<std::uint32_t*>(values), thread);
}

// Before anything was found.
INTFLASH_KERNEL(kWarpThreads)
clear_findings(CudaCall call) {
  if (thread_place() != 0) return;
  constexpr CudaFinding kNone = {0, INT64_MAX};
  *call.findings = {kNone, kNone, kNone};
}

}  // namespace

cudaError_t enqueue_quantize(const CudaCall& call) {
  const std::int64_t dim = max_of(call.head_dim, call.head_dim_v);
  const auto buffers = static_cast<std::size_t>(kWarps * dim) * sizeof(float);
  const std::int64_t key_digits = call.has_digits() ? call.head_dim : 0;
  const auto codes =
      static_cast<std::size_t>(kBlockTokens * (call.head_dim + call.head_dim_v + key_digits));
  cudaError_t error = launch(clear_findings, {1, 1, 1, kWarpThreads, 0}, call.stream, call);
  if (error != cudaSuccess) return error;
  error = launch(quantize_queries,
                 {ceil_div(call.rows(), kWarps), call.num_kv_heads, call.batch, kThreads, buffers},
                 call.stream, call);
  if (error != cudaSuccess || call.blocks_per_head == 0) return error;
  return launch(
      pack_page,
      {2 * call.blocks_per_head, call.num_kv_heads, call.batch, kThreads, buffers + codes},
      call.stream, call);
}

}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// New tokens into pages: looked at before anything is written, then quantized and packed, block by
// block of 64 tokens or parts of them. A warp has a row at a time.
#include "cuda/enqueue.h"
#include "cuda/page_block.h"
#include "cuda/quantize.h"

namespace intflash::internal {
namespace {

constexpr std::int32_t kWarps = 4;
constexpr std::int32_t kThreads = kWarps * kWarpThreads;

// What a thread of a run, and of a kv head, has to do with.
struct TokenThread {
  std::int32_t thread, warp, lane;
  std::int32_t head;
  CudaTokenRun run;
};
INTFLASH_DEVICE TokenThread token_thread(const CudaTokens& tokens) {
  const BlockPlace3 place = block_place();
  const std::int32_t thread = thread_place();
  return {thread, thread / kWarpThreads, thread % kWarpThreads, place.y, tokens.runs[place.x]};
}

// ---- Checks ----

// Bits of what elements must be below.
constexpr std::uint32_t kKeyLimit = 0x71800000;    // 2^100
constexpr std::uint32_t kValueLimit = 0x6c800000;  // 2^90

INTFLASH_DEVICE bool is_row_good(const TensorRow& row, std::int64_t dim, std::uint32_t limit,
                                 std::int32_t lane) {
  std::int32_t largest = 0;
  for (std::int64_t c = lane; c < dim; c += kWarpThreads)
    largest = max_of(largest, magnitude_bits(row.load(c)));
  return static_cast<std::uint32_t>(warp_max(largest)) < limit;
}

INTFLASH_KERNEL(kThreads)
check_rows(CudaTokens tokens) {
  const TokenThread at = token_thread(tokens);
  const std::int64_t head = at.run.request * tokens.num_kv_heads + at.head;
  for (std::int32_t i = at.warp; i < at.run.count; i += kWarps) {
    const std::int64_t row = at.run.first + i;
    if (at.head == 0)
      check_rope(tokens.rope, at.run.position + i, row, &tokens.findings->first_bad_rope, at.lane);
    const bool is_key_good = is_row_good(row_of(tokens.key, at.run.batch, at.head, row),
                                         tokens.head_dim, kKeyLimit, at.lane);
    const bool is_value_good = is_row_good(row_of(tokens.value, at.run.batch, at.head, row),
                                           tokens.head_dim_v, kValueLimit, at.lane);
    if (at.lane != 0 || (is_key_good && is_value_good)) continue;
    lower_to(&tokens.findings->first_bad_token,
             (2 * head + (is_key_good ? 1 : 0)) * tokens.num_rows + row);
  }
}

// ---- Blocks that are begun ----

INTFLASH_DEVICE void clear_words(void* words, std::int64_t bytes, std::int32_t thread) {
  for (std::int64_t i = thread; i < bytes / 4; i += kThreads)
    static_cast<std::uint32_t*>(words)[i] = 0;
}

// Whether whole blocks are laid out through shared memory; those of wider heads go to their bytes
// row by row, as parts of a block do.
INTFLASH_DEVICE bool is_laid_out(const CudaTokens& tokens) {
  return max_of(tokens.head_dim, tokens.head_dim_v) <= kMaxCudaTileDim;
}

INTFLASH_KERNEL(kThreads)
begin_blocks(CudaTokens tokens) {
  const TokenThread at = token_thread(tokens);
  const CudaPages& pages = tokens.pages;
  if (tokens.largest_key != nullptr && at.head == 0 && at.thread == 0 &&
      at.run.slot % pages.page_size == 0)
    tokens.largest_key[at.run.slot / pages.page_size] = 0;
  // Behind the last channels of values there are zeros.
  const bool is_whole = at.run.count == kBlockTokens;
  if (!at.run.clears && (!is_whole || is_laid_out(tokens))) return;
  const PageBlock block = page_block(pages, tokens.head_dim, at.head, at.run.slot);
  clear_words(block.keys, pages.key_block_bytes, at.thread);
  clear_words(block.values, pages.value_block_bytes, at.thread);
  clear_words(block.key_scale, kBlockTokens * 4, at.thread);
  clear_words(block.value_scale, kBlockTokens * 4, at.thread);
  clear_words(block.key_sum, kBlockTokens * 4, at.thread);
}

// ---- Rows ----

// What a warp's rows were.
struct RowNotes {
  std::uint32_t key = 0, value = 0;  // bits of the largest |x|
};

INTFLASH_DEVICE void raise_notes(const CudaTokens& tokens, const TokenThread& at,
                                 const RowNotes& notes) {
  if (at.lane != 0) return;
  raise_to(&tokens.findings->key.magnitude, notes.key);
  raise_to(&tokens.findings->value.magnitude, notes.value);
  if (tokens.largest_key != nullptr)
    raise_to(tokens.largest_key + at.run.slot / tokens.pages.page_size, notes.key);
}

// Hands out codes of a row, and what they leave; returns its scale.
template <class Store>
INTFLASH_DEVICE float code_row(const TensorRow& from, std::int32_t dim, const RowChange& change,
                               Shared<float> buffer, CudaFinding* finding, std::int64_t index,
                               std::uint32_t& largest, std::int32_t lane, Store store) {
  const std::uint32_t raw = load_row(from, dim, change, buffer, lane);
  const RowQuantum quantum = prepare_row(raw, dim, change, buffer, lane);
  if (quantum.is_finite()) {
    largest = max_of(largest, quantum.magnitude);
  } else if (lane == 0) {
    lower_to(&finding->first_bad, index);
  }
  for (std::int32_t c = lane; c < dim; c += kWarpThreads)
    store(c, code_of(buffer.load(c), quantum.inverse), digit_of(buffer.load(c), quantum.inverse));
  sync_warp();
  return quantum.scale;
}

// The same of the run's token i: keys to store_key, values to store_value.
template <class StoreKey, class StoreValue>
INTFLASH_DEVICE void code_token(const CudaTokens& tokens, const TokenThread& at, std::int32_t i,
                                const PageBlock& block, Shared<float> buffer, RowNotes& notes,
                                StoreKey store_key, StoreValue store_value) {
  const auto dim = static_cast<std::int32_t>(tokens.head_dim);
  const auto dim_v = static_cast<std::int32_t>(tokens.head_dim_v);
  const std::int64_t row = at.run.first + i;
  const std::int64_t index = (at.run.batch * tokens.num_kv_heads + at.head) * tokens.num_rows + row;
  const float* const key_center = tokens.centers.key_of(at.run.batch, at.head, dim);
  const float* const value_center = tokens.centers.value_of(at.run.batch, at.head, dim_v);
  const float key_scale =
      code_row(row_of(tokens.key, at.run.batch, at.head, row), dim,
               {tokens.rope, at.run.position + i, key_center, tokens.rotates_keys, false}, buffer,
               &tokens.findings->key, index, notes.key, at.lane, store_key);
  const float value_scale =
      code_row(row_of(tokens.value, at.run.batch, at.head, row), dim_v,
               {CudaRope{}, 0, value_center, tokens.rotates_values, true}, buffer,
               &tokens.findings->value, index, notes.value, at.lane, store_value);
  if (at.lane != 0) return;
  const std::int64_t token = at.run.slot % kBlockTokens + i;
  block.key_scale[token] = key_scale;
  block.value_scale[token] = value_scale;
}

// ---- A part of a block: bytes where they belong ----

INTFLASH_DEVICE void store_part(const CudaTokens& tokens, const TokenThread& at,
                                const PageBlock& block, Shared<float> buffer) {
  const auto dim = static_cast<std::int32_t>(tokens.head_dim);
  RowNotes notes;
  for (std::int32_t i = at.warp; i < at.run.count; i += kWarps) {
    const auto token = static_cast<std::int32_t>(at.run.slot % kBlockTokens) + i;
    std::int32_t code_sum = 0, digit_sum = 0;
    code_token(
        tokens, at, i, block, buffer, notes,
        [&](std::int32_t c, std::int8_t code, std::int8_t digit) {
          const std::int32_t to = key_byte(dim, token, c);
          block.keys[to] = code;
          code_sum += code;
          if (block.digits == nullptr) return;
          block.digits[to] = digit;
          digit_sum += digit;
        },
        [&](std::int32_t c, std::int8_t code, std::int8_t) {
          block.values[value_byte(token, c)] = code;
        });
    code_sum = warp_sum(code_sum);
    digit_sum = warp_sum(digit_sum);
    if (at.lane != 0) continue;
    block.key_sum[token] = code_sum;
    if (block.digits != nullptr) block.digit_sum[token] = digit_sum;
  }
  raise_notes(tokens, at, notes);
}

// ---- A whole block: rows of codes in shared memory, then words of tiles ----

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
INTFLASH_DEVICE void pack_keys(Shared<std::int8_t> codes, std::int32_t dim, std::int8_t* tiles,
                               std::int32_t* sums, std::int32_t thread) {
  const std::int32_t quads = dim / 4;
  for (std::int32_t i = thread; i < kBlockTokens * quads; i += kThreads) {
    const std::int32_t token = i / (16 * quads) * 16 + i % 16;
    reinterpret_cast<std::uint32_t*>(tiles)[i] =
        word_of(codes, token * dim + i / 16 % quads * 4, 1);
  }
  if (thread >= kBlockTokens) return;
  std::int32_t sum = 0;
  for (std::int32_t c = 0; c < dim; ++c) sum += codes.load(thread * dim + c);
  sums[thread] = sum;
}

INTFLASH_DEVICE void pack_values(Shared<std::int8_t> codes, std::int32_t dim, std::int8_t* tiles,
                                 std::int32_t thread) {
  for (std::int32_t i = thread; i < kBlockTokens / 4 * round_up(dim, 16); i += kThreads) {
    const std::int32_t channel = i / 256 * 16 + i % 16;
    reinterpret_cast<std::uint32_t*>(tiles)[i] =
        channel < dim ? word_of(codes, i / 16 % 16 * 4 * dim + channel, dim) : 0;
  }
}

// Bytes of shared memory: a row of each warp's as it is coded, then codes of keys, of values, and
// digits.
INTFLASH_DEVICE std::size_t buffer_bytes(const CudaTokens& tokens) {
  return kWarps * static_cast<std::size_t>(max_of(tokens.head_dim, tokens.head_dim_v)) *
         sizeof(float);
}

INTFLASH_DEVICE void store_whole(const CudaTokens& tokens, const TokenThread& at,
                                 const PageBlock& block, Shared<float> buffer) {
  const auto dim = static_cast<std::int32_t>(tokens.head_dim);
  const auto dim_v = static_cast<std::int32_t>(tokens.head_dim_v);
  const std::size_t first = buffer_bytes(tokens);
  const Shared<std::int8_t> keys(first);
  const Shared<std::int8_t> values(first + static_cast<std::size_t>(kBlockTokens * dim));
  const Shared<std::int8_t> digits(first + static_cast<std::size_t>(kBlockTokens * (dim + dim_v)));
  RowNotes notes;
  for (std::int32_t i = at.warp; i < kBlockTokens; i += kWarps) {
    code_token(
        tokens, at, i, block, buffer, notes,
        [&](std::int32_t c, std::int8_t code, std::int8_t digit) {
          keys.store(i * dim + c, code);
          if (block.digits != nullptr) digits.store(i * dim + c, digit);
        },
        [&](std::int32_t c, std::int8_t code, std::int8_t) { values.store(i * dim_v + c, code); });
  }
  raise_notes(tokens, at, notes);
  sync_block();
  pack_keys(keys, dim, block.keys, block.key_sum, at.thread);
  if (block.digits != nullptr) pack_keys(digits, dim, block.digits, block.digit_sum, at.thread);
  pack_values(values, dim_v, block.values, at.thread);
}

INTFLASH_KERNEL(kThreads)
store_rows(CudaTokens tokens) {
  const TokenThread at = token_thread(tokens);
  const PageBlock block = page_block(tokens.pages, tokens.head_dim, at.head, at.run.slot);
  const Shared<float> buffer(static_cast<std::size_t>(at.warp) * (buffer_bytes(tokens) / kWarps));
  if (at.run.count == kBlockTokens && is_laid_out(tokens)) {
    store_whole(tokens, at, block, buffer);
  } else {
    store_part(tokens, at, block, buffer);
  }
}

// ---- Blocks of files ----

INTFLASH_KERNEL(kWarpThreads)
note_scales(const float* key_scale, std::uint32_t* largest_key, bool begins_page) {
  const std::int32_t lane = thread_place();
  const std::int32_t largest =
      warp_max(max_of(magnitude_bits(key_scale[lane]), magnitude_bits(key_scale[lane + 32])));
  if (lane != 0) return;
  if (begins_page) *largest_key = 0;
  // What keys may be at most: 127 * scale, and what the scale's rounding may have taken from it.
  raise_to(largest_key, bits_as<std::uint32_t>(bits_as<float>(largest) * 127.001f));
}

Grid grid_of(const CudaTokens& tokens, std::size_t shared_bytes) {
  return {tokens.num_runs, tokens.num_kv_heads, 1, kThreads, shared_bytes};
}

}  // namespace

cudaError_t enqueue_checks(const CudaTokens& tokens) {
  if (tokens.num_runs == 0) return cudaSuccess;
  return launch(check_rows, grid_of(tokens, 0), tokens.stream, tokens);
}

cudaError_t enqueue_tokens(const CudaTokens& tokens) {
  if (tokens.num_runs == 0) return cudaSuccess;
  const std::int64_t dim = max_of(tokens.head_dim, tokens.head_dim_v);
  const std::int64_t digits = tokens.pages.has_digits ? tokens.head_dim : 0;
  std::int64_t bytes = kWarps * dim * 4;
  if (dim <= kMaxCudaTileDim)
    bytes += kBlockTokens * (tokens.head_dim + tokens.head_dim_v + digits);
  const cudaError_t error = launch(begin_blocks, grid_of(tokens, 0), tokens.stream, tokens);
  if (error != cudaSuccess) return error;
  // What is beyond the 48 KB that a kernel has unasked is as much at each launch (simt.h).
  constexpr std::int64_t kMostBytes = kMaxCudaTileDim * (kWarps * 4 + 3 * kBlockTokens);
  return launch(store_rows,
                grid_of(tokens, static_cast<std::size_t>(bytes <= 48 * 1024 ? bytes : kMostBytes)),
                tokens.stream, tokens);
}

cudaError_t enqueue_note(void* stream, const float* key_scale, std::uint32_t* largest_key,
                         bool begins_page) {
  return launch(note_scales, {1, 1, 1, kWarpThreads, 0}, stream, key_scale, largest_key,
                begins_page);
}

}  // namespace intflash::internal

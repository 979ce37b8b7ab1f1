// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer over appends: bytes become a cache, new tokens of any type, page tables and a rotary
// embedding, valid or not. A refused append has a message and changes no page; an answered one
// changes the requests' pages alone, and as the scalar port does token by token, or by slot.
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "element.h"
#include "fuzz_bytes.h"
#include "intflash/cache.h"

namespace {

using namespace intflash::internal;

constexpr std::int64_t kHeads = 2;
constexpr std::int64_t kDims[] = {8, 32, 40, 64, 96};
constexpr std::int64_t kPages = 12;
constexpr std::int64_t kMaxRequests = 4;
constexpr std::int64_t kMaxTokens = 90;   // of a request
constexpr std::int64_t kMaxHeld = 140;    // before the append
constexpr std::int64_t kPositions = 512;  // of the rotary embedding
constexpr unsigned char kPoison = 0xa5;

[[noreturn]] void stop(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, intflash_last_error());
  std::abort();
}
void require(bool good, const char* what) {
  if (!good) stop(what);
}

// Bits that look like any, the same in every run.
class Noise {
 public:
  std::uint8_t byte() { return static_cast<std::uint8_t>(word() >> 24); }
  float number() { return static_cast<float>(word() >> 8) * 0x1p-23f - 1; }  // in [-1, 1)

 private:
  std::uint32_t word() { return state_ = state_ * 1664525 + 1013904223; }
  std::uint32_t state_ = 1;
};

// ---- Caches ----

intflash_context* make_context(const char* isa, std::int32_t num_threads) {
  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.isa = isa;
  options.num_threads = num_threads;
  // Serial workers: the fuzzer itself runs in one thread.
  options.parallel_for = [](void*, std::int32_t count, void (*body)(void*, std::int32_t),
                            void* body_context) {
    for (std::int32_t i = count; i-- > 0;) body(body_context, i);
  };
  intflash_context* context = nullptr;
  require(intflash_context_create(&options, &context) == INTFLASH_OK, "context");
  return context;
}

using Pages = std::vector<unsigned char>;

// A cache over pages that can be looked at, and that hold what no append writes.
class Cache {
 public:
  Cache(intflash_context* context, intflash_cache_options options) {
    options.struct_size = sizeof options;
    options.num_kv_heads = kHeads;
    options.num_pages = kPages;
    // Two scales and a sum beside a token's codes; values are stored 16 channels at a time.
    const std::int64_t group_bytes = options.codec == INTFLASH_CODEC_K8V4    ? 8
                                     : options.codec == INTFLASH_CODEC_K8V16 ? 32
                                                                             : 16;
    const std::int64_t value_bytes = (options.head_dim_v + 15) / 16 * group_bytes;
    const std::int64_t token_bytes = options.head_dim + value_bytes + 12;
    bytes_ = static_cast<std::size_t>(kPages * options.page_size * kHeads * token_bytes);
    arena_.reset(static_cast<unsigned char*>(std::aligned_alloc(64, bytes_)));
    options.arena = arena_.get();
    options.arena_bytes = bytes_;
    require(intflash_cache_create(context, &options, &cache_) == INTFLASH_OK, "cache");
    std::memset(arena_.get(), kPoison, bytes_);
  }
  ~Cache() { intflash_cache_destroy(cache_); }
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  intflash_status append(const intflash_append_args& args) {
    return intflash_cache_append(cache_, &args);
  }
  Pages page(std::int64_t id) const {
    const std::size_t bytes = bytes_ / kPages;
    const unsigned char* first = arena_.get() + static_cast<std::size_t>(id) * bytes;
    return Pages(first, first + bytes);
  }

 private:
  struct Free {
    void operator()(unsigned char* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<unsigned char, Free> arena_;
  std::size_t bytes_ = 0;
  intflash_cache* cache_ = nullptr;
};

struct CacheInput {
  intflash_cache_options options{};
  std::vector<float> key_center, value_center;
};

CacheInput cache_input(Bytes& bytes) {
  CacheInput input;
  input.options.head_dim = kDims[bytes.below(std::size(kDims))];
  input.options.head_dim_v = kDims[bytes.below(std::size(kDims))];
  constexpr intflash_codec kCodecs[] = {INTFLASH_CODEC_INT8, INTFLASH_CODEC_K8V4,
                                        INTFLASH_CODEC_K8V16};
  const int kind = bytes.below(6);
  input.options.page_size = kind % 2 == 0 ? 64 : 128;
  input.options.codec = kCodecs[kind / 2];
  input.options.rotation = bytes.below(3) == 1 ? INTFLASH_ROTATION_AUTO : INTFLASH_ROTATION_NONE;
  const auto center = [&](std::vector<float>& values, std::int64_t dim) -> const float* {
    if (bytes.below(2) == 0) return nullptr;
    Noise noise;
    values.resize(static_cast<std::size_t>(kHeads * dim));
    for (float& x : values) x = noise.number();
    return values.data();
  };
  input.options.key_center = center(input.key_center, input.options.head_dim);
  input.options.value_center = center(input.value_center, input.options.head_dim_v);
  return input;
}

// ---- Appends ----

struct Input {
  std::vector<std::int64_t> token_indptr{0}, kv_lens, first_key_positions, page_indptr{0};
  std::vector<std::int32_t> page_ids;
  std::vector<std::uint8_t> key, value;
  std::vector<float> key_scales, value_scales;
  std::vector<float> cos, sin;
  intflash_append_args args{};
};

void add_request(Bytes& bytes, std::int64_t page_size, Input& input) {
  const std::int64_t held = bytes.below(kMaxHeld + 1);
  const std::int64_t tokens = bytes.below(kMaxTokens + 1);
  const std::int64_t first = page_size * (bytes.below(4) == 1 ? bytes.below(2) : 0);
  input.first_key_positions.push_back(first);
  input.kv_lens.push_back(first + held);
  input.token_indptr.push_back(input.token_indptr.back() + tokens);
  const std::int64_t pages = (held + tokens + page_size - 1) / page_size;
  for (std::int64_t i = 0; i < pages; ++i)
    input.page_ids.push_back(static_cast<std::int32_t>((input.page_ids.size() * 5 + 3) % kPages));
  if (pages > 0 && bytes.rarely()) input.page_ids.back() = bytes.any<std::int32_t>();
  if (pages > 1 && bytes.rarely()) input.page_ids.pop_back();
  input.page_indptr.push_back(static_cast<std::int64_t>(input.page_ids.size()));
}

// Tokens of a type, all elements below 4 in magnitude: the upper bit of an exponent is clear. Of
// Q4_0's and Q8_0's blocks only the scale has one.
void make_tokens(Bytes& bytes, std::int64_t dim, std::int64_t tokens, intflash_dtype& dtype,
                 intflash_tensor& tensor, std::vector<std::uint8_t>& data) {
  constexpr intflash_dtype kTypes[] = {INTFLASH_F32,    INTFLASH_F16,  INTFLASH_BF16,
                                       INTFLASH_Q8_0,   INTFLASH_Q4_0, INTFLASH_F8_E4M3,
                                       INTFLASH_F8_E5M2};
  dtype = kTypes[bytes.below(std::size(kTypes))];
  const bool is_ggml = dtype == INTFLASH_Q8_0 || dtype == INTFLASH_Q4_0;
  if (is_ggml && dim % 32 != 0) dtype = INTFLASH_F32;
  const std::int64_t unit = is_ggml ? bytes_of(dtype, 32) : bytes_of(dtype, 1);
  const std::int64_t row = dim + (bytes.below(3) == 1 ? 32 : 0);
  const bool heads_first = bytes.below(2) == 1;
  tensor.stride_token = heads_first ? row : row * kHeads;
  tensor.stride_head = heads_first ? row * (tokens + 1) : row;
  Noise noise;
  data.resize(static_cast<std::size_t>(bytes_of(dtype, row * kHeads * (tokens + 1))));
  for (std::uint8_t& byte : data) byte = noise.byte();
  const std::size_t exponent = dtype == INTFLASH_F32 ? 3 : unit == 1 ? 0 : 1;
  for (std::size_t i = exponent; i < data.size(); i += static_cast<std::size_t>(unit))
    data[i] &= 0xbf;
  if (bytes.rarely()) {
    const std::size_t at = bytes.any<std::uint16_t>() % (data.size() - 3);
    for (std::size_t i = 0; i < 4; ++i) data[at + i] = bytes.byte();
  }
  tensor.data = data.data();
}

// Makes codes of the tokens, which are bytes in any case, with a scale for each token and head.
void make_codes(Bytes& bytes, std::int64_t dim, std::int64_t tokens, intflash_dtype& dtype,
                intflash_tensor& tensor, std::vector<std::uint8_t>& data,
                std::vector<float>& scales) {
  dtype = INTFLASH_INT8;
  tensor.stride_token = dim;
  tensor.stride_head = dim * tokens;
  Noise noise;
  data.resize(static_cast<std::size_t>(dim * kHeads * (tokens + 1)));
  for (std::uint8_t& byte : data) byte = static_cast<std::uint8_t>(noise.byte() | 1);  // not -128
  if (bytes.rarely()) data[bytes.any<std::uint16_t>() % data.size()] = bytes.byte();
  tensor.data = data.data();
  scales.resize(static_cast<std::size_t>(kHeads * (tokens + 1)));
  for (float& scale : scales) scale = 0.01f + noise.number() / 128;
  if (bytes.rarely()) scales[bytes.byte() % scales.size()] = bytes.any<float>();
  tensor.scale = scales.data();
  tensor.scale_stride_head = tokens;
  tensor.scale_block = 1;
}

void make_rope(Bytes& bytes, std::int64_t dim, Input& input) {
  if (bytes.below(3) != 1) return;
  intflash_rope& rope = input.args.rope;
  rope.rope_dim = 2 * (1 + bytes.below(static_cast<int>(dim / 2)));
  rope.num_positions = bytes.rarely() ? bytes.byte() : kPositions;
  rope.pairing = static_cast<intflash_rope_pairing>(bytes.below(2));
  Noise noise;
  for (std::vector<float>* table : {&input.cos, &input.sin}) {
    table->resize(static_cast<std::size_t>(kPositions * rope.rope_dim / 2));
    for (float& x : *table) x = noise.number();
    if (bytes.rarely()) (*table)[bytes.byte() % table->size()] = bytes.any<float>();
  }
  rope.cos = input.cos.data();
  rope.sin = input.sin.data();
}

// Now and then, one wrong field. Pointers and strides that would leave the buffers are the caller's
// fault, and no library can see it.
void spoil(Bytes& bytes, Input& input) {
  intflash_append_args& args = input.args;
  if (bytes.rarely()) args.struct_size = bytes.byte();
  if (bytes.rarely()) args.num_requests = -1 - bytes.below(9);
  if (bytes.rarely()) input.token_indptr.back() -= kMaxTokens;
  if (bytes.rarely()) input.token_indptr[0] = bytes.any<std::int64_t>() | 1;
  if (bytes.rarely()) input.kv_lens[0] = bytes.any<std::int64_t>();
  if (bytes.rarely()) input.first_key_positions[0] = bytes.any<std::int64_t>();
  if (bytes.rarely()) args.key_dtype = static_cast<intflash_dtype>(100 + bytes.byte());
  if (bytes.rarely()) args.key.stride_token = -1 - bytes.below(100);
  if (bytes.rarely()) args.value.stride_head = INT64_MAX - bytes.byte();
  if (bytes.rarely()) args.value.data = nullptr;
  if (bytes.rarely()) args.token_indptr = nullptr;
  if (bytes.rarely()) args.rope.rope_dim = -bytes.below(4);
}

void make_input(Bytes& bytes, const intflash_cache_options& options, Input& input) {
  const int num_requests = 1 + bytes.below(kMaxRequests);
  for (int r = 0; r < num_requests; ++r) add_request(bytes, options.page_size, input);
  input.page_ids.push_back(-1);  // data() is never null
  intflash_append_args& args = input.args;
  args.struct_size = sizeof args;
  args.num_requests = num_requests;
  args.token_indptr = input.token_indptr.data();
  args.kv_lens = input.kv_lens.data();
  args.first_key_positions = input.first_key_positions.data();
  args.pages = {input.page_indptr.data(), input.page_ids.data()};
  const std::int64_t tokens = input.token_indptr.back();
  make_tokens(bytes, options.head_dim, tokens, args.key_dtype, args.key, input.key);
  make_tokens(bytes, options.head_dim_v, tokens, args.value_dtype, args.value, input.value);
  make_rope(bytes, options.head_dim, input);
  spoil(bytes, input);
  if (args.key.data == nullptr || args.value.data == nullptr) return;
  if (bytes.below(3) == 1)
    make_codes(bytes, options.head_dim, tokens, args.key_dtype, args.key, input.key,
               input.key_scales);
  if (bytes.below(3) == 1)
    make_codes(bytes, options.head_dim_v, tokens, args.value_dtype, args.value, input.value,
               input.value_scales);
}

void move_to_token(intflash_tensor& tensor, intflash_dtype dtype, std::int64_t token) {
  tensor.data = static_cast<char*>(tensor.data) + bytes_of(dtype, token * tensor.stride_token);
  if (tensor.scale != nullptr) tensor.scale += token;
}

// One token of a request as an append of its own.
void append_token(Cache& cache, const Input& input, std::size_t r, std::int64_t token) {
  const std::int64_t token_indptr[] = {0, 1};
  const std::int64_t kv_len = input.kv_lens[r] + token - input.token_indptr[r];
  intflash_append_args args = input.args;
  args.num_requests = 1;
  args.token_indptr = token_indptr;
  args.kv_lens = &kv_len;
  args.first_key_positions += r;
  args.pages.page_indptr += r;
  move_to_token(args.key, args.key_dtype, token);
  move_to_token(args.value, args.value_dtype, token);
  require(cache.append(args) == INTFLASH_OK, "refused token by token");
}

// All tokens in one append to their slots, which structs of older headers lack.
void append_to_slots(Cache& cache, std::int64_t page_size, const Input& input) {
  if (input.args.struct_size != sizeof input.args) {
    require(cache.append(input.args) == INTFLASH_OK, "refused again");
    return;
  }
  std::vector<std::int64_t> slots, positions;
  for (std::size_t r = 0; r + 1 < input.token_indptr.size(); ++r) {
    const std::int64_t tokens = input.token_indptr[r + 1] - input.token_indptr[r];
    for (std::int64_t i = 0; i < tokens; ++i) {
      const std::int64_t offset = input.kv_lens[r] + i - input.first_key_positions[r];
      const std::int64_t page = input.page_indptr[r] + offset / page_size;
      slots.push_back(input.page_ids[static_cast<std::size_t>(page)] * page_size +
                      offset % page_size);
      positions.push_back(input.kv_lens[r] + i);
    }
  }
  slots.push_back(-1);  // data() is never null
  positions.push_back(-1);
  intflash_append_args args = input.args;
  args.kv_lens = args.first_key_positions = nullptr;
  args.pages = {};
  args.slots = slots.data();
  args.positions = positions.data();
  require(cache.append(args) == INTFLASH_OK, "refused by slot");
}

bool is_named(const Input& input, std::int64_t page) {
  for (const std::int32_t id : input.page_ids) {
    if (id == page) return true;
  }
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static intflash_context* const best = make_context(nullptr, 3);
  static intflash_context* const scalar = make_context("scalar", 1);
  Bytes bytes(data, size);
  const CacheInput options = cache_input(bytes);
  Cache at_once(best, options.options), one_by_one(scalar, options.options);
  Cache by_slot(best, options.options);
  Input input;
  make_input(bytes, options.options, input);
  const bool refused = at_once.append(input.args) != INTFLASH_OK;
  if (refused) require(std::string(intflash_last_error()) != "", "refused without a message");
  if (!refused) append_to_slots(by_slot, options.options.page_size, input);
  // Of a struct that ends before its strides the library takes these as 0.
  const bool is_whole = input.args.struct_size == sizeof input.args;
  if (!refused && !is_whole)
    require(one_by_one.append(input.args) == INTFLASH_OK, "refused on another port");
  for (std::size_t r = 0; !refused && is_whole && r + 1 < input.token_indptr.size(); ++r) {
    for (std::int64_t token = input.token_indptr[r]; token < input.token_indptr[r + 1]; ++token)
      append_token(one_by_one, input, r, token);
  }
  for (std::int64_t page = 0; page < kPages; ++page) {
    const Pages found = at_once.page(page);
    if (refused || !is_named(input, page))
      require(found == Pages(found.size(), kPoison), "a page that is not written has changed");
    require(found == one_by_one.page(page), "other bytes token by token");
    require(found == by_slot.page(page), "other bytes by slot");
  }
  return 0;
}

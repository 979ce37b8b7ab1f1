// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer over batches: bytes become requests, page tables or sequences, prefixes and masks,
// valid or not, over one of two layers of a cache that rotates, of several codecs, or of one that
// holds codes. A refused batch has a message and touches no output; an answered one gives no NaN,
// and the same bits on one thread without its prefixes, over a cache that was filled by slot, or by
// the sequences' page tables.
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "fuzz_bytes.h"
#include "intflash/cache.h"

namespace {

using namespace intflash::internal;

constexpr std::int64_t kKvHeads = 2;
constexpr std::int64_t kHeads = 4;
constexpr std::int64_t kDim = 16;
constexpr std::int64_t kPageSize = 64;
constexpr std::int32_t kPages = 24;
constexpr std::int64_t kLayers = 2;
constexpr std::int64_t kMaxRequests = 5;
constexpr std::int64_t kMaxQueries = 6;  // of a request
constexpr std::int64_t kMaxKeys = 1300;
constexpr float kPoison = 12345.0f;

[[noreturn]] void stop(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, intflash_last_error());
  std::abort();
}
void require(bool good, const char* what) {
  if (!good) stop(what);
}

// Numbers in [-1, 1], the same in every run.
std::vector<float> numbers(std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::uint32_t state = 1;
  for (float& x : values) {
    state = state * 1664525 + 1013904223;
    x = static_cast<float>(state >> 8) * 0x1p-23f - 1;
  }
  return values;
}

intflash_tensor tensor(float* data, std::int64_t heads) {
  intflash_tensor rows{};
  rows.data = data;
  rows.stride_head = kDim;
  rows.stride_token = heads * kDim;
  return rows;
}

// The same in every run, in place of some numbers.
struct Codes {
  explicit Codes(std::int64_t num_rows)
      : codes(static_cast<std::size_t>(num_rows * kHeads * kDim)),
        scales(numbers(num_rows * kHeads)) {
    for (std::size_t i = 0; i < codes.size(); ++i)
      codes[i] = static_cast<std::int8_t>(static_cast<int>(i * 37 % 255) - 127);
    for (float& scale : scales) scale = 0.01f + std::fabs(scale) / 64;
  }
  intflash_tensor tensor(std::int64_t heads) {
    intflash_tensor rows{};
    rows.data = codes.data();
    rows.stride_head = kDim;
    rows.stride_token = heads * kDim;
    rows.scale = scales.data();
    rows.scale_stride_head = static_cast<std::int64_t>(scales.size()) / kHeads;
    rows.scale_block = 1;
    return rows;
  }

  std::vector<std::int8_t> codes;
  std::vector<float> scales;
};

// A cache whose pages all hold tokens; and one with a sequence of the first kMaxKeys of them. Where
// nothing is rotated the second layer's are codes.
struct Server {
  Server(std::int32_t num_threads, bool by_slot, intflash_rotation rotates, intflash_codec of_pages)
      : rotation(rotates), codec(of_pages) {
    intflash_context_options options{};
    options.struct_size = sizeof options;
    options.num_threads = num_threads;
    // Serial workers: the fuzzer itself runs in one thread.
    options.parallel_for = [](void*, std::int32_t count, void (*body)(void*, std::int32_t),
                              void* body_context) {
      for (std::int32_t i = count; i-- > 0;) body(body_context, i);
    };
    require(intflash_context_create(&options, &context) == INTFLASH_OK, "context");
    cache = make_cache();
    with_sequence = make_cache();
    std::int32_t sequence = -1;
    require(intflash_sequence_create(with_sequence, &sequence) == INTFLASH_OK && sequence == 0,
            "sequence");
    for (std::int64_t layer = 0; layer < kLayers; ++layer) fill(layer, by_slot);
  }

  intflash_cache* make_cache() const {
    intflash_cache_options options{};
    options.struct_size = sizeof options;
    options.num_kv_heads = kKvHeads;
    options.head_dim = kDim;
    options.num_pages = kPages;
    options.num_layers = kLayers;
    options.rotation = rotation;
    options.codec = codec;
    intflash_cache* made = nullptr;
    require(intflash_cache_create(context, &options, &made) == INTFLASH_OK, "cache");
    return made;
  }

  void fill(std::int64_t layer, bool by_slot) const {
    std::vector<float> tokens = numbers(kTokens * kKvHeads * kDim);
    Codes codes(kTokens);
    std::array<std::int32_t, kPages> page_ids;
    std::iota(page_ids.begin(), page_ids.end(), 0);
    std::vector<std::int64_t> slots(kTokens);
    std::iota(slots.begin(), slots.end(), 0);
    std::int64_t token_indptr[] = {0, kTokens};
    const std::int64_t page_indptr[] = {0, kPages};
    const std::int64_t kv_len = 0;
    intflash_append_args args{};
    args.struct_size = sizeof args;
    args.num_requests = 1;
    args.token_indptr = token_indptr;
    const bool are_codes = layer > 0 && rotation == INTFLASH_ROTATION_NONE;
    args.key_dtype = args.value_dtype = are_codes ? INTFLASH_INT8 : INTFLASH_F32;
    args.key = args.value = are_codes ? codes.tensor(kKvHeads) : tensor(tokens.data(), kKvHeads);
    args.layer = layer;
    if (by_slot) {
      args.slots = slots.data();
    } else {
      args.kv_lens = &kv_len;
      args.pages = {page_indptr, page_ids.data()};
    }
    require(intflash_cache_append(cache, &args) == INTFLASH_OK, "append");
    args.slots = nullptr;
    token_indptr[1] = kMaxKeys;
    const std::int32_t sequence = 0;
    require(intflash_sequences_append(with_sequence, &sequence, &args) == INTFLASH_OK,
            "append to a sequence");
  }

  static constexpr std::int64_t kTokens = kPages * kPageSize;
  intflash_rotation rotation;
  intflash_codec codec;
  intflash_context* context = nullptr;
  intflash_cache* cache = nullptr;
  intflash_cache* with_sequence = nullptr;
};
// The same tokens, held by servers of one thread and of three.
struct Servers {
  explicit Servers(intflash_rotation rotation, intflash_codec codec = INTFLASH_CODEC_INT8)
      : one(1, true, rotation, codec), three(3, false, rotation, codec) {}
  Server one, three;
};

// A size that no call may take.
std::int64_t odd_size(Bytes& bytes) {
  constexpr std::int64_t kSizes[] = {-1, INT64_MIN, INT64_MAX, std::int64_t{1} << 31};
  return kSizes[bytes.below(4)];
}

struct Batch {
  std::vector<intflash_request> requests;
  std::vector<std::int64_t> page_indptr{0};
  std::vector<std::int32_t> page_ids;
  std::vector<intflash_shared_prefix> prefixes;
  std::vector<intflash_additive_mask> additive_masks;
  std::vector<intflash_bit_mask> bit_masks;
  std::vector<std::vector<float>> elements;
  std::vector<std::vector<std::uint64_t>> words;
  std::vector<float> sinks, slopes, query;
  std::unique_ptr<Codes> codes;
  bool has_sequences = false;  // in place of the page table
  intflash_batch_desc desc{};
  intflash_batch_args args{};
  std::int64_t num_queries = 0;
};

void add_request(Bytes& bytes, Batch& batch) {
  intflash_request request{};
  request.query_len = bytes.below(kMaxQueries + 1);
  request.kv_len = bytes.below(2) == 0 ? bytes.byte() : bytes.any<std::uint16_t>() % kMaxKeys;
  request.first_key_position = kPageSize * (bytes.below(4) == 0 ? bytes.below(4) : 0);
  request.mask = static_cast<intflash_mask>(bytes.below(5));
  request.window_left = bytes.below(200) - 1;
  request.window_right = bytes.below(70) - 1;
  request.prefix_len = bytes.byte();
  if (bytes.below(4) == 0) request.softmax_scale = std::ldexp(1.0f, bytes.below(20) - 12);
  batch.num_queries += request.query_len;
  const std::int64_t held = std::max<std::int64_t>(request.kv_len - request.first_key_position, 0);
  const std::int64_t pages = (held + kPageSize - 1) / kPageSize;
  const std::int32_t first = bytes.below(3);
  for (std::int32_t i = 0; i < pages; ++i) batch.page_ids.push_back((first + i) % kPages);
  if (pages > 0 && bytes.rarely()) batch.page_ids.back() = bytes.any<std::int32_t>();
  if (pages > 1 && bytes.rarely()) batch.page_ids.pop_back();
  batch.page_indptr.push_back(static_cast<std::int64_t>(batch.page_ids.size()));

  intflash_additive_mask additive{};
  batch.elements.emplace_back();
  if (bytes.below(3) == 0) {
    std::vector<float>& elements = batch.elements.back();
    elements = numbers(kMaxQueries * kMaxKeys);
    const int hidden = 1 + bytes.below(9);
    for (std::size_t i = 0; i < elements.size(); i += static_cast<std::size_t>(hidden))
      elements[i] = -INFINITY;
    if (bytes.rarely()) elements[bytes.byte()] = bytes.any<float>();
    // Of f32 read as f16 any pair of halves is meant: some are NaN, and refused.
    additive = {elements.data(), bytes.rarely() ? INTFLASH_F16 : INTFLASH_F32, 0, 0, kMaxKeys,
                nullptr};
  }
  batch.additive_masks.push_back(additive);
  intflash_bit_mask bits{};
  batch.words.emplace_back();
  if (bytes.below(3) == 0) {
    bits.num_keys = bytes.rarely() ? odd_size(bytes) : bytes.below(200);
    batch.words.back().assign(static_cast<std::size_t>(kMaxQueries * 4),
                              bytes.any<std::uint64_t>());
    bits.words = batch.words.back().data();
  }
  batch.bit_masks.push_back(bits);

  if (bytes.rarely()) request.query_len = odd_size(bytes);
  if (bytes.rarely()) request.kv_len = odd_size(bytes);
  if (bytes.rarely()) request.first_key_position = bytes.byte();
  if (bytes.rarely()) request.mask = bytes.any<intflash_mask>();
  if (bytes.rarely()) request.softmax_scale = bytes.any<float>();
  batch.requests.push_back(request);
}

void make_codes(Bytes& bytes, Batch& batch) {
  batch.codes = std::make_unique<Codes>(batch.num_queries + 1);
  if (bytes.rarely()) batch.codes->codes[bytes.byte() % (kHeads * kDim)] = bytes.any<std::int8_t>();
  if (bytes.rarely()) batch.codes->scales[bytes.below(kHeads)] = bytes.any<float>();
  batch.desc.query_dtype = INTFLASH_INT8;
  batch.args.query = batch.codes->tensor(kHeads);
}

Batch batch_of(Bytes& bytes) {
  Batch batch;
  const bool has_codes = bytes.below(3) == 1;
  batch.args.layer = bytes.rarely() ? odd_size(bytes) : bytes.below(kLayers);
  batch.has_sequences = bytes.below(2) == 1;
  const int num_requests = bytes.below(kMaxRequests + 1);
  for (int r = 0; r < num_requests; ++r) add_request(bytes, batch);
  for (int i = bytes.below(4); i > 0; --i) {
    batch.prefixes.push_back({bytes.below(kMaxRequests), bytes.below(kMaxRequests + 1),
                              bytes.rarely() ? odd_size(bytes) : bytes.any<std::uint16_t>() % 700});
  }
  batch.page_ids.push_back(-1);  // data() is never null
  batch.query = numbers((batch.num_queries + 1) * kHeads * kDim);
  if (bytes.rarely()) batch.query[bytes.byte() % (kHeads * kDim)] = bytes.any<float>();
  intflash_batch_desc& desc = batch.desc;
  desc.struct_size = sizeof desc;
  desc.request_size = sizeof(intflash_request);
  desc.shared_prefix_size = sizeof(intflash_shared_prefix);
  desc.num_requests = num_requests;
  desc.requests = batch.requests.data();
  desc.num_query_heads = bytes.rarely() ? bytes.byte() : kHeads;
  desc.query_dtype = desc.out_dtype = INTFLASH_F32;
  if (bytes.below(4) == 0) desc.score_cap = std::ldexp(1.0f, bytes.below(12) - 4);
  if (bytes.rarely()) desc.score_cap = bytes.any<float>();
  desc.shared_prefixes = batch.prefixes.data();
  desc.num_shared_prefixes = static_cast<std::int64_t>(batch.prefixes.size());
  intflash_batch_args& args = batch.args;
  args.struct_size = sizeof args;
  args.additive_mask_size = sizeof(intflash_additive_mask);
  args.bit_mask_size = sizeof(intflash_bit_mask);
  args.query = tensor(batch.query.data(), kHeads);
  args.pages = {batch.page_indptr.data(), batch.page_ids.data()};
  const auto per_head = [&](std::vector<float>& values) -> const float* {
    if (bytes.below(3) != 0) return nullptr;
    values = numbers(kHeads);
    if (bytes.rarely()) values[2] = bytes.any<float>();
    return values.data();
  };
  args.sinks = per_head(batch.sinks);
  args.alibi_slopes = per_head(batch.slopes);
  args.additive_masks = batch.additive_masks.data();
  args.bit_masks = batch.bit_masks.data();
  if (has_codes) make_codes(bytes, batch);
  return batch;
}

// The requests' sequences: what they say of the one that there is. Those that say what none can
// have get another one, which is then refused.
class Forks {
 public:
  Forks(const Server& server, const Batch& batch) : cache_(server.with_sequence) {
    for (const intflash_request& request : batch.requests) {
      require(intflash_sequence_fork(cache_, 0, &sequences_.emplace_back()) == INTFLASH_OK, "fork");
      intflash_sequence_truncate(cache_, sequences_.back(), request.kv_len);
      intflash_sequence_drop_before(cache_, sequences_.back(), request.first_key_position);
      const std::int32_t* pages = nullptr;
      std::int64_t count = 0;
      require(intflash_sequence_get_pages(cache_, sequences_.back(), &pages, &count) == INTFLASH_OK,
              "pages");
      page_ids_.insert(page_ids_.end(), pages, pages + count);
      page_indptr_.push_back(static_cast<std::int64_t>(page_ids_.size()));
    }
    sequences_.push_back(-1);  // data() is never null
    page_ids_.push_back(-1);
  }
  ~Forks() {
    sequences_.pop_back();
    for (const std::int32_t sequence : sequences_)
      require(intflash_sequence_free(cache_, sequence) == INTFLASH_OK, "free");
  }
  Forks(const Forks&) = delete;
  Forks& operator=(const Forks&) = delete;

  void name(bool by_table, intflash_batch_args& args) const {
    args.pages = {};
    if (by_table) {
      args.pages = {page_indptr_.data(), page_ids_.data()};
    } else {
      args.sequences = sequences_.data();
    }
  }

 private:
  intflash_cache* cache_;
  std::vector<std::int32_t> sequences_;
  std::vector<std::int64_t> page_indptr_{0};
  std::vector<std::int32_t> page_ids_;
};

struct Answer {
  intflash_status status;
  std::vector<float> out, lse;
};

// by_table: sequences are named by their pages.
Answer attend(const Server& server, const Batch& batch, bool by_table) {
  Answer answer{
      INTFLASH_OK,
      std::vector<float>(static_cast<std::size_t>((batch.num_queries + 1) * kHeads * kDim),
                         kPoison),
      std::vector<float>(static_cast<std::size_t>((batch.num_queries + 1) * kHeads), kPoison)};
  intflash_plan* plan = nullptr;
  answer.status = intflash_plan_batch(server.context, server.cache, &batch.desc, &plan);
  if (answer.status != INTFLASH_OK) return answer;
  // More heads than the tensors have are the caller's fault, and no library can see it.
  if (batch.desc.num_query_heads <= kHeads) {
    intflash_batch_args args = batch.args;
    args.out = tensor(answer.out.data(), kHeads);
    args.lse = answer.lse.data();
    const std::size_t bytes = (intflash_plan_workspace_bytes(plan) + 63) / 64 * 64;
    const std::unique_ptr<void, void (*)(void*)> workspace(std::aligned_alloc(64, bytes),
                                                           std::free);
    if (batch.has_sequences) {
      const Forks forks(server, batch);
      forks.name(by_table, args);
      answer.status = intflash_run_batch(plan, server.with_sequence, &args, workspace.get(), bytes);
    } else {
      answer.status = intflash_run_batch(plan, server.cache, &args, workspace.get(), bytes);
    }
  }
  intflash_plan_destroy(plan);
  return answer;
}

bool untouched(const std::vector<float>& values) {
  for (const float x : values) {
    if (x != kPoison) return false;
  }
  return true;
}
bool any_nan(const std::vector<float>& values) {
  for (const float x : values) {
    if (std::isnan(x)) return true;
  }
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Servers plain(INTFLASH_ROTATION_NONE);
  static const Servers rotated[] = {Servers(INTFLASH_ROTATION_AUTO),
                                    Servers(INTFLASH_ROTATION_AUTO, INTFLASH_CODEC_INT8_WIDE),
                                    Servers(INTFLASH_ROTATION_AUTO, INTFLASH_CODEC_K8V4),
                                    Servers(INTFLASH_ROTATION_AUTO, INTFLASH_CODEC_K8V16)};
  Bytes bytes(data, size);
  Batch batch = batch_of(bytes);
  const Servers& servers =
      batch.codes == nullptr ? rotated[bytes.below(std::size(rotated))] : plain;
  if (servers.one.codec == INTFLASH_CODEC_K8V16) batch.desc.mode = INTFLASH_MODE_INT8_QK;
  const Answer answer = attend(servers.three, batch, false);
  if (answer.status != INTFLASH_OK) {
    require(std::string(intflash_last_error()) != "", "refused without a message");
    require(untouched(answer.out) && untouched(answer.lse), "refused, and wrote");
    return 0;
  }
  require(!any_nan(answer.out) && !any_nan(answer.lse), "NaN");
  batch.desc.num_shared_prefixes = 0;
  const Answer flat = attend(servers.one, batch, true);
  require(flat.status == INTFLASH_OK, "refused without its prefixes");
  require(flat.out == answer.out && flat.lse == answer.lse, "other bits without prefixes");
  return 0;
}

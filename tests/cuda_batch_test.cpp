// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Caches on a CUDA device, and batches over them, give the bits of the scalar port: its kernels'
// own source, on the emulated device.
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cuda_serving.h"
#include "emulated_cuda.h"
#include "pairwise.h"
#include "seed.h"

namespace intflash::internal {
namespace {

// What both sides gave back, in the order in which they were asked.
struct Outcome {
  std::vector<CacheSide::Result> attended;
  std::vector<std::vector<char>> saved;
  std::vector<std::vector<float>> exported;
};

void expect_equal(const Outcome& found, const Outcome& expected) {
  ASSERT_EQ(found.attended.size(), expected.attended.size());
  for (std::size_t i = 0; i < expected.attended.size(); ++i) {
    EXPECT_TRUE(found.attended[i].out == expected.attended[i].out) << "out of batch " << i;
    EXPECT_TRUE(found.attended[i].lse == expected.attended[i].lse) << "lse of batch " << i;
  }
  EXPECT_TRUE(found.saved == expected.saved) << "files";
  EXPECT_TRUE(found.exported == expected.exported) << "rows in f32";
}

// ---- A pairwise cover of what the device serves ----

enum class Tables { kSequences, kPages, kSlots };

struct Lengths {
  std::int64_t kv_len, query_len;
};
// By case: requests of a batch.
const std::vector<Lengths> kBatches[] = {
    {{70, 3}, {1, 1}, {200, 17}, {64, 0}},
    {{129, 65}, {300, 1}},
    {{1100, 1}, {5, 5}, {128, 2}},
    {{2100, 2}},
};

struct Mask {
  intflash_mask kind;
  std::int64_t left, right, prefix;
};
constexpr Mask kMasks[] = {{INTFLASH_MASK_NONE, 0, 0, 0},
                           {INTFLASH_MASK_CAUSAL, 0, 0, 0},
                           {INTFLASH_MASK_WINDOW, 90, 0, 0},
                           {INTFLASH_MASK_WINDOW, 0, -1, 0},
                           {INTFLASH_MASK_PREFIX, 0, 0, 66}};
constexpr std::int64_t kHeadDims[] = {64, 80, 96, 128};
constexpr std::int64_t kPageSizes[] = {64, 128, 256};
constexpr intflash_dtype kDtypes[] = {INTFLASH_F32, INTFLASH_F16, INTFLASH_BF16};
constexpr float kMagnitudes[] = {1, 8, 1e-3f};

enum Factor {
  kBatch,
  kTables,
  kMask,
  kHeadDim,
  kPageSize,
  kHeads,
  kCodec,
  kDigits,
  kRotate,
  kCentered,
  kRope,
  kQueryDtype,
  kKeyDtype,
  kValueDtype,
  kOutDtype,
  kMagnitude,
  kLse,
  kSinks,
  kLayers,
  kSomeKeys,
  kDropped,
  kMultiprocessors,
  kNumFactors
};

struct ServingCase {
  CacheCase cache;
  std::vector<Lengths> lengths;
  Tables tables;
  Mask mask;
  bool some_keys;  // the last span's alone, and the first's
  bool dropped;    // a request's first pages are gone
  int multiprocessors;
};

ServingCase case_of(const std::vector<int>& row) {
  const auto level = [&](Factor f) { return static_cast<std::size_t>(row[f]); };
  ServingCase s{};
  CacheCase& c = s.cache;
  s.lengths = kBatches[level(kBatch)];
  s.tables = static_cast<Tables>(level(kTables));
  s.mask = kMasks[level(kMask)];
  c.head_dim = kHeadDims[level(kHeadDim)];
  c.page_size = kPageSizes[level(kPageSize)];
  c.num_kv_heads = level(kHeads) == 0 ? 1 : 2;
  c.group_size = level(kHeads) == 2 ? 4 : 1;
  c.codec = level(kCodec) == 0 ? INTFLASH_CODEC_INT8 : INTFLASH_CODEC_INT8_WIDE;
  c.score_digits = level(kDigits) == 2 && level(kCodec) == 0 ? 1 : row[kDigits];
  c.rotate = level(kRotate) == 1;
  c.centered = level(kCentered) == 1;
  c.has_rope = level(kRope) > 0;
  c.pairing = level(kRope) == 1 ? INTFLASH_ROPE_ADJACENT : INTFLASH_ROPE_HALVES;
  c.rope_dim = level(kRope) == 1 ? c.head_dim : 48;
  c.query_dtype = kDtypes[level(kQueryDtype)];
  c.key_dtype = kDtypes[level(kKeyDtype)];
  c.value_dtype = kDtypes[level(kValueDtype)];
  c.out_dtype = kDtypes[level(kOutDtype)];
  c.query_magnitude = c.key_magnitude = kMagnitudes[level(kMagnitude)];
  c.lse = level(kLse) == 1;
  c.sinks = level(kSinks) == 1;
  c.num_layers = level(kLayers) == 1 ? 2 : 1;
  s.some_keys = level(kSomeKeys) == 1;
  s.dropped = level(kDropped) == 1;
  s.multiprocessors = level(kMultiprocessors) == 0 ? 1 : 16;
  return s;
}

std::vector<ServingCase> pairwise_cases() {
  std::vector<int> levels(kNumFactors, 2);
  levels[kBatch] = std::size(kBatches);
  levels[kMask] = std::size(kMasks);
  levels[kHeadDim] = std::size(kHeadDims);
  levels[kTables] = levels[kPageSize] = levels[kHeads] = levels[kDigits] = levels[kRope] = 3;
  levels[kQueryDtype] = levels[kKeyDtype] = levels[kValueDtype] = levels[kOutDtype] = 3;
  levels[kMagnitude] = std::size(kMagnitudes);
  std::vector<ServingCase> cases;
  const auto any = [](int, int, int, int) { return true; };
  for (const std::vector<int>& row : pairwise_cover(levels, any)) cases.push_back(case_of(row));
  return cases;
}

std::vector<intflash_request> requests_of(const ServingCase& s) {
  std::vector<intflash_request> requests;
  for (const Lengths& lengths : s.lengths) {
    intflash_request request = request_of(lengths.query_len, lengths.kv_len);
    request.mask = s.mask.kind;
    request.window_left = s.mask.left;
    request.window_right = s.mask.right;
    request.prefix_len = std::min(s.mask.prefix, lengths.kv_len);
    if (s.dropped && lengths.kv_len > s.cache.page_size)
      request.first_key_position = s.cache.page_size;
    if (s.some_keys && lengths.kv_len > 1024) {
      request.key_begin = 1024;
      request.key_end = lengths.kv_len > 2048 ? 2048 : lengths.kv_len;
    }
    requests.push_back(request);
  }
  return requests;
}

// Parts of each request's tokens in one ragged append after the other: into the middle of a block,
// up to its end, one more, and the rest.
std::vector<std::vector<std::int64_t>> counts_of(const ServingCase& s) {
  std::vector<std::vector<std::int64_t>> counts;
  std::vector<std::int64_t> done(s.lengths.size(), 0);
  for (const std::int64_t end :
       {std::int64_t{61}, std::int64_t{64}, std::int64_t{65}, std::int64_t{1} << 20}) {
    std::vector<std::int64_t> count;
    for (std::size_t r = 0; r < s.lengths.size(); ++r) {
      count.push_back(std::min(end, s.lengths[r].kv_len) - std::min(done[r], s.lengths[r].kv_len));
      done[r] = end;
    }
    counts.push_back(count);
  }
  return counts;
}

Outcome use_sequences(const ServingCase& s, Place place) {
  Outcome outcome;
  CacheSide side(s.cache, place);
  std::vector<std::int32_t> sequences;
  for (std::size_t r = 0; r < s.lengths.size(); ++r) sequences.push_back(side.create_sequence());
  std::uint32_t seed = s.cache.seed;
  for (const std::vector<std::int64_t>& count : counts_of(s))
    side.append(sequences, count, seed += 10);
  const std::vector<intflash_request> requests = requests_of(s);
  for (std::size_t r = 0; r < requests.size(); ++r)
    EXPECT_EQ(
        intflash_sequence_drop_before(side.cache(), sequences[r], requests[r].first_key_position),
        INTFLASH_OK);
  intflash_batch_args args{};
  args.layer = s.cache.num_layers - 1;
  args.sequences = sequences.data();
  outcome.attended.push_back(side.attend(requests, args, 7));
  for (const std::int32_t sequence : sequences) outcome.saved.push_back(side.save(sequence));
  outcome.exported.push_back(side.export_sequence(sequences[0]));
  return outcome;
}

// Page tables of the caller's, whose pages are in no order.
struct PageTables {
  std::vector<std::int64_t> indptr{0};
  std::vector<std::int32_t> ids;
};
PageTables tables_of(const ServingCase& s, const std::vector<intflash_request>& requests) {
  PageTables tables;
  for (const intflash_request& request : requests) {
    const std::int64_t tokens = request.kv_len - request.first_key_position;
    const std::int64_t pages = (tokens + s.cache.page_size - 1) / s.cache.page_size;
    tables.indptr.push_back(tables.indptr.back() + pages);
  }
  tables.ids.resize(static_cast<std::size_t>(tables.indptr.back()));
  std::iota(tables.ids.begin(), tables.ids.end(), 1);
  std::shuffle(tables.ids.begin(), tables.ids.end(), std::mt19937(3));
  return tables;
}

// Slots of a request's tokens from a position on, the last first.
void add_slots(const ServingCase& s, const PageTables& tables, std::size_t request,
               std::int64_t first, std::int64_t begin, std::int64_t count,
               std::vector<std::int64_t>& slots, std::vector<std::int64_t>& positions) {
  for (std::int64_t i = count - 1; i >= 0; --i) {
    const std::int64_t offset = begin + i - first;
    const std::int64_t page =
        tables.ids[static_cast<std::size_t>(tables.indptr[request] + offset / s.cache.page_size)];
    const bool is_kept = offset >= 0;
    slots.push_back(is_kept ? page * s.cache.page_size + offset % s.cache.page_size : -1);
    positions.push_back(begin + i);
  }
}

Outcome use_pages(const ServingCase& s, Place place) {
  Outcome outcome;
  CacheSide side(s.cache, place);
  const std::vector<intflash_request> requests = requests_of(s);
  const PageTables tables = tables_of(s, requests);
  // Dropped tokens are never stored.
  std::vector<std::int64_t> kv_lens, first_key_positions;
  for (const intflash_request& request : requests) {
    kv_lens.push_back(request.first_key_position);
    first_key_positions.push_back(request.first_key_position);
  }
  std::uint32_t seed = s.cache.seed;
  for (const std::int64_t step :
       {std::int64_t{61}, std::int64_t{3}, std::int64_t{1}, std::int64_t{1} << 20}) {
    std::vector<std::int64_t> indptr{0}, slots, positions;
    for (std::size_t r = 0; r < requests.size(); ++r) {
      const std::int64_t count = std::min(step, requests[r].kv_len - kv_lens[r]);
      indptr.push_back(indptr.back() + count);
      add_slots(s, tables, r, requests[r].first_key_position, kv_lens[r], count, slots, positions);
    }
    for (std::int64_t layer = 0; layer < s.cache.num_layers; ++layer) {
      intflash_append_args args = side.append_args(indptr, layer, seed += 10);
      if (s.tables == Tables::kSlots) {
        args.slots = slots.data();
        args.positions = positions.data();
      } else {
        args.kv_lens = kv_lens.data();
        args.first_key_positions = first_key_positions.data();
        args.pages = {tables.indptr.data(), tables.ids.data()};
      }
      EXPECT_EQ(intflash_cache_append(side.cache(), &args), INTFLASH_OK) << intflash_last_error();
    }
    for (std::size_t r = 0; r < requests.size(); ++r) kv_lens[r] += indptr[r + 1] - indptr[r];
  }
  intflash_batch_args args{};
  args.layer = s.cache.num_layers - 1;
  args.pages = {tables.indptr.data(), tables.ids.data()};
  outcome.attended.push_back(side.attend(requests, args, 7));
  // A copy of a page in place of it.
  PageTables copied = tables;
  EXPECT_EQ(intflash_cache_copy_page(side.cache(), copied.ids[0], 0), INTFLASH_OK)
      << intflash_last_error();
  copied.ids[0] = 0;
  args.pages.page_ids = copied.ids.data();
  outcome.attended.push_back(side.attend(requests, args, 7));
  EXPECT_TRUE(outcome.attended[0] == outcome.attended[1]);
  return outcome;
}

class CudaServing : public testing::TestWithParam<int> {};

TEST_P(CudaServing, GivesTheBitsOfTheScalarPort) {
  static const std::vector<ServingCase> cases = pairwise_cases();
  ServingCase s = cases[static_cast<std::size_t>(GetParam())];
  s.cache.seed = static_cast<std::uint32_t>(seed_from_test_name());
  emulated_machine().num_multiprocessors = s.multiprocessors;
  const auto use = s.tables == Tables::kSequences ? use_sequences : use_pages;
  expect_equal(use(s, Place::kDevice), use(s, Place::kHost));
  emulated_machine() = {};
}

INSTANTIATE_TEST_SUITE_P(Pairwise, CudaServing,
                         testing::Range(0, static_cast<int>(pairwise_cases().size())));

// ---- What pairs do not reach ----

// Spans 1, 2 and 3, a part each: the latter two are one node of the tree; and spans 1 and 2 in a
// part that ends behind them. The query sees more keys than are attended.
TEST(CudaParts, AreMergedByTheTreeWhicheverIsTheFirst) {
  CacheCase c;
  c.num_kv_heads = c.group_size = 1;
  c.num_pages = 70;
  const auto use = [&](Place place, std::int64_t key_end) {
    CacheSide side(c, place);
    const std::int32_t sequence = side.create_sequence();
    side.append({sequence}, {4200}, 1);
    intflash_request request = request_of(1, 4200);
    request.key_begin = 1024;
    request.key_end = key_end;
    intflash_batch_args args{};
    args.sequences = &sequence;
    return side.attend({request}, args, 2);
  };
  EXPECT_TRUE(use(Place::kDevice, 3072) == use(Place::kHost, 3072));
  emulated_machine().num_multiprocessors = 16;
  EXPECT_TRUE(use(Place::kDevice, 4096) == use(Place::kHost, 4096));
  emulated_machine() = {};
}

}  // namespace
}  // namespace intflash::internal

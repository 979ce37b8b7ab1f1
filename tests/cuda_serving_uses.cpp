// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cuda_serving_uses.h"

#include <algorithm>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

namespace intflash::internal {
namespace {

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

}  // namespace

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

namespace {

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

}  // namespace

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

}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "engine/shared_prefix.h"

#include <algorithm>

#include "core/checks.h"
#include "core/structs.h"

namespace intflash::internal {
namespace {

intflash_shared_prefix prefix_at(const intflash_batch_desc& desc, std::int64_t index) {
  return element_of(desc.shared_prefixes, desc.shared_prefix_size, index);
}

std::int64_t end_request(const intflash_shared_prefix& prefix) {
  return prefix.first_request + prefix.num_requests;
}

// The entries that enclose a place in the list, outermost first.
template <class T>
class Enclosing {
 public:
  // Drops those that end at or before a request.
  void leave(std::int64_t first_request) {
    while (depth_ > 0 && ends_[depth_ - 1] <= first_request) --depth_;
  }
  void enter(const T& entry, std::int64_t end_request) {
    entries_[depth_] = entry;
    ends_[depth_++] = end_request;
  }
  std::int32_t depth() const { return depth_; }
  const T& innermost() const { return entries_[depth_ - 1]; }

 private:
  T entries_[INTFLASH_MAX_PREFIX_LEVELS];
  std::int64_t ends_[INTFLASH_MAX_PREFIX_LEVELS];
  std::int32_t depth_ = 0;
};

intflash_status check_members(const intflash_batch_desc& desc, std::int64_t index) {
  const intflash_shared_prefix prefix = prefix_at(desc, index);
  if (prefix.first_request < 0 || prefix.num_requests < 1 ||
      prefix.first_request > desc.num_requests - prefix.num_requests) {
    return fail(
        INTFLASH_BAD_SHAPE,
        "shared_prefixes[%lld]: first_request = %lld, num_requests = %lld: must be 1 or more "
        "of the batch's %lld requests",
        static_cast<i64>(index), static_cast<i64>(prefix.first_request),
        static_cast<i64>(prefix.num_requests), static_cast<i64>(desc.num_requests));
  }
  if (prefix.prefix_len < 0) {
    return fail(INTFLASH_BAD_SHAPE, "shared_prefixes[%lld].prefix_len = %lld: must be at least 0",
                static_cast<i64>(index), static_cast<i64>(prefix.prefix_len));
  }
  const auto request_at = [&](std::int64_t r) {
    return element_of(desc.requests, desc.request_size, r);
  };
  const intflash_request first = request_at(prefix.first_request);
  for (std::int64_t r = prefix.first_request; r < end_request(prefix); ++r) {
    const intflash_request request = request_at(r);
    const bool is_all = request.key_end == 0;
    if (prefix.prefix_len > (is_all ? request.kv_len : request.key_end)) {
      return fail(
          INTFLASH_BAD_SHAPE,
          "shared_prefixes[%lld].prefix_len = %lld: must be at most requests[%lld].%s = %lld",
          static_cast<i64>(index), static_cast<i64>(prefix.prefix_len), static_cast<i64>(r),
          is_all ? "kv_len" : "key_end",
          static_cast<i64>(is_all ? request.kv_len : request.key_end));
    }
    if (!is_all && request.key_begin != request.first_key_position) {
      return fail(INTFLASH_UNSUPPORTED,
                  "shared_prefixes[%lld]: requests[%lld].key_begin = %lld: keys from "
                  "first_key_position = %lld on are shared, or none",
                  static_cast<i64>(index), static_cast<i64>(r), static_cast<i64>(request.key_begin),
                  static_cast<i64>(request.first_key_position));
    }
    if (request.first_key_position == first.first_key_position) continue;
    return fail(INTFLASH_BAD_SHAPE,
                "shared_prefixes[%lld]: requests[%lld].first_key_position = %lld: must be %lld, as "
                "that of requests[%lld]",
                static_cast<i64>(index), static_cast<i64>(r),
                static_cast<i64>(request.first_key_position),
                static_cast<i64>(first.first_key_position), static_cast<i64>(prefix.first_request));
  }
  return INTFLASH_OK;
}

// Against the one that encloses it.
intflash_status check_nesting(const intflash_batch_desc& desc, std::int64_t index,
                              std::int64_t outer_index) {
  const intflash_shared_prefix prefix = prefix_at(desc, index);
  const intflash_shared_prefix outer = prefix_at(desc, outer_index);
  if (end_request(prefix) <= end_request(outer) && prefix.prefix_len > outer.prefix_len)
    return INTFLASH_OK;
  return fail(
      INTFLASH_INVALID_ARGUMENT,
      "shared_prefixes[%lld]: requests %lld ... %lld, prefix_len = %lld: must lie in "
      "shared_prefixes[%lld]'s requests %lld ... %lld with a larger prefix_len than %lld, or "
      "apart from them",
      static_cast<i64>(index), static_cast<i64>(prefix.first_request),
      static_cast<i64>(end_request(prefix) - 1), static_cast<i64>(prefix.prefix_len),
      static_cast<i64>(outer_index), static_cast<i64>(outer.first_request),
      static_cast<i64>(end_request(outer) - 1), static_cast<i64>(outer.prefix_len));
}

}  // namespace

intflash_status check_shared_prefixes(const intflash_batch_desc& desc) {
  intflash_status status = check_extent("num_shared_prefixes", desc.num_shared_prefixes, 0);
  if (status == INTFLASH_OK)
    status = check_elements("shared_prefixes", "intflash_shared_prefix", desc.shared_prefixes,
                            desc.num_shared_prefixes, desc.shared_prefix_size);
  if (status != INTFLASH_OK) return status;
  Enclosing<std::int64_t> enclosing;
  for (std::int64_t i = 0; i < desc.num_shared_prefixes; ++i) {
    status = check_members(desc, i);
    if (status != INTFLASH_OK) return status;
    const intflash_shared_prefix prefix = prefix_at(desc, i);
    const std::int64_t first = prefix.first_request;
    const std::int64_t least = i > 0 ? prefix_at(desc, i - 1).first_request : 0;
    if (first < least) {
      return fail(
          INTFLASH_INVALID_ARGUMENT,
          "shared_prefixes[%lld].first_request = %lld: must be at least %lld, as that of the "
          "one before it",
          static_cast<i64>(i), static_cast<i64>(first), static_cast<i64>(least));
    }
    enclosing.leave(first);
    if (enclosing.depth() > 0) status = check_nesting(desc, i, enclosing.innermost());
    if (status != INTFLASH_OK) return status;
    if (enclosing.depth() == INTFLASH_MAX_PREFIX_LEVELS) {
      return fail(INTFLASH_INVALID_ARGUMENT,
                  "shared_prefixes[%lld]: lies in %d others: must be in fewer than "
                  "INTFLASH_MAX_PREFIX_LEVELS = %d",
                  static_cast<i64>(i), enclosing.depth(), INTFLASH_MAX_PREFIX_LEVELS);
    }
    enclosing.enter(i, end_request(prefix));
  }
  return INTFLASH_OK;
}

intflash_status check_shared_pages(const Schedule& schedule, const Section& section,
                                   const intflash_cache& cache, const intflash_batch_args& args) {
  const std::int64_t first_key = schedule.requests[section.first_request].mask.kv_begin;
  const std::int64_t page_size = cache.layout.page_size;
  const PageRun expected = batch_pages(cache, args, section.first_request, first_key);
  const std::int64_t begin = std::max<std::int64_t>(section.keys.begin - first_key, 0) / page_size;
  const std::int64_t end = (section.keys.end - first_key) / page_size;
  for (std::int64_t r = 1; r < section.num_requests; ++r) {
    const PageRun run = batch_pages(cache, args, section.first_request + r, first_key);
    for (std::int64_t i = begin; i < end; ++i) {
      if (run.page_ids[i] == expected.page_ids[i]) continue;
      return fail(INTFLASH_INVALID_ARGUMENT,
                  "request %lld: page_ids[%lld] = %d: must be %d, as that of request %lld, with "
                  "which it shares its keys up to position %lld",
                  static_cast<i64>(section.first_request + r), static_cast<i64>(i), run.page_ids[i],
                  expected.page_ids[i], static_cast<i64>(section.first_request),
                  static_cast<i64>(section.keys.end));
    }
  }
  return INTFLASH_OK;
}

std::int64_t make_shared_sections(const Batch& batch, Request* requests, Section* sections) {
  // A page that is not full has been copied for the request that appends to it.
  const std::int64_t unit = std::max<std::int64_t>(batch.page_size, kScoreBlock);
  std::int64_t count = 0;
  Enclosing<KeyRange> enclosing;
  for (std::int64_t i = 0; i < batch.num_shared_prefixes; ++i) {
    const intflash_shared_prefix prefix =
        element_of(batch.shared_prefixes, batch.shared_prefix_size, i);
    enclosing.leave(prefix.first_request);
    const KeyRange keys = {enclosing.depth() > 0 ? enclosing.innermost().end : 0,
                           prefix.prefix_len / unit * unit};
    const std::int64_t first_key = requests[prefix.first_request].mask.kv_begin;
    if (keys.end <= std::max(keys.begin, first_key) || prefix.num_requests == 1) continue;
    Section section{};
    section.first_request = prefix.first_request;
    section.num_requests = prefix.num_requests;
    section.keys = keys;
    section.stage = enclosing.depth();
    section.is_shared = true;
    sections[count++] = section;
    for (std::int64_t r = prefix.first_request; r < end_request(prefix); ++r)
      requests[r].shared_end = keys.end;
    enclosing.enter(keys, end_request(prefix));
  }
  return count;
}

}  // namespace intflash::internal

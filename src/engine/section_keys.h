// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Where the keys of a section's lie for one kv head, and their score blocks as a tile wants them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/attention.h"

namespace intflash::internal {

// In the pages of the section's first request.
class SectionKeys {
 public:
  SectionKeys(const Attention& attention, const Section& section, std::int64_t kv_head)
      : attention_(attention), request_(section.first_request), kv_head_(kv_head) {
    const MaskRule& mask = attention.schedule->requests[request_].mask;
    present_ = {std::max(mask.kv_begin, section.keys.begin), section.keys.end};
    first_position_ = mask.kv_begin;
    const KeyPages& pages = attention.pages;
    memory_ = pages.memory + kv_head * pages.head_stride;
    if (pages.cache != nullptr) {
      page_ids_ = batch_pages(*pages.cache, *pages.args, request_, mask.kv_begin).page_ids;
    } else if (pages.memory != nullptr) {
      memory_ += request_ * pages.request_stride;
      blocks_ = pages.blocks + (request_ * attention.schedule->shape.num_kv_heads + kv_head) *
                                   pages.blocks_per_head;
    }
  }

  // The score block at a position that has some of the keys; nullptr: there is nothing to attend.
  const ScoreBlock* block(std::int64_t first, std::int64_t kv_end, const QueryTile& query,
                          const Worker& worker) const {
    if (attention_.bring_block != nullptr) {
      const bool is_sound = attention_.bring_block(attention_.bring_user, worker, query, request_,
                                                   kv_head_, first, kv_end, worker.blocks[0]);
      return is_sound ? worker.blocks : nullptr;
    }
    if (blocks_ != nullptr) return blocks_ + first / kScoreBlock;
    gather(first, 0, attention_.pages.are_packed_for(query.rows), worker);
    return worker.blocks;
  }

  // The blocks of num_spans spans from first on that have some of the keys, one behind the other.
  const ScoreBlock* blocks(std::int64_t first, std::int64_t num_spans, const Worker& worker) const {
    if (blocks_ != nullptr) return blocks_ + first * kBlocksPerSpan;
    for (std::int64_t b = 0; b < num_spans * kBlocksPerSpan; ++b) {
      const std::int64_t key = first * kSpanTokens + b * kScoreBlock;
      if (key + kScoreBlock > present_.begin && key < present_.end) gather(key, b, false, worker);
    }
    return worker.blocks;
  }

  // The halves of the score block at a position as they lie in the pages, where it has some of the
  // keys and nobody brings them. Of a codec that will be expanded values take fewer bytes: who asks
  // for those of codec int8 asks for what lies behind them too, which is the next head's.
  bool halves(std::int64_t first, KvBlock* halves) const {
    if (attention_.bring_block != nullptr || first + kScoreBlock <= present_.begin ||
        first >= present_.end)
      return false;
    const std::int64_t middle = first + kBlockTokens;
    const bool has_low = middle > present_.begin;
    const bool has_high = middle < present_.end;
    halves[0] = block_at(has_low ? first : middle);
    halves[1] = block_at(has_high ? middle : first);
    return true;
  }

  // Asks for the scales of a span, which blocks() reads all at once.
  void announce_scales(std::int64_t span) const {
    if (blocks_ != nullptr) return;
    const std::int64_t begin =
        std::max(present_.begin, span * kSpanTokens) / kBlockTokens * kBlockTokens;
    const std::int64_t end = std::min(present_.end, (span + 1) * kSpanTokens);
    for (std::int64_t position = begin; position < end; position += kBlockTokens) {
      const KvBlock block = block_at(position);
      for (std::int64_t key = 0; key < kBlockTokens; key += 16) {
        __builtin_prefetch(block.key_scale + key, 0, 2);
        __builtin_prefetch(block.value_scale + key, 0, 2);
        __builtin_prefetch(block.key_sum + key, 0, 2);
      }
    }
  }

 private:
  // Into the worker's block of this index; packed: as it lies.
  void gather(std::int64_t first, std::int64_t index, bool packed, const Worker& worker) const {
    ScoreBlock& block = worker.blocks[index];
    std::uint64_t keep[2];
    for (std::int64_t half = 0; half < 2; ++half) {
      const std::int64_t position = first + half * kBlockTokens;
      keep[half] = keep_word(present_, position);
      // Where no token is, the other half stands in: it is multiplied, and not seen.
      if (keep[half] != 0) block.half[half] = block_at(position);
    }
    if (attention_.pages.expand != nullptr && !packed)
      expand(keep, worker.expanded + index * 2 * attention_.pages.expanded.bytes(), block.half);
    if (keep[0] == 0) block.half[0] = block.half[1];
    if (keep[1] == 0) block.half[1] = block.half[0];
    attention_.kernels->prepare_block(block, keep);
  }

  // The halves that have tokens.
  void expand(const std::uint64_t* keep, char* memory, KvBlock* halves) const {
    const PageLayout& layout = attention_.pages.expanded;
    for (std::int64_t i = 0; i < 2; ++i) {
      if (keep[i] == 0) continue;
      const WritableBlock room = writable_block(layout, memory + i * layout.bytes(), 0);
      halves[i] = attention_.pages.expand(halves[i], static_cast<std::int32_t>(layout.head_dim),
                                          static_cast<std::int32_t>(layout.head_dim_v), room);
    }
  }

  KvBlock block_at(std::int64_t position) const {
    const KeyPages& pages = attention_.pages;
    const std::int64_t offset = position - first_position_;
    const std::int64_t page = offset / pages.layout.page_size;
    const std::int64_t id = page_ids_ == nullptr ? page : page_ids_[page];
    return pages.layout.block(memory_ + id * pages.page_stride,
                              offset % pages.layout.page_size / kBlockTokens);
  }

  const Attention& attention_;
  std::int64_t request_;
  std::int64_t kv_head_;
  KeyRange present_;
  std::int64_t first_position_;
  const char* memory_;
  const std::int32_t* page_ids_ = nullptr;
  const ScoreBlock* blocks_ = nullptr;
};

}  // namespace intflash::internal

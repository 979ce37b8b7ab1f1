// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Where the keys of a section's lie for one kv head, and their score blocks as a tile wants them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/attention.h"

namespace intflash::internal {

// Score blocks one behind the other: as the codec has them, and in INT8 where some row of a tile
// sees them so. Those that no row sees are not filled.
struct FormBlocks {
  const ScoreBlock* coded;
  const ScoreBlock* window;

  FormBlocks from(std::int64_t index) const {
    return {coded + index, window == nullptr ? nullptr : window + index};
  }
};

// In the pages of the section's first request. item: whose rows are to see them.
class SectionKeys {
 public:
  SectionKeys(const Attention& attention, const Section& section, const Item& item,
              std::int64_t kv_head)
      : attention_(attention), request_(section.first_request), kv_head_(kv_head) {
    const MaskRule& mask = attention.schedule->requests[request_].mask;
    present_ = {std::max(mask.kv_begin, section.keys.begin), section.keys.end};
    first_position_ = mask.kv_begin;
    const KeyPages& pages = attention.pages;
    find_forms(section, item);
    window_memory_ = pages.window_memory + kv_head * pages.window_head_stride;
    memory_ = pages.memory + kv_head * pages.head_stride;
    if (pages.cache != nullptr) {
      const PageRun run = batch_pages(*pages.cache, *pages.args, request_, mask.kv_begin);
      page_ids_ = run.page_ids;
      window_page_ids_ = run.window_page_ids;
    } else if (pages.memory != nullptr) {
      memory_ += request_ * pages.request_stride;
      blocks_ = pages.blocks + (request_ * attention.schedule->shape.num_kv_heads + kv_head) *
                                   pages.blocks_per_head;
    }
  }

  // The score block at a position that has some of the keys; none where there is nothing to attend.
  FormBlocks block(std::int64_t first, std::int64_t kv_end, const QueryTile& query,
                   const Worker& worker) const {
    if (attention_.bring_block != nullptr) {
      const bool is_sound = attention_.bring_block(attention_.bring_user, worker, query, request_,
                                                   kv_head_, first, kv_end, worker.blocks[0]);
      return {is_sound ? worker.blocks : nullptr, nullptr};
    }
    if (blocks_ != nullptr) return {blocks_ + first / kScoreBlock, nullptr};
    gather(first, 0, attention_.pages.packed_for(query.rows), worker);
    return {worker.blocks, worker.window_blocks};
  }

  // The blocks of num_spans spans from first on that have some of the keys, one behind the other.
  FormBlocks blocks(std::int64_t first, std::int64_t num_spans, const Worker& worker) const {
    if (blocks_ != nullptr) return {blocks_ + first * kBlocksPerSpan, nullptr};
    for (std::int64_t b = 0; b < num_spans * kBlocksPerSpan; ++b) {
      const std::int64_t key = first * kSpanTokens + b * kScoreBlock;
      if (key + kScoreBlock > present_.begin && key < present_.end) gather(key, b, 0, worker);
    }
    return {worker.blocks, worker.window_blocks};
  }

  // The halves of the score block at a position as they lie in the pages, where it has some of the
  // keys and nobody brings them. Of a codec that will be expanded they take fewer bytes: who asks
  // for those of codec int8 asks for what lies behind them too, which is the next head's.
  bool halves(std::int64_t first, KvBlock* halves) const {
    if (attention_.bring_block != nullptr || first + kScoreBlock <= present_.begin ||
        first >= present_.end)
      return false;
    const std::int64_t middle = first + kBlockTokens;
    const bool has_low = middle > present_.begin;
    const bool has_high = middle < present_.end;
    halves[0] = any_block_at(has_low ? first : middle);
    halves[1] = any_block_at(has_high ? middle : first);
    return true;
  }

  // Asks for the scales of a span, which blocks() reads all at once.
  void announce_scales(std::int64_t span) const {
    if (blocks_ != nullptr) return;
    const std::int64_t begin =
        std::max(present_.begin, span * kSpanTokens) / kBlockTokens * kBlockTokens;
    const std::int64_t end = std::min(present_.end, (span + 1) * kSpanTokens);
    for (std::int64_t position = begin; position < end; position += kBlockTokens) {
      const KvBlock block = any_block_at(position);
      for (std::int64_t key = 0; key < kBlockTokens; key += 16) {
        __builtin_prefetch(block.key_scale + key, 0, 2);
        __builtin_prefetch(block.value_scale + key, 0, 2);
        __builtin_prefetch(block.key_sum + key, 0, 2);
      }
    }
  }

 private:
  // Which keys the item's rows see in which form.
  void find_forms(const Section& section, const Item& item) {
    const Schedule& schedule = *attention_.schedule;
    const Int8Window& window = attention_.pages.window;
    coded_ = {0, INT64_MAX};
    window_begin_ = INT64_MAX;
    if (window.is_none()) return;
    const std::int64_t position = first_position(schedule.requests[request_]);
    const std::int64_t first_row = item.first_tile * schedule.tile_rows;
    const std::int64_t end_row =
        std::min(first_row + item.num_tiles * schedule.tile_rows, section.num_rows);
    const std::int64_t group_size = schedule.shape.group_size;
    coded_ = window.coded_keys(position + (end_row - 1) / group_size);
    window_begin_ = window.coded_keys(position + first_row / group_size).end;
  }
  std::uint64_t coded_word(std::int64_t position) const {
    return keep_word({std::max(present_.begin, coded_.begin), std::min(present_.end, coded_.end)},
                     position);
  }
  std::uint64_t window_word(std::int64_t position) const {
    if (window_begin_ == INT64_MAX) return 0;
    return keep_word({present_.begin, std::min(present_.end, coded_.begin)}, position) |
           keep_word({std::max(present_.begin, window_begin_), present_.end}, position);
  }

  // Into the worker's blocks of this index; packed: what stays so.
  void gather(std::int64_t first, std::int64_t index, std::int32_t packed,
              const Worker& worker) const {
    const std::int64_t second = first + kBlockTokens;
    const std::uint64_t coded[] = {coded_word(first), coded_word(second)};
    if ((coded[0] | coded[1]) != 0) {
      ScoreBlock& block = worker.blocks[index];
      if (coded[0] != 0) block.half[0] = block_at(first);
      if (coded[1] != 0) block.half[1] = block_at(second);
      if (attention_.pages.expand != nullptr)
        expand(coded, packed, worker.expanded + index * 2 * attention_.pages.expanded.bytes(),
               block.half);
      prepare(coded, block);
    }
    const std::uint64_t in_window[] = {window_word(first), window_word(second)};
    if ((in_window[0] | in_window[1]) != 0) {
      ScoreBlock& block = worker.window_blocks[index];
      if (in_window[0] != 0) block.half[0] = window_block_at(first);
      if (in_window[1] != 0) block.half[1] = window_block_at(second);
      prepare(in_window, block);
    }
  }

  // Where no token is, the other half stands in: it is multiplied, and not seen.
  void prepare(const std::uint64_t* keep, ScoreBlock& block) const {
    if (keep[0] == 0) block.half[0] = block.half[1];
    if (keep[1] == 0) block.half[1] = block.half[0];
    attention_.kernels->prepare_block(block, keep);
  }

  // The halves that have tokens.
  void expand(const std::uint64_t* keep, std::int32_t packed, char* memory, KvBlock* halves) const {
    const PageLayout& layout = attention_.pages.expanded;
    for (std::int64_t i = 0; i < 2; ++i) {
      if (keep[i] == 0) continue;
      const WritableBlock room = writable_block(layout, memory + i * layout.bytes(), 0);
      halves[i] =
          attention_.pages.expand(halves[i], static_cast<std::int32_t>(layout.head_dim),
                                  static_cast<std::int32_t>(layout.head_dim_v), packed, room);
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
  KvBlock window_block_at(std::int64_t position) const {
    const KeyPages& pages = attention_.pages;
    const std::int64_t page_size = pages.window_layout.page_size;
    const std::int64_t offset = position - first_position_;
    const std::int64_t id = window_page_ids_[offset / page_size];
    return pages.window_layout.block(window_memory_ + id * pages.window_page_stride,
                                     offset % page_size / kBlockTokens);
  }
  // In the form that is read.
  KvBlock any_block_at(std::int64_t position) const {
    return coded_word(position) != 0 || window_word(position) == 0 ? block_at(position)
                                                                   : window_block_at(position);
  }

  const Attention& attention_;
  std::int64_t request_;
  std::int64_t kv_head_;
  KeyRange present_;
  KeyRange coded_;             // keys that some row sees as the codec has them
  std::int64_t window_begin_;  // keys from here on, and those before coded_, some row sees in INT8
  std::int64_t first_position_;
  const char* memory_;
  const char* window_memory_;
  const std::int32_t* window_page_ids_ = nullptr;
  const std::int32_t* page_ids_ = nullptr;
  const ScoreBlock* blocks_ = nullptr;
};

}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// In which order the states of spans are merged: by a binary tree over the spans' absolute
// positions, whose node of 2^k spans begins at a multiple of 2^k. A span that is absent, or whose
// keys a row does not see, leaves a node as its other half is. So the bits depend neither on who
// has which spans, nor on how many there are.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace intflash::internal {

// Bounds the states that wait for others: two per level of a tree over 2^31 keys.
constexpr std::int32_t kMaxWaitingStates = 48;

// Level of the least node that two spans have in common; 0 for a span and itself.
inline std::int32_t common_level(std::int64_t a, std::int64_t b) {
  return static_cast<std::int32_t>(std::bit_width(static_cast<std::uint64_t>(a ^ b)));
}

// Calls visit(first span, number of spans) for each of the fewest nodes that spans [first, end)
// are, from the first on.
template <class Visit>
void for_each_node(std::int64_t first, std::int64_t end, Visit visit) {
  while (first < end) {
    const auto most =
        static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(end - first)));
    const std::int64_t spans = first == 0 ? most : std::min(most, first & -first);
    visit(first, spans);
    first += spans;
  }
}

// The most states that wait at a time where num_spans spans come one after the other.
inline std::int32_t most_waiting_states(std::int64_t first_span, std::int64_t num_spans) {
  const std::int64_t levels = common_level(num_spans, 0);
  return static_cast<std::int32_t>(std::min(num_spans, first_span == 0 ? levels : 2 * levels));
}

// The states of consecutive spans, or of a part of them, as they wait for others: bookkeeping
// alone. State i + 1 comes after state i.
class SpanTree {
 public:
  SpanTree() = default;
  // Behind a span that another has the state of: what is to be merged with that stays as it is.
  explicit SpanTree(std::int64_t span_before) : before_(span_before) {}

  std::int32_t size() const { return size_; }
  // A span of the node that state i is of.
  std::int64_t span(std::int32_t i) const { return spans_[i]; }
  // Whether the last state is that of this span alone, and may take more of its keys.
  bool has_open(std::int64_t span) const { return size_ > 0 && spans_[size_ - 1] == span; }

  // Adds the state of a span, or of a node that begins with it, behind all others. First calls
  // merge(i) for each i whose state i + 1 becomes a part of state i.
  template <class Merge>
  void push(std::int64_t span, Merge merge) {
    merge_below(size_ > 0 ? common_level(spans_[size_ - 1], span) : 0, merge);
    spans_[size_++] = span;
  }
  // Whether a span that was pushed last ends a node whose left half waits: its state can then be
  // merged as soon as it has all keys of the span.
  bool completes(std::int64_t span) const {
    return size_ > num_final_ + 1 &&
           common_level(spans_[size_ - 2], spans_[size_ - 1]) <= complete_level(span);
  }
  // Merges what can be once the last state has all keys of this span; push would do so later.
  template <class Merge>
  void complete(std::int64_t span, Merge merge) {
    merge_below(complete_level(span) + 1, merge);
  }
  // Where no more spans will come and none went before: leaves one state, or none.
  template <class Merge>
  void finish(Merge merge) {
    merge_below(INT32_MAX, merge);
  }

 private:
  // Of the largest node that ends with a span.
  static std::int32_t complete_level(std::int64_t span) {
    return std::countr_one(static_cast<std::uint64_t>(span));
  }
  template <class Merge>
  void merge_below(std::int32_t level, Merge merge) {
    while (size_ > num_final_ + 1 && common_level(spans_[size_ - 2], spans_[size_ - 1]) < level) {
      --size_;
      merge(size_ - 1);
    }
    // The left half of this one's node is elsewhere: it waits for that, and others for it.
    if (size_ == num_final_ + 1 && before_ >= 0 && common_level(before_, spans_[size_ - 1]) < level)
      before_ = spans_[num_final_++];
  }

  std::int32_t size_ = 0;
  std::int32_t num_final_ = 0;  // of the first states: they wait for one before them
  std::int64_t before_ = -1;    // the span before those that are not final; -1: none
  std::int64_t spans_[kMaxWaitingStates];
};

}  // namespace intflash::internal

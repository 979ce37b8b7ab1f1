// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a cache and batches over it are asked in tests, on either side: sequences, or pages and
// slots of the caller's.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda_serving.h"

namespace intflash::internal {

// What both sides gave back, in the order in which they were asked.
struct Outcome {
  std::vector<CacheSide::Result> attended;
  std::vector<std::vector<char>> saved;
  std::vector<std::vector<float>> exported;
};

enum class Tables { kSequences, kPages, kSlots };

struct Lengths {
  std::int64_t kv_len, query_len;
};
struct RuleMask {
  intflash_mask kind;
  std::int64_t left, right, prefix;
};
struct ServingCase {
  CacheCase cache;
  std::vector<Lengths> lengths;
  Tables tables;
  RuleMask mask;
  bool some_keys;  // the last span's alone, and the first's
  bool dropped;    // a request's first pages are gone
  int multiprocessors;
};

Outcome use_sequences(const ServingCase& s, Place place);
Outcome use_pages(const ServingCase& s, Place place);

}  // namespace intflash::internal

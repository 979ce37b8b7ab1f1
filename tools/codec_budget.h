// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// One candidate for each of some layers, with the least total damage that a number of bytes allows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace intflash {

struct Candidate {
  std::int64_t bytes;  // >= 0
  double damage;       // >= 0, and additive
};
using Candidates = std::vector<std::vector<Candidate>>;  // [layers], at least one for each

// Of the candidates of fewest bytes.
std::int64_t least_bytes(const Candidates& layers);

// [layers]: which candidate; exactly the best choice, and of equal ones one of fewest bytes. bytes
// is at least least_bytes(layers).
std::vector<std::size_t> choose_candidates(const Candidates& layers, std::int64_t bytes);

// The corners of the lower convex hull of all choices' bytes and damages, fewest bytes first.
std::vector<Candidate> convex_front(const Candidates& layers);

}  // namespace intflash

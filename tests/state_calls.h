// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// States, and sets of them, for tests.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "serving_calls.h"

namespace intflash::internal::serving {

// A state and its memory.
struct OwnState {
  OwnState(const Shape& shape, std::int64_t query_len, std::int64_t first_key,
           std::int64_t num_keys)
      : first_key(first_key),
        num_keys(num_keys),
        reference(static_cast<std::size_t>(query_len * shape.num_query_heads()), NAN),
        row_sum(reference),
        accumulators(reference.size() * static_cast<std::size_t>(shape.head_dim_v), NAN),
        center_score(reference.size(), NAN),
        rotates_values(shape.rotate ? 1 : 0) {}

  intflash_state view() {
    return {
        first_key,           num_keys,      reference.data(), row_sum.data(), accumulators.data(),
        center_score.data(), rotates_values};
  }
  bool operator==(const OwnState&) const = default;

  std::int64_t first_key, num_keys;
  std::vector<float> reference, row_sum, accumulators;
  std::vector<double> center_score;
  std::int32_t rotates_values;
};
using States = std::vector<OwnState>;

inline std::vector<intflash_state> views(States& states) {
  std::vector<intflash_state> all;
  for (OwnState& state : states) all.push_back(state.view());
  return all;
}

// What a plan says that its run leaves of a request, in memory that nobody has written to.
inline States states_of(const BatchCall& batch, std::int64_t request) {
  States states;
  for (std::int64_t i = 0; i < intflash_plan_num_states(batch.plan, request); ++i) {
    std::int64_t first_key = -1, num_keys = -1;
    EXPECT_EQ(intflash_plan_get_state_keys(batch.plan, request, i, &first_key, &num_keys),
              INTFLASH_OK);
    states.emplace_back(batch.shape, batch.requests[static_cast<std::size_t>(request)].query_len,
                        first_key, num_keys);
  }
  return states;
}

inline intflash_state_set set_of(const Shape& shape, std::int64_t query_len,
                                 const std::vector<intflash_state>& states) {
  intflash_state_set set{};
  set.struct_size = sizeof set;
  set.state_size = sizeof(intflash_state);
  set.states = states.data();
  set.num_states = static_cast<std::int64_t>(states.size());
  set.query_len = query_len;
  set.num_query_heads = shape.num_query_heads();
  set.head_dim_v = shape.head_dim_v;
  return set;
}

// Where no T may lie.
template <class T>
T* misplaced(T* pointer) {
  return reinterpret_cast<T*>(reinterpret_cast<char*>(pointer) + 1);
}

}  // namespace intflash::internal::serving

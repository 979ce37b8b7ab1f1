// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Seeds for random test data: each test has its own, and keeps it when others are added.
#pragma once

#include <cstdint>
#include <string>

#include <gtest/gtest.h>

namespace intflash::internal {

// FNV-1a of "Suite.Name" of the running test.
inline std::uint64_t seed_from_test_name() {
  const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : std::string(test->test_suite_name()) + "." + test->name()) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  return hash;
}

}  // namespace intflash::internal

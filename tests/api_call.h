// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A small valid call through the C interface, for tests that spoil one argument of it.
#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "attention_case.h"
#include "intflash/intflash.h"

namespace intflash::internal {

// batch 2, 4 query heads over 2 kv heads, 5 queries, 7 keys, head_dim 16 and 8.
inline AttentionCase small_call() {
  AttentionCase c;
  c.batch = 2;
  c.num_kv_heads = 2;
  c.group_size = 2;
  c.query_len = 5;
  c.kv_len = 7;
  c.head_dim = 16;
  c.head_dim_v = 8;
  return c;
}

struct ApiCall {
  explicit ApiCall(const AttentionCase& c = small_call(), std::int32_t num_threads = 1)
      : attention(c), tensors(make_tensors(c, memory)) {
    intflash_context_options options = {};
    options.struct_size = sizeof options;
    options.num_threads = num_threads;
    EXPECT_EQ(intflash_context_create(&options, &context), INTFLASH_OK) << intflash_last_error();
  }
  ~ApiCall() { intflash_context_destroy(context); }
  ApiCall(const ApiCall&) = delete;
  ApiCall& operator=(const ApiCall&) = delete;

  intflash_attend_desc& desc() { return tensors.desc; }
  intflash_attend_args& args() { return tensors.args; }

  intflash_status attend() { return intflash_attend(context, &tensors.desc, &tensors.args); }

  // Fails the test unless the call gives status, with all of words in its message, and neither out
  // nor lse is touched.
  void expect_refused(intflash_status status, const std::vector<std::string>& words) {
    expect_refusal(attend(), status, words);
  }
  void expect_refusal(intflash_status found, intflash_status expected,
                      const std::vector<std::string>& words) {
    EXPECT_STREQ(intflash_status_name(found), intflash_status_name(expected));
    const std::string message = intflash_last_error();
    for (const std::string& word : words)
      EXPECT_NE(message.find(word), std::string::npos) << '"' << message << "\" lacks " << word;
    EXPECT_TRUE(untouched()) << message;
  }
  bool untouched() const {
    const auto all_poison = [](const void* data, std::size_t bytes) {
      const auto* begin = static_cast<const unsigned char*>(data);
      for (std::size_t i = 0; i < bytes; ++i) {
        if (begin[i] != CaseTensors::kPoison) return false;
      }
      return true;
    };
    return all_poison(tensors.out, tensors.out_bytes) &&
           all_poison(tensors.args.lse, tensors.lse_count * 4);
  }

  AttentionCase attention;
  Memory memory;
  CaseTensors tensors;
  intflash_context* context = nullptr;
};

}  // namespace intflash::internal

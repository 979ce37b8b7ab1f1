// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Cache codecs: caches and plans say theirs.
#include <cstdint>

#include <gtest/gtest.h>

#include "serving.h"
#include "serving_input.h"

namespace intflash::internal::serving {
namespace {

TEST(Codec, OfACacheIsWhatItsInfoAndSupportSay) {
  const Shape shape;
  const Server server(shape);
  intflash_cache_info cache{};
  cache.struct_size = sizeof cache;
  ASSERT_EQ(intflash_cache_get_info(server.cache(), &cache), INTFLASH_OK);
  EXPECT_EQ(cache.codec, INTFLASH_CODEC_INT8);
  EXPECT_EQ(cache.page_layout_version, INTFLASH_PAGE_LAYOUT_VERSION);
  const BatchCall call(shape, {});
  intflash_plan_info plan{};
  plan.struct_size = sizeof plan;
  ASSERT_EQ(intflash_query_batch_support(server.context(), server.cache(), &call.desc, &plan),
            INTFLASH_OK)
      << intflash_last_error();
  EXPECT_STREQ(plan.codec, "int8");
}

TEST(Codec, ThatIsNotThereIsRefusedWithWhatThereIs) {
  const ServingInput input;
  intflash_cache_options options = input.cache_options();
  intflash_cache* cache = nullptr;
  const auto expect = [&](intflash_status status, const char* message) {
    EXPECT_EQ(intflash_cache_create(input.context, &options, &cache), status);
    EXPECT_STREQ(intflash_last_error(), message);
    EXPECT_EQ(cache, nullptr);
  };
  options.codec = static_cast<intflash_codec>(1);
  expect(INTFLASH_INVALID_ARGUMENT, "codec = 1: must be one of 0 (int8)");
  options.codec = static_cast<intflash_codec>(-1);
  expect(INTFLASH_INVALID_ARGUMENT, "codec = -1: must be one of 0 (int8)");
  options.codec = INTFLASH_CODEC_INT8;
  options.page_layout_version = 2;
  expect(INTFLASH_UNSUPPORTED,
         "page_layout_version = 2: pages of codec int8 have version 1, or 0 for the newest");
  options.page_layout_version = INTFLASH_PAGE_LAYOUT_VERSION;
  ASSERT_EQ(intflash_cache_create(input.context, &options, &cache), INTFLASH_OK);
  intflash_cache_destroy(cache);
}

}  // namespace
}  // namespace intflash::internal::serving

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Caches whose pages are out of reach of all but their device's functions.
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

#include "cache_uses.h"
#include "far_storage.h"
#include "seed.h"
#include "serving.h"

namespace intflash::internal::serving {
namespace {

Shape far_away(Shape shape) {
  shape.device = &kFarDevice;
  return shape;
}

// Whether the kernel can read a byte for us; no crash where it cannot.
bool is_readable(const void* memory) {
  int ends[2];
  EXPECT_EQ(::pipe(ends), 0);
  const bool is_read = ::write(ends[1], memory, 1) == 1;
  ::close(ends[0]);
  ::close(ends[1]);
  return is_read;
}

TEST(Storage, ThatIsFarCannotBeReadBetweenCalls) {
  const Shape shape = far_away({});
  const Tokens tokens = random_tokens(shape, 70, 1);
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  const void* const memory = far_memory(*server.cache());
  EXPECT_FALSE(is_readable(memory));
  ASSERT_EQ(server.append(sequence, tokens, 0, 70), INTFLASH_OK) << intflash_last_error();
  EXPECT_FALSE(is_readable(memory));
  server.attend({last_rows(server, sequence, tokens, 1)});
  EXPECT_FALSE(is_readable(memory));
  EXPECT_TRUE(is_readable(tokens.key.data()));
}

TEST(Storage, ThatIsFarGivesTheBitsOfTheHosts) {
  const auto seed = static_cast<std::uint32_t>(seed_from_test_name());
  for (const Shape& shape : cache_shapes())
    EXPECT_EQ(outcome_of(far_away(shape), seed), outcome_of(shape, seed))
        << "head_dim " << shape.head_dim;
}

TEST(Storage, ThatIsFarIsAttendedInEveryMode) {
  const Shape shape;
  const Tokens tokens =
      random_tokens(shape, 150, static_cast<std::uint32_t>(seed_from_test_name()));
  const auto attend = [&](const Shape& on, intflash_mode mode) {
    Server server(on);
    server.mode = mode;
    const std::int32_t sequence = server.create_sequence();
    EXPECT_EQ(server.append(sequence, tokens, 0, 150), INTFLASH_OK) << intflash_last_error();
    return server.attend({last_rows(server, sequence, tokens, 5)});
  };
  for (const intflash_mode mode : {INTFLASH_MODE_INT8, INTFLASH_MODE_EXACT, INTFLASH_MODE_INTFA})
    EXPECT_EQ(attend(far_away(shape), mode), attend(shape, mode)) << mode;
}

TEST(Storage, ThatIsFarRefusesAnAppendWhole) {
  const Shape shape = far_away({});
  Tokens tokens = random_tokens(shape, 70, static_cast<std::uint32_t>(seed_from_test_name()));
  Server server(shape);
  const std::int32_t sequence = server.create_sequence();
  ASSERT_EQ(server.append(sequence, tokens, 0, 40), INTFLASH_OK) << intflash_last_error();
  const File before = save(server, sequence);
  tokens.value.back() = 1e30f;
  EXPECT_EQ(server.append(sequence, tokens, 40, 70), INTFLASH_SCORE_OVERFLOW);
  EXPECT_EQ(save(server, sequence), before);
}

TEST(Storage, OfAnotherDeviceIsRefused) {
  const Shape shape;
  const Server near(shape);
  const Server far(far_away(shape));
  const auto expect_refusal = [](intflash_status status, const char* message) {
    EXPECT_EQ(status, INTFLASH_UNSUPPORTED);
    EXPECT_STREQ(intflash_last_error(), message);
  };
  BatchCall call(shape, {});
  expect_refusal(call.make_plan(near.context(), far.cache()),
                 "cache: it lies in storage far: device cpu reads host alone");
  expect_refusal(call.make_plan(far.context(), near.cache()),
                 "cache: it lies in storage host: device far reads far alone");
  ASSERT_EQ(call.make_plan(near.context(), near.cache()), INTFLASH_OK) << intflash_last_error();
  expect_refusal(call.run(far.cache()),
                 "cache: it lies in storage far: device cpu reads host alone");
}

}  // namespace
}  // namespace intflash::internal::serving

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What tests do with caches that have a window.
#pragma once

#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "cache_uses.h"
#include "pages/codec.h"
#include "seed.h"

namespace intflash::internal::serving {

// Codecs that may have a window.
inline constexpr const Codec* kWindowCodecs[] = {&kK4v4Codec, &kK8v4Codec, &kK4v2Codec,
                                                 &kK2v2Codec};

inline Shape window_shape(const Codec& codec, std::int64_t window_blocks,
                          std::int64_t sink_blocks) {
  Shape shape;
  shape.codec = &codec;
  shape.window_blocks = window_blocks;
  shape.sink_blocks = sink_blocks;
  return shape;
}

inline Tokens test_tokens(const Shape& shape, std::int64_t count) {
  return random_tokens(shape, count, static_cast<std::uint32_t>(seed_from_test_name()));
}

// Rows [begin, end) of tokens as the last of a sequence that ends at end.
inline Request rows_of(const Server& server, std::int32_t sequence, const Tokens& tokens,
                       std::int64_t begin) {
  Request request = server.request_of(sequence);
  request.query_len = request.kv_len - begin;
  request.query =
      tokens.query.data() + begin * server.shape().num_query_heads() * server.shape().head_dim;
  return request;
}

// Appends tokens up to each of ends and attends them, piece by piece: out of all of them.
inline std::vector<float> attended(Server& server, std::int32_t sequence, const Tokens& tokens,
                                   const std::vector<std::int64_t>& ends) {
  std::vector<float> out;
  std::int64_t begin = server.request_of(sequence).kv_len;
  for (const std::int64_t end : ends) {
    EXPECT_EQ(server.append(sequence, tokens, begin, end), INTFLASH_OK) << intflash_last_error();
    const Result result = server.attend({rows_of(server, sequence, tokens, begin)}).front();
    out.insert(out.end(), result.out.begin(), result.out.end());
    begin = end;
  }
  return out;
}
inline std::vector<float> attended(const Shape& shape, const Tokens& tokens,
                                   const std::vector<std::int64_t>& ends,
                                   intflash_mode mode = INTFLASH_MODE_INT8) {
  Server server(shape);
  server.mode = mode;
  return attended(server, server.create_sequence(), tokens, ends);
}

inline std::int64_t free_window_pages(const Server& server) {
  intflash_cache_info info{};
  info.struct_size = sizeof info;
  EXPECT_EQ(intflash_cache_get_info(server.cache(), &info), INTFLASH_OK);
  return info.free_window_pages;
}

}  // namespace intflash::internal::serving

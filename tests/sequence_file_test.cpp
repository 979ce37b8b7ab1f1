// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Sequences saved and loaded: to the byte, on every port, and never from a file that is not whole.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cache/sequence_file.h"
#include "pages/codec.h"
#include "random.h"
#include "seed.h"
#include "serving.h"
#include "test_ports.h"

namespace intflash::internal::serving {
namespace {

using File = std::vector<char>;

std::size_t write_to_file(void* file, const void* bytes, std::size_t num_bytes) {
  const char* first = static_cast<const char*>(bytes);
  static_cast<File*>(file)->insert(static_cast<File*>(file)->end(), first, first + num_bytes);
  return num_bytes;
}

// Reads from a file, at most `at_once` bytes a call.
struct Reader {
  const File& file;
  std::size_t at_once = std::numeric_limits<std::size_t>::max();
  std::size_t used = 0;

  static std::size_t read(void* user, void* bytes, std::size_t num_bytes) {
    Reader& reader = *static_cast<Reader*>(user);
    const std::size_t count =
        std::min({num_bytes, reader.at_once, reader.file.size() - reader.used});
    if (count > 0) std::memcpy(bytes, reader.file.data() + reader.used, count);
    reader.used += count;
    return count;
  }
};

File save(const Server& server, std::int32_t sequence) {
  File file;
  EXPECT_EQ(intflash_sequence_save(server.cache(), sequence, write_to_file, &file), INTFLASH_OK)
      << intflash_last_error();
  return file;
}

intflash_status load(Server& server, const File& file, std::int32_t& sequence) {
  Reader reader{file};
  return intflash_sequence_load(server.cache(), Reader::read, &reader, &sequence);
}

std::int64_t num_sequences(const Server& server) {
  intflash_cache_info info{};
  info.struct_size = sizeof info;
  EXPECT_EQ(intflash_cache_get_info(server.cache(), &info), INTFLASH_OK);
  return info.num_sequences;
}

// The message of a refusal that left an empty cache empty.
std::string refusal(Server& server, const File& file,
                    intflash_status expected = INTFLASH_BAD_FILE) {
  std::int32_t sequence = -7;
  EXPECT_EQ(load(server, file, sequence), expected);
  EXPECT_EQ(sequence, -7);
  EXPECT_EQ(server.free_pages(), server.shape().num_pages);
  EXPECT_EQ(num_sequences(server), 0);
  return intflash_last_error();
}

void expect_refusal(Server& server, const File& file, const std::string& part) {
  const std::string message = refusal(server, file);
  EXPECT_NE(message.find(part), std::string::npos) << message << " lacks: " << part;
}

std::int32_t create_filled(Server& server, std::int64_t count) {
  const std::int32_t sequence = server.create_sequence();
  EXPECT_EQ(server.append(sequence, random_tokens(server.shape(), count, 4), 0, count), INTFLASH_OK)
      << intflash_last_error();
  return sequence;
}

// A file of 3 tokens, and a server that is empty again.
File small_file(Server& server) {
  const std::int32_t sequence = create_filled(server, 3);
  const File file = save(server, sequence);
  EXPECT_EQ(intflash_sequence_free(server.cache(), sequence), INTFLASH_OK);
  return file;
}

// One kv head of 8 channels, and 3 tokens: the smallest file with every part.
Shape small_shape() {
  Shape shape;
  shape.num_kv_heads = 1;
  shape.head_dim = 8;
  shape.head_dim_v = 8;
  shape.num_pages = 4;
  shape.centered = true;
  return shape;
}

// Gives every record of a file its checksum.
void seal(File& file, const Shape& shape) {
  std::size_t at = 0;
  const auto record = [&](std::int64_t bytes) {
    const auto size = static_cast<std::size_t>(bytes);
    const std::uint64_t checksum =
        record_checksum(file.data() + at, size, static_cast<std::int64_t>(at));
    std::memcpy(file.data() + at + size, &checksum, sizeof checksum);
    at += size + sizeof checksum;
  };
  record(sizeof(FileHeader));
  for (std::int64_t h = 0; shape.centered && h < shape.num_kv_heads; ++h)
    record(shape.head_dim * 4);
  for (std::int64_t h = 0; shape.centered && h < shape.num_kv_heads; ++h)
    record(shape.head_dim_v * 4);
  const PageLayout page = page_layout(kInt8Codec, shape.head_dim, shape.head_dim_v, 64);
  while (at < file.size()) record(page.bytes());
}

TEST(SequenceFile, TokensComeBackToTheByteWhateverThePageSize) {
  Shape plain;
  Shape centered;
  centered.centered = centered.rotate = true;
  Shape uneven;
  uneven.head_dim = 40;
  uneven.head_dim_v = 72;
  for (const Shape& shape : {plain, centered, uneven}) {
    const Tokens tokens = random_tokens(shape, 330, 4);
    Server from(shape);
    const std::int32_t saved = from.create_sequence();
    ASSERT_EQ(from.append(saved, tokens, 0, 300), INTFLASH_OK);
    const File file = save(from, saved);
    for (const std::int64_t page_size : {64, 128, 256}) {
      Shape other = shape;
      other.page_size = page_size;
      Server to(other);
      std::int32_t sequence = -1;
      ASSERT_EQ(load(to, file, sequence), INTFLASH_OK) << intflash_last_error();
      EXPECT_EQ(save(to, sequence), file) << "page_size " << page_size;
      // And goes on as if it had always been there.
      ASSERT_EQ(to.append(sequence, tokens, 300, 330), INTFLASH_OK) << intflash_last_error();
      Request request = to.request_of(sequence);
      request.query_len = 5;
      request.query = tokens.query.data() + 325 * shape.num_query_heads() * shape.head_dim;
      EXPECT_EQ(to.attend({request})[0], to.attend_dense(tokens, request))
          << "page_size " << page_size;
    }
  }
}

TEST(SequenceFile, NothingOfTruncatedAndDroppedTokensIsSaved) {
  Shape shape;
  Server server(shape);
  const Tokens tokens = random_tokens(shape, 300, 4);
  const std::int32_t longer = server.create_sequence();
  const std::int32_t shorter = server.create_sequence();
  ASSERT_EQ(server.append(longer, tokens, 0, 300), INTFLASH_OK);
  ASSERT_EQ(intflash_sequence_truncate(server.cache(), longer, 100), INTFLASH_OK);
  ASSERT_EQ(server.append(shorter, tokens, 0, 100), INTFLASH_OK);
  EXPECT_EQ(save(server, longer), save(server, shorter));
  ASSERT_EQ(intflash_sequence_drop_before(server.cache(), longer, 70), INTFLASH_OK);
  const File dropped = save(server, longer);
  std::int32_t loaded = -1;
  ASSERT_EQ(load(server, dropped, loaded), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(server.request_of(loaded).first_key_position, 64);
  EXPECT_EQ(server.request_of(loaded).kv_len, 100);
  shape.page_size = 256;
  Server coarse(shape);
  expect_refusal(coarse, dropped, "byte 56: first_key_position = 64: must be a multiple");
}

TEST(SequenceFile, SequencesFollowOneAnotherInAStreamOfAnyStep) {
  Server server((Shape()));
  const std::int32_t first = create_filled(server, 70);
  const std::int32_t second = create_filled(server, 1);
  const std::int32_t empty = server.create_sequence();
  File stream;
  for (const std::int32_t sequence : {first, empty, second}) {
    ASSERT_EQ(intflash_sequence_save(server.cache(), sequence, write_to_file, &stream),
              INTFLASH_OK);
  }
  for (const std::size_t at_once : {std::size_t{1}, std::size_t{1000}, stream.size()}) {
    Reader reader{stream, at_once};
    for (const std::int32_t sequence : {first, empty, second}) {
      std::int32_t loaded = -1;
      ASSERT_EQ(intflash_sequence_load(server.cache(), Reader::read, &reader, &loaded), INTFLASH_OK)
          << intflash_last_error();
      EXPECT_EQ(save(server, loaded), save(server, sequence));
    }
    EXPECT_EQ(reader.used, stream.size());
  }
}

// What a file of this version is, for good: another hash is another version.
TEST(SequenceFile, BytesAreTheSameOnEveryPortAndInEveryVersionOfTheLibrary) {
  Shape shape;
  shape.head_dim = 24;
  shape.head_dim_v = 40;
  shape.rotate = true;
  Random random(1);
  Tokens tokens = random_tokens(shape, 100, 1);
  for (std::vector<float>* all : {&tokens.key, &tokens.value}) {
    for (float& x : *all) x = static_cast<float>(random.below(2001) - 1000) / 8;
  }
  for (const PortEntry& port : all_test_ports()) {
    shape.port = &port;
    Server server(shape);
    const std::int32_t sequence = server.create_sequence();
    ASSERT_EQ(server.append(sequence, tokens, 0, 100), INTFLASH_OK);
    const File file = save(server, sequence);
    EXPECT_EQ(file.size(), 80u + 4 * (64 * 24 + 64 * 48 + 768 + 8));
    EXPECT_EQ(record_checksum(file.data(), file.size(), 0), 0xb0ff69ab0c621au) << port.name;
  }
}

// As xxHash's own XXH64 computes them, of every kind of tail.
TEST(SequenceFile, ChecksumsAreThoseOfXxh64) {
  const struct {
    std::size_t num_bytes;
    std::uint64_t at_0, at_72;
  } records[] = {
      {0, 0xef46db3751d8e999, 0x8ad1f3723fdca8c7},  {1, 0xe934a84adb052768, 0x0f63174c5c38fd01},
      {4, 0xa52c40dc1e458cb4, 0x8b998e6b248b983f},  {13, 0x60a3f2ed79e01299, 0x2edc635629cd0656},
      {31, 0xbdb87f28fde1ec91, 0xa36d4bb990436050}, {32, 0x70e7f6563e61b260, 0xb725841b30f7e026},
      {40, 0x6138286fe98bbb9a, 0xd4c388898e32e45c}, {64, 0xfe8083554c30b401, 0x57a11b452699602d},
      {100, 0xd52ddaaf21127aa9, 0x60f713260fa7be26}};
  unsigned char bytes[100];
  for (int i = 0; i < 100; ++i) bytes[i] = static_cast<unsigned char>(i * i * 7 + i);
  for (const auto& record : records) {
    EXPECT_EQ(record_checksum(bytes, record.num_bytes, 0), record.at_0) << record.num_bytes;
    EXPECT_EQ(record_checksum(bytes, record.num_bytes, 72), record.at_72) << record.num_bytes;
  }
}

TEST(SequenceFile, EveryCutIsRefused) {
  Server server(small_shape());
  const File file = small_file(server);
  for (std::size_t size = 0; size < file.size(); ++size) {
    const std::string message =
        refusal(server, File(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size)));
    ASSERT_EQ(message.find("byte " + std::to_string(size) + ": read returned 0 of "), 0u)
        << message << " at " << size;
  }
}

TEST(SequenceFile, EveryFlippedBitIsRefused) {
  Server server(small_shape());
  File file = small_file(server);
  for (std::size_t at = 0; at < file.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      file[at] = static_cast<char>(file[at] ^ 1 << bit);
      ASSERT_EQ(refusal(server, file).find("byte "), 0u) << "byte " << at << " bit " << bit;
      file[at] = static_cast<char>(file[at] ^ 1 << bit);
    }
  }
  std::int32_t sequence = -1;
  EXPECT_EQ(load(server, file, sequence), INTFLASH_OK) << intflash_last_error();
}

TEST(SequenceFile, AnotherCachesShapeAndCentresAreNamed) {
  const Shape shape = small_shape();
  Server server(shape);
  const File file = small_file(server);
  Shape heads = shape;
  heads.num_kv_heads = 2;
  Server more_heads(heads);
  expect_refusal(more_heads, file, "byte 32: num_kv_heads = 1 in the file, 2 in the cache");
  Shape dims = shape;
  dims.head_dim_v = 16;
  Server wider(dims);
  expect_refusal(wider, file, "byte 48: head_dim_v = 8 in the file, 16 in the cache");
  Shape rotated = shape;
  rotated.rotate = true;
  Server rotating(rotated);
  expect_refusal(rotating, file, "byte 20: rotation = 0 in the file, 3 in the cache");
  Shape layers = shape;
  layers.num_layers = 2;
  Server more_layers(layers);
  expect_refusal(more_layers, file, "byte 24: num_layers = 1 in the file, 2 in the cache");
  Shape bare = shape;
  bare.centered = false;
  Server without_center(bare);
  expect_refusal(without_center, file, "byte 80: key_center[layer 0][head 0][0] = ");
}

TEST(SequenceFile, ForgedBlocksAreRefusedAtTheirByte) {
  const Shape shape = small_shape();
  Server server(shape);
  const File good = small_file(server);
  // Header and two centres, then key codes, value codes of 16 channels, scales and sums.
  const std::size_t block = 80 + 2 * 40;
  const std::size_t values = block + 64 * 8;
  const std::size_t key_scale = values + 64 * 16;
  const auto forge = [&](std::size_t at, const auto& value) {
    File file = good;
    std::memcpy(file.data() + at, &value, sizeof value);
    seal(file, shape);
    return file;
  };
  const auto at_byte = [](std::size_t at) { return "byte " + std::to_string(at) + ":"; };
  const auto refused_at = [&](std::size_t at, const auto& value) {
    expect_refusal(server, forge(at, value), at_byte(at));
  };
  refused_at(block + 5, std::int8_t{-128});
  refused_at(values + 3, std::int8_t{-128});
  refused_at(values + 40, std::int8_t{1});  // channel 10 of 8
  for (const float bad : {-1.0f, -0.0f, NAN, INFINITY, 1e-40f}) refused_at(key_scale + 4, bad);
  refused_at(key_scale + 3 * 4, 1.0f);  // token 3 is absent
  refused_at(key_scale + 256 + 4, -1.0f);
  refused_at(key_scale + 512 + 4, std::int32_t{12345});
  expect_refusal(server, forge(offsetof(FileHeader, kv_len), std::int64_t{-1}), "byte 64: kv_len");
  expect_refusal(server, forge(offsetof(FileHeader, kv_len), std::int64_t{1} << 40),
                 "byte 64: kv_len");
  EXPECT_NE(refusal(server, forge(offsetof(FileHeader, kv_len), std::int64_t{64 * 4 + 1}),
                    INTFLASH_POOL_EXHAUSTED)
                .find("5 more pages"),
            std::string::npos);
  std::int32_t sequence = -1;
  ASSERT_EQ(load(server, forge(block, good[block]), sequence), INTFLASH_OK)
      << intflash_last_error();
}

// The one way to a sequence that ends there, but for appending them all.
TEST(SequenceFile, PositionsEndBelow2ToThe31) {
  const Shape shape = small_shape();
  Server server(shape);
  File file = small_file(server);
  const std::int64_t last = (std::int64_t{1} << 31) - 1;
  const std::int64_t first_key_position = last + 1 - 64;
  const std::int64_t kv_len = first_key_position + 3;
  std::memcpy(file.data() + offsetof(FileHeader, first_key_position), &first_key_position, 8);
  std::memcpy(file.data() + offsetof(FileHeader, kv_len), &kv_len, 8);
  seal(file, shape);
  std::int32_t sequence = -1;
  ASSERT_EQ(load(server, file, sequence), INTFLASH_OK) << intflash_last_error();
  const Tokens tokens = random_tokens(shape, 61, 1);
  EXPECT_EQ(server.append(sequence, tokens, 0, 61), INTFLASH_BAD_SHAPE);
  EXPECT_STREQ(intflash_last_error(),
               "sequences[0] = 0: 61 tokens behind its 2147483587: must be at most 2147483647 "
               "together");
  EXPECT_EQ(server.request_of(sequence).kv_len, kv_len);
  EXPECT_EQ(server.append(sequence, tokens, 0, 60), INTFLASH_OK) << intflash_last_error();
  EXPECT_EQ(server.request_of(sequence).kv_len, last);
  EXPECT_EQ(server.append(sequence, tokens, 60, 61), INTFLASH_BAD_SHAPE);
}

TEST(SequenceFile, AWriteThatFallsShortIsAnError) {
  Server server(small_shape());
  const std::int32_t sequence = create_filled(server, 3);
  const std::size_t size = save(server, sequence).size();
  const auto write = [](void* room, const void*, std::size_t num_bytes) {
    std::size_t& left = *static_cast<std::size_t*>(room);
    const std::size_t count = std::min(left, num_bytes);
    left -= count;
    return count;
  };
  std::size_t room = size;
  EXPECT_EQ(intflash_sequence_save(server.cache(), sequence, write, &room), INTFLASH_OK);
  room = size - 1;
  EXPECT_EQ(intflash_sequence_save(server.cache(), sequence, write, &room), INTFLASH_BAD_FILE);
  EXPECT_EQ(std::string(intflash_last_error()),
            "byte " + std::to_string(size - 1) + ": write returned 0 of 1 bytes");
}

TEST(SequenceFile, WithoutMemoryNothingIsLoaded) {
  const Shape shape = small_shape();
  Server server(shape);
  const File file = small_file(server);
  std::int64_t left = 0;
  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.num_threads = 1;
  options.allocator_user = &left;
  options.allocate = [](void* user, std::size_t bytes, std::size_t alignment) -> void* {
    if (--*static_cast<std::int64_t*>(user) < 0) return nullptr;
    return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  };
  options.deallocate = [](void*, void* memory) { std::free(memory); };
  left = 100;
  intflash_context* context = nullptr;
  ASSERT_EQ(intflash_context_create(&options, &context), INTFLASH_OK);
  intflash_cache_options cache_options{};
  cache_options.struct_size = sizeof cache_options;
  cache_options.num_kv_heads = 1;
  cache_options.head_dim = 8;
  cache_options.num_pages = 4;
  cache_options.key_center = server.key_center().data();
  cache_options.value_center = server.value_center().data();
  cache_options.rotation = INTFLASH_ROTATION_NONE;
  intflash_cache* cache = nullptr;
  ASSERT_EQ(intflash_cache_create(context, &cache_options, &cache), INTFLASH_OK);
  std::int64_t failures = 0;
  std::int32_t sequence = -1;
  for (;; ++failures) {
    left = failures;
    Reader reader{file};
    const intflash_status status = intflash_sequence_load(cache, Reader::read, &reader, &sequence);
    if (status == INTFLASH_OK) break;
    ASSERT_EQ(status, INTFLASH_OUT_OF_MEMORY);
    intflash_cache_info info{};
    info.struct_size = sizeof info;
    ASSERT_EQ(intflash_cache_get_info(cache, &info), INTFLASH_OK);
    EXPECT_EQ(info.free_pages, 4);
    EXPECT_EQ(info.num_sequences, 0);
  }
  EXPECT_EQ(failures, 3);  // the block, the sequence, its page table
  intflash_cache_destroy(cache);
  intflash_context_destroy(context);
}

}  // namespace
}  // namespace intflash::internal::serving

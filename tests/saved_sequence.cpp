// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A cache file from one machine to another:
//   saved_sequence save FILE   saves tokens, the same wherever it runs
//   saved_sequence load FILE   loads what another machine saved
// Either prints attention over them, in hexadecimal: equal text is equal bits. And
//   saved_sequence port        prints the port that the library chooses here
#include <intflash/intflash.hpp>

#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <vector>

namespace {

constexpr std::int64_t kHeads = 3, kTokens = 150, kDim = 40, kQueries = 2;

// Multiples of 1/64 in [-8, 8).
std::vector<float> make_rows(std::int64_t tokens, std::uint32_t seed) {
  std::vector<float> rows(static_cast<std::size_t>(kHeads * tokens * kDim));
  for (float& x : rows) {
    seed = seed * 1664525 + 1013904223;
    x = static_cast<float>(static_cast<std::int32_t>(seed >> 22) - 512) / 64;
  }
  return rows;
}

intflash::Sequence append(intflash::Cache& cache) {
  intflash::Sequence sequence(cache);
  const std::vector<float> key = make_rows(kTokens, 1);
  const std::vector<float> value = make_rows(kTokens, 2);
  const std::int64_t token_indptr[] = {0, kTokens};
  const std::int32_t number = sequence.number();
  intflash_append_args args = intflash::append_args();
  args.num_requests = 1;
  args.token_indptr = token_indptr;
  args.key = intflash::contiguous(key.data(), kHeads, kTokens, kDim);
  args.value = intflash::contiguous(value.data(), kHeads, kTokens, kDim);
  cache.append(&number, args);
  return sequence;
}

void save(const intflash::Sequence& sequence, const char* path) {
  std::ofstream file(path, std::ios::binary);
  const auto write = [](void* user, const void* bytes, std::size_t count) -> std::size_t {
    std::ofstream& to = *static_cast<std::ofstream*>(user);
    return to.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(count)) ? count
                                                                                          : 0;
  };
  sequence.save(write, &file);
}

intflash::Sequence load(intflash::Cache& cache, const char* path) {
  std::ifstream file(path, std::ios::binary);
  const auto read = [](void* user, void* bytes, std::size_t count) {
    std::ifstream& from = *static_cast<std::ifstream*>(user);
    from.read(static_cast<char*>(bytes), static_cast<std::streamsize>(count));
    return static_cast<std::size_t>(from.gcount());
  };
  return intflash::Sequence::load(cache, read, &file);
}

void print_attention(const intflash::Context& context, const intflash::Cache& cache,
                     const intflash::Sequence& sequence) {
  const std::vector<float> query = make_rows(kQueries, 3);
  std::vector<float> out(query.size());
  std::vector<float> lse(kQueries * kHeads);
  intflash_request request{};
  request.query_len = kQueries;
  request.kv_len = sequence.kv_len();
  request.mask = INTFLASH_MASK_CAUSAL;
  intflash_batch_desc desc = intflash::batch_desc();
  desc.num_requests = 1;
  desc.requests = &request;
  desc.num_query_heads = kHeads;
  const auto [page_ids, num_pages] = sequence.pages();
  const std::int64_t page_indptr[] = {0, num_pages};
  intflash_batch_args args = intflash::batch_args();
  args.query = intflash::contiguous(query.data(), kHeads, kQueries, kDim);
  args.out = intflash::contiguous(out.data(), kHeads, kQueries, kDim);
  args.lse = lse.data();
  args.pages = {page_indptr, page_ids};
  const intflash::Plan plan(context, cache, desc);
  intflash::Workspace workspace = plan.make_workspace();
  plan.run(cache, args, workspace);
  for (const float x : out) std::printf("%a\n", static_cast<double>(x));
  for (const float x : lse) std::printf("%a\n", static_cast<double>(x));
}

void print_port() {
  intflash_attend_desc desc = intflash::attend_desc();
  desc.batch = desc.num_query_heads = desc.num_kv_heads = 1;
  desc.query_len = desc.kv_len = 1;
  desc.head_dim = kDim;
  std::puts(intflash::Context().query_support(desc).port);
}

}  // namespace

int main(int argc, char** argv) {
  const bool asks_for_port = argc == 2 && std::strcmp(argv[1], "port") == 0;
  const bool saves = argc == 3 && std::strcmp(argv[1], "save") == 0;
  if (!asks_for_port && !saves && (argc != 3 || std::strcmp(argv[1], "load") != 0)) {
    std::fputs("usage: saved_sequence save|load FILE, or saved_sequence port\n", stderr);
    return 2;
  }
  try {
    if (asks_for_port) {
      print_port();
      return 0;
    }
    const intflash::Context context;
    intflash_cache_options options = intflash::cache_options();
    options.num_kv_heads = kHeads;
    options.head_dim = kDim;
    options.num_pages = 4;
    options.rotation = INTFLASH_ROTATION_AUTO;
    intflash::Cache cache(context, options);
    const intflash::Sequence sequence = saves ? append(cache) : load(cache, argv[2]);
    if (saves) save(sequence, argv[2]);
    print_attention(context, cache, sequence);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}

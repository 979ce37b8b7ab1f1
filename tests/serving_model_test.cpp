// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Long random scripts of what a server does with sequences, on pools that run out, against a model
// that keeps floats and the names of pages.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "pages/codec.h"
#include "random.h"
#include "seed.h"
#include "serving.h"
#include "test_ports.h"

namespace intflash::internal::serving {
namespace {

constexpr std::int64_t kMaxTokens = 130;
constexpr std::size_t kMaxSequences = 6;
constexpr int kStepsPerCache = 500;
// Those whose pages may be anybody's; what is behind a window has Int8Window.HistoryIsOfNoAccount.
const Codec* const kCodecs[] = {&kInt8Codec, &kInt8WideCodec, &kK8v4Codec, &kK8v16Codec};
// Sum of |found - exact| over that of |exact|, for few rows of normal data.
double max_relative_error(const Codec& codec) { return codec.is_expanded ? 0.25 : 0.04; }

// Which pages sequences hold, under names of the model's own, never used twice.
class PageModel {
 public:
  struct Table {
    std::vector<std::int64_t> pages;
    std::int64_t first_key_position = 0;
    std::int64_t kv_len = 0;
  };

  explicit PageModel(const Shape& shape)
      : page_size_(shape.page_size), num_pages_(shape.num_pages) {}

  std::map<std::int32_t, Table>& tables() { return tables_; }
  const std::map<std::int32_t, Table>& tables() const { return tables_; }
  std::int64_t num_held() const {
    std::set<std::int64_t> held;
    for (const auto& [sequence, table] : tables_)
      held.insert(table.pages.begin(), table.pages.end());
    return static_cast<std::int64_t>(held.size());
  }
  // False, and nothing changes, where the pool is too small.
  bool append(const std::vector<std::int32_t>& sequences,
              const std::vector<std::int64_t>& token_indptr) {
    const std::map<std::int32_t, Table> before = tables_;
    for (std::size_t i = 0; i < sequences.size(); ++i)
      extend(tables_.at(sequences[i]), token_indptr[i + 1] - token_indptr[i]);
    if (num_held() <= num_pages_) return true;
    tables_ = before;
    return false;
  }
  void truncate(Table& table, std::int64_t kv_len) const {
    table.kv_len = kv_len;
    while (room(table) - page_size_ >= kv_len) table.pages.pop_back();
  }
  void drop_before(Table& table, std::int64_t position) const {
    while (table.first_key_position + page_size_ <= position) {
      table.pages.erase(table.pages.begin());
      table.first_key_position += page_size_;
    }
  }

 private:
  // The position behind the last that the pages have a place for.
  std::int64_t room(const Table& table) const {
    return table.first_key_position + static_cast<std::int64_t>(table.pages.size()) * page_size_;
  }
  bool is_shared(std::int64_t page) const {
    return std::count_if(tables_.begin(), tables_.end(), [&](const auto& entry) {
             const std::vector<std::int64_t>& pages = entry.second.pages;
             return std::find(pages.begin(), pages.end(), page) != pages.end();
           }) > 1;
  }
  void extend(Table& table, std::int64_t count) {
    if (count > 0 && table.kv_len < room(table) && is_shared(table.pages.back()))
      table.pages.back() = next_name_++;
    table.kv_len += count;
    while (room(table) < table.kv_len) table.pages.push_back(next_name_++);
  }

  std::int64_t page_size_;
  std::int64_t num_pages_;
  std::int64_t next_name_ = 0;
  std::map<std::int32_t, Table> tables_;
};

Shape random_shape(Random& random) {
  Shape shape;
  shape.group_size = 1 + random.below(2);
  shape.head_dim = 8 << random.below(3);
  shape.head_dim_v = 8 * (1 + random.below(4));
  shape.page_size = 64 << random.below(3);
  shape.num_pages = 2 + random.below(512 / shape.page_size);
  shape.num_layers = 1 + random.below(3);
  shape.rotate = random.below(2) == 0;
  shape.centered = random.below(2) == 0;
  shape.num_threads = 1 + static_cast<std::int32_t>(random.below(2));
  shape.codec = kCodecs[random.below(std::size(kCodecs))];
  return shape;
}

double relative_error(const std::vector<float>& found, const std::vector<float>& exact) {
  double error = 0;
  double sum = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    error += std::fabs(static_cast<double>(found[i]) - static_cast<double>(exact[i]));
    sum += std::fabs(static_cast<double>(exact[i]));
  }
  return error == 0 ? 0 : error / sum;
}

// A cache, its model, and random operations on both.
class Script {
 public:
  explicit Script(std::uint64_t seed)
      : random_(seed), shape_(random_shape(random_)), server_(shape_), pages_(shape_) {}

  void step() {
    const std::int64_t choice = random_.below(20);
    if (choice == 0) return attend();
    if (pages_.tables().empty() || choice <= 2) return create();
    if (choice <= 4) return fork();
    if (choice <= 6) return truncate();
    if (choice == 7) return drop_before();
    if (choice == 8) return free(any());
    append();
  }
  void free_all() {
    while (!pages_.tables().empty()) free(pages_.tables().begin()->first);
  }
  // The cache's books are the model's: lengths, which pages are the same, and how many are free.
  void check_pages() const {
    intflash_cache_info info{};
    info.struct_size = sizeof info;
    ASSERT_EQ(intflash_cache_get_info(server_.cache(), &info), INTFLASH_OK);
    EXPECT_EQ(info.free_pages, shape_.num_pages - pages_.num_held());
    EXPECT_EQ(info.num_sequences, static_cast<std::int64_t>(pages_.tables().size()));
    std::map<std::int64_t, std::int32_t> id_of;
    std::map<std::int32_t, std::int64_t> name_of;
    for (const auto& [sequence, table] : pages_.tables()) {
      const Request request = server_.request_of(sequence);
      EXPECT_EQ(request.first_key_position, table.first_key_position);
      EXPECT_EQ(request.kv_len, table.kv_len);
      ASSERT_EQ(request.pages.size(), table.pages.size());
      for (std::size_t i = 0; i < table.pages.size(); ++i) {
        EXPECT_EQ(id_of.emplace(table.pages[i], request.pages[i]).first->second, request.pages[i]);
        EXPECT_EQ(name_of.emplace(request.pages[i], table.pages[i]).first->second, table.pages[i]);
      }
    }
  }

 private:
  std::int32_t any() {
    const auto skip = static_cast<std::ptrdiff_t>(
        random_.below(static_cast<std::int64_t>(pages_.tables().size())));
    return std::next(pages_.tables().begin(), skip)->first;
  }
  Tokens tokens(std::int64_t count) {
    return random_tokens(shape_, count, static_cast<std::uint32_t>(random_.next()));
  }
  bool is_full() const { return pages_.tables().size() == kMaxSequences; }

  void create() {
    if (is_full()) return free(any());
    std::int32_t created = -1;
    ASSERT_EQ(intflash_sequence_create(server_.cache(), &created), INTFLASH_OK);
    ASSERT_TRUE(pages_.tables().emplace(created, PageModel::Table{}).second) << created;
    tokens_[created].resize(static_cast<std::size_t>(shape_.num_layers));
  }
  void fork() {
    if (is_full()) return free(any());
    const std::int32_t sequence = any();
    std::int32_t created = -1;
    ASSERT_EQ(intflash_sequence_fork(server_.cache(), sequence, &created), INTFLASH_OK);
    ASSERT_TRUE(pages_.tables().emplace(created, pages_.tables().at(sequence)).second) << created;
    tokens_[created] = tokens_[sequence];
  }
  void free(std::int32_t sequence) {
    ASSERT_EQ(intflash_sequence_free(server_.cache(), sequence), INTFLASH_OK);
    pages_.tables().erase(sequence);
    tokens_.erase(sequence);
  }
  void truncate() {
    const std::int32_t sequence = any();
    const PageModel::Table& table = pages_.tables().at(sequence);
    truncate(sequence, table.kv_len - random_.below(table.kv_len - table.first_key_position + 1));
  }
  void truncate(std::int32_t sequence, std::int64_t kv_len) {
    PageModel::Table& table = pages_.tables().at(sequence);
    ASSERT_EQ(intflash_sequence_truncate(server_.cache(), sequence, kv_len), INTFLASH_OK);
    pages_.truncate(table, kv_len);
    for (Tokens& kept : tokens_[sequence]) {
      kept.key.resize(static_cast<std::size_t>(kv_len * key_row()));
      kept.value.resize(static_cast<std::size_t>(kv_len * value_row()));
    }
  }
  void drop_before() {
    const std::int32_t sequence = any();
    PageModel::Table& table = pages_.tables().at(sequence);
    const std::int64_t position = random_.below(table.kv_len + 1);
    ASSERT_EQ(intflash_sequence_drop_before(server_.cache(), sequence, position), INTFLASH_OK);
    pages_.drop_before(table, position);
  }
  void append() {
    std::vector<std::int32_t> sequences;
    std::vector<std::int64_t> token_indptr{0};
    for (const auto& [sequence, table] : pages_.tables()) {
      if (random_.below(2) == 0) continue;
      const std::int64_t most = random_.below(4) == 0 ? 70 : 6;
      sequences.push_back(sequence);
      token_indptr.push_back(token_indptr.back() +
                             std::min(random_.below(most + 1), kMaxTokens - table.kv_len));
    }
    const bool fits = pages_.append(sequences, token_indptr);
    const std::int64_t num_layers = fits ? shape_.num_layers : 1;
    // Now and then a step is given up behind its first layers.
    const std::int64_t end = random_.below(8) == 0 ? 1 + random_.below(num_layers) : num_layers;
    for (server_.layer = 0; server_.layer < end; ++server_.layer) {
      const Tokens added = tokens(token_indptr.back());
      ASSERT_EQ(server_.append(sequences, added, token_indptr),
                fits ? INTFLASH_OK : INTFLASH_POOL_EXHAUSTED)
          << intflash_last_error();
      if (fits) hold(sequences, added, token_indptr);
    }
    if (end < num_layers) take_back(sequences, token_indptr);
  }
  void take_back(const std::vector<std::int32_t>& sequences,
                 const std::vector<std::int64_t>& token_indptr) {
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const std::int64_t kv_len = pages_.tables().at(sequences[i]).kv_len;
      truncate(sequences[i], kv_len - (token_indptr[i + 1] - token_indptr[i]));
    }
  }
  // Keeps what was appended to the server's layer.
  void hold(const std::vector<std::int32_t>& sequences, const Tokens& added,
            const std::vector<std::int64_t>& token_indptr) {
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      Tokens& held = held_tokens(sequences[i]);
      const auto extend = [&](std::vector<float>& to, const std::vector<float>& from,
                              std::int64_t row) {
        to.insert(to.end(), from.begin() + token_indptr[i] * row,
                  from.begin() + token_indptr[i + 1] * row);
      };
      extend(held.key, added.key, key_row());
      extend(held.value, added.value, value_row());
    }
  }

  // A batch of random sequences, some of them twice, in a random layer: the dense call's bits, or,
  // of a codec that such calls do not have, those of a cache that got the tokens at once; and now
  // and then the distance from the definition.
  void attend() {
    server_.layer = random_.below(shape_.num_layers);
    const Tokens queries = tokens(8);
    std::vector<Request> requests;
    std::vector<std::int32_t> sequences;
    for (std::int64_t i = random_.below(5); i > 0 && !pages_.tables().empty(); --i) {
      sequences.push_back(any());
      requests.push_back(random_request(sequences.back(), queries));
    }
    const float score_cap = random_.below(4) == 0 ? 3.0f : 0.0f;
    const bool is_exact_too = random_.below(4) == 0;
    const std::vector<Result> found =
        server_.attend(requests, score_cap, shared_prefixes(requests));
    for (std::size_t i = 0; i < requests.size(); ++i) {
      if (requests[i].query_len == 0) continue;
      const Tokens& held = held_tokens(sequences[i]);
      const Result other = shape_.codec->is_expanded
                               ? attend_anew(sequences[i], requests[i], score_cap)
                               : server_.attend_dense(held, requests[i], score_cap, server_.mode);
      EXPECT_EQ(found[i], other) << "request " << i;
      if (!is_exact_too) continue;
      const Result exact = server_.attend_dense(held, requests[i], score_cap, INTFLASH_MODE_EXACT);
      EXPECT_LT(relative_error(found[i].out, exact.out), max_relative_error(*shape_.codec))
          << "request " << i;
    }
  }
  Result attend_anew(std::int32_t sequence, const Request& request, float score_cap) {
    Shape shape = shape_;
    shape.num_pages = 4;
    shape.page_size = 64;
    shape.num_threads = 1;
    Server server(shape);
    const std::int32_t created = server.create_sequence();
    for (; server.layer <= server_.layer; ++server.layer) {
      const Tokens& held = tokens_[sequence][static_cast<std::size_t>(server.layer)];
      EXPECT_EQ(server.append(created, held, 0, request.kv_len), INTFLASH_OK);
    }
    server.layer = server_.layer;
    Request anew = server.request_of(created);
    anew.query = request.query;
    anew.query_len = request.query_len;
    anew.mask = request.mask;
    anew.window_left = request.window_left;
    anew.window_right = request.window_right;
    return server.attend({anew}, score_cap).front();
  }
  // What all of the requests share, declared now and then.
  std::vector<intflash_shared_prefix> shared_prefixes(const std::vector<Request>& requests) {
    if (requests.empty() || random_.below(3) == 0) return {};
    const Request& first = requests.front();
    auto shared_end = first.pages.end();
    std::int64_t shortest = first.kv_len;
    for (const Request& request : requests) {
      if (request.first_key_position != first.first_key_position) return {};
      shared_end =
          std::mismatch(first.pages.begin(), shared_end, request.pages.begin(), request.pages.end())
              .first;
      shortest = std::min(shortest, request.kv_len);
    }
    const std::int64_t pages = shared_end - first.pages.begin();
    const std::int64_t present = first.first_key_position + pages * shape_.page_size;
    return {{0, static_cast<std::int64_t>(requests.size()), std::min(shortest, present)}};
  }
  // Where pages have been dropped, the mask leaves out what was in them.
  Request random_request(std::int32_t sequence, const Tokens& queries) {
    Request request = server_.request_of(sequence);
    const std::int64_t present = request.kv_len - request.first_key_position;
    request.query = queries.query.data();
    request.query_len = random_.below(std::min<std::int64_t>(present, 8) + 1);
    const std::int64_t choice = random_.below(3);
    const bool is_window = request.first_key_position > 0 || choice == 0;
    request.mask = is_window     ? INTFLASH_MASK_WINDOW
                   : choice == 1 ? INTFLASH_MASK_CAUSAL
                                 : INTFLASH_MASK_NONE;
    request.window_left = random_.below(present - request.query_len + 1);
    request.window_right = random_.below(4) - 1;
    return request;
  }

  // Of the server's layer.
  Tokens& held_tokens(std::int32_t sequence) {
    return tokens_[sequence][static_cast<std::size_t>(server_.layer)];
  }
  std::int64_t key_row() const { return shape_.num_kv_heads * shape_.head_dim; }
  std::int64_t value_row() const { return shape_.num_kv_heads * shape_.head_dim_v; }

  Random random_;
  Shape shape_;
  Server server_;
  PageModel pages_;
  // By layer, of every position from 0 on, dropped ones too.
  std::map<std::int32_t, std::vector<Tokens>> tokens_;
};

TEST(ServingModel, RandomOperationsGiveTheModelsPagesAndTheDenseCallsBits) {
  const int num_scripts = (quick_tests() ? 2000 : 100000) / kStepsPerCache;
  for (int i = 0; i < num_scripts; ++i) {
    const std::uint64_t seed = seed_from_test_name() + static_cast<std::uint64_t>(i);
    Script script(seed);
    for (int step = 0; step <= kStepsPerCache; ++step) {
      SCOPED_TRACE("seed " + std::to_string(seed) + ", step " + std::to_string(step));
      step < kStepsPerCache ? script.step() : script.free_all();
      script.check_pages();
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace intflash::internal::serving

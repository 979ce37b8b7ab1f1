// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "serving_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <random>

#include "context/ports.h"
#include "failure.h"
#include "host/host_pages.h"
#include "huge_pages.h"
#include "intflash/cache.h"
#include "pages/codec.h"
#include "stopwatch.h"

namespace intflash {
namespace {

constexpr double kGiga = 1e9;
constexpr std::int64_t kPageSize = 64;

// ---- Owners ----

struct Heads {
  std::int64_t query;
  std::int64_t kv;
  std::int64_t dim;
};

AlignedArray<float> random_floats(std::int64_t size) {
  AlignedArray<float> values(static_cast<std::size_t>(size));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (float& value : values) value = normal(random);
  return values;
}

// [tokens][heads][dim].
intflash_tensor token_major(float* data, std::int64_t heads, std::int64_t dim) {
  intflash_tensor tensor{};
  tensor.data = data;
  tensor.stride_head = dim;
  tensor.stride_token = heads * dim;
  return tensor;
}

// Of codecs that must have a window: 256 tokens and the first 64.
constexpr std::int64_t kWindowBlocks = 4;
constexpr std::int64_t kSinkBlocks = 1;

// The codec of a name; empty: there is none.
std::optional<intflash_codec> find_codec(const std::string& name) {
  for (std::uint32_t id = 0; id < internal::kMaxCodecs; ++id) {
    if (name == internal::codec_name(id)) return static_cast<intflash_codec>(id);
  }
  return std::nullopt;
}

Cache create_cache(const Context& context, const Heads& heads, std::int64_t num_pages,
                   intflash_codec codec = INTFLASH_CODEC_INT8) {
  intflash_cache_options options = cache_options();
  options.num_kv_heads = heads.kv;
  options.head_dim = heads.dim;
  options.page_size = kPageSize;
  options.num_pages = num_pages;
  options.codec = codec;
  if (const internal::Codec* found = nullptr;
      internal::choose_codec(codec, 0, found) == INTFLASH_OK && found->is_by_block) {
    options.window_blocks = kWindowBlocks;
    options.sink_blocks = kSinkBlocks;
  }
  return Cache(context, options);
}

// What a query at the end of so many tokens reads.
std::size_t bytes_read(const Cache& cache, std::int64_t tokens) {
  const intflash_cache_info info = cache.info();
  const std::int64_t in_window =
      std::min(tokens, (info.window_blocks + info.sink_blocks) * internal::kBlockTokens);
  return static_cast<std::size_t>(tokens - in_window) * info.bytes_per_token +
         static_cast<std::size_t>(in_window) * info.window_page_bytes /
             static_cast<std::size_t>(info.page_size);
}

// Tokens for a batch of sequences, as many for each as counts say.
class Tokens {
 public:
  Tokens(const Heads& heads, std::vector<std::int64_t> counts) : heads_(heads) {
    indptr_.resize(counts.size() + 1);
    std::partial_sum(counts.begin(), counts.end(), indptr_.begin() + 1);
    data_ = random_floats(indptr_.back() * heads.kv * heads.dim);
  }
  void append(intflash_cache* cache, const std::vector<std::int32_t>& sequences) {
    intflash_append_args args{};
    args.struct_size = sizeof args;
    args.num_requests = static_cast<std::int64_t>(sequences.size());
    args.token_indptr = indptr_.data();
    args.key_dtype = args.value_dtype = INTFLASH_F32;
    args.key = args.value = token_major(data_.data(), heads_.kv, heads_.dim);
    check(intflash_sequences_append(cache, sequences.data(), &args));
  }

 private:
  Heads heads_;
  std::vector<std::int64_t> indptr_;
  AlignedArray<float> data_;
};

std::int32_t create_sequence(intflash_cache* cache) {
  std::int32_t sequence = -1;
  check(intflash_sequence_create(cache, &sequence));
  return sequence;
}

std::int32_t filled_sequence(intflash_cache* cache, const Heads& heads, std::int64_t count) {
  constexpr std::int64_t kPiece = 1024;
  const std::int32_t sequence = create_sequence(cache);
  for (std::int64_t t = 0; t < count; t += kPiece)
    Tokens(heads, {std::min(kPiece, count - t)}).append(cache, {sequence});
  return sequence;
}

// ---- Batches ----

struct Shape {
  std::int64_t query_len;
  std::int64_t kv_len;
};

// One plan over requests that are sequences 0, 1, ... of a cache.
class Batch {
 public:
  Batch(const Context& context, const Cache& cache, const Heads& heads,
        const std::vector<Shape>& shapes, const std::vector<std::int32_t>& sequences,
        const std::vector<intflash_shared_prefix>& prefixes = {})
      : sequences_(sequences),
        desc_(add_requests(cache, heads, shapes, sequences, prefixes)),
        plan_(context, cache, desc_),
        workspace_(plan_.make_workspace()) {
    args_.query = token_major(query_.data(), heads.query, heads.dim);
    args_.out = token_major(out_.data(), heads.query, heads.dim);
    if (cache.info().window_blocks > 0) {
      args_.sequences = sequences_.data();
    } else {
      args_.pages = {page_indptr_.data(), page_ids_.data()};
    }
  }

  // Plans once more.
  void plan_again(const Context& context, const Cache& cache) const {
    const Plan plan(context, cache, desc_);
  }
  void run(const Cache& cache) { plan_.run(cache, args_, workspace_); }
  double operations() const { return operations_; }
  bool has_out_of(const Batch& other) const {
    return std::equal(out_.data(), out_.data() + out_.size(), other.out_.data());
  }
  BenchRow row() const {
    const intflash_plan_info info = plan_.info();
    BenchRow row;
    row.port = info.port;
    row.kernel = info.kernel;
    row.mode = info.mode;
    row.threads = info.num_threads;
    row.workspace_bytes = info.workspace_bytes;
    return row;
  }

 private:
  intflash_batch_desc add_requests(const Cache& cache, const Heads& heads,
                                   const std::vector<Shape>& shapes,
                                   const std::vector<std::int32_t>& sequences,
                                   const std::vector<intflash_shared_prefix>& prefixes) {
    page_indptr_.push_back(0);
    std::int64_t rows = 0;
    for (std::size_t r = 0; r < shapes.size(); ++r) {
      intflash_request request{};
      request.query_len = shapes[r].query_len;
      request.kv_len = shapes[r].kv_len;
      request.mask = INTFLASH_MASK_CAUSAL;
      requests_.push_back(request);
      const std::int32_t* pages = nullptr;
      std::int64_t count = 0;
      check(intflash_sequence_get_pages(cache.get(), sequences[r], &pages, &count));
      page_ids_.insert(page_ids_.end(), pages, pages + count);
      page_indptr_.push_back(static_cast<std::int64_t>(page_ids_.size()));
      rows += shapes[r].query_len;
      operations_ += 4.0 * static_cast<double>(heads.query * heads.dim * shapes[r].query_len) *
                     (static_cast<double>(shapes[r].kv_len) -
                      static_cast<double>(shapes[r].query_len - 1) / 2);
    }
    query_ = random_floats(rows * heads.query * heads.dim);
    out_ = AlignedArray<float>(query_.size());
    intflash_batch_desc desc = batch_desc();
    if (cache.info().codec == INTFLASH_CODEC_K8V16) desc.mode = INTFLASH_MODE_INT8_QK;
    desc.num_requests = static_cast<std::int64_t>(requests_.size());
    desc.requests = requests_.data();
    desc.num_query_heads = heads.query;
    desc.shared_prefixes = prefixes.data();
    desc.num_shared_prefixes = static_cast<std::int64_t>(prefixes.size());
    return desc;
  }

  std::vector<std::int32_t> sequences_;
  std::vector<intflash_request> requests_;
  std::vector<std::int64_t> page_indptr_;
  std::vector<std::int32_t> page_ids_;
  AlignedArray<float> query_, out_;
  double operations_ = 0;
  intflash_batch_desc desc_;
  intflash_batch_args args_ = batch_args();
  Plan plan_;
  Workspace workspace_;
};

// ---- Cases ----

// The parts of a name such as decode/d128/h32-8/n4096/hot/k8v4/t2.
struct CaseName {
  std::string suite;
  Heads heads{32, 8, 128};
  std::int64_t tokens = 0;
  std::string variant;
  intflash_codec codec = INTFLASH_CODEC_INT8;
  int threads = 1;

  explicit CaseName(const std::string& name) {
    std::size_t begin = 0;
    while (begin <= name.size()) {
      const std::size_t end = std::min(name.find('/', begin), name.size());
      read(name.substr(begin, end - begin));
      begin = end + 1;
    }
  }

 private:
  void read(const std::string& part) {
    const auto number = [&](std::size_t at) { return std::stoll(part.substr(at)); };
    const bool numbered = part.size() > 1 && part[1] >= '0' && part[1] <= '9';
    if (suite.empty()) {
      suite = part;
    } else if (numbered && part[0] == 'd') {
      heads.dim = number(1);
    } else if (numbered && part[0] == 'n') {
      tokens = number(1);
    } else if (numbered && part[0] == 't') {
      threads = static_cast<int>(number(1));
    } else if (numbered && part[0] == 'h') {
      heads.query = number(1);
      heads.kv = number(part.find('-') + 1);
    } else if (const auto found = find_codec(part)) {
      codec = *found;
    } else {
      variant = part;
    }
  }
};

// Fills in what was measured: work and limit are in 10^9 per second.
void finish(BenchRow& row, const Turns& turns, double work) {
  row.seconds = median(turns.seconds);
  row.limit = median(turns.limit);
  row.share = work / row.seconds / row.limit;
  row.best_seconds = *std::min_element(turns.seconds.begin(), turns.seconds.end());
  row.best_limit = *std::max_element(turns.limit.begin(), turns.limit.end());
  row.best_share = work / row.best_seconds / row.best_limit;
}

// Where a cache's pages lie.
AddressRange pages_of(const Cache& cache) {
  const internal::HostPages& pages = internal::host_pages(*cache.get());
  const auto begin = reinterpret_cast<std::uintptr_t>(pages.page(0, 0, 0));
  return {begin, begin + static_cast<std::uintptr_t>(cache.get()->num_pages * pages.page_bytes)};
}

// One request, one query. Hot: the same cache again and again. Cold: so many caches in turn that
// none is still in the L3.
class Decoding {
 public:
  Decoding(const CaseName& name, const Context& context, intflash_codec codec)
      : caches_(make_caches(name, context, codec)),
        batch_(context, caches_[0], name.heads, {{1, name.tokens}}, {0}) {}

  void run() {
    batch_.run(caches_[next_]);
    next_ = (next_ + 1) % caches_.size();
  }
  // Of one cache.
  std::size_t bytes() const { return bytes_; }
  BenchRow row() const {
    BenchRow row = batch_.row();
    std::vector<AddressRange> ranges;
    for (const Cache& cache : caches_) ranges.push_back(pages_of(cache));
    row.huge_page_share = huge_page_share(ranges);
    return row;
  }

 private:
  std::vector<Cache> make_caches(const CaseName& name, const Context& context,
                                 intflash_codec codec) {
    const std::int64_t pages = (name.tokens + kPageSize - 1) / kPageSize;
    const std::size_t wanted = name.variant == "cold" ? dram_test_bytes() : 1;
    std::vector<Cache> caches;
    do {
      caches.push_back(create_cache(context, name.heads, pages, codec));
      filled_sequence(caches.back().get(), name.heads, name.tokens);
      bytes_ = bytes_read(caches.back(), name.tokens);
    } while (caches.size() * bytes_ < wanted);
    return caches;
  }

  std::size_t bytes_ = 0;
  std::vector<Cache> caches_;
  Batch batch_;
  std::size_t next_ = 0;
};

BenchRow measure_decode(const CaseName& name, const Context& context, bool quick) {
  Decoding decoding(name, context, name.codec);
  std::optional<Decoding> by_int8;
  if (name.codec != INTFLASH_CODEC_INT8) by_int8.emplace(name, context, INTFLASH_CODEC_INT8);
  MemoryRate memory(name.variant == "cold" ? dram_test_bytes() : decoding.bytes());
  const auto read = [&] {
    if (name.variant == "hot") memory.read(name.threads);  // back into the caches
    return memory.read(name.threads) / kGiga;
  };
  const auto run_int8 = [&] {
    if (!by_int8) return 0.0;
    if (name.variant == "hot") by_int8->run();
    return seconds_of([&] { by_int8->run(); });
  };
  const Turns turns = time_by_turns([&] { decoding.run(); }, read, run_int8, quick);
  BenchRow row = decoding.row();
  const double work = static_cast<double>(decoding.bytes()) / kGiga;
  finish(row, turns, work);
  row.gbps = work / row.seconds;
  if (by_int8) row.times_int8 = median(turns.long_call_seconds) / row.seconds;
  return row;
}

// New tokens of 64 requests that hold 200 each (decode), or of a new one (prefill): f32 in, pages
// out.
BenchRow measure_append(const CaseName& name, const Context& context, bool quick) {
  const bool decode = name.variant == "decode";
  const std::vector<std::int64_t> counts =
      decode ? std::vector<std::int64_t>(64, 1) : std::vector<std::int64_t>{name.tokens};
  const std::int64_t tokens = decode ? 64 : name.tokens;
  const std::int64_t held = decode ? 200 : 0;
  Tokens fresh(name.heads, counts);
  struct Appending {
    Cache cache;
    std::vector<std::int32_t> sequences;
  };
  const auto make = [&](intflash_codec codec) {
    Appending made{create_cache(context, name.heads, tokens / kPageSize + 64 * 4 + 1, codec), {}};
    for (std::size_t i = 0; i < counts.size(); ++i)
      made.sequences.push_back(filled_sequence(made.cache.get(), name.heads, held));
    return made;
  };
  const auto append = [&](const Appending& to) {
    fresh.append(to.cache.get(), to.sequences);
    for (const std::int32_t sequence : to.sequences)
      check(intflash_sequence_truncate(to.cache.get(), sequence, held));
  };
  const Appending appending = make(name.codec);
  std::optional<Appending> by_int8;
  if (name.codec != INTFLASH_CODEC_INT8) by_int8.emplace(make(INTFLASH_CODEC_INT8));
  const double token_bytes =
      static_cast<double>(name.heads.kv) * (2.0 * static_cast<double>(name.heads.dim) * 5 + 12);
  const double work = token_bytes * static_cast<double>(tokens) / kGiga;
  MemoryRate memory(static_cast<std::size_t>(work * kGiga));
  const auto append_int8 = [&] { return by_int8 ? seconds_of([&] { append(*by_int8); }) : 0.0; };
  const Turns turns =
      time_by_turns([&] { append(appending); }, [&] { return memory.copy(name.threads) / kGiga; },
                    append_int8, quick);
  BenchRow row;
  row.port = context.port();
  row.kernel = "append";
  row.mode = "int8";
  row.threads = name.threads;
  finish(row, turns, work);
  row.gbps = work / row.seconds;
  if (by_int8) row.times_int8 = median(turns.long_call_seconds) / row.seconds;
  return row;
}

// A long request, many short ones and prefill chunks in one batch, beside the same in three
// batches.
BenchRow measure_mixed(const CaseName& name, const Context& context, bool quick) {
  const std::int64_t longest = quick ? 20000 : 100000;
  const std::vector<std::vector<Shape>> parts = {
      {{1, longest}}, std::vector<Shape>(63, {1, 200}), std::vector<Shape>(4, {512, 512})};
  std::vector<Shape> all;
  for (const std::vector<Shape>& part : parts) all.insert(all.end(), part.begin(), part.end());
  std::int64_t pages = 0;
  for (const Shape& shape : all) pages += (shape.kv_len + kPageSize - 1) / kPageSize;
  const Cache cache = create_cache(context, name.heads, pages);
  std::vector<std::int32_t> sequences;
  for (const Shape& shape : all)
    sequences.push_back(filled_sequence(cache.get(), name.heads, shape.kv_len));
  Batch whole(context, cache, name.heads, all, sequences);
  std::vector<Batch> pieces;
  auto first = sequences.begin();
  for (const std::vector<Shape>& part : parts) {
    const auto last = first + static_cast<std::ptrdiff_t>(part.size());
    pieces.emplace_back(context, cache, name.heads, part, std::vector<std::int32_t>(first, last));
    first = last;
  }
  const double work = whole.operations() / kGiga;
  const Turns turns = time_by_turns([&] { whole.run(cache); },
                                    [&] {
                                      return work / seconds_of([&] {
                                               for (Batch& piece : pieces) piece.run(cache);
                                             });
                                    },
                                    [] { return 0.0; }, quick);
  BenchRow row = whole.row();
  finish(row, turns, work);
  row.gops = work / row.seconds;
  return row;
}

// 512 queries behind 8192 keys, beside the integer peak.
BenchRow measure_chunk(const CaseName& name, const Context& context, const std::string& port,
                       bool quick) {
  struct Chunk {
    Chunk(const CaseName& name, const Context& context, intflash_codec codec)
        : cache(create_cache(context, name.heads, name.tokens / kPageSize, codec)) {
      filled_sequence(cache.get(), name.heads, name.tokens);
      batch.emplace(context, cache, name.heads, std::vector<Shape>{{512, name.tokens}},
                    std::vector<std::int32_t>{0});
    }
    void run() { batch->run(cache); }

    Cache cache;
    std::optional<Batch> batch;
  };
  Chunk chunk(name, context, name.codec);
  std::optional<Chunk> by_int8;
  if (name.codec != INTFLASH_CODEC_INT8) by_int8.emplace(name, context, INTFLASH_CODEC_INT8);
  IntegerPeak peak(*internal::find_kernels(port.c_str()), name.threads, 0.01);
  const auto run_int8 = [&] { return by_int8 ? seconds_of([&] { by_int8->run(); }) : 0.0; };
  const Turns turns =
      time_by_turns([&] { chunk.run(); }, [&] { return peak.measure() / kGiga; }, run_int8, quick);
  BenchRow row = chunk.batch->row();
  const double work = chunk.batch->operations() / kGiga;
  finish(row, turns, work);
  row.gops = work / row.seconds;
  if (by_int8) row.times_int8 = median(turns.long_call_seconds) / row.seconds;
  return row;
}

// 64 requests that decode behind one prefix and 64 tokens each of their own, beside the same
// without saying what they share: the share is how many times faster that makes them.
BenchRow measure_cascade(const CaseName& name, const Context& context, bool quick) {
  constexpr std::int64_t kRequests = 64;
  constexpr std::int64_t kOwnTokens = 64;
  const std::int64_t pages = name.tokens / kPageSize + kRequests * (kOwnTokens / kPageSize);
  const Cache cache = create_cache(context, name.heads, pages);
  const std::int32_t prompt = filled_sequence(cache.get(), name.heads, name.tokens);
  std::vector<std::int32_t> sequences(static_cast<std::size_t>(kRequests));
  for (std::int32_t& sequence : sequences)
    check(intflash_sequence_fork(cache.get(), prompt, &sequence));
  Tokens(name.heads, std::vector<std::int64_t>(sequences.size(), kOwnTokens))
      .append(cache.get(), sequences);
  const std::vector<Shape> shapes(sequences.size(), {1, name.tokens + kOwnTokens});
  Batch cascade(context, cache, name.heads, shapes, sequences, {{0, kRequests, name.tokens}});
  Batch flat(context, cache, name.heads, shapes, sequences);
  cascade.run(cache);
  flat.run(cache);
  if (!cascade.has_out_of(flat)) throw Failure("a shared prefix changes the result");
  const double work = cascade.operations() / kGiga;
  const Turns turns = time_by_turns([&] { cascade.run(cache); },
                                    [&] { return work / seconds_of([&] { flat.run(cache); }); },
                                    [] { return 0.0; }, quick);
  BenchRow row = cascade.row();
  finish(row, turns, work);
  row.gops = work / row.seconds;
  return row;
}

// Planning 256 decode requests, and running one tiny request: microseconds, without a limit.
BenchRow measure_overhead(const CaseName& name, const Context& context, bool quick) {
  const std::int64_t requests = name.variant == "plan" ? 256 : 1;
  const Cache cache = create_cache(context, name.heads, requests * 4);
  std::vector<std::int32_t> sequences;
  for (std::int64_t r = 0; r < requests; ++r)
    sequences.push_back(filled_sequence(cache.get(), name.heads, name.tokens));
  Batch batch(context, cache, name.heads,
              std::vector<Shape>(static_cast<std::size_t>(requests), {1, name.tokens}), sequences);
  const Turns turns = time_by_turns(
      [&] {
        if (name.variant == "plan") {
          batch.plan_again(context, cache);
        } else {
          batch.run(cache);
        }
      },
      [] { return 1.0; }, [] { return 0.0; }, quick);
  BenchRow row = batch.row();
  finish(row, turns, 0);
  row.limit = row.share = row.best_share = row.best_limit = 0;
  row.gops = 0;
  row.overhead_seconds = row.seconds;
  return row;
}

}  // namespace

std::vector<std::string> serving_cases(const std::string& suite, const std::string& codec,
                                       bool quick, int threads, int max_threads) {
  if (!find_codec(codec))
    throw UsageError(fmt::format("--codec {}: there is no such codec", codec));
  std::vector<std::string> names;
  if (suite == "decode") {
    std::vector<int> lengths = {4096, 32768};
    if (!quick) lengths.push_back(131072);
    for (const int length : lengths) {
      for (const char* heads : {"h32-8", "h8-8"}) {
        for (const char* variant : {"hot", "cold"})
          names.push_back(fmt::format("decode/d128/{}/n{}/{}", heads, length, variant));
      }
    }
  } else if (suite == "append") {
    names = {"append/d128/h32-8/n512/prefill", "append/d128/h32-8/n4096/prefill",
             "append/d128/h32-8/n64/decode"};
  } else if (suite == "batch") {
    names = {"batch/d128/h32-8/n8192/chunk",
             "batch/d128/h8-8/n8192/chunk",
             "batch/d128/h32-8/mixed",
             "batch/d128/h32-8/n200/plan",
             "batch/d128/h8-8/n1/tiny",
             fmt::format("batch/d128/h32-8/n{}/cascade", quick ? 4096 : 16384),
             fmt::format("batch/d128/h8-8/n{}/cascade", quick ? 4096 : 16384)};
    if (codec != "int8") names.resize(2);  // the chunks
  }
  if (codec != "int8") {
    for (std::string& name : names) name += '/' + codec;
  }
  const std::vector<std::string> one_thread = names;
  if (threads > 1) names.clear();
  const int more = threads > 1 ? threads : threads == 0 && max_threads > 1 ? 2 : 0;
  for (const std::string& name : one_thread) {
    if (more > 1) names.push_back(fmt::format("{}/t{}", name, more));
  }
  return names;
}

BenchRow measure_serving(const std::string& text, const std::string& port, bool quick) {
  const CaseName name(text);
  const Context context = create_context(name.threads, port);
  BenchRow row;
  if (name.suite == "decode") {
    row = measure_decode(name, context, quick);
  } else if (name.suite == "append") {
    row = measure_append(name, context, quick);
  } else if (name.variant == "mixed") {
    row = measure_mixed(name, context, quick);
  } else if (name.variant == "cascade") {
    row = measure_cascade(name, context, quick);
  } else if (name.variant == "chunk") {
    row = measure_chunk(name, context, port, quick);
  } else {
    row = measure_overhead(name, context, quick);
  }
  row.name = text;
  return row;
}

}  // namespace intflash

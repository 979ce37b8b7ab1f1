// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What a CUDA device makes of prefill, decode and append, each beside the device's limit for it in
// the same run: products of mma.sync, reads, or copies. bench/cuda/run has the rest.
//   intflash-cuda-bench            the table of docs/cuda.md
//   intflash-cuda-bench --check    the same of tiny calls: that everything runs
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "intflash/intflash.hpp"
#include "limits.h"

namespace {

using Clock = std::chrono::steady_clock;
using intflash::bench::Products;
using intflash::bench::Reads;

constexpr std::int64_t kQueryHeads = 32;
constexpr std::int64_t kKvHeads = 8;

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + " fails on this device");
}
void check(const char* error) {
  if (error != nullptr) throw std::runtime_error(error);
}

struct Size {
  bool is_tiny;
  std::int64_t of(std::int64_t whole, std::int64_t tiny) const { return is_tiny ? tiny : whole; }
};

// ---- The device ----

class DeviceBytes {
 public:
  explicit DeviceBytes(std::size_t bytes) { check(cudaMalloc(&data_, bytes), "cudaMalloc"); }
  ~DeviceBytes() { cudaFree(data_); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  void* get() const { return data_; }

 private:
  void* data_ = nullptr;
};

// Calls that a stream has at a time.
constexpr std::int64_t kMaxCalls = 50;

// Page-locked: a run that has it waits for nothing.
class LockedBytes {
 public:
  explicit LockedBytes(std::size_t bytes) : bytes_(bytes) {
    check(cudaMallocHost(&data_, bytes), "cudaMallocHost");
  }
  ~LockedBytes() { cudaFreeHost(data_); }
  LockedBytes(const LockedBytes&) = delete;
  LockedBytes& operator=(const LockedBytes&) = delete;
  void* get() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
};

// Of a plan, one for each run that is under way.
class Workspaces {
 public:
  explicit Workspaces(const intflash::Plan& plan) : plan_(plan) {
    for (std::int64_t i = 0; i < kMaxCalls; ++i)
      all_.push_back(std::make_unique<LockedBytes>(plan.workspace_bytes()));
  }
  const LockedBytes& of(std::int64_t call) const { return *all_[static_cast<std::size_t>(call)]; }
  // Of the first so many runs, which have been waited for.
  void check_runs(std::int64_t calls) const {
    for (std::int64_t i = 0; i < calls; ++i)
      intflash::check(intflash_status_of_run(plan_.get(), of(i).get()));
  }

 private:
  const intflash::Plan& plan_;
  std::vector<std::unique_ptr<LockedBytes>> all_;
};

class Stream {
 public:
  Stream() { check(cudaStreamCreate(&stream_), "cudaStreamCreate"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void wait() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

intflash::Context context_of(const Stream& stream) {
  intflash_context_options options = intflash::context_options();
  options.device = "cuda:0";
  options.stream = stream.get();
  return intflash::Context(options);
}

// [heads][tokens][dim] of normal numbers in bf16, the same ones for each head.
class Tensor {
 public:
  Tensor(std::int64_t heads, std::int64_t tokens, std::int64_t dim)
      : bytes_(static_cast<std::size_t>(heads * tokens * dim) * sizeof(std::uint16_t)),
        data_(bytes_) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<std::uint16_t> head(static_cast<std::size_t>(tokens * dim));
    for (std::uint16_t& element : head) {
      const float x = normal(random);
      std::uint32_t bits;
      std::memcpy(&bits, &x, sizeof bits);
      element = static_cast<std::uint16_t>(bits >> 16);
    }
    const std::size_t head_bytes = head.size() * sizeof head[0];
    for (std::int64_t h = 0; h < heads; ++h) {
      check(cudaMemcpy(static_cast<char*>(data_.get()) + static_cast<std::size_t>(h) * head_bytes,
                       head.data(), head_bytes, cudaMemcpyDefault),
            "cudaMemcpy");
    }
    tensor_.data = data_.get();
    tensor_.stride_token = dim;
    tensor_.stride_head = tokens * dim;
    tensor_.stride_batch = heads * tokens * dim;
  }
  const intflash_tensor& get() const { return tensor_; }
  double bytes() const { return static_cast<double>(bytes_); }

 private:
  std::size_t bytes_;
  DeviceBytes data_;
  intflash_tensor tensor_{};
};

// ---- Time ----

struct Time {
  double seconds;       // of one call, until the device has done it
  double host_seconds;  // of one call, until it returns
};

// Medians over rounds, between which the limit takes its turn.
struct Measured {
  Time time;
  double limit_seconds;  // of one unit of the limit
  std::int64_t calls;    // in a round
};

template <class Enqueue>
Time time_of(const Stream& stream, std::int64_t calls, Enqueue enqueue) {
  stream.wait();
  const Clock::time_point begin = Clock::now();
  for (std::int64_t i = 0; i < calls; ++i) enqueue(i);
  const std::chrono::duration<double> returned = Clock::now() - begin;
  stream.wait();
  const std::chrono::duration<double> done = Clock::now() - begin;
  const auto count = static_cast<double>(calls);
  return {done.count() / count, returned.count() / count};
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

template <class Enqueue, class EnqueueLimit>
Measured measure(const Stream& stream, Size size, Enqueue enqueue, EnqueueLimit enqueue_limit) {
  // The first ones load what they take.
  time_of(stream, 1, enqueue);
  time_of(stream, 1, enqueue_limit);
  // About 50 ms of each in a round.
  const double one = time_of(stream, 1, enqueue).seconds;
  const std::int64_t calls =
      size.is_tiny ? 1
                   : std::clamp<std::int64_t>(static_cast<std::int64_t>(0.05 / one), 1, kMaxCalls);
  std::vector<double> seconds, host_seconds, limit_seconds;
  for (std::int64_t round = 0; round < size.of(5, 1); ++round) {
    const Time time = time_of(stream, calls, enqueue);
    seconds.push_back(time.seconds);
    host_seconds.push_back(time.host_seconds);
    limit_seconds.push_back(time_of(stream, size.of(4, 1), enqueue_limit).seconds);
  }
  return {{median(seconds), median(host_seconds)}, median(limit_seconds), calls};
}

// amount: of operations or bytes, of the call and of one unit of the limit.
void print_row(const std::string& name, const Measured& m, double amount, double limit_amount,
               double unit, const char* unit_name) {
  const double rate = amount / m.time.seconds / unit;
  const double limit = limit_amount / m.limit_seconds / unit;
  std::printf("%-40s %10.3f ms %9.1f %s %6.1f %% of %9.1f %8.1f us\n", name.c_str(),
              m.time.seconds * 1e3, rate, unit_name, 100 * rate / limit, limit,
              m.time.host_seconds * 1e6);
  std::fflush(stdout);
}

// ---- The limits ----

class ProductLimit {
 public:
  explicit ProductLimit(Size size)
      : products_{size.of(8192, 1), static_cast<std::int32_t>(size.of(256, 2))},
        sums_(products_.sums_bytes()) {}
  double operations() const { return products_.operations(); }
  void enqueue(const Stream& stream) const {
    check(enqueue_products(products_, stream.get(), static_cast<std::int32_t*>(sums_.get())));
  }

 private:
  Products products_;
  DeviceBytes sums_;
};

class ReadLimit {
 public:
  explicit ReadLimit(Size size) : reads_{size.of(8192, 1)}, from_(reads_.bytes()), sink_(4) {}
  double bytes() const { return static_cast<double>(reads_.bytes()); }
  void enqueue(const Stream& stream) const {
    check(
        enqueue_reads(reads_, stream.get(), from_.get(), static_cast<std::uint32_t*>(sink_.get())));
  }

 private:
  Reads reads_;
  DeviceBytes from_, sink_;
};

class CopyLimit {
 public:
  explicit CopyLimit(Size size)
      : bytes_(static_cast<std::size_t>(size.of(std::int64_t{1} << 30, 4096))),
        from_(bytes_),
        to_(bytes_) {}
  // Read and written.
  double bytes() const { return 2 * static_cast<double>(bytes_); }
  void enqueue(const Stream& stream) const {
    check(cudaMemcpyAsync(to_.get(), from_.get(), bytes_, cudaMemcpyDefault, stream.get()),
          "cudaMemcpyAsync");
  }

 private:
  std::size_t bytes_;
  DeviceBytes from_, to_;
};

// ---- What is measured ----

void bench_prefill(const intflash::Context& context, const Stream& stream, Size size) {
  const ProductLimit limit(size);
  for (const std::int64_t head_dim : {64, 128, 256}) {
    for (const std::int64_t tokens : size.is_tiny
                                         ? std::vector<std::int64_t>{70}
                                         : std::vector<std::int64_t>{1024, 4096, 8192, 16384}) {
      for (const intflash_mask mask : {INTFLASH_MASK_CAUSAL, INTFLASH_MASK_NONE}) {
        const Tensor query(kQueryHeads, tokens, head_dim), key(kKvHeads, tokens, head_dim),
            out(kQueryHeads, tokens, head_dim);
        intflash_attend_desc desc = intflash::attend_desc();
        desc.batch = 1;
        desc.num_query_heads = kQueryHeads;
        desc.num_kv_heads = kKvHeads;
        desc.query_len = desc.kv_len = tokens;
        desc.head_dim = head_dim;
        desc.query_dtype = desc.key_dtype = desc.value_dtype = desc.out_dtype = INTFLASH_BF16;
        desc.mask = mask;
        intflash_attend_args args = intflash::attend_args();
        args.query = query.get();
        args.key = args.value = key.get();
        args.out = out.get();
        const intflash::Plan plan(context, desc);
        const Workspaces workspaces(plan);
        const Measured m = measure(
            stream, size,
            [&](std::int64_t call) {
              const LockedBytes& workspace = workspaces.of(call);
              intflash::check(intflash_run(plan.get(), &args, workspace.get(), workspace.bytes()));
            },
            [&](std::int64_t) { limit.enqueue(stream); });
        workspaces.check_runs(m.calls);
        const auto n = static_cast<double>(tokens);
        const double pairs = mask == INTFLASH_MASK_CAUSAL ? n * (n + 1) / 2 : n * n;
        print_row("prefill d=" + std::to_string(head_dim) + " n=" + std::to_string(tokens) +
                      (mask == INTFLASH_MASK_CAUSAL ? " causal" : ""),
                  m, 4 * pairs * static_cast<double>(head_dim * kQueryHeads), limit.operations(),
                  1e12, "TOPS");
      }
    }
  }
}

constexpr std::int64_t kCacheDim = 128;

intflash::Cache cache_of(const intflash::Context& context, std::int64_t tokens) {
  intflash_cache_options options = intflash::cache_options();
  options.num_kv_heads = kKvHeads;
  options.head_dim = kCacheDim;
  options.page_size = 256;
  options.num_pages = tokens / 256;
  return intflash::Cache(context, options);
}

// The same tokens for each of the sequences.
void append(intflash::Cache& cache, const std::vector<std::int32_t>& sequences,
            const Tensor& tokens, std::int64_t count) {
  intflash_tensor one = tokens.get();
  for (const std::int32_t sequence : sequences) {
    const std::int64_t indptr[] = {0, count};
    intflash_append_args args = intflash::append_args();
    args.num_requests = 1;
    args.token_indptr = indptr;
    args.key_dtype = args.value_dtype = INTFLASH_BF16;
    args.key = args.value = one;
    cache.append(&sequence, args);
  }
}

// What attention reads of a token: keys, values and their scales, without the sums of keys.
constexpr std::int64_t kReadBytes = kKvHeads * (2 * kCacheDim + 2 * 4);
// Several times the largest level 2 cache.
constexpr std::int64_t kBeyondL2 = std::int64_t{1} << 30;

void bench_decode(const intflash::Context& context, const Stream& stream, Size size) {
  const ReadLimit limit(size);
  const std::int64_t chunk = size.of(2048, 256);
  const Tensor tokens(kKvHeads, chunk, 128);
  struct Shape {
    std::int64_t batch, kv_len;
  };
  for (const Shape shape : {Shape{1, 32768}, {8, 32768}, {32, 32768}, {8, 131072}}) {
    const std::int64_t kv_len = size.of(shape.kv_len, 256);
    const std::int64_t batch = size.of(shape.batch, 2);
    const std::int64_t bytes = batch * kv_len * kReadBytes;
    // Calls take turns with so many batches: what one has read is gone when its turn comes again.
    const std::int64_t batches = size.of((kBeyondL2 + bytes - 1) / bytes, 2);
    intflash::Cache cache = cache_of(context, batches * batch * kv_len);
    std::vector<std::int32_t> sequences(static_cast<std::size_t>(batches * batch));
    for (std::int32_t& sequence : sequences)
      intflash::check(intflash_sequence_create(cache.get(), &sequence));
    for (std::int64_t filled = 0; filled < kv_len; filled += chunk)
      append(cache, sequences, tokens, chunk);

    const Tensor query(kQueryHeads, batch, 128), out(kQueryHeads, batch, 128);
    intflash_request request{};
    request.query_len = 1;
    request.kv_len = kv_len;
    request.mask = INTFLASH_MASK_CAUSAL;
    const std::vector<intflash_request> requests(static_cast<std::size_t>(batch), request);
    intflash_batch_desc desc = intflash::batch_desc();
    desc.num_requests = batch;
    desc.requests = requests.data();
    desc.num_query_heads = kQueryHeads;
    desc.query_dtype = desc.out_dtype = INTFLASH_BF16;
    intflash_batch_args args = intflash::batch_args();
    args.query = query.get();
    args.out = out.get();
    const intflash::Plan plan(context, cache, desc);
    const Workspaces workspaces(plan);
    const Measured m = measure(
        stream, size,
        [&](std::int64_t call) {
          const LockedBytes& workspace = workspaces.of(call);
          args.sequences = sequences.data() + call % batches * batch;
          intflash::check(intflash_run_batch(plan.get(), cache.get(), &args, workspace.get(),
                                             workspace.bytes()));
        },
        [&](std::int64_t) { limit.enqueue(stream); });
    workspaces.check_runs(m.calls);
    print_row("decode batch=" + std::to_string(batch) + " keys=" + std::to_string(kv_len), m,
              static_cast<double>(bytes), limit.bytes(), 1e9, "GB/s");
    if (size.is_tiny) break;
  }
}

void bench_append(const intflash::Context& context, const Stream& stream, Size size) {
  const CopyLimit limit(size);
  for (const std::int64_t count :
       size.is_tiny ? std::vector<std::int64_t>{256} : std::vector<std::int64_t>{1, 512, 16384}) {
    intflash::Cache cache = cache_of(context, std::max<std::int64_t>(count, 256));
    std::int32_t sequence = -1;
    intflash::check(intflash_sequence_create(cache.get(), &sequence));
    const Tensor tokens(kKvHeads, count, 128);
    const Measured m = measure(
        stream, size,
        [&](std::int64_t) {
          append(cache, {sequence}, tokens, count);
          intflash::check(intflash_sequence_truncate(cache.get(), sequence, 0));
        },
        [&](std::int64_t) { limit.enqueue(stream); });
    print_row("append tokens=" + std::to_string(count), m,
              2 * tokens.bytes() +
                  static_cast<double>(count) * static_cast<double>(cache.info().bytes_per_token),
              limit.bytes(), 1e9, "GB/s");
  }
}

void bench(Size size) {
  intflash_device_info device{};
  device.struct_size = sizeof device;
  intflash::check(intflash_get_device(1, &device));  // 0 is the CPU
  if (device.available == 0) throw std::runtime_error(device.reason);
  const Stream stream;
  const intflash::Context context = context_of(stream);
  std::printf("%s; %d query heads, %d kv heads; bf16 in and out\n", device.description,
              static_cast<int>(kQueryHeads), static_cast<int>(kKvHeads));
  std::printf("%-40s %13s %14s %21s %11s\n", "", "a call", "", "share of the limit", "of the host");
  bench_prefill(context, stream, size);
  bench_decode(context, stream, size);
  bench_append(context, stream, size);
}

}  // namespace

int main(int argc, char** argv) {
  const bool is_tiny = argc == 2 && std::strcmp(argv[1], "--check") == 0;
  if (argc > 1 && !is_tiny) {
    std::fprintf(stderr, "usage: intflash-cuda-bench [--check]\n");
    return 2;
  }
  try {
    bench({is_tiny});
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "intflash-cuda-bench: %s\n", error.what());
    return 1;
  }
}

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// C++17 owners over the C interface of intflash.h, cache.h and calibration.h. Header only. Errors
// are exceptions here, and here only: the library itself throws none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "intflash/cache.h"
#include "intflash/calibration.h"
#include "intflash/intflash.h"

namespace intflash {

// A failed call: what() is intflash_last_error().
class Error : public std::runtime_error {
 public:
  explicit Error(intflash_status status)
      : std::runtime_error(intflash_last_error()), status_(status) {}
  intflash_status status() const noexcept { return status_; }

 private:
  intflash_status status_;
};

inline void check(intflash_status status) {
  if (status != INTFLASH_OK) throw Error(status);
}

// Zeroed structs with their sizes set, F32 tensors, and a batch of 1.
inline intflash_context_options context_options() {
  intflash_context_options options{};
  options.struct_size = sizeof options;
  return options;
}
inline intflash_attend_desc attend_desc() {
  intflash_attend_desc desc{};
  desc.struct_size = sizeof desc;
  desc.batch = 1;
  desc.query_dtype = desc.key_dtype = desc.value_dtype = desc.out_dtype = INTFLASH_F32;
  return desc;
}
inline intflash_attend_args attend_args() {
  intflash_attend_args args{};
  args.struct_size = sizeof args;
  return args;
}

inline intflash_cache_options cache_options() {
  intflash_cache_options options{};
  options.struct_size = sizeof options;
  return options;
}
inline intflash_append_args append_args() {
  intflash_append_args args{};
  args.struct_size = sizeof args;
  args.key_dtype = args.value_dtype = INTFLASH_F32;
  return args;
}
inline intflash_batch_desc batch_desc() {
  intflash_batch_desc desc{};
  desc.struct_size = sizeof desc;
  desc.request_size = sizeof(intflash_request);
  desc.shared_prefix_size = sizeof(intflash_shared_prefix);
  desc.query_dtype = desc.out_dtype = INTFLASH_F32;
  return desc;
}
inline intflash_batch_args batch_args() {
  intflash_batch_args args{};
  args.struct_size = sizeof args;
  args.additive_mask_size = sizeof(intflash_additive_mask);
  args.bit_mask_size = sizeof(intflash_bit_mask);
  args.state_size = sizeof(intflash_state);
  return args;
}
inline intflash_state_set state_set() {
  intflash_state_set set{};
  set.struct_size = sizeof set;
  set.state_size = sizeof(intflash_state);
  return set;
}
inline intflash_finish_args finish_args() {
  intflash_finish_args args{};
  args.struct_size = sizeof args;
  args.out_dtype = INTFLASH_F32;
  return args;
}

inline intflash_plan_info plan_info() {
  intflash_plan_info info{};
  info.struct_size = sizeof info;
  return info;
}

// A contiguous tensor [batch][heads][tokens][dim].
inline intflash_tensor contiguous(const void* data, std::int64_t heads, std::int64_t tokens,
                                  std::int64_t dim) {
  intflash_tensor tensor{};
  tensor.data = const_cast<void*>(data);
  tensor.stride_token = dim;
  tensor.stride_head = tokens * dim;
  tensor.stride_batch = heads * tokens * dim;
  return tensor;
}

// Elements that lie side by side, of somebody else's.
template <class T>
struct Span {
  T* data = nullptr;
  std::int64_t size = 0;

  T* begin() const noexcept { return data; }
  T* end() const noexcept { return data + size; }
  T& operator[](std::int64_t i) const noexcept { return data[i]; }
};

class Cache;

class Context {
 public:
  Context() : Context(context_options()) {}
  explicit Context(const intflash_context_options& options) {
    intflash_context* context = nullptr;
    check(intflash_context_create(&options, &context));
    context_.reset(context);
  }

  intflash_context* get() const noexcept { return context_.get(); }
  const char* device() const noexcept { return intflash_context_device(get()); }
  const char* port() const noexcept { return intflash_context_port(get()); }
  const char* port_reason() const noexcept { return intflash_context_port_reason(get()); }
  int num_threads() const noexcept { return intflash_context_num_threads(get()); }

  // What would serve desc; an Error that says why where nothing does.
  intflash_plan_info query_support(const intflash_attend_desc& desc) const {
    intflash_plan_info info = plan_info();
    check(intflash_query_support(get(), &desc, &info));
    return info;
  }
  intflash_plan_info query_support(const Cache& cache, const intflash_batch_desc& desc) const;
  // Plans, allocates and runs in one call.
  void attend(const intflash_attend_desc& desc, const intflash_attend_args& args) const {
    check(intflash_attend(get(), &desc, &args));
  }

 private:
  struct Destroy {
    void operator()(intflash_context* context) const noexcept { intflash_context_destroy(context); }
  };
  std::unique_ptr<intflash_context, Destroy> context_;
};

// Memory for one run at a time, aligned as the library wants it.
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(std::size_t bytes)
      : data_(::operator new(bytes == 0 ? 1 : bytes, kAlignment)), bytes_(bytes) {}
  void* data() const noexcept { return data_.get(); }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(void* data) const noexcept { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<void, Delete> data_;
  std::size_t bytes_ = 0;
};

// The context must outlive its caches.
class Cache {
 public:
  Cache(const Context& context, const intflash_cache_options& options) {
    intflash_cache* cache = nullptr;
    check(intflash_cache_create(context.get(), &options, &cache));
    cache_.reset(cache);
  }

  intflash_cache* get() const noexcept { return cache_.get(); }
  intflash_cache_info info() const {
    intflash_cache_info info{};
    info.struct_size = sizeof info;
    check(intflash_cache_get_info(get(), &info));
    return info;
  }

  // The NUMA node that a page is to lie on; -1: none.
  std::int32_t node_of(std::int32_t page) const noexcept {
    return intflash_cache_get_page_node(get(), page);
  }

  // To pages of the caller's tables, or to slots; and to sequences [num_requests].
  void append(const intflash_append_args& args) { check(intflash_cache_append(get(), &args)); }
  void append(const std::int32_t* sequences, const intflash_append_args& args) {
    check(intflash_sequences_append(get(), sequences, &args));
  }
  void copy_page(std::int32_t from, std::int32_t to) {
    check(intflash_cache_copy_page(get(), from, to));
  }
  // Either tensor may be nullptr: not wanted.
  void export_tokens(const std::int32_t* page_ids, std::int64_t begin, std::int64_t end,
                     const intflash_tensor* key, const intflash_tensor* value) const {
    check(intflash_cache_export(get(), page_ids, begin, end, key, value));
  }

 private:
  struct Destroy {
    void operator()(intflash_cache* cache) const noexcept { intflash_cache_destroy(cache); }
  };
  std::unique_ptr<intflash_cache, Destroy> cache_;
};

inline intflash_plan_info Context::query_support(const Cache& cache,
                                                 const intflash_batch_desc& desc) const {
  intflash_plan_info info = plan_info();
  check(intflash_query_batch_support(get(), cache.get(), &desc, &info));
  return info;
}

// Which caches the layers of a model are to have; it must outlive the use of its groups' centres.
class Calibration {
 public:
  Calibration(intflash_read_fn read, void* user) {
    intflash_calibration* calibration = nullptr;
    check(intflash_calibration_load(read, user, &calibration));
    calibration_.reset(calibration);
  }

  intflash_calibration* get() const noexcept { return calibration_.get(); }
  std::int64_t num_groups() const noexcept { return intflash_calibration_num_groups(get()); }
  intflash_head_group group(std::int64_t index) const {
    intflash_head_group group{};
    group.struct_size = sizeof group;
    check(intflash_calibration_get_group(get(), index, &group));
    return group;
  }

 private:
  struct Destroy {
    void operator()(intflash_calibration* calibration) const noexcept {
      intflash_calibration_destroy(calibration);
    }
  };
  std::unique_ptr<intflash_calibration, Destroy> calibration_;
};

// Freed with its owner. The cache must outlive its sequences.
class Sequence {
 public:
  explicit Sequence(Cache& cache) : cache_(cache.get()) {
    check(intflash_sequence_create(cache_, &number_));
  }
  static Sequence load(Cache& cache, intflash_read_fn read, void* user) {
    std::int32_t number = -1;
    check(intflash_sequence_load(cache.get(), read, user, &number));
    return Sequence(cache.get(), number);
  }
  Sequence fork() const {
    std::int32_t number = -1;
    check(intflash_sequence_fork(cache_, number_, &number));
    return Sequence(cache_, number);
  }
  ~Sequence() {
    if (cache_ != nullptr) intflash_sequence_free(cache_, number_);
  }
  Sequence(Sequence&& other) noexcept
      : cache_(std::exchange(other.cache_, nullptr)), number_(other.number_) {}
  Sequence& operator=(Sequence&& other) noexcept {
    std::swap(cache_, other.cache_);
    std::swap(number_, other.number_);
    return *this;
  }

  std::int32_t number() const noexcept { return number_; }
  std::int64_t first_key_position() const { return range().first; }
  std::int64_t kv_len() const { return range().second; }
  // Valid until the sequence changes.
  Span<const std::int32_t> pages() const {
    Span<const std::int32_t> pages;
    check(intflash_sequence_get_pages(cache_, number_, &pages.data, &pages.size));
    return pages;
  }

  void truncate(std::int64_t kv_len) { check(intflash_sequence_truncate(cache_, number_, kv_len)); }
  void drop_before(std::int64_t position) {
    check(intflash_sequence_drop_before(cache_, number_, position));
  }
  void save(intflash_write_fn write, void* user) const {
    check(intflash_sequence_save(cache_, number_, write, user));
  }
  // Either tensor may be nullptr: not wanted.
  void export_tokens(std::int64_t begin, std::int64_t end, const intflash_tensor* key,
                     const intflash_tensor* value) const {
    check(intflash_sequence_export(cache_, number_, begin, end, key, value));
  }

 private:
  Sequence(intflash_cache* cache, std::int32_t number) noexcept : cache_(cache), number_(number) {}
  std::pair<std::int64_t, std::int64_t> range() const {
    std::pair<std::int64_t, std::int64_t> range{};
    check(intflash_sequence_get_range(cache_, number_, &range.first, &range.second));
    return range;
  }

  intflash_cache* cache_;
  std::int32_t number_ = -1;
};

// Of a dense call, or of a batch over caches like the one that is named, which need not live on.
// The context must outlive its plans.
class Plan {
 public:
  Plan(const Context& context, const intflash_attend_desc& desc) {
    intflash_plan* plan = nullptr;
    check(intflash_plan_attend(context.get(), &desc, &plan));
    plan_.reset(plan);
  }
  Plan(const Context& context, const Cache& cache, const intflash_batch_desc& desc) {
    intflash_plan* plan = nullptr;
    check(intflash_plan_batch(context.get(), cache.get(), &desc, &plan));
    plan_.reset(plan);
  }

  intflash_plan* get() const noexcept { return plan_.get(); }
  std::size_t workspace_bytes() const noexcept { return intflash_plan_workspace_bytes(get()); }
  Workspace make_workspace() const { return Workspace(workspace_bytes()); }
  intflash_plan_info info() const {
    intflash_plan_info info = plan_info();
    check(intflash_plan_get_info(get(), &info));
    return info;
  }

  // States that a run of a batch leaves.
  std::int64_t num_states(std::int64_t request) const noexcept {
    return intflash_plan_num_states(get(), request);
  }
  // With its keys and basis, and no memory.
  intflash_state state(std::int64_t request, std::int64_t index) const {
    intflash_state state{};
    check(intflash_plan_get_state_keys(get(), request, index, &state.first_key, &state.num_keys));
    state.rotates_values = info().rotates_values;
    return state;
  }

  void run(const intflash_attend_args& args, Workspace& workspace) const {
    check(intflash_run(get(), &args, workspace.data(), workspace.bytes()));
  }
  void pack(const intflash_attend_args& args, Workspace& workspace) const {
    check(intflash_pack(get(), &args, workspace.data(), workspace.bytes()));
  }
  void run_packed(const intflash_attend_args& args, Workspace& workspace) const {
    check(intflash_run_packed(get(), &args, workspace.data(), workspace.bytes()));
  }
  void run(const Cache& cache, const intflash_batch_args& args, Workspace& workspace) const {
    check(intflash_run_batch(get(), cache.get(), &args, workspace.data(), workspace.bytes()));
  }

  // A run in tasks, on the host's threads: intflash_begin has the rules.
  void begin(const intflash_attend_args& args, Workspace& workspace) const {
    check(intflash_begin(get(), &args, workspace.data(), workspace.bytes()));
  }
  void begin(const Cache& cache, const intflash_batch_args& args, Workspace& workspace) const {
    check(intflash_begin_batch(get(), cache.get(), &args, workspace.data(), workspace.bytes()));
  }
  std::int32_t num_phases() const noexcept { return intflash_plan_num_phases(get()); }
  std::int64_t num_tasks(std::int32_t phase) const noexcept {
    return intflash_plan_num_tasks(get(), phase);
  }
  void run_task(Workspace& workspace, std::int32_t phase, std::int64_t task,
                std::int32_t worker) const {
    check(intflash_run_task(get(), workspace.data(), phase, task, worker));
  }
  // The NUMA node of most of a task's keys; -1: any.
  std::int32_t node_of(const Workspace& workspace, std::int32_t phase,
                       std::int64_t task) const noexcept {
    return intflash_get_task_node(get(), workspace.data(), phase, task);
  }
  void end(Workspace& workspace) const { check(intflash_end(get(), workspace.data())); }
  // On a CUDA device waits for what a run enqueued, and says what it came to.
  void wait_for_run(Workspace& workspace) const {
    check(intflash_status_of_run(get(), workspace.data()));
  }

 private:
  struct Destroy {
    void operator()(intflash_plan* plan) const noexcept { intflash_plan_destroy(plan); }
  };
  std::unique_ptr<intflash_plan, Destroy> plan_;
};

inline void finish_states(const Context& context, const intflash_state_set& set,
                          const intflash_finish_args& args) {
  check(intflash_finish_states(context.get(), &set, &args));
}
inline void join_states(const Context& context, const intflash_state_set& set,
                        const intflash_state& joined) {
  check(intflash_join_states(context.get(), &set, &joined));
}

}  // namespace intflash

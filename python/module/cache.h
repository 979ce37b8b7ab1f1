// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// intflash.Cache and intflash.Pages: an intflash_cache, its sequences by number, and who is using
// it. Calls that change it exclude all others, and the second one raises BusyError: threads that
// hold no GIL cannot meet in it.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <memory>
#include <vector>

#include <intflash/cache.h>

namespace intflash::python {

namespace nb = nanobind;

// A layer's pages in memory of the caller's.
using Memory = nb::ndarray<nb::c_contig, nb::device::cpu>;

// Memory of a run, aligned as the library wants it.
struct Workspace {
  std::unique_ptr<void, void (*)(void*)> data{nullptr, nullptr};
  std::size_t bytes = 0;
};

class Cache {
 public:
  struct Options {
    std::int64_t num_kv_heads, head_dim, head_dim_v, num_pages, page_size, num_layers;
    nb::handle codec, key_center, value_center, threads;
    nb::handle memory;  // None, or of each layer an array of the caller's
    bool rotate;
    std::int64_t window_blocks, sink_blocks, num_window_pages;
  };
  explicit Cache(const Options& options);
  ~Cache();
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  void close();
  intflash_context* context() const { return context_; }

  // A call's hold of the cache, taken and given back with the GIL held.
  class Reading {
   public:
    explicit Reading(Cache& cache);
    ~Reading() { --cache_.readers_; }
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;
    intflash_cache* get() const { return cache_.cache_; }

   private:
    Cache& cache_;
  };
  class Changing {
   public:
    explicit Changing(Cache& cache);
    ~Changing() { cache_.is_changing_ = false; }
    Changing(const Changing&) = delete;
    Changing& operator=(const Changing&) = delete;
    intflash_cache* get() const { return cache_.cache_; }

   private:
    Cache& cache_;
  };

  // A run's workspace, kept for later runs. Taken and given back with the GIL held.
  class Borrowed {
   public:
    Borrowed(Cache& cache, std::size_t bytes);
    ~Borrowed() { cache_.workspaces_.push_back(std::move(workspace_)); }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;
    void* data() const { return workspace_.data.get(); }
    std::size_t bytes() const { return workspace_.bytes; }

   private:
    Cache& cache_;
    Workspace workspace_;
  };

  intflash_cache_info info();
  std::int64_t num_kv_heads() const { return num_kv_heads_; }
  std::int64_t head_dim() const { return head_dim_; }
  std::int64_t head_dim_v() const { return head_dim_v_; }

 private:
  void want_open() const;

  intflash_context* context_;
  intflash_cache* cache_ = nullptr;
  std::int64_t num_kv_heads_, head_dim_, head_dim_v_;
  int readers_ = 0;
  bool is_changing_ = false;
  std::vector<Workspace> workspaces_;
  std::vector<Memory> memory_;
};

void add_cache(nb::module_& module);

}  // namespace intflash::python

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "far_storage.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "backend/backend.h"
#include "cache/storage.h"
#include "host/host_storage.h"

namespace intflash::internal {
namespace {

// What a cache has stored.
struct FarPages {
  void* memory;
  std::size_t bytes;
  void* host;  // what the host's functions know of it
};

FarPages& far_pages(const intflash_cache& cache) { return *static_cast<FarPages*>(cache.stored); }

// While it lives, the host's functions find a cache's pages.
class Near {
 public:
  explicit Near(const intflash_cache& cache)
      : cache_(const_cast<intflash_cache&>(cache)), far_(far_pages(cache)) {
    ::mprotect(far_.memory, far_.bytes, PROT_READ | PROT_WRITE);
    cache_.stored = far_.host;
  }
  ~Near() {
    far_.host = cache_.stored;
    cache_.stored = &far_;
    ::mprotect(far_.memory, far_.bytes, PROT_NONE);
  }
  Near(const Near&) = delete;
  Near& operator=(const Near&) = delete;

 private:
  intflash_cache& cache_;
  FarPages& far_;
};

// ---- The storage ----

void destroy(intflash_cache& cache) {
  FarPages* const far = &far_pages(cache);
  if (far->host != nullptr) {
    const Near near(cache);
    kHostStorage.destroy(cache);
  }
  ::munmap(far->memory, far->bytes);
  delete far;
  cache.stored = nullptr;
}

intflash_status create(intflash_cache& cache, const intflash_cache_options& options) {
  intflash_cache_options within = options;
  within.arena_bytes =
      static_cast<std::size_t>(cache.num_layers * cache.num_pages * cache.page_bytes());
  within.arena = ::mmap(nullptr, within.arena_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (within.arena == MAP_FAILED)
    return fail(INTFLASH_OUT_OF_MEMORY, "no memory of %zu bytes far away", within.arena_bytes);
  cache.stored = new FarPages{within.arena, within.arena_bytes, nullptr};
  intflash_status status = INTFLASH_OK;
  {
    const Near near(cache);
    status = kHostStorage.create(cache, within);
  }
  if (status != INTFLASH_OK) destroy(cache);
  return status;
}

// Of new tokens that lie in the host's memory: no page is needed.
intflash_status check_far_tokens(const Append& append) { return kHostStorage.check_tokens(append); }

intflash_status append(const Append& append) {
  const Near near(append.cache);
  return kHostStorage.append(append);
}

intflash_status copy_page(intflash_cache& cache, std::int32_t from, std::int32_t to) {
  const Near near(cache);
  return kHostStorage.copy_page(cache, from, to);
}

intflash_status export_far_rows(const Export& wanted) {
  const Near near(wanted.cache);
  return kHostStorage.export_rows(wanted);
}

intflash_status read_block(const intflash_cache& cache, const BlockPlace& place, char* page) {
  const Near near(cache);
  return kHostStorage.read_block(cache, place, page);
}

intflash_status write_block(intflash_cache& cache, const BlockPlace& place, const char* page) {
  const Near near(cache);
  return kHostStorage.write_block(cache, place, page);
}

// ---- The backends ----

// The CPU's plans of batches, one run at a time.
template <const Backend& kBackend>
struct FarBackend {
  static inline const RunCalls* near_calls = nullptr;
  static inline std::unique_ptr<Near> running;

  static intflash_status begin_batch(const intflash_plan& plan, const intflash_cache& cache,
                                     const intflash_batch_args& args, void* workspace) {
    running = std::make_unique<Near>(cache);
    const intflash_status status = near_calls->begin_batch(plan, cache, args, workspace);
    if (status != INTFLASH_OK) running.reset();
    return status;
  }
  static std::int64_t num_tasks(const intflash_plan& plan, std::int32_t phase) {
    return near_calls->num_tasks(plan, phase);
  }
  static void run_task(Run& run, std::int32_t phase, std::int64_t task, std::int32_t worker) {
    near_calls->run_task(run, phase, task, worker);
  }
  static intflash_status end(Run& run) {
    const intflash_status status = near_calls->end(run);
    running.reset();
    return status;
  }
  static constexpr RunCalls kCalls = {nullptr, begin_batch, num_tasks, run_task, end};

  static intflash_status create_batch_plan(const intflash_context& context,
                                           const intflash_cache& cache,
                                           const intflash_batch_desc& desc, intflash_plan*& plan) {
    const intflash_status status = kBackend.create_batch_plan(context, cache, desc, plan);
    if (status != INTFLASH_OK) return status;
    near_calls = plan->calls;
    plan->calls = &kCalls;
    return status;
  }
};

const Backend kFarCpu = {"far cpu", kCpuBackend.create_plan,
                         FarBackend<kCpuBackend>::create_batch_plan};
const Backend kFarReference = {"far reference", kReferenceBackend.create_plan,
                               FarBackend<kReferenceBackend>::create_batch_plan};

}  // namespace

const Storage kFarStorage = {
    .name = "far",
    .create = create,
    .destroy = destroy,
    .check_tokens = check_far_tokens,
    .append = append,
    .copy_page = copy_page,
    .copy_window_page = nullptr,
    .export_rows = export_far_rows,
    .read_block = read_block,
    .write_block = write_block,
    .code_block = nullptr,
};
const Device kFarDevice = {"far", &kFarStorage, {&kFarCpu, &kFarReference, &kFarReference}};

const void* far_memory(const intflash_cache& cache) { return far_pages(cache).memory; }

}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The C entry points of versions, ports and contexts.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "backend/backend.h"
#include "context/context.h"
#include "context/ports.h"
#include "core/checks.h"
#include "core/structs.h"
#include "gpu/cuda_device.h"
#include "host/host_storage.h"
#include "machine/machine.h"

const intflash::internal::Device intflash::internal::kCpuDevice = {
    "cpu", &kHostStorage, {&kCpuBackend, &kReferenceBackend, &kReferenceBackend, &kCpuBackend}};

namespace {

using namespace intflash::internal;

constexpr std::int32_t kMaxThreads = 4096;
constexpr std::size_t kAlignment = 64;
// A context's pool lies behind it, and its helpers behind that.
constexpr std::size_t kPoolOffset = (sizeof(intflash_context) + alignof(ThreadPool) - 1) /
                                    alignof(ThreadPool) * alignof(ThreadPool);

void* default_allocate(void*, std::size_t bytes, std::size_t alignment) {
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
void default_deallocate(void*, void* pointer) { std::free(pointer); }

intflash_status check_options(const intflash_context_options& options) {
  if (options.num_threads < 0 || options.num_threads > kMaxThreads) {
    return fail(INTFLASH_INVALID_ARGUMENT, "options.num_threads = %d: must be 0 ... %d",
                options.num_threads, kMaxThreads);
  }
  if ((options.allocate == nullptr) != (options.deallocate == nullptr)) {
    return fail(INTFLASH_INVALID_ARGUMENT, "options.allocate and deallocate: give both or neither");
  }
  if (options.l2_bytes < 0) {
    return fail(INTFLASH_INVALID_ARGUMENT, "options.l2_bytes = %lld: must be >= 0",
                static_cast<i64>(options.l2_bytes));
  }
  if (options.threads != INTFLASH_THREADS_POOL && options.threads != INTFLASH_THREADS_OPENMP) {
    return fail(INTFLASH_INVALID_ARGUMENT, "options.threads = %d: must be an intflash_threads",
                static_cast<int>(options.threads));
  }
  if (options.stream != nullptr &&
      (options.device == nullptr || std::strcmp(options.device, kCpuDevice.name) == 0)) {
    return fail(INTFLASH_INVALID_ARGUMENT, "options.stream = %p: the CPU has none", options.stream);
  }
  if (options.threads == INTFLASH_THREADS_OPENMP && options.parallel_for != nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "options.threads = INTFLASH_THREADS_OPENMP and parallel_for: give one");
  }
  if (options.threads == INTFLASH_THREADS_OPENMP && !has_openmp()) {
    return fail(INTFLASH_UNSUPPORTED,
                "options.threads = INTFLASH_THREADS_OPENMP: this build has no OpenMP");
  }
  return INTFLASH_OK;
}

// The device that the options name.
intflash_status choose_device(const char* name, const Device*& device) {
  if (name == nullptr || std::strcmp(name, kCpuDevice.name) == 0) {
    device = &kCpuDevice;
    return INTFLASH_OK;
  }
  return choose_cuda_device(name, device);
}

std::int32_t choose_num_threads(const intflash_context_options& options, const CpuSet& cpus) {
  if (options.num_threads > 0) return options.num_threads;
  const bool openmp = options.threads == INTFLASH_THREADS_OPENMP;
  return std::clamp(openmp ? openmp_num_threads() : default_num_threads(cpus), 1, kMaxThreads);
}

// The loop that a context's runs go by; its pool, where it has one, is in memory.
void fill_parallel(const intflash_context_options& options, const CpuSet& cpus, void* memory,
                   intflash_context& context) {
  if (options.parallel_for != nullptr) {
    context.parallel = {options.parallel_for, options.parallel_for_user};
  } else if (options.threads == INTFLASH_THREADS_OPENMP) {
    context.parallel = openmp_parallel();
    // Its threads start here, so that the first run need not.
    run_parallel(
        context.parallel, context.num_threads, [](void*, std::int32_t) {}, nullptr);
  } else {
    auto* const helpers = reinterpret_cast<pthread_t*>(static_cast<ThreadPool*>(memory) + 1);
    const auto num_helpers = static_cast<std::size_t>(context.num_threads - 1);
    context.pool = new (memory) ThreadPool({helpers, num_helpers}, cpus, &context.nodes);
    context.parallel = context.pool->parallel();
  }
}

// "amx_int8: CPU lacks AMX-INT8; ..." for the ports that are better than the chosen one.
void write_port_reason(const PortEntry* chosen, char* text, std::size_t size) {
  std::size_t used = 0;
  text[0] = '\0';
  for (const PortEntry& port : ports()) {
    if (&port == chosen || used + 1 >= size) break;
    const int written = std::snprintf(text + used, size - used, "%s%s: %s", used == 0 ? "" : "; ",
                                      port.name, reason_passed_over(port));
    used = std::min(size - 1, used + static_cast<std::size_t>(std::max(written, 0)));
  }
}

}  // namespace

extern "C" {

#define INTFLASH_STRING(x) #x
#define INTFLASH_VERSION_TEXT(major, minor, patch) \
  INTFLASH_STRING(major) "." INTFLASH_STRING(minor) "." INTFLASH_STRING(patch)
const char* intflash_version(void) {
  return INTFLASH_VERSION_TEXT(INTFLASH_VERSION_MAJOR, INTFLASH_VERSION_MINOR,
                               INTFLASH_VERSION_PATCH);
}
int32_t intflash_abi_version(void) { return INTFLASH_ABI_VERSION; }
int32_t intflash_page_layout_version(void) { return INTFLASH_PAGE_LAYOUT_VERSION; }

const char* intflash_status_name(intflash_status status) {
  switch (status) {
    case INTFLASH_OK:
      return "INTFLASH_OK";
    case INTFLASH_INVALID_ARGUMENT:
      return "INTFLASH_INVALID_ARGUMENT";
    case INTFLASH_BAD_SHAPE:
      return "INTFLASH_BAD_SHAPE";
    case INTFLASH_BAD_STRIDE:
      return "INTFLASH_BAD_STRIDE";
    case INTFLASH_SIZE_OVERFLOW:
      return "INTFLASH_SIZE_OVERFLOW";
    case INTFLASH_BAD_SCALE:
      return "INTFLASH_BAD_SCALE";
    case INTFLASH_NONFINITE_INPUT:
      return "INTFLASH_NONFINITE_INPUT";
    case INTFLASH_SCORE_OVERFLOW:
      return "INTFLASH_SCORE_OVERFLOW";
    case INTFLASH_UNSUPPORTED:
      return "INTFLASH_UNSUPPORTED";
    case INTFLASH_UNKNOWN_ISA:
      return "INTFLASH_UNKNOWN_ISA";
    case INTFLASH_ISA_UNAVAILABLE:
      return "INTFLASH_ISA_UNAVAILABLE";
    case INTFLASH_WORKSPACE_TOO_SMALL:
      return "INTFLASH_WORKSPACE_TOO_SMALL";
    case INTFLASH_OUT_OF_MEMORY:
      return "INTFLASH_OUT_OF_MEMORY";
    case INTFLASH_POOL_EXHAUSTED:
      return "INTFLASH_POOL_EXHAUSTED";
    case INTFLASH_CANCELLED:
      return "INTFLASH_CANCELLED";
    case INTFLASH_BAD_FILE:
      return "INTFLASH_BAD_FILE";
    case INTFLASH_BUSY:
      return "INTFLASH_BUSY";
    case INTFLASH_DEVICE_UNAVAILABLE:
      return "INTFLASH_DEVICE_UNAVAILABLE";
    case INTFLASH_DEVICE_FAILED:
      return "INTFLASH_DEVICE_FAILED";
  }
  return "unknown status";
}

const char* intflash_last_error(void) { return last_error(); }

int32_t intflash_num_ports(void) { return static_cast<int32_t>(ports().size()); }

intflash_status intflash_get_port(int32_t index, intflash_port_info* target) {
  const intflash_status status = check_struct("info", "intflash_port_info", target);
  if (status != INTFLASH_OK) return status;
  if (index < 0 || index >= intflash_num_ports()) {
    return fail(INTFLASH_INVALID_ARGUMENT, "index = %d: must be 0 ... %d", index,
                intflash_num_ports() - 1);
  }
  const PortEntry& port = ports()[static_cast<std::size_t>(index)];
  intflash_port_info info{};
  info.name = port.name;
  info.built = port.kernels != nullptr ? 1 : 0;
  info.supported = port.supported ? 1 : 0;
  info.reason = port.reason;
  write_struct(info, target);
  return INTFLASH_OK;
}

int32_t intflash_num_devices(void) { return 1 + num_cuda_devices(cuda_library()); }

intflash_status intflash_get_device(int32_t index, intflash_device_info* target) {
  const intflash_status status = check_struct("info", "intflash_device_info", target);
  if (status != INTFLASH_OK) return status;
  if (index < 0 || index >= intflash_num_devices()) {
    return fail(INTFLASH_INVALID_ARGUMENT, "index = %d: must be 0 ... %d", index,
                intflash_num_devices() - 1);
  }
  intflash_device_info info{};
  if (index == 0) {
    std::snprintf(info.name, sizeof info.name, "%s", kCpuDevice.name);
    info.available = 1;
  } else {
    describe_cuda_device(cuda_library(), index - 1, info);
  }
  write_struct(info, target);
  return INTFLASH_OK;
}

intflash_status intflash_context_create(const intflash_context_options* given,
                                        intflash_context** context) {
  if (context == nullptr)
    return fail(INTFLASH_INVALID_ARGUMENT, "context = NULL: must point to where the handle goes");
  intflash_context_options options{};
  intflash_status status = INTFLASH_OK;
  if (given != nullptr) status = read_struct("options", "intflash_context_options", given, options);
  if (status == INTFLASH_OK) status = check_options(options);
  if (status != INTFLASH_OK) return status;
  const PortEntry* port = nullptr;
  const Device* device = nullptr;
  status = choose_device(options.device, device);
  if (status == INTFLASH_OK) status = choose_port(options.isa, port);
  if (status != INTFLASH_OK) return status;

  CpuSet cpus = this_threads_cpus();
  add_openmp_places(cpus);
  const std::int32_t num_threads = choose_num_threads(options, cpus);

  const bool own_allocator = options.allocate == nullptr;
  const auto allocate = own_allocator ? default_allocate : options.allocate;
  const std::size_t bytes = kPoolOffset + sizeof(ThreadPool) +
                            static_cast<std::size_t>(num_threads - 1) * sizeof(pthread_t);
  void* memory = watch_forks() ? allocate(options.allocator_user, bytes, kAlignment) : nullptr;
  if (memory == nullptr)
    return fail(INTFLASH_OUT_OF_MEMORY, "no memory for a context of %zu bytes", bytes);
  const Machine& machine = this_machine();
  intflash_context* created = new (memory) intflash_context{};
  created->device = device;
  created->port = port;
  created->num_threads = num_threads;
  created->nodes = machine.nodes.among(cpus);
  created->allocate = allocate;
  created->deallocate = own_allocator ? default_deallocate : options.deallocate;
  created->allocator_user = options.allocator_user;
  created->stream = options.stream;
  if (device->open != nullptr) {
    status = device->open(*created);
    if (status != INTFLASH_OK) {
      created->deallocate(created->allocator_user, created);
      return status;
    }
  }
  created->l2_bytes = options.l2_bytes > 0 ? options.l2_bytes : machine.l2_bytes;
  write_port_reason(port, created->port_reason, sizeof created->port_reason);
  fill_parallel(options, cpus, static_cast<char*>(memory) + kPoolOffset, *created);
  *context = created;
  return INTFLASH_OK;
}

void intflash_context_destroy(intflash_context* context) {
  if (context == nullptr) return;
  if (context->pool != nullptr) context->pool->~ThreadPool();
  if (context->device->close != nullptr) context->device->close(*context);
  context->deallocate(context->allocator_user, context);
}

const char* intflash_context_device(const intflash_context* context) {
  return context == nullptr ? "" : context->device->name;
}
const char* intflash_context_port(const intflash_context* context) {
  return context == nullptr ? "" : context->port->name;
}
const char* intflash_context_port_reason(const intflash_context* context) {
  return context == nullptr ? "" : context->port_reason;
}
int32_t intflash_context_num_threads(const intflash_context* context) {
  return context == nullptr ? 0 : context->num_threads;
}

}  // extern "C"

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What ggml loads: a device of type ACCEL beside the CPU, which takes flash attention and leaves
// every buffer with the CPU.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "engine.h"
#include "ggml-backend-impl.h"
#include "ggml-impl.h"

namespace intflash::llama {
namespace {

constexpr const char* kName = "intflash";

bool has_value(const char* variable, const char* wanted) {
  const char* value = std::getenv(variable);
  return value != nullptr && std::strcmp(value, wanted) == 0;
}
Rotation rotation() {
  if (has_value("INTFLASH_LLAMA_ROTATE", "0")) return Rotation::kNever;
  const char* const disabled = std::getenv("LLAMA_ATTN_ROT_DISABLE");  // as llama.cpp reads it
  return disabled != nullptr && std::atoi(disabled) != 0 ? Rotation::kAlways
                                                         : Rotation::kUnlessStored;
}
// Also what ggml does faster: for tests.
bool takes_all() { return has_value("INTFLASH_LLAMA_ALL", "1"); }

// ---- Backend: one per context of the host ----

struct BackendContext {
  // A host alternates between the numbers of threads of prefill and decode.
  std::vector<std::unique_ptr<Engine>> engines;
  Scratch scratch;
  int num_threads = 0;

  Engine& engine() {
    for (const std::unique_ptr<Engine>& engine : engines) {
      if (engine->num_threads() == num_threads) return *engine;
    }
    engines.push_back(std::make_unique<Engine>(num_threads, rotation()));
    return *engines.back();
  }
};

BackendContext& context_of(ggml_backend_t backend) {
  return *static_cast<BackendContext*>(backend->context);
}

const char* backend_name(ggml_backend_t) { return kName; }

void free_backend(ggml_backend_t backend) {
  delete &context_of(backend);
  delete backend;
}

void set_num_threads(ggml_backend_t backend, int num_threads) {
  context_of(backend).num_threads = std::max(num_threads, 1);
}

std::vector<const ggml_tensor*> attentions_of(const ggml_cgraph& graph) {
  std::vector<const ggml_tensor*> ops;
  for (int i = 0; i < graph.n_nodes; ++i) {
    const ggml_tensor* node = graph.nodes[i];
    const bool is_computed = (node->flags & GGML_TENSOR_FLAG_COMPUTE) != 0;
    if (is_computed && node->op == GGML_OP_FLASH_ATTN_EXT && !ggml_is_empty(node))
      ops.push_back(node);
  }
  return ops;
}

ggml_status compute(BackendContext& context, const ggml_cgraph& graph, std::string& error) {
  Engine& engine = context.engine();
  if (!engine.is_valid()) {
    error = intflash_last_error();
    return GGML_STATUS_FAILED;
  }
  const std::vector<const ggml_tensor*> ops = attentions_of(graph);
  ggml_status status = GGML_STATUS_SUCCESS;
  for (std::size_t i = 0; i < ops.size() && status == GGML_STATUS_SUCCESS; ++i)
    status = engine.prepare(*ops[i], context.scratch, error);
  for (std::size_t i = 0; i < ops.size() && status == GGML_STATUS_SUCCESS; ++i)
    status = engine.run(*ops[i], context.scratch, error);
  return status;
}

ggml_status compute_graph(ggml_backend_t backend, ggml_cgraph* graph) {
  std::string error;
  ggml_status status = GGML_STATUS_ALLOC_FAILED;
  try {
    status = compute(context_of(backend), *graph, error);
  } catch (const std::exception& exception) {
    error = exception.what();
  }
  if (status != GGML_STATUS_SUCCESS) GGML_LOG_ERROR("%s: %s\n", kName, error.c_str());
  return status;
}

ggml_guid_t guid() {
  static ggml_guid bytes = {0x69, 0x6e, 0x74, 0x66, 0x6c, 0x61, 0x73, 0x68,
                            0x67, 0x67, 0x6d, 0x6c, 0x00, 0x00, 0x00, 0x01};
  return &bytes;
}

ggml_backend_i backend_interface() {
  ggml_backend_i interface {};
  interface.get_name = backend_name;
  interface.free = free_backend;
  interface.graph_compute = compute_graph;
  return interface;
}

// ---- Device ----

// Each reason once: a scheduler asks again for every graph.
void log_once(const std::string& reason) {
  static std::mutex mutex;
  static std::set<std::string> logged;
  const std::lock_guard<std::mutex> lock(mutex);
  if (logged.insert(reason).second)
    GGML_LOG_INFO("%s: left to the CPU backend: %s\n", kName, reason.c_str());
}

// Answers what can be served; never runs.
const Engine& probe() {
  static const Engine engine(1, rotation());
  return engine;
}

const char* device_name(ggml_backend_dev_t) { return kName; }
const char* device_description(ggml_backend_dev_t) { return "attention in INT8 on the CPU"; }
void device_memory(ggml_backend_dev_t, std::size_t* free, std::size_t* total) {
  *free = *total = 0;  // none of its own
}
enum ggml_backend_dev_type device_type(ggml_backend_dev_t) {
  return GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

void device_properties(ggml_backend_dev_t device, ggml_backend_dev_props* properties) {
  *properties = {};
  properties->name = device_name(device);
  properties->description = device_description(device);
  properties->type = device_type(device);
}

// A warning, since llama.cpp's programs show nothing less; once, as they make several contexts.
void log_presence() {
  static std::once_flag logged;
  std::call_once(logged, [] {
    GGML_LOG_WARN(
        "%s: takes flash attention, port %s; add \"-fa on\", since \"-fa auto\" turns flash "
        "attention off where another device than the layer's computes it\n",
        kName, probe().port());
  });
}

ggml_backend_t create_backend(ggml_backend_dev_t device, const char*) {
  log_presence();
  return new ggml_backend{guid(), backend_interface(), device, new BackendContext};
}

ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t) {
  return ggml_backend_cpu_buffer_type();
}
bool supports_buffer_type(ggml_backend_dev_t, ggml_backend_buffer_type_t type) {
  return ggml_backend_buft_is_host(type);
}

bool supports_op(ggml_backend_dev_t, const ggml_tensor* op) {
  switch (op->op) {
    case GGML_OP_NONE:
    case GGML_OP_RESHAPE:
    case GGML_OP_VIEW:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
      return true;
    case GGML_OP_FLASH_ATTN_EXT:
      break;
    default:
      return false;
  }
  std::string reason;
  if (probe().supports(*op, reason) && (takes_all() || gains(*op, reason))) return true;
  log_once(reason);
  return false;
}

ggml_backend_device_i device_interface() {
  ggml_backend_device_i interface {};
  interface.get_name = device_name;
  interface.get_description = device_description;
  interface.get_memory = device_memory;
  interface.get_type = device_type;
  interface.get_props = device_properties;
  interface.init_backend = create_backend;
  interface.get_buffer_type = device_buffer_type;
  interface.supports_op = supports_op;
  interface.supports_buft = supports_buffer_type;
  return interface;
}

// ---- Registration ----

const char* registration_name(ggml_backend_reg_t) { return kName; }
std::size_t num_devices(ggml_backend_reg_t) { return 1; }

ggml_backend_dev_t get_device(ggml_backend_reg_t registration, std::size_t) {
  static ggml_backend_device device = {device_interface(), registration, nullptr};
  return &device;
}

void* get_function(ggml_backend_reg_t, const char* name) {
  return std::strcmp(name, "ggml_backend_set_n_threads") == 0
             ? reinterpret_cast<void*>(set_num_threads)
             : nullptr;
}

// Why this process cannot have the device; empty where it can.
std::string obstacle() {
  // ggml's internal structs change between versions that its API version does not tell apart.
  if (std::strcmp(ggml_version(), INTFLASH_GGML_VERSION) != 0) {
    return std::string("built for ggml " INTFLASH_GGML_VERSION ", and this is ggml ") +
           ggml_version();
  }
  if (!probe().is_valid()) return intflash_last_error();
  if (std::strcmp(probe().port(), "scalar") == 0 && std::getenv("INTFLASH_ISA") == nullptr)
    return std::string("no port for this CPU: ") + probe().port_reason();
  return "";
}

}  // namespace
}  // namespace intflash::llama

extern "C" {

// 0: ggml goes on without this backend.
__attribute__((visibility("default"))) int ggml_backend_score(void) {
  const std::string reason = intflash::llama::obstacle();
  if (reason.empty()) return 1;
  GGML_LOG_WARN("%s: not used: %s\n", intflash::llama::kName, reason.c_str());
  return 0;
}

__attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init(void) {
  using namespace intflash::llama;
  static ggml_backend_reg registration = {
      GGML_BACKEND_API_VERSION,
      {registration_name, num_devices, get_device, get_function},
      nullptr};
  return &registration;
}

}  // extern "C"

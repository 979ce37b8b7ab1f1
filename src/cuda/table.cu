// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The table of libintflash_cuda: devices and memory by CUDA's runtime, and what kernels there are.
#include "cuda/table.h"

#include <cstring>

#include "cuda/enqueue.h"

namespace intflash::internal {
namespace {

CudaErrorKind kind_of(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return CudaErrorKind::kNone;
    case cudaErrorMemoryAllocation:
      return CudaErrorKind::kOutOfMemory;
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureImplicit:
      return CudaErrorKind::kCapturing;
    // After these every call fails, until the process ends. Unknown ones are taken for such.
    case cudaErrorCudartUnloading:
    case cudaErrorDeviceUninitialized:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorContextIsDestroyed:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorMpsClientTerminated:
    case cudaErrorExternalDevice:
    case cudaErrorUnknown:
      return CudaErrorKind::kFatal;
    default:
      return CudaErrorKind::kOther;
  }
}

// The driver's own calls for the calling thread's context, which need not be the runtime's.
struct DriverContexts {
  int (*get)(void** context);
  int (*set)(void* context);  // nullptr: the driver has no such calls
};

template <class Function>
void find_driver_call(const char* name, Function& function) {
  constexpr unsigned kSince = 4000;
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  if (cudaGetDriverEntryPointByVersion(name, &found, kSince, cudaEnableDefault, &result) ==
      cudaSuccess)
    function = reinterpret_cast<Function>(found);
}
const DriverContexts& driver_contexts() {
  static const DriverContexts calls = [] {
    DriverContexts found{};
    find_driver_call("cuCtxGetCurrent", found.get);
    if (found.get != nullptr) find_driver_call("cuCtxSetCurrent", found.set);
    return found;
  }();
  return calls;
}

// Makes a device the calling thread's for as long as it lives. A context that is current on it is
// used as it is; one of another device is current again afterwards, whoever made it.
class OnDevice {
 public:
  explicit OnDevice(std::int32_t device) {
    error_ = cudaGetDevice(&before_);
    if (error_ != cudaSuccess || before_ == device) return;
    if (driver_contexts().set != nullptr) driver_contexts().get(&context_);
    error_ = cudaSetDevice(device);
    is_moved_ = true;
  }
  ~OnDevice() {
    if (!is_moved_) return;
    if (context_ != nullptr) {
      driver_contexts().set(context_);
    } else {
      cudaSetDevice(before_);
    }
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  // What call() comes to there.
  template <class Call>
  CudaError call(Call call) const {
    const cudaError_t error = error_ == cudaSuccess ? call() : error_;
    if (error == cudaSuccess) return {};
    cudaGetLastError();  // it is told here, and not to the caller's next check
    return {kind_of(error), cudaGetErrorString(error)};
  }

 private:
  int before_ = 0;
  void* context_ = nullptr;  // that was current; nullptr: none
  bool is_moved_ = false;
  cudaError_t error_;
};

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }

const char* count_devices(std::int32_t* count) {
  *count = 0;
  const cudaError_t error = cudaGetDeviceCount(count);
  if (error == cudaSuccess) return nullptr;
  *count = 0;
  return cudaGetErrorString(error);
}

const char* describe_device(std::int32_t device, CudaDeviceInfo* info) {
  cudaDeviceProp properties;
  cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  std::strncpy(info->name, properties.name, sizeof info->name - 1);
  info->name[sizeof info->name - 1] = '\0';
  info->compute_major = properties.major;
  info->compute_minor = properties.minor;
  info->num_multiprocessors = properties.multiProcessorCount;
  int has_pools = 0;
  error = cudaDeviceGetAttribute(&has_pools, cudaDevAttrMemoryPoolsSupported, device);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  info->has_memory_pools = has_pools != 0;
  return nullptr;
}

const char* check_device(std::int32_t device) { return OnDevice(device).call(check_attend).text; }

CudaError locate(std::int32_t device, const void* pointer, std::int32_t* found) {
  cudaPointerAttributes attributes{};
  const CudaError error =
      OnDevice(device).call([&] { return cudaPointerGetAttributes(&attributes, pointer); });
  switch (attributes.type) {
    case cudaMemoryTypeDevice:
    case cudaMemoryTypeManaged:
      *found = attributes.device;
      break;
    case cudaMemoryTypeHost:
      *found = -1;
      break;
    default:
      *found = -2;
  }
  return error;
}

cudaMemPool_t pool_of(void* pool) { return static_cast<cudaMemPool_t>(pool); }

CudaError create_pool(std::int32_t device, void** pool) {
  return OnDevice(device).call([&] {
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device;
    cudaMemPool_t made = nullptr;
    cudaError_t error = cudaMemPoolCreate(&made, &properties);
    if (error != cudaSuccess) return error;
    std::uint64_t kept = UINT64_MAX;
    error = cudaMemPoolSetAttribute(made, cudaMemPoolAttrReleaseThreshold, &kept);
    if (error != cudaSuccess) {
      cudaMemPoolDestroy(made);
      return error;
    }
    *pool = made;
    return cudaSuccess;
  });
}
CudaError trim_pool(std::int32_t device, void* pool) {
  return OnDevice(device).call([&] { return cudaMemPoolTrimTo(pool_of(pool), 0); });
}
CudaError destroy_pool(std::int32_t device, void* pool) {
  return OnDevice(device).call([&] { return cudaMemPoolDestroy(pool_of(pool)); });
}
CudaError allocate(std::int32_t device, void* pool, void* stream, std::size_t bytes,
                   void** memory) {
  return OnDevice(device).call(
      [&] { return cudaMallocFromPoolAsync(memory, bytes, pool_of(pool), stream_of(stream)); });
}
CudaError release(std::int32_t device, void* stream, void* memory) {
  return OnDevice(device).call([&] { return cudaFreeAsync(memory, stream_of(stream)); });
}

CudaError copy(std::int32_t device, void* stream, const void* from, std::size_t bytes, void* to) {
  return OnDevice(device).call(
      [&] { return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(stream)); });
}
CudaError wait(std::int32_t device, void* stream) {
  return OnDevice(device).call([&] { return cudaStreamSynchronize(stream_of(stream)); });
}

CudaError check_capture(std::int32_t device, void* stream) {
  return OnDevice(device).call([&] {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaError_t error = cudaStreamIsCapturing(stream_of(stream), &status);
    const bool is_free = error != cudaSuccess || status == cudaStreamCaptureStatusNone;
    return is_free ? error : cudaErrorStreamCaptureUnsupported;
  });
}

CudaError check_tokens(std::int32_t device, const CudaTokens& tokens) {
  return OnDevice(device).call([&] { return enqueue_checks(tokens); });
}
CudaError store_tokens(std::int32_t device, const CudaTokens& tokens) {
  return OnDevice(device).call([&] { return enqueue_tokens(tokens); });
}
CudaError note_scales(std::int32_t device, void* stream, const float* key_scale,
                      std::uint32_t* largest_key, bool begins_page) {
  return OnDevice(device).call(
      [&] { return enqueue_note(stream, key_scale, largest_key, begins_page); });
}
CudaError compute_means(std::int32_t device, const CudaCall& call, const CudaTokens& tokens,
                        const CudaMeans& means) {
  return OnDevice(device).call([&] { return enqueue_means(call, tokens, means); });
}
CudaError quantize_queries(std::int32_t device, const CudaCall& call) {
  return OnDevice(device).call([&] { return enqueue_queries(call); });
}
CudaError check_masks(std::int32_t device, const CudaCall& call) {
  return OnDevice(device).call([&] { return enqueue_masks(call); });
}
CudaError judge(std::int32_t device, const CudaCall& call, const CudaTokens& tokens) {
  return OnDevice(device).call([&] { return enqueue_judgement(call, tokens); });
}
CudaError attend(std::int32_t device, const CudaCall& call) {
  return OnDevice(device).call([&] { return enqueue_attend(call); });
}

constexpr CudaTable kTable = {
    .version = kCudaTableVersion,
    .count_devices = count_devices,
    .describe_device = describe_device,
    .check_device = check_device,
    .locate = locate,
    .create_pool = create_pool,
    .trim_pool = trim_pool,
    .destroy_pool = destroy_pool,
    .allocate = allocate,
    .release = release,
    .copy = copy,
    .wait = wait,
    .check_capture = check_capture,
    .check_tokens = check_tokens,
    .store_tokens = store_tokens,
    .note_scales = note_scales,
    .compute_means = compute_means,
    .quantize_queries = quantize_queries,
    .check_masks = check_masks,
    .judge = judge,
    .attend = attend,
};

}  // namespace
}  // namespace intflash::internal

extern "C" __attribute__((visibility("default"))) const intflash::internal::CudaTable*
intflash_cuda_table() {
  return &intflash::internal::kTable;
}

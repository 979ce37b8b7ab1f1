// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which devices there are, and what is said of those that there are not. No GPU is needed here, nor
// libintflash_cuda: cuda_device_test.cpp has one that is emulated.
#include <chrono>
#include <string>

#include <gtest/gtest.h>

#include "gpu/cuda_device.h"
#include "intflash/intflash.h"

namespace intflash::internal {
namespace {

intflash_context_options options_of(const char* device) {
  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.device = device;
  return options;
}

// Of a library that there is not.
const CudaLibrary& no_library() {
  static const CudaLibrary library = open_cuda_library("libintflash_cuda_of_nowhere.so");
  return library;
}

TEST(Device, CpuIsAlwaysThereAndTheDefault) {
  intflash_device_info info{};
  info.struct_size = sizeof info;
  ASSERT_EQ(intflash_get_device(0, &info), INTFLASH_OK);
  EXPECT_STREQ(info.name, "cpu");
  EXPECT_EQ(info.available, 1);
  EXPECT_STREQ(info.reason, "");
  for (const char* name : {static_cast<const char*>(nullptr), "cpu"}) {
    const intflash_context_options options = options_of(name);
    intflash_context* context = nullptr;
    ASSERT_EQ(intflash_context_create(&options, &context), INTFLASH_OK) << intflash_last_error();
    EXPECT_STREQ(intflash_context_device(context), "cpu");
    intflash_context_destroy(context);
  }
}

TEST(Device, OfAnotherNameIsRefused) {
  for (const char* name :
       {"gpu:0", "cuda", "cuda:", "cuda:-1", "cuda:0x", "cuda:99999999999", ""}) {
    const intflash_context_options options = options_of(name);
    intflash_context* context = nullptr;
    EXPECT_EQ(intflash_context_create(&options, &context), INTFLASH_UNSUPPORTED) << name;
    EXPECT_NE(std::string(intflash_last_error()).find("\"" + std::string(name) + "\""),
              std::string::npos)
        << intflash_last_error();
  }
}

TEST(Device, CpuHasNoStream) {
  intflash_context_options options = options_of("cpu");
  int stream = 0;
  options.stream = &stream;
  intflash_context* context = nullptr;
  EXPECT_EQ(intflash_context_create(&options, &context), INTFLASH_INVALID_ARGUMENT);
  options.device = nullptr;
  EXPECT_EQ(intflash_context_create(&options, &context), INTFLASH_INVALID_ARGUMENT);
}

TEST(Device, ThatIsOutOfRangeIsRefused) {
  intflash_device_info info{};
  info.struct_size = sizeof info;
  EXPECT_EQ(intflash_get_device(-1, &info), INTFLASH_INVALID_ARGUMENT);
  EXPECT_EQ(intflash_get_device(intflash_num_devices(), &info), INTFLASH_INVALID_ARGUMENT);
}

TEST(Device, OfCudaIsUnavailableWithoutTheLibraryAndSaysSoInTime) {
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(no_library().table, nullptr);
  EXPECT_EQ(check_cuda_device(no_library(), "cuda:0", 0), INTFLASH_DEVICE_UNAVAILABLE);
  const std::string error = intflash_last_error();
  EXPECT_NE(error.find("cuda:0"), std::string::npos) << error;
  EXPECT_NE(error.find("libintflash_cuda_of_nowhere.so"), std::string::npos) << error;
  ASSERT_EQ(num_cuda_devices(no_library()), 1);
  intflash_device_info info{};
  describe_cuda_device(no_library(), 0, info);
  EXPECT_STREQ(info.name, "cuda");
  EXPECT_EQ(info.available, 0);
  EXPECT_STREQ(info.reason, no_library().reason);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
}

TEST(Device, OfALibraryThatIsAnotherIsUnavailable) {
  const CudaLibrary library = open_cuda_library("libc.so.6");
  ASSERT_EQ(library.table, nullptr);
  EXPECT_NE(std::string(library.reason).find("is no libintflash_cuda"), std::string::npos)
      << library.reason;
}

TEST(Device, OfATableOfAnotherVersionIsUnavailable) {
  CudaTable table{};
  table.version = kCudaTableVersion + 1;
  const CudaLibrary library = library_of("here", &table);
  EXPECT_EQ(library.table, nullptr);
  const std::string version = std::to_string(table.version);
  EXPECT_NE(std::string(library.reason).find("here: its table has version " + version),
            std::string::npos)
      << library.reason;
  table.version = kCudaTableVersion;
  EXPECT_EQ(library_of("here", &table).table, &table);
}

// ---- What a driver may say, by a table of the tests' ----

const char* no_driver(std::int32_t*) { return "the driver is too old"; }
const char* no_device(std::int32_t* count) {
  *count = 0;
  return nullptr;
}
const char* two_devices(std::int32_t* count) {
  *count = 2;
  return nullptr;
}
const char* old_device(std::int32_t, CudaDeviceInfo* info) {
  *info = {"Old", 7, 5, 1, true};
  return nullptr;
}
const char* device_without_pools(std::int32_t, CudaDeviceInfo* info) {
  *info = {"Part", 9, 0, 1, false};
  return nullptr;
}
const char* new_device(std::int32_t, CudaDeviceInfo* info) {
  *info = {"New", 12, 0, 1, true};
  return nullptr;
}

std::string reason_of(const CudaTable& table, std::int32_t index) {
  CudaTable whole = table;
  whole.version = kCudaTableVersion;
  const std::string name = "cuda:" + std::to_string(index);
  const intflash_status status = check_cuda_device(library_of("here", &whole), name.c_str(), index);
  if (status == INTFLASH_OK) return "";
  EXPECT_EQ(status, INTFLASH_DEVICE_UNAVAILABLE);
  return intflash_last_error();
}

TEST(Device, IsUnavailableForAReasonThatIsSaid) {
  CudaTable table{};
  table.count_devices = no_driver;
  EXPECT_EQ(reason_of(table, 0), "device cuda:0: the driver is too old");
  table.count_devices = no_device;
  EXPECT_EQ(reason_of(table, 0), "device cuda:0: the driver has no device");
  table.count_devices = two_devices;
  EXPECT_EQ(reason_of(table, 2), "device cuda:2: there are 2, from cuda:0 on");
  table.describe_device = old_device;
  EXPECT_EQ(reason_of(table, 1),
            "device cuda:1: Old has compute capability 7.5: must be 8.0 or later");
  table.describe_device = device_without_pools;
  EXPECT_EQ(reason_of(table, 1), "device cuda:1: Part has no memory pools");
  table.describe_device = new_device;
  EXPECT_EQ(reason_of(table, 1), "");
}

}  // namespace
}  // namespace intflash::internal

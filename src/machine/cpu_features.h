// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which instruction sets this process may use: the CPU has them, and the OS saves their registers.
#pragma once

#include <cstdint>

namespace intflash::internal {

// One bit per group of instructions that a port uses together, lesser groups first.
enum CpuFeature : std::uint32_t {
  kAvx2 = 1u << 0,        // AVX2, FMA, F16C, BMI2
  kAvxVnni = 1u << 1,     // VEX-encoded vpdpbusd
  kAvx512Vnni = 1u << 2,  // AVX-512 F, BW, VL, DQ, VNNI
  kAvx512Vbmi = 1u << 3,
  kAmxInt8 = 1u << 4,      // AMX-TILE, AMX-INT8
  kNeonDotprod = 1u << 5,  // sdot; sqrdmlah of ARMv8.1
  kNeonI8mm = 1u << 6,     // smmla, usmmla
};

struct CpuidRegisters {
  std::uint32_t eax, ebx, ecx, edx;
};

// Where the decoder for x86-64 reads; a test answers for a CPU of its own.
class CpuReader {
 public:
  virtual CpuidRegisters cpuid(std::uint32_t leaf, std::uint32_t subleaf) const = 0;
  // Register states that the OS saves on a context switch; only asked for when CPUID says it can
  // be.
  virtual std::uint64_t xcr0() const = 0;
  // Register states, by the same bits, that the OS lets a process have, some only if it asks.
  virtual std::uint64_t grantable() const = 0;

 protected:
  ~CpuReader() = default;
};

// What Linux and Android tell about an AArch64 CPU: AT_HWCAP and AT_HWCAP2 of the auxiliary vector.
struct Hwcaps {
  std::uint64_t hwcap, hwcap2;
};

// What macOS tells: whether the sysctl of this name is there and not 0.
using SysctlReader = bool (*)(const char* name);

struct CpuFeatures {
  std::uint32_t in_cpu;  // CpuFeature bits that the CPU has
  std::uint32_t in_os;   // CpuFeature bits whose registers the OS saves
  char model_name[49];   // as CPUID gives it; "" where there is none
};

CpuFeatures decode_cpu_features(const CpuReader& reader) noexcept;
CpuFeatures decode_cpu_features(Hwcaps hwcaps) noexcept;
CpuFeatures decode_cpu_features(SysctlReader is_set) noexcept;

// Why code that needs all the required bits cannot run; nullptr where it can.
const char* missing_feature(const CpuFeatures& features, std::uint32_t required) noexcept;

// The CPU we run on, read once.
const CpuFeatures& this_cpu() noexcept;

// The same question about this process. Asks the kernel for nothing: a process that has AMX cannot
// have signal stacks that are too small for its registers, whether it uses them or not.
const char* missing_feature(std::uint32_t required) noexcept;

// To be called before code that needs the required bits, which are not missing, runs: nullptr, or
// why the kernel refuses the permission that AMX needs. Linux grants it per process; it is asked
// for once.
const char* request_permission(std::uint32_t required) noexcept;

// What request_permission has answered; nullptr also where it was not called.
const char* earlier_refusal(std::uint32_t required) noexcept;

}  // namespace intflash::internal

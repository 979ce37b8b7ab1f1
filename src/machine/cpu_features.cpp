// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "machine/cpu_features.h"

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace intflash::internal {
namespace {

struct FeatureText {
  CpuFeature feature;
  const char* missing_in_cpu;
  const char* missing_in_os;
};
constexpr FeatureText kFeatureTexts[] = {
    {kAvx2, "CPU lacks AVX2, FMA, F16C or BMI2", "OS does not save AVX state"},
    {kAvxVnni, "CPU lacks AVX-VNNI", "OS does not save AVX state"},
    {kAvx512Vnni, "CPU lacks AVX-512 F, BW, VL, DQ or VNNI", "OS does not save AVX-512 state"},
    {kAvx512Vbmi, "CPU lacks AVX-512 VBMI", "OS does not save AVX-512 state"},
    {kAmxInt8, "CPU lacks AMX-INT8", "OS does not save AMX state"},
    {kNeonDotprod, "CPU lacks NEON dot products", ""},
    {kNeonI8mm, "CPU lacks NEON INT8 matrix products", ""},
};

constexpr std::uint64_t bit(int index) { return std::uint64_t{1} << index; }

template <class Register>
constexpr bool has_all(Register value, std::uint64_t wanted) {
  return (value & wanted) == wanted;
}

// Bits of XCR0, by the register state they stand for.
constexpr std::uint64_t kAvxState = bit(1) | bit(2);                          // XMM, upper YMM
constexpr std::uint64_t kAvx512State = kAvxState | bit(5) | bit(6) | bit(7);  // masks, ZMM
constexpr std::uint64_t kTileData = bit(18);
constexpr std::uint64_t kAmxState = bit(17) | kTileData;  // TILECFG, TILEDATA

std::uint32_t decode_instructions(const CpuReader& reader, std::uint32_t max_leaf) {
  if (max_leaf < 7) return 0;
  const CpuidRegisters leaf1 = reader.cpuid(1, 0);
  const CpuidRegisters leaf7 = reader.cpuid(7, 0);  // EAX: its last subleaf
  const CpuidRegisters leaf7_1 = leaf7.eax >= 1 ? reader.cpuid(7, 1) : CpuidRegisters{};

  std::uint32_t found = 0;
  const std::uint64_t fma = bit(12), avx = bit(28), f16c = bit(29), avx2 = bit(5), bmi2 = bit(8);
  if (has_all(leaf1.ecx, fma | avx | f16c) && has_all(leaf7.ebx, avx2 | bmi2)) found |= kAvx2;

  const std::uint64_t avx_vnni = bit(4);
  if (has_all(leaf7_1.eax, avx_vnni)) found |= kAvxVnni;

  const std::uint64_t f = bit(16), dq = bit(17), bw = bit(30), vl = bit(31), vnni = bit(11);
  if (has_all(leaf7.ebx, f | dq | bw | vl) && has_all(leaf7.ecx, vnni)) found |= kAvx512Vnni;

  const std::uint64_t vbmi = bit(1);
  if (has_all(leaf7.ecx, vbmi)) found |= kAvx512Vbmi;

  const std::uint64_t amx_tile = bit(24), amx_int8 = bit(25);
  if (has_all(leaf7.edx, amx_tile | amx_int8)) found |= kAmxInt8;
  return found;
}

std::uint32_t decode_saved_states(const CpuReader& reader, std::uint32_t max_leaf) {
  // Without OSXSAVE, XGETBV is an invalid instruction.
  const std::uint64_t osxsave = bit(27);
  if (max_leaf < 1 || !has_all(reader.cpuid(1, 0).ecx, osxsave)) return 0;
  const std::uint64_t saved = reader.xcr0();
  std::uint32_t found = 0;
  if (has_all(saved, kAvxState)) found |= kAvx2 | kAvxVnni;
  if (has_all(saved, kAvx512State)) found |= kAvx512Vnni | kAvx512Vbmi;
  if (has_all(saved, kAmxState) && has_all(reader.grantable(), kTileData)) found |= kAmxInt8;
  return found;
}

void decode_model_name(const CpuReader& reader, char (&name)[49]) {
  const std::uint32_t first = 0x80000002, last = 0x80000004;  // 16 characters each
  if (reader.cpuid(0x80000000, 0).eax < last) return;
  for (std::uint32_t leaf = first; leaf <= last; ++leaf) {
    const CpuidRegisters text = reader.cpuid(leaf, 0);
    std::memcpy(name + (leaf - first) * sizeof text, &text, sizeof text);
  }
  const std::size_t indent = std::strspn(name, " ");  // some Intel CPUs pad on the left
  std::memmove(name, name + indent, sizeof name - indent);
}

// NEON's registers are always saved: what the OS tells of is there and usable.
CpuFeatures neon_features(bool dotprod, bool i8mm) {
  CpuFeatures features{};
  features.in_cpu = (dotprod ? kNeonDotprod : 0u) | (i8mm ? kNeonI8mm : 0u);
  features.in_os = features.in_cpu;
  return features;
}

#if defined(__x86_64__)

class ThisCpu final : public CpuReader {
 public:
  CpuidRegisters cpuid(std::uint32_t leaf, std::uint32_t subleaf) const override {
    CpuidRegisters r;
    __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
    return r;
  }
  std::uint64_t xcr0() const override {
    // Not _xgetbv: that needs -mxsave, and this file is compiled for any CPU.
    std::uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return std::uint64_t{high} << 32 | low;
  }
  std::uint64_t grantable() const override {
    constexpr long kArchGetXcompSupp = 0x1021;
    std::uint64_t states = 0;
    return syscall(SYS_arch_prctl, kArchGetXcompSupp, &states) == 0 ? states : 0;
  }
};

// 0, or the kernel's errno.
int request_amx() {
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXfeatureXtiledata = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtiledata) == 0 ? 0 : errno;
}

CpuFeatures read_this_cpu() { return decode_cpu_features(ThisCpu()); }

#else

#if defined(__aarch64__) && defined(__APPLE__)
CpuFeatures read_this_cpu() {
  return decode_cpu_features([](const char* name) {
    int value = 0;
    std::size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
  });
}
#elif defined(__aarch64__)
CpuFeatures read_this_cpu() {
  return decode_cpu_features(Hwcaps{getauxval(AT_HWCAP), getauxval(AT_HWCAP2)});
}
#else
CpuFeatures read_this_cpu() { return {}; }
#endif

int request_amx() { return ENOSYS; }

#endif

std::atomic<const char*> amx_refusal{nullptr};

void request_amx_once() {
  static char text[64];
  [[maybe_unused]] static const bool asked = [] {
    if (const int error = request_amx(); error != 0) {
      std::snprintf(text, sizeof text, "kernel refused AMX permission: errno %d", error);
      amx_refusal = text;
    }
    return true;
  }();
}

}  // namespace

CpuFeatures decode_cpu_features(const CpuReader& reader) noexcept {
  CpuFeatures features{};
  const std::uint32_t max_leaf = reader.cpuid(0, 0).eax;
  features.in_cpu = decode_instructions(reader, max_leaf);
  features.in_os = decode_saved_states(reader, max_leaf);
  decode_model_name(reader, features.model_name);
  return features;
}

CpuFeatures decode_cpu_features(Hwcaps hwcaps) noexcept {
  const std::uint64_t asimdrdm = bit(12), asimddp = bit(20);
  const std::uint64_t i8mm = bit(13);
  return neon_features(has_all(hwcaps.hwcap, asimdrdm | asimddp), has_all(hwcaps.hwcap2, i8mm));
}

CpuFeatures decode_cpu_features(SysctlReader is_set) noexcept {
  return neon_features(is_set("hw.optional.arm.FEAT_RDM") && is_set("hw.optional.arm.FEAT_DotProd"),
                       is_set("hw.optional.arm.FEAT_I8MM"));
}

const char* missing_feature(const CpuFeatures& features, std::uint32_t required) noexcept {
  for (const FeatureText& text : kFeatureTexts) {
    if (!(required & text.feature)) continue;
    if (!(features.in_cpu & text.feature)) return text.missing_in_cpu;
    if (!(features.in_os & text.feature)) return text.missing_in_os;
  }
  return nullptr;
}

const CpuFeatures& this_cpu() noexcept {
  static const CpuFeatures features = read_this_cpu();
  return features;
}

const char* missing_feature(std::uint32_t required) noexcept {
  return missing_feature(this_cpu(), required);
}

const char* request_permission(std::uint32_t required) noexcept {
  if (required & kAmxInt8) request_amx_once();
  return earlier_refusal(required);
}

const char* earlier_refusal(std::uint32_t required) noexcept {
  return required & kAmxInt8 ? amx_refusal.load() : nullptr;
}

}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Decoding of CPUID and XCR0, and of what the OS tells about an AArch64 CPU, driven by CPUs made up
// here.
#include "machine/cpu_features.h"

#include <cstring>
#include <map>
#include <string>
#include <utility>

#include <gtest/gtest.h>

namespace intflash::internal {
namespace {

constexpr std::uint32_t bit(int index) { return 1u << index; }

constexpr std::uint64_t kSseOnly = 0x3;
constexpr std::uint64_t kUpToAvx = 0x7;
constexpr std::uint64_t kUpToAvx512 = 0xe7;
constexpr std::uint64_t kUpToAmx = 0x600e7;

class FakeCpu final : public CpuReader {
 public:
  CpuidRegisters cpuid(std::uint32_t leaf, std::uint32_t subleaf) const override {
    const auto found = leaves.find({leaf, subleaf});
    return found == leaves.end() ? CpuidRegisters{} : found->second;
  }
  std::uint64_t xcr0() const override {
    EXPECT_TRUE(cpuid(1, 0).ecx & bit(27)) << "xgetbv traps where OSXSAVE is not set";
    return saved_states;
  }
  std::uint64_t grantable() const override { return grantable_states; }

  std::map<std::pair<std::uint32_t, std::uint32_t>, CpuidRegisters> leaves;
  std::uint64_t saved_states = kSseOnly;
  std::uint64_t grantable_states = kUpToAmx;
};

// Everything that a port can ask for, under an OS that saves it all.
FakeCpu full_cpu() {
  FakeCpu cpu;
  cpu.leaves[{0, 0}].eax = 7;
  cpu.leaves[{1, 0}].ecx = bit(12) | bit(27) | bit(28) | bit(29);
  cpu.leaves[{7, 0}] = {.eax = 1,
                        .ebx = bit(5) | bit(8) | bit(16) | bit(17) | bit(30) | bit(31),
                        .ecx = bit(1) | bit(11),
                        .edx = bit(24) | bit(25)};
  cpu.leaves[{7, 1}].eax = bit(4);
  cpu.saved_states = kUpToAmx;
  return cpu;
}

constexpr std::uint32_t kEverything = kAvx2 | kAvxVnni | kAvx512Vnni | kAvx512Vbmi | kAmxInt8;

std::uint32_t usable(const FakeCpu& cpu) {
  const CpuFeatures features = decode_cpu_features(cpu);
  return features.in_cpu & features.in_os;
}

std::string reason(const FakeCpu& cpu, std::uint32_t required) {
  const char* missing = missing_feature(decode_cpu_features(cpu), required);
  return missing ? missing : "";
}

TEST(CpuFeatures, ACpuWithEverythingUnderAnOsThatSavesItAllOffersEverything) {
  EXPECT_EQ(usable(full_cpu()), kEverything);
  EXPECT_EQ(reason(full_cpu(), kEverything), "");
}

TEST(CpuFeatures, ACpuThatAnswersNoLeafOffersNothing) {
  EXPECT_EQ(usable(FakeCpu()), 0u);
  EXPECT_EQ(reason(FakeCpu(), 0), "");
  EXPECT_EQ(reason(FakeCpu(), kAvx2), "CPU lacks AVX2, FMA, F16C or BMI2");
}

TEST(CpuFeatures, WithoutOsxsaveNothingIsUsableAndXgetbvIsNotExecuted) {
  FakeCpu cpu = full_cpu();
  cpu.leaves[{1, 0}].ecx &= ~bit(27);
  EXPECT_EQ(usable(cpu), 0u);
  EXPECT_EQ(reason(cpu, kAvx2), "OS does not save AVX state");
}

TEST(CpuFeatures, RegistersThatTheOsDoesNotSaveHideTheirInstructions) {
  FakeCpu cpu = full_cpu();
  cpu.saved_states = kUpToAvx512;
  EXPECT_EQ(usable(cpu), kEverything & ~kAmxInt8);
  EXPECT_EQ(reason(cpu, kEverything), "OS does not save AMX state");
  cpu.saved_states = kUpToAvx;
  EXPECT_EQ(usable(cpu), kAvx2 | kAvxVnni);
  EXPECT_EQ(reason(cpu, kAvx512Vnni), "OS does not save AVX-512 state");
  cpu.saved_states = kSseOnly;
  EXPECT_EQ(usable(cpu), 0u);
}

TEST(CpuFeatures, EveryPartOfASavedStateIsNeeded) {
  for (const int missing : {5, 6, 7}) {
    FakeCpu cpu = full_cpu();
    cpu.saved_states = kUpToAvx512 & ~std::uint64_t{bit(missing)};
    EXPECT_EQ(usable(cpu), kAvx2 | kAvxVnni) << "XCR0 bit " << missing;
  }
  for (const int missing : {17, 18}) {
    FakeCpu cpu = full_cpu();
    cpu.saved_states &= ~std::uint64_t{bit(missing)};
    EXPECT_EQ(usable(cpu), kEverything & ~kAmxInt8) << "XCR0 bit " << missing;
  }
}

TEST(CpuFeatures, TileRegistersThatTheOsGrantsNobodyHideAmx) {
  FakeCpu cpu = full_cpu();
  cpu.grantable_states = kUpToAvx512;
  EXPECT_EQ(usable(cpu), kEverything & ~kAmxInt8);
  EXPECT_EQ(reason(cpu, kAmxInt8), "OS does not save AMX state");
}

TEST(CpuFeatures, AGroupIsThereOnlyWhenEveryInstructionOfItIs) {
  const auto without = [](std::uint32_t leaf, std::uint32_t CpuidRegisters::*reg, int index) {
    FakeCpu cpu = full_cpu();
    cpu.leaves[{leaf, 0}].*reg &= ~bit(index);
    return usable(cpu);
  };
  for (const int index : {12, 28, 29}) {
    EXPECT_EQ(without(1, &CpuidRegisters::ecx, index), kEverything & ~kAvx2) << index;
  }
  for (const int index : {5, 8}) {
    EXPECT_EQ(without(7, &CpuidRegisters::ebx, index), kEverything & ~kAvx2) << index;
  }
  for (const int index : {16, 17, 30, 31}) {
    EXPECT_EQ(without(7, &CpuidRegisters::ebx, index), kEverything & ~kAvx512Vnni) << index;
  }
  EXPECT_EQ(without(7, &CpuidRegisters::ecx, 11), kEverything & ~kAvx512Vnni);
  EXPECT_EQ(without(7, &CpuidRegisters::ecx, 1), kEverything & ~kAvx512Vbmi);
  for (const int index : {24, 25}) {
    EXPECT_EQ(without(7, &CpuidRegisters::edx, index), kEverything & ~kAmxInt8) << index;
  }
}

TEST(CpuFeatures, ASubleafBeyondTheCpusLastIsNotBelieved) {
  FakeCpu cpu = full_cpu();
  cpu.leaves[{7, 0}].eax = 0;
  EXPECT_EQ(usable(cpu), kEverything & ~kAvxVnni);
  EXPECT_EQ(reason(cpu, kAvx2 | kAvxVnni), "CPU lacks AVX-VNNI");
}

TEST(CpuFeatures, ALeafBeyondTheCpusLastIsNotBelieved) {
  FakeCpu cpu = full_cpu();
  cpu.leaves[{0, 0}].eax = 6;
  EXPECT_EQ(usable(cpu), 0u);
}

TEST(CpuFeatures, TheReasonNamesTheFirstGroupThatIsMissing) {
  FakeCpu cpu = full_cpu();
  cpu.leaves[{7, 0}].edx = 0;
  EXPECT_EQ(reason(cpu, kAvx512Vnni | kAmxInt8), "CPU lacks AMX-INT8");
  cpu.leaves[{7, 0}].ecx = 0;
  EXPECT_EQ(reason(cpu, kAvx512Vnni | kAmxInt8), "CPU lacks AVX-512 F, BW, VL, DQ or VNNI");
}

TEST(CpuFeatures, TheModelNameIsReadWithoutItsIndentation) {
  FakeCpu cpu = full_cpu();
  cpu.leaves[{0x80000000, 0}].eax = 0x80000004;
  char text[48] = "   Made-up CPU @ 4.77MHz";
  for (std::uint32_t i = 0; i < 3; ++i) {
    std::memcpy(&cpu.leaves[{0x80000002 + i, 0}], text + 16 * i, 16);
  }
  EXPECT_STREQ(decode_cpu_features(cpu).model_name, "Made-up CPU @ 4.77MHz");
}

TEST(CpuFeatures, AModelNameOfAllItsCharactersIsTerminated) {
  FakeCpu cpu = full_cpu();
  cpu.leaves[{0x80000000, 0}].eax = 0x80000004;
  const std::string text(48, 'x');
  for (std::uint32_t i = 0; i < 3; ++i) {
    std::memcpy(&cpu.leaves[{0x80000002 + i, 0}], text.data() + 16 * i, 16);
  }
  EXPECT_EQ(decode_cpu_features(cpu).model_name, text);
}

TEST(CpuFeatures, ACpuWithoutAModelNameHasAnEmptyOne) {
  EXPECT_STREQ(decode_cpu_features(full_cpu()).model_name, "");
}

TEST(CpuFeatures, ThisCpuGivesTheSameAnswerEachTime) {
  EXPECT_EQ(missing_feature(0), nullptr);
  EXPECT_EQ(missing_feature(kEverything), missing_feature(kEverything));
}

// ---- AArch64 ----

constexpr std::uint32_t kAllOfNeon = kNeonDotprod | kNeonI8mm;
// As qemu 7.2 models them; kMax has all that it knows but SVE.
constexpr Hwcaps kCortexA72 = {0x8fb, 0};
constexpr Hwcaps kNeoverseN1 = {0x119ffb, 0};
constexpr Hwcaps kMax = {0xecbffffb, 0x76181};

std::uint32_t usable(Hwcaps hwcaps) {
  const CpuFeatures features = decode_cpu_features(hwcaps);
  return features.in_cpu & features.in_os;
}

TEST(ArmFeatures, HwcapsOfKnownCpusOfferWhatTheyHave) {
  EXPECT_EQ(usable({0, 0}), 0u);
  EXPECT_EQ(usable(kCortexA72), 0u);
  EXPECT_EQ(usable(kNeoverseN1), kNeonDotprod);
  EXPECT_EQ(usable(kMax), kAllOfNeon);
}

TEST(ArmFeatures, EachHwcapBitCountsForItsGroupAlone) {
  const std::uint64_t asimdrdm = bit(12), asimddp = bit(20), i8mm = bit(13);
  EXPECT_EQ(usable({asimdrdm | asimddp, i8mm}), kAllOfNeon);
  EXPECT_EQ(usable({asimdrdm | asimddp, ~i8mm}), kNeonDotprod);
  EXPECT_EQ(usable({~asimddp, i8mm}), kNeonI8mm);
  EXPECT_EQ(usable({~asimdrdm, i8mm}), kNeonI8mm);
}

TEST(ArmFeatures, SysctlsOfTheirNamesOfferTheSame) {
  const auto usable_where = [](SysctlReader is_set) {
    const CpuFeatures features = decode_cpu_features(is_set);
    return features.in_cpu & features.in_os;
  };
  EXPECT_EQ(usable_where([](const char*) { return false; }), 0u);
  EXPECT_EQ(usable_where([](const char*) { return true; }), kAllOfNeon);
  EXPECT_EQ(usable_where(
                [](const char* name) { return std::string(name) != "hw.optional.arm.FEAT_I8MM"; }),
            kNeonDotprod);
  EXPECT_EQ(usable_where([](const char* name) {
              return std::string(name) != "hw.optional.arm.FEAT_DotProd";
            }),
            kNeonI8mm);
  EXPECT_EQ(usable_where(
                [](const char* name) { return std::string(name) != "hw.optional.arm.FEAT_RDM"; }),
            kNeonI8mm);
}

TEST(ArmFeatures, TheReasonNamesWhatIsMissing) {
  EXPECT_STREQ(missing_feature(decode_cpu_features(kCortexA72), kAllOfNeon),
               "CPU lacks NEON dot products");
  EXPECT_STREQ(missing_feature(decode_cpu_features(kNeoverseN1), kAllOfNeon),
               "CPU lacks NEON INT8 matrix products");
  EXPECT_EQ(missing_feature(decode_cpu_features(kMax), kAllOfNeon), nullptr);
}

}  // namespace
}  // namespace intflash::internal

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Every port gives the bits of the scalar port, over a pairwise cover of all that a call may be.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <ostream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "attention_case.h"
#include "machine/cpu_features.h"
#include "pairwise.h"
#include "seed.h"
#include "test_ports.h"

namespace intflash::internal {
namespace {

// One case, and how the ports under test run it.
struct Trial {
  AttentionCase attention;
  RunOptions options;
};
void PrintTo(const Trial& trial, std::ostream* out) {
  *out << describe(trial.attention) << " threads " << trial.options.num_threads;
}

void expect_ports_agree(const Trial& trial) {
  AttentionCase c = trial.attention;
  c.seed = seed_from_test_name();
  const CaseResult expected = run_case(c, scalar_port());
  for (const PortEntry& port : ports_under_test()) {
    EXPECT_EQ(difference(c, run_case(c, port, trial.options), expected), "")
        << port.name << ": " << describe(c);
  }
  ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error << describe(c);
  const Numbers numbers = numbers_of(c, expected);
  const auto is_nan = [](double x) { return std::isnan(x); };
  EXPECT_TRUE(std::none_of(numbers.out.begin(), numbers.out.end(), is_nan)) << describe(c);
  EXPECT_TRUE(std::none_of(numbers.lse.begin(), numbers.lse.end(), is_nan)) << describe(c);
}

// ---- The factors ----

constexpr std::int64_t kLengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 129, 1000, 4097};
constexpr int kFirstLong = 10;  // index of the first length that goes with few heads only
constexpr std::int64_t kHeadDims[] = {8, 40, 64, 72, 80, 96, 112, 128, 192, 256, 512, 576, 1024};
constexpr std::int64_t kValueDims[] = {0, 8, 40, 72, 128, 256};  // 0 = head_dim

struct Heads {
  std::int64_t batch, num_kv_heads, group_size;
};
constexpr Heads kHeads[] = {{1, 1, 1}, {1, 1, 3}, {1, 2, 4}, {1, 1, 8}, {2, 3, 1}};

struct Mask {
  intflash_mask kind;
  std::int64_t left, right, prefix;  // a longer prefix than there are keys is all of them
};
constexpr Mask kMasks[] = {
    {INTFLASH_MASK_NONE, 0, 0, 0},      {INTFLASH_MASK_CAUSAL, 0, 0, 0},
    {INTFLASH_MASK_WINDOW, 0, 0, 0},    {INTFLASH_MASK_WINDOW, 100, 0, 0},
    {INTFLASH_MASK_WINDOW, 5, 70, 0},   {INTFLASH_MASK_WINDOW, -1, 3, 0},
    {INTFLASH_MASK_WINDOW, 0, -1, 0},   {INTFLASH_MASK_PREFIX, 0, 0, 70},
    {INTFLASH_MASK_PREFIX, 0, 0, 1010}, {INTFLASH_MASK_CAUSAL_TOP_LEFT, 0, 0, 0},
};

struct Codec {
  intflash_dtype dtype;
  std::int64_t scale_block;
  bool one_scale;
};
constexpr Codec kCodecs[] = {{INTFLASH_F32, 1, false},     {INTFLASH_F16, 1, false},
                             {INTFLASH_BF16, 1, false},    {INTFLASH_INT8, 1, false},
                             {INTFLASH_INT8, 50, false},   {INTFLASH_INT8, 0, true},
                             {INTFLASH_F8_E4M3, 1, false}, {INTFLASH_F8_E5M2, 1, false},
                             {INTFLASH_Q8_0, 1, false},    {INTFLASH_Q4_0, 1, false}};
constexpr int kFirstBlocks = 8;  // index of the first codec of keys and values alone
constexpr intflash_dtype kOutDtypes[] = {INTFLASH_F32, INTFLASH_F16, INTFLASH_BF16};

struct Center {
  intflash_center kind;
  bool given;
};
constexpr Center kCenters[] = {{INTFLASH_CENTER_NONE, false},
                               {INTFLASH_CENTER_KEY, false},
                               {INTFLASH_CENTER_KEY, true},
                               {INTFLASH_CENTER_KEY_VALUE, false},
                               {INTFLASH_CENTER_KEY_VALUE, true}};

constexpr float kCaps[] = {0, 30, 0.7f};
constexpr std::int32_t kThreads[] = {1, 2, 3, 7};
constexpr float kSoftmaxScales[] = {0, 1, 0.01f};

struct Magnitudes {
  float query, key, value;
};
constexpr Magnitudes kMagnitudes[] = {
    {1, 1, 1},          {1e-18f, 1e-18f, 1e-18f}, {1e15f, 1e15f, 1e15f}, {1e-18f, 1e15f, 1e15f},
    {1e15f, 1e-18f, 1}, {30, 30, 1e4f},           {0.01f, 1, 1e-4f}};

enum Factor {
  kQueryLen,
  kKvLen,
  kHeadDim,
  kValueDim,
  kHeadCounts,
  kMask,
  kQueryLayout,
  kKeyLayout,
  kValueLayout,
  kOutLayout,
  kQueryCodec,
  kKeyCodec,
  kValueCodec,
  kOutDtype,
  kCenter,
  kCap,
  kRotate,
  kDigits,
  kNumThreads,
  kData,
  kMagnitude,
  kSoftmaxScale,
  kLse,
  kPacked,
  kBias,
  kSinks,
  kF16Values,
  kNumFactors
};

template <class T>
constexpr int count_of(const T& levels) {
  return static_cast<int>(std::size(levels));
}

bool is_int8(int codec) { return kCodecs[codec].dtype == INTFLASH_INT8; }
// ggml's blocks take rows of whole ones. A head_dim_v of head_dim is left out: the rule sees pairs.
bool has_blocks(int codec) { return codec >= kFirstBlocks; }
bool is_whole_blocks(std::int64_t dim) { return dim > 0 && dim % kBlockElements == 0; }

bool centers_key(int center) { return center >= 1; }
bool centers_value(int center) { return center >= 3; }

// The distributions whose largest elements, times 1e15, would leave the range of scores.
bool is_wide(int data) {
  const auto kind = static_cast<CaseData>(data);
  return kind == CaseData::kOutliers || kind == CaseData::kChannelBias || kind == CaseData::kOneHot;
}
constexpr int kLargeMagnitude = 2;

// Long lengths go with few heads and not with each other; codes are not centred.
bool allowed(int f, int a, int g, int b) {
  if (f == kQueryLen && g == kKvLen) return a < kFirstLong || b < kFirstLong;
  if ((f == kQueryLen || f == kKvLen) && g == kHeadCounts) return a < kFirstLong || b <= 1;
  if (f == kKeyCodec && g == kCenter) return !(is_int8(a) && centers_key(b));
  if (f == kValueCodec && g == kCenter) return !(is_int8(a) && centers_value(b));
  if (f == kHeadDim && g == kKeyCodec) return !has_blocks(b) || is_whole_blocks(kHeadDims[a]);
  if (f == kValueDim && g == kValueCodec) return !has_blocks(b) || is_whole_blocks(kValueDims[a]);
  if (f == kData && g == kMagnitude) return !(is_wide(a) && b == kLargeMagnitude);
  return true;
}

CaseTensor tensor_of(const Codec& codec, int layout, float magnitude) {
  return {codec.dtype, static_cast<Layout>(layout), codec.scale_block, codec.one_scale, magnitude};
}

Trial trial_of(const std::vector<int>& row) {
  const auto level = [&](Factor f) { return row[f]; };
  const Heads heads = kHeads[level(kHeadCounts)];
  const Mask mask = kMasks[level(kMask)];
  const Center center = kCenters[level(kCenter)];
  const Magnitudes magnitudes = kMagnitudes[level(kMagnitude)];
  Trial trial;
  AttentionCase& c = trial.attention;
  c.batch = heads.batch;
  c.num_kv_heads = heads.num_kv_heads;
  c.group_size = heads.group_size;
  // Quick cases stay long enough for two spans of keys, and for several items of rows.
  c.query_len = quick_length(kLengths[level(kQueryLen)], 150);
  c.kv_len = quick_length(kLengths[level(kKvLen)], 1100);
  c.head_dim = kHeadDims[level(kHeadDim)];
  c.head_dim_v = kValueDims[level(kValueDim)] == 0 ? c.head_dim : kValueDims[level(kValueDim)];
  c.query = tensor_of(kCodecs[level(kQueryCodec)], level(kQueryLayout), magnitudes.query);
  c.key = tensor_of(kCodecs[level(kKeyCodec)], level(kKeyLayout), magnitudes.key);
  c.value = tensor_of(kCodecs[level(kValueCodec)], level(kValueLayout), magnitudes.value);
  c.out.dtype = kOutDtypes[level(kOutDtype)];
  c.out.layout = static_cast<Layout>(level(kOutLayout));
  c.mask = mask.kind;
  c.window_left = mask.left;
  c.window_right = mask.right;
  c.prefix_len = std::min(mask.prefix, c.kv_len);
  c.softmax_scale = kSoftmaxScales[level(kSoftmaxScale)];
  c.score_cap = kCaps[level(kCap)];
  c.center = center.kind;
  c.given_centers = center.given;
  c.rotate = level(kRotate) == 1;
  c.score_digits = level(kDigits);
  c.lse = level(kLse) == 1;
  c.data = static_cast<CaseData>(level(kData));
  trial.options.num_threads = kThreads[level(kNumThreads)];
  trial.options.packed = level(kPacked) == 1;
  c.bias = static_cast<CaseBias>(level(kBias));
  c.sinks = level(kSinks) == 1;
  c.mode = level(kF16Values) == 1 ? INTFLASH_MODE_INT8_QK : INTFLASH_MODE_INT8;
  return trial;
}

std::vector<Trial> pairwise_trials() {
  std::vector<int> levels(kNumFactors, 2);
  levels[kQueryLen] = levels[kKvLen] = count_of(kLengths);
  levels[kHeadDim] = count_of(kHeadDims);
  levels[kValueDim] = count_of(kValueDims);
  levels[kHeadCounts] = count_of(kHeads);
  levels[kMask] = count_of(kMasks);
  levels[kQueryLayout] = levels[kKeyLayout] = levels[kValueLayout] = levels[kOutLayout] = 3;
  levels[kQueryCodec] = kFirstBlocks;
  levels[kKeyCodec] = levels[kValueCodec] = count_of(kCodecs);
  levels[kOutDtype] = count_of(kOutDtypes);
  levels[kCenter] = count_of(kCenters);
  levels[kCap] = count_of(kCaps);
  levels[kDigits] = 3;
  levels[kNumThreads] = count_of(kThreads);
  levels[kData] = static_cast<int>(CaseData::kSinks) + 1;
  levels[kMagnitude] = count_of(kMagnitudes);
  levels[kSoftmaxScale] = count_of(kSoftmaxScales);
  levels[kBias] = static_cast<int>(CaseBias::kAll) + 1;
  std::vector<Trial> trials;
  for (const std::vector<int>& row : pairwise_cover(levels, allowed))
    trials.push_back(trial_of(row));
  return trials;
}

std::string name_of(const testing::TestParamInfo<Trial>& info) {
  const AttentionCase& c = info.param.attention;
  std::ostringstream name;
  name << info.index << "_q" << c.query_len << "_k" << c.kv_len << "_d" << c.head_dim << "_v"
       << c.head_dim_v;
  return name.str();
}

// ---- The tests ----

class PortAgreement : public testing::TestWithParam<Trial> {};

TEST_P(PortAgreement, EveryPortGivesTheBitsOfScalar) { expect_ports_agree(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Pairwise, PortAgreement, testing::ValuesIn(pairwise_trials()), name_of);

// Every pair of lengths, the long ones with each other too, with one small head.
std::vector<Trial> length_trials() {
  std::vector<Trial> trials;
  for (const std::int64_t query_len : kLengths) {
    for (const std::int64_t kv_len : kLengths) {
      Trial trial;
      trial.attention.query_len = quick_length(query_len, 200);
      trial.attention.kv_len = quick_length(kv_len, 1100);
      trial.attention.head_dim = trial.attention.head_dim_v = 40;
      trial.attention.mask = INTFLASH_MASK_CAUSAL;
      trial.options.num_threads = 2;
      trials.push_back(trial);
    }
  }
  return trials;
}

class PortLengths : public testing::TestWithParam<Trial> {};

TEST_P(PortLengths, EveryPortGivesTheBitsOfScalar) { expect_ports_agree(GetParam()); }

INSTANTIATE_TEST_SUITE_P(AllPairs, PortLengths, testing::ValuesIn(length_trials()), name_of);

// A row's visible keys may begin and end anywhere in a score block.
TEST(PortMasks, EveryEndOfAWindowGivesTheBitsOfScalar) {
  Trial trial;
  trial.attention.query_len = 260;
  trial.attention.kv_len = 260;
  trial.attention.head_dim = 8;
  trial.attention.head_dim_v = 16;
  trial.attention.mask = INTFLASH_MASK_WINDOW;
  for (const std::int64_t left : {0, 1, 62, 63, 64, 127, 128, 200}) {
    for (const std::int64_t right : {0, 1, 63, 130}) {
      trial.attention.window_left = left;
      trial.attention.window_right = right;
      expect_ports_agree(trial);
    }
  }
}

TEST(PortMasks, RowsThatSeeNoKeyGiveTheBitsOfScalar) {
  Trial trial;
  trial.attention.query_len = 150;  // 70 more queries than keys
  trial.attention.kv_len = 80;
  trial.attention.group_size = 3;
  trial.attention.mask = INTFLASH_MASK_CAUSAL;
  expect_ports_agree(trial);
  trial.attention.kv_len = 0;
  expect_ports_agree(trial);
}

// Rows that do not share their factors with one that sees more: row i sees i + 1 keys, of which the
// first has no value, and the last row's own has the largest.
TEST(PortMasks, RowsThatSeeZeroValuesAloneLeaveOthersTheirFactors) {
  AttentionCase c;
  c.query_len = 5;
  c.kv_len = 40;
  c.mask = INTFLASH_MASK_CAUSAL_TOP_LEFT;
  Memory memory;
  CaseTensors tensors = make_tensors(c, memory);
  auto* keys = static_cast<float*>(tensors.args.key.data);
  auto* values = static_cast<float*>(tensors.args.value.data);
  for (std::int64_t j = 0; j < c.kv_len; ++j) {
    keys[j * c.head_dim] = 3;  // the largest, so that scales of keys have one exponent
    // A largest element of 100 has a scale in [1/2, 1): of exponent 0, as none at all.
    const float largest = j == 0 ? 0.0f : j < 4 ? 100.0f / static_cast<float>(1 << j) : 1e4f;
    for (std::int64_t i = 0; i < c.head_dim_v; ++i)
      values[j * c.head_dim_v + i] = i % 3 == 0 ? largest : -largest / 3;
  }
  std::fill_n(values + c.head_dim_v, c.head_dim_v, 100.0f);
  const CaseResult expected = run_tensors(tensors, scalar_port(), {}, memory);
  ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error;
  for (const PortEntry& port : ports_under_test())
    EXPECT_EQ(difference(c, run_tensors(tensors, port, {}, memory), expected), "") << port.name;
}

// Keys whose values are 0, 1e-4 or 1e-30 of their neighbours', and which take from 1 % of the
// weight to nearly all of it.
TEST(PortSinks, SinksOfEveryWeightGiveTheBitsOfScalar) {
  Trial trial;
  trial.attention.query_len = 40;
  trial.attention.kv_len = 300;
  trial.attention.data = CaseData::kSinks;
  for (const intflash_mask mask : {INTFLASH_MASK_NONE, INTFLASH_MASK_CAUSAL}) {
    for (const float cap : {0.0f, 20.0f}) {
      for (const float scale : {0.001f, 0.02f, 0.1f, 0.5f, 2.0f}) {
        trial.attention.mask = mask;
        trial.attention.score_cap = cap;
        trial.attention.softmax_scale = scale;
        expect_ports_agree(trial);
      }
    }
  }
}

// The largest products that the instructions meet: saturation would show here.
TEST(PortExtremes, CodesOf127EverywhereGiveTheBitsOfScalar) {
  for (const std::int64_t dim : {8, 64, 136, 576, 1024}) {
    for (const int signs : {0, 1, 2, 3}) {
      AttentionCase c;
      c.query_len = 33;
      c.kv_len = 200;
      c.head_dim = c.head_dim_v = dim;
      c.query.dtype = c.key.dtype = c.value.dtype = INTFLASH_INT8;
      Memory memory;
      CaseTensors tensors = make_tensors(c, memory);
      const auto fill = [&](const intflash_tensor& t, std::int64_t tokens, int code) {
        std::fill_n(static_cast<std::int8_t*>(t.data), tokens * dim,
                    static_cast<std::int8_t>(code));
      };
      fill(tensors.args.query, c.query_len, (signs & 1) != 0 ? -127 : 127);
      fill(tensors.args.key, c.kv_len, (signs & 2) != 0 ? -127 : 127);
      fill(tensors.args.value, c.kv_len, signs == 3 ? -127 : 127);
      const CaseResult expected = run_tensors(tensors, scalar_port(), {}, memory);
      ASSERT_EQ(expected.status, INTFLASH_OK) << expected.error;
      for (const PortEntry& port : ports_under_test())
        EXPECT_EQ(difference(c, run_tensors(tensors, port, {}, memory), expected), "") << port.name;
    }
  }
}

// What no port can compute, none computes: scores and sums of values beyond the range of f32.
TEST(PortErrors, EveryPortRefusesWhatScalarRefuses) {
  const Magnitudes beyond[] = {{1e20f, 1e20f, 1}, {1, 1e38f, 1}, {1, 1, 1e30f}};
  for (const Magnitudes& magnitudes : beyond) {
    AttentionCase c;
    c.query_len = c.kv_len = 70;
    c.query.magnitude = magnitudes.query;
    c.key.magnitude = magnitudes.key;
    c.value.magnitude = magnitudes.value;
    const CaseResult expected = run_case(c, scalar_port());
    EXPECT_EQ(expected.status, INTFLASH_SCORE_OVERFLOW) << describe(c);
    const auto poison = static_cast<std::byte>(CaseTensors::kPoison);
    EXPECT_EQ(expected.out, std::vector<std::byte>(expected.out.size(), poison));
    for (const PortEntry& port : ports_under_test()) {
      const CaseResult result = run_case(c, port);
      EXPECT_EQ(difference(c, result, expected), "") << port.name;
      EXPECT_EQ(result.error, expected.error) << port.name;
    }
  }
}

TEST(PortPeaks, CountTheOperationsOfEachRepeat) {
  for (const PortEntry& port : all_test_ports()) {
    const double operations = port.kernels->integer_peak(1);
    EXPECT_GT(operations, 0) << port.name;
    EXPECT_EQ(port.kernels->integer_peak(100), 100 * operations) << port.name;
  }
}

// ---- Nothing is left out unseen ----

// A port and the flags that it needs, as cpu_flags() names them.
struct PortFlags {
  const char* name;
  std::vector<std::string> flags;
};
void PrintTo(const PortFlags& port, std::ostream* out) { *out << port.name; }

#if defined(__aarch64__) && defined(__linux__)

std::set<std::string> cpu_flags() {
  std::set<std::string> flags;
  if ((getauxval(AT_HWCAP) & HWCAP_ASIMDRDM) != 0) flags.insert("asimdrdm");
  if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) flags.insert("asimddp");
  if ((getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0) flags.insert("i8mm");
  return flags;
}
// An emulator gives its own hardware capabilities.
bool hides_flags() { return false; }

#else

// What follows "name :" in the first processor's part of /proc/cpuinfo.
std::string cpuinfo(const std::string& name) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.rfind(name, 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "";
}

std::set<std::string> cpu_flags() {
  std::istringstream words(cpuinfo("flags"));
  return {std::istream_iterator<std::string>(words), {}};
}
// An emulator shows its host's /proc/cpuinfo; there, what CPUID says is what counts.
bool hides_flags() { return cpuinfo("model name") != this_cpu().model_name; }

#endif

class RequiredPort : public testing::TestWithParam<PortFlags> {};

TEST_P(RequiredPort, IsUnderTestWhereTheCpuHasItsInstructions) {
  const PortFlags& port = GetParam();
  const auto& tested = ports_under_test();
  const auto found = std::find_if(tested.begin(), tested.end(), [&](const PortEntry& entry) {
    return std::string(entry.name) == port.name;
  });
  if (found != tested.end()) {
    AttentionCase c;
    c.query_len = c.kv_len = 70;
    EXPECT_EQ(difference(c, run_case(c, *found), run_case(c, scalar_port())), "");
    return;
  }
  if (hides_flags()) {
    GTEST_SKIP() << port.name << ": \"" << this_cpu().model_name
                 << "\", emulated, lacks it by CPUID";
  }
  const std::set<std::string> flags = cpu_flags();
  for (const std::string& flag : port.flags) {
    if (flags.count(flag) == 0) GTEST_SKIP() << port.name << ": this CPU lacks " << flag;
  }
  const auto known = std::find_if(ports().begin(), ports().end(), [&](const PortEntry& entry) {
    return std::string(entry.name) == port.name;
  });
  FAIL() << port.name << " could run on this CPU and is not tested: "
         << (known == ports().end() ? "dispatch does not know it" : known->reason);
}

#if defined(__x86_64__)
INSTANTIATE_TEST_SUITE_P(
    , RequiredPort,
    testing::Values(PortFlags{"avx2", {"avx2", "fma", "f16c", "bmi2"}},
                    PortFlags{"avx_vnni", {"avx2", "fma", "f16c", "bmi2", "avx_vnni"}},
                    PortFlags{"avx512_vnni", {"avx512_vnni", "avx512bw", "avx512vl", "avx512dq"}},
                    PortFlags{"amx_int8", {"amx_tile", "amx_int8", "avx512_vnni", "avx512vbmi"}}),
    [](const auto& info) { return std::string(info.param.name); });
#elif defined(__aarch64__) && defined(__linux__)
INSTANTIATE_TEST_SUITE_P(, RequiredPort,
                         testing::Values(PortFlags{"neon", {}},
                                         PortFlags{"neon_dotprod", {"asimdrdm", "asimddp"}},
                                         PortFlags{"neon_i8mm", {"asimdrdm", "asimddp", "i8mm"}}),
                         [](const auto& info) { return std::string(info.param.name); });
#else
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(RequiredPort);
#endif

}  // namespace
}  // namespace intflash::internal

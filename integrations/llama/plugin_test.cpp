// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The plugin as ggml loads it, against ggml's own CPU backend and the definition.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "ggml-backend.h"
#include "ggml.h"
#include "graph.h"

namespace intflash::llama {
namespace {

constexpr std::uint64_t kSeed = 17;

ggml_backend_dev_t device() {
  static const ggml_backend_reg_t registration = ggml_backend_load(INTFLASH_PLUGIN);
  return registration == nullptr ? nullptr : ggml_backend_reg_dev_get(registration, 0);
}

// Backends of the device and of the CPU, with a number of threads.
class Plugin : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(device(), nullptr);
    backend = ggml_backend_dev_init(device(), nullptr);
    cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
    set_threads(2);
  }
  void TearDown() override {
    ggml_backend_free(backend);
    ggml_backend_free(cpu);
  }
  void set_threads(int num_threads) {
    const auto set =
        reinterpret_cast<ggml_backend_set_n_threads_t>(ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(device()), "ggml_backend_set_n_threads"));
    ASSERT_NE(set, nullptr);
    set(backend, num_threads);
  }
  bool supports(const Attention& attention) const {
    const TensorContext tensors;
    return ggml_backend_dev_supports_op(device(), build(tensors.context, attention));
  }

  // Near to the definition, and to what the CPU backend says.
  void expect_close(const Attention& attention, const std::string& name) {
    ASSERT_TRUE(supports(attention)) << name;
    const Data data = make_data(attention, kSeed);
    const std::vector<float> found = compute(backend, attention, data);
    ASSERT_FALSE(found.empty()) << name;
    EXPECT_LT(relative_error(found, compute_exactly(attention, data)), 0.015) << name;
    // ggml's own rounds queries to the type of its keys.
    EXPECT_LT(relative_error(found, compute(cpu, attention, data)), 0.03) << name;
  }
  ggml_backend_t backend = nullptr;
  ggml_backend_t cpu = nullptr;
};

constexpr ggml_type kTypes[] = {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0,
                                GGML_TYPE_Q4_0};

// Hides cells from every query.
void hide_cells(const Attention& attention, std::int64_t begin, std::int64_t end, Data& data) {
  for (std::size_t row = 0; row < data.mask.size();
       row += static_cast<std::size_t>(attention.kv_len))
    std::fill_n(data.mask.begin() + static_cast<std::int64_t>(row) + begin, end - begin,
                ggml_fp32_to_fp16(-std::numeric_limits<float>::infinity()));
}

// Bits that are NaN in every type that is not all codes.
void fill_cells(const Attention& attention, std::int64_t begin, std::int64_t end, Data& data) {
  for (std::vector<char>* rows : {&data.key, &data.value}) {
    const std::int64_t bytes = static_cast<std::int64_t>(rows->size()) / attention.kv_len;
    std::fill_n(rows->begin() + begin * bytes, (end - begin) * bytes, '\xff');
  }
}

// A constant in four pairs of channels of f16 keys, turned by position as rotary embedding does;
// queries are small there, as those of models with a bias of their keys are (Qwen2).
void add_turning_bias(const Attention& attention, float bias, std::int64_t first_pair, Data& data) {
  const std::int64_t dim = attention.head_dim;
  ggml_fp16_t* key = reinterpret_cast<ggml_fp16_t*>(data.key.data());
  for (std::int64_t pair = first_pair; pair < first_pair + 20; pair += 5) {
    const double turn = std::pow(1e6, -2.0 * static_cast<double>(pair) / static_cast<double>(dim));
    for (std::int64_t row = 0; row < attention.kv_len * attention.num_kv_heads; ++row) {
      const double angle = static_cast<double>(row / attention.num_kv_heads) * turn;
      ggml_fp16_t* cosine = key + row * dim + pair;
      ggml_fp16_t* sine = cosine + dim / 2;
      const auto add = [&](ggml_fp16_t& element, double part) {
        element = ggml_fp32_to_fp16(ggml_fp16_to_fp32(element) + bias * static_cast<float>(part));
      };
      add(*cosine, std::cos(angle));
      add(*sine, std::sin(angle));
    }
    for (std::int64_t row = 0; row < attention.query_len * attention.num_heads(); ++row) {
      data.query[static_cast<std::size_t>(row * dim + pair)] *= 0.1f;
      data.query[static_cast<std::size_t>(row * dim + pair + dim / 2)] *= 0.1f;
    }
  }
}

TEST_F(Plugin, IsAnAcceleratorThatLeavesBuffersToTheCpu) {
  EXPECT_STREQ(ggml_backend_dev_name(device()), "intflash");
  EXPECT_EQ(ggml_backend_dev_type(device()), GGML_BACKEND_DEVICE_TYPE_ACCEL);
  EXPECT_TRUE(ggml_backend_buft_is_host(ggml_backend_dev_buffer_type(device())));
}

TEST_F(Plugin, AttendsKeysAndValuesOfEveryTypeInAnyCombination) {
  for (const ggml_type key_type : kTypes) {
    for (const ggml_type value_type : kTypes) {
      Attention attention;
      attention.query_len = 5;
      attention.kv_len = 200;
      attention.head_dim = 64;
      attention.head_dim_v = 96;
      attention.key_type = key_type;
      attention.value_type = value_type;
      expect_close(attention,
                   std::string(ggml_type_name(key_type)) + " " + ggml_type_name(value_type));
    }
  }
}

TEST_F(Plugin, ConvertsTypesThatTheLibraryDoesNotRead) {
  for (const ggml_type type : {GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_Q4_1, GGML_TYPE_IQ4_NL}) {
    Attention attention;
    attention.query_len = 5;
    attention.key_type = type;
    attention.value_type = type;
    attention.streams = 2;
    expect_close(attention, ggml_type_name(type));
    attention.value_type = GGML_TYPE_F16;
    expect_close(attention, ggml_type_name(type));
  }
}

TEST_F(Plugin, TakesMasksOfAnyContent) {
  for (const MaskKind mask : {MaskKind::kNone, MaskKind::kCausal, MaskKind::kRandom,
                              MaskKind::kPadded, MaskKind::kLowest}) {
    for (const float max_bias : {0.0f, 8.0f}) {
      if (mask == MaskKind::kNone && max_bias > 0) continue;  // ggml has no such op
      Attention attention;
      attention.num_kv_heads = 3;  // ALiBi's second sequence
      attention.mask = mask;
      attention.max_bias = max_bias;
      expect_close(attention, "mask " + std::to_string(static_cast<int>(mask)));
    }
  }
}

TEST_F(Plugin, CellsHiddenFromEveryQueryAreNowhereWhateverTheyHold) {
  for (const ggml_type type : kTypes) {
    for (const std::int64_t query_len : {1, 33}) {
      Attention attention;
      attention.query_len = query_len;
      attention.kv_len = 1024;
      attention.key_type = attention.value_type = type;
      attention.mask = MaskKind::kPadded;
      Data data = make_data(attention, kSeed);
      hide_cells(attention, 100, 117, data);  // of another sequence
      const std::vector<float> right = compute(backend, attention, data);
      fill_cells(attention, 100, 117, data);
      fill_cells(attention, 768, 1024, data);
      EXPECT_FALSE(right.empty());
      EXPECT_EQ(compute(backend, attention, data), right)
          << ggml_type_name(type) << ", queries " << query_len;
    }
  }
}

TEST_F(Plugin, KeysWithALargeBiasThatRotaryEmbeddingTurnsAreNotCoarse) {
  for (const float bias : {150.0f, 300.0f}) {
    for (const std::int64_t first_pair : {2, 45}) {  // turned fast, and slowly
      const Attention attention;
      Data data = make_data(attention, kSeed);
      add_turning_bias(attention, bias, first_pair, data);
      const std::vector<float> found = compute(backend, attention, data);
      ASSERT_FALSE(found.empty());
      EXPECT_LT(relative_error(found, compute_exactly(attention, data)), 0.02)
          << "bias " << bias << ", pairs from " << first_pair;
    }
  }
}

TEST_F(Plugin, RotatesWhatLlamaDoesNotStoreRotated) {
  Attention attention;
  const auto in_environment = [&](const char* variable, const char* value) {
    setenv(variable, value, 1);
    ggml_backend_t other = ggml_backend_dev_init(device(), nullptr);
    const std::vector<float> result = compute(other, attention, make_data(attention, kSeed));
    ggml_backend_free(other);
    unsetenv(variable);
    return result;
  };
  const auto is_rotated = [&] {
    return compute(backend, attention, make_data(attention, kSeed)) !=
           in_environment("INTFLASH_LLAMA_ROTATE", "0");
  };
  EXPECT_TRUE(is_rotated());
  attention.key_type = GGML_TYPE_Q8_0;
  EXPECT_TRUE(is_rotated());  // for its values
  attention.value_type = GGML_TYPE_Q4_0;
  EXPECT_FALSE(is_rotated());
  EXPECT_NE(in_environment("LLAMA_ATTN_ROT_DISABLE", "1"),
            in_environment("INTFLASH_LLAMA_ROTATE", "0"));
  attention.head_dim = 96;
  EXPECT_TRUE(is_rotated());
  attention.value_type = attention.key_type;
  attention.head_dim = 128;
  attention.value_in_key = true;
  EXPECT_TRUE(is_rotated());
}

TEST_F(Plugin, TakesEveryShapeThatLlamaAsksFor) {
  ASSERT_EQ(setenv("INTFLASH_LLAMA_ALL", "1", 1), 0);  // also what the CPU does faster
  for (const std::int64_t query_len : {1, 2, 75}) {
    for (const std::int64_t kv_len : {65, 113, 1024}) {
      Attention attention;
      attention.query_len = query_len;
      attention.kv_len = kv_len;
      attention.mask = query_len > kv_len ? MaskKind::kNone : MaskKind::kCausal;
      attention.num_kv_heads = 1;
      attention.tokens_first = query_len == 2;
      expect_close(attention, std::to_string(query_len) + " x " + std::to_string(kv_len));
    }
  }
  Attention mla;
  mla.head_dim = 576;
  mla.head_dim_v = 512;
  mla.num_kv_heads = 1;
  mla.group_size = 8;
  mla.kv_len = 256;
  mla.query_len = 3;
  mla.value_in_key = true;
  expect_close(mla, "values in keys");
  unsetenv("INTFLASH_LLAMA_ALL");
}

TEST_F(Plugin, TakesCapsSinksAndStreams) {
  Attention attention;
  attention.kv_len = 300;
  attention.streams = 3;
  expect_close(attention, "streams");
  attention.sinks = true;
  expect_close(attention, "sinks");
  attention.score_cap = 10;
  expect_close(attention, "cap");
}

TEST_F(Plugin, ARowHasTheSameBitsInABatchAndAlone) {
  for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_Q8_0}) {
    Attention attention;
    attention.key_type = attention.value_type = type;
    const Data data = make_data(attention, kSeed);
    const std::vector<float> batch = compute(backend, attention, data);
    const std::int64_t row = attention.num_heads() * attention.head_dim_v;
    Attention one = attention;
    one.query_len = 1;
    for (const std::int64_t token : {0, 7, 32}) {
      const std::vector<float> alone = compute(backend, one, only_token(attention, data, token));
      EXPECT_EQ(alone,
                std::vector<float>(batch.begin() + token * row, batch.begin() + (token + 1) * row))
          << "token " << token;
    }
  }
}

TEST_F(Plugin, GivesTheSameBitsOnAnyNumberOfThreads) {
  const Attention attention;
  const Data data = make_data(attention, kSeed);
  const std::vector<float> on_two = compute(backend, attention, data);
  set_threads(1);
  EXPECT_EQ(compute(backend, attention, data), on_two);
  set_threads(3);
  EXPECT_EQ(compute(backend, attention, data), on_two);
}

TEST_F(Plugin, IsGivenAttentionByAScheduler) {
  const TensorContext tensors;
  ggml_tensor* attention = build(tensors.context, Attention{});
  ggml_tensor* scaled = ggml_scale(tensors.context, attention, 2);
  for (ggml_tensor* t = ggml_get_first_tensor(tensors.context); t != nullptr;
       t = ggml_get_next_tensor(tensors.context, t)) {
    if (t->op == GGML_OP_NONE) ggml_set_input(t);  // which the CPU holds
  }
  ggml_cgraph* graph = ggml_new_graph(tensors.context);
  ggml_build_forward_expand(graph, scaled);
  ggml_backend_t backends[] = {backend, cpu};
  ggml_backend_sched_t scheduler =
      ggml_backend_sched_new(backends, nullptr, 2, GGML_DEFAULT_GRAPH_SIZE, false, true);
  ASSERT_TRUE(ggml_backend_sched_alloc_graph(scheduler, graph));
  EXPECT_EQ(ggml_backend_sched_get_tensor_backend(scheduler, attention), backend);
  EXPECT_EQ(ggml_backend_sched_get_tensor_backend(scheduler, scaled), cpu);
  ggml_backend_sched_free(scheduler);
}

TEST_F(Plugin, RefusesWhatItCannotServe) {
  EXPECT_TRUE(supports(Attention{}));
  Attention odd;
  odd.head_dim = 60;
  EXPECT_FALSE(supports(odd));
  const TensorContext tensors;
  ggml_tensor* transposed = build(tensors.context, Attention{});
  transposed->src[2] = ggml_permute(tensors.context, transposed->src[2], 1, 0, 2, 3);
  EXPECT_FALSE(ggml_backend_dev_supports_op(device(), transposed));
  ggml_tensor* unscaled = build(tensors.context, Attention{});
  unscaled->op_params[0] = 0;  // the bits of 0.0f
  EXPECT_FALSE(ggml_backend_dev_supports_op(device(), unscaled));
  ggml_tensor* other = ggml_scale(tensors.context, unscaled, 2);
  EXPECT_FALSE(ggml_backend_dev_supports_op(device(), other));
}

TEST_F(Plugin, HandsBackWhatTheCpuDoesFaster) {
  Attention few_keys;
  few_keys.query_len = few_keys.kv_len = 6;
  EXPECT_FALSE(supports(few_keys));
  Attention ungrouped;
  ungrouped.group_size = 1;
  ungrouped.query_len = 1;
  ungrouped.kv_len = 512;
  EXPECT_FALSE(supports(ungrouped));
  ungrouped.kv_len = 1024;
  EXPECT_TRUE(supports(ungrouped));
  ungrouped.kv_len = 512;
  ungrouped.query_len = 2;
  EXPECT_TRUE(supports(ungrouped));
}

TEST_F(Plugin, FailsAndSaysWhyWhereTheInputIsNotFinite) {
  std::string log;
  ggml_log_set([](ggml_log_level, const char* text,
                  void* user) { *static_cast<std::string*>(user) += text; },
               &log);
  const Attention attention;
  Data data = make_data(attention, kSeed);
  data.query[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(compute(backend, attention, data).empty());
  ggml_log_set(nullptr, nullptr);
  EXPECT_NE(log.find("query[batch 0][head 0][token 0][5]"), std::string::npos) << log;
}

TEST_F(Plugin, LeavesAnotherVersionOfGgmlAlone) {
  std::string log;
  ggml_log_set([](ggml_log_level, const char* text,
                  void* user) { *static_cast<std::string*>(user) += text; },
               &log);
  EXPECT_EQ(ggml_backend_load(INTFLASH_PLUGIN_OF_ANOTHER_VERSION), nullptr);
  ggml_log_set(nullptr, nullptr);
  EXPECT_NE(log.find("built for ggml 0.0.0"), std::string::npos) << log;
}

}  // namespace
}  // namespace intflash::llama

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "op.h"

#include <cmath>
#include <cstring>

namespace intflash::llama {
namespace {

// Where ggml's own loops win (docs/llama.md). Packing a key costs as much as one to two rows of f16
// or q8_0 do there, as long as they find the keys in a cache: then a kv head needs rows to share
// it. Other types are slower there. And every call has its cost, also of cells that the mask hides.
bool is_slow_in_ggml(ggml_type key_type) {
  return ggml_is_quantized(key_type) && key_type != GGML_TYPE_Q8_0;
}
std::int64_t min_keys(std::int64_t rows) { return rows == 1 ? 1024 : rows < 4 ? 100 : 0; }
// Of queries with keys, channel by channel.
std::int64_t min_products(std::int64_t queries) { return queries == 1 ? 100000 : 50000; }

struct Inputs {
  const ggml_tensor& query;  // [head_dim, tokens, heads, streams], ggml's order
  const ggml_tensor& key;
  const ggml_tensor& value;
  const ggml_tensor* mask;   // [keys, tokens, 1 or heads, 1 or streams]
  const ggml_tensor* sinks;  // [heads]
};
Inputs inputs_of(const ggml_tensor& op) {
  return {*op.src[0], *op.src[1], *op.src[2], op.src[3], op.src[4]};
}

struct Parameters {
  float scale;
  float max_bias;
  float score_cap;
};
Parameters parameters_of(const ggml_tensor& op) {
  Parameters parameters;
  std::memcpy(&parameters, op.op_params, sizeof parameters);
  return parameters;
}

// 0 where intflash has no such type.
intflash_dtype dtype_of(ggml_type type) {
  switch (type) {
    case GGML_TYPE_F32:
      return INTFLASH_F32;
    case GGML_TYPE_F16:
      return INTFLASH_F16;
    case GGML_TYPE_BF16:
      return INTFLASH_BF16;
    case GGML_TYPE_Q8_0:
      return INTFLASH_Q8_0;
    case GGML_TYPE_Q4_0:
      return INTFLASH_Q4_0;
    default:
      return intflash_dtype{};
  }
}

bool is_stored_rotated(const ggml_tensor& tensor) {
  return ggml_is_quantized(tensor.type) && tensor.ne[0] % 64 == 0;
}
// Values that are a part of the keys (MLA) are not.
bool are_stored_rotated(const ggml_tensor& key, const ggml_tensor& value) {
  const bool is_part =
      value.view_src != nullptr && (value.view_src == &key || value.view_src == key.view_src);
  return is_stored_rotated(key) && is_stored_rotated(value) && !is_part;
}

bool is_convertible(ggml_type type) { return ggml_get_type_traits(type)->to_float != nullptr; }

// Rows contiguous, and strides in whole blocks.
bool has_rows(const ggml_tensor& tensor) {
  const std::size_t bytes = ggml_type_size(tensor.type);
  return tensor.nb[0] == bytes && tensor.nb[1] % bytes == 0 && tensor.nb[2] % bytes == 0 &&
         tensor.nb[3] % bytes == 0;
}

std::int64_t stride_of(const ggml_tensor& tensor, int axis) {
  return static_cast<std::int64_t>(tensor.nb[axis] / ggml_type_size(tensor.type)) *
         ggml_blck_size(tensor.type);
}

intflash_tensor rows_of(const ggml_tensor& tensor) {
  intflash_tensor rows{};
  rows.data = tensor.data;
  rows.stride_token = stride_of(tensor, 1);
  rows.stride_head = stride_of(tensor, 2);
  rows.stride_batch = stride_of(tensor, 3);
  return rows;
}

intflash_tensor dense_rows(const ggml_tensor& shape, void* data) {
  intflash_tensor rows{};
  rows.data = data;
  rows.stride_token = shape.ne[0];
  rows.stride_head = shape.ne[0] * shape.ne[1];
  rows.stride_batch = shape.ne[0] * shape.ne[1] * shape.ne[2];
  return rows;
}

std::size_t f32_bytes(std::int64_t heads, std::int64_t tokens, std::int64_t dim) {
  return static_cast<std::size_t>(heads * tokens * dim) * sizeof(float);
}

std::string type_reason(const char* name, const ggml_tensor& tensor) {
  return std::string(name) + " of type " + ggml_type_name(tensor.type);
}

std::string unfit_tensor(const ggml_tensor& op) {
  const Inputs in = inputs_of(op);
  if (in.query.type != GGML_TYPE_F32) return type_reason("a query", in.query);
  if (op.type != GGML_TYPE_F32) return type_reason("a result", op);
  if (!is_convertible(in.key.type) && dtype_of(in.key.type) == 0)
    return type_reason("keys", in.key);
  if (!is_convertible(in.value.type) && dtype_of(in.value.type) == 0)
    return type_reason("values", in.value);
  if (!has_rows(in.query) || !has_rows(in.key) || !has_rows(in.value) || !has_rows(op))
    return "rows that are not contiguous";
  if (in.key.ne[2] != in.value.ne[2]) return "keys and values of different numbers of heads";
  if (in.key.ne[3] != in.query.ne[3] || in.value.ne[3] != in.query.ne[3])
    return "keys of another number of streams than the query";
  return "";
}

std::string unfit_mask(const ggml_tensor& op) {
  const Inputs in = inputs_of(op);
  if (in.mask == nullptr)
    return parameters_of(op).max_bias > 0 ? "ALiBi without a mask to scale" : "";
  const ggml_tensor& mask = *in.mask;
  if (mask.type != GGML_TYPE_F16) return type_reason("a mask", mask);
  if (!has_rows(mask) || mask.ne[0] < in.key.ne[1] || mask.ne[1] < in.query.ne[1])
    return "a mask that does not cover query and keys";
  if ((mask.ne[2] != 1 && mask.ne[2] != in.query.ne[2]) ||
      (mask.ne[3] != 1 && mask.ne[3] != in.query.ne[3]))
    return "a mask repeated over some of the heads or streams";
  return "";
}

std::string unfit_parameters(const ggml_tensor& op) {
  const Parameters parameters = parameters_of(op);
  // intflash takes 0 for the default.
  if (!(parameters.scale > 0)) return "a scale of scores that is not positive";
  return parameters.score_cap >= 0 ? "" : "a negative cap of scores";
}

// The factors of ALiBi (arXiv 2108.12409) as ggml defines them: one sequence for the heads up to a
// power of two, every other element of a second one for the rest.
void write_slopes(float max_bias, std::int64_t heads, std::vector<float>& slopes) {
  std::int64_t power = 1;
  while (2 * power <= heads) power *= 2;
  const float first = std::exp2(-max_bias / static_cast<float>(power));
  const float second = std::exp2(-max_bias / 2 / static_cast<float>(power));
  slopes.resize(static_cast<std::size_t>(heads));
  for (std::int64_t h = 0; h < heads; ++h) {
    slopes[static_cast<std::size_t>(h)] =
        h < power ? std::pow(first, static_cast<float>(h + 1))
                  : std::pow(second, static_cast<float>(2 * (h - power) + 1));
  }
}

intflash_additive_mask mask_of(const ggml_tensor& mask, void* converted) {
  const intflash_tensor rows = converted != nullptr ? dense_rows(mask, converted) : rows_of(mask);
  intflash_additive_mask additive{};
  additive.data = rows.data;
  additive.dtype = converted != nullptr ? INTFLASH_F32 : INTFLASH_F16;
  additive.stride_query = rows.stride_token;
  additive.stride_head = mask.ne[2] == 1 ? 0 : rows.stride_head;
  additive.stride_batch = mask.ne[3] == 1 ? 0 : rows.stride_batch;
  return additive;
}

const char* row_at(const ggml_tensor& tensor, std::int64_t i) {
  const std::int64_t token = i % tensor.ne[1];
  const std::int64_t head = i / tensor.ne[1] % tensor.ne[2];
  const std::int64_t stream = i / tensor.ne[1] / tensor.ne[2];
  return static_cast<const char*>(tensor.data) + token * static_cast<std::int64_t>(tensor.nb[1]) +
         head * static_cast<std::int64_t>(tensor.nb[2]) +
         stream * static_cast<std::int64_t>(tensor.nb[3]);
}

}  // namespace

std::size_t Call::key_bytes() const {
  return convert_key ? f32_bytes(desc.batch * desc.num_kv_heads, desc.kv_len, desc.head_dim) : 0;
}
std::size_t Call::value_bytes() const {
  return convert_value ? f32_bytes(desc.batch * desc.num_kv_heads, desc.kv_len, desc.head_dim_v)
                       : 0;
}

bool describe(const ggml_tensor& op, Rotation rotation, Call& call, std::string& reason) {
  reason = unfit_tensor(op);
  if (reason.empty()) reason = unfit_mask(op);
  if (reason.empty()) reason = unfit_parameters(op);
  if (!reason.empty()) return false;
  const Inputs in = inputs_of(op);
  const Parameters parameters = parameters_of(op);
  call = Call{};
  call.convert_key = dtype_of(in.key.type) == 0;
  call.convert_value = dtype_of(in.value.type) == 0;
  intflash_attend_desc& desc = call.desc;
  desc.struct_size = sizeof desc;
  desc.batch = in.query.ne[3];
  desc.num_query_heads = in.query.ne[2];
  desc.num_kv_heads = in.key.ne[2];
  desc.query_len = in.query.ne[1];
  desc.kv_len = in.key.ne[1];
  desc.head_dim = in.query.ne[0];
  desc.head_dim_v = in.value.ne[0];
  desc.query_dtype = INTFLASH_F32;
  desc.key_dtype = call.convert_key ? INTFLASH_F32 : dtype_of(in.key.type);
  desc.value_dtype = call.convert_value ? INTFLASH_F32 : dtype_of(in.value.type);
  desc.out_dtype = INTFLASH_F32;
  desc.softmax_scale = parameters.scale;
  desc.score_cap = parameters.score_cap;
  // A mean over all keys would let a token's codes depend on the tokens after it.
  desc.center = INTFLASH_CENTER_NONE;
  const bool rotates = rotation == Rotation::kAlways || (rotation == Rotation::kUnlessStored &&
                                                         !are_stored_rotated(in.key, in.value));
  desc.rotation = rotates ? INTFLASH_ROTATION_AUTO : INTFLASH_ROTATION_NONE;
  return true;
}

bool gains(const ggml_tensor& op, std::string& reason) {
  const Inputs in = inputs_of(op);
  const std::int64_t queries = in.query.ne[1];
  const std::int64_t rows = queries * in.query.ne[2] / in.key.ne[2];
  if (in.key.ne[1] < min_keys(rows) && !is_slow_in_ggml(in.key.type))
    reason = "one to three queries for each head of few keys, which the CPU backend does faster";
  else if (ggml_nelements(&in.query) * in.key.ne[1] < min_products(queries))
    reason = "too few keys, which the CPU backend does faster";
  return reason.empty();
}

bool has_lowest_number(const ggml_tensor& mask, std::int64_t i) {
  constexpr ggml_fp16_t kLowest = 0xfbff;  // -65504
  const ggml_fp16_t* row = reinterpret_cast<const ggml_fp16_t*>(row_at(mask, i));
  ggml_fp16_t found = 0;
  for (std::int64_t key = 0; key < mask.ne[0]; ++key) found |= row[key] == kLowest ? 1 : 0;
  return found != 0;
}

intflash_attend_args arguments(const ggml_tensor& op, const Call& call, const Converted& converted,
                               std::vector<float>& slopes) {
  const Inputs in = inputs_of(op);
  intflash_attend_args args{};
  args.struct_size = sizeof args;
  args.query = rows_of(in.query);
  args.key = call.convert_key ? dense_rows(in.key, converted.key) : rows_of(in.key);
  args.value = call.convert_value ? dense_rows(in.value, converted.value) : rows_of(in.value);
  args.out = rows_of(op);
  std::swap(args.out.stride_token, args.out.stride_head);  // ggml's result has tokens outside heads
  if (in.mask != nullptr) args.additive_mask = mask_of(*in.mask, converted.mask);
  if (in.sinks != nullptr) args.sinks = static_cast<const float*>(in.sinks->data);
  if (const float max_bias = parameters_of(op).max_bias; max_bias > 0) {
    write_slopes(max_bias, in.query.ne[2], slopes);
    args.additive_mask.head_scale = slopes.data();
  }
  return args;
}

void convert_row(const ggml_tensor& tensor, std::int64_t i, float* converted) {
  ggml_get_type_traits(tensor.type)
      ->to_float(row_at(tensor, i), converted + i * tensor.ne[0], tensor.ne[0]);
}

}  // namespace intflash::llama

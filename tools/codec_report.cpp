// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "codec_report.h"

#include <fmt/format.h>

#include <string>

#include "intflash/calibration.h"

namespace intflash {
namespace {

using Json = nlohmann::ordered_json;

// [num_kv_heads][dim]. Nine digits give a float back, and are fewer than those of its double.
Json center_json(const std::vector<float>& center, std::int64_t dim) {
  if (center.empty()) return nullptr;
  Json heads = Json::array();
  for (std::size_t i = 0; i < center.size(); ++i) {
    if (static_cast<std::int64_t>(i) % dim == 0) heads.push_back(Json::array());
    heads.back().push_back(std::stod(fmt::format("{:.9g}", center[i])));
  }
  return heads;
}

Json codec_json(const LayerCalibration& layer, const LayerCodec& codec) {
  return {{"codec", codec.form.name},
          {"window_blocks", codec.form.window_blocks},
          {"sink_blocks", codec.form.sink_blocks},
          {"score_digits", codec.score_digits},
          {"bytes_per_token", layer.bytes_per_token_and_head(codec.block_bytes)},
          {"window_bytes_per_token", layer.bytes_per_token_and_head(codec.window_block_bytes)},
          {"rel_l1", codec.errors.rel_l1},
          {"rel_l1_by_head", codec.errors.by_head}};
}

Json group_json(const LayerCalibration& layer, const HeadGroup& group) {
  Json json = {{"first_kv_head", group.first_kv_head}, {"kv_heads", group.num_kv_heads}};
  json.update(codec_json(layer, group.codec));
  json.erase("rel_l1");
  const std::vector<double>& errors = group.codec.errors.by_head;
  const auto size = static_cast<std::int64_t>(errors.size()) / layer.num_kv_heads;
  const auto first = errors.begin() + group.first_kv_head * size;
  json["rel_l1_by_head"] = std::vector(first, first + group.num_kv_heads * size);
  return json;
}

Json layer_json(const LayerCalibration& layer) {
  Json json = {{"layer", layer.layer},
               {"kv_heads", layer.num_kv_heads},
               {"head_dim", layer.head_dim},
               {"head_dim_v", layer.head_dim_v},
               {"tokens", layer.kv_len},
               {"sampled_rows", layer.rows},
               {"key_center", center_json(layer.key_center, layer.head_dim)},
               {"value_center", center_json(layer.value_center, layer.head_dim_v)},
               {"bytes_per_token", layer.bytes_per_token_and_head()},
               {"rel_l1", layer.rel_l1}};
  json["groups"] = Json::array();
  for (const HeadGroup& group : layer.groups()) json["groups"].push_back(group_json(layer, group));
  json["codecs"] = Json::array();
  for (const LayerCodec& codec : layer.codecs) json["codecs"].push_back(codec_json(layer, codec));
  return json;
}

Json total_json(const CodecTotal& total) {
  return {{"bytes_per_token", total.bytes_per_token}, {"rel_l1", total.rel_l1}};
}

}  // namespace

std::string codec_names(const LayerCalibration& layer) {
  const std::vector<HeadGroup> groups = layer.groups();
  if (groups.size() == 1) return groups[0].codec.form.name;
  std::string names;
  for (const HeadGroup& group : groups) {
    names += fmt::format("{}{} {}", names.empty() ? "" : ", ", group.num_kv_heads,
                         group.codec.form.name);
  }
  return names;
}

void print_codecs(const CodecCalibration& calibration) {
  fmt::print("{:5} {:>6}  {:9} {:>6} {:>9}   rel L1 % of each\n", "layer", "tokens", "codec",
             "bytes", "rel L1 %");
  fmt::print("{:41}", "");
  for (const LayerCodec& codec : calibration.layers.front().codecs)
    fmt::print(" {:>9}", codec.form.name);
  fmt::print("\n");
  for (const LayerCalibration& layer : calibration.layers) {
    const bool has_groups = layer.groups().size() > 1;
    fmt::print("{:5} {:6}  {:9} {:6.4g} {:9.4f}  ", layer.layer, layer.kv_len,
               has_groups ? "by head" : codec_names(layer), layer.bytes_per_token_and_head(),
               100 * layer.rel_l1);
    for (const LayerCodec& codec : layer.codecs) fmt::print(" {:9.4f}", 100 * codec.errors.rel_l1);
    fmt::print("\n");
    if (has_groups) fmt::print("{:14}{}\n", "", codec_names(layer));
  }
  fmt::print("\n{:.4g} bytes per token and kv head of {:.4g}; rel L1 {:.4f} %, root mean square\n",
             calibration.total.bytes_per_token, calibration.budget, 100 * calibration.total.rel_l1);
  fmt::print(
      "behind windows of {} tokens and the first {}, which codecs of fewer bits keep in INT8\n",
      64 * kWindowBlocks, 64 * kSinkBlocks);
  fmt::print("\nfront: bytes, rel L1 %\n");
  for (const CodecTotal& total : calibration.front)
    fmt::print("  {:6.4g} {:9.4f}\n", total.bytes_per_token, 100 * total.rel_l1);
}

nlohmann::ordered_json codecs_json(const CodecCalibration& calibration) {
  Json json = {{"intflash_calibration", INTFLASH_CALIBRATION_VERSION},
               {"budget", calibration.budget}};
  json.update(total_json(calibration.total));
  json["layers"] = Json::array();
  for (const LayerCalibration& layer : calibration.layers)
    json["layers"].push_back(layer_json(layer));
  json["front"] = Json::array();
  for (const CodecTotal& total : calibration.front) json["front"].push_back(total_json(total));
  return json;
}

}  // namespace intflash

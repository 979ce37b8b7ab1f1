// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Layer by layer: read, attend over a cache of each codec, compare; then choose for all of them.
#include "codec_calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <memory>
#include <numeric>
#include <set>
#include <utility>

#include "atomic_file.h"
#include "attention_inputs.h"
#include "call.h"
#include "channel_means.h"
#include "codec_report.h"
#include "compare_inputs.h"
#include "failure.h"
#include "inputs/tensor.h"

namespace intflash {
namespace {

struct Form {
  CacheForm cache;
  std::int32_t score_digits;
};
// From the most bytes to the least.
constexpr Form kForms[] = {
    {{"int8_wide", INTFLASH_CODEC_INT8_WIDE}, 0},
    {{"k8v16", INTFLASH_CODEC_K8V16}, 1},
    {{"int8", INTFLASH_CODEC_INT8}, 1},
    {{"k8v4", INTFLASH_CODEC_K8V4, kWindowBlocks, kSinkBlocks}, 1},
    {{"k4v4", INTFLASH_CODEC_K4V4, kWindowBlocks, kSinkBlocks}, 1},
    {{"k4v2", INTFLASH_CODEC_K4V2, kWindowBlocks, kSinkBlocks}, 1},
    {{"k2v2", INTFLASH_CODEC_K2V2, kWindowBlocks, kSinkBlocks}, 1},
};

constexpr std::int64_t kBlockTokens = 64;
constexpr std::int64_t kWindowTokens = (kWindowBlocks + kSinkBlocks) * kBlockTokens;
// So that the last queries see as many keys behind the window as in it.
constexpr std::int64_t kLeastTokens = 2 * kWindowTokens;

constexpr std::int64_t kMaxLayer = 99999;

std::int64_t layer_number(const std::string& text, const std::string& layers) {
  std::int64_t number = -1;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc() && stop == end && number >= 0 && number <= kMaxLayer) return number;
  throw UsageError(fmt::format("--layers {}: numbers and ranges such as 0,4,14-19", layers));
}

// "0,4,14-19"; "" is layer 0 alone.
std::vector<std::int64_t> layer_numbers(const std::string& layers) {
  if (layers.empty()) return {0};
  std::vector<std::int64_t> numbers;
  std::set<std::int64_t> seen;
  for (std::size_t begin = 0; begin <= layers.size();) {
    const std::size_t comma = std::min(layers.find(',', begin), layers.size());
    const std::string part = layers.substr(begin, comma - begin);
    const std::size_t dash = part.find('-');
    const std::int64_t first = layer_number(part.substr(0, dash), layers);
    const std::int64_t last =
        dash == std::string::npos ? first : layer_number(part.substr(dash + 1), layers);
    if (last < first) layer_number("", layers);  // throws
    for (std::int64_t number = first; number <= last; ++number) {
      if (!seen.insert(number).second)
        throw UsageError(fmt::format("--layers {}: {} stands there twice", layers, number));
      numbers.push_back(number);
    }
    begin = comma + 1;
  }
  return numbers;
}

// The file of a layer: its number in place of {}.
std::string path_of(const std::string& pattern, std::int64_t layer, bool has_layers) {
  std::string path = pattern;
  const std::size_t place = path.find("{}");
  if (has_layers == (place == std::string::npos)) {
    throw UsageError(has_layers
                         ? fmt::format("{}: with --layers, {{}} stands for the number", pattern)
                         : fmt::format("{}: {{}} needs --layers", pattern));
  }
  if (has_layers) path.replace(place, 2, std::to_string(layer));
  return path;
}

CalibrateOptions options_of(const CalibrateOptions& options, std::int64_t layer) {
  CalibrateOptions of_layer = options;
  for (std::string* path : {&of_layer.query, &of_layer.key, &of_layer.value})
    *path = path_of(*path, layer, !options.layers.empty());
  return of_layer;
}

void check_array(const NpyArray& array, const std::string& path) {
  const HeadAxes axes = head_axes(array, path);
  const intflash_tensor tensor = contiguous(array.data.data(), axes.heads, axes.tokens, axes.dim);
  for (std::int64_t row = 0; row < axes.batch * axes.heads * axes.tokens; ++row) {
    const std::int64_t t = row % axes.tokens, h = row / axes.tokens % axes.heads;
    const std::int64_t b = row / axes.tokens / axes.heads;
    for (std::int64_t c = 0; c < axes.dim; ++c) {
      if (!std::isfinite(internal::tensor_element(tensor, array.dtype, b, h, t, c)))
        throw Failure(fmt::format("{}: head {}, token {} is not finite", path, h, t));
    }
  }
}

void check_inputs(const CalibrateOptions& options, const AttentionInputs& inputs) {
  if (inputs.kv_len < kLeastTokens || inputs.query_len == 0) {
    throw Failure(fmt::format(
        "{}: {} queries and {} tokens: codecs are measured on {} tokens and more, of which the "
        "last {} and the first {} are in INT8",
        options.key, inputs.query_len, inputs.kv_len, kLeastTokens, kWindowBlocks * kBlockTokens,
        kSinkBlocks * kBlockTokens));
  }
  check_array(inputs.query, options.query);
  check_array(inputs.key, options.key);
  check_array(inputs.value, options.value);
}

// Of the queries that see keys behind the window, if there are any.
std::vector<RowRun> rows_of(const intflash_attend_desc& desc) {
  if (desc.mask != INTFLASH_MASK_CAUSAL) return sample_of(0, desc.query_len);
  // That of the first position whose block is so many behind the first ones.
  const std::int64_t first = kWindowTokens - (desc.kv_len - desc.query_len);
  return sample_of(std::clamp<std::int64_t>(first, 0, desc.query_len - 1), desc.query_len);
}

LayerCodec measure(const Context& context, const intflash_attend_desc& desc,
                   const AttentionInputs& inputs, const std::vector<RowRun>& rows,
                   const HeadOuts& reference, const Form& form, const Centers& centers) {
  const CacheAttention attention =
      attend_over_cache(context, desc, inputs, form.cache, rows, centers);
  return {form.cache, form.score_digits, attention.block_bytes, attention.window_block_bytes,
          head_errors(attention.outs, reference)};
}

LayerCalibration measure_layer(const Context& context, const CalibrateOptions& options,
                               std::int64_t number) {
  const AttentionInputs inputs = read_attention_inputs(options.query, options.key, options.value);
  check_inputs(options, inputs);
  CompareOptions scores;
  scores.causal = options.causal;
  scores.softmax_scale = options.softmax_scale;
  intflash_attend_desc desc = compare_desc(scores, inputs);
  context.query_support(desc);
  const std::vector<RowRun> rows = rows_of(desc);
  LayerCalibration layer{number,
                         inputs.num_kv_heads,
                         inputs.head_dim,
                         inputs.head_dim_v,
                         inputs.kv_len,
                         num_rows(rows),
                         {},
                         {},
                         {},
                         {},
                         0};
  Centers centers;
  if (options.centers) {
    layer.key_center = means_of(inputs.key, options.key).elements;
    layer.value_center = means_of(inputs.value, options.value).elements;
    centers = {layer.key_center.data(), layer.value_center.data()};
  }
  desc.mode = INTFLASH_MODE_EXACT;
  const HeadOuts reference = attend_runs(context, desc, inputs, rows);
  for (const Form& form : kForms) {
    layer.codecs.push_back(measure(context, desc, inputs, rows, reference, form, centers));
    if (!std::isfinite(layer.codecs.back().errors.rel_l1))
      throw Failure(fmt::format("{}: exact attention to it is 0", options.value));
  }
  return layer;
}

CodecTotal total_of(const Candidate& sum, const std::vector<LayerCalibration>& layers) {
  std::int64_t heads = 0;
  for (const LayerCalibration& layer : layers) heads += layer.num_kv_heads;
  return {static_cast<double>(sum.bytes) / static_cast<double>(kBlockTokens * heads),
          std::sqrt(sum.damage / static_cast<double>(layers.size()))};
}

// Kv heads that get one codec.
struct Unit {
  std::size_t layer;
  std::int64_t first_kv_head, num_kv_heads;
};
std::vector<Unit> units_of(const CodecCalibration& calibration) {
  std::vector<Unit> units;
  for (std::size_t i = 0; i < calibration.layers.size(); ++i) {
    const std::int64_t heads = calibration.layers[i].num_kv_heads;
    const std::int64_t at_once = calibration.by_head ? 1 : heads;
    for (std::int64_t head = 0; head < heads; head += at_once) units.push_back({i, head, at_once});
  }
  return units;
}

// What a codec costs a unit: its bytes, and the square of its error, of heads by their share of the
// layer. Those of layers that know nothing of each other add up so.
Candidate cost_of(const LayerCalibration& layer, const LayerCodec& codec, const Unit& unit) {
  const std::int64_t bytes = codec.block_bytes / layer.num_kv_heads * unit.num_kv_heads;
  if (unit.num_kv_heads == layer.num_kv_heads)
    return {bytes, codec.errors.rel_l1 * codec.errors.rel_l1};
  const std::vector<double>& errors = codec.errors.by_head;
  const auto group = static_cast<std::int64_t>(errors.size()) / layer.num_kv_heads;
  const auto first = errors.begin() + unit.first_kv_head * group;
  const double squares = std::inner_product(first, first + unit.num_kv_heads * group, first, 0.0);
  return {bytes, squares / static_cast<double>(errors.size())};
}

void choose(CodecCalibration& calibration) {
  std::vector<LayerCalibration>& layers = calibration.layers;
  const std::vector<Unit> units = units_of(calibration);
  Candidates candidates;
  std::int64_t heads = 0;
  for (const Unit& unit : units) {
    heads += unit.num_kv_heads;
    candidates.emplace_back();
    for (const LayerCodec& codec : layers[unit.layer].codecs)
      candidates.back().push_back(cost_of(layers[unit.layer], codec, unit));
  }
  const double bytes = std::floor(calibration.budget * static_cast<double>(kBlockTokens * heads));
  const std::int64_t least = least_bytes(candidates);
  if (bytes < static_cast<double>(least)) {
    throw Failure(fmt::format(
        "--budget {}: the least is {} bytes per token and kv head: codec {} in all layers",
        calibration.budget, total_of({least, 0}, layers).bytes_per_token,
        std::end(kForms)[-1].cache.name));
  }
  const std::vector<std::size_t> choice =
      choose_candidates(candidates, static_cast<std::int64_t>(std::min(bytes, 0x1p60)));
  Candidate sum = {0, 0};
  std::vector<double> damage(layers.size(), 0.0);
  for (std::size_t i = 0; i < units.size(); ++i) {
    LayerCalibration& layer = layers[units[i].layer];
    layer.choice.insert(layer.choice.end(), static_cast<std::size_t>(units[i].num_kv_heads),
                        choice[i]);
    damage[units[i].layer] += candidates[i][choice[i]].damage;
    sum.bytes += candidates[i][choice[i]].bytes;
    sum.damage += candidates[i][choice[i]].damage;
  }
  for (std::size_t i = 0; i < layers.size(); ++i) layers[i].rel_l1 = std::sqrt(damage[i]);
  calibration.total = total_of(sum, layers);
  for (const Candidate& corner : convex_front(candidates))
    calibration.front.push_back(total_of(corner, layers));
}

void write_text(std::unique_ptr<AtomicFile>& file, const std::string& text) {
  if (!file) return;
  file->write(text.data(), text.size());
  file->commit();
}

}  // namespace

std::vector<HeadGroup> LayerCalibration::groups() const {
  std::vector<HeadGroup> found;
  for (std::size_t head = 0; head < choice.size(); ++head) {
    if (head == 0 || choice[head] != choice[head - 1])
      found.push_back({static_cast<std::int64_t>(head), 0, codecs[choice[head]]});
    ++found.back().num_kv_heads;
  }
  return found;
}

int run_codec_calibration(const CalibrateOptions& options) {
  std::vector<CalibrateOptions> files;
  const std::vector<std::int64_t> numbers = layer_numbers(options.layers);
  for (const std::int64_t number : numbers) files.push_back(options_of(options, number));
  // Opened first: what takes long must not end with a path that cannot be written.
  const auto open = [](const std::string& path) {
    return path.empty() ? nullptr : std::make_unique<AtomicFile>(path);
  };
  std::unique_ptr<AtomicFile> out = open(options.out), picture = open(options.picture);
  const Context context = create_context(0, "");
  CodecCalibration calibration{options.budget, options.by_head, {}, {}, {}};
  for (std::size_t i = 0; i < numbers.size(); ++i)
    calibration.layers.push_back(measure_layer(context, files[i], numbers[i]));
  choose(calibration);
  const std::string json = codecs_json(calibration).dump(2) + "\n";
  if (options.json) {
    fmt::print("{}", json);
  } else {
    print_codecs(calibration);
  }
  write_text(out, json);
  write_text(picture, codecs_picture(calibration));
  return 0;
}

}  // namespace intflash

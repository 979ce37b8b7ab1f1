// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A language model on intflash, in one file: reads a small Llama, generates text and measures its
// perplexity, with attention in INT8 and in double precision side by side. Read it from the top:
// tokenizer, model, attention (where intflash is), and what is done with them.
#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <complex>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <vector>

#include <CLI/CLI.hpp>
#include <Eigen/Dense>
#include <nlohmann/json.hpp>

#include <intflash/intflash.hpp>

namespace {

using Eigen::Index;
using Json = nlohmann::json;
using Tokens = std::vector<int>;
template <class T>
using MatrixOf = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Matrix = MatrixOf<float>;  // of activations: a row is a token, a column a channel
using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

// Calls parse with the bytes of a file, and puts its name before what parse complains of.
template <class Parse, class... Arguments>
auto parse_file(const std::string& path, Parse parse, const Arguments&... arguments) {
  try {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail("cannot open");
    return parse((std::ostringstream() << file.rdbuf()).str(), arguments...);
  } catch (const std::exception& error) {
    fail(path + ": " + error.what());
  }
}

// ---- Tokenizer ---------------------------------------------------------------------------------

// Byte pair encoding over bytes, as GPT-2 has it. A word starts as a token for each of its bytes.
// Then neighbours are merged as in training, which numbered the tokens in the order it made them:
// of all pairs whose text is a token, the one of the lowest number goes first.
struct Tokenizer {
  std::vector<std::string> texts;               // of tokens
  std::unordered_map<std::string, int> tokens;  // of texts
};

Tokenizer parse_tokenizer(const std::string& bytes, Index vocab) {
  Tokenizer tokenizer = {.texts = std::vector<std::string>(vocab), .tokens = {}};
  const Json json = Json::parse(bytes);
  for (const auto& [spelled, id] : json.at("model").at("vocab").items()) {
    if (!(id >= 0 && id < vocab)) fail("token " + id.dump() + ": not of the model");
    std::string& text = tokenizer.texts[id.get<int>()];
    for (std::size_t i = 0; i < spelled.size(); ++i) {
      int c = static_cast<unsigned char>(spelled[i]);
      if (c >= 0x80) c = (c & 0x1f) << 6 | (spelled.at(++i) & 0x3f);  // UTF-8 of two bytes
      // U+0100 and on stand for what JSON cannot hold: 0 ... 0x20, 0x7f ... 0xa0, and 0xad.
      if (c >= 0x100) c = c < 0x121 ? c - 0x100 : c < 0x143 ? c - 0x121 + 0x7f : 0xad;
      text += static_cast<char>(c);
    }
    tokenizer.tokens[text] = id;
  }
  for (int byte = 0; byte < 0x100; ++byte)
    if (!tokenizer.tokens.contains({static_cast<char>(byte)}))
      fail("no token for byte " + std::to_string(byte));
  return tokenizer;
}

char kind_of(unsigned char c) {
  return c >= 0x80 || std::isalpha(c) ? 'a' : std::isdigit(c) ? '0' : std::isspace(c) ? ' ' : '.';
}

// Of the first word by GPT-2's pattern, where characters beyond ASCII are all taken for letters:
// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
std::size_t word_size(std::string_view text) {
  for (const std::string_view suffix : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
    if (text.starts_with(suffix)) return suffix.size();
  std::size_t end = text.size() > 1 && text[0] == ' ' && kind_of(text[1]) != ' ' ? 1 : 0;
  const char kind = kind_of(text[end]);
  while (end < text.size() && kind_of(text[end]) == kind) ++end;
  // The last of several spaces is left to the word that follows.
  return kind == ' ' && end > 1 && end < text.size() ? end - 1 : end;
}

Tokens encode(std::string_view text, const Tokenizer& tokenizer) {
  const auto& [texts, tokens] = tokenizer;
  Tokens encoded;
  while (!text.empty()) {
    const std::size_t begin = encoded.size(), size = word_size(text);
    for (const char byte : text.substr(0, size)) encoded.push_back(tokens.at({byte}));
    text.remove_prefix(size);
    while (true) {
      std::pair<int, std::size_t> next(texts.size(), 0);  // token, place
      for (std::size_t i = begin; i + 1 < encoded.size(); ++i) {
        const auto found = tokens.find(texts[encoded[i]] + texts[encoded[i + 1]]);
        if (found != tokens.end()) next = std::min(next, {found->second, i});
      }
      const auto [token, place] = next;
      if (token == static_cast<int>(texts.size())) break;
      encoded[place] = token;
      encoded.erase(encoded.begin() + place + 1);
    }
  }
  return encoded;
}

// ---- Model -------------------------------------------------------------------------------------

struct Config {
  Index vocab, dim, num_layers, num_query_heads, num_kv_heads, head_dim, ffn_dim, context_len;
  float rope_theta, epsilon;
  int bos;  // the token that begins a text
};

struct Layer {
  Matrix attention_norm, query, key, value, out, ffn_norm, gate, up, down;
};

struct Model {  // of weights with a row per output channel; parse_model() has their shapes
  Config config;
  Tokenizer tokenizer;
  std::vector<Layer> layers;
  Matrix output_norm, embedding;  // of tokens that come in, and of those that go out
};

Config parse_config(const std::string& bytes) {
  const Json json = Json::parse(bytes);
  const auto size = [&](const std::string& key) -> Index {  // a product of two cannot overflow
    if (json.at(key) < 1 || json[key] > 1 << 20) fail(key + ": must be 1 ... 2^20");
    return json[key];
  };
  const Config c = {size("vocab"),         size("dim"),      size("n_layer"), size("n_head"),
                    size("n_kv"),          size("head_dim"), size("ffn"),     size("ctx"),
                    json.at("rope_theta"), json.at("eps"),   json.at("bos")};
  if (c.num_query_heads % c.num_kv_heads != 0 || c.head_dim % 2 != 0)
    fail("n_head: must be a multiple of n_kv, and head_dim even");
  if (c.bos < 0 || c.bos >= c.vocab) fail("bos: must be a token");
  for (const char* key : {"rope_interleaved", "tie_word_embeddings"})
    if (json.at(key) != true) fail(std::string(key) + ": must be true");
  return c;
}

// A safetensors file is the length of its header in 8 bytes, the header in JSON, and the elements.
// The header says the type and shape of each tensor, and its place among the elements.
Model parse_model(std::string_view bytes, const Config& c, const Tokenizer& tokenizer) {
  std::uint64_t length = 0;
  if (bytes.size() < sizeof length) fail("truncated");
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > bytes.size() - sizeof length) fail("truncated in its header");
  const Json header = Json::parse(bytes.substr(sizeof length, length));
  const std::string_view elements = bytes.substr(sizeof length + length);
  const auto read = [&](const std::string& layer_name, Index rows, Index columns) -> Matrix {
    const std::string name = layer_name + ".weight";
    const Json& tensor = header.at(name);
    const Json shape = rows == 1 ? Json{columns} : Json{rows, columns};
    if (tensor.at("shape") != shape)
      fail(name + ": shape " + tensor["shape"].dump() + ": must be " + shape.dump());
    const auto copy_to = [&](auto matrix) -> Matrix {
      const auto [begin, end] =
          tensor.at("data_offsets").get<std::pair<std::size_t, std::size_t>>();
      if (end > elements.size()) fail(name + ": truncated");
      if (begin > end || end - begin != matrix.size() * sizeof matrix(0))
        fail(name + ": data_offsets do not fit its shape");
      std::memcpy(matrix.data(), elements.data() + begin, end - begin);
      return matrix.template cast<float>();
    };
    if (tensor.at("dtype") == "F32") return copy_to(Matrix(rows, columns));
    if (tensor["dtype"] == "F16") return copy_to(MatrixOf<Eigen::half>(rows, columns));
    fail(name + ": dtype " + tensor["dtype"].dump() + ": must be F16 or F32");
  };
  const Index query_dim = c.num_query_heads * c.head_dim, kv_dim = c.num_kv_heads * c.head_dim;
  std::vector<Layer> layers;
  for (Index i = 0; i < c.num_layers; ++i) {
    const std::string layer = "blk." + std::to_string(i) + ".";
    layers.push_back(
        {read(layer + "attn_norm", 1, c.dim), read(layer + "attn_q", query_dim, c.dim),
         read(layer + "attn_k", kv_dim, c.dim), read(layer + "attn_v", kv_dim, c.dim),
         read(layer + "attn_output", c.dim, query_dim), read(layer + "ffn_norm", 1, c.dim),
         read(layer + "ffn_gate", c.ffn_dim, c.dim), read(layer + "ffn_up", c.ffn_dim, c.dim),
         read(layer + "ffn_down", c.dim, c.ffn_dim)});
  }
  return {c, tokenizer, layers, read("output_norm", 1, c.dim), read("token_embd", c.vocab, c.dim)};
}

// ---- Attention ---------------------------------------------------------------------------------

// Attention within one text that grows step by step. A step is announced once; then each layer
// hands over query, key and value of the new tokens, and gets their outputs.
struct Attention {
  Attention(const char* name, const Config& config) : name(name), config(config) {
    const Index pairs = config.head_dim / 2, last = config.context_len - 1;
    const Eigen::VectorXd positions = Eigen::VectorXd::LinSpaced(last + 1, 0, last);
    const Eigen::RowVectorXd powers = Eigen::RowVectorXd::LinSpaced(pairs, 0, 1 - pairs) / pairs;
    const Eigen::RowVectorXd speeds = (powers * std::log(config.rope_theta)).array().exp();
    cosines = (positions * speeds).array().cos().cast<float>();
    sines = (positions * speeds).array().sin().cast<float>();
  }
  virtual ~Attention() = default;

  void begin_text() { end = 0; }
  virtual void begin_step(Index count) {  // of new tokens
    begin = std::exchange(end, end + count);
    if (end > config.context_len) fail("the text is longer than the model's context");
  }
  virtual Matrix attend(int layer, const Matrix& query, const Matrix& key, const Matrix& value) = 0;

  const std::string name;
  const Config config;
  Matrix cosines, sines;     // of the rotary embedding: [context_len][head_dim / 2]
  Index begin = 0, end = 0;  // positions of the step's tokens
};

// Adjacent kv heads of some layers whose keys and values are kept alike: a cache.
struct HeadGroup {
  explicit HeadGroup(const intflash_head_group& of_layer) : kind(of_layer) {}
  bool has(const intflash_head_group& of_layer) const {
    const auto key = [](const intflash_head_group& g) {
      return std::tuple(g.first_kv_head, g.num_kv_heads, g.codec, g.window_blocks, g.sink_blocks,
                        g.score_digits, g.key_center == nullptr, g.value_center == nullptr);
    };
    return key(of_layer) == key(kind);
  }
  void add(const intflash_head_group& of_layer) {
    const Index size = of_layer.num_kv_heads * of_layer.head_dim;
    layers.push_back(of_layer.layer);
    if (const float* center = of_layer.key_center)
      key_center.insert(key_center.end(), center, center + size);
    if (const float* center = of_layer.value_center)
      value_center.insert(value_center.end(), center, center + size);
  }

  intflash_head_group kind;  // of its first layer
  std::vector<Index> layers;
  std::vector<float> key_center, value_center;  // of layers, where they have them
};

// All in INT8; or what `intflash calibrate --budget` has chosen.
std::vector<HeadGroup> same_for_all(const Config& config) {
  HeadGroup all({.num_kv_heads = config.num_kv_heads});
  all.layers.resize(config.num_layers);
  std::iota(all.layers.begin(), all.layers.end(), 0);
  return {all};
}
std::vector<HeadGroup> parse_codecs(const std::string& bytes, const Config& config) {
  std::istringstream file(bytes);
  const intflash::Calibration calibration(
      [](void* user, void* part, std::size_t size) {
        auto& from = *static_cast<std::istringstream*>(user);
        return static_cast<std::size_t>(from.read(static_cast<char*>(part), size).gcount());
      },
      &file);
  std::vector<HeadGroup> groups;
  Index heads = 0;  // of all layers
  for (std::int64_t i = 0; i < calibration.num_groups(); ++i) {
    const intflash_head_group group = calibration.group(i);
    if (group.layer >= config.num_layers || group.head_dim != config.head_dim ||
        group.head_dim_v != config.head_dim ||
        group.first_kv_head + group.num_kv_heads > config.num_kv_heads)
      fail("of another model");
    heads += group.num_kv_heads;
    auto at = std::find_if(groups.begin(), groups.end(),
                           [&](const HeadGroup& found) { return found.has(group); });
    if (at == groups.end()) at = groups.insert(at, HeadGroup(group));
    at->add(group);
  }
  if (heads != config.num_layers * config.num_kv_heads) fail("not all layers of the model");
  return groups;
}

// intflash: a cache for each group of heads, in which the text is a sequence.
struct IntegerAttention : Attention {
  struct Group : HeadGroup {
    explicit Group(const HeadGroup& heads) : HeadGroup(heads) {}
    std::optional<intflash::Cache> cache;
    std::optional<intflash::Sequence> sequence;
    std::optional<intflash::Plan> plan;  // of the step
    intflash::Workspace workspace{0};
  };

  IntegerAttention(const Config& config, const std::vector<HeadGroup>& heads)
      : Attention("int8", config), groups(heads.begin(), heads.end()) {
    for (Group& group : groups) {
      intflash_cache_options options = intflash::cache_options();
      options.num_layers = static_cast<std::int64_t>(group.layers.size());
      options.num_kv_heads = group.kind.num_kv_heads;
      options.head_dim = config.head_dim;
      options.page_size = 64;
      options.num_pages = (config.context_len + options.page_size - 1) / options.page_size;
      options.codec = group.kind.codec;
      options.window_blocks = group.kind.window_blocks;
      options.sink_blocks = group.kind.sink_blocks;
      if (!group.key_center.empty()) options.key_center = group.key_center.data();
      if (!group.value_center.empty()) options.value_center = group.value_center.data();
      group.cache.emplace(context, options);
      group.sequence.emplace(*group.cache);
    }
    rope = {cosines.data(), sines.data(), cosines.rows(), config.head_dim, INTFLASH_ROPE_ADJACENT};
  }

  // The plan depends on lengths alone: all layers run it.
  void begin_step(Index count) override {
    Attention::begin_step(count);
    intflash_request request = {.query_len = count, .kv_len = end, .mask = INTFLASH_MASK_CAUSAL};
    for (Group& group : groups) {
      group.sequence->truncate(begin);  // 0 in a new text
      intflash_batch_desc desc = intflash::batch_desc();
      desc.num_requests = 1;
      desc.requests = &request;
      desc.num_query_heads = group.kind.num_kv_heads * group_size();
      desc.score_digits = group.kind.score_digits;
      if (group.kind.codec == INTFLASH_CODEC_K8V16) desc.mode = INTFLASH_MODE_INT8_QK;
      group.plan.emplace(context, *group.cache, desc);
      group.workspace = group.plan->make_workspace();
    }
  }

  Matrix attend(int layer, const Matrix& query, const Matrix& key, const Matrix& value) override {
    Matrix out(query.rows(), query.cols());
    for (Group& group : groups) {
      const auto at = std::find(group.layers.begin(), group.layers.end(), layer);
      if (at == group.layers.end()) continue;
      const std::int32_t number = group.sequence->number();
      const std::int64_t token_indptr[] = {0, key.rows()};
      intflash_append_args append = intflash::append_args();
      append.num_requests = 1;
      append.token_indptr = token_indptr;
      append.key = tensor(key, group.kind.first_kv_head);
      append.value = tensor(value, group.kind.first_kv_head);
      append.rope = rope;
      append.layer = at - group.layers.begin();
      group.cache->append(&number, append);

      intflash_batch_args args = intflash::batch_args();
      const Index first_head = group.kind.first_kv_head * group_size();
      args.query = tensor(query, first_head);
      args.out = tensor(out, first_head);
      args.sequences = &number;
      args.layer = append.layer;
      args.rope = rope;
      group.plan->run(*group.cache, args, group.workspace);
    }
    return out;
  }

  Index group_size() const { return config.num_query_heads / config.num_kv_heads; }
  // The heads of a token lie side by side in its row.
  intflash_tensor tensor(const Matrix& rows, Index first_head) const {
    return {.data = const_cast<float*>(rows.data()) + first_head * config.head_dim,
            .stride_head = config.head_dim,
            .stride_token = rows.cols()};
  }

  intflash::Context context;
  intflash_rope rope;
  std::vector<Group> groups;
};

// What it is compared with: softmax(Q K^T / sqrt(head_dim)) V in double precision.
struct ExactAttention : Attention {
  explicit ExactAttention(const Config& config) : Attention("exact", config) {
    const Index kv_dim = config.num_kv_heads * config.head_dim;
    values = keys = std::vector(config.num_layers, MatrixOf<double>(config.context_len, kv_dim));
  }

  Matrix attend(int layer, const Matrix& query, const Matrix& key, const Matrix& value) override {
    keys[layer].middleRows(begin, key.rows()) = rotated(key).cast<double>();
    values[layer].middleRows(begin, value.rows()) = value.cast<double>();
    const Index dim = config.head_dim, group = config.num_query_heads / config.num_kv_heads;
    const MatrixOf<double> scaled_query = rotated(query).cast<double>() / std::sqrt(dim);
    Matrix out(query.rows(), query.cols());
    for (Index head = 0; head < config.num_query_heads; ++head) {
      const auto key_head = keys[layer].block(0, head / group * dim, end, dim);
      const auto value_head = values[layer].block(0, head / group * dim, end, dim);
      MatrixOf<double> weights = scaled_query.middleCols(head * dim, dim) * key_head.transpose();
      for (Index i = 0; i < weights.rows(); ++i) {
        auto visible = weights.row(i).head(begin + i + 1).array();
        visible = (visible - visible.maxCoeff()).exp();
        visible /= visible.sum();
        weights.row(i).tail(end - visible.size()).setZero();
      }
      out.middleCols(head * dim, dim) = (weights * value_head).cast<float>();
    }
    return out;
  }

  // The rotary embedding: two neighbouring channels are a complex number, turned by position.
  Matrix rotated(Matrix rows) const {
    auto* pair = reinterpret_cast<std::complex<float>*>(rows.data());
    const Index pairs = config.head_dim / 2;
    for (Index position = begin; position < end; ++position)
      for (Index i = 0; i < rows.cols() / 2; ++i, ++pair)
        *pair *= std::complex(cosines(position, i % pairs), sines(position, i % pairs));
    return rows;
  }

  std::vector<MatrixOf<double>> keys, values;  // of layers: [context_len][kv_heads * head_dim]
};

// ---- What is done with them --------------------------------------------------------------------

Matrix rms_norm(const Matrix& x, const Matrix& weight, float epsilon) {
  const Eigen::ArrayXf scale = (x.array().square().rowwise().mean() + epsilon).rsqrt();
  return (x.array().colwise() * scale).rowwise() * weight.row(0).array();
}

// Takes the text's next tokens, at most chunk of them at a time, so that one reading of the weights
// serves them all. Gives a row of hidden state for each.
Matrix step(const Model& model, Attention& attention, std::span<const int> tokens, Index chunk) {
  Matrix x = model.embedding(tokens, Eigen::all);
  if (x.rows() > chunk) {
    x.topRows(chunk) = step(model, attention, tokens.first(chunk), chunk);
    x.bottomRows(x.rows() - chunk) = step(model, attention, tokens.subspan(chunk), chunk);
    return x;
  }
  attention.begin_step(x.rows());
  for (int i = 0; i < model.config.num_layers; ++i) {
    const Layer& layer = model.layers[i];
    const Matrix a = rms_norm(x, layer.attention_norm, model.config.epsilon);
    const Matrix query = a * layer.query.transpose(), key = a * layer.key.transpose();
    x += attention.attend(i, query, key, a * layer.value.transpose()) * layer.out.transpose();
    const Matrix f = rms_norm(x, layer.ffn_norm, model.config.epsilon);
    const Matrix gate = f * layer.gate.transpose(), up = f * layer.up.transpose();
    const Matrix gated = gate.array() / (1 + (-gate.array()).exp()) * up.array();
    x += gated * layer.down.transpose();
  }
  return rms_norm(x, model.output_norm, model.config.epsilon);
}

MatrixOf<double> logits_of(const Model& model, const Matrix& hidden) {
  const Matrix logits = hidden * model.embedding.transpose();
  if (!logits.allFinite()) fail("the model gives NaN or infinity");
  return logits.cast<double>();
}

struct Options {
  std::string model, prompt, perplexity, tokenize, codecs, attention = "both";
  int tokens = 64, chunk = 256;
  double temperature = 0, top_p = 1;
  std::uint64_t seed = 0;
};

// The likeliest token; or, with a temperature, one drawn from the likeliest that together have the
// share top_p of the probability.
int sample(const Eigen::RowVectorXd& logits, const Options& options, std::mt19937_64& random) {
  Tokens order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  if (options.temperature == 0) return order[0];
  const Eigen::ArrayXd weights = ((logits.array() - logits[order[0]]) / options.temperature).exp();
  double left = std::uniform_real_distribution(0.0, options.top_p * weights.sum())(random);
  for (const int token : order)
    if ((left -= weights[token]) < 0) return token;
  return order[0];
}

// Prints the prompt and its continuation, which it returns.
Tokens generate(const Model& model, Attention& attention, const Options& options) {
  const auto print = [&](int token) { std::cout << model.tokenizer.texts[token] << std::flush; };
  if (options.attention == "both") std::printf("-- %s\n", attention.name.c_str());
  std::mt19937_64 random(options.seed);
  Tokens made, next = encode(options.prompt, model.tokenizer);
  std::for_each(next.begin(), next.end(), print);
  next.insert(next.begin(), model.config.bos);
  attention.begin_text();
  Clock::time_point begin;
  for (int i = 0; i < options.tokens; ++i) {
    const Matrix hidden = step(model, attention, next, options.chunk);
    next = {sample(logits_of(model, hidden.bottomRows(1)), options, random)};
    made.push_back(next[0]);
    print(next[0]);
    if (i == 0) begin = Clock::now();
  }
  std::cout << std::endl;
  if (options.tokens > 1)
    std::fprintf(stderr, "after the prompt %.0f tokens/s\n",
                 (options.tokens - 1) / Seconds(Clock::now() - begin).count());
  return made;
}

// Prints a text's perplexity as llama.cpp counts it: of windows as long as the context, which begin
// with bos, the second halves. Gives the surprise at each token, in nats, in a column per window.
Eigen::ArrayXXd measure(const Model& model, Attention& attention, const Options& options) {
  Tokens text = parse_file(options.perplexity, encode, model.tokenizer);
  text.insert(text.begin(), model.config.bos);
  const Index window = std::min<Index>(model.config.context_len, text.size());
  const Index half = window / 2, counted = window - 1 - half;
  if (counted < 1) fail("the text is too short");
  Eigen::ArrayXXd surprise(counted, text.size() / window);
  const Clock::time_point begin = Clock::now();
  for (Index i = 0; i < surprise.cols(); ++i) {
    text[i * window] = model.config.bos;
    const std::span<const int> tokens = std::span(text).subspan(i * window, window);
    attention.begin_text();
    const Matrix hidden = step(model, attention, tokens, options.chunk);
    const MatrixOf<double> logits = logits_of(model, hidden.middleRows(half, counted));
    surprise.col(i) = logits.array().exp().rowwise().sum().log();
    for (Index j = 0; j < counted; ++j) surprise(j, i) -= logits(j, tokens[half + j + 1]);
  }
  std::printf("%-5s perplexity %.4f, %.0f tokens/s\n", attention.name.c_str(),
              std::exp(surprise.mean()),
              surprise.cols() * window / Seconds(Clock::now() - begin).count());
  return surprise;
}

void run(const Options& options) {
  const std::string folder = options.model + "/";
  const Config config = parse_file(folder + "config.json", parse_config);
  const Tokenizer tokenizer = parse_file(folder + "tokenizer.json", parse_tokenizer, config.vocab);
  if (!options.tokenize.empty()) {
    for (int token : parse_file(options.tokenize, encode, tokenizer)) std::printf("%d\n", token);
    return;
  }
  const Model model = parse_file(folder + "model.safetensors", parse_model, config, tokenizer);
  std::vector<std::unique_ptr<Attention>> attentions;
  if (options.attention != "int8") attentions.push_back(std::make_unique<ExactAttention>(config));
  if (options.attention != "exact") {
    const std::vector<HeadGroup> heads = options.codecs.empty()
                                             ? same_for_all(config)
                                             : parse_file(options.codecs, parse_codecs, config);
    attentions.push_back(std::make_unique<IntegerAttention>(config, heads));
  }
  if (options.perplexity.empty()) {
    std::vector<Tokens> made;
    for (auto& attention : attentions) made.push_back(generate(model, *attention, options));
    if (made.size() < 2) return;
    const auto differ = std::mismatch(made[0].begin(), made[0].end(), made[1].begin()).first;
    std::printf("-- the same for %td of %d tokens\n", differ - made[0].begin(), options.tokens);
  } else {
    std::vector<Eigen::ArrayXXd> surprises;
    for (auto& attention : attentions) surprises.push_back(measure(model, *attention, options));
    if (surprises.size() < 2) return;
    // Token by token, of which both see the same: more telling than two perplexities with errors.
    const Eigen::ArrayXXd more = surprises[1] - surprises[0];
    const double error = std::sqrt((more - more.mean()).square().mean() / more.size());
    std::printf("int8 - exact = %+.4f %% +- %.4f %%\n", 100 * std::expm1(more.mean()), 100 * error);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Generates text, or measures perplexity, with intflash's attention.");
  app.add_option("--model", options.model, "Folder with the model's three files")->required();
  app.add_option("--prompt", options.prompt, "Text to continue");
  app.add_option("--tokens", options.tokens, "How many to add")->check(CLI::NonNegativeNumber);
  app.add_option("--temperature", options.temperature, "0 = greedy")->check(CLI::NonNegativeNumber);
  app.add_option("--top-p", options.top_p, "Draw from this share")->check(CLI::Range(0.0, 1.0));
  app.add_option("--seed", options.seed, "Of what is drawn");
  app.add_option("--perplexity", options.perplexity, "Measure it on this file instead");
  app.add_option("--tokenize", options.tokenize, "Print the tokens of this file instead");
  app.add_option("--attention", options.attention, "int8, exact, or both one after the other")
      ->check(CLI::IsMember({"int8", "exact", "both"}));
  app.add_option("--codecs", options.codecs, "What intflash calibrate --budget wrote: for int8");
  app.add_option("--chunk", options.chunk, "Tokens at a time")->check(CLI::PositiveNumber);
  try {
    app.parse(argc, argv);
    run(options);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "intflash-runner: %s\n", error.what());
    return 1;
  }
}

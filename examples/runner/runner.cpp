// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A language model on intflash, in one file: reads a small Llama and its tokenizer, generates text,
// and measures perplexity, with attention in INT8 and in double precision side by side. Read it
// from the top: model, tokenizer, attention (where intflash is), and what is done with them.
#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <complex>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <CLI/CLI.hpp>
#include <Eigen/Dense>
#include <nlohmann/json.hpp>

#include <intflash/cache.h>
#include <intflash/intflash.hpp>

namespace {

using Eigen::Index;
using Json = nlohmann::json;
using Tokens = std::vector<int>;
template <class T>
using MatrixOf = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Matrix = MatrixOf<float>;  // of activations: a row is a token, a column a channel

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

// Calls parse with the bytes of a file, and puts its name before what parse complains of.
template <class Parse>
auto parse_file(const std::string& path, Parse parse) {
  try {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail("cannot open");
    std::ostringstream bytes;
    bytes << file.rdbuf();
    return parse(bytes.str());
  } catch (const std::exception& error) {
    fail(path + ": " + error.what());
  }
}

// ---- Model -------------------------------------------------------------------------------------

struct Config {
  Index vocab, dim, num_layers, num_query_heads, num_kv_heads, head_dim, ffn_dim, context_len;
  float rope_theta, epsilon;
  int bos;  // the token that begins a text
};

struct Layer {
  Matrix attention_norm;     // [1][dim]
  Matrix query, key, value;  // [heads * head_dim][dim]: a row per output channel
  Matrix out;                // [dim][num_query_heads * head_dim]
  Matrix ffn_norm;           // [1][dim]
  Matrix gate, up;           // [ffn_dim][dim]
  Matrix down;               // [dim][ffn_dim]
};

struct Model {
  Config config;
  std::vector<Layer> layers;
  Matrix output_norm;  // [1][dim]
  Matrix embedding;    // [vocab][dim], of tokens that come in, and of those that go out
};

Config parse_config(const std::string& bytes) {
  const Json json = Json::parse(bytes);
  for (const char* key : {"vocab", "dim", "n_layer", "n_head", "n_kv", "head_dim", "ffn", "ctx"})
    if (json.at(key) < 1 || json.at(key) > 1 << 20)
      fail(std::string(key) + ": must be 1 ... 2^20");  // a product of two is far from an overflow
  const Config c = {json["vocab"],         json["dim"],      json["n_layer"], json["n_head"],
                    json["n_kv"],          json["head_dim"], json["ffn"],     json["ctx"],
                    json.at("rope_theta"), json.at("eps"),   json.at("bos")};
  if (c.num_query_heads % c.num_kv_heads != 0 || c.head_dim % 2 != 0)
    fail("n_head: must be a multiple of n_kv, and head_dim even");
  if (c.bos < 0 || c.bos >= c.vocab) fail("bos: must be a token");
  for (const char* key : {"rope_interleaved", "tie_word_embeddings"})
    if (json.at(key) != true) fail(std::string(key) + ": must be true");
  return c;
}

// A tensor of a safetensors file: its header says type, shape and place among all elements.
Matrix read_tensor(const Json& header, std::string_view elements, const std::string& name,
                   Index rows, Index columns) {
  const Json& tensor = header.at(name);
  const Json shape = rows == 1 ? Json{columns} : Json{rows, columns};
  if (tensor.at("shape") != shape)
    fail(name + ": shape " + tensor["shape"].dump() + ": must be " + shape.dump());
  const auto copy_to = [&](auto matrix) -> Matrix {
    const auto [begin, end] = tensor.at("data_offsets").get<std::pair<std::size_t, std::size_t>>();
    const std::size_t bytes = matrix.size() * sizeof matrix(0);
    if (end > elements.size()) fail(name + ": truncated");
    if (begin > end || end - begin != bytes) fail(name + ": data_offsets do not fit its shape");
    std::memcpy(matrix.data(), elements.data() + begin, bytes);
    return matrix.template cast<float>();
  };
  if (tensor.at("dtype") == "F32") return copy_to(Matrix(rows, columns));
  if (tensor["dtype"] == "F16") return copy_to(MatrixOf<Eigen::half>(rows, columns));
  fail(name + ": dtype " + tensor["dtype"].dump() + ": must be F16 or F32");
}

// A safetensors file is the length of its header in 8 bytes, the header in JSON, and the elements.
Model parse_model(const Config& c, std::string_view bytes) {
  std::uint64_t length = 0;
  if (bytes.size() < sizeof length) fail("truncated");
  std::memcpy(&length, bytes.data(), sizeof length);
  bytes.remove_prefix(sizeof length);
  if (length > bytes.size()) fail("truncated in its header");
  const Json header = Json::parse(bytes.substr(0, length));
  const auto read = [&](const std::string& name, Index rows, Index columns) {
    return read_tensor(header, bytes.substr(length), name + ".weight", rows, columns);
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
  return {c, layers, read("output_norm", 1, c.dim), read("token_embd", c.vocab, c.dim)};
}

// ---- Tokenizer ---------------------------------------------------------------------------------

// Byte pair encoding over bytes, as GPT-2 has it. A word starts as a token for each of its bytes.
// Then neighbours are merged as in training, which numbered the tokens in the order it made them:
// of all pairs whose text is a token, the one of the lowest number goes first.
class Tokenizer {
 public:
  Tokenizer(Index vocab, const std::string& bytes) : texts_(vocab) {
    const Json json = Json::parse(bytes);
    for (const auto& [spelled, id] : json.at("model").at("vocab").items()) {
      if (!(id >= 0 && id < texts_.size())) fail("token " + id.dump() + ": not of the model");
      const std::size_t token = id;
      for (std::size_t i = 0; i < spelled.size(); ++i) {
        int c = static_cast<unsigned char>(spelled[i]);
        if (c >= 0x80) c = (c & 0x1f) << 6 | (spelled.at(++i) & 0x3f);  // UTF-8 of two bytes
        texts_[token] += byte_of(c);
      }
      tokens_[texts_[token]] = static_cast<int>(token);
    }
    for (int byte = 0; byte < 0x100; ++byte)
      if (!tokens_.contains({static_cast<char>(byte)}))
        fail("no token for byte " + std::to_string(byte));
  }

  Tokens encode(std::string_view text) const {
    Tokens tokens;
    while (!text.empty()) {
      const std::size_t size = word_size(text);
      const Tokens word = merge(text.substr(0, size));
      tokens.insert(tokens.end(), word.begin(), word.end());
      text.remove_prefix(size);
    }
    return tokens;
  }
  const std::string& text_of(int token) const { return texts_[token]; }

 private:
  // JSON cannot hold all bytes: U+0100 ... U+0143 stand for 0 ... 0x20, 0x7f ... 0xa0, and 0xad.
  static char byte_of(int character) {
    const int i = character - 0x100;
    return static_cast<char>(i < 0 ? character : i < 0x21 ? i : i < 0x43 ? i - 0x21 + 0x7f : 0xad);
  }

  static char kind_of(unsigned char c) {
    if (c >= 0x80 || std::isalpha(c)) return 'a';
    return std::isdigit(c) ? '0' : std::isspace(c) ? ' ' : '.';
  }

  // Of the first word by GPT-2's pattern, where characters beyond ASCII are all taken for letters:
  // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  static std::size_t word_size(std::string_view text) {
    for (const std::string_view suffix : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
      if (text.starts_with(suffix)) return suffix.size();
    std::size_t end = text.size() > 1 && text[0] == ' ' && kind_of(text[1]) != ' ' ? 1 : 0;
    const char kind = kind_of(text[end]);
    while (end < text.size() && kind_of(text[end]) == kind) ++end;
    // The last of several spaces is left to the word that follows.
    return kind == ' ' && end > 1 && end < text.size() ? end - 1 : end;
  }

  Tokens merge(std::string_view word) const {
    Tokens parts;
    for (const char c : word) parts.push_back(tokens_.at({c}));
    while (true) {
      std::pair<int, std::size_t> next(texts_.size(), 0);  // token, place
      for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto found = tokens_.find(texts_[parts[i]] + texts_[parts[i + 1]]);
        if (found != tokens_.end()) next = std::min(next, {found->second, i});
      }
      if (next.first == static_cast<int>(texts_.size())) return parts;
      parts[next.second] = next.first;
      parts.erase(parts.begin() + next.second + 1);
    }
  }

  std::vector<std::string> texts_;               // of tokens
  std::unordered_map<std::string, int> tokens_;  // of texts
};

// ---- Attention ---------------------------------------------------------------------------------

// Attention within one text that grows step by step. A step is announced once; then each layer
// hands over query, key and value of the new tokens, and gets their outputs.
class Attention {
 public:
  explicit Attention(const Config& config) : config_(config) {
    const Index pairs = config.head_dim / 2, last = config.context_len - 1;
    const Eigen::VectorXd positions = Eigen::VectorXd::LinSpaced(last + 1, 0, last);
    const Eigen::RowVectorXd powers = Eigen::RowVectorXd::LinSpaced(pairs, 0, 1 - pairs) / pairs;
    const Eigen::RowVectorXd speeds = (powers * std::log(config.rope_theta)).array().exp();
    cos_ = (positions * speeds).array().cos().cast<float>();
    sin_ = (positions * speeds).array().sin().cast<float>();
  }
  virtual ~Attention() = default;

  void begin_text() { end_ = 0; }
  virtual void begin_step(Index num_tokens) {
    begin_ = std::exchange(end_, end_ + num_tokens);
    if (end_ > config_.context_len) fail("the text is longer than the model's context");
  }
  virtual Matrix attend(Index layer, const Matrix& query, const Matrix& key,
                        const Matrix& value) = 0;

 protected:
  const Config config_;
  Matrix cos_, sin_;           // of the rotary embedding: [context_len][head_dim / 2]
  Index begin_ = 0, end_ = 0;  // positions of the step's tokens
};

// intflash: for each layer a cache of INT8 pages, and for each step one plan, which all layers run.
class Int8Attention : public Attention {
 public:
  Int8Attention(const Config& config, const intflash::Context& context)
      : Attention(config),
        context_(context),
        rope_{cos_.data(), sin_.data(), cos_.rows(), config.head_dim, INTFLASH_ROPE_ADJACENT},
        page_indptr_{0, (config.context_len + kPageSize - 1) / kPageSize},
        page_ids_(page_indptr_[1]) {
    // A cache's pages are all the one text's, in their order; the next text writes over them.
    std::iota(page_ids_.begin(), page_ids_.end(), 0);
    const intflash_cache_options options = {.struct_size = sizeof options,
                                            .num_kv_heads = config.num_kv_heads,
                                            .head_dim = config.head_dim,
                                            .page_size = kPageSize,
                                            .num_pages = page_indptr_[1]};
    for (Index layer = 0; layer < config.num_layers; ++layer) {
      intflash_cache* cache = nullptr;
      intflash::check(intflash_cache_create(context.get(), &options, &cache));
      caches_.emplace_back(cache, intflash_cache_destroy);
    }
  }

  // The plan depends on lengths alone: all layers run it.
  void begin_step(Index num_tokens) override {
    Attention::begin_step(num_tokens);
    const intflash_request request = {
        .query_len = num_tokens, .kv_len = end_, .mask = INTFLASH_MASK_CAUSAL};
    const intflash_batch_desc desc = {.struct_size = sizeof desc,
                                      .num_requests = 1,
                                      .requests = &request,
                                      .num_query_heads = config_.num_query_heads,
                                      .query_dtype = INTFLASH_F32,
                                      .out_dtype = INTFLASH_F32};
    intflash_batch_plan* plan = nullptr;
    intflash::check(intflash_plan_batch(context_.get(), caches_[0].get(), &desc, &plan));
    plan_.reset(plan, intflash_batch_plan_destroy);
    const std::size_t bytes = intflash_batch_workspace_bytes(plan);
    if (bytes > workspace_.bytes()) workspace_ = intflash::Workspace(bytes);
  }

  Matrix attend(Index layer, const Matrix& query, const Matrix& key, const Matrix& value) override {
    const intflash_page_table pages = {page_indptr_, page_ids_.data()};
    const std::int64_t token_indptr[] = {0, query.rows()};
    const intflash_append_args append = {.struct_size = sizeof append,
                                         .num_requests = 1,
                                         .token_indptr = token_indptr,
                                         .kv_lens = &begin_,
                                         .pages = pages,
                                         .key_dtype = INTFLASH_F32,
                                         .value_dtype = INTFLASH_F32,
                                         .key = tensor(key),
                                         .value = tensor(value),
                                         .rope = rope_};
    intflash::check(intflash_cache_append(caches_[layer].get(), &append));
    Matrix out(query.rows(), query.cols());
    const intflash_batch_args args = {.struct_size = sizeof args,
                                      .query = tensor(query),
                                      .out = tensor(out),
                                      .pages = pages,
                                      .rope = rope_};
    intflash::check(intflash_batch_run(plan_.get(), caches_[layer].get(), &args, workspace_.data(),
                                       workspace_.bytes()));
    return out;
  }

 private:
  static constexpr Index kPageSize = 64;

  // The heads of a token lie side by side in its row.
  intflash_tensor tensor(const Matrix& rows) const {
    return {.data = const_cast<float*>(rows.data()),
            .stride_head = config_.head_dim,
            .stride_token = rows.cols()};
  }

  const intflash::Context& context_;
  const intflash_rope rope_;
  const std::int64_t page_indptr_[2];
  std::vector<std::int32_t> page_ids_;
  std::vector<std::shared_ptr<intflash_cache>> caches_;  // of layers
  std::shared_ptr<intflash_batch_plan> plan_;            // of the step
  intflash::Workspace workspace_{0};
};

// What it is compared with: softmax(Q K^T / sqrt(head_dim)) V in double precision.
class ExactAttention : public Attention {
 public:
  explicit ExactAttention(const Config& config)
      : Attention(config),
        keys_(config.num_layers, Matrix(config.context_len, config.num_kv_heads * config.head_dim)),
        values_(keys_) {}

  Matrix attend(Index layer, const Matrix& query, const Matrix& key, const Matrix& value) override {
    keys_[layer].middleRows(begin_, key.rows()) = rotated(key);
    values_[layer].middleRows(begin_, value.rows()) = value;
    const Matrix rotated_query = rotated(query);
    const Index dim = config_.head_dim;
    const auto head_of = [&](const Matrix& rows, Index num_rows, Index head) {
      return rows.block(0, head * dim, num_rows, dim).cast<double>();
    };
    Matrix out(query.rows(), query.cols());
    for (Index head = 0; head < config_.num_query_heads; ++head) {
      const Index kv_head = head * config_.num_kv_heads / config_.num_query_heads;
      MatrixOf<double> weights = head_of(rotated_query, query.rows(), head) *
                                 head_of(keys_[layer], end_, kv_head).transpose();
      weights /= std::sqrt(static_cast<double>(dim));
      for (Index i = 0; i < weights.rows(); ++i) {
        auto visible = weights.row(i).head(begin_ + i + 1).array();
        visible = (visible - visible.maxCoeff()).exp();
        visible /= visible.sum();
        weights.row(i).tail(end_ - visible.size()).setZero();
      }
      out.middleCols(head * dim, dim) =
          (weights * head_of(values_[layer], end_, kv_head)).cast<float>();
    }
    return out;
  }

 private:
  // The rotary embedding: two neighbouring channels are a complex number, turned by position.
  Matrix rotated(Matrix rows) const {
    auto* pair = reinterpret_cast<std::complex<float>*>(rows.data());
    for (Index position = begin_; position < end_; ++position) {
      for (Index i = 0; i < rows.cols() / 2; ++i, ++pair)
        *pair *= std::complex(cos_(position, i % cos_.cols()), sin_(position, i % sin_.cols()));
    }
    return rows;
  }

  std::vector<Matrix> keys_, values_;  // of layers: [context_len][num_kv_heads * head_dim]
};

// ---- Steps through the model -------------------------------------------------------------------

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
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
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

// ---- What is done with it ----------------------------------------------------------------------

struct Options {
  std::string model, prompt, perplexity, tokenize, attention = "both";
  int tokens = 64, chunk = 256;
  double temperature = 0, top_p = 1;
  std::uint64_t seed = 0;
};

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

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
Tokens generate(const Model& model, const Tokenizer& tokenizer, Attention& attention,
                const Options& options) {
  const auto print = [&](int token) {
    std::fwrite(tokenizer.text_of(token).data(), 1, tokenizer.text_of(token).size(), stdout);
    std::fflush(stdout);
  };
  std::mt19937_64 random(options.seed);
  Tokens made, next = tokenizer.encode(options.prompt);
  std::for_each(next.begin(), next.end(), print);
  next.insert(next.begin(), model.config.bos);
  attention.begin_text();
  double begin = 0;
  for (int i = 0; i < options.tokens; ++i) {
    const Matrix hidden = step(model, attention, next, options.chunk);
    next = {sample(logits_of(model, hidden.bottomRows(1)), options, random)};
    made.push_back(next[0]);
    print(next[0]);
    if (i == 0) begin = seconds_now();
  }
  std::puts("");
  if (options.tokens > 1)
    std::fprintf(stderr, "after the prompt %.0f tokens/s\n",
                 (options.tokens - 1) / (seconds_now() - begin));
  return made;
}

// The surprise at each token, in nats, as llama.cpp's llama-perplexity counts it: the text is cut
// into windows as long as the context, each begins with bos, and its second half counts.
Eigen::ArrayXd surprise_of(const Model& model, Attention& attention, Tokens text, Index chunk) {
  text.insert(text.begin(), model.config.bos);
  const Index window = std::min<Index>(model.config.context_len, text.size());
  const Index half = window / 2, counted = window - 1 - half;
  if (counted < 1) fail("the text is too short");
  Eigen::ArrayXd surprise(static_cast<Index>(text.size()) / window * counted);
  for (Index i = 0; i < surprise.size() / counted; ++i) {
    text[i * window] = model.config.bos;
    const std::span<const int> tokens = std::span(text).subspan(i * window, window);
    attention.begin_text();
    const Matrix hidden = step(model, attention, tokens, chunk);
    const MatrixOf<double> logits = logits_of(model, hidden.middleRows(half, counted));
    for (Index j = 0; j < counted; ++j) {
      const double log_sum = std::log(logits.row(j).array().exp().sum());
      surprise[i * counted + j] = log_sum - logits(j, tokens[half + j + 1]);
    }
  }
  return surprise;
}

using Attentions = std::map<std::string, std::unique_ptr<Attention>>;

void compare_perplexity(const Model& model, const Attentions& attentions, const Tokens& text,
                        Index chunk) {
  std::vector<Eigen::ArrayXd> surprises;
  for (const auto& [name, attention] : attentions) {
    const double begin = seconds_now();
    surprises.push_back(surprise_of(model, *attention, text, chunk));
    std::printf("%-5s perplexity %.4f, %.0f tokens/s\n", name.c_str(),
                std::exp(surprises.back().mean()),
                static_cast<double>(text.size()) / (seconds_now() - begin));
  }
  if (surprises.size() < 2) return;
  // Token by token, of which both see the same: that shows more than two perplexities with errors.
  const Eigen::ArrayXd more = surprises[1] - surprises[0];
  const double deviation = std::sqrt((more - more.mean()).square().mean());
  std::printf("int8 - exact = %+.4f %% +- %.4f %%\n", 100 * std::expm1(more.mean()),
              100 * deviation / std::sqrt(static_cast<double>(more.size())));
}

void compare_texts(const Model& model, const Tokenizer& tokenizer, const Attentions& attentions,
                   const Options& options) {
  std::vector<Tokens> texts;
  for (const auto& [name, attention] : attentions) {
    if (attentions.size() > 1) std::printf("-- %s\n", name.c_str());
    texts.push_back(generate(model, tokenizer, *attention, options));
  }
  if (texts.size() < 2) return;
  const auto differ = std::mismatch(texts[0].begin(), texts[0].end(), texts[1].begin()).first;
  std::printf("-- the same for %td of %d tokens\n", differ - texts[0].begin(), options.tokens);
}

void run(const Options& options) {
  const Config config = parse_file(options.model + "/config.json", parse_config);
  const auto tokenizer =
      parse_file(options.model + "/tokenizer.json",
                 [&](const std::string& json) { return Tokenizer(config.vocab, json); });
  const auto encode = [&](const std::string& text) { return tokenizer.encode(text); };
  if (!options.tokenize.empty()) {
    for (const int token : parse_file(options.tokenize, encode)) std::printf("%d\n", token);
    return;
  }
  const Model model =
      parse_file(options.model + "/model.safetensors",
                 [&](const std::string& bytes) { return parse_model(config, bytes); });
  const intflash::Context context;
  Attentions attentions;
  if (options.attention != "int8") attentions["exact"] = std::make_unique<ExactAttention>(config);
  if (options.attention != "exact")
    attentions["int8"] = std::make_unique<Int8Attention>(config, context);
  if (options.perplexity.empty()) return compare_texts(model, tokenizer, attentions, options);
  compare_perplexity(model, attentions, parse_file(options.perplexity, encode), options.chunk);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Generates text, or measures perplexity, with intflash's attention.");
  app.add_option("--model", options.model,
                 "Folder with config.json, model.safetensors and tokenizer.json")
      ->required();
  app.add_option("--prompt", options.prompt, "Text to continue");
  app.add_option("--tokens", options.tokens, "How many to add")->check(CLI::NonNegativeNumber);
  app.add_option("--temperature", options.temperature, "0 takes the likeliest token")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--top-p", options.top_p, "Draw from this share")->check(CLI::Range(0.0, 1.0));
  app.add_option("--seed", options.seed, "Of what is drawn");
  app.add_option("--perplexity", options.perplexity, "Measure it on this file instead");
  app.add_option("--tokenize", options.tokenize, "Print the tokens of this file instead");
  app.add_option("--attention", options.attention, "int8, exact, or both one after the other")
      ->check(CLI::IsMember({"int8", "exact", "both"}));
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

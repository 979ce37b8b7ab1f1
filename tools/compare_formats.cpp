// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// `intflash compare --formats`: what each format keeps of K and V, and of attention when they, and
// then Q as well, are stored so and all else is double precision; with and without rotation.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "attention_inputs.h"
#include "compare.h"
#include "compare_inputs.h"
#include "core/rotation.h"
#include "error_metrics.h"
#include "storage_formats.h"
#include "synthetic.h"

namespace intflash {
namespace {

// One head of random inputs, large enough for two digits of an error; when quick, of an SQNR.
struct Size {
  std::int64_t queries, keys;
};
constexpr Size kSize = {64, 1024}, kQuickSize = {8, 256};
constexpr std::int64_t kHeadDim = 128;
struct Random {
  const char* name;
  Distribution distribution;
};
constexpr Random kRandom[] = {{"normal", Distribution::kNormal},
                              {"uniform", Distribution::kUniform},
                              {"Student's t, 4 degrees of freedom", Distribution::kStudentT}};

// Runs of rows from all over the queries: all of them would take minutes.
constexpr std::int64_t kRunRows = 16, kRuns = 8;

Matrix rows_from(const Matrix& x, std::int64_t first, std::int64_t count) {
  Matrix rows(count, x.dim);
  std::copy_n(x.row(first), count * x.dim, rows.data.data());
  return rows;
}

std::vector<double> attend_sample(const Head& head) {
  const std::int64_t queries = head.query.tokens, keys = head.key.tokens;
  const std::int64_t runs = queries > kRuns * kRunRows ? kRuns : 1;
  const std::int64_t rows = runs == 1 ? queries : kRunRows;
  std::vector<double> out;
  for (std::int64_t i = 0; i < runs; ++i) {
    const std::int64_t first = runs == 1 ? 0 : (queries - rows) * i / (runs - 1);
    // The last of the rows sees the last of the keys.
    const std::int64_t end =
        head.causal ? std::max<std::int64_t>(keys - queries + first + rows, 0) : keys;
    const Matrix of_run =
        attend_unrounded({rows_from(head.query, first, rows), rows_from(head.key, 0, end),
                          rows_from(head.value, 0, end), head.softmax_scale, head.causal});
    out.insert(out.end(), of_run.data.begin(), of_run.data.end());
  }
  return out;
}

// The signal and what is added to it, as sums of squares.
struct Noise {
  double signal = 0, noise = 0;

  void add(const Matrix& x, const Matrix& stored) {
    for (std::size_t i = 0; i < x.data.size(); ++i) {
      signal += x.data[i] * x.data[i];
      noise += (stored.data[i] - x.data[i]) * (stored.data[i] - x.data[i]);
    }
  }
  double decibels() const { return 10 * std::log10(signal / noise); }  // infinite: stored exactly
};

struct Loss {
  Noise key, value;
  std::vector<double> out, out_all;  // with K and V stored so; with Q, too
};

Head with_stored(const StorageFormat& format, const Head& head,
                 const internal::Rotation& rotation) {
  return {stored(format.query, head.query, rotation.keys),
          stored(format.key, head.key, rotation.keys),
          stored(format.value, head.value, rotation.values), head.softmax_scale, head.causal};
}

void add_head(const StorageFormat& format, const Head& head, const internal::Rotation& rotation,
              Loss& loss) {
  Head rounded = with_stored(format, head, rotation);
  loss.key.add(head.key, rounded.key);
  loss.value.add(head.value, rounded.value);
  const std::vector<double> all = attend_sample(rounded);
  rounded.query = head.query;
  const std::vector<double> key_value = attend_sample(rounded);
  loss.out_all.insert(loss.out_all.end(), all.begin(), all.end());
  loss.out.insert(loss.out.end(), key_value.begin(), key_value.end());
}

// Of one format, or of its rotated form.
struct Figures {
  double key_db, value_db, rel_l1, rel_l1_all;
};
struct Row {
  const StorageFormat* format;
  Figures plain, rotated;
};
struct Table {
  std::string name;
  std::size_t heads;
  std::int64_t kv_len, head_dim;
  bool rotates;  // what can be rotated; else both forms are the same
  std::vector<Row> rows;
};

Figures measure(const StorageFormat& format, const std::vector<Head>& heads,
                const std::vector<double>& reference, const internal::Rotation& rotation) {
  Loss loss;
  for (const Head& head : heads) add_head(format, head, rotation, loss);
  const auto error = [&](const std::vector<double>& out) {
    return measure_error(std::span<const double>(out), reference).rel_l1;
  };
  return {loss.key.decibels(), loss.value.decibels(), error(loss.out), error(loss.out_all)};
}

Table make_table(std::string name, const std::vector<Head>& heads) {
  const Matrix &key = heads.front().key, &value = heads.front().value;
  internal::Rotation rotation;
  internal::choose_rotation(INTFLASH_ROTATION_AUTO, key.dim, value.dim, rotation);
  Table table = {
      std::move(name), heads.size(), key.tokens, key.dim, rotation.keys || rotation.values, {}};
  std::vector<double> reference;
  for (const Head& head : heads) {
    const std::vector<double> out = attend_sample(head);
    reference.insert(reference.end(), out.begin(), out.end());
  }
  for (const StorageFormat& format : storage_formats()) {
    table.rows.push_back({&format, measure(format, heads, reference, {false, false}),
                          measure(format, heads, reference, rotation)});
  }
  return table;
}

std::vector<Head> heads_of(const CompareOptions& options) {
  const AttentionInputs inputs = read_attention_inputs(options.query, options.key, options.value);
  const intflash_attend_desc desc = compare_desc(options, inputs);
  create_context(0, "").query_support(desc);  // refuses what the library refuses
  std::vector<Head> heads;
  for (std::int64_t b = 0; b < inputs.batch; ++b)
    for (std::int64_t h = 0; h < inputs.num_query_heads; ++h)
      heads.push_back(head_of(inputs, desc, b, h));
  return heads;
}

// ---- Tables ----

std::string decibels_text(double decibels) {
  return std::isinf(decibels) ? fmt::format("{:>8}", "exact") : fmt::format("{:8.2f}", decibels);
}

void print_text(const Table& table) {
  fmt::print("{}: {} head{}, {} keys, head_dim {}{}\n", table.name, table.heads,
             table.heads == 1 ? "" : "s", table.kv_len, table.head_dim,
             table.rotates ? "" : " (which cannot be rotated)");
  fmt::print("{:18} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9}\n", "", "K dB", "rotated",
             "V dB", "rotated", "K V: %", "rotated", "Q K V: %", "rotated");
  for (const Row& row : table.rows) {
    fmt::print("{:18} {} {} {} {} {:9.4f} {:9.4f} {:9.4f} {:9.4f}\n", row.format->name,
               decibels_text(row.plain.key_db), decibels_text(row.rotated.key_db),
               decibels_text(row.plain.value_db), decibels_text(row.rotated.value_db),
               100 * row.plain.rel_l1, 100 * row.rotated.rel_l1, 100 * row.plain.rel_l1_all,
               100 * row.rotated.rel_l1_all);
  }
  fmt::print("\n");
  std::fflush(stdout);  // the next table takes seconds
}

void print_legend() {
  fmt::print(
      "dB: of the signal over what the format adds to it. %: relative L1 of out where K and V, "
      "and\n"
      "where Q, K and V are stored so, and all else is double precision.\n");
  for (const StorageFormat& format : storage_formats())
    fmt::print("  {:18} {}\n", format.name, format.what);
}

// An infinite SQNR, of what is stored exactly, is null.
nlohmann::ordered_json figures_json(const Figures& figures) {
  return {{"key_sqnr_db", figures.key_db},
          {"value_sqnr_db", figures.value_db},
          {"rel_l1_key_value", figures.rel_l1},
          {"rel_l1_query_key_value", figures.rel_l1_all}};
}

nlohmann::ordered_json table_json(const Table& table) {
  nlohmann::ordered_json json = {{"inputs", table.name},     {"heads", table.heads},
                                 {"kv_len", table.kv_len},   {"head_dim", table.head_dim},
                                 {"rotates", table.rotates}, {"formats", {}}};
  for (const Row& row : table.rows) {
    json["formats"].push_back({{"name", row.format->name},
                               {"what", row.format->what},
                               {"plain", figures_json(row.plain)},
                               {"rotated", figures_json(row.rotated)}});
  }
  return json;
}

}  // namespace

int run_compare_formats(const CompareOptions& options, bool quick) {
  // Read first: what takes long must not end with a file that cannot be read.
  const std::vector<Head> of_files =
      options.query.empty() ? std::vector<Head>{} : heads_of(options);
  nlohmann::ordered_json json = {{"tables", nlohmann::ordered_json::array()}};
  const auto show = [&](const Table& table) {
    if (options.json)
      json["tables"].push_back(table_json(table));
    else
      print_text(table);
  };
  const Size size = quick ? kQuickSize : kSize;
  for (const Random& random : kRandom)
    show(make_table(random.name, {make_head(random.distribution, size.queries, size.keys, kHeadDim,
                                            /*seed=*/1)}));
  if (!of_files.empty()) show(make_table("files", of_files));
  if (options.json)
    fmt::print("{}\n", json.dump(2));
  else
    print_legend();
  return 0;
}

}  // namespace intflash

// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The intflash command: parses the command line and calls a subcommand. Exit codes: 0 well, 2 wrong
// usage, 1 any other failure; messages go to stderr.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <vector>
#include <CLI/CLI.hpp>

#include <fmt/format.h>

#include "atomic_file.h"
#include "attend.h"
#include "bench.h"
#include "calibrate.h"
#include "compare.h"
#include "failure.h"
#include "info.h"
#include "intflash/intflash.h"
#include "machine/numa.h"
#include "machine_report.h"
#include "plan.h"
#include "serve_sim.h"
#include "standard_streams.h"

namespace intflash {
namespace {

constexpr int kUsageError = 2;
constexpr int kMaxThreads = 4096;

constexpr const char* kExamples = R"(Examples:
  intflash info
  intflash attend --query q.npy --key k.npy --value v.npy --causal --check
  intflash attend --query q.npy --key k.npy --value v.npy --out o.npy --isa avx2 --json
  intflash compare --query q.npy --key k.npy --value v.npy
  intflash bench --quick --filter 'prefill/full' --json bench.json
  intflash serve-sim --requests 200 --verify)";

// A positive, finite number, as the softmax scale and the score cap have to be.
std::string check_positive(const std::string& text) {
  float value = 0;
  const bool good = CLI::detail::lexical_cast(text, value) && std::isfinite(value) && value > 0;
  return good ? "" : fmt::format("{} is not a finite number > 0", text);
}

// An option without a file is one that was not given.
std::string check_named(const std::string& path) { return path.empty() ? "no file is named" : ""; }

CLI::Option& add_output(CLI::App& command, const char* name, std::string& path, const char* what) {
  return *command.add_option(name, path, what)->check(check_named)->type_name("FILE");
}

template <class Options>
void add_inputs(CLI::App& command, Options& options, bool required) {
  command
      .add_option("--query", options.query,
                  "[heads, tokens, head_dim] or [batch, heads, tokens, head_dim]; float16, float32 "
                  "or float64; - is stdin")
      ->required(required)
      ->type_name("NPY");
  command.add_option("--key", options.key, "the same; fewer heads mean grouped-query attention")
      ->required(required)
      ->type_name("NPY");
  command.add_option("--value", options.value, "the same")->required(required)->type_name("NPY");
  command.add_flag("--causal", options.causal, "a query sees no later keys; the last one sees all");
}

void add_port(CLI::App& command, int& threads, std::string& isa) {
  command.add_option("--threads", threads, "number of threads")
      ->check(CLI::Range(1, kMaxThreads).description(""))
      ->type_name("N");
  command.add_option("--isa", isa, "port to run, as intflash info lists them")->type_name("NAME");
}

void add_attend_masks(CLI::App& command, AttendOptions& options) {
  const auto add_length = [&](const char* name, std::optional<std::int64_t>& length,
                              const char* what) {
    return command.add_option(name, length, what)
        ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40).description(""))
        ->type_name("N");
  };
  const auto add_file = [&](const char* name, std::string& path, const char* what) {
    return command.add_option(name, path, what)->check(check_named)->type_name("NPY");
  };
  CLI::Option* window = add_length("--window", options.window,
                                   "keys before the query that stay visible; 0 = itself alone");
  CLI::Option* prefix =
      add_length("--prefix-len", options.prefix_len,
                 "the first N keys are seen by every query; others as --causal has it")
          ->excludes(window);
  command
      .add_option("--mask", options.mask,
                  "in place of --causal; of causal-top-left the first query sees the first key "
                  "alone, whatever the last one sees")
      ->check(CLI::IsMember({"none", "causal", "causal-top-left"}))
      ->type_name("MASK")
      ->excludes(command.get_option("--causal"))
      ->excludes(window)
      ->excludes(prefix);
  add_file("--additive-mask", options.scores.additive_mask,
           "added to the scores, -inf hides a key; of bool or uint8, 0 hides one and any other "
           "keeps it: [query_len, kv_len], [heads, query_len, kv_len] or [batch, heads, query_len, "
           "kv_len], all but kv_len may be 1");
  add_file("--sinks", options.scores.sinks, "[heads]: logits that join the softmax denominators");
  CLI::Option* slopes = add_file("--alibi-slopes", options.scores.alibi_slopes,
                                 "[heads]: slope * distance is taken from the scores");
  command
      .add_flag("--alibi", options.scores.alibi,
                "the same with slopes 2^(-8 (i + 1) / heads) for head i")
      ->excludes(slopes);
}

void add_attend(CLI::App& app, AttendOptions& options) {
  CLI::App& command = *app.add_subcommand("attend", "attention on arrays from files");
  add_inputs(command, options, true);
  add_output(command, "--out", options.out,
             "writes the result, float32; - is stdout, and the report then goes to stderr");
  add_output(command, "--lse", options.lse, "writes the log of the softmax denominators, float32");
  add_attend_masks(command, options);
  command.add_option("--mode", options.mode, "arithmetic")
      ->check(CLI::IsMember({"int8", "exact", "intfa", "int8_qk"}))
      ->type_name("MODE")
      ->capture_default_str();
  command.add_option("--softmax-scale", options.softmax_scale, "default: 1 / sqrt(head_dim)")
      ->check(check_positive);
  command.add_option("--score-cap", options.score_cap, "score = cap * tanh(score / cap)")
      ->check(check_positive);
  command
      .add_option("--center", options.center,
                  "means to subtract before quantization; default: none")
      ->check(CLI::IsMember({"none", "k", "kv"}))
      ->type_name("MEANS");
  command
      .add_option("--rotate", options.rotate,
                  "Hadamard rotation of query, key and value; default: on")
      ->check(CLI::IsMember({"on", "off"}))
      ->type_name("STATE");
  command
      .add_option("--score-digits", options.score_digits,
                  "INT8 digits of query and key in scores; default: a second one where one is too "
                  "coarse")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, int>{{"auto", 0}, {"1", 1}, {"2", 2}}))
      ->type_name("auto|1|2");
  add_port(command, options.threads, options.isa);
  command.add_flag("--check", options.check, "measures the error against mode exact");
  command.add_flag("--json", options.json, "prints one JSON object");
  command.footer(
      "Examples:\n"
      "  intflash attend --query q.npy --key k.npy --value v.npy --causal --check\n"
      "  intflash attend --query q.npy --key k.npy --value v.npy --additive-mask m.npy --out "
      "o.npy\n"
      "  intflash attend --query q.npy --key k.npy --value v.npy --causal --alibi --sinks s.npy\n"
      "  intflash attend --query q.npy --key k.npy --value v.npy --prefix-len 100 --out - >o.npy");
}

struct CompareKind {
  bool formats = false;
  bool report = false;
  bool synthetic = false;
  bool quick = false;
};

void add_compare(CLI::App& app, CompareOptions& options, CompareKind& kind) {
  CLI::App& command =
      *app.add_subcommand("compare", "error of every mode and codec, and of published pipelines");
  add_inputs(command, options, false);
  command.add_option("--softmax-scale", options.softmax_scale, "default: 1 / sqrt(head_dim)")
      ->check(check_positive);
  CLI::Option& report =
      *command.add_flag("--report", kind.report, "the default's error alone, by part and by head");
  add_output(command, "--picture", options.picture,
             "with --report: draws it, SVG; - is stdout, and the tables then go to stderr")
      .needs(&report);
  command
      .add_flag("--formats", kind.formats,
                "what FP8, INT8 and INT4 keep of Q, K and V, by distribution, and of files")
      ->excludes(&report);
  // Either three files, or inputs made up here.
  CLI::Option& generated = *command.add_flag("--synthetic", kind.synthetic,
                                             "inputs of known distributions, of growing length");
  CLI::Option& random =
      *command
           .add_option("--random", options.random,
                       "in place of files: 64 queries and 4096 keys of 4 heads, head_dim 128")
           ->check(CLI::IsMember({"normal", "uniform", "student-t"}))
           ->type_name("DISTRIBUTION");
  for (const char* name : {"--query", "--key", "--value", "--causal", "--report", "--formats"}) {
    generated.excludes(command.get_option(name));
    random.excludes(command.get_option(name));
  }
  generated.excludes(&random)->excludes(command.get_option("--softmax-scale"));
  command.add_flag("--quick", kind.quick,
                   "with --synthetic: only the rows that have a goal to reach; with --random and "
                   "--formats: fewer random inputs");
  command.add_flag("--json", options.json, "prints one JSON object");
  command.footer(
      "Examples:\n"
      "  intflash compare --query q.npy --key k.npy --value v.npy --causal\n"
      "  intflash compare --query q.npy --key k.npy --value v.npy --report --picture error.svg\n"
      "  intflash compare --random student-t\n"
      "  intflash compare --formats --query q.npy --key k.npy --value v.npy --causal\n"
      "  intflash compare --synthetic --quick");
}

void add_bench(CLI::App& app, BenchOptions& options) {
  CLI::App& command = *app.add_subcommand("bench", "speed beside the machine's limit");
  command
      .add_option(
          "suite", options.suite,
          "dense (default): calls over whole tensors; decode, append, batch: over a KV cache")
      ->check(CLI::IsMember({"dense", "decode", "append", "batch"}))
      ->type_name("SUITE");
  add_inputs(command, options, false);
  for (const char* name : {"--query", "--key", "--value", "--causal"}) {
    for (const char* other : {"--query", "--key", "--value"})
      if (name != std::string_view(other))
        command.get_option(name)->needs(command.get_option(other));
  }
  command.add_flag("--quick", options.quick, "fewer repeats, without the longest cases");
  command
      .add_option("--filter", options.filter, "regular expression that a case's name must contain")
      ->type_name("REGEX");
  command
      .add_option(
          "--codec", options.codec,
          "of the caches of decode and append, and of batch's chunks: int8 (default), int8_wide, "
          "k8v4, k4v4, k4v2, k2v2 or k8v16, in turn with int8")
      ->type_name("NAME");
  add_port(command, options.threads, options.isa);
  add_output(command, "--json", options.json,
             "writes a report; - is stdout, and the table then goes to stderr");
  command.footer(
      "Examples:\n"
      "  intflash bench --quick --filter 'd128/n4096' --isa avx512_vnni --json bench.json\n"
      "  intflash bench --query q.npy --key k.npy --value v.npy --causal    these, beside random\n"
      "  intflash bench decode --quick --threads 1\n"
      "  intflash bench decode --quick --codec k8v4\n\n"
      "Rows of decode end with the share of the caches' memory that lies in huge pages, where the\n"
      "system says so: reading the same from small pages is slower.");
}

void add_serve_sim(CLI::App& app, ServeSimOptions& options) {
  CLI::App& command =
      *app.add_subcommand("serve-sim", "a simulated server's load, over a KV cache");
  const auto add = [&](const char* name, auto& value, const char* text, auto least, auto most) {
    command.add_option(name, value, text)
        ->check(CLI::Range(least, most).description(""))
        ->capture_default_str();
  };
  constexpr std::int64_t kMost = 1 << 20;
  add("--requests", options.requests, "how many arrive", std::int64_t{1}, kMost);
  add("--rate", options.rate, "arrivals per second of one layer's time, Poisson", 1e-3, 1e9);
  add("--prompt-mean", options.prompt_mean, "tokens of a prompt, exponential", 1.0, 1e6);
  add("--output-mean", options.output_mean, "tokens of an output, exponential", 1.0, 1e6);
  add("--shared", options.shared, "share of requests that begin with a common prefix", 0.0, 1.0);
  add("--chunk", options.chunk, "tokens of a prompt in one step", std::int64_t{1}, kMost);
  add("--max-batch", options.max_batch, "requests in one step", std::int64_t{1}, kMost);
  add("--pages", options.pages, "pages of the cache", std::int64_t{1}, std::int64_t{1} << 30);
  add("--page-size", options.page_size, "tokens of a page: 64, 128 or 256", std::int64_t{1}, kMost);
  add("--heads", options.heads, "query heads", std::int64_t{1}, kMost);
  add("--kv-heads", options.kv_heads, "key and value heads", std::int64_t{1}, kMost);
  add("--head-dim", options.head_dim, "channels of a head", std::int64_t{1}, kMost);
  command.add_option("--seed", options.seed, "of lengths, arrivals and data")
      ->capture_default_str();
  add_port(command, options.threads, options.isa);
  command.add_flag("--verify", options.verify, "compares every output with mode exact; slow");
  command.add_flag("--json", options.json, "prints one JSON object");
  command.footer(
      "Example:\n"
      "  intflash serve-sim --requests 100 --prompt-mean 400 --output-mean 100 --pages 128 "
      "--verify");
}

void add_plan(CLI::App& app, PlanOptions& options) {
  CLI::App& command =
      *app.add_subcommand("plan", "how a batch of equal requests is cut for so many workers");
  constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 1;
  const auto add = [&](const char* name, std::int64_t& value, const char* text,
                       std::int64_t least) {
    command.add_option(name, value, text)
        ->check(CLI::Range(least, kMost).description(""))
        ->type_name("N")
        ->capture_default_str();
  };
  add("--query-heads", options.query_heads, "query heads", 1);
  add("--kv-heads", options.kv_heads, "key and value heads", 1);
  add("--query-len", options.query_len, "queries of a request", 1);
  add("--kv-len", options.kv_len, "keys of a request", 0);
  add("--head-dim", options.head_dim, "channels of a head", 1);
  add("--batch", options.batch, "requests", 1);
  command.add_option("--mask", options.mask, "what a query sees")
      ->check(CLI::IsMember({"none", "causal", "causal-top-left", "window", "prefix"}))
      ->type_name("MASK")
      ->capture_default_str();
  add("--window", options.window, "with --mask window: keys before the query that stay visible", 0);
  add("--prefix-len", options.prefix_len, "with --mask prefix: keys that every query sees", 0);
  command.add_option("--workers", options.workers, "workers")
      ->check(CLI::Range(1, kMaxThreads).description(""))
      ->type_name("N")
      ->capture_default_str();
  command
      .add_option("--nodes", options.nodes,
                  "equal NUMA nodes that workers and a cache by node are spread over")
      ->check(CLI::Range(1, internal::kMaxNumaNodes).description(""))
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--isa", options.isa, "port whose tiles are cut")->type_name("NAME");
  command.add_flag("--json", options.json, "prints one JSON object");
  command.footer(
      "Example:\n  intflash plan --query-heads 32 --kv-heads 8 --query-len 1 --kv-len 131072 "
      "--workers 64");
}

void add_calibrate(CLI::App& app, CalibrateOptions& options) {
  CLI::App& command = *app.add_subcommand(
      "calibrate",
      "what a cache should be like, by samples: centres, digits of keys, codecs of layers");
  command
      .add_option("--key", options.key,
                  "[heads, tokens, head_dim] or [batch, heads, tokens, head_dim]; float16, float32 "
                  "or float64")
      ->required()
      ->type_name("NPY");
  command.add_option("--value", options.value, "the same")->required()->type_name("NPY");
  CLI::Option& key_center = add_output(command, "--key-center", options.key_center,
                                       "writes means of keys: [heads, head_dim], float32");
  CLI::Option& value_center =
      add_output(command, "--value-center", options.value_center, "writes means of values");
  key_center.needs(&value_center);
  value_center.needs(&key_center);
  CLI::Option& query = *command.add_option(
      "--query", options.query,
      "the same as --key: prints which of its heads need a second INT8 digit of query and key");
  query.type_name("NPY");
  command.add_flag("--causal", options.causal, "a query sees no later keys; the last one sees all")
      ->needs(&query);
  command.add_option("--softmax-scale", options.softmax_scale, "default: 1 / sqrt(head_dim)")
      ->check(check_positive)
      ->needs(&query);
  command.add_flag("--json", options.json, "prints one JSON object")->needs(&query);
  CLI::Option& budget =
      *command
           .add_option("--budget", options.budget,
                       "bytes per token and kv head, in the mean of layers: chooses each layer's "
                       "codec by its error")
           ->check(check_positive)
           ->type_name("BYTES")
           ->needs(&query)
           ->excludes(&key_center);
  command
      .add_option("--layers", options.layers,
                  "numbers, as 0,4,14-19, of which each stands for {} in the paths of a layer")
      ->check(check_named)
      ->type_name("LAYERS")
      ->needs(&budget);
  command
      .add_flag("--by-head", options.by_head, "chooses a codec for each kv head, not for layers")
      ->needs(&budget);
  command
      .add_flag("--centers", options.centers,
                "means of keys and values are subtracted, and written beside the codecs")
      ->needs(&budget);
  add_output(command, "--out", options.out, "writes the choice, JSON").needs(&budget);
  add_output(command, "--report", options.picture, "draws bits by layer and the front, SVG")
      .needs(&budget);
  command.footer(
      "Examples:\n"
      "  intflash calibrate --query q.npy --key k.npy --value v.npy --causal\n"
      "  intflash calibrate --key k.npy --value v.npy --key-center kc.npy --value-center "
      "vc.npy\n"
      "  intflash calibrate --budget 160 --layers 0-29 --query 'l{}_q.npy' --key 'l{}_k.npy' "
      "--value 'l{}_v.npy' --causal --out codecs.json");
}

struct Options {
  AttendOptions attend;
  CalibrateOptions calibrate;
  CompareOptions compare;
  CompareKind compare_kind;
  BenchOptions bench;
  PlanOptions plan;
  ServeSimOptions serve_sim;
  bool info_json = false;
};

int run_compare(const CompareOptions& files, const CompareKind& kind) {
  if (kind.synthetic) return run_compare_synthetic(files.json, kind.quick);
  if (kind.formats) return run_compare_formats(files, kind.quick);
  if (kind.report) return run_compare_report(files);
  return run_compare(files, kind.quick);
}

int run_subcommand(const CLI::App& app, const Options& options) {
  if (app.got_subcommand("attend")) return run_attend(options.attend);
  if (app.got_subcommand("calibrate")) return run_calibrate(options.calibrate);
  if (app.got_subcommand("compare")) return run_compare(options.compare, options.compare_kind);
  if (app.got_subcommand("bench")) return run_bench(options.bench);
  if (app.got_subcommand("plan")) return run_plan(options.plan);
  if (app.got_subcommand("serve-sim")) return run_serve_sim(options.serve_sim);
  return run_info(options.info_json);
}

void require_two_files(const char* option_a, const std::string& path_a, const char* option_b,
                       const std::string& path_b) {
  if (path_a.empty() || path_b.empty() || !are_one_file(path_a, path_b)) return;
  const std::string names = path_a == path_b ? path_a : fmt::format("{} and {}", path_a, path_b);
  throw UsageError(fmt::format("{} and {} are the same file, {}", option_a, option_b, names));
}

// What the parser cannot see because it concerns two options, or the library's list of ports.
void check_options(const CLI::App& app, const Options& options) {
  const CompareOptions& files = options.compare;
  const bool has_files = !files.query.empty() && !files.key.empty() && !files.value.empty();
  const bool has_any = !files.query.empty() || !files.key.empty() || !files.value.empty();
  const bool may_have_none =
      options.compare_kind.synthetic || options.compare_kind.formats || !files.random.empty();
  if (app.got_subcommand("compare") && !has_files && (has_any || !may_have_none)) {
    throw UsageError(
        "compare needs --query, --key and --value, or --random, --synthetic or --formats");
  }
  if (options.compare_kind.quick && !may_have_none)
    throw UsageError("--quick needs --random, --synthetic or --formats");
  for (const std::string& isa :
       {options.attend.isa, options.bench.isa, options.plan.isa, options.serve_sim.isa}) {
    if (!isa.empty()) require_port_name(isa);
  }
  if (app.got_subcommand("calibrate") && options.calibrate.query.empty() &&
      options.calibrate.key_center.empty()) {
    throw UsageError("calibrate needs --query, or --key-center and --value-center");
  }
  require_two_files("--out", options.attend.out, "--lse", options.attend.lse);
  require_two_files("--out", options.calibrate.out, "--report", options.calibrate.picture);
  require_two_files("--key-center", options.calibrate.key_center, "--value-center",
                    options.calibrate.value_center);
}

// Parse errors of any kind are wrong usage; --help and --version are not errors.
int run(int argc, char** argv) {
  CLI::App app("INT8 attention on CPUs", "intflash");
  Options options;
  app.set_version_flag("--version", std::string("intflash ") + intflash_version());
  app.require_subcommand(1);
  app.footer(kExamples);
  add_attend(app, options.attend);
  add_compare(app, options.compare, options.compare_kind);
  CLI::App& info =
      *app.add_subcommand("info", "CPU, ports, and the limits of this machine, measured");
  info.add_flag("--json", options.info_json, "prints one JSON object");
  info.footer("Example:\n  intflash info --json");
  add_bench(app, options.bench);
  add_plan(app, options.plan);
  add_serve_sim(app, options.serve_sim);
  add_calibrate(app, options.calibrate);
  try {
    app.parse(argc, argv);
    check_options(app, options);
  } catch (const CLI::ParseError& error) {
    // The parser's own message would only say that a subcommand is missing.
    const std::vector<std::string> unknown = app.remaining();
    if (app.get_subcommands().empty() && !unknown.empty()) {
      throw UsageError(fmt::format("{}: no such subcommand or option", unknown.front()));
    }
    return app.exit(error) == 0 ? 0 : kUsageError;
  }
  return run_subcommand(app, options);
}

// Not fmt::print, which throws: with stderr closed or full there is nobody left to tell.
void print_error(const char* message) { std::fprintf(stderr, "intflash: %s\n", message); }

}  // namespace
}  // namespace intflash

int main(int argc, char** argv) {
  intflash::secure_standard_streams();
  try {
    const int code = intflash::run(argc, argv);
    intflash::require_stdout_written();
    return code;
  } catch (const intflash::UsageError& error) {
    intflash::print_error(error.what());
    std::fputs("Run with --help for more information.\n", stderr);
    return intflash::kUsageError;
  } catch (const std::bad_alloc&) {
    intflash::print_error("out of memory");
  } catch (const std::exception& error) {
    // fmt::print to a full stdout does not say what it could not write to.
    intflash::print_error(std::ferror(stdout) != 0 ? "cannot write to standard output"
                                                   : error.what());
  }
  return 1;
}

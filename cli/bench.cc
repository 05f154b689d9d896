#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/common.h"
#include "sedpa/attention/visible_keys.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/memory.h"
#include "sedpa/engine/session_mark.h"
#include "sedpa/model/random_model.h"

namespace sedpa::cli {
namespace {

using nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct BenchOptions {
  ModelOptions model;
  HeadOptions heads;
  KvOptions kv;
  std::string shape;
  std::vector<std::int64_t> depths = {0};
  std::int64_t prompt = 512;
  std::int64_t gen = 64;
  std::int64_t chunk = 0;
  std::int64_t repeat = 3;
};

// Seconds of the same work, done again and again.
struct Times {
  std::vector<double> seconds;

  [[nodiscard]] bool empty() const { return seconds.empty(); }
  [[nodiscard]] double median() const {
    if (seconds.empty()) return 0;
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    const std::size_t half = sorted.size() / 2;
    return sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  }
  [[nodiscard]] double least() const {
    return seconds.empty() ? 0 : *std::min_element(seconds.begin(), seconds.end());
  }
  [[nodiscard]] double most() const {
    return seconds.empty() ? 0 : *std::max_element(seconds.begin(), seconds.end());
  }
};

struct DepthResult {
  std::int64_t depth = 0;
  Times prefill;  // of `prompt` tokens behind `depth` others
  Times decode;   // of `gen` tokens, one by one, behind `depth` others
  double prefill_flops = 0;
  double decode_bytes = 0;  // a token must read, mean over the decode
};

double rate(std::int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

// Multiplications and additions of reading `tokens` behind `depth` others: the layers' matrices for
// each token, the output matrix once, and scores and sums over the keys in sight.
double prefill_flops(const Engine& engine, const Session& session, std::int64_t depth,
                     std::int64_t tokens) {
  const ModelConfig& c = engine.config();
  std::int64_t layer_numbers = 0;
  for (const Layer& layer : engine.model().layers) {
    for (const Linear& part : layer.qkv) layer_numbers += part.matrix_numbers();
    for (const Linear* linear : {&layer.output, &layer.gate_up, &layer.down}) {
      layer_numbers += linear->matrix_numbers();
    }
  }
  const HeadPlan& plan = session.cache().geometry().plan;
  double seen = 0;  // numbers of keys and values, of all KV heads, over all tokens
  for (int head_class = 0; head_class < kHeadClasses; ++head_class) {
    std::int64_t numbers = 0;  // of a token
    for (std::size_t i = 0; i < plan.layers.size(); ++i) {
      for (const std::int32_t head : plan.layers[i].heads(head_class)) {
        const HeadColumns& of =
            engine.model().layers[i].shape.heads[static_cast<std::size_t>(head)];
        numbers += of.key_dim + of.value_dim;
      }
    }
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::int64_t keys = stored_keys(plan.classes[head_class], depth + t).count() + 1;
      seen += static_cast<double>(numbers) * static_cast<double>(keys);
    }
  }
  return 2.0 * static_cast<double>(tokens) * static_cast<double>(layer_numbers) +
         2.0 * static_cast<double>(c.vocab_size) * c.width + 2.0 * c.attention().group() * seen;
}

// What the weights' products run at when nothing is in the way.
double product_ceiling(const Engine& engine, const std::string& compute, const Ceilings& ceilings) {
  if (engine.device() != "cpu") return ceilings.bf16_flops_per_second;
  if (compute == "f32") return ceilings.f32_flops_per_second;
  switch (engine.model().layers.front().down.a.bands.front().dtype) {
    case Dtype::f32:
    case Dtype::f16:  // converted on load
      return ceilings.f32_flops_per_second;
    case Dtype::bf16:
      return ceilings.bf16_flops_per_second;
    default:  // two products of bytes for each of numbers
      return ceilings.int8_ops_per_second / 2;
  }
}

std::unique_ptr<Engine> random_engine(const BenchOptions& options) {
  const NamedShape shape = parse_shape(options.shape);
  return std::make_unique<Engine>(engine_options(options.model), shape.config,
                                  std::make_unique<RandomWeights>(shape));
}

class Bench {
 public:
  explicit Bench(const BenchOptions& options)
      : options_(options),
        engine_(options.shape.empty() ? open_engine(options.model) : random_engine(options)),
        heads_(plan_heads(options.heads, *engine_)) {
    std::vector<std::int64_t>& depths = options_.depths;
    std::sort(depths.begin(), depths.end());
    depths.erase(std::unique(depths.begin(), depths.end()), depths.end());
    session_options_ = {
        .context = depths.back() + std::max({options_.prompt, options_.gen, std::int64_t{1}}),
        .heads = heads_.plan,
        .kv = options_.kv.dtype(),
        .chunk = options_.chunk};
    load(*engine_, session_options_);
    session_.emplace(*engine_, session_options_);
    // What the tokens are does not change the time; that they differ keeps caches honest.
    std::mt19937_64 random(1);
    const auto vocabulary = static_cast<std::uint64_t>(engine_->config().vocab_size);
    tokens_.resize(static_cast<std::size_t>(session_options_.context));
    for (std::int32_t& token : tokens_) token = static_cast<std::int32_t>(random() % vocabulary);
  }

  void run() {
    warm_up();
    for (const std::int64_t depth : options_.depths) results_.push_back(measure(depth));
    const std::uint64_t peak = peak_resident_memory();
    ceilings_ = engine_->measure_ceilings();
    if (options_.model.json) {
      for (const DepthResult& result : results_) print_json(report(result, peak));
    } else {
      print_table(peak);
    }
  }

 private:
  [[nodiscard]] std::span<const std::int32_t> tokens(std::int64_t first, std::int64_t count) const {
    return std::span(tokens_).subspan(static_cast<std::size_t>(first),
                                      static_cast<std::size_t>(count));
  }

  // Pages, caches and clocks settle.
  void warm_up() {
    const std::int64_t two_chunks = 2 * session_->options().chunk;
    session_->feed(tokens(0, std::clamp(options_.prompt, std::int64_t{1}, two_chunks)));
    (void)session_->likeliest();
    session_->clear();
    session_->feed(tokens(0, 1));
    (void)session_->likeliest();
    session_->clear();
  }

  double timed_prefill() {
    const Clock::time_point start = Clock::now();
    session_->feed(tokens(session_->length(), options_.prompt));
    (void)session_->likeliest();
    return std::chrono::duration<double>(Clock::now() - start).count();
  }
  double timed_decode() {
    const Clock::time_point start = Clock::now();
    for (std::int64_t i = 0; i < options_.gen; ++i) {
      session_->feed(tokens(session_->length(), 1));
      (void)session_->likeliest();
      check_interrupt();
    }
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  DepthResult measure(std::int64_t depth) {
    DepthResult result{.depth = depth, .prefill = {}, .decode = {}};
    // What the keys and values are does not change the time.
    session_->fill(depth);
    const SessionMark mark(*session_);
    ProgressBar bar(fmt::format("depth {}", depth));
    for (std::int64_t i = 0; i < options_.repeat; ++i) {
      bar.update(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(options_.repeat));
      if (options_.prompt > 0) {
        result.prefill.seconds.push_back(timed_prefill());
        mark.go_back(*session_);
      }
      if (options_.gen > 0) {
        result.decode.seconds.push_back(timed_decode());
        mark.go_back(*session_);
      }
    }
    result.prefill_flops = prefill_flops(*engine_, *session_, depth, options_.prompt);
    for (std::int64_t i = 0; i < options_.gen; ++i) {
      result.decode_bytes +=
          static_cast<double>(engine_->model().decode_weight_bytes() +
                              session_->cache().geometry().read_bytes(depth + i)) /
          static_cast<double>(options_.gen);
    }
    return result;
  }

  [[nodiscard]] double decode_seconds_per_token(const DepthResult& result) const {
    return result.decode.median() / static_cast<double>(std::max<std::int64_t>(options_.gen, 1));
  }
  [[nodiscard]] double floor_ratio(const DepthResult& result) const {
    return result.decode.empty() ? 0
                                 : decode_seconds_per_token(result) /
                                       (result.decode_bytes / ceilings_.read_bytes_per_second);
  }
  [[nodiscard]] double flops_per_second(const DepthResult& result) const {
    return result.prefill.empty() ? 0 : result.prefill_flops / result.prefill.median();
  }
  [[nodiscard]] double ceiling() const {
    return product_ceiling(*engine_, options_.model.compute, ceilings_);
  }

  [[nodiscard]] ordered_json report(const DepthResult& result, std::uint64_t peak) const {
    ordered_json fields = run_fields(*engine_, heads_, session_options_, &*session_);
    if (!options_.shape.empty()) {
      fields["model"] = nullptr;
      fields["shape"] = options_.shape;
    }
    fields["compute"] = options_.model.compute;
    fields["parameters"] = engine_->model().parameters;
    fields["depth"] = result.depth;
    fields["repeat"] = options_.repeat;
    const auto add = [&](const std::string& what, const Times& times, std::int64_t tokens) {
      fields[what + "_seconds"] = measured(times.median());
      fields[what + "_seconds_min"] = measured(times.least());
      fields[what + "_seconds_max"] = measured(times.most());
      fields[what + "_tokens_per_second"] = measured(rate(tokens, times.median()));
      fields[what + "_tokens_per_second_min"] = measured(rate(tokens, times.most()));
      fields[what + "_tokens_per_second_max"] = measured(rate(tokens, times.least()));
    };
    fields["prompt_tokens"] = options_.prompt;
    add("prefill", result.prefill, options_.prompt);
    fields["prefill_flops_per_second"] = measured(flops_per_second(result));
    fields["prefill_ceiling_flops_per_second"] = measured(ceiling());
    fields["prefill_ceiling_share"] = measured(flops_per_second(result) / ceiling());
    fields["generated_tokens"] = options_.gen;
    add("decode", result.decode, options_.gen);
    fields["decode_bytes_per_token"] = measured(result.decode_bytes);
    fields["decode_floor_ratio"] = measured(floor_ratio(result));
    fields["read_bytes_per_second"] = measured(ceilings_.read_bytes_per_second);
    fields["copy_bytes_per_second"] = measured(ceilings_.copy_bytes_per_second);
    fields["int8_ops_per_second"] = measured(ceilings_.int8_ops_per_second);
    fields["bf16_flops_per_second"] = measured(ceilings_.bf16_flops_per_second);
    fields["f32_flops_per_second"] = measured(ceilings_.f32_flops_per_second);
    fields["peak_bytes"] = peak;
    return fields;
  }

  void print_table(std::uint64_t peak) const {
    std::string text =
        fmt::format("{}: {} parameters, {}, {}, KV cache {}\nit now reads {:.1f} GB/s; ",
                    engine_->model_path(), engine_->model().parameters,
                    engine_->device() == "cpu" ? fmt::format("{} threads", engine_->threads())
                                               : engine_->device(),
                    describe(heads_.plan), sedpa::name(session_options_.kv),
                    ceilings_.read_bytes_per_second / 1e9);
    if (engine_->device() == "cpu") {
      text += fmt::format(
          "{:.0f} int8, {:.0f} bf16, {:.0f} f32 Gop/s\n\n", ceilings_.int8_ops_per_second / 1e9,
          ceilings_.bf16_flops_per_second / 1e9, ceilings_.f32_flops_per_second / 1e9);
    } else {
      text +=
          fmt::format("copies {:.1f} GB/s; {:.0f} bf16 Gop/s\n\n",
                      ceilings_.copy_bytes_per_second / 1e9, ceilings_.bf16_flops_per_second / 1e9);
    }
    text += fmt::format("{:>8}  {:>32}  {:>18}  {:>32}  {:>18}  {:>9}\n", "depth",
                        fmt::format("prefill {}, tokens/s", options_.prompt), "Gop/s (of ceiling)",
                        fmt::format("decode {}, tokens/s", options_.gen), "MB a token, GB/s",
                        "x floor");
    const auto rates = [&](const Times& times, std::int64_t tokens) {
      if (times.empty()) return std::string("-");
      return fmt::format("{:.1f} ({:.1f} to {:.1f})", rate(tokens, times.median()),
                         rate(tokens, times.most()), rate(tokens, times.least()));
    };
    for (const DepthResult& result : results_) {
      const double flops = flops_per_second(result);
      const std::string share =
          result.prefill.empty()
              ? "-"
              : fmt::format("{:.0f} ({:.0f} %)", flops / 1e9, 100 * flops / ceiling());
      const std::string bytes =
          result.decode.empty()
              ? "-"
              : fmt::format("{:.1f}, {:.1f}", result.decode_bytes / 1e6,
                            result.decode_bytes / decode_seconds_per_token(result) / 1e9);
      const std::string ratio =
          result.decode.empty() ? "-" : fmt::format("{:.2f}", floor_ratio(result));
      text += fmt::format("{:>8}  {:>32}  {:>18}  {:>32}  {:>18}  {:>9}\n", result.depth,
                          rates(result.prefill, options_.prompt), share,
                          rates(result.decode, options_.gen), bytes, ratio);
    }
    text +=
        fmt::format("\nweights {}, KV cache {}, scratch {}, peak memory {}\n",
                    human_bytes(engine_->model().weight_bytes), human_bytes(session_->kv_bytes()),
                    human_bytes(session_->scratch_bytes()), human_bytes(peak));
    print(text);
  }

  BenchOptions options_;
  std::unique_ptr<Engine> engine_;
  PlannedHeads heads_;
  SessionOptions session_options_;
  std::optional<Session> session_;
  std::vector<std::int32_t> tokens_;  // [context]
  std::vector<DepthResult> results_;
  Ceilings ceilings_;
};

}  // namespace

void add_bench(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App& command = *app.add_subcommand(
      "bench", "time reading and writing at given depths, beside what the machine can reach");
  const auto tokens = CLI::Range(std::int64_t{0}, std::int64_t{1} << 30);
  command.add_option("--depth", options->depths, "tokens already in the cache; several by commas")
      ->delimiter(',')
      ->check(tokens)
      ->type_name("N,N")
      ->capture_default_str();
  command.add_option("--prompt", options->prompt, "tokens to read at each depth; 0: none")
      ->check(tokens)
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--gen", options->gen, "tokens to write at each depth, one by one; 0: none")
      ->check(tokens)
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--repeat", options->repeat, "times; the median counts")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1000}))
      ->type_name("N")
      ->capture_default_str();
  CLI::Option* model = add_model_options(command, options->model);
  command
      .add_option("--shape", options->shape,
                  "random weights in a known shape instead of a model: llama3-8b, llama2-7b, "
                  "llama3.2-1b, smollm2-135m, ...; f16, or as in llama3-8b:q4_0; only "
                  "some of its layers, as in llama3-70b-layer8; thin heads, as in "
                  "llama3-8b-thin96x64")
      ->excludes(model)
      ->type_name("SHAPE");
  model->required(false);
  add_head_options(command, options->heads);
  add_kv_options(command, options->kv);
  add_chunk_option(command, options->chunk);
  add_examples(command, {"sedpa bench -m model.gguf --depth 0,4096 --pattern DIR --sparsity 0.5",
                         "sedpa bench --shape llama3.2-1b:q4_0 --kv q8"});
  command.callback([options] {
    (void)head_request(options->heads);
    if (options->shape.empty() && options->model.model.empty()) {
      throw UsageError("bench needs a model: -m MODEL or --shape SHAPE");
    }
    if (!options->shape.empty() && !options->model.lora.empty()) {
      throw UsageError("--lora changes a model's weights, but --shape has none of its own");
    }
    Bench(*options).run();
  });
}

}  // namespace sedpa::cli

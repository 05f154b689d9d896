#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "cli/eval_commands.h"
#include "cli/needle_runs.h"
#include "cli/shipped_text.h"
#include "cli/validators.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/hash.h"
#include "sedpa/core/memory.h"
#include "sedpa/eval/frontier.h"
#include "sedpa/eval/passkey.h"
#include "sedpa/eval/perplexity.h"
#include "sedpa/format/json.h"

namespace sedpa::cli {
namespace {

using nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int kTimings = 3;  // the median counts
constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

struct FrontierCommand {
  ModelOptions model;
  std::vector<std::string> models;
  HeadOptions pattern;  // without shares and windows
  std::vector<double> sparsities;
  std::vector<std::string> windows;
  KvOptions kv;
  std::string file;
  std::int64_t context = 2048;
  std::int64_t chunks = 4;
  std::vector<std::string> tests = {"passkey", "niah"};
  NeedleOptions needle;
  NiahTaskOptions niah;
  std::int64_t at = 4096;
  std::int64_t prompt = 512;
  std::int64_t gen = 32;
  std::int64_t chunk = 0;
  std::string loss = "kl";
  std::string cost = "decode_bytes";
  std::optional<double> max_loss;

  FrontierCommand() {
    needle.lengths = {2000};
    needle.depths = 5;
  }
  [[nodiscard]] HeadOptions heads(double share, const std::string& window) const {
    HeadOptions heads = pattern;
    heads.sparsity = share;
    if (window != "full") heads.retrieval_window = window;
    return heads;
  }
};

// What a setting loses is a field of its line, compared with the first setting's: the model as it
// is. What it costs is another.
struct Measure {
  const char* option;
  const char* field;
};
constexpr Measure kLosses[] = {{"kl", "kl_divergence"},
                               {"perplexity", "perplexity"},
                               {"passkey", "passkey"},
                               {"niah", "niah"}};
constexpr Measure kCosts[] = {{"decode_bytes", "decode_bytes_per_token"},
                              {"decode", "decode_seconds"},
                              {"prefill", "prefill_seconds"},
                              {"kv", "kv_bytes"},
                              {"parameters", "parameters"}};

template <std::size_t N>
std::vector<std::string> names_of(const Measure (&measures)[N]) {
  std::vector<std::string> names;
  for (const Measure& measure : measures) names.emplace_back(measure.option);
  return names;
}
template <std::size_t N>
const char* field_of(const Measure (&measures)[N], const std::string& option) {
  return std::find_if(std::begin(measures), std::end(measures),
                      [&](const Measure& measure) { return measure.option == option; })
      ->field;
}

// One way to run: a model, and its heads.
struct Setting {
  Engine* engine = nullptr;
  PlannedHeads heads;

  // What tells it from others: the model's numbers, not its file's name.
  [[nodiscard]] ordered_json label() const {
    ordered_json label = {{"model", engine->model_path()},
                          {"model_fingerprint", engine->fingerprint()},
                          {"sparsity", heads.sparsity},
                          {"retrieval_window", nullptr}};
    if (!heads.retrieval.full) {
      label["retrieval_window"] = {heads.retrieval.sink, heads.retrieval.middle,
                                   heads.retrieval.recent};
    }
    return label;
  }
};

/// Another form of a model. What compress has written has the adapters in it, others take them.
std::unique_ptr<Engine> open_other_form(ModelOptions options, const std::string& model) {
  const std::vector<std::string> adapters = std::exchange(options.lora, {});
  options.model = model;
  std::unique_ptr<Engine> engine = open_engine(options);
  const bool compressed =
      engine->weight_plan().low_rank_matrices > 0 || !engine->config().thin.empty();
  if (adapters.empty() || compressed) return engine;
  engine.reset();
  options.lora = adapters;
  return open_engine(options);
}

double median_seconds(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

class Frontier {
 public:
  explicit Frontier(const FrontierCommand& command)
      : command_(command), reference_(open_engine(command.model)) {
    for (const std::string& model : command.models) {
      others_.push_back(open_other_form(command.model, model));
      require_same_text(*others_.back());
    }
    add_settings(*reference_);
    for (const auto& other : others_) add_settings(*other);
    tokens_ = reference_->tokenizer().encode(read_text(text_or_shipped(command.file)), true, false);
    const Tokenizer& tokenizer = reference_->tokenizer();
    rows_ = PerplexityRows::llama_cpp(std::ssize(tokens_), command.context, command.chunks,
                                      tokenizer.add_bos() ? tokenizer.bos() : -1);
    filler_.emplace(command.needle.filler(*reference_));
    if (asks("passkey")) {
      passkey_ = std::make_unique<PasskeyTask>(tokenizer, *filler_, command.needle.seed);
    }
    if (asks("niah")) {
      niah_ = make_niah_task(command.niah, *reference_, *filler_, command.needle.seed);
    }
    for (const NeedleTask* task : {passkey_.get(), niah_.get()}) {
      if (task != nullptr) cases_ = command.needle.cases(*task);
    }
  }

  void run() {
    CaseLog log(command_.needle.out, log_settings(),
                {"model_fingerprint", "sparsity", "retrieval_window"});
    std::vector<ordered_json> lines;
    for (const Setting& setting : settings_) {
      const ordered_json* done = log.find(setting.label());
      const ordered_json line = done != nullptr ? *done : measure(setting);
      if (done == nullptr) log.add(line);
      show(line, lines.empty());
      lines.push_back(line);
    }
    const ordered_json result = conclude(lines);
    log.add(result);
    if (command_.model.json) {
      print_json(result);
    } else {
      print_conclusion(lines, result);
    }
  }

 private:
  [[nodiscard]] bool asks(const std::string& test) const {
    return std::find(command_.tests.begin(), command_.tests.end(), test) != command_.tests.end();
  }

  void require_same_text(const Engine& other) const {
    if (other.tokenizer().fingerprint() != reference_->tokenizer().fingerprint() ||
        other.config().vocab_size != reference_->config().vocab_size) {
      fail("{}: has another vocabulary than {}: their losses cannot be compared",
           other.model_path(), reference_->model_path());
    }
  }

  void add_settings(Engine& engine) {
    std::vector<double> sparsities = command_.sparsities;
    if (sparsities.empty()) sparsities = {0};
    std::vector<std::string> windows = command_.windows;
    if (windows.empty()) windows = {"full"};
    // The reference is first, asked for or not.
    if (&engine == reference_.get()) add_setting(engine, 0, "full");
    for (const std::string& window : windows) {
      for (const double sparsity : sparsities) add_setting(engine, sparsity, window);
    }
  }
  void add_setting(Engine& engine, double sparsity, const std::string& window) {
    const Setting setting{.engine = &engine,
                          .heads = plan_heads(command_.heads(sparsity, window), engine)};
    const bool known = std::any_of(settings_.begin(), settings_.end(), [&](const Setting& other) {
      return other.label() == setting.label();
    });
    if (!known) settings_.push_back(setting);
  }

  [[nodiscard]] ordered_json log_settings() const {
    const HeadOptions& heads = command_.pattern;
    Hash text;
    text.add(std::as_bytes(
        std::span(tokens_).first(static_cast<std::size_t>(rows_.chunks * rows_.context))));
    return {{"test", "frontier"},
            {"reference_fingerprint", reference_->fingerprint()},
            {"device", reference_->device()},
            {"threads", reference_->threads()},
            {"compute", command_.model.compute},
            {"kv_dtype", command_.kv.kv},
            {"pattern", heads.pattern},
            {"sink", heads.sink ? ordered_json(*heads.sink) : ordered_json()},
            {"recent", heads.recent ? ordered_json(*heads.recent) : ordered_json()},
            {"perplexity_text", text.digits()},
            {"perplexity_context", rows_.context},
            {"perplexity_chunks", rows_.chunks},
            {"needle_text", filler_->fingerprint()},
            {"tests", command_.tests},
            {"lengths", command_.needle.lengths},
            {"depths", command_.needle.depths},
            {"samples", command_.needle.samples},
            {"seed", command_.needle.seed},
            {"needles", command_.niah.needles},
            {"ask_all", command_.niah.ask_all},
            {"chat_template", command_.niah.chat_template},
            {"depth", command_.at},
            {"prompt_tokens", command_.prompt},
            {"generated_tokens", command_.gen}};
  }

  [[nodiscard]] SessionOptions session(const Setting& setting, std::int64_t context,
                                       std::int64_t logit_rows = 1) const {
    return {.context = context,
            .heads = setting.heads.plan,
            .kv = command_.kv.dtype(),
            .chunk = command_.chunk,
            .logit_rows = logit_rows};
  }

  ordered_json measure(const Setting& setting) {
    Engine& engine = *setting.engine;
    const SessionOptions timed =
        session(setting, command_.at + std::max({command_.prompt, command_.gen}));
    const SessionOptions scored = session(setting, rows_.context, kLogitRows);
    note_untrained(engine, rows_.context);
    load(engine, engine.plan(timed).total() > engine.plan(scored).total() ? timed : scored);
    ordered_json line = setting.label();
    line["kv_dtype"] = std::string(name(timed.kv));
    line["parameters"] = engine.model().parameters;
    line["weight_bytes"] = engine.model().weight_bytes;
    add_cost(engine, timed, line);
    add_likeness(engine, scored, line);
    line["passkey"] = passkey_ ? ordered_json(needles(setting, *passkey_, "passkey")) : nullptr;
    line["niah"] = niah_ ? ordered_json(needles(setting, *niah_, "niah")) : nullptr;
    return line;
  }

  void add_cost(Engine& engine, const SessionOptions& options, ordered_json& line) {
    Session session(engine, options);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(command_.prompt));
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = tokens_[i % tokens_.size()];
    std::vector<double> prefill;
    std::vector<double> decode;
    ProgressBar bar("timing");
    const auto timed = [&](auto work) {
      // What the keys and values are does not change the time.
      session.fill(command_.at);
      const Clock::time_point start = Clock::now();
      work();
      (void)session.likeliest();
      return std::chrono::duration<double>(Clock::now() - start).count();
    };
    const auto read = [&] { session.feed(tokens); };
    const auto write = [&] {
      for (std::int64_t i = 0; i < command_.gen; ++i) session.feed(std::span(tokens).first(1));
    };
    (void)timed(read);  // pages and caches settle
    for (int i = 0; i < kTimings; ++i) {
      bar.update(static_cast<std::uint64_t>(i), kTimings);
      prefill.push_back(timed(read));
      decode.push_back(timed(write));
    }
    session.fill(command_.at);
    line["depth"] = command_.at;
    line["kv_bytes"] = session.kv_bytes();
    line["decode_bytes_per_token"] = session.decode_bytes();
    line["prompt_tokens"] = command_.prompt;
    line["prefill_seconds"] = median_seconds(prefill);
    line["generated_tokens"] = command_.gen;
    line["decode_seconds"] = median_seconds(decode);
  }

  // Perplexity, and divergence from the reference's full attention.
  void add_likeness(Engine& engine, const SessionOptions& options, ordered_json& line) {
    SessionOptions full = options;
    full.heads = reference_->full_plan();
    if (full.kv != KvDtype::f32) full.kv = KvDtype::f16;
    load(*reference_, full);
    Session session(engine, options);
    Session full_session(*reference_, full);
    SessionReference reference(full_session);
    ProgressBar bar("perplexity");
    const PerplexityResult result = measure_perplexity(
        session, tokens_, rows_, &reference, nullptr,
        {.on_tokens =
             [&](std::int64_t done, std::int64_t total) {
               bar.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
             },
         .on_chunk = {}});
    line["perplexity"] = result.perplexity;
    line["kl_divergence"] = result.kl_divergence;
    line["top1_agreement"] = result.top1_agreement;
  }

  double needles(const Setting& setting, const NeedleTask& task, const std::string& test) {
    const SessionOptions options = session(setting, command_.needle.context(task));
    note_untrained(*setting.engine, options.context);
    setting.engine->check_memory(options);
    Session session(*setting.engine, options);
    ProgressBar bar(test);
    double sum = 0;
    run_needles(session, task, cases_,
                {.on_case = [&](const NeedleOutcome& outcome) { sum += outcome.score; },
                 .on_tokens =
                     [&](std::int64_t done, std::int64_t total) {
                       bar.update(static_cast<std::uint64_t>(done),
                                  static_cast<std::uint64_t>(total));
                     }});
    return sum / static_cast<double>(cases_.size());
  }

  // How much worse than the first line: divergence as it is, perplexity as a share more, scores as
  // what is no longer found.
  [[nodiscard]] double loss_of(const ordered_json& line, const ordered_json& first) const {
    const char* field = field_of(kLosses, command_.loss);
    const double value = line.value(field, kUnknown);
    if (command_.loss == "kl") return value;
    const double was = first.value(field, kUnknown);
    return command_.loss == "perplexity" ? value / was - 1 : was - value;
  }

  [[nodiscard]] ordered_json conclude(const std::vector<ordered_json>& lines) const {
    std::vector<FrontierPoint> points;
    for (const ordered_json& line : lines) {
      points.push_back(
          {loss_of(line, lines.front()), line.value(field_of(kCosts, command_.cost), kUnknown)});
    }
    const auto described = [&](std::size_t i) {
      ordered_json fields = settings_[i].label();
      fields.erase("model_fingerprint");
      fields["loss"] = points[i].loss;
      fields["cost"] = points[i].cost;
      return fields;
    };
    ordered_json pareto = ordered_json::array();
    for (const std::size_t i : pareto_set(points)) pareto.push_back(described(i));
    ordered_json result = {{"test", "frontier"},
                           {"loss", command_.loss},
                           {"cost", command_.cost},
                           {"settings", lines.size()},
                           {"pareto", pareto}};
    if (command_.max_loss) {
      const auto cheapest = cheapest_within(points, *command_.max_loss);
      result["max_loss"] = *command_.max_loss;
      result["cheapest"] = cheapest ? described(*cheapest) : ordered_json(nullptr);
    }
    result["peak_bytes"] = peak_resident_memory();
    return result;
  }

  static std::string described(const ordered_json& setting) {
    std::string text = fmt::format("{}, sparsity {:g}", setting.value("model", ""),
                                   setting.value("sparsity", 0.0));
    const ordered_json& window = setting["retrieval_window"];
    if (window.is_array()) text += ", others " + json_text(window);
    return text;
  }

  void show(const ordered_json& line, bool first) const {
    if (command_.model.json) {
      print_json(line);
      return;
    }
    if (first) {
      print(fmt::format("{:>10} {:>8} {:>7} {:>6} {:>12} {:>9} {:>11} {:>10} {:>10}  {}\n",
                        "perplexity", "KL", "passkey", "niah", "parameters", "KV cache",
                        "MB a token", "decode/s", "prefill/s", "setting"));
    }
    const auto score = [&](const char* field) {
      return line[field].is_number() ? fmt::format("{:.2f}", line.value(field, 0.0)) : "-";
    };
    const auto rate = [&](const char* count, const char* seconds) {
      return line.value(count, 0.0) / line.value(seconds, 1.0);
    };
    print(fmt::format(
        "{:>10.3f} {:>8.2g} {:>7} {:>6} {:>12} {:>9} {:>11.1f} {:>10.1f} {:>10.0f}  {}\n",
        line.value("perplexity", 0.0), line.value("kl_divergence", 0.0), score("passkey"),
        score("niah"), line.value("parameters", std::int64_t{0}),
        human_bytes(line.value("kv_bytes", std::uint64_t{0})),
        line.value("decode_bytes_per_token", 0.0) / 1e6, rate("generated_tokens", "decode_seconds"),
        rate("prompt_tokens", "prefill_seconds"), described(line)));
  }

  void print_conclusion(const std::vector<ordered_json>& lines, const ordered_json& result) const {
    std::string text =
        fmt::format("\n{} of {} settings are beaten by none in loss ({}) and cost ({}):\n",
                    result["pareto"].size(), lines.size(), command_.loss, command_.cost);
    const auto row = [](const ordered_json& point) {
      return fmt::format("loss {:.4g}, cost {:.6g}: {}\n", point.value("loss", kUnknown),
                         point.value("cost", kUnknown), described(point));
    };
    for (const ordered_json& point : result["pareto"]) text += row(point);
    if (command_.max_loss) {
      const ordered_json& cheapest = result["cheapest"];
      text += cheapest.is_null()
                  ? fmt::format("no setting loses as little as {:g}\n", *command_.max_loss)
                  : fmt::format("the cheapest that loses no more than {:g}: {}", *command_.max_loss,
                                row(cheapest));
    }
    print(text);
  }

  const FrontierCommand& command_;
  std::unique_ptr<Engine> reference_;
  std::vector<std::unique_ptr<Engine>> others_;
  std::vector<Setting> settings_;  // the reference first
  std::vector<std::int32_t> tokens_;
  PerplexityRows rows_;
  std::optional<FillerText> filler_;
  std::unique_ptr<NeedleTask> passkey_;  // null: not asked
  std::unique_ptr<NeedleTask> niah_;
  std::vector<NeedleCase> cases_;
};

void check_usage(const FrontierCommand& command) {
  const auto asked = [&](const std::string& test) {
    return std::find(command.tests.begin(), command.tests.end(), test) != command.tests.end();
  };
  if ((command.loss == "passkey" || command.loss == "niah") && !asked(command.loss)) {
    throw UsageError(
        fmt::format("--loss {} needs its test: --tests {}", command.loss, command.loss));
  }
  if (asked("none") && command.tests.size() > 1) {
    throw UsageError("--tests none does not go with others");
  }
  for (const std::string& window : command.windows) {
    if (window != "full") (void)parse_retrieval_window(window);
  }
  for (const double sparsity : command.sparsities) {
    (void)head_request(command.heads(sparsity, "full"));
  }
}

void add_sweep_options(CLI::App& command, FrontierCommand& options) {
  const std::string group = "Settings to compare";
  command
      .add_option("--models", options.models,
                  "the same model in other forms, compressed (with its adapters) or of other types")
      ->delimiter(',')
      ->type_name("FILE,...")
      ->group(group);
  add_pattern_options(command, options.pattern, group);
  command.add_option("--sparsities", options.sparsities, "shares of KV heads that stream; 0")
      ->delimiter(',')
      ->check(share())
      ->type_name("S,S,...")
      ->group(group);
  command
      .add_option("--retrieval-window", options.windows,
                  "what the other heads keep: full, default, or three numbers; may be repeated")
      ->expected(1)
      ->take_all()
      ->type_name("S,M,R")
      ->group(group);
}

void add_measure_options(CLI::App& command, FrontierCommand& options) {
  const std::string group = "Measurement";
  const auto tokens = CLI::Range(std::int64_t{1}, kMostContext);
  command
      .add_option("-f,--file", options.file,
                  "text for perplexity and divergence; default: the book that ships")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--context", options.context, "tokens of its chunks")
      ->check(tokens)
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command.add_option("--chunks", options.chunks, "of the text, from its start; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command.add_option("--tests", options.tests, "what is hidden and asked for: passkey, niah, none")
      ->delimiter(',')
      ->check(CLI::IsMember({"passkey", "niah", "none"}))
      ->capture_default_str()
      ->type_name("NAME,...")
      ->group(group);
  add_needle_options(command, options.needle);
  add_niah_options(command, options.niah);
  command.add_option("--depth", options.at, "tokens in the cache when cost is measured")
      ->check(tokens)
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command.add_option("--prompt", options.prompt, "tokens to read there")
      ->check(tokens)
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command.add_option("--gen", options.gen, "tokens to write there")
      ->check(tokens)
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
}

void add_choice_options(CLI::App& command, FrontierCommand& options) {
  const std::string group = "Choosing";
  command
      .add_option("--loss", options.loss,
                  "kl: divergence from the model as it is; perplexity: the share it grows by; "
                  "passkey, niah: the score that is lost")
      ->check(CLI::IsMember(names_of(kLosses)))
      ->capture_default_str()
      ->type_name("NAME")
      ->group(group);
  command
      .add_option("--cost", options.cost,
                  "decode_bytes: what a step must read; decode, prefill: seconds; kv: bytes of the "
                  "cache; parameters")
      ->check(CLI::IsMember(names_of(kCosts)))
      ->capture_default_str()
      ->type_name("NAME")
      ->group(group);
  command.add_option("--max-loss", options.max_loss, "name the cheapest that loses no more")
      ->check(at_least_zero())
      ->type_name("X")
      ->group(group);
}

}  // namespace

void add_eval_frontier(CLI::App& eval) {
  auto options = std::make_shared<FrontierCommand>();
  CLI::App& command = *eval.add_subcommand(
      "frontier", "what settings lose and cost, which of them none beats, and the cheapest");
  add_model_options(command, options->model);
  add_sweep_options(command, *options);
  add_kv_options(command, options->kv);
  add_measure_options(command, *options);
  add_chunk_option(command, options->chunk);
  add_choice_options(command, *options);
  add_examples(command, {"sedpa eval frontier -m model.gguf --pattern pattern --sparsities "
                         "0,0.5,0.75 --retrieval-window full --retrieval-window default "
                         "--max-loss 0.02 --out frontier.jsonl",
                         "sedpa eval frontier -m model.gguf --models small.gguf,smaller.gguf "
                         "--loss niah --cost parameters"});
  command.callback([options] {
    check_usage(*options);
    Frontier(*options).run();
  });
}

}  // namespace sedpa::cli

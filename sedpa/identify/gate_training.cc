#include "sedpa/identify/gate_training.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "sedpa/core/fail.h"
#include "sedpa/format/atomic_file.h"
#include "sedpa/format/json.h"
#include "sedpa/format/mapped_file.h"
#include "sedpa/model/thin_heads.h"

namespace sedpa {
namespace {

constexpr const char* kFormat = "sedpa gate training 1";

TrainingOptions training_options(const Engine& engine, const GateDocuments& documents,
                                 const GateTrainingOptions& options) {
  return {.heads = engine.full_plan(),
          .window = HeadClass::window(options.sink, 0, options.recent),
          .context = options.context,
          .span = documents.span(),
          .chunk = options.chunk > 0 ? options.chunk : engine.ops().traits().chunk_tokens,
          .kv = options.kv};
}

nlohmann::ordered_json settings_of(const GateTrainingOptions& options) {
  return {{"steps", options.learning.steps},
          {"learning_rate", options.learning.learning_rate},
          {"regularization", options.learning.regularization},
          {"shortest", std::min(options.shortest, options.context)},
          {"context", options.context},
          {"intervals", options.intervals},
          {"keys", options.keys},
          {"words", options.words},
          {"hidden", name(options.hidden)},
          {"kv_dtype", std::string(name(options.kv))}};
}

/// All that the gates depend on.
nlohmann::ordered_json identity_of(const Engine& engine, const FillerText& filler,
                                   const GateTrainingOptions& options) {
  nlohmann::ordered_json identity = {{"model", engine.fingerprint()},
                                     {"text", filler.fingerprint()},
                                     {"seed", options.seed},
                                     {"sink", options.sink},
                                     {"recent", options.recent}};
  identity.update(settings_of(options));
  return identity;
}

/// A list of `count` finite numbers in [low, high].
std::vector<double> numbers(const nlohmann::json& file, const std::string& path, const char* key,
                            std::size_t count, double low, double high) {
  const auto found = file.find(key);
  if (found == file.end() || !found->is_array() || found->size() != count) {
    fail("{}: {} is not a list of {} numbers", path, key, count);
  }
  std::vector<double> list;
  for (const auto& entry : *found) {
    const double value = entry.is_number() ? entry.get<double>() : NAN;
    if (!(value >= low && value <= high)) {
      fail("{}: {} holds {}, expected numbers from {} to {}", path, key, json_text(entry), low,
           high);
    }
    list.push_back(value);
  }
  return list;
}

}  // namespace

GateDocuments::GateDocuments(const Tokenizer& tokenizer, const FillerText& filler,
                             const GateTrainingOptions& options)
    : tokenizer_(tokenizer),
      filler_(filler),
      options_(options),
      answer_tokens_(most_answer_tokens(tokenizer, options.hidden, 1, options.words)) {}

std::int64_t GateDocuments::span() const {
  return std::min(options_.context, options_.keys * answer_tokens_);
}

int GateDocuments::keys_in(std::int64_t tokens) const {
  // A key is told and answered.
  return static_cast<int>(
      std::clamp<std::int64_t>(tokens / (4 * answer_tokens_), 1, std::max(options_.keys, 1)));
}

GateDocument GateDocuments::of_length(std::int64_t tokens, Random& random) const {
  PasskeyPrompt prompt = make_passkey_prompt(tokenizer_, filler_,
                                             {.tokens = tokens,
                                              .keys = keys_in(tokens),
                                              .words = options_.words,
                                              .hidden = options_.hidden},
                                             random);
  GateDocument document{.tokens = std::move(prompt.tokens), .rows = {}};
  for (const HiddenKey& key : prompt.keys) {
    for (std::int64_t i = 0; i < key.count; ++i) document.rows.push_back(key.answer + i - 1);
  }
  return document;
}

GateDocument GateDocuments::of_step(std::int64_t step) const {
  Random random(mix_seed({options_.seed, static_cast<std::uint64_t>(step)}));
  const std::int64_t shortest = std::min(options_.shortest, options_.context);
  const std::int64_t interval = random.below(options_.intervals);
  const std::int64_t tokens =
      options_.intervals == 1
          ? options_.context
          : shortest + (options_.context - shortest) * interval / (options_.intervals - 1);
  return of_length(tokens, random);
}

void check_gate_training(const Engine& engine, const FillerText& filler,
                         const GateTrainingOptions& options) {
  refuse_thin_heads(engine.config(), "training gates");
  if (options.learning.steps < 1) fail("{} steps, expected at least 1", options.learning.steps);
  if (options.intervals < 1) fail("{} lengths, expected at least 1", options.intervals);
  const ModelConfig& config = engine.config();
  const std::int64_t most = std::min<std::int64_t>(
      config.trained_context, config.sliding_window.value_or(std::int32_t{1} << 30));
  if (options.context > most) {
    fail("documents of {} tokens were asked for, but {} sees {} at most", options.context,
         engine.model_path(), most);
  }
  if (options.context <= std::int64_t{options.sink} + options.recent) {
    fail("a context of {} tokens lies within the window of {} + {}: no head can lose anything",
         options.context, options.sink, options.recent);
  }
  const GateDocuments documents(engine.tokenizer(), filler, options);
  for (const std::int64_t tokens : {std::min(options.shortest, options.context), options.context}) {
    Random random(options.seed);
    (void)documents.of_length(tokens, random);
  }
}

MemoryPlan GateTrainer::plan(const Engine& engine, const FillerText& filler,
                             const GateTrainingOptions& options) {
  const TrainingOptions training =
      training_options(engine, GateDocuments(engine.tokenizer(), filler, options), options);
  return {.weight_bytes = engine.weight_plan().weight_bytes,
          .kv_bytes = TrainingPass::kv_geometry(engine.config(), training).bytes(),
          .scratch_bytes = TrainingPass::bytes(engine.config(), training, engine.ops())};
}

GateTrainer::GateTrainer(Engine& engine, const FillerText& filler,
                         const GateTrainingOptions& options)
    : engine_(engine),
      filler_(filler),
      options_(options),
      documents_(engine.tokenizer(), filler, options),
      pass_(engine.ops(), engine.model(), training_options(engine, documents_, options)),
      learner_(static_cast<std::size_t>(engine.config().layers) *
                   static_cast<std::size_t>(engine.config().kv_heads),
               options.learning) {}

std::optional<GateTrainer::Step> GateTrainer::step(const std::function<bool()>& go_on) {
  const GateLearner::State& state = learner_.state();
  const GateDocument document = documents_.of_step(state.step);
  const std::vector<float> gates(state.gates.begin(), state.gates.end());
  std::vector<float> d_gates(gates.size());
  const std::optional<double> loss =
      pass_.run({document.tokens, document.rows}, gates, d_gates, go_on);
  if (!loss) return std::nullopt;
  const bool finite = std::isfinite(*loss) && std::all_of(d_gates.begin(), d_gates.end(),
                                                          [](float d) { return std::isfinite(d); });
  if (!finite) {
    fail("step {}: the loss over a document of {} tokens is {}, not a number to learn from",
         state.step + 1, document.tokens.size(), *loss);
  }
  learner_.step(d_gates);
  return Step{.tokens = std::ssize(document.tokens), .loss = *loss};
}

AttentionPattern GateTrainer::pattern() const {
  AttentionPattern pattern;
  pattern.layers = engine_.config().layers;
  pattern.kv_heads = engine_.config().kv_heads;
  pattern.gates = learner_.state().gates;
  pattern.sink_size = options_.sink;
  pattern.recent_size = options_.recent;
  return pattern;
}

std::string GateTrainer::settings_json() const {
  nlohmann::ordered_json made = settings_of(options_);
  made["steps_done"] = learner_.state().step;
  return json_text(made);
}

void GateTrainer::save(const std::string& path) const {
  const GateLearner::State& state = learner_.state();
  const nlohmann::ordered_json all = {
      {"format", kFormat},  {"settings", identity_of(engine_, filler_, options_)},
      {"step", state.step}, {"gates", state.gates},
      {"mean", state.mean}, {"square", state.square}};
  AtomicFile file(path);
  file.write(json_text(all, 1) + "\n");
  file.commit();
}

void GateTrainer::resume(const std::string& path) {
  const MappedFile mapped = MappedFile::open(path);
  const std::span<const std::byte> bytes = mapped.bytes();
  const nlohmann::json file =
      parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
  if (!file.is_object() || file.value("format", nlohmann::json()) != kFormat) {
    fail("{}: its format is not \"{}\"", path, kFormat);
  }
  const nlohmann::json settings = file.value("settings", nlohmann::json::object());
  const nlohmann::ordered_json ours = identity_of(engine_, filler_, options_);
  for (const auto& [key, expected] : ours.items()) {
    const nlohmann::json found =
        settings.is_object() && settings.contains(key) ? settings.at(key) : nlohmann::json();
    if (found != nlohmann::json(expected)) {
      fail("{}: it was made with {} {}, expected {}", path, key, json_text(found),
           json_text(expected));
    }
  }
  const nlohmann::json step = file.value("step", nlohmann::json());
  if (!step.is_number_unsigned() ||
      step.get<std::uint64_t>() > static_cast<std::uint64_t>(options_.learning.steps)) {
    fail("{}: step is {}, expected 0 to {}", path, json_text(step), options_.learning.steps);
  }
  constexpr double kMost = 1e30;
  const std::size_t count = learner_.state().gates.size();
  learner_.restore({.step = step.get<std::int64_t>(),
                    .gates = numbers(file, path, "gates", count, 0, 1),
                    .mean = numbers(file, path, "mean", count, -kMost, kMost),
                    .square = numbers(file, path, "square", count, 0, kMost)});
}

std::vector<double> rank_saturated(const std::vector<double>& gates,
                                   const std::vector<double>& scores) {
  std::vector<std::size_t> saturated;
  for (std::size_t i = 0; i < gates.size(); ++i) {
    if (gates[i] > kSaturatedGate) saturated.push_back(i);
  }
  std::stable_sort(saturated.begin(), saturated.end(),
                   [&](std::size_t a, std::size_t b) { return scores[a] < scores[b]; });
  std::vector<double> ranked = gates;
  for (std::size_t rank = 0; rank < saturated.size(); ++rank) {
    ranked[saturated[rank]] = kSaturatedGate + (1 - kSaturatedGate) *
                                                   static_cast<double>(rank + 1) /
                                                   static_cast<double>(saturated.size());
  }
  return ranked;
}

}  // namespace sedpa

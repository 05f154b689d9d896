#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "cli/commands.h"
#include "cli/common.h"
#include "sedpa/core/fail.h"
#include "sedpa/engine/generate.h"
#include "sedpa/format/json.h"

namespace sedpa::cli {
namespace {

using nlohmann::ordered_json;

struct InfoOptions {
  ModelOptions model;
  HeadOptions heads;
  KvOptions kv;
  std::optional<std::int64_t> context;
  std::int64_t chunk = 0;
};

// Nobody asked for a length: enough to compare models by, and no more than they were trained for.
constexpr std::int64_t kPlannedContext = 8192;

const char* name(RopeScaling::Method method) {
  switch (method) {
    case RopeScaling::Method::none:
      return "none";
    case RopeScaling::Method::linear:
      return "linear";
    case RopeScaling::Method::llama3:
      return "llama3";
    case RopeScaling::Method::yarn:
      return "yarn";
  }
  return "unknown";
}

// How many tensors and bytes of each type.
ordered_json tensor_types(const Checkpoint& checkpoint) {
  std::map<std::string, std::pair<std::int64_t, std::uint64_t>> types;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    auto& [count, bytes] = types[std::string(sedpa::name(tensor.dtype))];
    ++count;
    bytes += tensor.data.size();
  }
  ordered_json list = ordered_json::object();
  for (const auto& [type, numbers] : types) {
    list[type] = {{"tensors", numbers.first}, {"bytes", numbers.second}};
  }
  return list;
}

// Means over all KV heads; null where no head is thin.
ordered_json thin_heads_fields(const ModelConfig& c) {
  if (c.thin.empty()) return nullptr;
  std::int64_t keys = 0;
  std::int64_t values = 0;
  std::int64_t thin = 0;
  for (const HeadWidths& head : c.thin.widths) {
    keys += head.key;
    values += head.value;
    thin += head.key < c.head_dim || head.value < c.head_dim ? 1 : 0;
  }
  const auto heads = static_cast<double>(c.thin.widths.size());
  return {{"heads", thin},
          {"mean_key_width", static_cast<double>(keys) / heads},
          {"mean_value_width", static_cast<double>(values) / heads}};
}

ordered_json model_fields(const Engine& engine) {
  const ModelConfig& c = engine.config();
  const Checkpoint& checkpoint = engine.checkpoint();
  ordered_json fields = {{"name", c.name},
                         {"architecture", c.architecture},
                         {"format", checkpoint.format()},
                         {"file_bytes", checkpoint.file_bytes()},
                         {"tensor_types", tensor_types(checkpoint)},
                         {"parameters", engine.weight_plan().parameters},
                         {"layers", c.layers},
                         {"width", c.width},
                         {"query_heads", c.query_heads},
                         {"kv_heads", c.kv_heads},
                         {"head_dim", c.head_dim},
                         {"mlp_width", c.mlp_width},
                         {"vocab_size", c.vocab_size},
                         {"trained_context", c.trained_context},
                         {"rope_base", c.rope_base},
                         {"rope_scaling", name(c.rope_scaling.method)},
                         {"rope_factor", c.rope_scaling.factor},
                         {"sliding_window", nullptr}};
  if (c.sliding_window) fields["sliding_window"] = *c.sliding_window;
  fields["attention_parameters"] = engine.weight_plan().attention_parameters;
  fields["low_rank_matrices"] = engine.weight_plan().low_rank_matrices;
  fields["max_rank"] = c.max_rank;
  fields["thin_heads"] = thin_heads_fields(c);
  return fields;
}

// A model whose tokenizer or template we cannot read is still worth describing.
ordered_json tokenizer_fields(const Engine& engine) {
  ordered_json fields;
  try {
    const Tokenizer& tokenizer = engine.tokenizer();
    fields = {{"vocabulary", tokenizer.vocab_size()},
              {"begin_token", tokenizer.bos()},
              {"adds_begin_token", tokenizer.add_bos()},
              {"end_tokens", tokenizer.end_tokens()},
              {"chat_template", nullptr}};
    if (tokenizer.chat_template().empty()) return fields;
    try {
      fields["chat_template"] = sedpa::name(chat_template(tokenizer, engine.model_path()).family);
    } catch (const Error& error) {
      fields["chat_template_error"] = error.what();
    }
  } catch (const Error& error) {
    fields["error"] = error.what();
  }
  return fields;
}

std::string tokenizer_line(const ordered_json& fields) {
  if (fields.contains("error")) return fields["error"];
  std::string line =
      fmt::format("{} tokens, {}, end tokens {}", fields["vocabulary"].get<int>(),
                  fields["adds_begin_token"].get<bool>()
                      ? fmt::format("begin token {} put in", fields["begin_token"].get<int>())
                      : std::string("no begin token put in"),
                  json_text(fields["end_tokens"]));
  return line;
}

std::string template_line(const ordered_json& fields) {
  if (fields.contains("chat_template_error")) return fields["chat_template_error"];
  if (!fields.contains("chat_template") || fields["chat_template"].is_null()) return "none";
  return fields["chat_template"];
}

void print_for_people(const Engine& engine, const PlannedHeads& heads,
                      const SessionOptions& session, const ordered_json& report,
                      bool context_was_given) {
  const ModelConfig& c = engine.config();
  std::string types;
  for (const auto& [type, numbers] : report["tensor_types"].items()) {
    types += fmt::format("{}{} {} ({})", types.empty() ? "" : ", ",
                         numbers["tensors"].get<std::int64_t>(), type,
                         human_bytes(numbers["bytes"].get<std::uint64_t>()));
  }
  std::string positions = fmt::format("trained for {} tokens, RoPE base {}, scaling {}",
                                      c.trained_context, c.rope_base, name(c.rope_scaling.method));
  if (c.rope_scaling.method != RopeScaling::Method::none) {
    positions += fmt::format(" x {}", c.rope_scaling.factor);
  }
  if (c.sliding_window) positions += fmt::format(", sliding window {}", *c.sliding_window);
  const MemoryPlan plan = engine.plan(session);
  const auto line = [](const char* label, const std::string& text) {
    return fmt::format("{:<14}{}\n", label, text);
  };
  std::string text;
  text += line("model", engine.model_path());
  if (!c.name.empty()) text += line("name", c.name);
  text += line("architecture",
               fmt::format("{}, {} parameters", c.architecture, engine.weight_plan().parameters));
  text += line("file", fmt::format("{}, {}", engine.checkpoint().format(),
                                   human_bytes(engine.checkpoint().file_bytes())));
  text += line("tensors", types);
  text += line("shape",
               fmt::format("{} layers, width {}, {} query heads, {} KV heads of size {}, MLP width "
                           "{}, vocabulary {}",
                           c.layers, c.width, c.query_heads, c.kv_heads, c.head_dim, c.mlp_width,
                           c.vocab_size));
  if (const WeightPlan& weights = engine.weight_plan(); weights.low_rank_matrices > 0) {
    text +=
        line("low rank",
             fmt::format("{} attention parameters, {} matrices as two factors of rank {} at most",
                         weights.attention_parameters, weights.low_rank_matrices, c.max_rank));
  }
  if (const ordered_json& thin = report["thin_heads"]; !thin.is_null()) {
    text += line("thin heads",
                 fmt::format("{} of {} KV heads, on average keys of {:.1f} and values of {:.1f} "
                             "numbers instead of {}",
                             thin["heads"].get<std::int64_t>(), c.thin.widths.size(),
                             thin["mean_key_width"].get<double>(),
                             thin["mean_value_width"].get<double>(), c.head_dim));
  }
  text += line("positions", positions);
  text += line("tokenizer", tokenizer_line(report["tokenizer"]));
  text += line("chat template", template_line(report["tokenizer"]));
  text += line("heads", describe(heads.plan));
  text += fmt::format("\nplanned for {} tokens{} on {}, {} threads, chunks of {}:\n",
                      session.context, context_was_given ? "" : " (choose with --context)",
                      engine.device(), engine.threads(), engine.resolved(session).chunk);
  const auto bytes = [&](const char* label, std::uint64_t count) {
    text += fmt::format("  {:<12}{:>15} bytes  {:>8}\n", label, count, human_bytes(count));
  };
  bytes("weights", plan.weight_bytes);
  bytes(fmt::format("KV cache {}", sedpa::name(session.kv)).c_str(), plan.kv_bytes);
  bytes("scratch", plan.scratch_bytes);
  bytes("all", plan.total());
  print(text);
}

void run(const InfoOptions& options) {
  (void)head_request(options.heads);  // usage is checked before files
  const auto engine = open_engine(options.model);
  const PlannedHeads heads = plan_heads(options.heads, *engine);
  const SessionOptions session{.context = options.context.value_or(std::min<std::int64_t>(
                                   engine->config().trained_context, kPlannedContext)),
                               .heads = heads.plan,
                               .kv = options.kv.dtype(),
                               .chunk = options.chunk};
  ordered_json report = run_fields(*engine, heads, session);
  report.update(model_fields(*engine));
  report["tokenizer"] = tokenizer_fields(*engine);
  show_notes();
  if (options.model.json) {
    print_json(report);
  } else {
    print_for_people(*engine, heads, session, report, options.context.has_value());
  }
}

}  // namespace

void add_info(CLI::App& app) {
  auto options = std::make_shared<InfoOptions>();
  CLI::App& command = *app.add_subcommand(
      "info", "what a model's files hold, and the memory that a run would take");
  add_model_options(command, options->model);
  add_head_options(command, options->heads);
  add_kv_options(command, options->kv);
  add_context_option(command, options->context,
                     "tokens to plan for; default: as trained, at most 8192");
  add_chunk_option(command, options->chunk);
  add_examples(command, {"sedpa info -m model.gguf --context 32768 --pattern DIR --kv q8"});
  command.callback([options] { run(*options); });
}

}  // namespace sedpa::cli

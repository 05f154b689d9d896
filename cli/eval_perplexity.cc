#include <CLI/CLI.hpp>
#include <chrono>

#include "cli/common.h"
#include "cli/eval_commands.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/memory.h"
#include "sedpa/eval/perplexity.h"

namespace sedpa::cli {
namespace {

constexpr std::int64_t kDefaultContext = 2048;

struct PerplexityCommand {
  ModelOptions model;
  HeadOptions heads;
  KvOptions kv;
  std::string file;
  std::string against;
  std::string save;
  bool against_full = false;
  std::optional<std::int64_t> context;
  std::int64_t chunk = 0;
  std::int64_t max_chunks = 0;
};

// The text's tokens and how they are cut: from a text, or from the file to compare with.
struct Material {
  std::vector<std::int32_t> tokens;
  PerplexityRows rows;
};

Material material(const PerplexityCommand& command, const Engine& engine,
                  const std::optional<LogitFile>& against) {
  const Tokenizer& tokenizer = engine.tokenizer();
  const std::int32_t begin = tokenizer.add_bos() ? tokenizer.bos() : -1;
  if (!against) {
    Material text;
    text.tokens = tokenizer.encode(read_text(command.file), true, false);
    text.rows = PerplexityRows::llama_cpp(std::ssize(text.tokens),
                                          command.context.value_or(kDefaultContext),
                                          command.max_chunks, begin);
    return text;
  }
  if (against->vocab_size() != engine.config().vocab_size) {
    fail("{}: a vocabulary of {}, but {} has {}", command.against, against->vocab_size(),
         engine.model_path(), engine.config().vocab_size);
  }
  const std::int64_t chunks =
      command.max_chunks > 0 ? std::min(command.max_chunks, against->chunks()) : against->chunks();
  // Rows from the first token on are of the tokens as they stand: nothing is replaced there.
  return {.tokens = against->tokens(),
          .rows = {.context = against->context(),
                   .chunks = chunks,
                   .first_row = against->first_row(),
                   .rows = against->rows(),
                   .begin_token = against->first_row() > 0 ? begin : -1}};
}

void check_usage(const PerplexityCommand& command) {
  if (command.file.empty() == command.against.empty()) {
    throw UsageError(command.file.empty()
                         ? "a text is needed: -f FILE (or --against FILE, which holds its tokens)"
                         : "-f and --against both say what to read: --against FILE holds the "
                           "tokens of its own text");
  }
  if (!command.against.empty() && (command.context || command.against_full)) {
    throw UsageError(fmt::format(
        "--against does not go with {}",
        command.context ? "--context: FILE says how its text is cut" : "--against-full"));
  }
}

nlohmann::ordered_json report(const PerplexityCommand& command, nlohmann::ordered_json fields,
                              const PerplexityResult& result, double seconds) {
  fields["file"] = command.file.empty() ? command.against : command.file;
  fields["chunks"] = result.chunks;
  fields["tokens"] = result.tokens;
  fields["perplexity"] = result.perplexity;
  fields["perplexity_error"] = result.error;
  if (result.compared > 0) {
    fields["against"] = command.against_full ? "full" : command.against;
    fields["compared"] = result.compared;
    fields["kl_divergence"] = result.kl_divergence;
    fields["max_kl_divergence"] = result.max_kl_divergence;
    fields["top1_agreement"] = result.top1_agreement;
    fields["reference_perplexity"] = result.reference_perplexity;
  }
  fields["seconds"] = seconds;
  fields["peak_bytes"] = peak_resident_memory();
  return fields;
}

void run(const PerplexityCommand& command) {
  check_usage(command);
  std::optional<LogitFile> against;
  if (!command.against.empty()) against = LogitFile::open(command.against);
  const auto engine = open_engine(command.model);
  const PlannedHeads heads = plan_heads(command.heads, *engine);
  const Material text = material(command, *engine, against);

  const SessionOptions options{.context = text.rows.context,
                               .heads = heads.plan,
                               .kv = command.kv.dtype(),
                               .chunk = command.chunk,
                               .logit_rows = kLogitRows};
  // The full one keeps f16, whatever --kv tries, or f32 where that is asked for.
  SessionOptions full = options;
  full.heads = engine->full_plan();
  if (full.kv != KvDtype::f32) full.kv = KvDtype::f16;
  note_untrained(*engine, options.context);
  load(*engine, options);
  Session session(*engine, options);
  std::optional<Session> full_session;
  std::unique_ptr<Reference> reference;
  if (command.against_full) {
    engine->check_memory(full);
    full_session.emplace(*engine, full);
    reference = std::make_unique<SessionReference>(*full_session);
  } else if (against) {
    reference = std::make_unique<FileReference>(*against);
  }
  std::optional<LogitFileWriter> writer;
  if (!command.save.empty()) {
    if (text.rows.first_row == 0) {
      throw UsageError("--save-logits writes the second half of chunks, which this text has not");
    }
    writer.emplace(command.save, text.rows.context, engine->config().vocab_size,
                   std::span(text.tokens)
                       .first(static_cast<std::size_t>(text.rows.chunks * text.rows.context)));
  }

  const bool json = command.model.json;
  const auto start = std::chrono::steady_clock::now();
  ProgressBar bar("reading");
  const PerplexityResult result = measure_perplexity(
      session, text.tokens, text.rows, reference.get(), writer ? &*writer : nullptr,
      {.on_tokens =
           [&](std::int64_t done, std::int64_t total) {
             bar.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
           },
       .on_chunk =
           [&](const PerplexityResult& so_far) {
             if (json) return;
             bar.clear();
             print(fmt::format("[{}/{}] {:.4f}\n", so_far.chunks, text.rows.chunks,
                               so_far.perplexity));
           }});
  bar.clear();
  if (writer) writer->commit();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (json) {
    print_json(report(command, run_fields(*engine, heads, options), result, seconds.count()));
    return;
  }
  print(fmt::format("perplexity {:.4f} +/- {:.4f} over {} tokens, {:.1f} s\n", result.perplexity,
                    result.error, result.tokens, seconds.count()));
  if (result.compared > 0) {
    print(fmt::format(
        "against {}: perplexity {:.4f}, mean KL divergence {:.3g} (largest {:.3g}), same top token "
        "at {:.2f} % of {} positions\n",
        command.against_full ? "full attention" : command.against, result.reference_perplexity,
        result.kl_divergence, result.max_kl_divergence, 100 * result.top1_agreement,
        result.compared));
  }
}

}  // namespace

void add_eval_perplexity(CLI::App& eval) {
  auto options = std::make_shared<PerplexityCommand>();
  CLI::App& command = *eval.add_subcommand(
      "perplexity", "how surprised a model is by a text, as llama.cpp's tool measures it");
  add_model_options(command, options->model);
  const std::string group = "Measurement";
  command.add_option("-f,--file", options->file, "the text; - is standard input")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--chunks", options->max_chunks, "of the text, from its start; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  command
      .add_flag("--against-full", options->against_full,
                "compare with full attention (and f16 keys and values) on the same text")
      ->group(group);
  command
      .add_option(
          "--against", options->against,
          "compare with the logits of another run: a file of --save-logits or of llama.cpp's "
          "--kl-divergence-base, or f32 logits with their tokens in FILE.json")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--save-logits", options->save, "write the logits, in llama.cpp's format")
      ->type_name("FILE")
      ->group(group);
  add_head_options(command, options->heads);
  add_kv_options(command, options->kv);
  add_context_option(command, options->context, "tokens of a chunk; default: 2048");
  add_chunk_option(command, options->chunk);
  add_examples(
      command,
      {"sedpa eval perplexity -m model.gguf -f book.txt --context 2048",
       "sedpa eval perplexity -m model.gguf -f book.txt --pattern pattern --against-full"});
  command.callback([options] { run(*options); });
}

}  // namespace sedpa::cli

#pragma once
// What the subcommands share: their common options, opening a model, and how they speak.
//
// Errors are exceptions: UsageError ends the program with exit code 2, sedpa::Error with 1, both
// as one line on stderr. Notes of the library are said once, and held back until `show_notes`, so
// that a run that fails early says one thing only.
#include <chrono>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "sedpa/engine/engine.h"
#include "sedpa/engine/plan_heads.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace sedpa::cli {

/// The command line asks for something that makes no sense: exit code 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Ctrl-C: nothing more is said, exit code 130.
class Interrupted : public std::exception {};

// --- Options
// --------------------------------------------------------------------------------------

/// -m --lora --rope-freq-base --rope-scaling --device --threads --compute --memory-limit --json
struct ModelOptions {
  std::string model;
  std::vector<std::string> lora;
  std::optional<double> rope_base;
  std::optional<std::string> rope_scaling;
  std::string device = "auto";
  int threads = 0;
  std::string compute = "fast";
  std::optional<std::uint64_t> memory_limit;
  bool json = false;
};

/// --pattern --sparsity --sink --recent --retrieval-window
struct HeadOptions {
  std::string pattern;
  std::optional<double> sparsity;
  std::optional<std::int32_t> sink;
  std::optional<std::int32_t> recent;
  std::optional<std::string> retrieval_window;  // "default", or SINK,MIDDLE,RECENT
};

/// --kv
struct KvOptions {
  std::string kv = "f16";

  [[nodiscard]] KvDtype dtype() const;
};

/// Returns the -m option, which is required unless the caller says otherwise.
CLI::Option* add_model_options(CLI::App& command, ModelOptions& options);
/// --pattern --sink --recent, for a command that says shares and windows in a way of its own.
void add_pattern_options(CLI::App& command, HeadOptions& options, const std::string& group);
void add_head_options(CLI::App& command, HeadOptions& options);
void add_kv_options(CLI::App& command, KvOptions& options);
/// --context N
void add_context_option(CLI::App& command, std::optional<std::int64_t>& context,
                        const std::string& meaning);
/// --chunk N
void add_chunk_option(CLI::App& command, std::int64_t& chunk);
/// The lines under "Examples:" in --help.
void add_examples(CLI::App& command, const std::vector<std::string>& lines);

// --- Doing what they say
// --------------------------------------------------------------------------

[[nodiscard]] EngineOptions engine_options(const ModelOptions& options);
/// Opens and checks the model's files; loads no weights.
[[nodiscard]] std::unique_ptr<Engine> open_engine(const ModelOptions& options);
/// What --retrieval-window says: "default", or three numbers. Throws UsageError.
[[nodiscard]] HeadClass parse_retrieval_window(const std::string& text);
/// No pattern: plain full attention; a pattern alone: sparsity 0.5. Throws UsageError for
/// combinations that mean nothing.
[[nodiscard]] HeadRequest head_request(const HeadOptions& options);
[[nodiscard]] PlannedHeads plan_heads(const HeadOptions& options, const Engine& engine);
/// A note where so many tokens are more than the model was trained for.
void note_untrained(const Engine& engine, std::int64_t context);
/// Checks the planned bytes against the limit and the machine, shows the notes held back so far,
/// then loads the weights under a progress bar.
void load(Engine& engine, const SessionOptions& session);
/// The same for the plan of other work; `advice` says what would make it smaller.
void load(Engine& engine, const MemoryPlan& plan, const std::string& advice);

/// A file, or standard input where the path is "-", read from its beginning to its end.
class TextInput {
 public:
  /// Throws Error naming the path when it cannot be opened.
  explicit TextInput(const std::string& path);
  TextInput(const TextInput&) = delete;
  TextInput& operator=(const TextInput&) = delete;
  ~TextInput();

  /// Appends what comes next, as soon as there is something; false at the end. Throws Error, and
  /// Interrupted after Ctrl-C.
  bool read(std::string& text);

 private:
  [[noreturn]] void fail_to_read() const;

  std::string name_;
  int descriptor_;
  bool owned_;
};
/// All of it.
[[nodiscard]] std::string read_text(const std::string& path);

// --- Speaking
// -------------------------------------------------------------------------------------

/// The fields that every report starts with: model, device, threads, sparsity, sink, recent,
/// retrieval_window, kv_dtype, context, the planned bytes, and weight_bytes, kv_bytes and
/// scratch_bytes: what the session has allocated, or would.
[[nodiscard]] nlohmann::ordered_json run_fields(const Engine& engine, const PlannedHeads& heads,
                                                const SessionOptions& options,
                                                const Session* session = nullptr);
/// The number, or null where nothing was measured (0).
[[nodiscard]] nlohmann::ordered_json measured(double value);
/// One object, one line, on stdout. Bytes that are not UTF-8 become U+FFFD.
void print_json(const nlohmann::ordered_json& object);
/// Text on stdout, at once. Throws Error when it cannot be written.
void print(const std::string& text);
/// "12.3 MB", for people.
[[nodiscard]] std::string human_bytes(std::uint64_t bytes);

/// Installs the log sink that holds notes back, and the Ctrl-C handler.
void install_handlers();
/// Prints held notes to stderr, one "note: " line each, and later ones at once.
void show_notes();
[[nodiscard]] bool interrupted();
/// Throws Interrupted after Ctrl-C.
void check_interrupt();

/// A line on stderr that shows how far a long piece of work is: only on a terminal, only after the
/// first second. Gone again when the object goes. Each update throws Interrupted after Ctrl-C.
class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar() { clear(); }

  /// `detail` stands behind the bar; a `total` of 0 is unknown: there is no bar then.
  void update(std::uint64_t done, std::uint64_t total, const std::string& detail = "");
  /// Takes the line away, so that other output can follow.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_;
  bool terminal_;
  bool shown_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
};

}  // namespace sedpa::cli

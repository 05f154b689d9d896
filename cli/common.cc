#include "cli/common.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <set>
#include <system_error>

#include "cli/validators.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/log.h"
#include "sedpa/core/memory.h"
#include "sedpa/format/json.h"

namespace sedpa::cli {
namespace {

Compute compute_of(const std::string& name) {
  return name == "f32" ? Compute::f32 : name == "bf16" ? Compute::bf16 : Compute::fast;
}

std::vector<std::string>& held_notes() {
  static std::vector<std::string> notes;
  return notes;
}
bool notes_shown = false;

volatile sig_atomic_t interrupt_seen = 0;
extern "C" void on_interrupt(int) { interrupt_seen = 1; }

void load_checked(Engine& engine) {
  show_notes();
  ProgressBar bar("loading");
  engine.load([&](std::uint64_t done, std::uint64_t total) { bar.update(done, total); });
}

void print_note(const std::string& note) { fmt::print(stderr, "note: {}\n", note); }

}  // namespace

KvDtype KvOptions::dtype() const {
  const auto dtype = parse_kv_dtype(kv);
  if (!dtype) throw UsageError(fmt::format("--kv is '{}', expected f32, f16, bf16, q8 or q4", kv));
  return *dtype;
}

CLI::Option* add_model_options(CLI::App& command, ModelOptions& options) {
  const std::string group = "Model and machine";
  CLI::Option* model =
      command.add_option("-m,--model", options.model, "a GGUF file, or a Hugging Face directory");
  model->required()->type_name("MODEL")->group(group);
  command.add_option("--lora", options.lora, "a LoRA adapter in GGUF form; may be repeated")
      ->type_name("FILE[:SCALE]")
      ->expected(1)
      ->take_all()
      ->group(group);
  command.add_option("--rope-freq-base", options.rope_base, "RoPE base instead of the file's")
      ->check(positive_number())
      ->type_name("F")
      ->group(group);
  command.add_option("--rope-scaling", options.rope_scaling, "none, linear:F or yarn:F")
      ->type_name("METHOD")
      ->group(group);
  command.add_option("--device", options.device, "auto, cpu, cuda or cuda:N")
      ->capture_default_str()
      ->type_name("DEVICE")
      ->group(group);
  command.add_option("--threads", options.threads, "0: one for each processor")
      ->check(CLI::Range(0, 1024))
      ->type_name("N")
      ->group(group);
  command
      .add_option(
          "--compute", options.compute,
          "fast: activations in 15 bits against quantised weights; bf16: besides, bf16 products "
          "in attention, quicker on AMD; f32: f32 throughout")
      ->check(CLI::IsMember({"fast", "bf16", "f32"}))
      ->capture_default_str()
      ->type_name("fast|bf16|f32")
      ->group(group);
  command
      .add_option("--memory-limit", options.memory_limit,
                  "refuse to plan more than this (suffixes K, M, G); default: what is free")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("BYTES")
      ->group(group);
  command.add_flag("--json", options.json, "one JSON object a line on stdout, nothing else there");
  return model;
}

void add_pattern_options(CLI::App& command, HeadOptions& options, const std::string& group) {
  CLI::Option* pattern =
      command
          .add_option("--pattern", options.pattern, "attention pattern: which KV heads may stream")
          ->type_name("DIR")
          ->group(group);
  command.add_option("--sink", options.sink, "first tokens that streaming heads keep")
      ->check(CLI::Range(std::int32_t{0}, static_cast<std::int32_t>(kMostContext)))
      ->needs(pattern)
      ->type_name("N")
      ->group(group);
  command.add_option("--recent", options.recent, "last tokens that streaming heads keep")
      ->check(CLI::Range(std::int32_t{1}, static_cast<std::int32_t>(kMostContext)))
      ->needs(pattern)
      ->type_name("N")
      ->group(group);
}

void add_head_options(CLI::App& command, HeadOptions& options) {
  const std::string group = "Heads";
  add_pattern_options(command, options, group);
  command
      .add_option("--sparsity", options.sparsity,
                  "share of KV heads that stream; 0.5 with a pattern, else 0")
      ->check(share())
      ->type_name("S")
      ->group(group);
  command
      .add_option("--retrieval-window", options.retrieval_window,
                  "first, sampled and last tokens that the other heads keep, instead of all; "
                  "default: 256,512,4096")
      ->type_name("S,M,R|default")
      ->group(group);
}

void add_kv_options(CLI::App& command, KvOptions& options) {
  command.add_option("--kv", options.kv, "how keys and values are stored")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8", "q4"}))
      ->capture_default_str()
      ->type_name("f32|f16|bf16|q8|q4")
      ->group("KV cache");
}

void add_context_option(CLI::App& command, std::optional<std::int64_t>& context,
                        const std::string& meaning) {
  command.add_option("--context", context, meaning)
      ->check(CLI::Range(std::int64_t{1}, kMostContext))
      ->type_name("N")
      ->group("KV cache");
}

void add_chunk_option(CLI::App& command, std::int64_t& chunk) {
  command
      .add_option("--chunk", chunk, "tokens of one prefill pass; default: what suits the device")
      ->check(CLI::Range(std::int64_t{1}, kMostContext))
      ->type_name("N")
      ->group("KV cache");
}

void add_examples(CLI::App& command, const std::vector<std::string>& lines) {
  std::string footer = lines.size() == 1 ? "Example:" : "Examples:";
  for (const std::string& line : lines) footer += "\n  " + line;
  command.footer(footer);
}

EngineOptions engine_options(const ModelOptions& options) {
  EngineOptions engine{.model = options.model,
                       .adapters = {},
                       .rope_base = options.rope_base,
                       .rope_scaling = options.rope_scaling,
                       .device = options.device,
                       .threads = options.threads,
                       .compute = compute_of(options.compute),
                       .memory_limit = options.memory_limit};
  for (const std::string& text : options.lora) engine.adapters.push_back(LoraRequest::parse(text));
  return engine;
}

std::unique_ptr<Engine> open_engine(const ModelOptions& options) {
  return std::make_unique<Engine>(engine_options(options));
}

HeadClass parse_retrieval_window(const std::string& text) {
  if (text == "default") return kRetrievalWindow;
  std::array<std::int32_t, 3> numbers = {};
  const char* at = text.data();
  const char* const end = at + text.size();
  bool well = true;
  for (std::size_t i = 0; i < numbers.size() && well; ++i) {
    if (i > 0) well = at != end && *at++ == ',';
    const auto [stop, error] = std::from_chars(at, end, numbers[i]);
    well = well && error == std::errc() && numbers[i] >= (i == 2 ? 1 : 0) &&
           numbers[i] <= kMostContext;
    at = stop;
  }
  if (!well || at != end) {
    throw UsageError(
        fmt::format("--retrieval-window is '{}', expected 'default' or SINK,MIDDLE,RECENT: three "
                    "whole numbers up to {}, the last above 0",
                    text, kMostContext));
  }
  return HeadClass::window(numbers[0], numbers[1], numbers[2]);
}

HeadRequest head_request(const HeadOptions& options) {
  if (options.pattern.empty() && options.sparsity.value_or(0) > 0) {
    throw UsageError(
        fmt::format("--sparsity {} needs --pattern DIR, which says which heads may stream; make "
                    "one with 'sedpa identify'",
                    *options.sparsity));
  }
  HeadRequest request{.pattern = options.pattern,
                      .sparsity = options.sparsity,
                      .sink = options.sink,
                      .recent = options.recent,
                      .retrieval_window = std::nullopt};
  if (options.retrieval_window) {
    request.retrieval_window = parse_retrieval_window(*options.retrieval_window);
  }
  return request;
}

PlannedHeads plan_heads(const HeadOptions& options, const Engine& engine) {
  return sedpa::plan_heads(engine, head_request(options));
}

void note_untrained(const Engine& engine, std::int64_t context) {
  const std::int64_t trained = engine.config().trained_context;
  if (context <= trained) return;
  log(fmt::format("a context of {} tokens is beyond the {} that the model was trained for", context,
                  trained));
}

void load(Engine& engine, const SessionOptions& session) {
  engine.check_memory(session);
  load_checked(engine);
}

void load(Engine& engine, const MemoryPlan& plan, const std::string& advice) {
  engine.check_memory(plan, advice);
  load_checked(engine);
}

TextInput::TextInput(const std::string& path)
    : name_(path == "-" ? "standard input" : path), descriptor_(STDIN_FILENO), owned_(path != "-") {
  if (owned_) descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) fail_to_read();
}

TextInput::~TextInput() {
  if (owned_) ::close(descriptor_);
}

void TextInput::fail_to_read() const {
  fail("{}: cannot read: {}", name_, std::generic_category().message(errno));
}

bool TextInput::read(std::string& text) {
  constexpr std::size_t kPiece = std::size_t{1} << 16;
  const std::size_t length = text.size();
  text.resize(length + kPiece);
  ::ssize_t got = ::read(descriptor_, text.data() + length, kPiece);
  while (got < 0 && errno == EINTR) {
    check_interrupt();
    got = ::read(descriptor_, text.data() + length, kPiece);
  }
  if (got < 0) fail_to_read();
  text.resize(length + static_cast<std::size_t>(got));
  return got > 0;
}

std::string read_text(const std::string& path) {
  TextInput input(path);
  std::string text;
  while (input.read(text)) {
  }
  return text;
}

nlohmann::ordered_json run_fields(const Engine& engine, const PlannedHeads& heads,
                                  const SessionOptions& options, const Session* session) {
  const MemoryPlan plan = engine.plan(options);
  nlohmann::ordered_json fields = {
      {"model", engine.model_path()},
      {"device", engine.device()},
      {"threads", engine.threads()},
      {"sparsity", heads.sparsity},
      {"sink", nullptr},
      {"recent", nullptr},
      {"retrieval_window", nullptr},
      {"kv_dtype", std::string(name(options.kv))},
      {"context", options.context},
      {"planned_bytes", plan.total()},
      {"planned_kv_bytes", plan.kv_bytes},
      {"weight_bytes", engine.loaded() ? engine.model().weight_bytes : plan.weight_bytes},
      {"kv_bytes", session != nullptr ? session->kv_bytes() : plan.kv_bytes},
      {"scratch_bytes", session != nullptr ? session->scratch_bytes() : plan.scratch_bytes}};
  if (heads.streams()) {
    fields["sink"] = heads.streaming.sink;
    fields["recent"] = heads.streaming.recent;
  }
  if (!heads.retrieval.full) {
    fields["retrieval_window"] = {heads.retrieval.sink, heads.retrieval.middle,
                                  heads.retrieval.recent};
  }
  return fields;
}

nlohmann::ordered_json measured(double value) {
  return value > 0 ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

void print_json(const nlohmann::ordered_json& object) { print(json_text(object) + "\n"); }

void print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    fail("standard output: cannot write: {}", std::generic_category().message(errno));
  }
}

std::string human_bytes(std::uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0) return fmt::format("{} B", bytes);
  return fmt::format("{:.{}f} {}", value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0, kUnits[unit]);
}

void install_handlers() {
  set_log_sink([seen = std::set<std::string>()](const std::string& line) mutable {
    if (!seen.insert(line).second) return;
    if (notes_shown) {
      print_note(line);
    } else {
      held_notes().push_back(line);
    }
  });
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  // The second Ctrl-C ends the program whatever it is doing; reads return early after the first.
  action.sa_flags = SA_RESETHAND;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, nullptr);
}

void show_notes() {
  for (const std::string& note : held_notes()) print_note(note);
  held_notes().clear();
  notes_shown = true;
}

bool interrupted() { return interrupt_seen != 0; }

void check_interrupt() {
  if (interrupted()) throw Interrupted();
}

ProgressBar::ProgressBar(std::string label)
    : label_(std::move(label)), terminal_(::isatty(STDERR_FILENO) == 1) {}

void ProgressBar::update(std::uint64_t done, std::uint64_t total, const std::string& detail) {
  check_interrupt();
  if (!terminal_) return;
  const Clock::time_point now = Clock::now();
  using std::chrono::milliseconds;
  if (now - start_ < milliseconds(1000) || now - last_ < milliseconds(100)) return;
  last_ = now;
  shown_ = true;
  if (total == 0) {
    fmt::print(stderr, "\r{}  {}\x1b[K", label_, detail);
    std::fflush(stderr);
    return;
  }
  constexpr int kWidth = 30;
  const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const int filled = static_cast<int>(share * kWidth);
  // What an earlier, longer detail left goes.
  fmt::print(stderr, "\r{} [{:=<{}}{:<{}}] {:3.0f} %{}{}\x1b[K", label_, "", filled, "",
             kWidth - filled, 100 * share, detail.empty() ? "" : "  ", detail);
  std::fflush(stderr);
}

void ProgressBar::clear() {
  if (!shown_) return;
  fmt::print(stderr, "\r\x1b[K");
  std::fflush(stderr);
  shown_ = false;
}

}  // namespace sedpa::cli

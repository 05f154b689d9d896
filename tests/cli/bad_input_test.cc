// What people and broken files do wrong: each gives one line that says what, and an exit code.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "tests/cli/run.h"
#include "tests/format/support.h"
#include "tests/support/tiny_model.h"

namespace sedpa::test {
namespace {

using Words = std::vector<std::string>;

Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class BadInput : public testing::Test {
 protected:
  BadInput() { write_tiny_model(model_); }

  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_.path())) {
      names.insert(entry.path().string());
    }
    return names;
  }

  // The same, and no file is left behind.
  void expect_refusal(const Words& words, int exit_code,
                      std::initializer_list<std::string_view> parts,
                      const std::string& input = "") const {
    const std::set<std::string> before = files();
    test::expect_refusal(words, exit_code, parts, input);
    EXPECT_EQ(files(), before);
  }
  void expect_bad_usage(const Words& words, std::initializer_list<std::string_view> parts) const {
    expect_refusal(words, 2, parts);
  }
  void expect_failure(const Words& words, std::initializer_list<std::string_view> parts,
                      const std::string& input = "") const {
    expect_refusal(words, 1, parts, input);
  }
  Words ask(const std::string& model) const {
    return {"generate", "-m", model, "-p", "Hello", "-n", "4"};
  }
  Words ask() const { return ask(model_); }

  // A model file with some of its parts changed.
  std::string spoiled(const std::string& name, const std::function<void(GgufWriter&)>& write) {
    const std::string path = folder_ / name;
    GgufWriter file;
    write(file);
    file.write(path);
    return path;
  }
  std::string put(const std::string& name, const std::vector<std::byte>& bytes) {
    return folder_.put(name, bytes);
  }

  TempDir folder_;
  const std::string model_ = folder_ / "tiny.gguf";
};

TEST_F(BadInput, CommandLines) {
  expect_bad_usage({}, {"subcommand"});
  expect_bad_usage({"dance"}, {});
  expect_bad_usage({"generate", "-p", "Hello"}, {"--model"});
  expect_bad_usage({"generate", "-m", model_}, {"-p TEXT", "--chat"});
  expect_bad_usage(ask() + Words{"--kv", "q5"}, {"--kv"});
  expect_bad_usage(ask() + Words{"--compute", "slow"}, {"--compute"});
  expect_bad_usage(ask() + Words{"--sparsity", "1.5"}, {"--sparsity", "1.5"});
  expect_bad_usage(ask() + Words{"--sparsity", "-0.5"}, {"--sparsity"});
  expect_bad_usage(ask() + Words{"--sparsity", "nan"}, {"--sparsity"});
  expect_bad_usage(ask() + Words{"--sparsity", "half"}, {"--sparsity"});
  expect_bad_usage(ask() + Words{"--context", "0"}, {"--context"});
  expect_bad_usage(ask() + Words{"--context", "99999999999"}, {"--context"});
  expect_bad_usage(ask() + Words{"--chunk", "0"}, {"--chunk"});
  expect_bad_usage(ask() + Words{"--threads", "-1"}, {"--threads"});
  expect_bad_usage(ask() + Words{"--temp", "-1"}, {"--temp"});
  expect_bad_usage(ask() + Words{"--temp", "inf"}, {"--temp"});
  expect_bad_usage(ask() + Words{"--top-p", "2"}, {"--top-p"});
  expect_bad_usage(ask() + Words{"--rope-freq-base", "0"}, {"--rope-freq-base"});
  for (const char* window : {"4,0", "4,0,0", "4,0,8,", "4,0,8,9", "-1,0,8", "4 0 8", "4,x,8", "",
                             "4,0,99999999999", "usual"}) {
    expect_bad_usage(ask() + Words{"--retrieval-window", window},
                     {"--retrieval-window is", "SINK,MIDDLE,RECENT"});
  }
  expect_bad_usage(ask() + Words{"--memory-limit", "much"}, {"--memory-limit"});
  expect_bad_usage(ask() + Words{"--sink", "4"}, {"--sink", "--pattern"});
  expect_bad_usage({"generate", "-m", model_, "--chat", "-f", "-"}, {"--chat"});
  expect_bad_usage({"generate", "-m", model_, "--chat", "--session", folder_ / "s"}, {"-f FILE"});
  expect_bad_usage({"tokenize", "-m", model_}, {"-p TEXT"});
  expect_bad_usage({"bench", "-m", model_, "--repeat", "0"}, {"--repeat"});
  expect_bad_usage({"bench", "-m", model_, "--depth", "0,-4"}, {"--depth"});
}

TEST_F(BadInput, SparsityWithoutAPatternSaysToIdentify) {
  for (const char* command : {"info", "bench"}) {
    expect_bad_usage({command, "-m", model_, "--sparsity", "0.5"}, {"sedpa identify"});
  }
  expect_bad_usage(ask() + Words{"--sparsity", "0.5"}, {"sedpa identify", "--pattern"});
}

TEST_F(BadInput, FilesThatAreNoModels) {
  expect_failure(ask(folder_ / "none.gguf"), {"none.gguf", "No such file"});
  const std::string empty_folder = folder_ / "folder";
  std::filesystem::create_directory(empty_folder);
  expect_failure(ask(empty_folder), {"folder", "config.json"});
  expect_failure(ask(folder_.put("text", "Once upon a time")), {"text"});
  expect_failure(ask(folder_.put("empty", "")), {"empty"});
  expect_failure(ask("/dev/null"), {"/dev/null"});
  expect_failure({"info", "-m", folder_.put("text2", "GGUF")}, {"text2"});
}

TEST_F(BadInput, ModelFilesThatWereCutOrChanged) {
  const std::vector<std::byte> whole = read_bytes(model_);
  for (const double share : {0.001, 0.05, 0.2, 0.5, 0.99}) {
    const auto size = static_cast<std::ptrdiff_t>(share * static_cast<double>(whole.size()));
    expect_failure(ask(put("cut.gguf", {whole.begin(), whole.begin() + size})), {"cut.gguf"});
  }
  std::vector<std::byte> other_end = whole;  // big endian
  std::swap(other_end[4], other_end[7]);
  expect_failure(ask(put("big.gguf", other_end)), {"big.gguf"});
  std::vector<std::byte> huge = whole;  // 2^56 tensors
  huge[15] = std::byte{1};
  expect_failure(ask(put("huge.gguf", huge)), {"huge.gguf"});
}

TEST_F(BadInput, ModelsThatDoNotFitTogether) {
  const auto write = [](const TinyModel& config, const TinyModel& tensors,
                        const Words& leave_out = {}) {
    return [=](GgufWriter& file) {
      add_tiny_config(file, config);
      add_tiny_vocabulary(file, config);
      add_tiny_tensors(file, tensors, leave_out);
    };
  };
  expect_failure(ask(spoiled("missing.gguf", write({}, {}, {"blk.1.ffn_up.weight"}))),
                 {"missing.gguf", "blk.1.ffn_up.weight", "missing"});
  expect_failure(ask(spoiled("shape.gguf", write({}, {.mlp_width = 96}))),
                 {"shape.gguf", "ffn_gate.weight", "[96, 32]", "[64, 32]"});
  expect_failure(ask(spoiled("heads.gguf", write({.query_heads = 3}, {}))),
                 {"heads.gguf", "3", "2"});
  expect_failure(ask(spoiled("layers.gguf", write({.layers = 3}, {}))), {"layers.gguf", "blk.2."});
  expect_failure(ask(spoiled("zero.gguf", write({.width = 0}, {}))), {"zero.gguf"});
  expect_failure(ask(spoiled("mamba.gguf", write({.architecture = "mamba"}, {}))),
                 {"mamba.gguf", "\"mamba\"", "llama", "qwen2", "qwen3"});
  expect_failure(ask(spoiled("typed.gguf",
                             [](GgufWriter& file) {
                               file.add_string("general.architecture", "llama");
                               file.add_string("llama.block_count", "two");
                               add_tiny_vocabulary(file, {});
                               add_tiny_tensors(file, {});
                             })),
                 {"typed.gguf", "llama.block_count"});
  // A vocabulary that is larger than the embedding.
  expect_failure(ask(spoiled("vocabulary.gguf",
                             [](GgufWriter& file) {
                               add_tiny_config(file, {});
                               add_tiny_vocabulary(file, {});
                               file.add_u32("llama.vocab_size", 200);
                               add_tiny_tensors(file, {});
                             })),
                 {"vocabulary.gguf", "263", "200"});
}

TEST_F(BadInput, AFileThatIsOnlyAVocabulary) {
  const std::string path = folder_ / "vocabulary.gguf";
  write_tiny_vocabulary(path);
  expect_failure(ask(path), {"vocabulary.gguf", "no tensors"});
  expect_failure({"info", "-m", path}, {"vocabulary.gguf", "no tensors", "tokenize"});
}

TEST_F(BadInput, AdaptersOfOtherModels) {
  const std::string wide = folder_ / "wide.gguf";
  write_tiny_adapter(wide, {.width = 64});
  expect_failure(ask() + Words{"--lora", wide}, {"wide.gguf", "[2, 64]", "[2, 32]"});
  const std::string deep = folder_ / "deep.gguf";
  write_tiny_adapter(deep, {.layers = 3});
  expect_failure(ask() + Words{"--lora", deep}, {"deep.gguf", "blk.2."});
  const std::string other = folder_ / "other.gguf";
  write_tiny_adapter(other, {.architecture = "qwen2"});
  expect_failure(ask() + Words{"--lora", other}, {"other.gguf", "qwen2", "llama"});
  expect_failure(ask() + Words{"--lora", model_}, {"tiny.gguf", "LoRA"});
  expect_failure(ask() + Words{"--lora", folder_ / "none"}, {"none", "No such file"});
  expect_failure(ask() + Words{"--lora", folder_.path()}, {"directory"});
}

TEST_F(BadInput, PatternsOfOtherModels) {
  const std::string pattern = folder_ / "pattern";
  write_tiny_pattern(pattern, 30, 3);
  expect_failure(ask() + Words{"--pattern", pattern}, {"30 layers x 3", "2 x 2"});
  expect_failure(ask() + Words{"--pattern", folder_ / "none"},
                 {"none", "full_attention_heads.tsv"});
  expect_failure(ask() + Words{"--pattern", model_}, {"tiny.gguf"});
}

TEST_F(BadInput, Prompts) {
  expect_failure({"generate", "-m", model_, "-p", ""}, {"empty", "begin token"});
  expect_failure({"generate", "-m", model_, "-f", "-"}, {"empty"});
  expect_failure({"generate", "-m", model_, "-f", folder_ / "none"}, {"none", "No such file"});
  expect_failure({"generate", "-m", model_, "-f", folder_.path()}, {"directory"});
  const std::string words(200, 'x');
  expect_failure({"generate", "-m", model_, "-p", words, "-n", "10"},
                 {"200", "128", "--retrieval-window", "--context 210"});
  const Words bounded = {"generate", "-m", model_, "--retrieval-window", "default", "-f"};
  expect_failure(bounded + Words{"-"}, {"no prompt"});
  expect_failure(bounded + Words{folder_ / "none"}, {"none", "No such file"});
  expect_failure(bounded + Words{folder_.path()}, {"directory"});
  expect_failure(bounded + Words{"-", "--context", "100"}, {"100", "--context"}, words);
  expect_failure({"generate", "-m", model_, "-p", words, "--context", "150"}, {"200", "150"});
  const std::string plain = folder_ / "plain.gguf";
  write_tiny_model(plain, {.chat_template = false});
  expect_failure(ask(plain) + Words{"--instruct"}, {"plain.gguf", "no chat template"});
  expect_failure({"generate", "-m", plain, "--chat"}, {"no chat template"}, "Hello\n");
}

TEST_F(BadInput, Devices) {
  expect_failure(ask() + Words{"--device", "cuda"}, {"cuda", "cpu"});
  expect_failure(ask() + Words{"--device", "cuda:1"}, {"cuda:1"});
  expect_failure(ask() + Words{"--device", "tpu"}, {"tpu", "auto"});
}

TEST_F(BadInput, Memory) {
  expect_failure(ask() + Words{"--memory-limit", "1000"}, {"1000", "--memory-limit", "KV cache"});
  // Planned and refused before it is tried.
  expect_failure(ask() + Words{"--context", "1000000000"}, {"1000000000", "available"});
}

TEST_F(BadInput, RopeScaling) {
  for (const char* scaling : {"linear", "linear:0", "yarn:x", "ntk:2", ""}) {
    expect_failure(ask() + Words{"--rope-scaling", scaling}, {"RoPE"});
  }
}

TEST_F(BadInput, Sessions) {
  const std::string session = folder_ / "a.session";
  const Words keep = ask() + Words{"--session", session};
  ASSERT_EQ(run_sedpa(keep).exit_code, 0);
  expect_failure({"generate", "-m", model_, "-p", "Howdy", "--session", session},
                 {"a.session", "token 1 of 5"});
  expect_failure({"generate", "-m", model_, "-p", "Hell", "--session", session}, {"5", "4"});
  expect_failure(keep + Words{"--kv", "q8"}, {"f16", "q8"});
  expect_failure(keep + Words{"--retrieval-window", "4,0,16"}, {"head plan"});
  const std::string other = folder_ / "other.gguf";
  write_tiny_model(other, {.seed = 2});
  expect_failure(ask(other) + Words{"--session", session}, {"another model"});
  const std::vector<std::byte> whole = read_bytes(session);
  put("a.session", {whole.begin(), whole.end() - 1});
  expect_failure(keep, {"a.session"});
  folder_.put("a.session", "no session");
  expect_failure(keep, {"a.session", "session file"});
  expect_failure(ask() + Words{"--session", folder_.path()}, {"directory"});
  expect_failure(ask() + Words{"--session", folder_ / "none/a.session"}, {"none"});
}

TEST_F(BadInput, TokenIds) {
  expect_failure({"tokenize", "-m", model_, "-p", "1,two", "--decode"}, {"two"});
  expect_failure({"tokenize", "-m", model_, "-p", "99999", "--decode"}, {"99999"});
  expect_failure({"tokenize", "-m", model_, "-p", "99999999999", "--decode"}, {"99999999999"});
  expect_failure({"tokenize", "-m", folder_ / "none", "-p", "Hello"}, {"none"});
}

}  // namespace
}  // namespace sedpa::test

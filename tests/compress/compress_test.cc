// Whole files: what compress writes is a model like any other, whose numbers can be counted.
#include "sedpa/compress/compress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>

#include "sedpa/core/error.h"
#include "sedpa/engine/session.h"
#include "tests/compress/whole_models.h"
#include "tests/format/support.h"
#include "tests/support/f32_engine.h"
#include "tests/support/tiny_model.h"
#ifdef SEDPA_HAVE_CUDA
#include "sedpa/backend/cuda/cuda_ops.h"
#endif

namespace sedpa::test {
namespace {

/// Wide enough that ranks are multiples of 16 and useful: 48 of 96 x 96.
const TinyModel kModel{.layers = 3,
                       .width = 96,
                       .query_heads = 6,
                       .kv_heads = 6,
                       .head_dim = 16,
                       .mlp_width = 64,
                       .dtype = Dtype::f32};

class Compress : public testing::Test {
 protected:
  Compress() { write_tiny_model(model_, kModel); }

  CompressResult run(const CompressOptions& options, const std::string& output,
                     const std::string& model) const {
    const Engine engine(f32_engine(model));
    return compress(engine, text_, options, output, kSilent);
  }
  CompressResult run(const CompressOptions& options, const std::string& output) const {
    return run(options, output, model_);
  }
  HeadPlan heads(std::int32_t retrieval) const {
    HeadPlan plan = HeadPlan::uniform(kModel.layers, kModel.kv_heads, {});
    for (LayerHeads& layer : plan.layers) layer.retrieval = retrieval;
    return plan;
  }

  // What is said of a file is what stands in it.
  void expect_counted(const CompressResult& result, const std::string& path) const {
    const Engine engine(f32_engine(path));
    std::int64_t all = 0;
    std::int64_t attention = 0;
    std::uint64_t bytes = 0;
    for (const TensorInfo& tensor : engine.checkpoint().tensors()) {
      all += tensor.count();
      bytes += tensor.data.size();
      const bool matrix = tensor.shape.size() == 2;
      if (matrix && (tensor.name.find("attn_") != std::string::npos ||
                     tensor.name.find("self_attn") != std::string::npos)) {
        attention += tensor.count();
      }
    }
    EXPECT_EQ(result.parameters_after, all);
    EXPECT_EQ(result.attention_after, attention);
    EXPECT_EQ(engine.weight_plan().parameters, all);
    EXPECT_EQ(engine.weight_plan().attention_parameters, attention);
    EXPECT_LT(bytes, engine.checkpoint().file_bytes());
    const MemoryPlan plan = engine.plan({.context = 8, .heads = engine.full_plan()});
    Engine loaded(f32_engine(path));
    loaded.load();
    EXPECT_EQ(plan.weight_bytes, loaded.model().weight_bytes);
    EXPECT_EQ(loaded.model().parameters, all);
  }

  TempDir folder_;
  std::string model_ = folder_ / "model.gguf";
  std::string output_ = folder_ / "small.gguf";
  CalibrationText text_ = some_text();
};

TEST_F(Compress, CalibratedMeetsItsBudgetAndSaysWhatItDid) {
  const CompressResult result = run({.cut = 0.3}, output_);
  EXPECT_EQ(result.attention_before, 3 * 4 * 96 * 96);
  EXPECT_LE(static_cast<double>(result.attention_after),
            0.7 * static_cast<double>(result.attention_before));
  EXPECT_GT(static_cast<double>(result.attention_after),
            0.6 * static_cast<double>(result.attention_before));
  EXPECT_EQ(std::ranges::count(result.ranks, 0) < 12, true);
  expect_counted(result, output_);
  // What was measured on the way, layer by layer, is what the two files give.
  for (const auto& [probes, measured] :
       {std::pair{&text_.running, result.kl_running}, {&text_.retrieving, result.kl_retrieving}}) {
    const Probe& probe = probes->front();
    const double found = measured_divergence(model_, output_, probe);
    EXPECT_GT(found, 0);
    EXPECT_NEAR(measured, found, 1e-3 * found);
  }
  EXPECT_FALSE(std::filesystem::exists(output_ + ".parts"));
}

// With random weights all directions matter alike, but inputs do not: what looks at them wins.
TEST_F(Compress, CalibratedLosesLessThanSingularValuesOfTheSameSize) {
  const CompressResult calibrated = run({.cut = 0.4}, output_);
  const CompressResult published =
      run({.published = heads(0), .cut = 0.4}, folder_ / "published.gguf");
  EXPECT_LT(calibrated.kl_running, published.kl_running);
  expect_counted(published, folder_ / "published.gguf");
}

#ifdef SEDPA_HAVE_CUDA
TEST_F(Compress, OnAGpuAsOnTheHost) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU";
  const auto on_gpu = [&](const CompressOptions& options, const std::string& output) {
    EngineOptions gpu = f32_engine(model_);
    gpu.device = "cuda";
    gpu.compute = Compute::fast;
    const Engine engine(gpu);
    EXPECT_GT(plan_compression(engine, text_, options).total(), 0u);
    return compress(engine, text_, options, output, kSilent);
  };
  // By singular values alone, numbers of the files in f64: the same but for rounding.
  const CompressOptions published{.published = heads(0), .cut = 0.4};
  const CompressResult host = run(published, output_);
  const std::string from_gpu = folder_ / "gpu.gguf";
  EXPECT_EQ(on_gpu(published, from_gpu).ranks, host.ranks);
  const auto tokens = some_tokens(32, 77);
  EXPECT_LT(largest_difference(logits_of(output_, tokens), logits_of(from_gpu, tokens)), 1e-3);
  // By what a text shows: passes of a GPU round otherwise, and may choose a little otherwise.
  const CompressResult calibrated = run({.cut = 0.4}, folder_ / "calibrated.gguf");
  const CompressResult found = on_gpu({.cut = 0.4}, folder_ / "calibrated-gpu.gguf");
  EXPECT_LE(static_cast<double>(found.attention_after),
            0.6 * static_cast<double>(found.attention_before));
  EXPECT_NEAR(found.kl_running, calibrated.kl_running, 0.2 * calibrated.kl_running);
  expect_counted(found, folder_ / "calibrated-gpu.gguf");
}
#endif

TEST_F(Compress, PublishedLeavesLayersThatRetrieveAlone) {
  const CompressResult result = run({.published = heads(3)}, output_);
  EXPECT_EQ(result.attention_after, result.attention_before);
  EXPECT_EQ(largest_difference(logits_of(model_, text_.running[0].tokens),
                               logits_of(output_, text_.running[0].tokens)),
            0);
}

// Matrices of rank 32 by construction: factors of that rank are the matrices again.
TEST_F(Compress, FactorsOfFullRankAreTheModel) {
  const std::string model = folder_ / "flat.gguf";
  GgufWriter file;
  add_tiny_config(file, kModel);
  add_tiny_vocabulary(file, kModel);
  std::vector<std::string> flat;
  std::vector<std::vector<float>> kept;
  constexpr std::int64_t kRank = 32;
  for (const TinyTensor& tensor : tiny_tensors(kModel)) {
    if (tensor.name.find("attn_") == std::string::npos || tensor.shape.size() != 2) continue;
    flat.push_back(tensor.name);
    std::mt19937_64 random(flat.size());
    const auto number = [&] { return static_cast<double>(random() >> 11) * 0x1p-52 - 1; };
    std::vector<double> a(96 * kRank);
    std::vector<double> b(kRank * 96);
    for (double& x : a) x = 0.3 * number();
    for (double& x : b) x = 0.3 * number();
    std::vector<float> product(std::size_t{96} * 96);
    for (std::size_t i = 0; i < product.size(); ++i) {
      double sum = 0;
      for (std::size_t r = 0; r < kRank; ++r) sum += a[i / 96 * kRank + r] * b[r * 96 + i % 96];
      product[i] = static_cast<float>(sum);
    }
    kept.push_back(std::move(product));
  }
  add_tiny_tensors(file, kModel, flat);
  for (std::size_t i = 0; i < flat.size(); ++i) {
    file.add_tensor(flat[i], Dtype::f32, {96, 96}, std::as_bytes(std::span(kept[i])));
  }
  file.write(model);
  const auto tokens = some_tokens(40, 5);
  const auto expected = logits_of(model, tokens);
  const auto size = [](float a, float b) { return std::abs(a) < std::abs(b); };
  const float largest = std::abs(*std::ranges::max_element(expected, size));
  // 2 * 96 * 32 of 96 * 96 numbers stay.
  for (const CompressOptions& options :
       {CompressOptions{.cut = 1.0 / 3}, CompressOptions{.published = heads(0), .cut = 1.0 / 3}}) {
    std::filesystem::remove(output_);
    const CompressResult result = run(options, output_, model);
    EXPECT_EQ(result.ranks, std::vector<std::int64_t>(12, kRank));
    EXPECT_LT(largest_difference(logits_of(output_, tokens), expected), 1e-4 * largest);
  }
}

TEST_F(Compress, GoesOnWhereItStopped) {
  const CompressResult expected = run({.cut = 0.3}, folder_ / "at_once.gguf");
  const Engine engine(f32_engine(model_));
  // Stopped while the second layer is at work.
  const auto stop = [](const char* what, std::int64_t done, std::int64_t) {
    if (std::string_view(what) == "compressing" && done == 1) throw Error("stopped");
  };
  EXPECT_THROW((void)compress(engine, text_, {.cut = 0.3}, output_, stop), Error);
  EXPECT_FALSE(std::filesystem::exists(output_));
  EXPECT_TRUE(std::filesystem::exists(output_ + ".parts/layer-0000.gguf"));
  EXPECT_FALSE(std::filesystem::exists(output_ + ".parts/layer-0001.gguf"));
  EXPECT_THROW((void)run({.cut = 0.4}, output_), Error) << "other options";
  const CompressResult found = run({.cut = 0.3}, output_);
  EXPECT_TRUE(found.resumed);
  EXPECT_EQ(found.ranks, expected.ranks);
  const auto tokens = some_tokens(40, 5);
  EXPECT_EQ(
      largest_difference(logits_of(output_, tokens), logits_of(folder_ / "at_once.gguf", tokens)),
      0);
}

TEST_F(Compress, StaysWithinADivergence) {
  const CompressResult loose = run({.max_kl = 0.05}, output_);
  EXPECT_LE((loose.kl_running + loose.kl_retrieving) / 2, 0.05);
  const CompressResult tight = run({.max_kl = 0.005}, folder_ / "tight.gguf");
  EXPECT_LE((tight.kl_running + tight.kl_retrieving) / 2, 0.005);
  EXPECT_GE(tight.attention_after, loose.attention_after);
}

TEST_F(Compress, QuantisedFactors) {
  const std::string model = folder_ / "q8.gguf";
  TinyModel quantised = kModel;
  quantised.dtype = Dtype::q8_0;
  write_tiny_model(model, quantised);
  const CompressResult result = run({.cut = 0.3}, output_, model);
  expect_counted(result, output_);
  const Checkpoint checkpoint = Checkpoint::open(output_);
  for (std::int32_t i = 0; i < kModel.layers; ++i) {
    for (const Role role : {Role::query, Role::key, Role::value, Role::attention_output}) {
      const TensorInfo* a = checkpoint.find(role, i, Factor::a);
      if (a != nullptr) {
        EXPECT_EQ(a->dtype, Dtype::q8_0);
      }
    }
  }
}

TEST_F(Compress, MergesAnAdapter) {
  const std::string adapter = folder_ / "adapter.gguf";
  write_tiny_adapter(adapter, kModel, 2, 256);
  EngineOptions options = f32_engine(model_);
  options.adapters = {LoraRequest::parse(adapter)};
  const Engine engine(options);
  (void)compress(engine, text_, {.cut = 0.3}, output_, kSilent);
  const Checkpoint merged = Checkpoint::open(output_);
  EXPECT_EQ(merged.config().trained_context, 256);
  Engine adapted(options);
  adapted.load();
  const auto tokens = some_tokens(40, 5);
  Session session(adapted, {.context = 40, .heads = adapted.full_plan(), .kv = KvDtype::f32});
  const auto expected = session.append(tokens);
  const auto found = logits_of(output_, tokens);
  // The down matrices, which are not factored, have the adapter in them.
  const std::vector<float> last(found.end() - kTinyVocabulary, found.end());
  const auto plain = logits_of(model_, tokens);
  const std::vector<float> unadapted(plain.end() - kTinyVocabulary, plain.end());
  const std::vector<float> wanted(expected.begin(), expected.end());
  EXPECT_LT(largest_difference(last, wanted), largest_difference(unadapted, wanted));
  // And what is factored takes no adapter any more.
  EngineOptions again = f32_engine(output_);
  again.adapters = {LoraRequest::parse(adapter)};
  try {
    const Engine refused(again);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("low-rank factors"), std::string::npos)
        << error.what();
  }
}

// Directories of safetensors files, query and key norms and biases among them.
TEST_F(Compress, DirectoriesStayDirectories) {
  for (const char* name : {"qwen3", "llama-linear"}) {
    SCOPED_TRACE(name);
    const std::string model = std::string(SEDPA_SOURCE_DIR) + "/tests/data/models/" + name;
    const std::string output = folder_ / name;
    CalibrationText text = some_text();
    const auto fold = [](std::vector<std::int32_t>& tokens) {
      for (std::int32_t& token : tokens) token %= 72;
    };
    for (auto& sequence : text.sequences) fold(sequence);
    fold(text.running[0].tokens);
    fold(text.retrieving[0].tokens);
    const Engine engine(f32_engine(model));
    const CompressResult result = compress(engine, text, {.cut = 0.1}, output + "/", kSilent);
    expect_counted(result, output);
    EXPECT_GT(Engine(f32_engine(output)).weight_plan().low_rank_matrices, 0);
    const auto refused = [&](const CompressOptions& options, const std::string& to,
                             const char* why) {
      test::expect_error([&] { (void)compress(engine, text, options, to, kSilent); }, {why});
    };
    refused({.cut = 0.1}, output, "is there already");
    refused({.cut = 0.1, .type = Dtype::q8_0}, folder_ / "other", "q8_0");
    refused({.cut = 0.1}, folder_ / "other.gguf", "without .gguf");
  }
}

TEST_F(Compress, NamesWhatCannotBe) {
  const auto refused = [&](const CompressOptions& options, const std::string& model,
                           const std::string& output, std::string_view part) {
    try {
      (void)run(options, output, model);
      FAIL() << part;
    } catch (const Error& error) {
      EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos) << error.what();
    }
  };
  refused({.cut = 0.9}, model_, output_, "66.67% can go at most");
  refused({.cut = 0.3}, model_, model_, "is the model itself");
  std::filesystem::remove_all(output_ + ".parts");
  (void)run({.cut = 0.3}, output_);
  refused({.cut = 0.3}, output_, folder_ / "twice.gguf", "compressed already");
  const Engine compressed(f32_engine(output_));
  test::expect_error([&] { (void)plan_compression(compressed, text_, {.cut = 0.3}); },
                     {output_, "compressed already"});
  const std::string quantised = folder_ / "narrow.gguf";
  write_tiny_model(quantised, {.width = 48, .mlp_width = 64});
  refused({.cut = 0.3, .type = Dtype::q8_0}, quantised, folder_ / "n.gguf", "--type f16");
}

TEST_F(Compress, ADamagedPartIsNamed) {
  const Engine engine(f32_engine(model_));
  const auto stop = [](const char* what, std::int64_t done, std::int64_t) {
    if (std::string_view(what) == "compressing" && done == 1) throw Error("stopped");
  };
  EXPECT_THROW((void)compress(engine, text_, {.cut = 0.3}, output_, stop), Error);
  const std::string part = output_ + ".parts/layer-0000.gguf";
  std::filesystem::resize_file(part, std::filesystem::file_size(part) / 2);
  try {
    (void)run({.cut = 0.3}, output_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("layer-0000.gguf"), std::string::npos);
  }
}

// --- Files of factors that make no sense
// ----------------------------------------------------------

class FactorFile : public testing::Test {
 protected:
  /// Layer 0's query replaced by tensors of these shapes.
  void expect_refusal(const std::vector<std::pair<std::string, std::vector<std::int64_t>>>& tensors,
                      bool keep_whole, std::string_view part) const {
    TempDir folder;
    const std::string path = folder / "model.gguf";
    GgufWriter file;
    add_tiny_config(file, kModel);
    const std::string whole = "blk.0.attn_q.weight";
    add_tiny_tensors(file, kModel,
                     keep_whole ? std::vector<std::string>{} : std::vector<std::string>{whole});
    std::vector<std::vector<float>> kept;
    for (const auto& [name, shape] : tensors) {
      std::int64_t count = 1;
      for (const std::int64_t size : shape) count *= size;
      kept.emplace_back(static_cast<std::size_t>(count), 0.1f);
      file.add_tensor("blk.0.attn_q." + name, Dtype::f32, shape,
                      std::as_bytes(std::span(kept.back())));
    }
    file.write(path);
    try {
      const Engine engine(f32_engine(path));
      FAIL() << part;
    } catch (const Error& error) {
      EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos) << error.what();
    }
  }
};

TEST_F(FactorFile, IsChecked) {
  expect_refusal({{"A.weight", {96, 16}}}, false, "without its partner blk.0.attn_q.B.weight");
  expect_refusal({{"B.weight", {16, 96}}}, false, "without its partner blk.0.attn_q.A.weight");
  expect_refusal({{"A.weight", {96, 16}}, {"B.weight", {16, 96}}}, true, "one or the other");
  expect_refusal({{"A.weight", {96, 48}}, {"B.weight", {48, 96}}}, false,
                 "has rank 48, expected less than 48");
  expect_refusal({{"A.weight", {96, 16}}, {"B.weight", {17, 96}}}, false, "expected [16, 96]");
  expect_refusal({{"A.weight", {95, 16}}, {"B.weight", {16, 96}}}, false, "expected [96, 16]");
  expect_refusal({{"A.weight", {96}}, {"B.weight", {16, 96}}}, false, "has rank 96");
  expect_refusal({{"A.weight", {96, 16, 1}}, {"B.weight", {1, 96}}}, false, "expected [96, 1]");
}

}  // namespace
}  // namespace sedpa::test

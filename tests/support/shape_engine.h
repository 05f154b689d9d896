#pragma once
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sedpa/engine/engine.h"
#include "sedpa/engine/session.h"
#include "sedpa/model/random_model.h"

namespace sedpa::test {

inline constexpr std::int32_t kShapeVocabulary = 301;

/// A shape's seeded random weights on a device, with a small vocabulary; on the CPU in f32.
inline std::unique_ptr<Engine> shape_engine(const std::string& name, const std::string& device) {
  NamedShape shape = parse_shape(name);
  shape.config.vocab_size = kShapeVocabulary;
  EngineOptions options;
  options.device = device;
  options.threads = 2;
  options.compute = device == "cpu" ? Compute::f32 : Compute::fast;
  auto engine =
      std::make_unique<Engine>(options, shape.config, std::make_unique<RandomWeights>(shape));
  engine->load();
  return engine;
}

/// Two KV heads of each layer retrieve, the others stream; keys and values in f16.
inline SessionOptions streaming_options(const Engine& engine, std::int64_t context,
                                        std::int64_t chunk) {
  SessionOptions options;
  options.context = context;
  options.heads = engine.full_plan();
  options.heads.classes[kStreaming] = HeadClass::window(2, 0, 9);
  for (LayerHeads& layer : options.heads.layers) layer.retrieval = 2;
  options.kv = KvDtype::f16;
  options.chunk = chunk;
  return options;
}

/// |a - b| / |b|
inline double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double error = 0;
  double size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::pow(double{a[i]} - double{b[i]}, 2);
    size += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(error / size);
}

}  // namespace sedpa::test

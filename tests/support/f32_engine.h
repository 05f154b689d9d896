#pragma once
#include <string>

#include "sedpa/engine/engine.h"

namespace sedpa::test {

/// What a test asks of the CPU when it compares numbers: f32 products, and threads to share them.
inline EngineOptions f32_engine(const std::string& model) {
  EngineOptions options;
  options.model = model;
  options.threads = 2;
  options.compute = Compute::f32;
  return options;
}

}  // namespace sedpa::test

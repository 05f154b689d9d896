#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sedpa/engine/session.h"

namespace sedpa {

/// A session at one length, to come back to again and again: what later tokens overwrite (window
/// heads' arenas) is copied to the host, full heads keep theirs where they are.
class SessionMark {
 public:
  explicit SessionMark(const Session& session);
  /// The same session, which must not have been cleared or restored to something else since.
  void go_back(Session& session) const;

 private:
  std::vector<std::int32_t> tokens_;
  std::vector<float> logits_;
  std::vector<std::byte> windows_;  // the window classes' blocks, layer by layer
};

}  // namespace sedpa

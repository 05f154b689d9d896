#include "sedpa/engine/session_mark.h"

#include "sedpa/core/fail.h"
#include "sedpa/engine/engine.h"

namespace sedpa {
namespace {

/// visit(block, bytes of keys, bytes of values) for every block whose rows are overwritten in time.
template <class Visit>
void each_window(const KvCache& cache, const Visit& visit) {
  for (int c = 0; c < kHeadClasses; ++c) {
    if (cache.geometry().plan.classes[c].full) continue;
    for (std::int64_t i = 0; i < cache.layers(); ++i) {
      const KvBlock& block = cache.layer(i).blocks[c];
      const std::int64_t rows = block.heads * block.capacity;
      visit(block, static_cast<std::size_t>(rows * block.key_row_bytes),
            static_cast<std::size_t>(rows * block.value_row_bytes));
    }
  }
}

}  // namespace

SessionMark::SessionMark(const Session& session)
    : tokens_(session.tokens()), logits_(session.logits().begin(), session.logits().end()) {
  if (std::ssize(tokens_) < session.length()) {
    fail("a session that remembers {} of its {} tokens cannot be marked", tokens_.size(),
         session.length());
  }
  each_window(session.cache(), [&](const KvBlock& block, std::size_t keys, std::size_t values) {
    const std::size_t at = windows_.size();
    windows_.resize(at + keys + values);
    session.engine().ops().copy_to_host(block.keys, windows_.data() + at, keys);
    session.engine().ops().copy_to_host(block.values, windows_.data() + at + keys, values);
  });
}

void SessionMark::go_back(Session& session) const {
  if (tokens_.empty()) {
    session.clear();
    return;
  }
  const std::byte* from = windows_.data();
  each_window(session.cache(), [&](const KvBlock& block, std::size_t keys, std::size_t values) {
    session.engine().ops().copy_from_host(from, block.keys, keys);
    session.engine().ops().copy_from_host(from + keys, block.values, values);
    from += keys + values;
  });
  session.restore(tokens_, logits_);
}

}  // namespace sedpa

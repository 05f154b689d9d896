// Sessions whose heads are all bounded: any cut into chunks, any length, any restart, one size.
#include "sedpa/engine/session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "sedpa/engine/engine.h"
#include "sedpa/engine/plan_heads.h"
#include "sedpa/engine/session_file.h"
#include "sedpa/engine/session_mark.h"
#include "tests/format/support.h"
#include "tests/support/tiny_model.h"

namespace sedpa {
namespace {

using Ids = std::vector<std::int32_t>;

class BoundedSessions : public testing::Test {
 protected:
  BoundedSessions() {
    test::write_tiny_model(model_, {.layers = 3});
    test::write_tiny_pattern(pattern_, 3, 2, /*sink=*/2, /*recent=*/7);
    engine_ = std::make_unique<Engine>(
        EngineOptions{.model = model_, .threads = 2, .compute = Compute::f32});
    engine_->load();
    for (std::int64_t i = 0; i < 1100; ++i) {
      text_.push_back(static_cast<std::int32_t>(i * i % 251));
    }
  }

  // The windows of both variants: every head samples the middle, or half of them stream.
  std::vector<HeadPlan> plans() {
    const HeadClass window = HeadClass::window(3, 6, 9);
    return {plan_heads(*engine_, {.retrieval_window = window}).plan,
            plan_heads(*engine_, {.pattern = pattern_, .retrieval_window = window}).plan};
  }
  SessionOptions options(const HeadPlan& plan, std::int64_t chunk) {
    return {.context = kMostContext, .heads = plan, .kv = KvDtype::f32, .chunk = chunk};
  }
  std::span<const std::int32_t> part(std::int64_t first, std::int64_t count) const {
    return std::span(text_).subspan(static_cast<std::size_t>(first),
                                    static_cast<std::size_t>(count));
  }
  static Ids next(Session& session, int count) {
    Ids ids;
    for (int i = 0; i < count; ++i) {
      ids.push_back(session.likeliest());
      session.feed(std::span(&ids.back(), 1));
    }
    return ids;
  }

  test::TempDir folder_;
  std::string model_ = folder_ / "tiny.gguf";
  std::string pattern_ = folder_ / "pattern";
  std::unique_ptr<Engine> engine_;
  Ids text_;
};

double difference(std::span<const float> a, const std::vector<float>& b) {
  double most = a.size() == b.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
  }
  return most;
}

// The sample's stride doubles seven times on the way.
TEST_F(BoundedSessions, DoNotDependOnChunks) {
  ASSERT_EQ(HeadClass::window(3, 6, 9).middle_stride(1100), 256);
  for (const HeadPlan& plan : plans()) {
    std::vector<std::vector<float>> expected;  // at each stop
    for (const std::int64_t chunk : {1, 7, 64, 1100}) {
      Session session(*engine_, options(plan, chunk));
      std::size_t stop = 0;
      for (const std::int64_t end : {20, 33, 131, 132, 500, 1100}) {
        const std::span<const float> logits =
            session.append(part(session.length(), end - session.length()));
        if (chunk == 1) {
          expected.emplace_back(logits.begin(), logits.end());
        } else {
          EXPECT_LT(difference(logits, expected[stop]), 1e-4) << "chunk " << chunk << " at " << end;
        }
        ++stop;
      }
    }
  }
}

TEST_F(BoundedSessions, GoOnWhereTheyWereSaved) {
  const std::string file = folder_ / "a.session";
  for (const HeadPlan& plan : plans()) {
    // Before, at and after places where the stride doubles.
    for (const std::int64_t length : {17, 18, 19, 20, 35, 36, 37, 59, 60, 61, 1000}) {
      Session first(*engine_, options(plan, 64));
      first.feed(part(0, length));
      save_session(file, first);
      Session second(*engine_, options(plan, 7));
      SessionFile::open(file).restore(second);
      EXPECT_EQ(next(second, 20), next(first, 20)) << length;
    }
    std::filesystem::remove(file);
  }
}

TEST_F(BoundedSessions, GrowWithNothing) {
  for (const HeadPlan& plan : plans()) {
    SessionOptions asked = options(plan, 64);
    asked.remembered = 5;
    Session session(*engine_, asked);
    Session whole(*engine_, options(plan, 64));
    const MemoryPlan planned = engine_->plan(asked);
    EXPECT_EQ(planned.kv_bytes, session.kv_bytes());
    EXPECT_EQ(planned.scratch_bytes, session.scratch_bytes());
    // A context that the window fills needs no more than one without end.
    SessionOptions shorter = asked;
    shorter.context = 100;
    EXPECT_EQ(engine_->plan(shorter).kv_bytes, planned.kv_bytes);

    std::size_t reads = 0;  // bytes of a decode step, once the windows are full
    for (int round = 0; round < 20; ++round) {
      session.feed(part(0, 53));
      whole.feed(part(0, 53));
      EXPECT_EQ(session.tokens(), Ids(text_.begin() + 48, text_.begin() + 53));
      EXPECT_EQ(next(session, 2), next(whole, 2));
      EXPECT_EQ(session.tokens().size(), 5u);
      reads = std::max(reads, session.decode_bytes());
    }
    EXPECT_EQ(session.length(), 20 * 55);
    EXPECT_EQ(session.kv_bytes(), planned.kv_bytes);
    EXPECT_LE(reads, engine_->model().decode_weight_bytes() + session.kv_bytes());
    test::expect_error([&] { save_session(folder_ / "b.session", session); },
                       {"b.session", "remembers 5 of its 1100"});
    test::expect_error([&] { SessionMark mark(session); }, {"remembers 5 of its 1100"});
  }
}

TEST_F(BoundedSessions, EndWhereTheirPositionsDo) {
  SessionOptions asked = options(plans().front(), 64);
  asked.context = kMostContext + 1;
  test::expect_error([&] { Session session(*engine_, asked); }, {"1073741825", "1073741824"});
}

TEST_F(BoundedSessions, AreThoseWithoutAFullHead) {
  for (const HeadPlan& plan : plans()) EXPECT_TRUE(plan.bounded());
  EXPECT_FALSE(engine_->full_plan().bounded());
  EXPECT_FALSE(plan_heads(*engine_, {.pattern = pattern_, .sparsity = 0.5}).plan.bounded());
  EXPECT_TRUE(plan_heads(*engine_, {.pattern = pattern_, .sparsity = 1.0}).plan.bounded());
}

}  // namespace
}  // namespace sedpa

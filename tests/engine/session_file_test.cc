#include "sedpa/engine/session_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <memory>

#include "sedpa/engine/engine.h"
#include "sedpa/engine/plan_heads.h"
#include "sedpa/engine/session_mark.h"
#include "tests/format/support.h"
#include "tests/support/tiny_model.h"

namespace sedpa {
namespace {

using test::expect_error;
using test::read_bytes;

std::vector<std::int32_t> some_tokens(std::int64_t count, std::int32_t first = 1) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<std::int32_t>((first + 37 * i * i + 11 * i) % 256));
  }
  return tokens;
}

class SessionFiles : public testing::Test {
 protected:
  SessionFiles() {
    test::write_tiny_model(model_, {.layers = 3});
    test::write_tiny_pattern(pattern_, 3, 2, /*sink=*/2, /*recent=*/7);
    engine_ = std::make_unique<Engine>(
        EngineOptions{.model = model_, .threads = 1, .compute = Compute::f32});
    engine_->load();
  }

  // Both classes are windows or full, by what a test asks for.
  SessionOptions options(std::int64_t context, const HeadRequest& request,
                         KvDtype kv = KvDtype::f32) {
    return {.context = context, .heads = plan_heads(*engine_, request).plan, .kv = kv, .chunk = 5};
  }
  HeadRequest half() { return {.pattern = pattern_}; }
  HeadRequest windows() {
    return {.pattern = pattern_, .retrieval_window = HeadClass::window(2, 4, 9)};
  }
  std::vector<float> logits_after(Session& session, const std::vector<std::int32_t>& tokens) {
    const std::span<const float> logits = session.append(tokens);
    return {logits.begin(), logits.end()};
  }

  test::TempDir folder_;
  std::string model_ = folder_ / "tiny.gguf";
  std::string pattern_ = folder_ / "pattern";
  std::string file_ = folder_ / "a.session";
  std::unique_ptr<Engine> engine_;
};

// What is read again goes on exactly as what was never saved: before and after windows wrap, for
// every storage type.
TEST_F(SessionFiles, GoOnAsIfNothingHadHappened) {
  const HeadRequest requests[] = {{}, half(), windows()};
  for (const HeadRequest& request : requests) {
    for (const KvDtype kv : {KvDtype::f32, KvDtype::f16, KvDtype::bf16, KvDtype::q8, KvDtype::q4}) {
      for (const std::int64_t length : {1, 6, 9, 10, 31, 60}) {
        Session first(*engine_, options(80, request, kv));
        first.append(some_tokens(length));
        save_session(file_, first);
        const std::vector<float> expected = logits_after(first, some_tokens(13, 5));

        Session second(*engine_, options(80, request, kv));
        const SessionFile file = SessionFile::open(file_);
        EXPECT_EQ(file.tokens(), some_tokens(length));
        file.restore(second);
        EXPECT_EQ(second.length(), length);
        EXPECT_EQ(second.tokens(), some_tokens(length));
        EXPECT_EQ(logits_after(second, some_tokens(13, 5)), expected)
            << name(kv) << ", " << length << " tokens";
      }
    }
  }
}

TEST_F(SessionFiles, KeepTheLastLogits) {
  Session first(*engine_, options(40, half()));
  const std::vector<float> expected = logits_after(first, some_tokens(20));
  save_session(file_, first);
  Session second(*engine_, options(40, half()));
  SessionFile::open(file_).restore(second);
  EXPECT_EQ(std::vector<float>(second.logits().begin(), second.logits().end()), expected);
}

// A context shorter than a window needs fewer slots, which then stand elsewhere.
TEST_F(SessionFiles, FitAnotherContext) {
  for (const std::int64_t saved_context : {8, 12, 90}) {
    Session first(*engine_, options(saved_context, windows()));
    first.append(some_tokens(8));
    save_session(file_, first);
    Session whole(*engine_, options(90, windows()));
    whole.append(some_tokens(8));
    const std::vector<float> expected = logits_after(whole, some_tokens(2, 9));
    for (const std::int64_t context : {10, 13, 90}) {
      Session second(*engine_, options(context, windows()));
      SessionFile::open(file_).restore(second);
      EXPECT_EQ(logits_after(second, some_tokens(2, 9)), expected)
          << saved_context << " to " << context;
    }
  }
}

TEST_F(SessionFiles, HoldOnlyWhatIsOccupied) {
  Session session(*engine_, options(2000, {}));
  session.append(some_tokens(3));
  save_session(file_, session);
  // Keys and values of 3 tokens, 3 layers, 2 heads of size 8; logits; and little else.
  EXPECT_LT(std::filesystem::file_size(file_),
            std::uintmax_t{3 * 3 * 2 * 8 * 2 * 4 + test::kTinyVocabulary * 4 + 1000});
}

TEST_F(SessionFiles, RefuseAContextThatIsTooShort) {
  Session first(*engine_, options(40, half()));
  first.append(some_tokens(30));
  save_session(file_, first);
  Session second(*engine_, options(20, half()));
  expect_error([&] { SessionFile::open(file_).restore(second); }, {"a.session", "30", "20"});
  EXPECT_EQ(second.length(), 0);
}

TEST_F(SessionFiles, RefuseAnotherModelPlanOrType) {
  Session first(*engine_, options(40, half()));
  first.append(some_tokens(30));
  save_session(file_, first);
  const SessionFile file = SessionFile::open(file_);

  expect_error([&] { file.require_match(*engine_, options(40, half(), KvDtype::q8)); },
               {"f32", "q8", "--kv"});
  expect_error([&] { file.require_match(*engine_, options(40, {})); },
               {"head plan", "3 of 6 KV heads", "all heads keep everything"});
  HeadRequest wider = half();
  wider.recent = 8;
  expect_error([&] { file.require_match(*engine_, options(40, wider)); },
               {"2 first and 7 last", "2 first and 8 last"});

  const std::string other_path = folder_ / "other.gguf";
  test::write_tiny_model(other_path, {.layers = 3, .seed = 2});
  const Engine other({.model = other_path});
  expect_error([&] { file.require_match(other, options(40, half())); },
               {"another model", engine_->fingerprint(), other.fingerprint()});
}

TEST_F(SessionFiles, AreTakenUpByPromptsThatBeginWithThem) {
  Session session(*engine_, options(40, {}));
  session.append(some_tokens(10));
  save_session(file_, session);
  const SessionFile file = SessionFile::open(file_);
  file.require_prefix_of(some_tokens(10));
  file.require_prefix_of(some_tokens(15));
  expect_error([&] { file.require_prefix_of(some_tokens(7)); }, {"10 tokens", "first 7"});
  std::vector<std::int32_t> other = some_tokens(15);
  other[6] = 99;
  expect_error([&] { file.require_prefix_of(other); }, {"token 6", "99"});
}

TEST_F(SessionFiles, RefuseEveryShorterFile) {
  Session session(*engine_, options(40, windows()));
  session.append(some_tokens(30));
  save_session(file_, session);
  const std::vector<std::byte> all = read_bytes(file_);
  Session target(*engine_, options(40, windows()));
  for (std::size_t size = 0; size < all.size(); size += size < 600 ? 1 : 37) {
    EXPECT_THROW(
        SessionFile::parse({all.begin(), all.begin() + static_cast<std::ptrdiff_t>(size)}, "cut")
            .restore(target),
        Error)
        << size;
  }
  std::vector<std::byte> longer = all;
  longer.push_back(std::byte{0});
  EXPECT_THROW(SessionFile::parse(longer, "long").restore(target), Error);
}

// Every byte before the keys and values is covered by the checksum or checked itself.
TEST_F(SessionFiles, RefuseDamage) {
  Session session(*engine_, options(40, windows()));
  session.append(some_tokens(30));
  save_session(file_, session);
  const std::vector<std::byte> all = read_bytes(file_);
  std::uint32_t header = 0;
  std::memcpy(&header, all.data() + 12, sizeof header);
  const std::size_t covered = 24 + header + 30 * 4 + test::kTinyVocabulary * 4;
  ASSERT_LT(covered, all.size());
  Session target(*engine_, options(40, windows()));
  for (std::size_t at = 0; at < covered; at += at < 600 ? 1 : 17) {
    std::vector<std::byte> damaged = all;
    damaged[at] ^= std::byte{0x10};
    EXPECT_THROW(SessionFile::parse(damaged, "damaged").restore(target), Error) << at;
  }
}

TEST_F(SessionFiles, LeaveNothingHalfWritten) {
  Session session(*engine_, options(40, {}));
  expect_error([&] { save_session(file_, session); }, {"empty"});
  session.append(some_tokens(5));
  expect_error([&] { save_session(folder_ / "none/a.session", session); }, {"none/a.session"});
  EXPECT_FALSE(std::filesystem::exists(file_));
}

TEST_F(SessionFiles, MarksLeadBack) {
  for (const HeadRequest& request : {HeadRequest{}, half(), windows()}) {
    for (const std::int64_t depth : {0, 5, 30}) {
      Session session(*engine_, options(80, request, KvDtype::f16));
      if (depth > 0) session.append(some_tokens(depth));
      const SessionMark mark(session);
      const std::vector<float> expected = logits_after(session, some_tokens(23, 3));
      for (int round = 0; round < 2; ++round) {
        mark.go_back(session);
        EXPECT_EQ(session.length(), depth);
        EXPECT_EQ(logits_after(session, some_tokens(23, 3)), expected) << depth;
      }
    }
  }
}

}  // namespace
}  // namespace sedpa

#include "sedpa/engine/session_file.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"
#include "sedpa/core/hash.h"
#include "sedpa/engine/engine.h"
#include "sedpa/engine/plan_heads.h"
#include "sedpa/format/atomic_file.h"
#include "sedpa/format/json.h"
#include "sedpa/format/printable.h"

namespace sedpa {
namespace {

constexpr std::string_view kMagic = "SEDPASES";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kPreamble = 24;                         // magic, version, length, hash
constexpr std::size_t kLongestHeader = std::size_t{1} << 16;  // bytes

template <class T>
std::span<const std::byte> bytes_of(std::span<const T> values) {
  return std::as_bytes(values);
}

// Rows [row, row + count) of a file are slots [slot, slot + count) of a head.
struct Run {
  std::int64_t row;
  std::int64_t slot;
  std::int64_t count;
};

void add_to_runs(std::vector<Run>& runs, std::int64_t row, std::int64_t slot) {
  if (!runs.empty() && row == runs.back().row + runs.back().count &&
      slot == runs.back().slot + runs.back().count) {
    ++runs.back().count;
  } else {
    runs.push_back({row, slot, 1});
  }
}

// The rows of one class that are worth saving, in slot order, and their positions.
struct OccupiedRows {
  std::int64_t count = 0;
  std::vector<Run> runs;
  std::vector<std::int32_t> positions;  // [count] of a window class
};

OccupiedRows occupied_rows(const KvCache& cache, int head_class) {
  OccupiedRows rows;
  if (cache.geometry().plan.classes[head_class].full) {
    rows.count = cache.length();
    rows.runs = {{0, 0, rows.count}};
    return rows;
  }
  const std::span<const std::int32_t> slots = cache.positions(head_class);
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    if (slots[slot] < 0) continue;
    add_to_runs(rows.runs, rows.count++, static_cast<std::int64_t>(slot));
    rows.positions.push_back(slots[slot]);
  }
  return rows;
}

}  // namespace

void save_session(const std::string& path, const Session& session) {
  if (session.logits().empty()) fail("{}: an empty session cannot be saved", path);
  if (std::ssize(session.tokens()) < session.length()) {
    fail("{}: a session that remembers {} of its {} tokens cannot be saved", path,
         session.tokens().size(), session.length());
  }
  const Engine& engine = session.engine();
  const ModelConfig& config = engine.config();
  const KvCache& cache = session.cache();
  std::array<OccupiedRows, kHeadClasses> rows;
  for (int c = 0; c < kHeadClasses; ++c) rows[c] = occupied_rows(cache, c);

  const nlohmann::ordered_json header_json = {
      {"model", engine.fingerprint()},
      {"kv_dtype", std::string(name(session.options().kv))},
      {"head_dim", config.head_dim},
      {"layers", config.layers},
      {"kv_heads", config.kv_heads},
      {"vocab_size", config.vocab_size},
      {"head_plan", session.options().heads.fingerprint()},
      {"heads", describe(session.options().heads)},
      {"tokens", session.tokens().size()},
      {"rows", {rows[kRetrieval].count, rows[kStreaming].count}},
      {"windows",
       {!session.options().heads.classes[kRetrieval].full,
        !session.options().heads.classes[kStreaming].full}}};
  const std::string header = json_text(header_json);

  std::vector<std::span<const std::byte>> head = {
      bytes_of(std::span<const char>(header)),
      bytes_of(std::span<const std::int32_t>(session.tokens())), bytes_of(session.logits())};
  for (const OccupiedRows& r : rows) {
    head.push_back(bytes_of(std::span<const std::int32_t>(r.positions)));
  }
  Hash hash;
  for (const auto part : head) hash.add(part);

  AtomicFile file(path);
  file.write(kMagic);
  const std::uint32_t numbers[] = {kVersion, static_cast<std::uint32_t>(header.size())};
  file.write(bytes_of(std::span<const std::uint32_t>(numbers)));
  const std::uint64_t sum[] = {hash.value()};
  file.write(bytes_of(std::span<const std::uint64_t>(sum)));
  for (const auto part : head) file.write(part);

  std::vector<std::byte> buffer;
  const auto write_rows = [&](const std::byte* first, std::int64_t row_bytes, const Run& run) {
    buffer.resize(static_cast<std::size_t>(run.count * row_bytes));
    engine.ops().copy_to_host(first, buffer.data(), buffer.size());
    file.write(buffer);
  };
  for (int c = 0; c < kHeadClasses; ++c) {
    for (std::int64_t i = 0; i < cache.layers(); ++i) {
      const KvBlock& block = cache.layer(i).blocks[c];
      for (std::int32_t h = 0; h < block.heads; ++h) {
        for (const Run& run : rows[c].runs) {
          write_rows(block.key(h, run.slot), block.key_row_bytes, run);
        }
      }
      for (std::int32_t h = 0; h < block.heads; ++h) {
        for (const Run& run : rows[c].runs) {
          write_rows(block.value(h, run.slot), block.value_row_bytes, run);
        }
      }
    }
  }
  file.commit();
}

SessionFile SessionFile::open(const std::string& path) {
  SessionFile file(MappedFile::open(path));
  file.read();
  return file;
}

SessionFile SessionFile::parse(std::vector<std::byte> bytes, std::string name) {
  SessionFile file(MappedFile::from_bytes(std::move(bytes), std::move(name)));
  file.read();
  return file;
}

std::span<const std::byte> SessionFile::take(std::uint64_t count, std::uint64_t size,
                                             const char* what) {
  const std::size_t left = file_.bytes().size() - at_;
  const auto bytes = checked_mul(count, size);
  if (!bytes || *bytes > left) {
    fail("{}: the file ends inside its {}: {} x {} bytes are expected, {} are left", file_.path(),
         what, count, size, left);
  }
  const auto taken = file_.bytes().subspan(at_, static_cast<std::size_t>(*bytes));
  at_ += taken.size();
  return taken;
}

void SessionFile::read() {
  const std::string& path = file_.path();
  const auto start = file_.bytes().first(std::min(kMagic.size(), file_.bytes().size()));
  if (!std::ranges::equal(start, std::as_bytes(std::span(kMagic)))) {
    fail("{}: is not a session file, expected it to begin with {}", path, kMagic);
  }
  const auto preamble = take(kPreamble, 1, "preamble");
  std::uint32_t version = 0;
  std::uint32_t header_bytes = 0;
  std::uint64_t expected_hash = 0;
  std::memcpy(&version, preamble.data() + 8, sizeof version);
  std::memcpy(&header_bytes, preamble.data() + 12, sizeof header_bytes);
  std::memcpy(&expected_hash, preamble.data() + 16, sizeof expected_hash);
  if (version != kVersion) {
    fail("{}: session file version is {}, expected {}", path, version, kVersion);
  }
  const auto header_text = take(header_bytes, 1, "header");
  const nlohmann::json header =
      parse_json({reinterpret_cast<const char*>(header_text.data()), header_text.size()},
                 path + ": header", kLongestHeader);
  if (!header.is_object()) fail("{}: header is {}, expected an object", path, header.type_name());
  const auto text = [&](const char* key) {
    const auto found = header.find(key);
    if (found == header.end() || !found->is_string()) fail("{}: header has no text {}", path, key);
    return found->get<std::string>();
  };
  const auto number = [&](const nlohmann::json& value, const char* key, std::int64_t least) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMostContext ||
        value.get<std::int64_t>() < least) {
      fail("{}: header's {} is {}, expected {} to {}", path, key, printable(json_text(value)),
           least, kMostContext);
    }
    return value.get<std::int64_t>();
  };
  const auto field = [&](const char* key, std::int64_t least) {
    const auto found = header.find(key);
    if (found == header.end()) fail("{}: header has no {}", path, key);
    return number(*found, key, least);
  };
  model_ = text("model");
  kv_ = text("kv_dtype");
  head_plan_ = text("head_plan");
  heads_ = text("heads");
  head_dim_ = field("head_dim", 1);
  vocab_size_ = field("vocab_size", 1);
  const std::int64_t tokens = field("tokens", 1);
  const auto rows = header.find("rows");
  const auto windows = header.find("windows");
  if (rows == header.end() || !rows->is_array() || rows->size() != kHeadClasses ||
      windows == header.end() || !windows->is_array() || windows->size() != kHeadClasses) {
    fail("{}: header has no rows and windows of {} head classes", path, kHeadClasses);
  }
  for (std::size_t c = 0; c < kHeadClasses; ++c) {
    rows_[c] = number((*rows)[c], "rows", 0);
    if (!(*windows)[c].is_boolean()) fail("{}: header's windows are no booleans", path);
    window_[c] = (*windows)[c].get<bool>();
    if (rows_[c] > tokens || (!window_[c] && rows_[c] != tokens)) {
      fail("{}: head class {} has {} rows for {} tokens", path, c, rows_[c], tokens);
    }
  }

  const auto read_into = [&](auto& values, std::int64_t count, const char* what) {
    const auto bytes = take(static_cast<std::uint64_t>(count), sizeof values[0], what);
    values.resize(static_cast<std::size_t>(count));
    if (count > 0) std::memcpy(values.data(), bytes.data(), bytes.size());
  };
  read_into(tokens_, tokens, "tokens");
  read_into(logits_, vocab_size_, "logits");
  for (std::size_t c = 0; c < kHeadClasses; ++c) {
    if (window_[c]) read_into(positions_[c], rows_[c], "positions");
  }
  Hash hash;
  hash.add(file_.bytes().subspan(kPreamble, at_ - kPreamble));
  if (hash.value() != expected_hash) {
    fail("{}: checksum is {:016x}, expected {:016x}: the file is damaged", path, hash.value(),
         expected_hash);
  }
}

void SessionFile::require_match(const Engine& engine, const SessionOptions& options) const {
  const std::string& path = file_.path();
  if (const std::string model = engine.fingerprint(); model_ != model) {
    fail("{}: the session is of another model: it was saved with {}, {} with its adapters is {}",
         path, printable(model_), engine.model_path(), printable(model));
  }
  if (kv_ != name(options.kv)) {
    fail("{}: the session's KV cache is {}, but --kv is {}", path, printable(kv_),
         name(options.kv));
  }
  if (const std::string plan = options.heads.fingerprint(); head_plan_ != plan) {
    fail("{}: the session has another head plan: '{}' ({}) was saved, '{}' ({}) is asked for", path,
         printable(heads_), printable(head_plan_), describe(options.heads), plan);
  }
  if (head_dim_ != engine.config().head_dim || vocab_size_ != engine.config().vocab_size) {
    fail("{}: head size {} and vocabulary of {}, expected {} and {}", path, head_dim_, vocab_size_,
         engine.config().head_dim, engine.config().vocab_size);
  }
}

void SessionFile::require_prefix_of(std::span<const std::int32_t> prompt) const {
  const auto parts = std::mismatch(tokens_.begin(), tokens_.end(), prompt.begin(), prompt.end());
  if (parts.first == tokens_.end()) return;
  const auto at = parts.first - tokens_.begin();
  if (parts.second == prompt.end()) {
    fail(
        "{}: the session holds {} tokens, but the prompt is only their first {}; a prompt must "
        "begin with the whole saved text",
        file_.path(), tokens_.size(), prompt.size());
  }
  fail(
      "{}: the session's text is not the beginning of the prompt: token {} of {} is {}, but {} in "
      "the prompt; delete the file or name another to start anew",
      file_.path(), at, tokens_.size(), *parts.first, *parts.second);
}

void SessionFile::restore(Session& session) const {
  const std::string& path = file_.path();
  require_match(session.engine(), session.options());
  const KvGeometry& geometry = session.cache().geometry();
  const auto length = static_cast<std::int64_t>(tokens_.size());
  if (length > geometry.context) {
    fail("{}: the session holds {} tokens, but the context only {}; use a larger --context", path,
         length, geometry.context);
  }
  for (const std::int32_t token : tokens_) {
    if (token < 0 || token >= vocab_size_) {
      fail("{}: token id {} is outside the vocabulary of {}", path, token, vocab_size_);
    }
  }

  // Where each row goes. Slots depend on the length and the capacity alone; the capacity is that of
  // this session's context, so rows are matched by position.
  std::array<std::vector<Run>, kHeadClasses> runs;
  std::uint64_t expected = at_;
  for (int c = 0; c < kHeadClasses; ++c) {
    const HeadClass& kept = geometry.plan.classes[c];
    if (kept.full == window_[static_cast<std::size_t>(c)]) {
      fail("{}: head class {} is not of the kind that the header says", path, c);
    }
    if (kept.full) {
      runs[c] = {{0, 0, length}};
    } else {
      constexpr std::int32_t kAbsent = -1;
      std::vector<std::int32_t> row_of(tokens_.size(), kAbsent);  // by position
      for (std::size_t r = 0; r < positions_[c].size(); ++r) {
        const std::int32_t position = positions_[c][r];
        if (position < 0 || position >= length || row_of[position] != kAbsent) {
          fail("{}: row {} of head class {} is of position {}, expected each below {} once", path,
               r, c, position, length);
        }
        row_of[position] = static_cast<std::int32_t>(r);
      }
      WindowSlots slots(kept, geometry.capacity(c));
      slots.commit(0, length);
      for (std::size_t slot = 0; slot < slots.positions().size(); ++slot) {
        const std::int32_t position = slots.positions()[slot];
        if (position < 0) continue;
        if (row_of[position] == kAbsent) {
          fail("{}: head class {} lacks position {}, which its window sees", path, c, position);
        }
        add_to_runs(runs[c], row_of[position], static_cast<std::int64_t>(slot));
      }
    }
    for (std::int64_t i = 0; i < session.cache().layers(); ++i) {
      const KvBlock& block = session.cache().layer(i).blocks[c];
      expected += static_cast<std::uint64_t>(block.heads) *
                  static_cast<std::uint64_t>(rows_[static_cast<std::size_t>(c)]) *
                  static_cast<std::uint64_t>(block.key_row_bytes + block.value_row_bytes);
    }
  }
  if (expected != file_.bytes().size()) {
    fail("{}: is {} bytes, expected {}", path, file_.bytes().size(), expected);
  }

  session.clear();
  Ops& ops = session.engine().ops();
  const std::byte* from = file_.bytes().data() + at_;
  for (int c = 0; c < kHeadClasses; ++c) {
    const std::int64_t rows = rows_[static_cast<std::size_t>(c)];
    for (std::int64_t i = 0; i < session.cache().layers(); ++i) {
      const KvBlock& block = session.cache().layer(i).blocks[c];
      for (std::int32_t h = 0; h < block.heads; ++h, from += rows * block.key_row_bytes) {
        for (const Run& run : runs[c]) {
          ops.copy_from_host(from + run.row * block.key_row_bytes, block.key(h, run.slot),
                             static_cast<std::size_t>(run.count * block.key_row_bytes));
        }
      }
      for (std::int32_t h = 0; h < block.heads; ++h, from += rows * block.value_row_bytes) {
        for (const Run& run : runs[c]) {
          ops.copy_from_host(from + run.row * block.value_row_bytes, block.value(h, run.slot),
                             static_cast<std::size_t>(run.count * block.value_row_bytes));
        }
      }
    }
  }
  session.restore(tokens_, logits_);
  file_.drop(0, file_.bytes().size());
}

}  // namespace sedpa

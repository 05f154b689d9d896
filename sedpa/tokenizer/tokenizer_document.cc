#include "sedpa/tokenizer/tokenizer_document.h"

#include <limits>
#include <utility>

#include "sedpa/core/fail.h"
#include "sedpa/format/printable.h"

namespace sedpa {

namespace {

constexpr std::size_t kMaxDocumentBytes = std::size_t{128} << 20;
constexpr std::size_t kDeepest = 64;

/// Takes the parser's events: those inside the two lists into the lists, the others into a tree.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(TokenizerDocument& document, const std::string& name, std::size_t size)
      : document_(document), name_(name), size_(size) {}

  bool null() override { return value(nullptr, "null"); }
  bool boolean(bool flag) override { return value(flag, "boolean"); }
  bool number_float(double number, const std::string&) override { return value(number, "number"); }
  bool number_integer(std::int64_t number) override {
    return place_ == Place::vocab ? token(number) : value(number, "number");
  }
  bool number_unsigned(std::uint64_t number) override {
    if (place_ != Place::vocab) return value(number, "number");
    constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    return token(number > kLargest ? -1 : static_cast<std::int64_t>(number));
  }
  bool binary(nlohmann::json::binary_t&) override { return value(nullptr, "binary"); }

  bool string(std::string& text) override {
    if (place_ == Place::merges) return merge_line(text);
    if (place_ == Place::pair) {
      if (halves_ < 2) (halves_ == 0 ? pair_.left : pair_.right) = keep(text);
      ++halves_;
      return true;
    }
    return value(std::move(text), "string");
  }

  bool start_object(std::size_t) override {
    if (place_ != Place::tree) refuse("object");
    const bool vocab = at_model() && key_ == "vocab";
    open(nlohmann::json::object());
    if (vocab) {
      place_ = Place::vocab;
      document_.vocab.clear();  // should the key come twice, the last one counts
    }
    return true;
  }
  bool key(std::string& text) override {
    if (place_ == Place::vocab) {
      token_ = keep(text);
    } else {
      key_ = std::move(text);
    }
    return true;
  }
  bool end_object() override { return close(); }

  bool start_array(std::size_t) override {
    if (place_ == Place::merges) {
      place_ = Place::pair;
      halves_ = 0;
      return true;
    }
    if (place_ != Place::tree) refuse("array");
    const bool merges = at_model() && key_ == "merges";
    open(nlohmann::json::array());
    if (merges) {
      place_ = Place::merges;
      document_.merges.clear();
    }
    return true;
  }
  bool end_array() override {
    if (place_ != Place::pair) return close();
    if (halves_ != 2) refuse("array");
    document_.merges.push_back(pair_);
    place_ = Place::merges;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception&) override {
    fail("{}: not valid JSON at byte {} of {}", name_, position, size_);
  }

 private:
  enum class Place { tree, vocab, merges, pair };

  /// Whether what comes next is a member of the root's "model".
  [[nodiscard]] bool at_model() const {
    return open_.size() == 2 && document_.rest.is_object() && open_[1] == model_;
  }

  TokenizerDocument::Text keep(std::string_view text) {
    const TokenizerDocument::Text kept{document_.bytes.size(), text.size()};
    document_.bytes += text;
    return kept;
  }

  bool token(std::int64_t id) {
    document_.vocab.push_back({token_, id});
    return true;
  }

  bool merge_line(std::string_view line) {
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
      refuse(printable(line));
    }
    document_.merges.push_back({keep(line.substr(0, space)), keep(line.substr(space + 1))});
    return true;
  }

  /// A value where a list wants something else.
  [[noreturn]] void refuse(std::string_view found) {
    if (place_ == Place::vocab) {
      fail("{}.model.vocab: {} has a value of type {}, expected a token id", name_,
           printable(document_.text(token_)), found);
    }
    fail("{}.model.merges[{}] is {}, expected two tokens with one space between them", name_,
         document_.merges.size(), found);
  }

  template <class Value>
  bool value(Value&& found, std::string_view type) {
    if (place_ != Place::tree) refuse(type);
    add(nlohmann::json(std::forward<Value>(found)));
    return true;
  }

  nlohmann::json* add(nlohmann::json found) {
    if (open_.empty()) {
      document_.rest = std::move(found);
      return &document_.rest;
    }
    nlohmann::json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(found));
      return &parent.back();
    }
    nlohmann::json& member = parent[key_];
    member = std::move(found);
    return &member;
  }

  void open(nlohmann::json container) {
    if (open_.size() >= kDeepest) fail("{}: JSON nested deeper than {} levels", name_, kDeepest);
    const bool model = open_.size() == 1 && key_ == "model" && document_.rest.is_object();
    open_.push_back(add(std::move(container)));
    if (model) model_ = open_.back();
  }

  bool close() {
    open_.pop_back();
    place_ = Place::tree;
    return true;
  }

  TokenizerDocument& document_;
  const std::string& name_;
  std::size_t size_;
  std::vector<nlohmann::json*> open_;  // containers, outermost first
  const nlohmann::json* model_ = nullptr;
  std::string key_;
  Place place_ = Place::tree;
  TokenizerDocument::Text token_;
  TokenizerDocument::Merge pair_;
  int halves_ = 0;
};

}  // namespace

TokenizerDocument parse_tokenizer_document(std::string_view text, const std::string& name) {
  if (text.size() > kMaxDocumentBytes) {
    fail("{}: {} bytes of JSON, expected at most {}", name, text.size(), kMaxDocumentBytes);
  }
  TokenizerDocument document;
  Builder builder(document, name, text.size());
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return document;
}

}  // namespace sedpa

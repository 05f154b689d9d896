#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace sedpa {

/// A value in a JSON file together with its place, so that every complaint says where. Absent and
/// null are the same. The file's json must outlive it.
class JsonField {
 public:
  /// `where` names the file, for the root.
  JsonField(const nlohmann::json& value, std::string where)
      : value_(&value), where_(std::move(where)) {}

  [[nodiscard]] bool absent() const { return value_ == nullptr || value_->is_null(); }
  [[nodiscard]] bool is_string() const { return !absent() && value_->is_string(); }
  [[nodiscard]] bool is_array() const { return !absent() && value_->is_array(); }
  [[nodiscard]] bool is_object() const { return !absent() && value_->is_object(); }
  [[nodiscard]] const std::string& where() const { return where_; }

  /// A member; absent when there is none. Throws Error unless this is an object or absent.
  [[nodiscard]] JsonField operator[](std::string_view key) const;
  /// An element. Throws Error unless this is an array that has it.
  [[nodiscard]] JsonField operator[](std::size_t index) const;

  // Each throws Error with the place, what was found and what was expected.
  [[nodiscard]] const nlohmann::json& object() const;
  [[nodiscard]] const nlohmann::json& array() const;
  [[nodiscard]] const std::string& string() const;
  [[nodiscard]] std::int64_t integer() const;
  [[nodiscard]] bool boolean() const;
  [[nodiscard]] bool boolean(bool otherwise) const { return absent() ? otherwise : boolean(); }
  /// A token's text: a string, or an object with "content"; empty when absent.
  [[nodiscard]] std::string token_text() const;

  [[noreturn]] void expected(std::string_view what) const;

 private:
  JsonField(const nlohmann::json* value, std::string where)
      : value_(value), where_(std::move(where)) {}

  const nlohmann::json* value_;
  std::string where_;
};

}  // namespace sedpa

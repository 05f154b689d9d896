#include "sedpa/tokenizer/json_field.h"

#include <limits>

#include "sedpa/core/fail.h"
#include "sedpa/format/printable.h"

namespace sedpa {

JsonField JsonField::operator[](std::string_view key) const {
  std::string where = where_ + "." + std::string(key);
  if (absent()) return {static_cast<const nlohmann::json*>(nullptr), std::move(where)};
  const auto found = object().find(key);
  return {found == value_->end() ? nullptr : &*found, std::move(where)};
}

JsonField JsonField::operator[](std::size_t index) const {
  if (index >= array().size()) expected("an array of more than " + std::to_string(index));
  return {&(*value_)[index], where_ + "[" + std::to_string(index) + "]"};
}

const nlohmann::json& JsonField::object() const {
  if (!is_object()) expected("an object");
  return *value_;
}

const nlohmann::json& JsonField::array() const {
  if (!is_array()) expected("an array");
  return *value_;
}

const std::string& JsonField::string() const {
  if (!is_string()) expected("a string");
  return value_->get_ref<const std::string&>();
}

std::int64_t JsonField::integer() const {
  if (absent() || !value_->is_number_integer()) expected("an integer");
  if (value_->is_number_unsigned() &&
      value_->get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max()) {
    expected("an integer below 2^63");
  }
  return value_->get<std::int64_t>();
}

bool JsonField::boolean() const {
  if (absent() || !value_->is_boolean()) expected("true or false");
  return value_->get<bool>();
}

std::string JsonField::token_text() const {
  if (absent()) return {};
  return is_object() ? (*this)["content"].string() : string();
}

void JsonField::expected(std::string_view what) const {
  if (value_ == nullptr) fail("{} is missing, expected {}", where_, what);
  if (value_->is_string()) {
    fail("{} is {}, expected {}", where_, printable(value_->get_ref<const std::string&>()), what);
  }
  fail("{} is of type {}, expected {}", where_, value_->type_name(), what);
}

}  // namespace sedpa

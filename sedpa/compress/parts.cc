#include "sedpa/compress/parts.h"

#include "sedpa/core/fail.h"
#include "sedpa/format/atomic_file.h"
#include "sedpa/format/json.h"
#include "sedpa/format/mapped_file.h"

namespace sedpa {

namespace fs = std::filesystem;
using nlohmann::json;

std::shared_ptr<const GgufFile> open_part(const std::string& path, const std::string& label) {
  if (!fs::exists(path)) return nullptr;
  auto file = std::make_shared<const GgufFile>(GgufFile::open(path));
  return file->find_string(kPartLabelKey) == label ? file : nullptr;
}

Parts::Parts(fs::path directory, const json& settings) : directory_(std::move(directory)) {
  std::error_code error;
  fs::create_directory(directory_, error);
  if (error) fail("{}: cannot make the directory: {}", directory_.string(), error.message());
  const char* name = "settings.json";
  const json before = read(name);
  if (before.is_null()) {
    write(name, settings);
    return;
  }
  if (before != settings) {
    fail(
        "{}: holds parts of a run with another model, text or options; remove it, or choose "
        "another output",
        directory_.string());
  }
  resumed_ = true;
}

std::string Parts::layer_path(const char* kind, std::int32_t layer) const {
  return path(fmt::format("{}-{:04}.gguf", kind, layer));
}

json Parts::read(const std::string& name) const {
  if (!fs::exists(path(name))) return nullptr;
  const MappedFile file = MappedFile::open(path(name));
  const auto bytes = file.bytes();
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path(name),
                    std::size_t{256} << 20);
}

void Parts::write(const std::string& name, const json& object) const {
  AtomicFile file(path(name));
  file.write(json_text(object));
  file.commit();
}

void Parts::fail_damaged(const std::string& name) const {
  fail("{}: is damaged; remove {}", path(name), directory_.string());
}

void Parts::remove() const { fs::remove_all(directory_); }

}  // namespace sedpa

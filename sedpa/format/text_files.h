#pragma once
#include <cstddef>
#include <string>

namespace sedpa {

/// Text out of files. `path` is a text file; a JSONL file, told by its name's end (.jsonl): every
/// line an object whose field "text" is a document; or a directory, of which every file of either
/// kind is read in the order of their names, but those whose names begin with a dot. Documents are
/// parted by a blank line. Reading ends once there are `max_bytes`, and what is beyond is left out.
/// Throws Error naming the file, and the line of a JSONL file, when something cannot be read, is no
/// text (it holds a zero byte), or is not such an object.
[[nodiscard]] std::string read_text_files(const std::string& path, std::size_t max_bytes);

}  // namespace sedpa

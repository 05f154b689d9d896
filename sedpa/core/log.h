#pragma once
#include <functional>
#include <string>

namespace sedpa {

/// Where the library's notes go (never errors: those are thrown). The default sink drops them;
/// a program installs its own at start. Not synchronised: install before threads start.
using LogSink = std::function<void(const std::string& line)>;

void set_log_sink(LogSink sink);
void log(const std::string& line);

}  // namespace sedpa

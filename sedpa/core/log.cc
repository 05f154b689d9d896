#include "sedpa/core/log.h"

#include <utility>

namespace sedpa {
namespace {

LogSink& sink() {
  static LogSink instance;
  return instance;
}

}  // namespace

void set_log_sink(LogSink new_sink) { sink() = std::move(new_sink); }

void log(const std::string& line) {
  if (sink()) sink()(line);
}

}  // namespace sedpa

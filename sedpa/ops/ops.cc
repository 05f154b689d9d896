#include "sedpa/ops/ops.h"

namespace sedpa {

// Here, so that the class's tables are compiled once and not in every file that includes it.
Ops::~Ops() = default;

}  // namespace sedpa

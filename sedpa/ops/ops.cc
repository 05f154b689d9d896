#include "sedpa/ops/ops.h"

#include "sedpa/ops/train_ops.h"

namespace sedpa {

// Here, so that the classes' tables are compiled once and not in every file that includes them.
Ops::~Ops() = default;
TrainOps::~TrainOps() = default;

}  // namespace sedpa

#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sedpa/core/dtype.h"

namespace sedpa {

/// `rows` head vectors of seeded numbers between -1 and 1, stored as a KV cache stores them
/// (attention/kv_policy.h): what a cache is filled with when only its speed matters.
/// [rows, kv_row_bytes(dtype, dim)]
[[nodiscard]] std::vector<std::byte> random_kv_rows(KvDtype dtype, std::int64_t dim,
                                                    std::int64_t rows);

}  // namespace sedpa

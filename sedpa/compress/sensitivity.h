#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "sedpa/compress/calibration.h"
#include "sedpa/compress/linear_algebra.h"
#include "sedpa/compress/rank_allocation.h"
#include "sedpa/model/weight_source.h"

namespace sedpa {

/// How far a long piece of work is: what it is, layers done and layers in all. It may throw to stop
/// the work.
using CompressProgress =
    std::function<void(const char* what, std::int64_t done, std::int64_t total)>;

/// The attention projections of a model in the order of their layers: query, key, value, output.
[[nodiscard]] std::vector<Place> all_attention_places(const ModelConfig& config);

/// The ranks that a matrix may be cut to: multiples of `step` whose factors are smaller than it.
[[nodiscard]] std::vector<std::int64_t> useful_ranks(const Place& matrix, std::int64_t step);

/// The numbers of a matrix, on the host. Throws Error when it is not there.
[[nodiscard]] Matrix read_matrix(const WeightSource& source, const Place& place);

/// For every attention projection, the share of its squared singular values that each rank leaves
/// out.
[[nodiscard]] std::vector<RankChoices> singular_value_losses(const Algebra& algebra,
                                                             const WeightSource& source,
                                                             const ModelConfig& config,
                                                             std::int64_t step,
                                                             const CompressProgress& progress);

/// For every attention projection, what each rank costs the model: the KL divergence of its next
/// tokens, the mean of that on running text and that where it retrieves. The divergence is measured
/// at one rank, that which leaves three quarters of the matrix's numbers, with everything else as
/// it was; at other ranks it is taken to be in proportion to the squared error of the projection's
/// output on the calibration text.
[[nodiscard]] std::vector<RankChoices> measured_losses(const Engine& engine, const ModelView& model,
                                                       const CalibrationText& text,
                                                       std::int64_t step,
                                                       const CompressProgress& progress);

}  // namespace sedpa

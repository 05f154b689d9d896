#pragma once
// Gradients of the gates: the forward's mirror.
//
// Two streams read a document (DuoAttention, Xiao et al., arXiv 2410.10819, section 2.2). The
// teacher has full attention; its attention outputs, layer by layer, are constants for the student,
// whose heads mix them with what its own attention under the window gives:
//   a full + (1 - a) windowed, one gate a for each layer and KV head.
// The loss is the mean squared difference of both streams' last hidden states at some rows.
// Everything but the gates is frozen, so a layer's backward needs input gradients alone, and
// attention's is the windowed one: but for the teacher's forward, time and memory are linear in the
// length.
//
// Of a layer, its input and the teacher's attention output are kept; the rest is computed again.
// And not every row: a row of a layer's output depends on the sinks and on the `recent` rows up to
// it, so the rows that can reach a counted one are the sinks and a tail that is recent - 1 rows
// longer for each layer below, rounded up to whole windows. Other rows have no say in the loss, and
// are not computed. Sinks and tail stand side by side as if they were the whole sequence: the
// window's mask between them is the same.
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "sedpa/attention/kv_cache.h"
#include "sedpa/model/activations.h"
#include "sedpa/model/model.h"
#include "sedpa/ops/ops.h"
#include "sedpa/ops/train_ops.h"

namespace sedpa {

struct TrainingOptions {
  HeadPlan heads;             // of the teacher: full, or what the model itself has
  HeadClass window;           // of the student's other half; middle = 0
  std::int64_t context = 0;   // tokens of the longest document
  std::int64_t span = 0;      // the most tokens from the first counted row to the last, inclusive
  std::int64_t chunk = 512;   // rows that linears take at once
  KvDtype kv = KvDtype::f16;  // the teacher's cache
  Dtype kept = Dtype::bf16;   // the teacher's attention outputs: bf16 or f32
};

/// What one pass reads: the counted rows, ascending positions of `tokens`.
struct TrainingDocument {
  std::span<const std::int32_t> tokens;
  std::span<const std::int64_t> rows;
};

/// Positions [first, first + count).
struct RowRun {
  std::int64_t first = 0;
  std::int64_t count = 0;
};
/// Ascending runs apart from each other, stored one after the other.
using LiveRows = std::vector<RowRun>;

class TrainingPass {
 public:
  /// Allocates all it needs and reserves the backend for its own: sessions of this backend made
  /// before must not be used after. `model` and `ops` must outlive it. Throws Error when a size is
  /// out of range.
  TrainingPass(Ops& ops, const Model& model, const TrainingOptions& options);
  /// Exactly the bytes that the constructor allocates and reserves, besides KvGeometry::bytes.
  [[nodiscard]] static std::size_t bytes(const ModelConfig& config, const TrainingOptions& options,
                                         Ops& ops);
  [[nodiscard]] static KvGeometry kv_geometry(const ModelConfig& config,
                                              const TrainingOptions& options);

  /// The mean squared difference over the counted rows and the width, and its gradient with respect
  /// to each gate. gates, d_gates [layers, kv_heads]. `go_on` is asked between pieces of work;
  /// when it says no, the result is empty. Throws Error when the document does not fit the options.
  std::optional<double> run(const TrainingDocument& document, std::span<const float> gates,
                            std::span<float> d_gates, const std::function<bool()>& go_on = {});

 private:
  /// Memory, for the most rows that there can be.
  struct Areas {
    std::vector<Rows> inputs;  // of layers, [rows of live_, width]; last: the model's own output
    std::vector<StoredRows> kept;  // the teacher's heads, [rows of the next live_, out_cols]
    Rows target;                   // the teacher's last hidden states, [counted rows, width]
    Rows hidden;                   // the student's, then their gradient
    Rows qkv, d_qkv;               // [rows, qkv_cols]
    Rows windowed, d_windowed;     // [rows, out_cols]
    Rows lse;                      // [rows, query_heads]
    Rows d_x, d_out;               // [rows, width], gradients of a layer's input and output
    Rows gates, d_gates;           // [layers, kv_heads]
    Rows loss;                     // [1, 1]
  };
  /// A run of rows that go together: where they stand in one set of live rows and in another.
  struct Piece {
    std::int64_t from = 0;
    std::int64_t to = 0;
    std::int64_t position = 0;  // of the first
    std::int64_t count = 0;
  };

  template <class Take>
  static Areas lay_out(const ModelConfig& config, const TrainingOptions& options, const Take& take);
  template <class Body>
  void for_pieces(const LiveRows& from, const LiveRows& to, const Body& body) const;
  void plan_rows(const TrainingDocument& document);
  bool teach(const TrainingDocument& document, const std::function<bool()>& go_on);
  void keep(Rows chunk, std::int64_t past, const LiveRows& live, StoredRows to);
  void attend(std::int32_t layer);
  void project_piece(std::int32_t layer, const Piece& piece);
  void student_layer(std::int32_t layer);
  void loss_gradient();
  void layer_gradient(std::int32_t layer);

  Ops& ops_;
  TrainOps& train_;
  const Model& model_;
  const ModelConfig& config_;
  TrainingOptions options_;
  std::vector<Buffer> buffers_;
  KvCache cache_;            // the teacher's
  Activations activations_;  // the teacher's, then those of a piece of the student
  Areas a_;
  std::vector<LiveRows> live_;  // [layers + 1]: rows of each layer's input; last: the counted ones
};

}  // namespace sedpa

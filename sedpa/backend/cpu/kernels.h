#pragma once
// The CPU's kernels as a table of functions: the same sources compiled once for each instruction
// set, chosen once when the backend is made. Plain pointers and numbers; who calls what with which
// range, on which thread, is decided above (linear.cc, elementwise.cc).
#include <cstddef>
#include <cstdint>

#include "sedpa/backend/cpu/cpu_ops.h"
#include "sedpa/core/dtype.h"

namespace sedpa::cpu {

/// How the inputs of a product are stored: see panel.h and, for codes of 15 bits,
/// panel_quantized.h.
enum class InputForm : std::uint8_t { f32, bf16, codes };
inline constexpr int kInputForms = 3;

/// Tokens are packed in tiles, `Kernels::tile` tokens each but the last.
struct PackInput {
  const float* x = nullptr;  // [tokens, stride]
  std::int64_t stride = 0;
  std::int64_t tokens = 0;  // of this tile, 1 .. tile
  std::int64_t cols = 0;    // those past it, up to the stored number, become zeros
  std::byte* tile = nullptr;
};

/// out[t][r] = panels x inputs (+ bias[r]) (+ residual[t][r]), for tokens t and rows r.
struct PanelProduct {
  const std::byte* panels = nullptr;  // [ceil(rows / 16)] panels
  std::int64_t panel_bytes = 0;
  std::int64_t rows = 0;  // of the matrix, in these panels
  std::int64_t cols = 0;  // stored
  const std::byte* tiles = nullptr;
  std::int64_t tile_bytes = 0;
  std::int64_t tokens = 0;
  const float* bias = nullptr;      // [rows] or none
  const float* residual = nullptr;  // [tokens, residual_stride] or none; may be out
  std::int64_t residual_stride = 0;
  float* out = nullptr;  // [tokens, out_stride]
  std::int64_t out_stride = 0;
};

/// c = a b, or c += a b: c[m][n] over k of a[m][k] * b[k][n]. Rows of b and c are dense runs,
/// numbers of a stand anywhere.
struct SmallProduct {
  const float* a = nullptr;  // a[m][k] at m * a_row + k * a_step
  std::int64_t a_row = 0;
  std::int64_t a_step = 1;
  const float* b = nullptr;  // [depth, b_row]
  std::int64_t b_row = 0;
  float* c = nullptr;  // [rows, c_row]
  std::int64_t c_row = 0;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t depth = 0;
  bool add = false;
};

/// Scores of some keys against query rows that lie across the lanes: [keys][rows], rows a multiple
/// of 16.
struct ScoreTile {
  float* scores = nullptr;
  std::int64_t keys = 0;
  std::int64_t rows = 0;
};

struct Kernels {
  /// The most tokens of a tile.
  int tile = 0;

  /// By Dtype: what the panels of a type are multiplied with, and how.
  InputForm form[kDtypeCount];
  void (*product[kDtypeCount])(const PanelProduct& job);
  /// By InputForm.
  void (*pack[kInputForms])(const PackInput& job);

  /// out = x / sqrt(mean(x^2) + eps) * weight. All [size]; out may be x.
  void (*rms_norm)(const float* x, const float* weight, std::int64_t size, float eps, float* out);
  /// out = silu(gate_up[0 .. width)) * gate_up[width .. 2 width). out [width]
  void (*swiglu)(const float* gate_up, std::int64_t width, float* out);
  /// Rotates pairs of one head by the angles of its position. cos, sin [pairs]; head [2 pairs],
  /// paired as the style says.
  void (*rotate_neighbours)(float* head, const float* cos, const float* sin, std::int64_t pairs);
  void (*rotate_halves)(float* head, const float* cos, const float* sin, std::int64_t pairs);

  /// Training. d_x = residual (may be null) + (d out / d x)' d_out for out = rms_norm(x). All
  /// [size]; d_x may be d_out or residual.
  void (*rms_norm_backward)(const float* x, const float* weight, std::int64_t size, float eps,
                            const float* d_out, const float* residual, float* d_x);
  /// d_out [width]; d_gate_up [2 width] may be gate_up.
  void (*swiglu_backward)(const float* gate_up, std::int64_t width, const float* d_out,
                          float* d_gate_up);
  void (*store_bf16)(const float* x, std::int64_t size, std::byte* out);
  /// out = gate full + (1 - gate) windowed; `full` is bf16 or f32. All [size].
  void (*mix)(float gate, const std::byte* full, bool bf16, const float* windowed,
              std::int64_t size, float* out);
  /// d_windowed = (1 - gate) d_out, which it may be. Returns the sum of d_out (full - windowed).
  float (*mix_backward)(float gate, const std::byte* full, bool bf16, const float* windowed,
                        const float* d_out, std::int64_t size, float* d_windowed);
  void (*small_product)(const SmallProduct& job);
  /// Scores become softmax weights against the largest score so far. max and sum [rows] are brought
  /// up to date; what was summed before has to be multiplied by correction [rows].
  void (*softmax_step)(const ScoreTile& tile, float* max, float* sum, float* correction);
  /// Scores become weights p = exp(score - lse), and d_weights [keys][rows] the gradient of the
  /// unscaled scores: scale p (d_weights - delta). lse, delta [rows].
  void (*softmax_backward)(const ScoreTile& tile, float* d_weights, const float* lse,
                           const float* delta, float scale);

  /// Ceilings: the sum of all words of a buffer (bytes a multiple of 256), and operations (multiply
  /// and add count as two) done in registers for `rounds` rounds.
  std::uint64_t (*read_all)(const std::byte* data, std::size_t bytes);
  double (*int8_rounds)(std::int64_t rounds);
  double (*bf16_rounds)(std::int64_t rounds);
  double (*f32_rounds)(std::int64_t rounds);
};

/// Bytes of one token in a form, `cols` stored columns.
constexpr std::int64_t input_bytes(InputForm form, std::int64_t cols) {
  switch (form) {
    case InputForm::f32:
      return 4 * cols;
    case InputForm::bf16:
      return 2 * cols;
    case InputForm::codes:
      return cols / 32 * 80;
  }
  return 0;
}

/// What this program holds for an instruction set; nullptr when it was not compiled in.
[[nodiscard]] const Kernels* compiled_kernels(Isa isa);
/// Whether this machine runs it. avx512 means VNNI and BF16 too.
[[nodiscard]] bool machine_runs(Isa isa);
/// The table for an instruction set; throws Error when it is not compiled in or does not run here.
[[nodiscard]] const Kernels& kernels(Isa isa);

}  // namespace sedpa::cpu

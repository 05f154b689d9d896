#include "sedpa/backend/cpu/kernels_table.h"
#include "sedpa/backend/cpu/simd.h"

namespace sedpa::cpu::SEDPA_ISA {
namespace {

void rms_norm(const float* x, const float* weight, std::int64_t size, float eps, float* out) {
  F32x16 sums[2] = {zero(), zero()};
  std::int64_t i = 0;
  for (; i + 32 <= size; i += 32) {
    const F32x16 a = load(x + i);
    const F32x16 b = load(x + i + 16);
    sums[0] = fma(a, a, sums[0]);
    sums[1] = fma(b, b, sums[1]);
  }
  for (; i < size; i += 16) {
    const F32x16 a = load_partial(x + i, size - i);
    sums[0] = fma(a, a, sums[0]);
  }
  const float mean = reduce_sum(sums[0] + sums[1]) / static_cast<float>(size);
  const F32x16 scale = broadcast(1.0f / __builtin_sqrtf(mean + eps));
  for (i = 0; i + 16 <= size; i += 16) store(out + i, load(x + i) * scale * load(weight + i));
  if (i < size) {
    const std::int64_t rest = size - i;
    store_partial(out + i, load_partial(x + i, rest) * scale * load_partial(weight + i, rest),
                  rest);
  }
}

void swiglu(const float* gate_up, std::int64_t width, float* out) {
  const float* up = gate_up + width;
  std::int64_t i = 0;
  for (; i + 16 <= width; i += 16) store(out + i, silu(load(gate_up + i)) * load(up + i));
  if (i < width) {
    const std::int64_t rest = width - i;
    store_partial(out + i, silu(load_partial(gate_up + i, rest)) * load_partial(up + i, rest),
                  rest);
  }
}

void rotate_neighbours(float* head, const float* cos, const float* sin, std::int64_t pairs) {
  for (std::int64_t i = 0; i < pairs; ++i) {
    const float a = head[2 * i];
    const float b = head[2 * i + 1];
    head[2 * i] = a * cos[i] - b * sin[i];
    head[2 * i + 1] = a * sin[i] + b * cos[i];
  }
}

void rotate_halves(float* head, const float* cos, const float* sin, std::int64_t pairs) {
  float* other = head + pairs;
  std::int64_t i = 0;
  for (; i + 16 <= pairs; i += 16) {
    const F32x16 a = load(head + i);
    const F32x16 b = load(other + i);
    const F32x16 c = load(cos + i);
    const F32x16 s = load(sin + i);
    store(head + i, fnma(b, s, a * c));
    store(other + i, fma(b, c, a * s));
  }
  for (; i < pairs; ++i) {
    const float a = head[i];
    const float b = other[i];
    head[i] = a * cos[i] - b * sin[i];
    other[i] = a * sin[i] + b * cos[i];
  }
}

}  // namespace

void fill_elementwise(Kernels& table) {
  table.rms_norm = rms_norm;
  table.swiglu = swiglu;
  table.rotate_neighbours = rotate_neighbours;
  table.rotate_halves = rotate_halves;
}

}  // namespace sedpa::cpu::SEDPA_ISA

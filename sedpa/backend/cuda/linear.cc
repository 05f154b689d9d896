#include "sedpa/backend/cuda/linear.h"

#include <algorithm>
#include <array>
#include <vector>

#include "sedpa/backend/cuda/decode_program.h"
#include "sedpa/backend/cuda/dequantize.h"
#include "sedpa/backend/cuda/gemm.h"
#include "sedpa/backend/cuda/gemv.h"
#include "sedpa/backend/cuda/weight_format.h"
#include "sedpa/core/checked.h"
#include "sedpa/core/fail.h"

namespace sedpa::cuda {
namespace {

constexpr std::int64_t kAlignment = 256;
/// Rows that go through a product at once: enough to use the whole device, few enough for scratch.
constexpr std::int64_t kBlockRows = 4096;
/// Decoded weights at a time: a slab of up to kSlabRows rows within these bytes, but
/// kLeastSlabRows.
constexpr std::int64_t kSlabBytes = std::int64_t{64} << 20;
constexpr std::int64_t kSlabRows = 8192;
constexpr std::int64_t kLeastSlabRows = 64;
constexpr std::int64_t kWorkspaceBytes = std::int64_t{32} << 20;

/// What activations become for a product with weights of a type.
Dtype packed_type(Dtype weights) {
  return weights == Dtype::f32 || weights == Dtype::f16 ? weights : Dtype::bf16;
}
constexpr std::array kPackedTypes = {Dtype::bf16, Dtype::f16, Dtype::f32};

bool has_packed_type(const Weight& weight, Dtype type) {
  return std::ranges::any_of(weight.bands,
                             [&](const WeightBand& b) { return packed_type(b.dtype) == type; });
}
/// Whether activations become nothing else for it.
bool takes_only(const Weight& weight, Dtype type) {
  return std::ranges::all_of(weight.bands,
                             [&](const WeightBand& b) { return packed_type(b.dtype) == type; });
}

/// In the order of kPackedTypes.
Dtype last_packed_type(const Weight& weight) {
  Dtype last = kPackedTypes.front();
  for (const Dtype type : kPackedTypes) {
    if (has_packed_type(weight, type)) last = type;
  }
  return last;
}

/// Bytes of the widest packed number that a weight asks for.
std::int64_t packed_bytes(const Weight& weight) {
  return has_packed_type(weight, Dtype::f32) ? 4 : 2;
}

/// Rows [begin, begin + count) of a weight that lie in one band.
struct Run {
  Dtype dtype = Dtype::f32;
  std::int64_t begin = 0;  // of the weight
  std::int64_t count = 0;
  const std::byte* data = nullptr;
};

/// Calls fn for the runs that make up rows [begin, end), in order.
template <class Function>
void for_each_run(const Weight& weight, std::int64_t begin, std::int64_t end, Function&& fn) {
  for (const WeightBand& band : weight.bands) {
    const std::int64_t first = std::max(begin, band.first_row);
    const std::int64_t last = std::min(end, band.first_row + band.rows);
    if (first >= last) continue;
    const std::int64_t bytes = row_layout(band.dtype, weight.cols).bytes;
    fn(Run{band.dtype, first, last - first, band.data + (first - band.first_row) * bytes});
  }
}

/// The run that holds all of rows [begin, end); its data is null when there is none.
Run single_run(const Weight& weight, std::int64_t begin, std::int64_t end) {
  Run found;
  for_each_run(weight, begin, end, [&](const Run& run) {
    if (run.count == end - begin) found = run;
  });
  return found;
}

/// What reads a linear's rows: the matrix, or the first of two factors.
const Weight& reader(const Linear& linear) { return linear.b ? *linear.b : linear.a; }

/// Whether what the first of two factors makes may stay in bf16, as the second reads it.
bool stays_packed(const Linear& linear) {
  return takes_only(*linear.b, Dtype::bf16) && takes_only(linear.a, Dtype::bf16) &&
         packed_cols(linear.a.cols) == linear.a.cols;
}

/// Whether all jobs read the same rows, in one type.
bool share_rows(std::span<const LinearJob> jobs) {
  const LinearJob& first = jobs.front();
  const Dtype type = last_packed_type(reader(*first.linear));
  return std::ranges::all_of(jobs, [&](const LinearJob& job) {
    return job.x == first.x && job.norm == first.norm && takes_only(reader(*job.linear), type);
  });
}

Rows range_or_none(Rows rows, std::int64_t begin, std::int64_t count) {
  return rows.data != nullptr ? rows.range(begin, count) : rows;
}
const float* shifted(const float* vector, std::int64_t by) {
  return vector != nullptr ? vector + by : nullptr;
}

}  // namespace

struct LinearRunner::Impl {
  Impl(const DeviceTraits& traits, cudaStream_t on) : device(traits), stream(on) {}

  /// Scratch in bytes, one part after the other. Plans of single rows need the middle alone.
  struct Layout {
    std::int64_t max_rows = 0;
    std::int64_t max_cols = 0;
    std::int64_t max_rank = 0;
    std::int64_t block_rows = 0;
    // Between the factors of a low-rank linear: f32 [block_rows, max_rank], or a row for each of
    // those side by side.
    std::int64_t middle = 0;
    std::int64_t packed = 0;     // packed rows, and what a block makes beside them
    std::int64_t slab = 0;       // decoded weights: bf16 [rows, cols]
    std::int64_t workspace = 0;  // of cuBLASLt

    [[nodiscard]] std::int64_t bytes() const { return middle + packed + slab + workspace; }
  };
  [[nodiscard]] static Layout layout_for(const OpsPlan& plan);

  [[nodiscard]] float* middle() const { return reinterpret_cast<float*>(scratch.data()); }
  [[nodiscard]] std::byte* packed() const { return scratch.data() + layout.middle; }
  [[nodiscard]] std::byte* slab() const { return packed() + layout.packed; }

  void check_shapes(const Linear& linear, Rows x, Rows out, std::int64_t out_features) const;
  [[nodiscard]] std::int64_t block_rows(std::int64_t rows, std::int64_t bytes_a_row) const;

  // One row: kernels of gemv.cu alone.
  struct RowEnds {
    const float* bias = nullptr;
    const float* gate = nullptr;
    const float* residual = nullptr;
  };
  static void add_products(const Weight& weight, std::int64_t begin, std::int64_t end,
                           const float* x, const Norm& norm, const RowEnds& ends, float* out,
                           std::vector<RowProduct>& products);
  void launch(std::span<const RowProduct> products);
  void run_row(std::span<const LinearJob> jobs);
  void run_swiglu_row(const LinearJob& job);

  // Many rows.
  struct Packed {
    Dtype type = Dtype::bf16;
    const std::byte* data = nullptr;  // [rows, stride]
    std::int64_t rows = 0;
    std::int64_t stride = 0;
  };
  /// Rows [begin, end) of a weight, as columns 0 .. of out.
  struct Part {
    std::int64_t begin = 0;
    std::int64_t end = 0;
    Rows residual = {};
    std::byte* out = nullptr;
    std::int64_t out_stride = 0;
    Dtype out_type = Dtype::f32;
  };
  Packed pack(Rows x, const Norm& norm, Dtype type, std::byte* to);
  void multiply(const Weight& weight, const Packed& x, const Part& part);
  void multiply_run(const Run& run, std::int64_t cols, const Packed& x, const Part& part);
  /// Beside packed rows.
  struct Between {
    std::byte* packed = nullptr;  // what the first of two factors makes of them
    float* up = nullptr;          // swiglu's second half
  };
  [[nodiscard]] static std::vector<Part> parts_of(const LinearJob& job, float* up);
  void begin_block(const LinearJob& job, const Packed& x, const Between& room);
  void finish_block(const LinearJob& job, const Between& room);
  void run_rows(std::span<const LinearJob> jobs);
  [[nodiscard]] static bool fits_packed(const MlpJob& job);
  void run_packed(const MlpJob& job);

  DeviceTraits device;
  cudaStream_t stream;
  DecodeProgram* program = nullptr;  // that takes products of one row, when there is one
  Gemm gemm;
  Layout layout;
  DeviceMemory scratch;
};

LinearRunner::Impl::Layout LinearRunner::Impl::layout_for(const OpsPlan& plan) {
  Layout layout;
  layout.max_rows = plan.max_tokens;
  layout.max_cols = std::max(plan.max_cols, plan.max_rank);
  layout.max_rank = plan.max_rank;
  layout.block_rows = std::min(plan.max_tokens, kBlockRows);
  layout.middle = std::max(round_up(layout.block_rows * plan.max_rank * 4, kAlignment),
                           kMostSideBySide * round_up(plan.max_rank * 4, kAlignment));
  if (plan.max_tokens <= 1) return layout;
  // A row packed in two bytes and two more rows of them (gate and up), or in four and one in f32
  // when there are fewer rows.
  const std::int64_t cols = packed_cols(layout.max_cols);
  layout.packed = round_up(layout.block_rows * cols * 6, kAlignment);
  const std::int64_t slab_rows =
      std::clamp(kSlabBytes / (2 * std::max<std::int64_t>(cols, 1)), kLeastSlabRows, kSlabRows);
  layout.slab = round_up(slab_rows * cols * 2, kAlignment);
  layout.workspace = kWorkspaceBytes;
  return layout;
}

void LinearRunner::Impl::check_shapes(const Linear& linear, Rows x, Rows out,
                                      std::int64_t out_features) const {
  if (x.cols != linear.in_features() || out.cols != out_features || x.rows != out.rows ||
      (linear.b && linear.b->rows != linear.a.cols) ||
      (!linear.bias.empty() && linear.bias.size != linear.out_features())) {
    fail("a linear of {} x {} was given rows [{}, {}] and asked for [{}, {}]",
         linear.out_features(), linear.in_features(), x.rows, x.cols, out.rows, out.cols);
  }
  if (x.rows > layout.max_rows || x.cols > layout.max_cols ||
      (linear.b && linear.a.cols > layout.max_rank)) {
    fail("a linear of {} rows x {} columns exceeds what was reserved: {} x {}, rank {}", x.rows,
         x.cols, layout.max_rows, layout.max_cols, layout.max_rank);
  }
}

/// Rows of a block whose scratch takes so many bytes a row.
std::int64_t LinearRunner::Impl::block_rows(std::int64_t rows, std::int64_t bytes_a_row) const {
  const std::int64_t fit = std::min(layout.block_rows, layout.packed / bytes_a_row);
  if (fit < 1) fail("rows of {} bytes exceed the scratch that was reserved", bytes_a_row);
  // Blocks of like size: a last one of few rows would cost almost as much as a full one.
  const std::int64_t blocks = ceil_div(rows, fit);
  return std::min(fit, round_up(ceil_div(rows, blocks), std::int64_t{128}));
}

// --- One row ----------------------------------------------------------------------------------

/// Products, none of which reads or writes what another writes.
void LinearRunner::Impl::launch(std::span<const RowProduct> products) {
  while (!products.empty()) {
    const auto some = products.first(std::min<std::size_t>(products.size(), kProgramProducts));
    products = products.subspan(some.size());
    if (program != nullptr) {
      if (program->add(some)) continue;
      program->flush();
    }
    for (const RowProduct& product : some) gemv(device, stream, product.dtype, product.job);
  }
}

void LinearRunner::Impl::add_products(const Weight& weight, std::int64_t begin, std::int64_t end,
                                      const float* x, const Norm& norm, const RowEnds& ends,
                                      float* out, std::vector<RowProduct>& products) {
  for_each_run(weight, begin, end, [&](const Run& run) {
    const std::int64_t at = run.begin - begin;
    products.push_back({run.dtype,
                        {.rows = run.data,
                         .cols = weight.cols,
                         .outputs = run.count,
                         .x = x,
                         .norm_weight = norm.weight,
                         .epsilon = norm.epsilon,
                         .bias = shifted(ends.bias, at),
                         .gate = shifted(ends.gate, at),
                         .residual = shifted(ends.residual, at),
                         .out = out + at}});
  });
}

/// All that read rows from before side by side, whole matrices and factors, then the other factors.
void LinearRunner::Impl::run_row(std::span<const LinearJob> jobs) {
  std::vector<RowProduct> first;
  std::vector<RowProduct> second;
  std::byte* middle = scratch.data();
  for (const LinearJob& job : jobs) {
    const Linear& linear = *job.linear;
    const RowEnds ends{.bias = linear.bias.data, .residual = job.residual.data};
    if (linear.b) {
      auto* const between = reinterpret_cast<float*>(middle);
      middle += round_up(linear.b->rows * 4, kAlignment);
      add_products(*linear.b, 0, linear.b->rows, job.x.data, job.norm, {}, between, first);
      add_products(linear.a, 0, linear.a.rows, between, {}, ends, job.out.data, second);
    } else {
      add_products(linear.a, 0, linear.a.rows, job.x.data, job.norm, ends, job.out.data, first);
    }
  }
  launch(first);
  launch(second);
}

void LinearRunner::Impl::run_swiglu_row(const LinearJob& job) {
  const Linear& linear = *job.linear;
  const Weight& weight = linear.a;
  const float* x = job.x.data;
  Norm norm = job.norm;
  std::vector<RowProduct> products;
  const auto multiply_row = [&](const Weight& of, std::int64_t begin, std::int64_t end,
                                const RowEnds& ends, float* out) {
    products.clear();
    add_products(of, begin, end, x, norm, ends, out, products);
    launch(products);
  };
  if (linear.b) {
    multiply_row(*linear.b, 0, linear.b->rows, {}, middle());
    x = middle();
    norm = {};
  }
  const float* bias = linear.bias.data;
  const std::int64_t width = job.out.cols;
  const Run gate = single_run(weight, 0, width);
  const Run up = single_run(weight, width, 2 * width);
  if (gate.data != nullptr && up.data != nullptr && gate.dtype == up.dtype) {
    const RowProduct product{gate.dtype,
                             {.rows = gate.data,
                              .up_rows = up.data,
                              .cols = weight.cols,
                              .outputs = width,
                              .x = x,
                              .norm_weight = norm.weight,
                              .epsilon = norm.epsilon,
                              .bias = bias,
                              .up_bias = shifted(bias, width),
                              .out = job.out.data}};
    return launch({&product, 1});
  }
  // Gate and up of different types: one after the other, the gate waiting in out.
  multiply_row(weight, 0, width, {.bias = bias}, job.out.data);
  multiply_row(weight, width, 2 * width, {.bias = shifted(bias, width), .gate = job.out.data},
               job.out.data);
}

// --- Many rows --------------------------------------------------------------------------------

LinearRunner::Impl::Packed LinearRunner::Impl::pack(Rows x, const Norm& norm, Dtype type,
                                                    std::byte* to) {
  pack_rows(x, norm.weight, norm.epsilon, type, to, stream);
  return {type, to, x.rows, packed_cols(x.cols)};
}

void LinearRunner::Impl::multiply_run(const Run& run, std::int64_t cols, const Packed& x,
                                      const Part& part) {
  const auto gemm_rows = [&](std::int64_t first, std::int64_t count, const std::byte* w,
                             std::int64_t depth) {
    const std::int64_t at = run.begin + first - part.begin;  // column of out
    const std::int64_t out_bytes = part.out_type == Dtype::f32 ? 4 : 2;
    gemm.run({.rows = x.rows,
              .outputs = count,
              .depth = depth,
              .type = x.type,
              .x = x.data,
              .x_stride = x.stride,
              .w = w,
              .w_stride = depth,
              .residual = shifted(part.residual.data, at),
              .residual_stride = part.residual.stride,
              .out_type = part.out_type,
              .out = part.out + at * out_bytes,
              .out_stride = part.out_stride},
             stream);
  };
  const std::int64_t bytes = row_layout(run.dtype, cols).bytes;
  if (!is_quantized(run.dtype)) {
    // Rows end with zeros up to 16 bytes, and so do packed rows: both may take part.
    return gemm_rows(0, run.count, run.data, bytes / number_bytes(run.dtype));
  }
  const std::int64_t fit = std::min(kSlabRows, layout.slab / (2 * cols));
  const std::int64_t slabs = ceil_div(run.count, fit);
  const std::int64_t slab_rows =
      std::min(fit, round_up(ceil_div(run.count, slabs), std::int64_t{128}));
  for (std::int64_t first = 0; first < run.count; first += slab_rows) {
    const std::int64_t count = std::min(slab_rows, run.count - first);
    decode_rows(run.dtype, run.data + first * bytes, count, cols, count, slab(), stream);
    gemm_rows(first, count, slab(), cols);
  }
}

/// Bands that take rows as x has them; others are left for another call.
void LinearRunner::Impl::multiply(const Weight& weight, const Packed& x, const Part& part) {
  for_each_run(weight, part.begin, part.end, [&](const Run& run) {
    if (packed_type(run.dtype) == x.type) multiply_run(run, weight.cols, x, part);
  });
}

/// Where the last weight's products of a block of rows go. up: f32 [rows, out.cols] for swiglu.
std::vector<LinearRunner::Impl::Part> LinearRunner::Impl::parts_of(const LinearJob& job,
                                                                   float* up) {
  const auto bytes_of = [](float* data) { return reinterpret_cast<std::byte*>(data); };
  const Rows out = job.out;
  Part first{.end = job.linear->a.rows,
             .residual = job.residual,
             .out = bytes_of(out.data),
             .out_stride = out.stride};
  if (!job.swiglu) return {first};
  first.end = out.cols;
  return {first,
          {.begin = out.cols, .end = 2 * out.cols, .out = bytes_of(up), .out_stride = out.cols}};
}

/// A block of rows through what reads them: the whole matrix, or the first of two factors.
void LinearRunner::Impl::begin_block(const LinearJob& job, const Packed& x, const Between& room) {
  const Linear& linear = *job.linear;
  if (!linear.b) {
    for (const Part& part : parts_of(job, room.up)) multiply(linear.a, x, part);
    return;
  }
  const std::int64_t rank = linear.b->rows;
  Part whole{.end = rank, .out = reinterpret_cast<std::byte*>(middle()), .out_stride = rank};
  if (stays_packed(linear)) {
    whole.out = room.packed;
    whole.out_type = Dtype::bf16;
  }
  multiply(*linear.b, x, whole);
}

/// The second factor, bias and activation.
void LinearRunner::Impl::finish_block(const LinearJob& job, const Between& room) {
  const Linear& linear = *job.linear;
  const Rows out = job.out;
  if (linear.b) {
    const std::int64_t rank = linear.b->rows;
    const bool packed_already = stays_packed(linear);
    for (const Dtype type : kPackedTypes) {
      if (!has_packed_type(linear.a, type)) continue;
      const Packed between = packed_already
                                 ? Packed{type, room.packed, out.rows, rank}
                                 : pack({middle(), out.rows, rank, rank}, {}, type, room.packed);
      for (const Part& part : parts_of(job, room.up)) multiply(linear.a, between, part);
    }
  }
  const float* bias = linear.bias.data;
  if (bias != nullptr) add_bias(bias, out, stream);
  if (!job.swiglu) return;
  const Rows up_rows{room.up, out.rows, out.cols, out.cols};
  if (bias != nullptr) add_bias(bias + out.cols, up_rows, stream);
  swiglu_in_place(out, up_rows, stream);
}

/// Jobs that read the same rows, which are packed once: one job, or some that share_rows.
void LinearRunner::Impl::run_rows(std::span<const LinearJob> jobs) {
  std::int64_t x_row = 0;  // bytes
  std::int64_t between_row = 0;
  std::int64_t up_row = 0;
  for (const LinearJob& job : jobs) {
    const Linear& linear = *job.linear;
    x_row = std::max(x_row, packed_cols(job.x.cols) * packed_bytes(reader(linear)));
    if (linear.b) {
      between_row = std::max(between_row, packed_cols(linear.a.cols) * packed_bytes(linear.a));
    }
    if (job.swiglu) up_row = std::max(up_row, 4 * job.out.cols);
  }
  const LinearJob& any = jobs.front();
  const std::int64_t most = block_rows(any.x.rows, x_row + between_row + up_row);
  Between room;
  room.packed = packed() + most * x_row;
  room.up = reinterpret_cast<float*>(room.packed + most * between_row);
  for (std::int64_t first = 0; first < any.x.rows; first += most) {
    const std::int64_t rows = std::min(most, any.x.rows - first);
    std::vector<LinearJob> block(jobs.begin(), jobs.end());
    for (LinearJob& job : block) {
      job.residual = range_or_none(job.residual, first, rows);
      job.out = job.out.range(first, rows);
    }
    for (const Dtype type : kPackedTypes) {
      if (!has_packed_type(reader(*any.linear), type)) continue;
      const Packed x = pack(any.x.range(first, rows), any.norm, type, packed());
      for (const LinearJob& job : block) {
        begin_block(job, x, room);
        if (type == last_packed_type(reader(*job.linear))) finish_block(job, room);
      }
    }
  }
}

/// Whether gate and up rows may stay in bf16 between the products, as the second reads them.
bool LinearRunner::Impl::fits_packed(const MlpJob& job) {
  return !job.gate_up->b && !job.down->b && takes_only(job.gate_up->a, Dtype::bf16) &&
         takes_only(job.down->a, Dtype::bf16);
}

void LinearRunner::Impl::run_packed(const MlpJob& job) {
  const Weight& gate_up = job.gate_up->a;
  const Weight& down = job.down->a;
  const std::int64_t width = down.cols;
  const std::int64_t stored = packed_cols(width);
  const std::int64_t x_row = packed_cols(gate_up.cols) * 2;
  const std::int64_t most = block_rows(job.x.rows, x_row + 2 * stored * 2);
  std::byte* const between = packed() + most * x_row;  // bf16 [rows][gate | up][stored]
  for (std::int64_t first = 0; first < job.x.rows; first += most) {
    const std::int64_t rows = std::min(most, job.x.rows - first);
    const Packed x = pack(job.x.range(first, rows), job.norm, Dtype::bf16, packed());
    Part part{.end = width, .out = between, .out_stride = 2 * stored, .out_type = Dtype::bf16};
    if (stored == width) {
      part.end = 2 * width;
      multiply(gate_up, x, part);
    } else {
      multiply(gate_up, x, part);
      part.begin = width;
      part.end = 2 * width;
      part.out = between + stored * 2;
      multiply(gate_up, x, part);
    }
    swiglu_packed(between, rows, width, job.gate_up->bias.data, stream);
    const Rows out = job.out.range(first, rows);
    multiply(down, {Dtype::bf16, between, rows, 2 * stored},
             {.end = down.rows,
              .residual = range_or_none(job.residual, first, rows),
              .out = reinterpret_cast<std::byte*>(out.data),
              .out_stride = out.stride});
    if (!job.down->bias.empty()) add_bias(job.down->bias.data, out, stream);
  }
}

// --- The runner -------------------------------------------------------------------------------

LinearRunner::LinearRunner(const DeviceTraits& device, cudaStream_t stream) {
  const DeviceScope scope(device.index);
  impl_ = std::make_unique<Impl>(device, stream);
  prepare_gemv(device);
}

LinearRunner::~LinearRunner() = default;

std::size_t LinearRunner::scratch_bytes(const OpsPlan& plan) const {
  return static_cast<std::size_t>(Impl::layout_for(plan).bytes());
}

void LinearRunner::reserve(const OpsPlan& plan) {
  impl_->layout = Impl::layout_for(plan);
  impl_->scratch = DeviceMemory();
  const std::int64_t bytes = impl_->layout.bytes();
  if (bytes > 0) impl_->scratch = DeviceMemory(static_cast<std::size_t>(bytes));
  impl_->gemm.set_workspace(impl_->slab() + impl_->layout.slab,
                            static_cast<std::size_t>(impl_->layout.workspace));
}

void LinearRunner::run(const LinearJob& job) { run(std::span(&job, 1)); }

void LinearRunner::run(std::span<const LinearJob> jobs) {
  bool single = true;  // all of them one row
  for (const LinearJob& job : jobs) {
    const std::int64_t outputs = job.linear->out_features();
    if (job.swiglu && (outputs % 2 != 0 || job.residual.data != nullptr)) {
      fail("swiglu takes an even number of rows and no residual, not {} rows", outputs);
    }
    impl_->check_shapes(*job.linear, job.x, job.out, job.swiglu ? outputs / 2 : outputs);
    single = single && job.x.rows == 1 && !job.swiglu;
  }
  if (single && jobs.size() <= kMostSideBySide) return impl_->run_row(jobs);
  if (jobs.size() > 1 && jobs.front().x.rows > 1 && share_rows(jobs)) return impl_->run_rows(jobs);
  for (const LinearJob& job : jobs) {
    if (job.x.rows > 1) impl_->run_rows({&job, 1});
    if (job.x.rows == 1 && job.swiglu) impl_->run_swiglu_row(job);
    if (job.x.rows == 1 && !job.swiglu) impl_->run_row({&job, 1});
  }
}

void LinearRunner::run(const MlpJob& job) {
  impl_->check_shapes(*job.gate_up, job.x, job.act, job.gate_up->out_features() / 2);
  impl_->check_shapes(*job.down, job.act, job.out, job.down->out_features());
  if (job.x.rows > 1 && Impl::fits_packed(job)) return impl_->run_packed(job);
  const LinearJob down{
      .linear = job.down, .x = job.act, .norm = {}, .residual = job.residual, .out = job.out};
  run(LinearJob{.linear = job.gate_up,
                .x = job.x,
                .norm = job.norm,
                .swiglu = true,
                .residual = {},
                .out = job.act});
  run(down);
}

void LinearRunner::set_program(DecodeProgram* program) { impl_->program = program; }

void embed(const Weight& table, const std::int32_t* ids, Rows out, cudaStream_t stream) {
  if (out.cols != table.cols) {
    fail("a table of {} columns was asked for rows of {}", table.cols, out.cols);
  }
  for (const WeightBand& band : table.bands) {
    embed_rows(band.dtype, band.data, band.first_row, band.rows, ids, out, stream);
  }
}

}  // namespace sedpa::cuda

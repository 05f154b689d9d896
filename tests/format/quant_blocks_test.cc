// Held against tests/data/format/quant_blocks.*, made by tests/reference/make_quant_vectors.py
// with the Python packages gguf and safetensors: another implementation wrote both files.
#include "sedpa/format/quant_blocks.h"

#include <cstring>
#include <limits>

#include "sedpa/format/gguf.h"
#include "sedpa/format/safetensors.h"
#include "tests/format/support.h"

namespace sedpa {
namespace {

class QuantBlocks : public ::testing::TestWithParam<Dtype> {
 protected:
  GgufFile stored_ = GgufFile::open(test::data_path("quant_blocks.gguf"));
  SafetensorsFile expected_ = SafetensorsFile::open(test::data_path("quant_blocks.safetensors"));

  std::vector<float> expected(const std::string& name) const {
    const TensorInfo* const tensor = expected_.find_tensor(name);
    if (tensor == nullptr || tensor->dtype != Dtype::f32) {
      ADD_FAILURE() << "no f32 tensor " << name;
      return {};
    }
    std::vector<float> values(static_cast<std::size_t>(tensor->count()));
    std::memcpy(values.data(), tensor->data.data(), tensor->data.size());
    return values;
  }
};

std::string parameter_name(const ::testing::TestParamInfo<Dtype>& info) {
  return std::string(name(info.param));
}

TEST_P(QuantBlocks, DequantizeAsThePythonPackageDoes) {
  const TensorInfo& tensor = stored_.require_tensor("stored." + std::string(name(GetParam())));
  ASSERT_EQ(tensor.dtype, GetParam());
  ASSERT_EQ(tensor.shape, (std::vector<std::int64_t>{2, 512}));
  const std::vector<float> expected = this->expected("expected." + std::string(name(GetParam())));
  ASSERT_EQ(expected.size(), 1024u);
  const std::int64_t row = row_bytes(tensor.dtype, tensor.cols());
  for (std::int64_t i = 0; i < tensor.rows(); ++i) {
    std::vector<float> values(static_cast<std::size_t>(tensor.cols()));
    dequantize_row(tensor.dtype, tensor.data.data() + i * row, tensor.cols(), values.data());
    for (std::size_t j = 0; j < values.size(); ++j) {
      const float want = expected[static_cast<std::size_t>(i) * values.size() + j];
      // To the bit, except where a compiler fuses a product with a sum.
      EXPECT_FLOAT_EQ(values[j], want) << "row " << i << ", column " << j;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, QuantBlocks,
                         ::testing::Values(Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::q8_0,
                                           Dtype::q4_0, Dtype::q4_1, Dtype::q5_0, Dtype::q5_1,
                                           Dtype::q4_k, Dtype::q5_k, Dtype::q6_k, Dtype::iq4_nl),
                         parameter_name);

class QuantBlocksWritten : public QuantBlocks {};

TEST_P(QuantBlocksWritten, QuantizeAsThePythonPackageDoes) {
  const TensorInfo& tensor = stored_.require_tensor("quantized." + std::string(name(GetParam())));
  ASSERT_EQ(tensor.dtype, GetParam());
  const std::vector<float> input = expected("input");
  std::vector<std::byte> row(static_cast<std::size_t>(row_bytes(GetParam(), tensor.cols())));
  for (std::int64_t i = 0; i < tensor.rows(); ++i) {
    quantize_row(GetParam(), input.data() + i * tensor.cols(), tensor.cols(), row.data());
    const auto bytes = static_cast<std::int64_t>(row.size());
    for (std::int64_t j = 0; j < bytes; ++j) {
      ASSERT_EQ(row[static_cast<std::size_t>(j)],
                tensor.data[static_cast<std::size_t>(i * bytes + j)])
          << "row " << i << ", byte " << j << " (block " << j / block_bytes(GetParam()) << ")";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, QuantBlocksWritten,
                         ::testing::Values(Dtype::bf16, Dtype::q8_0, Dtype::q4_0, Dtype::q4_1,
                                           Dtype::q5_0, Dtype::q5_1),
                         parameter_name);

TEST(QuantBlocksErrors, TypesThatAreOnlyRead) {
  const std::vector<float> input(256);
  std::vector<std::byte> out(256);
  for (const Dtype dtype : {Dtype::q4_k, Dtype::q5_k, Dtype::q6_k, Dtype::iq4_nl}) {
    test::expect_error([&] { quantize_row(dtype, input.data(), 256, out.data()); }, {name(dtype)});
  }
}

TEST(QuantBlocksErrors, NotANumberIsNoUndefinedCast) {
  std::vector<float> input(32, 1.0f);
  input[3] = std::numeric_limits<float>::quiet_NaN();
  input[4] = std::numeric_limits<float>::infinity();
  std::vector<std::byte> out(64);
  for (const Dtype dtype : {Dtype::q8_0, Dtype::q4_0, Dtype::q4_1, Dtype::q5_0, Dtype::q5_1}) {
    quantize_row(dtype, input.data(), 32, out.data());  // UBSan watches
  }
}

}  // namespace
}  // namespace sedpa

// Which launches the forward text becomes. No GPU is needed: nothing is launched.
#include "sedpa/backend/cuda/fusion.h"

#include <gtest/gtest.h>

namespace sedpa::cuda {
namespace {

/// Rows of one token at made-up addresses.
struct Pass {
  float memory[8][64] = {};
  float weights[4][16] = {};
  Linear qkv, output, gate_up, down;
  KvLayer cache;
  LayerShape shape;

  [[nodiscard]] Rows rows(int i, std::int64_t cols) { return {memory[i], 1, cols, cols}; }
  Rows x = rows(0, 8);
  Rows h = rows(1, 8);
  Rows qkv_rows = rows(2, 24);
  Rows o = rows(3, 8);
  Rows gate_up_rows = rows(4, 32);
  Rows act = rows(5, 16);

  [[nodiscard]] NormOp norm(int weight) { return {x, weights[weight], 8, 1e-5f, h}; }
  [[nodiscard]] NormOp head_norm(int weight, std::int64_t begin, std::int64_t cols) {
    const Rows part = qkv_rows.columns(begin, cols);
    return {part, weights[weight], 4, 1e-6f, part};
  }
  [[nodiscard]] OpList attention(bool head_norms) {
    OpList ops;
    if (head_norms) {
      ops.emplace_back(head_norm(2, 0, 8));
      ops.emplace_back(head_norm(3, 8, 8));
    }
    ops.emplace_back(RopeOp{qkv_rows, &shape});
    ops.emplace_back(AttentionOp{qkv_rows, &shape, &cache, o});
    ops.emplace_back(CommitOp{qkv_rows, &shape, &cache});
    return ops;
  }
  /// A layer as model/forward.cc asks for it.
  [[nodiscard]] OpList layer(bool head_norms) {
    OpList ops = {norm(0), LinearOp{&qkv, h, {}, qkv_rows}};
    for (const Op& op : attention(head_norms)) ops.push_back(op);
    ops.emplace_back(LinearOp{&output, o, x, x});
    ops.emplace_back(norm(1));
    ops.emplace_back(LinearOp{&gate_up, h, {}, gate_up_rows});
    ops.emplace_back(SwigluOp{gate_up_rows, act});
    ops.emplace_back(LinearOp{&down, act, x, x});
    return ops;
  }
};

TEST(Fusion, ALayerIsFourLaunches) {
  for (const bool head_norms : {false, true}) {
    Pass pass;
    const auto launches = fuse(pass.layer(head_norms));
    ASSERT_EQ(launches.size(), 4u);

    const auto& qkv = std::get<LinearJob>(launches[0]);
    EXPECT_EQ(qkv.linear, &pass.qkv);
    EXPECT_EQ(qkv.norm.weight, pass.weights[0]);
    EXPECT_EQ(qkv.x, pass.x);
    EXPECT_EQ(qkv.out, pass.qkv_rows);
    EXPECT_EQ(qkv.residual.data, nullptr);

    const auto& attention = std::get<AttentionJob>(launches[1]);
    EXPECT_TRUE(attention.rotate && attention.attend && attention.commit);
    EXPECT_EQ(attention.query_norm, head_norms ? pass.weights[2] : nullptr);
    EXPECT_EQ(attention.key_norm, head_norms ? pass.weights[3] : nullptr);
    EXPECT_EQ(attention.out, pass.o);
    EXPECT_EQ(attention.cache, &pass.cache);

    const auto& output = std::get<LinearJob>(launches[2]);
    EXPECT_EQ(output.linear, &pass.output);
    EXPECT_EQ(output.norm.weight, nullptr);
    EXPECT_EQ(output.residual, pass.x);

    const auto& mlp = std::get<MlpJob>(launches[3]);
    EXPECT_EQ(mlp.gate_up, &pass.gate_up);
    EXPECT_EQ(mlp.down, &pass.down);
    EXPECT_EQ(mlp.norm.weight, pass.weights[1]);
    EXPECT_EQ(mlp.x, pass.x);
    EXPECT_EQ(mlp.residual, pass.x);
    EXPECT_EQ(mlp.out, pass.x);
  }
}

TEST(Fusion, EveryOperationAloneIsALaunchOfItsOwn) {
  Pass pass;
  for (const Op& op : pass.layer(true)) {
    const auto launches = fuse(std::span(&op, 1));
    ASSERT_EQ(launches.size(), 1u);
    EXPECT_EQ(launches[0].index(), alone(op).index());
  }
}

// Rows that somebody else reads, or that are not the neighbour's, keep operations apart.
TEST(Fusion, OnlyNeighboursThatHandOnTheirRowsAreJoined) {
  Pass pass;
  const LinearOp of_other_rows{&pass.qkv, pass.o, {}, pass.qkv_rows};
  EXPECT_EQ(fuse(OpList{pass.norm(0), of_other_rows}).size(), 2u);

  NormOp in_place = pass.norm(0);
  in_place.out = in_place.x;
  const LinearOp of_x{&pass.qkv, pass.x, {}, pass.qkv_rows};
  EXPECT_EQ(fuse(OpList{in_place, of_x}).size(), 2u) << "x itself changes";

  const SwigluOp of_other_memory{pass.qkv_rows, pass.act};
  EXPECT_EQ(fuse(OpList{pass.norm(1), LinearOp{&pass.gate_up, pass.h, {}, pass.gate_up_rows},
                        of_other_memory, LinearOp{&pass.down, pass.act, pass.x, pass.x}})
                .size(),
            3u);

  KvLayer other_layer;
  OpList ops = pass.attention(false);
  ops.back() = CommitOp{pass.qkv_rows, &pass.shape, &other_layer};
  EXPECT_EQ(fuse(ops).size(), 3u);
  ops.pop_back();
  EXPECT_EQ(fuse(ops).size(), 2u) << "no commit";
}

// As when query, key and value are stored as factors: each product takes the norm in, since rows
// that only joined neighbours read are not written, and they go side by side.
TEST(Fusion, ANormGoesIntoAllThatReadIt) {
  Pass pass;
  Linear query;
  Linear key_value;
  const Rows parts[] = {pass.qkv_rows.columns(0, 8), pass.qkv_rows.columns(8, 16)};
  OpList ops = {pass.norm(0), LinearOp{&query, pass.h, {}, parts[0]},
                LinearOp{&key_value, pass.h, {}, parts[1]}};
  for (const Op& op : pass.attention(false)) ops.push_back(op);
  const auto launches = fuse(ops);
  ASSERT_EQ(launches.size(), 2u);
  const auto& jobs = std::get<std::vector<LinearJob>>(launches[0]);
  ASSERT_EQ(jobs.size(), 2u);
  for (const std::size_t i : {0u, 1u}) {
    EXPECT_EQ(jobs[i].linear, i == 0 ? &query : &key_value);
    EXPECT_EQ(jobs[i].x, pass.x);
    EXPECT_EQ(jobs[i].norm.weight, pass.weights[0]);
    EXPECT_EQ(jobs[i].out, parts[i]);
  }

  // What the first writes over cannot be normed again for the second.
  const OpList over = {pass.norm(0), LinearOp{&query, pass.h, {}, pass.x},
                       LinearOp{&key_value, pass.h, {}, pass.qkv_rows}};
  EXPECT_EQ(fuse(over).size(), 3u);
}

// One after the other: what one writes another reads or writes too, in whichever row.
TEST(Fusion, OnlyProductsThatDoNotNeedEachOtherGoSideBySide) {
  Pass pass;
  Linear first;
  Linear second;
  const Rows left = pass.qkv_rows.columns(0, 8);
  const Rows right = pass.qkv_rows.columns(8, 16);
  const auto launches_of = [&](const LinearOp& a, const LinearOp& b) {
    const auto launches = fuse(OpList{pass.norm(0), a, b});
    for (const Launch& launch : launches) {
      if (std::holds_alternative<NormOp>(launch)) return std::size_t{0};
    }
    return launches.size();
  };
  EXPECT_EQ(launches_of({&first, pass.h, {}, left}, {&second, pass.h, {}, right}), 1u);
  EXPECT_EQ(launches_of({&first, pass.h, {}, left}, {&second, pass.h, {}, pass.qkv_rows}), 2u);
  EXPECT_EQ(launches_of({&first, pass.h, {}, left}, {&second, pass.h, left, right}), 2u);
  EXPECT_EQ(launches_of({&first, pass.h, {}, left}, {&second, pass.h, {}, pass.x}), 2u)
      << "the first reads x";

  const auto two = [](Rows rows) {
    rows.rows = 2;
    return rows;
  };
  const auto launches_of_two = [&](const Rows& residual, const Rows& out) {
    NormOp norm = pass.norm(0);
    norm.x = two(norm.x);
    norm.out = two(norm.out);
    return fuse(OpList{norm, LinearOp{&first, norm.out, {}, two(left)},
                       LinearOp{&second, norm.out, residual, two(out)}})
        .size();
  };
  EXPECT_EQ(launches_of_two({}, right), 1u);
  EXPECT_EQ(launches_of_two({}, pass.qkv_rows.columns(4, 8)), 2u);
  EXPECT_EQ(launches_of_two({}, left), 2u);
  // Rows of another length: its second lies where the first linear's second does.
  EXPECT_EQ(launches_of_two({pass.memory[2] + 12, 2, 12, 12}, pass.o), 2u);
  EXPECT_EQ(launches_of_two({pass.memory[3] + 24, 2, 12, 12}, pass.o), 1u);
}

// As when heads are masked: between attention, which still is one launch, and the projection.
TEST(Fusion, ClearedRowsAreClearedInTheirPlace) {
  Pass pass;
  OpList ops;
  for (const Op& op : pass.layer(false)) {
    ops.push_back(op);
    if (std::holds_alternative<CommitOp>(op)) ops.emplace_back(ClearOp{pass.o.columns(4, 4)});
  }
  const auto launches = fuse(ops);
  ASSERT_EQ(launches.size(), 5u);
  EXPECT_TRUE(std::holds_alternative<AttentionJob>(launches[1]));
  EXPECT_EQ(std::get<ClearOp>(launches[2]).out, pass.o.columns(4, 4));
  EXPECT_EQ(std::get<LinearJob>(launches[3]).linear, &pass.output);
}

TEST(Fusion, OrderIsKept) {
  Pass pass;
  Weight table;
  OpList ops = {EmbedOp{&table, pass.x}};
  for (int i = 0; i < 3; ++i) {
    for (const Op& op : pass.layer(false)) ops.push_back(op);
  }
  ops.emplace_back(pass.norm(0));
  const auto launches = fuse(ops);
  ASSERT_EQ(launches.size(), 1u + 3 * 4 + 1);
  EXPECT_TRUE(std::holds_alternative<EmbedOp>(launches.front()));
  EXPECT_TRUE(std::holds_alternative<NormOp>(launches.back()));
}

}  // namespace
}  // namespace sedpa::cuda

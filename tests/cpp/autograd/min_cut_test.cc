// Cuts of random acyclic graphs against the best of all subsets.
#include "graph/autograd/min_cut.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>

namespace framejit {
namespace {

bool Separates(const CutProblem& problem, const std::vector<bool>& chosen) {
  std::vector<bool> reached(chosen.size(), false);
  std::vector<int> work;
  auto reach = [&](int v) {
    if (chosen[v] || reached[v]) return;
    reached[v] = true;
    work.push_back(v);
  };
  for (int v : problem.sources) reach(v);
  while (!work.empty()) {
    const int v = work.back();
    work.pop_back();
    for (const auto& [from, to] : problem.edges) {
      if (from == v) reach(to);
    }
  }
  return std::none_of(problem.sinks.begin(), problem.sinks.end(), [&](int v) { return reached[v]; });
}

std::optional<int64_t> BestWeight(const CutProblem& problem) {
  std::optional<int64_t> best;
  const size_t count = problem.weights.size();
  for (uint32_t subset = 0; subset < (1u << count); ++subset) {
    std::vector<bool> chosen(count);
    int64_t weight = 0;
    bool allowed = true;
    for (size_t v = 0; v < count; ++v) {
      chosen[v] = (subset >> v & 1) != 0;
      if (!chosen[v]) continue;
      allowed = allowed && problem.weights[v] != CutProblem::kNever;
      weight += problem.weights[v];
    }
    if (allowed && (!best || weight < *best) && Separates(problem, chosen)) best = weight;
  }
  return best;
}

TEST(MinCutTest, BestOfAllSubsets) {
  std::mt19937 random(1);
  auto draw = [&](int limit) { return static_cast<int>(random() % static_cast<unsigned>(limit)); };
  int impossible = 0;
  for (int round = 0; round < 400; ++round) {
    const int count = 2 + draw(9);
    CutProblem problem;
    for (int v = 0; v < count; ++v) problem.weights.push_back(draw(4) == 0 ? CutProblem::kNever : 1 + draw(9));
    for (int from = 0; from < count; ++from) {
      for (int to = from + 1; to < count; ++to) {
        if (draw(3) == 0) problem.edges.emplace_back(from, to);
      }
      if (draw(3) == 0) problem.sources.push_back(from);
      if (draw(3) == 0) problem.sinks.push_back(from);
    }
    const std::vector<int> cut = MinimumVertexCut(problem);
    const std::optional<int64_t> best = BestWeight(problem);
    if (!best) {
      EXPECT_TRUE(cut.empty());
      ++impossible;
      continue;
    }
    std::vector<bool> chosen(static_cast<size_t>(count), false);
    int64_t weight = 0;
    for (int v : cut) {
      ASSERT_NE(problem.weights[v], CutProblem::kNever);
      chosen[v] = true;
      weight += problem.weights[v];
    }
    EXPECT_TRUE(Separates(problem, chosen)) << "round " << round;
    EXPECT_EQ(weight, *best) << "round " << round;
  }
  EXPECT_GT(impossible, 0);
  EXPECT_LT(impossible, 300);
}

TEST(MinCutTest, OfEqualCutsTheOneNearestToTheSinks) {
  const CutProblem chain{.weights = {5, 5, 5}, .edges = {{0, 1}, {1, 2}}, .sources = {0}, .sinks = {2}};
  EXPECT_EQ(MinimumVertexCut(chain), std::vector<int>{2});
}

TEST(MinCutTest, OneOperandInsteadOfThreeResults) {
  const CutProblem fan{.weights = {8, 4, 4, 4}, .edges = {{0, 1}, {0, 2}, {0, 3}}, .sources = {0}, .sinks = {1, 2, 3}};
  EXPECT_EQ(MinimumVertexCut(fan), std::vector<int>{0});
}

TEST(MinCutTest, DeepGraphs) {
  CutProblem chain;
  for (int v = 0; v < 20000; ++v) {
    chain.weights.push_back(v == 7 ? 1 : 2);
    if (v > 0) chain.edges.emplace_back(v - 1, v);
  }
  chain.sources = {0};
  chain.sinks = {19999};
  EXPECT_EQ(MinimumVertexCut(chain), std::vector<int>{7});
}

}  // namespace
}  // namespace framejit

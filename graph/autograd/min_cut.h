// The cheapest vertices that separate one part of a directed graph from another. Owns the algorithm; what the vertices
// stand for and what they cost is decided by the partition.
#ifndef FRAMEJIT_GRAPH_AUTOGRAD_MIN_CUT_H_
#define FRAMEJIT_GRAPH_AUTOGRAD_MIN_CUT_H_

#include <cstdint>
#include <utility>
#include <vector>

namespace framejit {

struct CutProblem {
  static constexpr int64_t kNever = -1;  // a weight: the vertex may not be chosen

  std::vector<int64_t> weights;            // by vertex; 1 and more, or kNever
  std::vector<std::pair<int, int>> edges;  // from, to
  std::vector<int> sources, sinks;         // may be chosen themselves
};

// Vertices of the least total weight such that every path from a source to a sink has one of them, ascending; of
// several such sets the one nearest to the sinks. A path of vertices that may not be chosen is the caller's mistake:
// then the result is empty. Dinic's algorithm (Dinitz 1970) on the graph with each vertex split in two.
std::vector<int> MinimumVertexCut(const CutProblem& problem);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_AUTOGRAD_MIN_CUT_H_

#include "graph/autograd/min_cut.h"

#include <algorithm>
#include <limits>

namespace framejit {
namespace {

constexpr int64_t kInfinite = std::numeric_limits<int64_t>::max() / 4;

// Flow through arcs; each has its reverse behind it.
class Network {
 public:
  explicit Network(int count) : arcs_of_(static_cast<size_t>(count)) {}

  void Add(int from, int to, int64_t capacity) {
    arcs_of_[from].push_back(static_cast<int>(arcs_.size()));
    arcs_.push_back({to, capacity});
    arcs_of_[to].push_back(static_cast<int>(arcs_.size()));
    arcs_.push_back({from, 0});
  }

  int64_t MaximumFlow(int source, int sink) {
    int64_t total = 0;
    while (total < kInfinite && FindLevels(source, sink)) {
      next_.assign(arcs_of_.size(), 0);
      while (total < kInfinite) {
        const int64_t flow = Augment(source, sink);
        if (flow == 0) break;
        total += flow;
      }
    }
    return total;
  }

  // The nodes from which more could flow to `sink`.
  std::vector<bool> Reaching(int sink) const {
    std::vector<bool> reached(arcs_of_.size(), false);
    std::vector<int> work{sink};
    reached[sink] = true;
    while (!work.empty()) {
      const int node = work.back();
      work.pop_back();
      for (int arc : arcs_of_[node]) {
        const int before = arcs_[arc].to;  // the arc's reverse comes from there
        if (reached[before] || arcs_[arc ^ 1].capacity == 0) continue;
        reached[before] = true;
        work.push_back(before);
      }
    }
    return reached;
  }

 private:
  struct Arc {
    int to;
    int64_t capacity;
  };

  bool FindLevels(int source, int sink) {
    level_.assign(arcs_of_.size(), -1);
    level_[source] = 0;
    std::vector<int> queue{source};
    for (size_t i = 0; i < queue.size(); ++i) {
      for (int arc : arcs_of_[queue[i]]) {
        if (arcs_[arc].capacity == 0 || level_[arcs_[arc].to] >= 0) continue;
        level_[arcs_[arc].to] = level_[queue[i]] + 1;
        queue.push_back(arcs_[arc].to);
      }
    }
    return level_[sink] >= 0;
  }

  // Sends what fits along one path of rising levels. A loop, not a recursion: graphs are deep.
  int64_t Augment(int source, int sink) {
    std::vector<int> path;  // arcs
    int node = source;
    while (node != sink) {
      bool advanced = false;
      for (size_t& i = next_[node]; i < arcs_of_[node].size(); ++i) {
        const Arc& arc = arcs_[arcs_of_[node][i]];
        if (arc.capacity == 0 || level_[arc.to] != level_[node] + 1) continue;
        path.push_back(arcs_of_[node][i]);
        node = arc.to;
        advanced = true;
        break;
      }
      if (advanced) continue;
      if (path.empty()) return 0;
      node = arcs_[path.back() ^ 1].to;  // a dead end
      path.pop_back();
      ++next_[node];
    }
    int64_t flow = kInfinite;
    for (int arc : path) flow = std::min(flow, arcs_[arc].capacity);
    for (int arc : path) {
      arcs_[arc].capacity -= flow;
      arcs_[arc ^ 1].capacity += flow;
    }
    return flow;
  }

  std::vector<Arc> arcs_;
  std::vector<std::vector<int>> arcs_of_;
  std::vector<int> level_;
  std::vector<size_t> next_;
};

}  // namespace

std::vector<int> MinimumVertexCut(const CutProblem& problem) {
  const int count = static_cast<int>(problem.weights.size());
  const int source = 2 * count, sink = 2 * count + 1;
  Network network(2 * count + 2);  // vertex v: 2v in front of its weight, 2v + 1 behind it
  for (int v = 0; v < count; ++v) {
    const int64_t weight = problem.weights[v];
    network.Add(2 * v, 2 * v + 1, weight == CutProblem::kNever ? kInfinite : weight);
  }
  for (const auto& [from, to] : problem.edges) network.Add(2 * from + 1, 2 * to, kInfinite);
  for (int v : problem.sources) network.Add(source, 2 * v, kInfinite);
  for (int v : problem.sinks) network.Add(2 * v + 1, sink, kInfinite);
  if (network.MaximumFlow(source, sink) >= kInfinite) return {};
  const std::vector<bool> behind = network.Reaching(sink);
  std::vector<int> cut;
  for (int v = 0; v < count; ++v) {
    if (behind[2 * v + 1] && !behind[2 * v]) cut.push_back(v);
  }
  return cut;
}

}  // namespace framejit

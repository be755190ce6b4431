#include "graph/autograd/engine_nodes.h"

#include <algorithm>
#include <queue>
#include <utility>

namespace framejit {
namespace {

// Nodes behind the ones they hand gradients to.
std::vector<int32_t> LeavesFirst(const EngineNodes& engine) {
  std::vector<int32_t> order;
  std::vector<bool> seen(engine.nodes.size(), false);
  std::vector<std::pair<int32_t, size_t>> open;  // a node, and how many of its next ones were looked at
  for (int32_t root : engine.roots) {
    if (!seen[static_cast<size_t>(root)]) open.emplace_back(root, 0);
    seen[static_cast<size_t>(root)] = true;
    while (!open.empty()) {
      auto& [node, looked_at] = open.back();
      const std::vector<int32_t>& next = engine.nodes[static_cast<size_t>(node)].next;
      if (looked_at == next.size()) {
        order.push_back(node);
        open.pop_back();
        continue;
      }
      const int32_t following = next[looked_at++];
      if (!seen[static_cast<size_t>(following)]) open.emplace_back(following, 0);
      seen[static_cast<size_t>(following)] = true;
    }
  }
  return order;
}

// By node. Where all is wanted, every node runs, whatever it leads to.
std::vector<bool> LeadingTo(const EngineNodes& engine, const std::vector<bool>& wanted) {
  const bool all = std::find(wanted.begin(), wanted.end(), false) == wanted.end();
  std::vector<bool> leads(engine.nodes.size(), all);
  if (all) return leads;
  std::vector<uint64_t> mask((wanted.size() + 63) / 64, 0);
  for (size_t i = 0; i < wanted.size(); ++i) mask[i / 64] |= uint64_t{wanted[i]} << (i % 64);
  const std::vector<std::vector<uint64_t>> purposes = engine.Purposes(wanted.size());
  for (size_t n = 0; n < leads.size(); ++n) {
    for (size_t word = 0; word < mask.size(); ++word) leads[n] = leads[n] || (purposes[n][word] & mask[word]) != 0;
  }
  return leads;
}

}  // namespace

std::vector<std::vector<uint64_t>> EngineNodes::Purposes(size_t input_count) const {
  std::vector<std::vector<uint64_t>> purposes(nodes.size(), std::vector<uint64_t>((input_count + 63) / 64, 0));
  for (int32_t index : LeavesFirst(*this)) {
    const EngineNode& node = nodes[static_cast<size_t>(index)];
    std::vector<uint64_t>& own = purposes[static_cast<size_t>(index)];
    if (node.input >= 0) own[static_cast<size_t>(node.input) / 64] |= uint64_t{1} << (node.input % 64);
    for (int32_t next : node.next) {
      for (size_t word = 0; word < own.size(); ++word) own[word] |= purposes[static_cast<size_t>(next)][word];
    }
  }
  return purposes;
}

std::vector<OutputMask> EngineNodes::Sources() const {
  std::vector<OutputMask> sources(nodes.size(), 0);
  for (size_t i = 0; i < roots.size(); ++i) sources[static_cast<size_t>(roots[i])] |= OutputMask{1} << i;
  const std::vector<int32_t> order = LeavesFirst(*this);
  for (auto index = order.rbegin(); index != order.rend(); ++index) {
    for (int32_t next : nodes[static_cast<size_t>(*index)].next)
      sources[static_cast<size_t>(next)] |= sources[static_cast<size_t>(*index)];
  }
  return sources;
}

// As Engine::execute does: a node is ready once everything that leads to it has run, and of the ready ones that with
// the highest sequence number runs; what accumulates into a leaf has the highest of all.
std::vector<int32_t> EngineNodes::Order(OutputMask given, const std::vector<bool>& wanted) const {
  std::vector<bool> leads = LeadingTo(*this, wanted);
  for (size_t i = 0; i < roots.size(); ++i) {
    if (given >> i & 1) leads[static_cast<size_t>(roots[i])] = true;  // it runs, or nobody would ask
  }
  const std::vector<OutputMask> sources = Sources();
  const auto runs = [&](int32_t node) {
    return (sources[static_cast<size_t>(node)] & given) != 0 && leads[static_cast<size_t>(node)];
  };
  std::vector<int32_t> waiting_for(nodes.size(), 0);
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!runs(static_cast<int32_t>(i))) continue;
    for (int32_t next : nodes[i].next) ++waiting_for[static_cast<size_t>(next)];
  }
  // The engine's own queue: of equal ones it decides alike.
  const auto later = [&](int32_t a, int32_t b) {
    return nodes[static_cast<size_t>(a)].sequence < nodes[static_cast<size_t>(b)].sequence;
  };
  std::priority_queue<int32_t, std::vector<int32_t>, decltype(later)> ready(later);
  std::vector<bool> is_root(nodes.size(), false);
  for (size_t i = 0; i < roots.size(); ++i) {
    const int32_t root = roots[i];
    if ((given >> i & 1) == 0 || is_root[static_cast<size_t>(root)] || !runs(root)) continue;
    is_root[static_cast<size_t>(root)] = true;
    if (waiting_for[static_cast<size_t>(root)] == 0) ready.push(root);
  }
  std::vector<int32_t> order;
  while (!ready.empty()) {
    const int32_t node = ready.top();
    ready.pop();
    order.push_back(node);
    for (int32_t next : nodes[static_cast<size_t>(node)].next) {
      if (--waiting_for[static_cast<size_t>(next)] == 0 && runs(next)) ready.push(next);
    }
  }
  return order;
}

}  // namespace framejit

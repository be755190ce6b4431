#include "frame_eval/offset_guards.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "base/switches.h"
#include "graph/fake/mutation.h"

namespace framejit {
namespace {

bool Mutates(const Graph& graph) {
  return std::any_of(graph.nodes.begin(), graph.nodes.end(),
                     [](const Node& node) { return MutatesArguments(node.op) || WritesRunningStatistics(node); });
}

bool ViewsMemory(const Graph& graph) {
  return std::any_of(graph.nodes.begin(), graph.nodes.end(),
                     [](const Node& node) { return absl::StartsWith(OperatorName(node.op), "aten::as_strided"); });
}

}  // namespace

GuardList WithOffsets(const GuardList& guards, const std::vector<SourceId>& inputs, const Graph& recorded) {
  const bool views = ViewsMemory(recorded);
  if (IsSwitchedOff("alias", "StorageOffset") || !(views || Mutates(recorded))) return guards;
  absl::flat_hash_set<int32_t> returned;
  for (ValueId id : recorded.outputs) {
    if (id != kNoValue) returned.insert(recorded.meta(id).storage);
  }
  absl::flat_hash_set<SourceId> placed;
  for (size_t i = 0; i < inputs.size() && i < recorded.inputs.size(); ++i) {
    if (views || returned.contains(recorded.meta(recorded.inputs[i]).storage)) placed.insert(inputs[i]);
  }
  GuardList all;
  for (Guard guard : guards.guards()) {
    if (guard.kind == GuardKind::kTensorMatches && placed.contains(guard.source)) guard.number = 1;
    all.Add(std::move(guard));
  }
  return all;
}

}  // namespace framejit

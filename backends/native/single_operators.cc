#include "backends/native/single_operators.h"

#include <string>

#include "graph/print.h"

namespace framejit::native {
namespace {

// The dispatcher costs what so many elements do.
constexpr int64_t kFewElements = 4096;

class Finder {
 public:
  Finder(const GraphFacts& facts, const std::vector<NodeKind>& kinds) : facts_(facts), kinds_(kinds) {}

  bool IsFasterInAten(const Node& node) const {
    const ValueId out = node.outputs[0];
    if (out == kNoValue || facts_.graph.meta(out).numel() < kFewElements) return false;
    return (IsOfBytes(node) || HasFasterFunction(node)) && IsAlone(node);
  }

 private:
  bool IsByte(ValueId id) const { return c10::elementSize(facts_.graph.meta(id).dtype) == 1; }

  bool IsOfBytes(const Node& node) const {
    bool bytes = IsByte(node.outputs[0]);
    ForEachOperandValue(node, [&](const ValueId& id) { bytes = bytes && IsByte(id); });
    return bytes;
  }

  bool HasFasterFunction(const Node& node) const {
    const std::string name = OperatorName(node.op);
    const at::ScalarType type = facts_.graph.meta(node.outputs[0]).dtype;
    if (name == "aten::erfc") return type == at::kFloat || type == at::kDouble;
    return name == "aten::sign" && (c10::isIntegralType(type, /*includeBool=*/false) || type == at::kDouble);
  }

  // No neighbour could share a kernel with it, not even behind a view.
  bool IsAlone(const Node& node) const {
    bool alone = true;
    const auto look = [&](int32_t n) {
      alone = alone && (n < 0 || &facts_.graph.nodes[static_cast<size_t>(n)] == &node ||
                        kinds_[static_cast<size_t>(n)] == NodeKind::kLibrary);
    };
    const auto look_around = [&](const ValueId& id) {
      look(facts_.producers[static_cast<size_t>(id)]);
      for (int32_t user : facts_.users[static_cast<size_t>(id)]) look(user);
    };
    ForEachOperandValue(node, look_around);
    look_around(node.outputs[0]);
    return alone;
  }

  const GraphFacts& facts_;
  const std::vector<NodeKind>& kinds_;
};

}  // namespace

std::vector<int32_t> FasterInAten(const GraphFacts& facts, const std::vector<NodeKind>& kinds) {
  std::vector<int32_t> found;
  if (!facts.device.is_cpu()) return found;
  const Finder finder(facts, kinds);
  for (size_t n = 0; n < kinds.size(); ++n) {
    if (kinds[n] == NodeKind::kPointwise && finder.IsFasterInAten(facts.graph.nodes[n])) {
      found.push_back(static_cast<int32_t>(n));
    }
  }
  return found;
}

}  // namespace framejit::native

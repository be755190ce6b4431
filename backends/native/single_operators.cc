#include "backends/native/single_operators.h"

#include <string>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "graph/print.h"

namespace framejit::native {
namespace {

// The dispatcher costs what so many elements do.
constexpr int64_t kFewElements = 4096;
// Operands and result that the caches of one core do not hold; memory bounds what such operators take.
constexpr int64_t kBeyondCaches = 4 << 20;

class Finder {
 public:
  Finder(const GraphFacts& facts, const std::vector<NodeKind>& kinds) : facts_(facts), kinds_(kinds) {}

  bool IsFasterInAten(const Node& node) const {
    const ValueId out = node.outputs[0];
    if (out == kNoValue || facts_.graph.meta(out).numel() < kFewElements) return false;
    const bool moves = Bytes(out) < static_cast<int64_t>(kHugePagedBytes) && (IsOfBytes(node) || IsMoveOfMemory(node));
    return (moves || HasFasterFunction(node)) && IsAlone(node);
  }

 private:
  int64_t Bytes(ValueId id) const {
    const TensorMeta& meta = facts_.graph.meta(id);
    return meta.numel() * static_cast<int64_t>(c10::elementSize(meta.dtype));
  }

  bool IsByte(ValueId id) const { return c10::elementSize(facts_.graph.meta(id).dtype) == 1; }

  bool IsOfBytes(const Node& node) const {
    bool bytes = IsByte(node.outputs[0]);
    ForEachOperandValue(node, [&](const ValueId& id) { bytes = bytes && IsByte(id); });
    return bytes;
  }

  bool HasFasterFunction(const Node& node) const {
    const std::string name = OperatorName(node.op);
    const at::ScalarType type = facts_.graph.meta(node.outputs[0]).dtype;
    const bool wide_float = type == at::kFloat || type == at::kDouble;
    if (name == "aten::erfc") return wide_float;
    return name == "aten::sign" && (wide_float || c10::isIntegralType(type, /*includeBool=*/false));
  }

  // An operator whose loop in ATen does no more than load, one instruction and store: of 16 bits, which our vectors
  // hold in 32, or of so much memory that the processor waits for it (with vectors of 512 bits a little longer). One
  // that changes its operand stays ours: a kernel writes the operand itself.
  bool IsMoveOfMemory(const Node& node) const {
    static const auto* moves = new absl::flat_hash_set<std::string>{"aten::abs", "aten::clone", "aten::neg"};
    static const auto* arithmetic = new absl::flat_hash_set<std::string>{
        "aten::add",     "aten::bitwise_and", "aten::bitwise_or", "aten::bitwise_xor",
        "aten::clamp",   "aten::clamp_max",   "aten::clamp_min",  "aten::maximum",
        "aten::minimum", "aten::mul",         "aten::relu",       "aten::sub"};
    const std::string overload = OperatorName(node.op);
    const absl::string_view name = absl::string_view(overload).substr(0, overload.find('.'));
    const bool move = moves->contains(name);
    if ((!move && !arithmetic->contains(name)) || IsWritten(node.outputs[0])) return false;
    const TensorMeta& out = facts_.graph.meta(node.outputs[0]);
    bool alike = true;
    int64_t tensors = 1;
    ForEachOperandValue(node, [&](const ValueId& id) {
      if (facts_.ScalarConstant(id).has_value()) return;
      const TensorMeta& meta = facts_.graph.meta(id);
      alike = alike && meta.dtype == out.dtype && meta.sizes == out.sizes && meta.strides == out.strides;
      ++tensors;
    });
    if (!alike) return false;
    if (out.dtype == at::kShort) return true;
    if (c10::isReducedFloatingType(out.dtype)) return move;
    return tensors * Bytes(node.outputs[0]) > kBeyondCaches;
  }

  bool IsWritten(ValueId id) const {
    return absl::c_any_of(facts_.graph.mutations, [&](const InputMutation& mutation) { return mutation.value == id; });
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

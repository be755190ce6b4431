// See schedule.h. A node's pass is the first in which all its operands exist; reductions feed the pass after theirs.
#include "backends/loop/schedule.h"

#include <algorithm>

namespace framejit::loop {
namespace {

// Recomputing below this many instructions per vector is about as cheap as a store and a load.
constexpr int kKeepCost = 8;

class Scheduler {
 public:
  Scheduler(const Kernel& kernel, int64_t row_buffer_bytes) : kernel_(kernel), bytes_left_(row_buffer_bytes) {}

  Schedule Run() {
    const size_t count = kernel_.nodes.size();
    out_.is_element.resize(count);
    out_.first_pass.resize(count);
    for (size_t id = 0; id < count; ++id) Place(static_cast<ValueId>(id));
    ChooseKept();
    for (size_t pass = 0; pass < out_.passes.size(); ++pass) FillPass(static_cast<int>(pass));
    return std::move(out_);
  }

 private:
  void Place(ValueId id) {
    const Node& node = kernel_.nodes[id];
    int pass = 0;
    bool element = node.op == Op::kIndex && node.attr + 1 == static_cast<int64_t>(kernel_.dims.size());
    for (int i = 0; i < OperandCount(node.op); ++i) {
      const ValueId operand = node.operands[i];
      const bool reduced = IsReduction(kernel_.nodes[operand].op);
      pass = std::max(pass, out_.first_pass[operand] + (reduced ? 1 : 0));
      element |= out_.is_element[operand];
    }
    if (node.op == Op::kLoad || node.op == Op::kStore) element = kernel_.accesses[node.attr].strides.back() != 0;
    if (IsReduction(node.op)) element = false;
    out_.is_element[id] = element;
    out_.first_pass[id] = pass;
    while (static_cast<int>(out_.passes.size()) <= pass) out_.passes.emplace_back();
  }

  bool InLoop(ValueId id) const { return out_.is_element[id] || IsReduction(kernel_.nodes[id].op); }

  // Instructions to compute an element value again from memory, row values and what is kept.
  int RecomputeCost(ValueId id) const {
    const Node& node = kernel_.nodes[id];
    if (IsKept(id)) return 1;
    int cost = OpCost(kernel_, node);
    for (int i = 0; i < OperandCount(node.op); ++i) {
      if (out_.is_element[node.operands[i]]) cost += RecomputeCost(node.operands[i]);
      if (cost > kKeepCost) return cost;  // enough to decide, and keeps shared subtrees from being walked many times
    }
    return cost;
  }

  // Values that nodes of a later pass use directly, most worthwhile first come by SSA order.
  void ChooseKept() {
    std::vector<bool> crosses(kernel_.nodes.size());
    for (size_t id = 0; id < kernel_.nodes.size(); ++id) {
      const Node& node = kernel_.nodes[id];
      if (!InLoop(static_cast<ValueId>(id))) continue;
      for (int i = 0; i < OperandCount(node.op); ++i) {
        const ValueId operand = node.operands[i];
        if (out_.is_element[operand] && out_.first_pass[operand] < out_.first_pass[id])
          crosses[Narrowest(operand)] = true;
      }
    }
    for (size_t id = 0; id < crosses.size(); ++id) {
      if (!crosses[id] || RecomputeCost(static_cast<ValueId>(id)) <= kKeepCost) continue;
      if (IsOpen(kernel_.inner_size())) continue;  // it may be too long
      const int64_t bytes = kernel_.inner_size() * std::max<int64_t>(4, DTypeBytes(kernel_.nodes[id].dtype));
      if (bytes > bytes_left_) continue;
      bytes_left_ -= bytes;
      out_.kept.push_back(static_cast<ValueId>(id));
    }
  }

  // What the value is cast from without loss, which takes less room.
  ValueId Narrowest(ValueId id) const {
    const Node& node = kernel_.nodes[id];
    if (node.op != Op::kCast || !IsFloat(node.dtype)) return id;
    const DType from = kernel_.nodes[node.operands[0]].dtype;
    const bool is_floating = IsFloat(from) || ClassOf(from) == DTypeClass::kNarrowFloat;
    return is_floating && DTypeBytes(from) < DTypeBytes(node.dtype) ? Narrowest(node.operands[0]) : id;
  }

  bool IsKept(ValueId id) const { return std::binary_search(out_.kept.begin(), out_.kept.end(), id); }

  void FillPass(int pass_index) {
    Pass& pass = out_.passes[pass_index];
    std::vector<bool> needed(kernel_.nodes.size());
    for (ValueId id = static_cast<ValueId>(kernel_.nodes.size()) - 1; id >= 0; --id) {
      const Node& node = kernel_.nodes[id];
      const bool here = out_.first_pass[id] == pass_index;
      if (!InLoop(id)) {
        if (here) pass.row_nodes.push_back(id);
        continue;
      }
      if (IsReduction(node.op) && !here) continue;  // its result is a row value by now
      const bool root = here && (IsReduction(node.op) || node.op == Op::kStore || IsKept(id));
      if (!root && !needed[id]) continue;
      if (IsKept(id) && !here) {
        pass.reloaded.push_back(id);
        continue;
      }
      if (IsKept(id)) pass.kept.push_back(id);
      pass.elements.push_back(id);
      for (int i = 0; i < OperandCount(node.op); ++i) needed[node.operands[i]] = true;
    }
    for (auto* list : {&pass.row_nodes, &pass.elements, &pass.reloaded, &pass.kept}) {
      std::reverse(list->begin(), list->end());
    }
  }

  const Kernel& kernel_;
  int64_t bytes_left_;
  Schedule out_;
};

}  // namespace

int OpCost(const Kernel& kernel, const Node& node) {
  switch (node.op) {
    case Op::kConst:
    case Op::kIndex:
      return 0;
    case Op::kLoad:
    case Op::kStore: {
      const int64_t stride = kernel.accesses[node.attr].strides.back();
      return stride == 1 || stride == 0 ? 1 : 16;
    }
    case Op::kCast:
    case Op::kNeg:
    case Op::kAbs:
    case Op::kFloor:
    case Op::kCeil:
    case Op::kRound:
    case Op::kTrunc:
    case Op::kAdd:
    case Op::kSub:
    case Op::kMul:
    case Op::kNot:
    case Op::kAnd:
    case Op::kOr:
    case Op::kXor:
    case Op::kEq:
    case Op::kNe:
    case Op::kLt:
    case Op::kLe:
    case Op::kGt:
    case Op::kGe:
    case Op::kSelect:
    case Op::kReduceSum:
    case Op::kReduceProd:
      return 1;
    case Op::kMin:
    case Op::kMax:
    case Op::kReduceMax:
    case Op::kReduceMin:
      return 3;
    case Op::kSqrt:
    case Op::kRsqrt:
    case Op::kReciprocal:
    case Op::kDiv:
      return 8;
    case Op::kExp:
    case Op::kExpm1:
    case Op::kLog:
    case Op::kLog1p:
    case Op::kTanh:
    case Op::kSigmoid:
    case Op::kErf:
    case Op::kSin:
    case Op::kCos:
      return 24;
    case Op::kGelu:
    case Op::kNormalCdf:
    case Op::kExpNonPositive:
      return 20;
    case Op::kExp2:
    case Op::kLog2:
    case Op::kLog10:
    case Op::kErfc:
    case Op::kTan:
    case Op::kAsin:
    case Op::kAcos:
    case Op::kAtan:
    case Op::kSinh:
    case Op::kCosh:
    case Op::kPow:
    case Op::kAtan2:
    case Op::kFmod:
      return 200;
  }
  return 1;
}

Schedule MakeSchedule(const Kernel& kernel, int64_t row_buffer_bytes) {
  return Scheduler(kernel, row_buffer_bytes).Run();
}

}  // namespace framejit::loop

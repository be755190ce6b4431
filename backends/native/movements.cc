#include "backends/native/movements.h"

#include <c10/core/WrapDimMinimal.h>

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "backends/native/node_splitter.h"
#include "graph/passes/execute.h"
#include "graph/print.h"

namespace framejit::native {
namespace {

using Sizes = c10::DimVector;

class MovementSplitter : public NodeSplitter {
 public:
  using NodeSplitter::NodeSplitter;

 protected:
  bool Applies(const Node& node) const override {
    if (facts_->TouchesWritten(node) || node.outputs[0] == kNoValue) return false;
    const TensorMeta& out = graph_.meta(node.outputs[0]);
    bool plain = out.numel() > 0 && out.is_contiguous() && out.storage_offset == 0;
    ForEachOperandValue(node, [&](const ValueId& id) {
      plain = plain && graph_.meta(id).dtype == out.dtype && graph_.meta(id).numel() > 0;
    });
    return plain && Fits(node);
  }
  virtual bool Fits(const Node& /*node*/) const { return true; }

  const TensorMeta& Input(const Node& node) const { return graph_.meta(node.operands[0].value); }

  // The new node's result, whose metadata its operator tells: a view of its first operand, or memory of its own.
  ValueId Emit(const Node& origin, const char* name, absl::InlinedVector<Operand, 4> operands) {
    const bool is_view = std::string_view(name) != "aten::clone";
    const TensorMeta base = is_view ? graph_.meta(operands[0].value) : TensorMeta();
    TensorMeta meta;
    meta.device = graph_.meta(origin.outputs[0]).device;
    const ValueId result = is_view ? graph_.AddValue(meta) : New(meta);
    Add(name, origin, std::move(operands), result);
    const at::Tensor shape = ExecuteOnMeta(graph_.nodes.back(), graph_).at(0).toTensor();
    TensorMeta& made = graph_.values[static_cast<size_t>(result)];
    made.dtype = shape.scalar_type();
    made.sizes = Sizes(shape.sizes());
    made.strides = Sizes(shape.strides());
    if (!is_view) return result;
    made.storage = base.storage;
    made.storage_offset = base.storage_offset + shape.storage_offset();  // of a tensor that began at zero
    return result;
  }

  static Operand Int(int64_t number) { return Operand::Constant(number); }
  static Operand List(const Sizes& sizes) { return Operand::Constant(c10::List<int64_t>(c10::IntArrayRef(sizes))); }
  ValueId Slice(const Node& origin, ValueId x, int64_t dim, int64_t begin, int64_t end) {
    return Emit(origin, "aten::slice.Tensor", {Operand::Value(x), Int(dim), Int(begin), Int(end), Int(1)});
  }
  ValueId Unsqueeze(const Node& origin, ValueId x, int64_t dim) {
    return Emit(origin, "aten::unsqueeze", {Operand::Value(x), Int(dim)});
  }
  // A contiguous copy of the value, seen with the result's sizes.
  void CopyInto(const Node& node, ValueId value) {
    const Operand format = Int(static_cast<int64_t>(at::MemoryFormat::Contiguous));
    const ValueId copy = Emit(node, "aten::clone", {Operand::Value(value), format});
    // No view to whoever gets it.
    Add("aten::_unsafe_view", node, {Operand::Value(copy), List(graph_.meta(node.outputs[0]).sizes)}, node.outputs[0]);
    graph_.values[static_cast<size_t>(node.outputs[0])].storage = graph_.meta(copy).storage;
  }
  void Concatenate(const Node& node, std::vector<ValueId> parts, int64_t dim, ValueId out) {
    Add("aten::cat", node, {Operand::ValueList(std::move(parts)), Int(dim)}, out);
  }
};

// stack(tensors, dim)
class StackSplitter : public MovementSplitter {
 public:
  explicit StackSplitter(Graph& graph) : MovementSplitter(graph, "aten::stack") {}

 private:
  void Split(const Node& node) override {
    const int64_t rank = static_cast<int64_t>(graph_.meta(node.outputs[0]).sizes.size());
    const int64_t dim = c10::maybe_wrap_dim(node.operands[1].constant.toInt(), rank);
    std::vector<ValueId> parts;
    for (ValueId id : node.operands[0].values) parts.push_back(Unsqueeze(node, id, dim));
    Concatenate(node, std::move(parts), dim, node.outputs[0]);
  }
};

// roll(self, shifts, dims) along one dimension
class RollSplitter : public MovementSplitter {
 public:
  explicit RollSplitter(Graph& graph) : MovementSplitter(graph, "aten::roll") {}

 private:
  bool Fits(const Node& node) const override {
    return node.operands[1].constant.toIntVector().size() == 1 && node.operands[2].constant.toIntVector().size() == 1 &&
           Shift(node) != 0;
  }

  int64_t Dim(const Node& node) const {
    return c10::maybe_wrap_dim(node.operands[2].constant.toIntVector()[0],
                               static_cast<int64_t>(Input(node).sizes.size()));
  }
  int64_t Shift(const Node& node) const {
    const int64_t size = Input(node).sizes[static_cast<size_t>(Dim(node))];
    return (node.operands[1].constant.toIntVector()[0] % size + size) % size;
  }

  void Split(const Node& node) override {
    const ValueId x = node.operands[0].value;
    const int64_t dim = Dim(node), size = Input(node).sizes[static_cast<size_t>(dim)], begin = size - Shift(node);
    std::vector<ValueId> parts = {Slice(node, x, dim, begin, size), Slice(node, x, dim, 0, begin)};
    Concatenate(node, std::move(parts), dim, node.outputs[0]);
  }
};

// constant_pad_nd(self, pad, value) of one dimension; where it is cut instead, a part of it is taken
class PadSplitter : public MovementSplitter {
 public:
  explicit PadSplitter(Graph& graph) : MovementSplitter(graph, "aten::constant_pad_nd") {}

 private:
  struct Padding {
    int64_t dim = -1, before = 0, after = 0;
  };

  // Of the one dimension that is padded; dim is -1 where there are more, or none.
  Padding PaddingOf(const Node& node) const {
    const std::vector<int64_t> pad = node.operands[1].constant.toIntVector();
    Padding found;
    for (size_t i = 0; i + 1 < pad.size(); i += 2) {
      if (pad[i] == 0 && pad[i + 1] == 0) continue;
      if (found.dim >= 0) return {};
      const int64_t rank = static_cast<int64_t>(Input(node).sizes.size());
      found = {rank - 1 - static_cast<int64_t>(i / 2), pad[i], pad[i + 1]};
    }
    return found;
  }

  bool Fits(const Node& node) const override {
    const Padding padding = PaddingOf(node);
    return padding.dim >= 0 && (padding.before > 0 || padding.after > 0) && node.operands[2].constant.isScalar();
  }

  void Split(const Node& node) override {
    const Padding padding = PaddingOf(node);
    const ValueId x = node.operands[0].value;
    const int64_t size = graph_.meta(x).sizes[static_cast<size_t>(padding.dim)];
    const int64_t begin = std::max<int64_t>(0, -padding.before), end = size - std::max<int64_t>(0, -padding.after);
    std::vector<ValueId> parts;
    if (padding.before > 0) parts.push_back(Filled(node, padding, padding.before));
    const bool whole = begin == 0 && end == size;
    parts.push_back(whole ? x : Slice(node, x, padding.dim, begin, end));
    if (padding.after > 0) parts.push_back(Filled(node, padding, padding.after));
    Concatenate(node, std::move(parts), padding.dim, node.outputs[0]);
  }

  ValueId Filled(const Node& node, const Padding& padding, int64_t size) {
    const TensorMeta out = graph_.meta(node.outputs[0]);
    Sizes sizes = out.sizes;
    sizes[static_cast<size_t>(padding.dim)] = size;
    const ValueId filled = NewContiguous(node.outputs[0], sizes, out.dtype);
    Add("aten::full", node,
        {List(sizes), node.operands[2], Operand::Constant(static_cast<int64_t>(out.dtype)),
         Operand::Constant(static_cast<int64_t>(c10::kStrided)), Operand::Constant(out.device),
         Operand::Constant(false)},
        filled);
    return filled;
  }
};

// repeat(self, repeats)
class RepeatSplitter : public MovementSplitter {
 public:
  explicit RepeatSplitter(Graph& graph) : MovementSplitter(graph, "aten::repeat") {}

 private:
  void Split(const Node& node) override {
    const std::vector<int64_t> repeats = node.operands[1].constant.toIntVector();
    ValueId x = node.operands[0].value;
    const size_t rank = Input(node).sizes.size(), added = repeats.size() - rank;
    for (size_t i = 0; i < added; ++i) x = Unsqueeze(node, x, 0);
    Sizes expanded;
    for (size_t d = 0; d < repeats.size(); ++d) {
      if (repeats[d] != 1) {
        x = Unsqueeze(node, x, static_cast<int64_t>(expanded.size()));
        expanded.push_back(repeats[d]);
      }
      expanded.push_back(d < added ? 1 : graph_.meta(node.operands[0].value).sizes[d - added]);
    }
    CopyInto(node, Emit(node, "aten::expand", {Operand::Value(x), List(expanded), Operand::Constant(false)}));
  }
};

// pixel_shuffle(self, factor) of [..., C r r, H, W] to [..., C, H r, W r], and back
class PixelSplitter : public MovementSplitter {
 public:
  PixelSplitter(Graph& graph, const char* name, bool back) : MovementSplitter(graph, name), back_(back) {}

 private:
  bool Fits(const Node& node) const override { return Input(node).is_contiguous(); }

  void Split(const Node& node) override {
    const int64_t factor = node.operands[1].constant.toInt();
    const TensorMeta& narrow = graph_.meta(back_ ? node.outputs[0] : node.operands[0].value);
    const int64_t rank = static_cast<int64_t>(narrow.sizes.size());
    const int64_t height = narrow.sizes[rank - 2], width = narrow.sizes[rank - 1];
    Sizes parts(narrow.sizes.begin(), narrow.sizes.end() - 3), order;
    parts.push_back(narrow.sizes[rank - 3] / (factor * factor));
    for (int64_t d = 0; d < rank - 2; ++d) order.push_back(d);
    const auto append = [](Sizes& list, std::initializer_list<int64_t> more) { list.append(more); };
    append(parts, back_ ? std::initializer_list<int64_t>{height, factor, width, factor}
                        : std::initializer_list<int64_t>{factor, factor, height, width});
    const int64_t next = rank - 2;
    append(order, back_ ? std::initializer_list<int64_t>{next + 1, next + 3, next, next + 2}
                        : std::initializer_list<int64_t>{next + 2, next, next + 3, next + 1});
    const ValueId seen = Emit(node, "aten::view", {node.operands[0], List(parts)});
    CopyInto(node, Emit(node, "aten::permute", {Operand::Value(seen), List(order)}));
  }

  const bool back_;
};

}  // namespace

void SplitMovements(Graph& graph) {
  StackSplitter(graph).Run();
  RollSplitter(graph).Run();
  PadSplitter(graph).Run();
  RepeatSplitter(graph).Run();
  PixelSplitter(graph, "aten::pixel_shuffle", /*back=*/false).Run();
  PixelSplitter(graph, "aten::pixel_unshuffle", /*back=*/true).Run();
}

}  // namespace framejit::native

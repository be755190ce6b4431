// Turns one graph node into loop IR: the semantics of ATen's pointwise operators and row reductions. Which nodes share
// a kernel, and how their operands are addressed, is decided by fusion and kernel_lowering.
#ifndef FRAMEJIT_BACKENDS_NATIVE_EMITTER_H_
#define FRAMEJIT_BACKENDS_NATIVE_EMITTER_H_

#include <functional>
#include <optional>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "backends/loop/builder.h"
#include "backends/native/facts.h"

namespace framejit::native {

enum class NodeKind : uint8_t {
  kLibrary,    // runs through ATen
  kView,       // metadata only
  kPointwise,  // each output element depends on the operands' elements at the same (broadcast) position
  kRow,        // reduces the trailing dimensions of operand 0, or normalises over them
};

// How a row operator reduces operand 0.
struct RowShape {
  std::vector<int64_t> dims;  // reduced, ascending; none: ATen's
};

// Which dimension of the node's shape the operand's first dimension lies on; kAlignRight: broadcasting's rule.
inline constexpr int kAlignRight = -1;

class Emitter {
 public:
  struct Callbacks {
    // The value in its stored dtype at the current position.
    std::function<loop::ValueId(ValueId, int align)> load;
    // Position along a dimension of the node's output.
    std::function<loop::ValueId(int64_t dim)> index;
  };
  Emitter(const GraphFacts& facts, loop::KernelBuilder& builder, Callbacks callbacks)
      : facts_(facts), builder_(builder), callbacks_(std::move(callbacks)) {}

  // One loop value per node output, each in the stored dtype of that output (kNoValue: an output nobody may use).
  // Nullopt: the node is not expressible, and runs through ATen.
  std::optional<absl::InlinedVector<loop::ValueId, 3>> Emit(const Node& node);

  // An operand as the rules of emitter_ops.cc see it.
  struct Arg {
    bool is_number = false;
    c10::Scalar number;
    at::ScalarType dtype = at::ScalarType::Undefined;
    int64_t numel = 1;
    loop::ValueId value = loop::kNoValue;
  };
  const Node& node() const { return *node_; }
  const GraphFacts& facts() const { return facts_; }
  bool strict() const { return facts_.graph.modes.strict; }
  loop::KernelBuilder& b() { return builder_; }
  const TensorMeta& out_meta(size_t output = 0) const { return facts_.graph.meta(node_->outputs[output]); }
  at::ScalarType out() const { return out_meta().dtype; }
  const c10::IValue& constant(size_t operand) const { return node_->operands[operand].constant; }
  bool IsNone(size_t operand) const;
  const TensorMeta& operand_meta(size_t operand) const { return facts_.graph.meta(node_->operands[operand].value); }
  Arg Get(size_t operand, int align = kAlignRight);
  void AddTo(Promotion& promotion, size_t operand) const;
  at::ScalarType Common(std::initializer_list<size_t> operands) const;
  // Cast to `common` as ATen does before its kernel runs, then to the type the kernel computes in. With
  // `exact_number`, a zero-dimensional operand keeps float precision under a reduced `common`.
  loop::ValueId As(const Arg& arg, at::ScalarType common, bool exact_number = false);
  loop::ValueId As(size_t operand, at::ScalarType common) { return As(Get(operand), common); }
  loop::ValueId Number(double value, at::ScalarType common);  // in the compute type, not rounded to `common`
  loop::ValueId NumberOperand(size_t operand, at::ScalarType common);
  loop::ValueId Index(int64_t dim) { return callbacks_.index(dim); }
  // Marks the node as not expressible; the value returned keeps emission going.
  loop::ValueId Fail();
  bool failed() const { return failed_; }

 private:
  loop::ValueId NumberAs(const c10::Scalar& number, at::ScalarType common, bool exact_number);

  const GraphFacts& facts_;
  loop::KernelBuilder& builder_;
  Callbacks callbacks_;
  const Node* node_ = nullptr;
  bool failed_ = false;
};

class Trials;  // alike.h

// By operator name, operand dtypes and layout; decides with a trial emission, so that it agrees with Emit.
NodeKind Classify(const GraphFacts& facts, const Node& node, Trials& trials);
RowShape RowShapeOf(const GraphFacts& facts, const Node& node);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_EMITTER_H_

// The table of operators that become loop IR: name, kind, and the function that emits it.
#ifndef FRAMEJIT_BACKENDS_NATIVE_EMITTER_RULES_H_
#define FRAMEJIT_BACKENDS_NATIVE_EMITTER_RULES_H_

#include <string>
#include <vector>

#include "backends/native/emitter.h"

namespace framejit::native {

using EmitResults = absl::InlinedVector<loop::ValueId, 3>;

// Where what is emitted computes the bits that ATen's kernel computes; elsewhere a strict graph leaves it to ATen.
enum class Exact : uint8_t {
  kNever,     // another order of additions, another approximation, or products and sums that ATen's kernel contracts
  kIntegers,  // where the result is of an integer type or bool
  kAlways,    // but for what the function itself refuses (Emitter::strict)
};

struct EmitRule {
  NodeKind kind = NodeKind::kPointwise;
  EmitResults (*emit)(Emitter&) = nullptr;
  int dims_operand = -1;          // kRow: the operand that names the dimensions; -1: all of them
  bool trailing_dims = false;     // kRow: that operand is a shape, whose length counts the trailing dimensions
  bool empty_means_none = false;  // kRow: no dimensions given is no reduction, instead of one over all
  int operand_dim = kAlignRight;  // where the first dimension of operands after the first lies
  Exact exact = Exact::kNever;
};

constexpr EmitRule AsExact(EmitRule rule) {
  rule.exact = Exact::kAlways;
  return rule;
}

// Null where ATen runs the operator.
const EmitRule* FindEmitRule(const c10::OperatorHandle& op);

// Operators whose rule does not always compute the bits that ATen's kernel computes.
std::vector<std::string> InexactOperators();

// The parts of the table.
struct NamedRule {
  const char* name;
  EmitRule rule;
};
c10::ArrayRef<NamedRule> PointwiseRules();   // emitter_pointwise.cc
c10::ArrayRef<NamedRule> ActivationRules();  // emitter_activations.cc
c10::ArrayRef<NamedRule> RowRules();         // emitter_rows.cc
c10::ArrayRef<NamedRule> GradientRules();    // emitter_gradients.cc

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_EMITTER_RULES_H_

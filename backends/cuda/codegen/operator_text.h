// Types and operators of the loop IR as CUDA C++ expressions; what they call is declared by the prelude.
#ifndef FRAMEJIT_BACKENDS_CUDA_CODEGEN_OPERATOR_TEXT_H_
#define FRAMEJIT_BACKENDS_CUDA_CODEGEN_OPERATOR_TEXT_H_

#include <string>

#include "backends/loop/loop_ir.h"

namespace framejit::cuda {

// Type of a value; `memory`: of an element in a buffer.
const char* TypeText(loop::DType dtype, bool memory = false);
// `x`, `y`, `z`: the operands; `from`: type of the first.
std::string OperatorText(const loop::Node& node, loop::DType from, const std::string& x, const std::string& y,
                         const std::string& z);
// Of operators for which the machine has an approximation; empty for others.
std::string ApproximateText(loop::Op op, const std::string& x, const std::string& y);
// The structure of the prelude that combines two values, and the value that changes nothing.
const char* ReductionName(loop::Op op);
std::string IdentityText(const loop::Node& reduction);

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_CODEGEN_OPERATOR_TEXT_H_

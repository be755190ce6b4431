#include "bytecode/code_writer.h"

#include <optional>
#include <utility>

namespace framejit {

CodeWriter::CodeWriter(PyObject* consts) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(consts); ++i) {
    constants_.push_back(PyRef::Borrow(PyTuple_GET_ITEM(consts, i)));
  }
}

CodeWriter::Label CodeWriter::NewLabel() { return NewLabels(1); }

CodeWriter::Label CodeWriter::NewLabels(int count) {
  positions_.insert(positions_.end(), count, -1);
  return static_cast<Label>(positions_.size()) - count;
}

void CodeWriter::Emit(Opcode opcode, int oparg) {
  assembly_.instructions.push_back({.opcode = opcode, .oparg = oparg, .span = span_});
}

void CodeWriter::EmitNamed(std::string_view name, int oparg) {
  std::optional<Opcode> opcode = FindOpcode(name);
  failed_ |= !opcode.has_value();
  Emit(opcode.value_or(Opcode::k_NOP), oparg);
}

void CodeWriter::EmitJump(Opcode opcode, Label target) {
  assembly_.instructions.push_back({.opcode = opcode, .target = target, .span = span_});
}

void CodeWriter::EmitCopy(const AssemblyInstruction& instruction, Label target) {
  assembly_.instructions.push_back(instruction);
  assembly_.instructions.back().target = target;
}

void CodeWriter::LoadConstant(const PyRef& constant) {
  failed_ |= !constant;
  Emit(Opcode::k_LOAD_CONST, static_cast<int>(constants_.size()));
  constants_.push_back(constant);
}

void CodeWriter::LoadIndex(int index) {
  if (static_cast<size_t>(index) >= index_constants_.size()) index_constants_.resize(index + 1, -1);
  int& constant = index_constants_[index];
  if (constant >= 0) return Emit(Opcode::k_LOAD_CONST, constant);
  constant = static_cast<int>(constants_.size());
  LoadConstant(PyRef::Steal(PyLong_FromLong(index)));
}

void CodeWriter::AddHandler(Label begin, Label end, Label target, int depth, bool push_lasti) {
  assembly_.handlers.push_back({begin, end, target, depth, push_lasti});
}

absl::Status CodeWriter::Resolve() {
  bool bound = true;
  auto resolve = [&](int& label) {
    label = positions_[label];
    bound &= label >= 0;
  };
  for (AssemblyInstruction& instruction : assembly_.instructions) {
    if (instruction.target >= 0) resolve(instruction.target);
  }
  for (AssemblyHandler& handler : assembly_.handlers) {
    resolve(handler.begin);
    resolve(handler.end);
    resolve(handler.target);
  }
  return bound ? absl::OkStatus() : absl::InternalError("a label was never bound");
}

absl::StatusOr<PyRef> CodeWriter::Constants() {
  PyRef consts = PyRef::Steal(PyTuple_New(static_cast<Py_ssize_t>(constants_.size())));
  if (!consts || failed_) {
    PyErr_Clear();
    return absl::InternalError("a constant could not be made, or an opcode is missing");
  }
  for (size_t i = 0; i < constants_.size(); ++i) {
    PyTuple_SET_ITEM(consts.get(), static_cast<Py_ssize_t>(i), constants_[i].release());
  }
  return consts;
}

absl::StatusOr<CodeWriter::Finished> CodeWriter::Finish() {
  absl::Status status = Resolve();
  if (!status.ok()) return status;
  absl::StatusOr<PyRef> consts = Constants();
  if (!consts.ok()) return consts.status();
  return Finished{std::move(assembly_), *std::move(consts)};
}

}  // namespace framejit

#include "bytecode/encode.h"

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bytecode/exception_table.h"
#include "bytecode/stack_depth.h"
#include "bytecode/verify.h"
#include "frame_eval/cpython/shim.h"

namespace framejit {
namespace {

constexpr int kOpargBits = 8;
constexpr int kMaxPrefixes = 3;

absl::Status Malformed(int index, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("instruction ", index, ": ", std::string(what)));
}

int PrefixesFor(int oparg) {
  int prefixes = 0;
  for (unsigned rest = static_cast<unsigned>(oparg) >> kOpargBits; rest != 0; rest >>= kOpargBits) ++prefixes;
  return prefixes;
}

class Assembler {
 public:
  Assembler(const Assembly& assembly, int first_line) : assembly_(assembly), locations_(first_line) {}

  absl::StatusOr<EncodedCode> Run() {
    absl::Status status = Check();
    if (status.ok()) status = Layout();
    if (!status.ok()) return status;
    for (int i = 0; i < size(); ++i) Emit(i);
    code_.exception_table = WriteExceptionTable(Entries());
    code_.location_table = locations_.Finish();
    absl::StatusOr<DecodedCode> decoded = DecodedCode::DecodeBytes(code_.bytes, code_.exception_table);
    if (!decoded.ok()) return decoded.status();
    absl::StatusOr<StackDepths> depths = ComputeStackDepths(*decoded);
    if (!depths.ok()) return depths.status();
    code_.stack_size = depths->max;
    return std::move(code_);
  }

 private:
  const AssemblyInstruction& At(int index) const { return assembly_.instructions[index]; }
  int size() const { return static_cast<int>(assembly_.instructions.size()); }
  bool IsIndex(int index) const { return index >= 0 && index < size(); }

  absl::Status Check() const {
    if (size() == 0) return absl::InvalidArgumentError("no instructions");
    for (int i = 0; i < size(); ++i) {
      const AssemblyInstruction& instruction = At(i);
      const OpcodeInfo& info = InfoOf(instruction.opcode);
      if (info.name.empty() || info.operand == OperandKind::kExtended) return Malformed(i, "no opcode to assemble");
      if (IsJump(info.operand) && !IsIndex(instruction.target))
        return Malformed(i, "the jump target is no instruction");
      if (instruction.oparg < 0) return Malformed(i, "the oparg is negative");
      if (instruction.prefixes < 0 || instruction.prefixes > kMaxPrefixes) return Malformed(i, "prefixes");
    }
    for (const AssemblyHandler& handler : assembly_.handlers) {
      if (!IsIndex(handler.begin) || handler.end < handler.begin || handler.end > size() || !IsIndex(handler.target)) {
        return Malformed(handler.begin, "the exception region is outside the code");
      }
    }
    return absl::OkStatus();
  }

  // Sizes of instructions, until no oparg asks for more prefixes. A jump gets longer only when something between grew,
  // and nothing shrinks, so this ends.
  absl::Status Layout() {
    opargs_.resize(size());
    for (int i = 0; i < size(); ++i) {
      opargs_[i] = At(i).oparg;
      prefixes_.push_back(IsJump(InfoOf(At(i).opcode).operand) ? At(i).prefixes
                                                               : std::max(At(i).prefixes, PrefixesFor(At(i).oparg)));
    }
    for (bool changed = true; changed;) {
      PlaceInstructions();
      changed = false;
      for (int i = 0; i < size(); ++i) {
        if (At(i).target < 0) continue;
        absl::Status status = MeasureJump(i);
        if (!status.ok()) return status;
        const int needed = PrefixesFor(opargs_[i]);
        changed |= needed > prefixes_[i];
        prefixes_[i] = std::max(prefixes_[i], needed);
      }
    }
    return absl::OkStatus();
  }

  void PlaceInstructions() {
    starts_.assign(1, 0);
    for (int i = 0; i < size(); ++i) starts_.push_back(starts_[i] + prefixes_[i] + 1 + InfoOf(At(i).opcode).caches);
  }

  absl::Status MeasureJump(int index) {
    const int distance = starts_[At(index).target] - starts_[index + 1];
    const bool forward = InfoOf(At(index).opcode).operand == OperandKind::kJumpForward;
    opargs_[index] = forward ? distance : -distance;
    return opargs_[index] >= 0 ? absl::OkStatus() : Malformed(index, "the jump goes the other way");
  }

  void Emit(int index) {
    const unsigned oparg = static_cast<unsigned>(opargs_[index]);
    for (int prefix = prefixes_[index]; prefix > 0; --prefix) {
      EmitUnit(Opcode::k_EXTENDED_ARG, oparg >> (kOpargBits * prefix));
    }
    EmitUnit(At(index).opcode, oparg);
    code_.bytes.append(InfoOf(At(index).opcode).caches * size_t{kCodeUnitBytes}, '\0');
    locations_.Add(At(index).span, starts_[index + 1] - starts_[index]);
  }

  void EmitUnit(Opcode opcode, unsigned oparg) {
    code_.bytes += static_cast<char>(opcode);
    code_.bytes += static_cast<char>(oparg & 0xff);
  }

  std::vector<ExceptionEntry> Entries() const {
    std::vector<ExceptionEntry> entries;
    for (const AssemblyHandler& handler : assembly_.handlers) {
      if (handler.begin == handler.end) continue;
      entries.push_back(
          {starts_[handler.begin], starts_[handler.end], starts_[handler.target], handler.depth, handler.push_lasti});
    }
    return entries;
  }

  const Assembly& assembly_;
  LocationTableWriter locations_;
  std::vector<int> opargs_;
  std::vector<int> prefixes_;
  std::vector<int> starts_;  // in code units, one more than there are instructions
  EncodedCode code_;
};

absl::Status Failed(const char* what) {
  PyErr_Clear();
  return absl::InternalError(absl::StrCat("CPython failed to make ", what));
}

PyRef Bytes(const std::string& bytes) {
  return PyRef::Steal(PyBytes_FromStringAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size())));
}

// (first, *rest)
PyRef Prepend(PyObject* first, PyObject* rest) {
  PyRef head = PyRef::Steal(PyTuple_Pack(1, first));
  return head ? PyRef::Steal(PySequence_Concat(head.get(), rest)) : PyRef();
}

// The constructor works the kinds of the variables out from three lists of names, from which it cannot tell what an
// inlined comprehension hides from locals(). The original's kinds can.
absl::Status CopyLocalKinds(PyCodeObject* code, PyCodeObject* original, int shift) {
  if (code->co_nlocalsplus != original->co_nlocalsplus + shift) {
    return absl::InternalError("the variables got another layout");
  }
  for (int i = 0; i < original->co_nlocalsplus; ++i) {
    PyObject* name = PyTuple_GET_ITEM(code->co_localsplusnames, i + shift);
    if (PyUnicode_Compare(name, PyTuple_GET_ITEM(original->co_localsplusnames, i)) != 0) {
      return absl::InternalError("the variables got another order");
    }
  }
  PyRef kinds = PyRef::Steal(PySequence_GetSlice(code->co_localspluskinds, 0, shift));
  if (kinds) kinds = PyRef::Steal(PySequence_Concat(kinds.get(), original->co_localspluskinds));
  if (!kinds) return Failed("the kinds of the variables");
  PyObject* replaced = std::exchange(code->co_localspluskinds, kinds.release());
  Py_DECREF(replaced);
  return absl::OkStatus();
}

absl::StatusOr<PyRef> MakeCodeObject(const EncodedCode& encoded, PyCodeObject* original, const CodeHeader& header) {
  PyRef varnames = PyRef::Steal(PyCode_GetVarnames(original));
  PyRef cellvars = PyRef::Steal(PyCode_GetCellvars(original));
  PyRef freevars = PyRef::Steal(PyCode_GetFreevars(original));
  PyRef bytes = Bytes(encoded.bytes);
  PyRef locations = Bytes(encoded.location_table);
  PyRef handlers = Bytes(encoded.exception_table);
  if (varnames && header.leading_local) varnames = Prepend(header.leading_local.get(), varnames.get());
  if (!varnames || !cellvars || !freevars || !bytes || !locations || !handlers) return Failed("a code object");
  const ShimCodeParts parts = {
      .argcount = header.argcount,
      .posonlyargcount = header.posonlyargcount,
      .kwonlyargcount = header.kwonlyargcount,
      .stacksize = std::max(encoded.stack_size, original->co_stacksize),
      .flags = header.flags,
      .firstlineno = original->co_firstlineno,
      .code = bytes.get(),
      .consts = header.consts.get(),
      .names = original->co_names,
      .varnames = varnames.get(),
      .freevars = freevars.get(),
      .cellvars = cellvars.get(),
      .filename = original->co_filename,
      .name = original->co_name,
      .qualname = original->co_qualname,
      .linetable = locations.get(),
      .exceptiontable = handlers.get(),
  };
  PyRef code = PyRef::Steal(reinterpret_cast<PyObject*>(ShimNewCode(&parts)));
  if (!code) return Failed("a code object");
  return code;
}

}  // namespace

absl::StatusOr<Assembly> Disassemble(const DecodedCode& decoded, PyCodeObject* code) {
  const std::string_view table(PyBytes_AS_STRING(code->co_linetable),
                               static_cast<size_t>(PyBytes_GET_SIZE(code->co_linetable)));
  absl::StatusOr<std::vector<SourceSpan>> spans = ParseLocationTable(table, code->co_firstlineno, decoded.units());
  if (!spans.ok()) return spans.status();
  Assembly assembly;
  assembly.instructions.reserve(decoded.size());
  for (const Instruction& instruction : decoded.instructions()) {
    assembly.instructions.push_back({instruction.opcode, instruction.oparg, instruction.target,
                                     instruction.offset - instruction.start, (*spans)[instruction.offset]});
  }
  for (const ExceptionEntry& entry : decoded.exception_table()) {
    const int begin = decoded.IndexStarting(entry.start);
    const int end = entry.end == decoded.units() ? decoded.size() : decoded.IndexStarting(entry.end);
    if (begin < 0 || end < 0) return absl::InvalidArgumentError("an exception region cuts an instruction");
    assembly.handlers.push_back({begin, end, decoded.IndexStarting(entry.target), entry.depth, entry.push_lasti});
  }
  return assembly;
}

absl::StatusOr<EncodedCode> Encode(const Assembly& assembly, int first_line) {
  return Assembler(assembly, first_line).Run();
}

CodeHeader CodeHeader::Of(PyCodeObject* code) {
  return {code->co_argcount, code->co_posonlyargcount, code->co_kwonlyargcount, code->co_flags,
          PyRef::Borrow(code->co_consts)};
}

absl::StatusOr<PyRef> BuildCode(const Assembly& assembly, PyCodeObject* original, const CodeHeader& header) {
  absl::StatusOr<EncodedCode> encoded = Encode(assembly, original->co_firstlineno);
  if (!encoded.ok()) return encoded.status();
  absl::StatusOr<PyRef> made = MakeCodeObject(*encoded, original, header);
  if (!made.ok()) return made.status();
  PyCodeObject* code = reinterpret_cast<PyCodeObject*>(made->get());
  absl::Status status = CopyLocalKinds(code, original, header.leading_local ? 1 : 0);
  if (status.ok()) status = VerifyCode(code);
  if (!status.ok()) return status;
  return made;
}

}  // namespace framejit

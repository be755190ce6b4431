#include "bytecode/decode.h"

#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {
namespace {

std::string_view View(PyObject* bytes) {
  return {PyBytes_AS_STRING(bytes), static_cast<size_t>(PyBytes_GET_SIZE(bytes))};
}

absl::Status Malformed(int offset, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("code unit ", offset, ": ", std::string(what)));
}

}  // namespace

absl::StatusOr<DecodedCode> DecodedCode::Decode(PyCodeObject* code) {
  // co_code: generic opcodes, without specialisation or instrumentation, and with empty caches.
  PyRef bytes = PyRef::Steal(PyCode_GetCode(code));
  if (!bytes) {
    PyErr_Clear();
    return absl::InternalError("co_code is not available");
  }
  return DecodeBytes(View(bytes.get()), View(code->co_exceptiontable));
}

absl::StatusOr<DecodedCode> DecodedCode::DecodeBytes(std::string_view code, std::string_view exception_table) {
  DecodedCode decoded;
  absl::Status status = decoded.DecodeInstructions(code);
  if (!status.ok()) return status;
  absl::StatusOr<std::vector<ExceptionEntry>> table = ParseExceptionTable(exception_table);
  if (!table.ok()) return table.status();
  decoded.exception_table_ = *std::move(table);
  status = decoded.ResolveTargets();
  if (!status.ok()) return status;
  return decoded;
}

absl::Status DecodedCode::DecodeInstructions(std::string_view bytes) {
  const int units = static_cast<int>(bytes.size()) / kCodeUnitBytes;
  if (units == 0 || bytes.size() % kCodeUnitBytes != 0) return Malformed(0, "the code is empty or has an odd size");
  index_at_.assign(units, -1);
  instructions_.reserve(units);
  int start = 0;
  uint64_t prefix = 0;
  for (int offset = 0; offset < units;) {
    const uint8_t number = static_cast<uint8_t>(bytes[offset * kCodeUnitBytes]);
    const uint64_t oparg = prefix << 8 | static_cast<uint8_t>(bytes[offset * kCodeUnitBytes + 1]);
    const Opcode opcode = static_cast<Opcode>(number);
    if (!IsOpcode(number)) return Malformed(offset, absl::StrCat("no opcode has number ", number));
    if (opcode == Opcode::k_CACHE) return Malformed(offset, "a cache outside an instruction");
    if (oparg > std::numeric_limits<int>::max()) return Malformed(offset, "the oparg is too large");
    const int end = offset + 1 + InfoOf(opcode).caches;
    if (end > units) return Malformed(offset, "the inline caches run past the end");
    for (int unit = offset; unit < end; ++unit) index_at_[unit] = static_cast<int>(instructions_.size());
    if (opcode == Opcode::k_EXTENDED_ARG) {
      prefix = oparg;
    } else {
      instructions_.push_back({opcode, static_cast<int>(oparg), start, offset, end});
      prefix = 0;
      start = end;
    }
    offset = end;
  }
  if (start != units) return Malformed(start, "EXTENDED_ARG at the end");
  return absl::OkStatus();
}

absl::Status DecodedCode::ResolveTargets() {
  for (Instruction& instruction : instructions_) {
    const OperandKind operand = instruction.info().operand;
    if (!IsJump(operand)) continue;
    const int64_t distance = operand == OperandKind::kJumpForward ? instruction.oparg : -int64_t{instruction.oparg};
    const int64_t target = instruction.end + distance;
    instruction.target = target >= 0 && target < units() ? IndexStarting(static_cast<int>(target)) : -1;
    if (instruction.target < 0) {
      return Malformed(instruction.offset, absl::StrCat("a jump to ", target, ", where no instruction starts"));
    }
  }
  for (const ExceptionEntry& entry : exception_table_) {
    if (IndexStarting(entry.target) < 0) {
      return Malformed(entry.start, absl::StrCat("a handler at ", entry.target, ", where no instruction starts"));
    }
  }
  return absl::OkStatus();
}

int DecodedCode::IndexCovering(int offset) const { return offset >= 0 && offset < units() ? index_at_[offset] : -1; }

int DecodedCode::IndexStarting(int offset) const {
  const int index = IndexCovering(offset);
  return index >= 0 && instructions_[index].start == offset ? index : -1;
}

int LineOf(PyCodeObject* code, const Instruction& instruction) {
  return PyCode_Addr2Line(code, instruction.offset * kCodeUnitBytes);
}

SourceSpan SpanOf(PyCodeObject* code, const Instruction& instruction) {
  SourceSpan span;
  if (!PyCode_Addr2Location(code, instruction.offset * kCodeUnitBytes, &span.line, &span.column, &span.end_line,
                            &span.end_column)) {
    return {-1, -1, -1, -1};
  }
  return span;
}

}  // namespace framejit

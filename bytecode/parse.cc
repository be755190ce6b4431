#include "bytecode/parse.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "bytecode/encode.h"
#include "frame_eval/cpython/shim.h"

namespace framejit {
namespace {

struct Header {
  std::string qualname;
  std::string filename;
  int line = 0;
  int slots = 0;
  int stack = 0;
};

struct Slot {
  std::string name;
  bool local, cell, free;
};

class Parser {
 public:
  absl::StatusOr<PyRef> Parse(absl::string_view text) {
    for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      ++line_number_;
      if (!ParseLine(line)) return Wrong(line);
    }
    if (!ResolveLabels()) return absl::InvalidArgumentError("a label or handler names no instruction");
    if (static_cast<int>(slots_.size()) != header_.slots) return absl::InvalidArgumentError("the slots do not add up");
    absl::StatusOr<PyRef> shell = Shell();
    if (!shell.ok()) return shell.status();
    PyCodeObject* code = reinterpret_cast<PyCodeObject*>(shell->get());
    return BuildCode(assembly_, code, CodeHeader::Of(code));
  }

 private:
  struct HandlerLine {
    int start, end;  // code units
    std::string label;
    int depth;
    bool push_lasti;
  };

  absl::Status Wrong(absl::string_view line) const {
    return absl::InvalidArgumentError(absl::StrCat("line ", line_number_, ": ", std::string(line)));
  }

  bool ParseLine(absl::string_view line) {
    if (absl::ConsumePrefix(&line, "code ")) return ParseHeader(line);
    if (absl::ConsumePrefix(&line, "handler ")) return ParseHandler(line);
    if (absl::ConsumePrefix(&line, "  slots ")) return ParseSlots(line);
    if (absl::ConsumePrefix(&line, "  line ")) return absl::SimpleAtoi(line, &source_line_);
    if (line == "  no line") {
      source_line_ = -1;
      return true;
    }
    if (absl::ConsumeSuffix(&line, ":")) {
      labels_[std::string(line)] = static_cast<int>(assembly_.instructions.size());
      return true;
    }
    return ParseInstruction(absl::StripLeadingAsciiWhitespace(line));
  }

  // QUALNAME, FILENAME:LINE: N slots, stack M
  bool ParseHeader(absl::string_view line) {
    const size_t sizes = line.rfind(": ");
    const size_t comma = line.find(", ");
    if (sizes == line.npos || comma == line.npos || comma > sizes) return false;
    const std::vector<std::string> counts = absl::StrSplit(line.substr(sizes + 2), " slots, stack ");
    const absl::string_view place = line.substr(comma + 2, sizes - comma - 2);
    const size_t colon = place.rfind(':');
    if (counts.size() != 2 || colon == place.npos) return false;
    header_.qualname = std::string(line.substr(0, comma));
    header_.filename = std::string(place.substr(0, colon));
    return absl::SimpleAtoi(place.substr(colon + 1), &header_.line) && absl::SimpleAtoi(counts[0], &header_.slots) &&
           absl::SimpleAtoi(counts[1], &header_.stack);
  }

  // NAME[ (local cell|cell|free)], ...
  bool ParseSlots(absl::string_view line) {
    for (absl::string_view item : absl::StrSplit(line, ", ")) {
      const bool both = absl::ConsumeSuffix(&item, " (local cell)");
      const bool cell = absl::ConsumeSuffix(&item, " (cell)");
      const bool free = absl::ConsumeSuffix(&item, " (free)");
      slots_.push_back({std::string(item), !cell && !free, cell || both, free});
    }
    return true;
  }

  // START..END -> LABEL depth N[ lasti]
  bool ParseHandler(absl::string_view line) {
    HandlerLine handler;
    handler.push_lasti = absl::ConsumeSuffix(&line, " lasti");
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words.size() != 5 || words[1] != "->" || words[3] != "depth") return false;
    const std::vector<std::string> range = absl::StrSplit(words[0], "..");
    if (range.size() != 2 || !absl::SimpleAtoi(range[0], &handler.start) || !absl::SimpleAtoi(range[1], &handler.end) ||
        !absl::SimpleAtoi(words[4], &handler.depth)) {
      return false;
    }
    handler.start /= kCodeUnitBytes;
    handler.end /= kCodeUnitBytes;
    handler.label = words[2];
    handlers_.push_back(std::move(handler));
    return true;
  }

  // OFFSET NAME[ -> LABEL| OPARG[ (MEANING)]]
  bool ParseInstruction(absl::string_view line) {
    const std::vector<std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 3));
    int offset = 0;
    if (words.size() < 2 || !absl::SimpleAtoi(words[0], &offset)) return false;
    const std::optional<Opcode> opcode = FindOpcode(words[1]);
    if (!opcode) return false;
    AssemblyInstruction instruction{.opcode = *opcode, .prefixes = offset / kCodeUnitBytes - unit_};
    if (source_line_ >= 0) instruction.span = {source_line_, -1, source_line_, -1};
    starts_[unit_] = static_cast<int>(assembly_.instructions.size());
    unit_ += instruction.prefixes + 1 + InfoOf(*opcode).caches;
    if (IsJump(InfoOf(*opcode).operand)) {
      if (words.size() != 4 || words[2] != "->") return false;
      jumps_.push_back({static_cast<int>(assembly_.instructions.size()), words[3]});
    } else if (words.size() > 2 && !ParseOperand(InfoOf(*opcode).operand, words, instruction.oparg)) {
      return false;
    }
    assembly_.instructions.push_back(instruction);
    return true;
  }

  bool ParseOperand(OperandKind kind, const std::vector<std::string>& words, int& oparg) {
    if (!absl::SimpleAtoi(words[2], &oparg) || oparg < 0) return false;
    if (words.size() == 3) return true;
    absl::string_view meaning = words[3];
    if (!absl::ConsumePrefix(&meaning, "(") || !absl::ConsumeSuffix(&meaning, ")")) return false;
    const int flags = kind == OperandKind::kNameAndFlag ? 1 : kind == OperandKind::kNameAndTwoFlags ? 2 : 0;
    if (kind == OperandKind::kConst) {
      constants_[oparg] = std::string(meaning);
    } else if (kind == OperandKind::kName || flags > 0) {
      names_[oparg >> flags] = std::string(meaning.substr(0, meaning.find(", ")));
    }
    return true;
  }

  bool ResolveLabels() {
    starts_[unit_] = static_cast<int>(assembly_.instructions.size());
    for (const auto& [index, label] : jumps_) {
      auto found = labels_.find(label);
      if (found == labels_.end()) return false;
      assembly_.instructions[index].target = found->second;
    }
    for (const HandlerLine& handler : handlers_) {
      auto found = labels_.find(handler.label);
      if (found == labels_.end() || !starts_.contains(handler.start) || !starts_.contains(handler.end)) return false;
      assembly_.handlers.push_back(
          {starts_[handler.start], starts_[handler.end], found->second, handler.depth, handler.push_lasti});
    }
    return true;
  }

  // A code object with everything but the instructions.
  absl::StatusOr<PyRef> Shell() {
    PyRef consts = Constants();
    PyRef names = Names();
    PyRef locals = SlotNames(&Slot::local);
    PyRef cells = SlotNames(&Slot::cell);
    PyRef free = SlotNames(&Slot::free);
    PyRef qualname = PyRef::Steal(PyUnicode_FromString(header_.qualname.c_str()));
    const std::string short_name = header_.qualname.substr(header_.qualname.rfind('.') + 1);
    PyRef name = PyRef::Steal(PyUnicode_InternFromString(short_name.c_str()));
    PyRef filename = PyRef::Steal(PyUnicode_FromString(header_.filename.c_str()));
    const char body[] = {static_cast<char>(Opcode::k_RETURN_VALUE), 0};
    PyRef bytes = PyRef::Steal(PyBytes_FromStringAndSize(body, sizeof body));
    PyRef empty = PyRef::Steal(PyBytes_FromStringAndSize(nullptr, 0));
    PyRef code;
    if (consts && names && locals && cells && free && qualname && name && filename && bytes && empty) {
      const ShimCodeParts parts = {.stacksize = header_.stack,
                                   .flags = CO_OPTIMIZED | CO_NEWLOCALS,
                                   .firstlineno = header_.line,
                                   .code = bytes.get(),
                                   .consts = consts.get(),
                                   .names = names.get(),
                                   .varnames = locals.get(),
                                   .freevars = free.get(),
                                   .cellvars = cells.get(),
                                   .filename = filename.get(),
                                   .name = name.get(),
                                   .qualname = qualname.get(),
                                   .linetable = empty.get(),
                                   .exceptiontable = empty.get()};
      code = PyRef::Steal(reinterpret_cast<PyObject*>(ShimNewCode(&parts)));
    }
    if (code) return code;
    PyErr_Clear();
    return absl::InvalidArgumentError("a name or constant cannot be made from the text");
  }

  PyRef SlotNames(bool Slot::*kind) const {
    std::vector<std::string> names;
    for (const Slot& slot : slots_) {
      if (slot.*kind) names.push_back(slot.name);
    }
    return Strings(names);
  }

  PyRef Names() const {
    std::vector<std::string> names(names_.empty() ? 0 : names_.rbegin()->first + 1);
    for (const auto& [index, name] : names_) names[index] = name;
    return Strings(names);
  }

  static PyRef Strings(const std::vector<std::string>& strings) {
    PyRef tuple = PyRef::Steal(PyTuple_New(static_cast<Py_ssize_t>(strings.size())));
    for (size_t i = 0; tuple && i < strings.size(); ++i) {
      PyObject* string = PyUnicode_InternFromString(strings[i].c_str());
      if (string == nullptr) return PyRef();
      PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(i), string);
    }
    return tuple;
  }

  PyRef Constants() const {
    PyRef tuple = PyRef::Steal(PyTuple_New(constants_.empty() ? 0 : constants_.rbegin()->first + 1));
    for (int i = 0; tuple && i < PyTuple_GET_SIZE(tuple.get()); ++i) {
      auto found = constants_.find(i);
      PyRef constant = found == constants_.end() ? PyRef::Borrow(Py_None) : Constant(found->second);
      if (!constant) return PyRef();
      PyTuple_SET_ITEM(tuple.get(), i, constant.release());
    }
    return tuple;
  }

  // Null when it is no representation; with an exception or without.
  PyRef Constant(absl::string_view text) const {
    if (absl::ConsumePrefix(&text, "<code ") && absl::ConsumeSuffix(&text, ">")) {
      return PyRef::Steal(reinterpret_cast<PyObject*>(
          PyCode_NewEmpty(header_.filename.c_str(), std::string(text).c_str(), header_.line)));
    }
    // A constant that was shortened ends in dots.
    PyRef globals = PyRef::Steal(Py_BuildValue("{s:d,s:d}", "inf", Py_HUGE_VAL, "nan", Py_NAN));
    if (!globals || absl::EndsWith(text, "...")) return PyRef();
    return PyRef::Steal(PyRun_String(std::string(text).c_str(), Py_eval_input, globals.get(), globals.get()));
  }

  int line_number_ = 0;
  Header header_;
  std::vector<Slot> slots_;
  int source_line_ = -1;
  int unit_ = 0;  // where the next instruction starts
  Assembly assembly_;
  std::map<int, int> starts_;  // code unit -> instruction
  std::map<std::string, int> labels_;
  std::vector<std::pair<int, std::string>> jumps_;
  std::vector<HandlerLine> handlers_;
  std::map<int, std::string> names_;
  std::map<int, std::string> constants_;
};

}  // namespace

absl::StatusOr<PyRef> ParseCode(std::string_view text) {
  return Parser().Parse(absl::string_view(text.data(), text.size()));
}

}  // namespace framejit

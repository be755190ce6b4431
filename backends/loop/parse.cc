// Reads the text form of kernels (print.cc) back; verifies the result.
#include <algorithm>
#include <charconv>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "backends/loop/loop_ir.h"

namespace framejit::loop {
namespace {

std::optional<DType> FindDType(std::string_view name) {
#define FRAMEJIT_LOOP_DTYPE(enumerator, text, bytes, klass) \
  if (name == text) return DType::k##enumerator;
#include "backends/loop/dtypes.def"
#undef FRAMEJIT_LOOP_DTYPE
  return std::nullopt;
}

std::optional<Op> FindOp(std::string_view name) {
#define FRAMEJIT_LOOP_OP(enumerator, text, operands, classes, result) \
  if (name == text) return Op::k##enumerator;
#include "backends/loop/ops.def"
#undef FRAMEJIT_LOOP_OP
  return std::nullopt;
}

bool IsWordChar(char c) { return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-' || c == '+'; }

template <typename T>
bool ReadNumber(std::string_view text, T& value) {
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

// Words and single punctuation characters; '#' starts a comment.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) { Advance(); }

  std::string_view token() const { return token_; }
  bool at_end() const { return token_.empty(); }
  int line() const { return line_; }

  std::string_view Take() {
    const std::string_view taken = token_;
    Advance();
    return taken;
  }

  bool TakeIf(std::string_view expected) {
    if (token_ != expected) return false;
    Advance();
    return true;
  }

 private:
  void SkipBlanks() {
    while (at_ < text_.size()) {
      if (text_[at_] == '#') {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      } else if (text_[at_] == '\n') {
        ++line_, ++at_;
      } else if (absl::ascii_isspace(text_[at_])) {
        ++at_;
      } else {
        return;
      }
    }
  }

  void Advance() {
    SkipBlanks();
    size_t end = at_;
    while (end < text_.size() && IsWordChar(text_[end])) ++end;
    if (end == at_ && at_ < text_.size()) ++end;
    token_ = text_.substr(at_, end - at_);
    at_ = end;
  }

  std::string_view text_;
  std::string_view token_;
  size_t at_ = 0;
  int line_ = 1;
};

class Parser {
 public:
  explicit Parser(std::string_view text) : reader_(text) {}

  absl::StatusOr<Kernel> Run() {
    ParseKernel();
    if (!error_.empty()) return absl::InvalidArgumentError(error_);
    if (absl::Status status = Verify(kernel_); !status.ok()) return status;
    return std::move(kernel_);
  }

 private:
  void Fail(const std::string& what) {
    if (error_.empty())
      error_ = absl::StrCat("loop IR, line ", reader_.line(), ": ", what, " at '", std::string(reader_.token()), "'");
  }

  void Expect(const char* token) {
    if (!reader_.TakeIf(token)) Fail(absl::StrCat("expected '", token, "'"));
  }

  int64_t TakeInt() {
    int64_t value = 0;
    if (!ReadNumber(reader_.token(), value)) Fail("expected an integer");
    reader_.Take();
    return value;
  }

  // A size, stride or offset, which may be open: p3.
  int64_t TakeNumber() {
    if (!reader_.token().starts_with('p')) return TakeInt();
    const int64_t parameter = TakeName('p');
    if (parameter >= 0 && parameter < kMaxParameters) return OpenNumber(parameter);
    Fail("unknown parameter before");
    return 0;
  }

  // An integer with a one-letter prefix: b0, v12.
  int64_t TakeName(char prefix) {
    int64_t value = 0;
    const std::string_view token = reader_.token();
    if (token.empty() || token[0] != prefix || !ReadNumber(token.substr(1), value)) {
      Fail(absl::StrCat("expected '", std::string(1, prefix), "<number>'"));
    }
    reader_.Take();
    return value;
  }

  double TakeFloat() {
    double value = 0;
    if (!ReadNumber(reader_.token(), value)) Fail("expected a number");
    reader_.Take();
    return value;
  }

  DType TakeDType() {
    const std::optional<DType> dtype = FindDType(reader_.token());
    if (!dtype) Fail("expected a type");
    reader_.Take();
    return dtype.value_or(DType::kFloat32);
  }

  bool Going() const { return error_.empty() && !reader_.at_end(); }

  void ParseKernel() {
    Expect("kernel");
    Expect("[");
    do kernel_.dims.push_back({TakeNumber()});
    while (Going() && reader_.TakeIf(","));
    Expect("]");
    Expect("{");
    while (Going() && reader_.token() != "}") ParseLine();
    Expect("}");
    if (error_.empty() && !reader_.at_end()) Fail("text after the kernel");
  }

  void ParseLine() {
    if (reader_.TakeIf("store")) {
      ParseStore();
    } else if (reader_.token().front() == 'b') {
      ParseBuffer();
    } else {
      ParseValue();
    }
  }

  void ParseBuffer() {
    if (TakeName('b') != static_cast<int64_t>(kernel_.buffers.size())) Fail("buffers are numbered in order; before");
    Expect(":");
    Buffer buffer{TakeDType()};
    buffer.written = reader_.TakeIf("out");
    kernel_.buffers.push_back(buffer);
  }

  int64_t ParseAccess() {
    Access access;
    access.buffer = static_cast<int32_t>(TakeName('b'));
    Expect("[");
    access.offset = TakeNumber();
    Expect(";");
    do access.strides.push_back(TakeNumber());
    while (Going() && reader_.TakeIf(","));
    Expect("]");
    const auto known = std::find(kernel_.accesses.begin(), kernel_.accesses.end(), access);
    const int64_t index = known - kernel_.accesses.begin();
    if (known == kernel_.accesses.end()) kernel_.accesses.push_back(std::move(access));
    return index;
  }

  void ParseStore() {
    Node node;
    node.op = Op::kStore;
    node.attr = ParseAccess();
    const int32_t buffer = kernel_.accesses[node.attr].buffer;
    if (buffer < 0 || buffer >= static_cast<int32_t>(kernel_.buffers.size())) return Fail("unknown buffer before");
    node.dtype = kernel_.buffers[buffer].dtype;
    node.operands[0] = static_cast<ValueId>(TakeName('v'));
    kernel_.nodes.push_back(node);
  }

  void ParseValue() {
    if (TakeName('v') != static_cast<int64_t>(kernel_.nodes.size())) Fail("values are numbered by position; before");
    Node node;
    Expect(":");
    node.dtype = TakeDType();
    Expect("=");
    const std::optional<Op> op = FindOp(reader_.token());
    if (!op || *op == Op::kStore) return Fail("expected an operator");
    node.op = *op;
    reader_.Take();
    if (node.op == Op::kConst && IsFloat(node.dtype))
      node.float_value = TakeFloat();
    else if (node.op == Op::kConst)
      node.int_value = TakeInt();
    else if (node.op == Op::kIndex)
      node.attr = TakeInt();
    else if (node.op == Op::kLoad)
      node.attr = ParseAccess();
    for (int i = 0; i < OperandCount(node.op); ++i) {
      if (i) Expect(",");
      node.operands[i] = static_cast<ValueId>(TakeName('v'));
    }
    kernel_.nodes.push_back(node);
  }

  Reader reader_;
  Kernel kernel_;
  std::string error_;
};

}  // namespace

absl::StatusOr<Kernel> Parse(std::string_view text) { return Parser(text).Run(); }

}  // namespace framejit::loop

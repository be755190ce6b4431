// The text form of kernels; parse.cc reads it back.
#include <charconv>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backends/loop/loop_ir.h"

namespace framejit::loop {
namespace {

// Shortest text that reads back as the same double.
std::string FloatText(double value) {
  char text[40];
  const auto result = std::to_chars(text, text + sizeof text, value);
  return std::string(text, result.ptr);
}

std::string AccessText(const Kernel& kernel, int64_t index) {
  if (index < 0 || index >= static_cast<int64_t>(kernel.accesses.size())) return absl::StrCat("?access ", index);
  const Access& access = kernel.accesses[index];
  return absl::StrCat(
      "b", access.buffer, "[", NumberText(access.offset), "; ",
      absl::StrJoin(access.strides, ", ", [](std::string* out, int64_t stride) { out->append(NumberText(stride)); }),
      "]");
}

void AppendNode(const Kernel& kernel, size_t id, std::string& out) {
  const Node& node = kernel.nodes[id];
  if (node.op == Op::kStore) {
    absl::StrAppend(&out, "  store ", AccessText(kernel, node.attr), " v", node.operands[0], "\n");
    return;
  }
  absl::StrAppend(&out, "  v", id, ": ", DTypeName(node.dtype), " = ", OpName(node.op));
  if (node.op == Op::kConst) {
    absl::StrAppend(&out, " ", IsFloat(node.dtype) ? FloatText(node.float_value) : absl::StrCat(node.int_value));
  } else if (node.op == Op::kIndex) {
    absl::StrAppend(&out, " ", node.attr);
  } else if (node.op == Op::kLoad) {
    absl::StrAppend(&out, " ", AccessText(kernel, node.attr));
  }
  for (int i = 0; i < OperandCount(node.op); ++i) absl::StrAppend(&out, i ? ", v" : " v", node.operands[i]);
  out += '\n';
}

}  // namespace

std::string NumberText(int64_t number) {
  return IsOpen(number) ? absl::StrCat("p", ParameterOf(number)) : absl::StrCat(number);
}

std::string PrintNode(const Kernel& kernel, ValueId id) {
  std::string text;
  AppendNode(kernel, static_cast<size_t>(id), text);
  return text.substr(2, text.size() - 3);
}

std::string Print(const Kernel& kernel) {
  std::string out = "kernel [";
  for (size_t d = 0; d < kernel.dims.size(); ++d) absl::StrAppend(&out, d ? ", " : "", NumberText(kernel.dims[d].size));
  out += "] {\n";
  for (size_t b = 0; b < kernel.buffers.size(); ++b) {
    const Buffer& buffer = kernel.buffers[b];
    absl::StrAppend(&out, "  b", b, ": ", DTypeName(buffer.dtype), buffer.written ? " out\n" : "\n");
  }
  for (size_t id = 0; id < kernel.nodes.size(); ++id) AppendNode(kernel, id, out);
  out += "}\n";
  return out;
}

}  // namespace framejit::loop

#include "bytecode/print.h"

#include <gtest/gtest.h>

#include "tests/cpp/bytecode/embedded_python.h"

namespace framejit {
namespace {

std::string Printed(const TestCode& code) { return PrintCode(code.Decode(), code.get()); }

// The same on every minor.
constexpr const char* kPlain =
    "code f, <string>:1: 2 slots, stack 1\n"
    "  slots a, b\n"
    "  line 1\n"
    "      0 NOP\n"
    "      2 LOAD_CONST 1 (7)\n"
    "      4 STORE_FAST 0 (a)\n"
    "      6 JUMP_FORWARD -> L1\n"
    "      8 NOP\n"
    "L1:\n"
    "     10 LOAD_FAST 1 (b)\n"
    "     12 RETURN_VALUE\n"
    "handler 2..6 -> L1 depth 0\n";

TEST(PrintTest, Golden) {
  TestCode code = ReplacedCode(
      "def f(a, b): return 7",
      "co_firstlineno=1, co_consts=(None, 7), co_stacksize=1, co_linetable=bytes([0xe8, 0, 0xe8, 0, 0xe8, 0, 0xe8, 0, "
      "0xe8, 0, 0xe8, 0, "
      "0xe8, 0]), co_exceptiontable=bytes([0x80 | 1, 2, 5, 0]), co_code=bytes([op['NOP'], 0, op['LOAD_CONST'], 1, "
      "op['STORE_FAST'], 0, op['JUMP_FORWARD'], 1, op['NOP'], 0, op['LOAD_FAST'], 1, op['RETURN_VALUE'], 0])");
  EXPECT_EQ(Printed(code), kPlain);
}

void ExpectContains(const std::string& text, const char* part) {
  EXPECT_NE(text.find(part), std::string::npos) << part << " is not in\n" << text;
}

TEST(PrintTest, OperandsNameWhatTheyMean) {
  const std::string text =
      Printed(FunctionCode("def outer(n):\n  def f(a):\n    for x in a.items:\n      print(x, 'text', n)\n    return a "
                           "< 3\n  return f\nf = outer(1)\n"));
  for (const char* part : {"COPY_FREE_VARS 1", "(items", "(print", "('text')", "LOAD_DEREF 2 (n)", "FOR_ITER -> L",
                           "(<", "JUMP_BACKWARD -> L", "  line 3\n", "  line 4\n"}) {
    ExpectContains(text, part);
  }
}

TEST(PrintTest, NestedCodeAndLongConstants) {
  const std::string text =
      Printed(FunctionCode("def f():\n  g = lambda: 1\n  return ['" + std::string(100, 'x') + "']\n"));
  ExpectContains(text, "(<code f.<locals>.<lambda>>)");
  ExpectContains(text, "xxx...)");
  EXPECT_EQ(text.find(" at 0x"), std::string::npos);
}

TEST(PrintTest, CutsLongConstantsBetweenCharacters) {
  // A quote, 58 bytes, then a character of two: a cut at 60 bytes would go through it.
  const std::string text =
      Printed(FunctionCode("def f(): return 'x' + chr(0x7f) + '" + std::string(58, 'x') + "\u00e9\u00e9'"));
  PyRef decoded = PyRef::Steal(PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
  EXPECT_TRUE(decoded) << text;
  PyErr_Clear();
}

TEST(PrintTest, ShowsWhatIsOutOfRangeAsUnknown) {
  ExpectContains(Printed(ReplacedCode("def f(): return 1",
                                      "co_consts=(), co_code=bytes([op['LOAD_CONST'], 9, "
                                      "op['RETURN_VALUE'], 0])")),
                 "LOAD_CONST 9 (?)");
}

}  // namespace
}  // namespace framejit

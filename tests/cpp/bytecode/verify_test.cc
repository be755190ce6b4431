#include "bytecode/verify.h"

#include <gtest/gtest.h>

#include "tests/cpp/bytecode/embedded_python.h"

namespace framejit {
namespace {

TEST(VerifyTest, AcceptsWhatTheCompilerMakes) {
  TestCode code = FunctionCode(
      "def outer(n):\n  def f(a, *b, c=1, **d):\n    try:\n      with a as e:\n        return [x + n for x in b]\n"
      "    except KeyError as error:\n      return lambda: (error, c)\n  return f\nf = outer(1)\n");
  absl::Status status = VerifyCode(code.get());
  EXPECT_TRUE(status.ok()) << status.message();
}

struct Damage {
  const char* fields;  // of code.replace(); `op` is dis.opmap
  const char* message;
};

class VerifyDamageTest : public ::testing::TestWithParam<Damage> {};

TEST_P(VerifyDamageTest, IsFound) {
  TestCode code = ReplacedCode(
      "def f(a):\n  try:\n    return a.x\n  except KeyError:\n    return g\n"
      "tail = bytes([dis.opmap['LOAD_CONST'], 0, dis.opmap['RETURN_VALUE'], 0])\nhead = lambda *b: bytes(b) + tail\n",
      GetParam().fields);
  absl::Status status = VerifyCode(code.get());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find(GetParam().message), absl::string_view::npos) << status.message();
}

INSTANTIATE_TEST_SUITE_P(
    Verify, VerifyDamageTest,
    ::testing::Values(
        Damage{"co_stacksize=0", "co_stacksize is "}, Damage{"co_names=()", "name 0 is outside"},
        Damage{"co_code=head(op['LOAD_CONST'], 200), co_exceptiontable=b''", "constant 200 is outside"},
        Damage{"co_code=head(op['STORE_FAST'], 7), co_exceptiontable=b''", "slot 7 is outside 0..0"},
        Damage{"co_code=head(op['LOAD_DEREF'], 0), co_exceptiontable=b''", "slot 0 holds no cell"},
        Damage{"co_code=head(op['LOAD_DEREF'], 9), co_exceptiontable=b''", "slot 9 is outside"},
        Damage{"co_code=head(op['COPY_FREE_VARS'], 1), co_exceptiontable=b''",
               "copies 1 free variables, the code has 0"},
        Damage{"co_code=head(op['COPY'], 0), co_exceptiontable=b''", "stack positions start at 1"},
        Damage{"co_code=head(op['COMPARE_OP'], 255, 0, 0, 0, 0)[:2 + 2 * dis._inline_cache_entries['COMPARE_OP'] if "
               "isinstance(dis._inline_cache_entries, dict) else 2 + 2 * "
               "dis._inline_cache_entries[op['COMPARE_OP']]] + tail, co_exceptiontable=b''",
               "comparison"},
        Damage{"co_code=head(op['BINARY_OP'], 26, 0, 0), co_exceptiontable=b''", "operator 26 is outside 0..25"},
        Damage{"co_code=bytes([op['NOP'], 0]), co_exceptiontable=b''", "runs off the end"},
        Damage{"co_code=head(op['POP_TOP'], 0), co_exceptiontable=b''", "needs 1 values"},
        Damage{"co_exceptiontable=bytes([0x80 | 2, 2, 0, 0, 0x80 | 1, 1, 0, 0])", "out of order"},
        Damage{"co_exceptiontable=bytes([0x80, 0, 0, 0])", "out of order or not on"},
        Damage{"co_exceptiontable=bytes([0x80, 0x40 | 60, 0, 0, 0])", "not on instruction boundaries"},
        Damage{"co_exceptiontable=bytes([0x80, 1, 0, 10 << 1])", "its handler keeps 10 values"}));

TEST(VerifyTest, ReportsEveryProblem) {
  TestCode code = ReplacedCode("def f(): return x",
                               "co_consts=(), co_names=(), co_code=bytes([op['LOAD_CONST'], 5, "
                               "op['STORE_NAME'], 6, op['LOAD_CONST'], 7, op['RETURN_VALUE'], 0])");
  const std::string message(VerifyCode(code.get()).message());
  for (const char* part : {"constant 5", "name 6", "constant 7"})
    EXPECT_NE(message.find(part), std::string::npos) << part;
}

}  // namespace
}  // namespace framejit

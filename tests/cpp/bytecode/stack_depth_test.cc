#include "bytecode/stack_depth.h"

#include <gtest/gtest.h>

#include "tests/cpp/bytecode/embedded_python.h"

namespace framejit {
namespace {

class StackDepthSourceTest : public ::testing::TestWithParam<const char*> {};

TEST_P(StackDepthSourceTest, EqualsTheCompilers) {
  TestCode code = FunctionCode(GetParam());
  absl::StatusOr<StackDepths> depths = ComputeStackDepths(code.Decode());
  ASSERT_TRUE(depths.ok()) << depths.status().message();
  EXPECT_EQ(depths->max, code.get()->co_stacksize);
  EXPECT_EQ(depths->before[0], 0);
}

INSTANTIATE_TEST_SUITE_P(
    StackDepth, StackDepthSourceTest,
    ::testing::Values(
        "def f(a, b):\n  return a + b\n", "def f(a):\n  return [a, a, [a, a, a], {a: a}]\n",
        "def f(a):\n  with a as b, b as c:\n    return c(b, a=1)\n",
        "def f(a):\n  for x in a:\n    for y in x:\n      yield y\n",
        "def f(a):\n  try:\n    return a.b(a)\n  except (A, B) as e:\n    raise a from e\n  finally:\n    a()\n",
        "async def f(a):\n  async for x in a:\n    await x\n  async with a:\n    pass\n",
        "def f(a):\n  match a:\n    case {'k': [x, *y]}:\n      return x, y\n    case A(b=c):\n      return c\n",
        "def f(*a, **k):\n  return f(*a, 1, *a, x=2, **k)\n",
        "def f(a):\n  try:\n    a()\n  except* ValueError:\n    pass\n"));

TEST(StackDepthTest, DepthsOfASmallFunction) {
  TestCode code = FunctionCode("def f(a, b):\n  return a + b\n");
  DecodedCode decoded = code.Decode();
  StackDepths depths = *ComputeStackDepths(decoded);
  EXPECT_EQ(depths.before[Find(decoded, "BINARY_OP")], 2);
  EXPECT_EQ(depths.before[Find(decoded, "RETURN_VALUE")], 1);
}

TEST(StackDepthTest, UnreachableInstructionsHaveNone) {
  DecodedCode decoded = ReplacedCode("def f(): pass",
                                     "co_code=bytes([op['JUMP_FORWARD'], 1, op['NOP'], 0, op['LOAD_CONST'], 0, "
                                     "op['RETURN_VALUE'], 0])")
                            .Decode();
  EXPECT_EQ(ComputeStackDepths(decoded)->before[Find(decoded, "NOP")], -1);
}

void ExpectError(const std::string& bytes, const char* message) {
  DecodedCode decoded = ReplacedCode("def f(a): pass", "co_code=bytes([" + bytes + "])").Decode();
  absl::StatusOr<StackDepths> depths = ComputeStackDepths(decoded);
  ASSERT_FALSE(depths.ok()) << bytes;
  EXPECT_NE(depths.status().message().find(message), absl::string_view::npos) << depths.status().message();
}

TEST(StackDepthTest, Errors) {
  ExpectError("op['POP_TOP'], 0, op['LOAD_CONST'], 0, op['RETURN_VALUE'], 0", "needs 1 values, the stack holds 0");
  ExpectError("op['LOAD_CONST'], 0, op['SWAP'], 2, op['RETURN_VALUE'], 0", "needs 2 values, the stack holds 1");
  ExpectError("op['RETURN_VALUE'], 0", "needs 1 values");
  ExpectError("op['LOAD_CONST'], 0, op['LOAD_CONST'], 0, op['RETURN_VALUE'], 0", "values left on the stack");
  ExpectError("op['LOAD_CONST'], 0, op['JUMP_BACKWARD_NO_INTERRUPT'], 2", "stack depths 0 and 1");
}

}  // namespace
}  // namespace framejit

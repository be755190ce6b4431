#include "bytecode/decode.h"

#include <gtest/gtest.h>

#include "tests/cpp/bytecode/embedded_python.h"

namespace framejit {
namespace {

TEST(DecodeTest, InstructionsCoverTheCodeWithoutGaps) {
  TestCode code = FunctionCode("def f(a, b):\n  return a.x + b[0]\n");
  DecodedCode decoded = code.Decode();
  int unit = 0;
  for (int i = 0; i < decoded.size(); ++i) {
    EXPECT_EQ(decoded[i].start, unit);
    EXPECT_EQ(decoded[i].end, decoded[i].offset + 1 + decoded[i].info().caches);
    for (; unit < decoded[i].end; ++unit) EXPECT_EQ(decoded.IndexCovering(unit), i);
  }
  EXPECT_EQ(unit, decoded.units());
  EXPECT_EQ(decoded.IndexCovering(unit), -1);
  EXPECT_EQ(decoded.IndexCovering(-1), -1);
}

TEST(DecodeTest, ExtendedArgIsFolded) {
  // 300 distinct constants: the last are named by more than one byte.
  TestCode code = FunctionCode("exec('def f():\\n  x = 0\\n' + ''.join(f'  x = {i}.5\\n' for i in range(300)))");
  DecodedCode decoded = code.Decode();
  int largest = 0;
  for (const Instruction& instruction : decoded.instructions()) {
    EXPECT_NE(instruction.opcode, Opcode::k_EXTENDED_ARG);
    if (instruction.info().operand != OperandKind::kConst || instruction.oparg <= 255) continue;
    EXPECT_EQ(instruction.start, instruction.offset - 1);
    EXPECT_EQ(decoded.IndexStarting(instruction.offset), -1);
    EXPECT_EQ(decoded.IndexCovering(instruction.offset), decoded.IndexStarting(instruction.start));
    largest = instruction.oparg;
  }
  EXPECT_GE(largest, 299);
}

TEST(DecodeTest, LoopJumpsBackToForIter) {
  DecodedCode decoded = FunctionCode("def f(items):\n  for x in items:\n    g(x)\n").Decode();
  const int for_iter = Find(decoded, "FOR_ITER");
  const int back = Find(decoded, "JUMP_BACKWARD");
  ASSERT_GE(for_iter, 0);
  ASSERT_GE(back, 0);
  EXPECT_EQ(decoded[back].target, for_iter);
  EXPECT_GT(decoded[for_iter].target, back);
  EXPECT_EQ(decoded[0].target, -1);
}

TEST(DecodeTest, SpecialisedCodeDecodesAsGenericCode) {
  TestCode cold = FunctionCode("def f(a):\n  return a + a\n");
  TestCode warm = FunctionCode("def f(a):\n  return a + a\nfor _ in range(100): f(1)\n");
  DecodedCode before = cold.Decode();
  DecodedCode after = warm.Decode();
  ASSERT_EQ(before.size(), after.size());
  for (int i = 0; i < before.size(); ++i) EXPECT_EQ(before[i].opcode, after[i].opcode);
}

TEST(DecodeTest, LinesAndSpans) {
  TestCode code = FunctionCode("def f(a):\n  b = a\n  return (a +\n          b)\n");
  DecodedCode decoded = code.Decode();
  const Instruction& add = decoded[Find(decoded, "BINARY_OP")];
  EXPECT_EQ(LineOf(code.get(), add), 3);
  const SourceSpan span = SpanOf(code.get(), add);
  EXPECT_EQ(span.line, 3);
  EXPECT_EQ(span.end_line, 4);
  EXPECT_EQ(span.column, 10);
  EXPECT_EQ(span.end_column, 11);
}

struct Malformed {
  const char* fields;
  const char* message;
};

class MalformedCodeTest : public ::testing::TestWithParam<Malformed> {};

TEST_P(MalformedCodeTest, IsRefusedWithItsReason) {
  TestCode code = ReplacedCode("def f(): pass", GetParam().fields);
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(code.get());
  ASSERT_FALSE(decoded.ok());
  EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(decoded.status().message().find(GetParam().message), absl::string_view::npos) << decoded.status().message();
}

INSTANTIATE_TEST_SUITE_P(
    Decode, MalformedCodeTest,
    // co_code gives 0 for a number that is neither an opcode nor a specialised form of one.
    ::testing::Values(Malformed{"co_code=bytes([233, 0])", "code unit 0: "},
                      Malformed{"co_code=bytes([0, 0])", "a cache outside an instruction"},
                      Malformed{"co_code=bytes([op['EXTENDED_ARG'], 1])", "EXTENDED_ARG at the end"},
                      Malformed{"co_code=bytes([op['EXTENDED_ARG'], 255] * 4 + [op['LOAD_CONST'], 0])", "too large"},
                      Malformed{"co_code=bytes([op['JUMP_FORWARD'], 9])", "a jump to 10"},
                      Malformed{"co_code=bytes([op['JUMP_BACKWARD_NO_INTERRUPT'], 9])", "a jump to -8"},
                      Malformed{"co_code=bytes([op['JUMP_FORWARD'], 1, op['STORE_SUBSCR'], 0, 0, 0])", "a jump to 2"},
                      Malformed{"co_exceptiontable=bytes([0x80, 1, 60, 0])", "a handler at 60"},
                      Malformed{"co_exceptiontable=bytes([0x80, 1])", "malformed"}));

}  // namespace
}  // namespace framejit

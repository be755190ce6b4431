#include "bytecode/exception_table.h"

#include <gtest/gtest.h>

#include "tests/cpp/bytecode/embedded_python.h"

namespace framejit {
namespace {

std::string Bytes(std::initializer_list<int> values) { return std::string(values.begin(), values.end()); }

TEST(ExceptionTableTest, ParsesOneByteNumbers) {
  absl::StatusOr<std::vector<ExceptionEntry>> table =
      ParseExceptionTable(Bytes({0x80 | 3, 4, 9, 5, 0x80 | 7, 2, 11, 2}));
  ASSERT_TRUE(table.ok());
  ASSERT_EQ(table->size(), 2u);
  EXPECT_EQ((*table)[0], (ExceptionEntry{3, 7, 9, 2, true}));
  EXPECT_EQ((*table)[1], (ExceptionEntry{7, 9, 11, 1, false}));
}

TEST(ExceptionTableTest, ParsesLongNumbersBigEndian) {
  // 0x1234 = 1, 8, 52 in groups of six bits.
  absl::StatusOr<std::vector<ExceptionEntry>> table =
      ParseExceptionTable(Bytes({0x80 | 0x40 | 1, 0x40 | 8, 52, 1, 0x40 | 2, 0, 0}));
  ASSERT_TRUE(table.ok());
  EXPECT_EQ(table->at(0), (ExceptionEntry{0x1234, 0x1235, 128, 0, false}));
}

TEST(ExceptionTableTest, EmptyTableHasNoEntries) { EXPECT_TRUE(ParseExceptionTable("")->empty()); }

TEST(ExceptionTableTest, RefusesMalformedBytes) {
  EXPECT_FALSE(ParseExceptionTable(Bytes({3, 4, 9, 5})).ok()) << "no start mark";
  EXPECT_FALSE(ParseExceptionTable(Bytes({0x80, 4, 9})).ok()) << "truncated";
  EXPECT_FALSE(ParseExceptionTable(Bytes({0x80, 4, 0x80, 5})).ok()) << "start mark inside an entry";
  EXPECT_FALSE(ParseExceptionTable(Bytes({0x80 | 0x40})).ok()) << "truncated number";
  EXPECT_FALSE(ParseExceptionTable(Bytes({0xff, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0, 0, 0})).ok()) << "number too large";
}

TEST(ExceptionTableTest, FindsTheEntryThatCovers) {
  const std::vector<ExceptionEntry> table = {{3, 7, 20, 0, false}, {7, 9, 30, 1, true}, {12, 14, 40, 2, false}};
  EXPECT_EQ(FindExceptionEntry(table, 2), nullptr);
  EXPECT_EQ(FindExceptionEntry(table, 3), &table[0]);
  EXPECT_EQ(FindExceptionEntry(table, 6), &table[0]);
  EXPECT_EQ(FindExceptionEntry(table, 7), &table[1]);
  EXPECT_EQ(FindExceptionEntry(table, 9), nullptr);
  EXPECT_EQ(FindExceptionEntry(table, 13), &table[2]);
  EXPECT_EQ(FindExceptionEntry(table, 14), nullptr);
  EXPECT_EQ(FindExceptionEntry({}, 0), nullptr);
}

TEST(ExceptionTableTest, HandlerOfACallInTry) {
  TestCode code = FunctionCode("def f():\n  try:\n    g()\n  except KeyError:\n    h()\n");
  DecodedCode decoded = code.Decode();
  const Instruction& call = decoded[Find(decoded, "CALL")];
  std::optional<ExceptionHandler> handler = FindExceptionHandler(code.get(), call.offset);
  ASSERT_TRUE(handler.has_value());
  EXPECT_EQ(handler->depth, 0);
  EXPECT_FALSE(handler->push_lasti);
  EXPECT_EQ(decoded[decoded.IndexStarting(handler->target)].opcode, Opcode::k_PUSH_EXC_INFO);
  EXPECT_FALSE(FindExceptionHandler(code.get(), 0).has_value());
  EXPECT_FALSE(FindExceptionHandler(code.get(), decoded.units()).has_value());
}

}  // namespace
}  // namespace framejit

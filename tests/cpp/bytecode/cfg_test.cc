#include "bytecode/cfg.h"

#include <gtest/gtest.h>

#include "tests/cpp/bytecode/embedded_python.h"

namespace framejit {
namespace {

void ExpectPartition(const DecodedCode& decoded, const Cfg& cfg) {
  int next = 0;
  for (size_t block = 0; block < cfg.blocks().size(); ++block) {
    EXPECT_EQ(cfg.blocks()[block].begin, next);
    next = cfg.blocks()[block].end;
    for (int i = cfg.blocks()[block].begin; i < next; ++i) EXPECT_EQ(cfg.BlockOf(i), static_cast<int>(block));
  }
  EXPECT_EQ(next, decoded.size());
}

TEST(CfgTest, StraightLineIsOneBlock) {
  DecodedCode decoded = FunctionCode("def f(a):\n  return a + 1\n").Decode();
  Cfg cfg(decoded);
  ExpectPartition(decoded, cfg);
  ASSERT_EQ(cfg.blocks().size(), 1u);
  EXPECT_TRUE(cfg.blocks()[0].successors.empty());
  EXPECT_EQ(cfg.blocks()[0].handler, -1);
  EXPECT_TRUE(cfg.blocks()[0].reachable);
}

TEST(CfgTest, BranchHasTwoSuccessorsFallThroughFirst) {
  DecodedCode decoded = FunctionCode("def f(a):\n  if a is None:\n    return 1\n  return 2\n").Decode();
  Cfg cfg(decoded);
  ExpectPartition(decoded, cfg);
  const BasicBlock& first = cfg.blocks()[0];
  ASSERT_EQ(first.successors.size(), 2u);
  EXPECT_EQ(first.successors[0], 1);
  EXPECT_EQ(first.successors[1], cfg.BlockOf(decoded[first.end - 1].target));
}

TEST(CfgTest, LoopHasABackEdge) {
  DecodedCode decoded = FunctionCode("def f(items):\n  for x in items:\n    g(x)\n").Decode();
  Cfg cfg(decoded);
  ExpectPartition(decoded, cfg);
  const int head = cfg.BlockOf(Find(decoded, "FOR_ITER"));
  const int body = cfg.BlockOf(Find(decoded, "JUMP_BACKWARD"));
  EXPECT_EQ(cfg.blocks()[body].successors, std::vector<int>{head});
  EXPECT_EQ(cfg.blocks()[head].begin, Find(decoded, "FOR_ITER"));
}

TEST(CfgTest, ProtectedInstructionsLeadToTheirHandler) {
  DecodedCode decoded = FunctionCode("def f():\n  try:\n    g()\n  except KeyError:\n    h()\n").Decode();
  Cfg cfg(decoded);
  ExpectPartition(decoded, cfg);
  const BasicBlock& body = cfg.blocks()[cfg.BlockOf(Find(decoded, "CALL"))];
  ASSERT_GE(body.handler, 0);
  EXPECT_EQ(decoded[cfg.blocks()[body.handler].begin].opcode, Opcode::k_PUSH_EXC_INFO);
  EXPECT_TRUE(cfg.blocks()[body.handler].reachable);
  EXPECT_EQ(cfg.blocks()[0].handler, -1);
}

TEST(CfgTest, CodeAfterAnUnconditionalJumpIsUnreachable) {
  DecodedCode decoded = ReplacedCode("def f(): pass",
                                     "co_code=bytes([op['JUMP_FORWARD'], 1, op['NOP'], 0, op['LOAD_CONST'], 0, "
                                     "op['RETURN_VALUE'], 0])")
                            .Decode();
  Cfg cfg(decoded);
  ExpectPartition(decoded, cfg);
  EXPECT_FALSE(cfg.blocks()[cfg.BlockOf(Find(decoded, "NOP"))].reachable);
  EXPECT_TRUE(cfg.blocks()[cfg.BlockOf(Find(decoded, "RETURN_VALUE"))].reachable);
}

}  // namespace
}  // namespace framejit

#include "bytecode/liveness.h"

#include <gtest/gtest.h>

#include "tests/cpp/bytecode/embedded_python.h"

namespace framejit {
namespace {

using Slots = std::vector<int>;

struct Analysed {
  explicit Analysed(const std::string& source)
      : code(FunctionCode(source)),
        decoded(code.Decode()),
        cfg(decoded),
        liveness(decoded, cfg, code.get()->co_nlocalsplus) {}

  Slots Before(std::string_view name, int from = 0) { return liveness.SlotsLiveBefore(Find(decoded, name, from)); }

  TestCode code;
  DecodedCode decoded;
  Cfg cfg;
  Liveness liveness;
};

TEST(LivenessTest, ArgumentsAreLiveUntilTheirLastUse) {
  Analysed f("def f(a, b, unused):\n  c = a * a\n  return c - b\n");
  EXPECT_EQ(f.liveness.SlotsLiveBefore(0), (Slots{0, 1}));
  EXPECT_EQ(f.Before("BINARY_OP"), (Slots{1}));
  EXPECT_EQ(f.Before("RETURN_VALUE"), Slots{});
  EXPECT_TRUE(f.liveness.IsLiveBefore(0, 0));
  EXPECT_FALSE(f.liveness.IsLiveBefore(0, 2));
}

TEST(LivenessTest, LoopKeepsWhatTheNextIterationReads) {
  Analysed f("def f(items, total):\n  for x in items:\n    total = g(total, x)\n  return total\n");
  EXPECT_EQ(f.Before("FOR_ITER"), (Slots{1}));
  EXPECT_EQ(f.Before("JUMP_BACKWARD"), (Slots{1}));
}

TEST(LivenessTest, HandlerKeepsWhatItReads) {
  Analysed f("def f(a, b):\n  try:\n    g()\n    b = 1\n  except KeyError:\n    return a\n  return b\n");
  EXPECT_EQ(f.Before("CALL"), (Slots{0}));
  Analysed plain("def f(a, b):\n  g()\n  b = 1\n  return b\n");
  EXPECT_EQ(plain.Before("CALL"), Slots{});
}

TEST(LivenessTest, StoreInATryKeepsTheOldValueForTheHandler) {
  Analysed f("def f(a):\n  try:\n    a = g()\n    h()\n  except KeyError:\n    return a\n");
  EXPECT_EQ(f.Before("CALL"), (Slots{0}));  // g may raise: the handler reads the old value
}

TEST(LivenessTest, CellsAndFreeVariables) {
  Analysed f(
      "def outer():\n  n = 0\n  def f(a):\n    nonlocal n\n    n = a\n    return lambda: a\n  return f\nf = outer()\n");
  // Slots: a (cell argument), n (free). MAKE_CELL reads the argument; COPY_FREE_VARS writes n.
  EXPECT_EQ(f.liveness.SlotsLiveBefore(0), (Slots{0}));
  EXPECT_EQ(f.Before("RESUME"), (Slots{0, 1}));
}

TEST(LivenessTest, DeleteReadsAndEmpties) {
  Analysed f("def f(a):\n  g()\n  del a\n  return None\n");
  EXPECT_EQ(f.Before("CALL"), (Slots{0}));
  EXPECT_EQ(f.liveness.SlotsLiveBefore(Find(f.decoded, "DELETE_FAST") + 1), Slots{});
}

TEST(LivenessTest, MoreSlotsThanOneWord) {
  Analysed f("exec('def f(' + ','.join(f'a{i}' for i in range(150)) + '): return a3 + a63 + a64 + a149')");
  EXPECT_EQ(f.liveness.SlotsLiveBefore(0), (Slots{3, 63, 64, 149}));
}

}  // namespace
}  // namespace framejit

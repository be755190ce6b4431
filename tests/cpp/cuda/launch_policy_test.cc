// When graphs are launched as CUDA graphs: addresses and times in, decisions out.
#include "backends/cuda/launch_policy.h"

#include <gtest/gtest.h>

#include <vector>

namespace framejit::cuda {
namespace {

using Action = LaunchPolicy::Action;

constexpr int64_t kSmall = 1000, kLarge = LaunchPolicy::kLargestCopy + 1;

const void* At(uintptr_t address) { return reinterpret_cast<const void*>(address); }

// Calls until the policy wants a capture.
void SkipFirstCalls(LaunchPolicy& policy, const std::vector<const void*>& addresses) {
  for (int i = 0; i < LaunchPolicy::kFirstCalls; ++i) EXPECT_EQ(policy.Next(addresses), Action::kPlain);
}

TEST(LaunchPolicy, CapturesBehindTheFirstCallsWhereItIsAskedTo) {
  LaunchPolicy policy(/*always=*/true, {kSmall});
  SkipFirstCalls(policy, {At(64)});
  EXPECT_EQ(policy.Next({At(64)}), Action::kCapture);
  EXPECT_FALSE(policy.IsCopied(0));
  policy.Captured();
  EXPECT_EQ(policy.Next({At(64)}), Action::kLaunch);
}

TEST(LaunchPolicy, WhatMovedIsCopied) {
  LaunchPolicy policy(/*always=*/true, {kSmall, kLarge});
  EXPECT_EQ(policy.Next({At(64), At(128)}), Action::kPlain);
  EXPECT_EQ(policy.Next({At(65), At(128)}), Action::kPlain);
  EXPECT_EQ(policy.Next({At(64), At(128)}), Action::kCapture);
  EXPECT_TRUE(policy.IsCopied(0));
  EXPECT_FALSE(policy.IsCopied(1));
  policy.Captured();
  EXPECT_EQ(policy.Next({At(66), At(128)}), Action::kLaunch);
  EXPECT_EQ(policy.Next({At(66), At(129)}), Action::kCapture);
  EXPECT_TRUE(policy.IsCopied(1));  // it was asked for
  policy.Captured();
  EXPECT_EQ(policy.Next({At(67), At(130)}), Action::kLaunch);
}

TEST(LaunchPolicy, LargeInputsThatMoveAgainAndAgainEndIt) {
  LaunchPolicy policy(/*always=*/false, {kLarge});
  uintptr_t address = 64;
  SkipFirstCalls(policy, {At(address)});
  for (int i = 0; i < LaunchPolicy::kTimedCalls; ++i) {
    EXPECT_EQ(policy.Next({At(address)}), Action::kTimePlain);
    policy.AddTime(/*launched=*/false, {1e6, 1e6});
  }
  for (int i = 0; i < LaunchPolicy::kMostCaptures; ++i) {
    EXPECT_EQ(policy.Next({At(++address)}), Action::kCapture);
    EXPECT_FALSE(policy.IsCopied(0));
    policy.Captured();
  }
  EXPECT_EQ(policy.Next({At(++address)}), Action::kPlain);
  EXPECT_EQ(policy.why_plain(), "inputs are at other addresses again and again");
}

TEST(LaunchPolicy, ADeviceThatIsBusyLongerThanItsLaunchesTakeNeedsNone) {
  LaunchPolicy policy(/*always=*/false, {});
  SkipFirstCalls(policy, {});
  for (int i = 0; i < LaunchPolicy::kTimedCalls; ++i) {
    EXPECT_EQ(policy.Next({}), Action::kTimePlain);
    policy.AddTime(/*launched=*/false, {1e6, 5e6});
  }
  EXPECT_EQ(policy.Next({}), Action::kPlain);
  EXPECT_FALSE(policy.why_plain().empty());
}

TEST(LaunchPolicy, LaunchesMustBeFaster) {
  for (const double launched : {2e5, 1e6}) {
    LaunchPolicy policy(/*always=*/false, {});
    SkipFirstCalls(policy, {});
    for (int i = 0; i < LaunchPolicy::kTimedCalls; ++i) {
      EXPECT_EQ(policy.Next({}), Action::kTimePlain);
      policy.AddTime(/*launched=*/false, {1e6, 1e6});
    }
    EXPECT_EQ(policy.Next({}), Action::kCapture);
    policy.Captured();
    for (int i = 0; i < LaunchPolicy::kTimedCalls; ++i) {
      EXPECT_EQ(policy.Next({}), Action::kTimeLaunch);
      policy.AddTime(/*launched=*/true, {1e4, launched});
    }
    EXPECT_EQ(policy.Next({}), launched < 1e6 ? Action::kLaunch : Action::kPlain);
  }
}

TEST(LaunchPolicy, GivenUpIsGivenUp) {
  LaunchPolicy policy(/*always=*/true, {});
  SkipFirstCalls(policy, {});
  EXPECT_EQ(policy.Next({}), Action::kCapture);
  policy.GiveUp("an operator waits for the device");
  EXPECT_EQ(policy.Next({}), Action::kPlain);
}

}  // namespace
}  // namespace framejit::cuda

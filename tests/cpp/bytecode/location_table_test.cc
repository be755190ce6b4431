#include "bytecode/location_table.h"

#include <gtest/gtest.h>

#include <utility>

namespace framejit {
namespace {

using Runs = std::vector<std::pair<SourceSpan, int>>;

std::string Write(const Runs& runs, int first_line) {
  LocationTableWriter writer(first_line);
  for (const auto& [span, units] : runs) writer.Add(span, units);
  return writer.Finish();
}

void ExpectRoundTrip(const Runs& runs) {
  std::vector<SourceSpan> expected;
  for (const auto& [span, units] : runs) expected.insert(expected.end(), units, span);
  absl::StatusOr<std::vector<SourceSpan>> spans =
      ParseLocationTable(Write(runs, 100), 100, static_cast<int>(expected.size()));
  ASSERT_TRUE(spans.ok()) << spans.status().message();
  EXPECT_EQ(*spans, expected);
}

// One line for each way a span can be written, at the edges of what each can say.
TEST(LocationTableTest, EveryKind) {
  ExpectRoundTrip({{{100, 0, 100, 0}, 1}});
  ExpectRoundTrip({{{100, 79, 100, 94}, 1}});
  ExpectRoundTrip({{{100, 79, 100, 95}, 1}});
  ExpectRoundTrip({{{100, 80, 100, 81}, 1}});
  ExpectRoundTrip({{{102, 127, 102, 127}, 1}});
  ExpectRoundTrip({{{102, 128, 102, 130}, 1}});
  ExpectRoundTrip({{{103, 1, 103, 2}, 1}});
  ExpectRoundTrip({{{100, 5, 100, 3}, 1}});
  ExpectRoundTrip({{{99, 1, 99, 2}, 1}});
  ExpectRoundTrip({{{100, 1, 120, 2}, 1}});
  ExpectRoundTrip({{{100, -1, 100, -1}, 1}});
  ExpectRoundTrip({{{100, -1, 105, -1}, 1}});
  ExpectRoundTrip({{{100, -1, 100, 5}, 1}});
  ExpectRoundTrip({{{0, -1, 0, -1}, 1}});
  ExpectRoundTrip({{kNoSpan, 3}});
  ExpectRoundTrip({{{100000, 100000, 200000, 4000}, 1}, {{1, 2, 3, 4}, 1}});
}

TEST(LocationTableTest, RunsAndLinesThatFollowEachOther) {
  ExpectRoundTrip({{{101, 4, 101, 9}, 7},
                   {{101, 4, 101, 9}, 2},
                   {kNoSpan, 17},
                   {{101, 4, 101, 9}, 8},
                   {{90, -1, 90, -1}, 100},
                   {{92, 3, 92, 200}, 9}});
}

TEST(LocationTableTest, MergesNeighboursOfOneSpan) {
  const SourceSpan span = {100, 1, 100, 2};
  EXPECT_EQ(Write({{span, 1}, {span, 1}, {span, 1}}, 100), Write({{span, 3}}, 100));
}

TEST(LocationTableTest, WhatTheTableDoesNotReachHasNoSpan) {
  absl::StatusOr<std::vector<SourceSpan>> spans = ParseLocationTable("", 1, 2);
  ASSERT_TRUE(spans.ok());
  EXPECT_EQ(*spans, std::vector<SourceSpan>(2, kNoSpan));
}

TEST(LocationTableTest, RejectsWhatIsMalformed) {
  using std::string_literals::operator""s;
  for (const std::string& table : {"\x00"s, "\x80"s, "\xd0\x01"s, "\xe8"s, "\xe8\x40"s, "\xe8\x80"s, "\xf0\x00\x00"s,
                                   "\xe8\x7f\x7f\x7f\x7f\x7f\x7f\x01"s}) {
    EXPECT_EQ(ParseLocationTable(table, 1, 1).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace framejit

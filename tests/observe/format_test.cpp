#include "observe/format.hpp"

#include <gtest/gtest.h>

namespace swiftbalancer::observe {
namespace {

TEST(Format, KeepsThreeDigitsAndTheRightUnit) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(9999), "9999");
  EXPECT_EQ(format_count(12345), "12.3k");
  EXPECT_EQ(format_count(999999), "1.00M");
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(36864), "36.9 kB");
  EXPECT_EQ(format_bytes(3.5e9), "3.50 GB");
  EXPECT_EQ(format_us(41.5), "41.5 us");
  EXPECT_EQ(format_us(5170), "5.17 ms");
  EXPECT_EQ(format_us(2.5e6), "2.50 s");
  EXPECT_EQ(format_us(0), "0 us");
}

TEST(Format, SmallSharesKeepADigitAfterThePoint) {
  EXPECT_EQ(format_percent(0.934), "93 %");
  EXPECT_EQ(format_percent(0.0123), "1.2 %");
  EXPECT_EQ(format_percent(0), "0 %");
  EXPECT_EQ(format_percent(-0.25), "-25 %");
}

TEST(Format, AbsentNumbersSaySo) {
  EXPECT_EQ(or_na(std::nullopt, format_ratio), "n/a");
  EXPECT_EQ(or_na(1.1239, format_ratio), "1.124");
}

TEST(Format, NoTextCanLeaveItsElement) {
  EXPECT_EQ(escape_html("<a href=\"x\">'&'</a>"),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
}

}  // namespace
}  // namespace swiftbalancer::observe

#include "io/npy.hpp"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <swiftbalancer/error.hpp>

#include "io/npy_bytes.hpp"

namespace swiftbalancer::io {
namespace {

using swiftbalancer::testing::npy;
using swiftbalancer::testing::npy_with_header;
using swiftbalancer::testing::raw;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string refusal_of_array(const std::string& bytes) {
  try {
    parse_npy("a.npy", bytes);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_THAT(error.what(), HasSubstr("a.npy"));
    return error.what();
  }
  return "nothing";
}

template <typename T>
void expect_read(const std::string& name) {
  SCOPED_TRACE(name);
  for (const bool big : {false, true}) {
    const std::string descr = (big ? ">" : "<") + name;
    const NumberArray array =
        parse_npy("a.npy", npy(descr, "2, 3", raw<T>({1, 2, 3, 4, 5, 6}, big)));
    EXPECT_THAT(array.shape, ElementsAre(2, 3));
    EXPECT_THAT(array.values, ElementsAre(1, 2, 3, 4, 5, 6));
  }
}

TEST(Npy, EveryNumberTypeIsReadInBothByteOrders) {
  expect_read<std::int8_t>("i1");
  expect_read<std::int16_t>("i2");
  expect_read<std::int32_t>("i4");
  expect_read<std::int64_t>("i8");
  expect_read<std::uint8_t>("u1");
  expect_read<std::uint16_t>("u2");
  expect_read<std::uint32_t>("u4");
  expect_read<std::uint64_t>("u8");
  expect_read<float>("f4");
  expect_read<double>("f8");
  EXPECT_THAT(parse_npy("a.npy", npy("|u1", "2", raw<std::uint8_t>({7, 255}))).values,
              ElementsAre(7, 255));
}

// IEEE 754-2008, table 3.5: examples of binary16.
TEST(Npy, HalfPrecisionNumbersAreExact) {
  const std::string data = raw<std::uint16_t>({0x0000, 0x3C00, 0x3555, 0x7BFF, 0x0001, 0xC000});
  EXPECT_THAT(parse_npy("a.npy", npy("<f2", "6", data)).values,
              ElementsAre(0.0, 1.0, 0.333251953125, 65504.0, std::ldexp(1.0, -24), -2.0));
  const std::string big = raw<std::uint16_t>({0x3C00}, true);
  EXPECT_THAT(parse_npy("a.npy", npy(">f2", "1", big)).values, ElementsAre(1.0));
  for (const char* bad : {"\x00\x7C", "\x00\xFC", "\x00\x7E"})
    EXPECT_THAT(refusal_of_array(npy("<f2", "1", std::string(bad, 2))), HasSubstr("finite"));
}

TEST(Npy, FortranOrderIsReadRowByRow) {
  // [[0, 1, 2], [3, 4, 5]] column by column, and [2, 2, 2] likewise.
  const NumberArray two =
      parse_npy("a.npy", npy("<i4", "2, 3", raw<std::int32_t>({0, 3, 1, 4, 2, 5}), true));
  EXPECT_THAT(two.values, ElementsAre(0, 1, 2, 3, 4, 5));
  const NumberArray three =
      parse_npy("a.npy", npy("<i4", "2, 2, 2", raw<std::int32_t>({0, 4, 2, 6, 1, 5, 3, 7}), true));
  EXPECT_THAT(three.values, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

TEST(Npy, TheHeaderMayBeWrittenInAnyWayThatPythonAllows) {
  const std::string data = raw<std::int32_t>({1, 2});
  for (const char* header :
       {"{'descr':'<i4','fortran_order':False,'shape':(2,)}",
        "{\"shape\": (2 , ), \"descr\": \"<i4\", \"fortran_order\": False }   \n",
        "{ 'fortran_order': False, 'shape': (1, 2), 'descr': '<i4', }\n"}) {
    EXPECT_THAT(parse_npy("a.npy", npy_with_header(header, data)).values, ElementsAre(1, 2));
  }
}

TEST(Npy, ValuesThatAreNoNumbersOrTooLargeAreRefusedWithTheirPlace) {
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_THAT(refusal_of_array(npy("<f8", "2, 2", raw<double>({1, 2, std::nan(""), 4}))),
              HasSubstr("value nan at [1, 0]"));
  EXPECT_THAT(refusal_of_array(npy("<f8", "2", raw<double>({1, inf}))),
              HasSubstr("value inf at [1]"));
  EXPECT_THAT(refusal_of_array(npy("<f8", "1, 2, 1", raw<double>({0, -inf}))),
              HasSubstr("value -inf at [0, 1, 0]"));
  EXPECT_THAT(refusal_of_array(npy("<f8", "1", raw<double>({1e300}))), HasSubstr("1e+300"));
  const std::int64_t two_to_53 = std::int64_t{1} << 53;
  EXPECT_THAT(refusal_of_array(npy("<i8", "1", raw<std::int64_t>({two_to_53 + 1}))),
              HasSubstr("2^53"));
  EXPECT_THAT(refusal_of_array(npy("<u8", "1", raw<std::uint64_t>({~std::uint64_t{0}}))),
              HasSubstr("2^53"));
  EXPECT_THAT(parse_npy("a.npy", npy("<i8", "1", raw<std::int64_t>({two_to_53 - 1}))).values,
              ElementsAre(9007199254740991.0));
}

TEST(Npy, OtherFilesAreRefusedWithTheReason) {
  const std::string two = raw<std::int32_t>({1, 2});
  const struct {
    std::string file;
    const char* mentioned;
  } cases[] = {
      {"PK\x03\x04 whatever follows", "no .npy file"},
      {"\x93NUMPY", "no .npy file"},
      {std::string("\x93NUMPY\x09\x00\x02\x00{}", 12), "version 9.0"},
      {std::string("\x93NUMPY\x01\x00\xff\xff{}", 12), "65535"},
      {npy("<c8", "1", std::string(8, '\0')), "'<c8' is not supported"},
      {npy("|O", "1", std::string(8, '\0')), "'|O' is not supported"},
      {npy("<U4", "1", std::string(16, '\0')), "'<U4' is not supported"},
      {npy("|S4", "1", std::string(4, '\0')), "'|S4' is not supported"},
      {npy("|b1", "1", std::string(1, '\0')), "'|b1' is not supported"},
      {npy("|V2", "1", std::string(2, '\0')), "'|V2' is not supported"},
      {npy("<M8[s]", "1", std::string(8, '\0')), "'<M8[s]' is not supported"},
      {npy("<f16", "1", std::string(16, '\0')), "'<f16' is not supported"},
      {npy("", "2", two), "element type ''"},
      {npy_with_header("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (2,)}", two),
       "structured"},
      {npy_with_header("{'descr': '<i4', 'descr': '<i4', 'fortran_order': False, 'shape': (2,)}",
                       two),
       "key 'descr' is given twice"},
      {npy_with_header("{'descr': '<i4', 'order': False, 'shape': (2,)}", two),
       "key 'order' is unknown"},
      {npy_with_header("{'descr': '<i4', 'shape': (2,)}", two), "no key 'fortran_order'"},
      {npy_with_header("{'descr': '<i4', 'fortran_order': 0, 'shape': (2,)}", two),
       "True or False"},
      {npy_with_header("{'descr': '<i4', 'fortran_order': False, 'shape': (-2,)}", two),
       "a number"},
      {npy_with_header("{'descr': '<i4', 'fortran_order': False, 'shape': (2,)} 7", two),
       "more behind"},
      {npy("<i4", "2", raw<std::int32_t>({1})), "holds 4 bytes of values; its shape needs 8"},
      {npy("<i4", "2", raw<std::int32_t>({1, 2, 3})), "holds 12 bytes"},
      {npy("<i8", "99999, 99999, 99999", ""), "too large"},
      {npy("<i8", "4294967296, 4294967296", ""), "too large"},  // the product is 2^64
      {npy("<i8", "99999999999", ""), "too large"},
      {npy("<i8", "1,1,1,1,1,1,1,1,1", std::string(8, '\0')), "dimensions"},
  };
  for (const auto& c : cases) EXPECT_THAT(refusal_of_array(c.file), HasSubstr(c.mentioned));
}

TEST(Npy, AFileCutAtAnyByteIsRefused) {
  const std::string file = npy("<i4", "2, 2", raw<std::int32_t>({1, 2, 3, 4}));
  ASSERT_EQ(parse_npy("a.npy", file).values.size(), 4U);
  for (std::size_t size = 0; size < file.size(); ++size)
    EXPECT_NE(refusal_of_array(file.substr(0, size)), "nothing") << size;
}

TEST(Npy, WhatIsWrittenIsReadAndAligned) {
  const std::int64_t shape[] = {2, 3};
  const std::int32_t values[] = {5, -1, 7, 0, 2147483647, 9};
  const std::string file = format_npy(shape, values);
  EXPECT_EQ((file.size() - sizeof values) % 64, 0U);  // As NumPy wants it.
  const NumberArray array = parse_npy("a.npy", file);
  EXPECT_THAT(array.shape, ElementsAre(2, 3));
  EXPECT_THAT(array.values, ElementsAre(5, -1, 7, 0, 2147483647, 9));
}

}  // namespace
}  // namespace swiftbalancer::io

// Products of matrices that are rounded to bfloat16, with sums in float32, for CPUs with AVX512-BF16.
//
// The left side is rounded by row (Round), the right side laid out in panels (Pack); a sum is added up in one fixed order.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "paddle/extension.h"

namespace {  // of each file that includes this

using paddle::DataType;
using paddle::Tensor;
using Shape = std::vector<int64_t>;

constexpr int64_t kPanel = 64;  // columns of a panel: four registers
constexpr int64_t kTile = 6;    // rows of a tile: its sums fill 24 of 32 registers

int64_t Even(int64_t number) { return number + (number & 1); }
int64_t Panels(int64_t columns) { return (columns + kPanel - 1) / kPanel; }
int64_t PackedSize(int64_t rows, int64_t columns) { return Panels(columns) * kPanel * Even(rows); }

// The lanes of a register that `left` values fill.
__mmask16 Lanes(int64_t left) { return left >= 16 ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1); }
__m256i Rounded(__m512 values) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)); }

// Large blocks of memory for one use after the other. The system would zero the pages of each new block, which takes a third of
// a step of long texts; all of these together are never more than were in use at one time.
class Pool {
 public:
  // A block of `*size` bytes or more, `*size` becoming what it has: the smallest free one that is not a quarter too large, or a
  // new one, for which others that do not fit make room.
  void* Take(size_t* size) {
    const std::lock_guard<std::mutex> hold(lock_);
    const auto found = free_.lower_bound(*size);
    void* block = nullptr;
    if (found != free_.end() && found->first <= *size + *size / 4) {
      block = found->second;
      *size = found->first;
      kept_ -= found->first;
      free_.erase(found);
    } else {
      most_ = std::max(most_, used_ + *size);
      while (!free_.empty() && used_ + kept_ + *size > most_) {
        const auto last = std::prev(free_.end());
        kept_ -= last->first;
        std::free(last->second);
        free_.erase(last);
      }
      block = std::malloc(*size);
      if (block == nullptr) throw std::bad_alloc();
    }
    used_ += *size;
    return block;
  }

  void GiveBack(void* block, size_t size) {
    const std::lock_guard<std::mutex> hold(lock_);
    free_.emplace(size, block);
    kept_ += size;
    used_ -= size;
  }

 private:
  std::mutex lock_;
  std::multimap<size_t, void*> free_;
  size_t kept_ = 0, used_ = 0, most_ = 0;
};

constexpr size_t kLarge = 6 << 20;

Pool& Large() {
  static Pool* pool = new Pool;  // never taken apart: tensors may outlive what is
  return *pool;
}

// Memory for values that are all to be written: a vector would set each of them to 0 before.
template <class Value>
class Buffer {
 public:
  explicit Buffer(int64_t size) : size_(size * sizeof(Value)) {
    values_ = size_ < kLarge ? new Value[size] : static_cast<Value*>(Large().Take(&size_));
  }
  Buffer(Buffer&& other) : size_(other.size_), values_(other.values_) { other.values_ = nullptr; }
  ~Buffer() {
    if (size_ < kLarge) {
      delete[] values_;
    } else if (values_ != nullptr) {
      Large().GiveBack(values_, size_);
    }
  }
  Value* data() const { return values_; }

 private:
  size_t size_;
  Value* values_;
};

// A matrix of float32, or a part of one: from row to row it is `stride` values.
struct Matrix {
  const float* values;
  int64_t rows, columns, stride;

  Matrix(const float* values, int64_t rows, int64_t columns) : Matrix(values, rows, columns, columns) {}
  Matrix(const float* values, int64_t rows, int64_t columns, int64_t stride)
      : values(values), rows(rows), columns(columns), stride(stride) {}
  const float* Row(int64_t row) const { return values + row * stride; }
  Matrix Rows(int64_t first, int64_t count) const { return {Row(first), count, columns, stride}; }
};

// Turns 16 rows of 16 values of 32 bits into its 16 columns.
void Transpose(__m512i (&rows)[16]) {
  __m512i half[16];
  for (int i = 0; i < 16; i += 2) {
    half[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    half[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // then every lane of rows[i + c] has column 4 * lane + c of four rows
    rows[i] = _mm512_unpacklo_epi64(half[i], half[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(half[i], half[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(half[i + 1], half[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(half[i + 1], half[i + 3]);
  }
  for (int c = 0; c < 4; ++c) {
    half[c] = _mm512_shuffle_i32x4(rows[c], rows[4 + c], 0x88);
    half[4 + c] = _mm512_shuffle_i32x4(rows[c], rows[4 + c], 0xdd);
    half[8 + c] = _mm512_shuffle_i32x4(rows[8 + c], rows[12 + c], 0x88);
    half[12 + c] = _mm512_shuffle_i32x4(rows[8 + c], rows[12 + c], 0xdd);
  }
  for (int c = 0; c < 4; ++c) {
    rows[c] = _mm512_shuffle_i32x4(half[c], half[8 + c], 0x88);
    rows[4 + c] = _mm512_shuffle_i32x4(half[4 + c], half[12 + c], 0x88);
    rows[8 + c] = _mm512_shuffle_i32x4(half[c], half[8 + c], 0xdd);
    rows[12 + c] = _mm512_shuffle_i32x4(half[4 + c], half[12 + c], 0xdd);
  }
}

// 16 columns of two rows, rounded: in each 32 bits the value of the upper row above that of the lower one.
__m512i Pairs(const float* lower, __mmask16 lower_lanes, const float* upper, __mmask16 upper_lanes) {
  const __m512i low = _mm512_cvtepu16_epi32(Rounded(_mm512_maskz_loadu_ps(lower_lanes, lower)));
  const __m512i high = _mm512_cvtepu16_epi32(Rounded(_mm512_maskz_loadu_ps(upper_lanes, upper)));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// Lays out a matrix as panels of 64 columns, in each the pairs of rows: [panel][rows / 2][64][2]; as some of the `total` pairs
// of rows of a larger matrix, from number `start` on.
void Pack(const Matrix& from, uint16_t* to, int64_t total, int64_t start) {
  const int64_t pairs = Even(from.rows) / 2;
  for (int64_t first = 0; first < Panels(from.columns) * kPanel; first += kPanel) {
    uint16_t* out = to + (first / kPanel * total + start) * kPanel * 2;
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const float *lower = from.Row(2 * pair) + first, *upper = lower + from.stride;
      for (int64_t column = 0; column < kPanel; column += 16, out += 32) {
        const __mmask16 lanes = Lanes(from.columns - first - column);
        _mm512_storeu_si512(out, Pairs(lower + column, lanes, upper + column, 2 * pair + 1 < from.rows ? lanes : 0));
      }
    }
  }
}

void Pack(const Matrix& from, uint16_t* to) { Pack(from, to, Even(from.rows) / 2, 0); }

// Lays out the transpose of a matrix as Pack does. A pair of its rows is two neighbours in a row of the matrix.
void PackTransposed(const Matrix& from, uint16_t* to, int64_t total, int64_t start) {
  const int64_t pairs = Even(from.columns) / 2;
  __m512i block[16];
  for (int64_t row = 0; row < Panels(from.rows) * kPanel; row += 16) {
    for (int64_t pair = 0; pair < pairs; pair += 16) {
      for (int64_t i = 0; i < 16; ++i) {
        const float* line = from.Row(row + i) + 2 * pair;
        const int64_t left = row + i < from.rows ? from.columns - 2 * pair : 0;
        const __m512 low = _mm512_maskz_loadu_ps(Lanes(left), line), high = _mm512_maskz_loadu_ps(Lanes(left - 16), line + 16);
        block[i] = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
      }
      Transpose(block);
      uint16_t* out = to + ((row / kPanel * total + start + pair) * kPanel + row % kPanel) * 2;
      for (int64_t j = 0; j < std::min<int64_t>(16, pairs - pair); ++j) _mm512_storeu_si512(out + j * kPanel * 2, block[j]);
    }
  }
}

void PackTransposed(const Matrix& from, uint16_t* to) { PackTransposed(from, to, Even(from.columns) / 2, 0); }

// Rounds a matrix to rows of an even number of values.
void Round(const Matrix& from, uint16_t* to) {
  const int64_t width = Even(from.columns);
  for (int64_t row = 0; row < from.rows; ++row) {
    for (int64_t column = 0; column < width; column += 16) {
      const __m512 values = _mm512_maskz_loadu_ps(Lanes(from.columns - column), from.Row(row) + column);
      _mm256_mask_storeu_epi16(to + row * width + column, Lanes(width - column), Rounded(values));
    }
  }
}

// Rounds the transpose of a matrix: [columns, even rows].
void RoundTransposed(const Matrix& from, uint16_t* to) {
  const int64_t width = Even(from.rows);
  __m512i block[16];
  for (int64_t row = 0; row < width; row += 32) {
    for (int64_t column = 0; column < from.columns; column += 16) {
      const __mmask16 lanes = Lanes(from.columns - column);
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t own = row + 2 * i;
        const float* lower = from.Row(own) + column;
        block[i] = Pairs(lower, own < from.rows ? lanes : 0, lower + from.stride, own + 1 < from.rows ? lanes : 0);
      }
      Transpose(block);
      for (int64_t j = 0; j < std::min<int64_t>(16, from.columns - column); ++j) {
        _mm512_mask_storeu_epi32(to + (column + j) * width + row, Lanes((width - row) / 2), block[j]);
      }
    }
  }
}

// Where a product goes: the first row, how far it is from row to row, and what it is added to: a bias, or a matrix that is laid
// out as the target, and may be it.
struct Target {
  float* values;
  int64_t stride;
  const float* bias = nullptr;
  const float* base = nullptr;
};

// A tile of a product: kRows rows by kWide registers of a panel, of whose columns `left` are there. Inlined, its sums would not
// stay in registers.
template <int kRows, int kWide>
__attribute__((noinline)) void Tile(const uint16_t* rows, int64_t pairs, const uint16_t* panel, int64_t left,
                                    const Target& to) {
  __m512 sums[kRows][kWide];
  for (int j = 0; j < kWide; ++j) {
    const __mmask16 lanes = Lanes(left - 16 * j);
    const __m512 first = to.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, to.bias + 16 * j);
    for (int i = 0; i < kRows; ++i) {
      sums[i][j] = to.base != nullptr ? _mm512_maskz_loadu_ps(lanes, to.base + i * to.stride + 16 * j) : first;
    }
  }
  for (int64_t pair = 0; pair < pairs; ++pair) {
    __m512bh weights[kWide];
    for (int j = 0; j < kWide; ++j) {
      weights[j] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(panel + (pair * kPanel + 16 * j) * 2));
    }
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      int32_t both;
      std::memcpy(&both, rows + (i * pairs + pair) * 2, sizeof(both));
      const __m512bh value = reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
#pragma GCC unroll 4
      for (int j = 0; j < kWide; ++j) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], value, weights[j]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kWide; ++j) _mm512_mask_storeu_ps(to.values + i * to.stride + 16 * j, Lanes(left - 16 * j), sums[i][j]);
  }
}

template <int kWide>
void MultiplyPanel(const uint16_t* rows, int64_t count, int64_t pairs, const uint16_t* panel, int64_t left, Target to) {
  const auto next = [&](auto tile, int64_t height) {
    tile(rows, pairs, panel, left, to);
    rows += height * pairs * 2;
    to.values += height * to.stride;
    if (to.base != nullptr) to.base += height * to.stride;
    count -= height;
  };
  while (count >= kTile) next(Tile<kTile, kWide>, kTile);
  if (count == 5) next(Tile<5, kWide>, 5);
  if (count == 4) next(Tile<4, kWide>, 4);
  if (count == 3) next(Tile<3, kWide>, 3);
  if (count == 2) next(Tile<2, kWide>, 2);
  if (count == 1) next(Tile<1, kWide>, 1);
}

// The product [rows, columns] of `left_side` [rows, inner], from Round, and `packed` [inner, columns], from Pack.
void Multiply(const uint16_t* left_side, const uint16_t* packed, int64_t rows, int64_t inner, int64_t columns, Target to) {
  const int64_t pairs = Even(inner) / 2;
  for (int64_t left = columns; left > 0; left -= kPanel, packed += pairs * kPanel * 2) {
    if (left <= 16) {
      MultiplyPanel<1>(left_side, rows, pairs, packed, left, to);
    } else if (left <= 32) {
      MultiplyPanel<2>(left_side, rows, pairs, packed, left, to);
    } else if (left <= 48) {
      MultiplyPanel<3>(left_side, rows, pairs, packed, left, to);
    } else {
      MultiplyPanel<4>(left_side, rows, pairs, packed, left, to);
    }
    to.values += kPanel;
    if (to.bias != nullptr) to.bias += kPanel;
    if (to.base != nullptr) to.base += kPanel;
  }
}

// A tensor whose values are all to be written.
Tensor EmptyOf(const Shape& shape, DataType type) {
  size_t size = phi::SizeOf(type);
  for (const int64_t side : shape) size *= side;
  if (size < kLarge) return paddle::empty(shape, type, paddle::CPUPlace());
  void* block = Large().Take(&size);
  return paddle::from_blob(block, shape, type, paddle::DataLayout::NCHW, paddle::CPUPlace(),
                           [size](void* done) { Large().GiveBack(done, size); });
}

Tensor Empty(const Shape& shape) { return EmptyOf(shape, DataType::FLOAT32); }

}  // namespace

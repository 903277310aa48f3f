// Operators of Paddle for `y = x W + b` on CPUs with AVX512-BF16: factors are rounded to bfloat16, sums are in float32.
//
// Weights are laid out once a step (hubflow_pack), for the products of every sub-batch and for both directions. Each operator runs
// in one thread: sub-batches keep the cores busy. A sum is added up in one fixed order, so that the same factors give the same bits.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "paddle/extension.h"

namespace {

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

// Lays out [rows, columns] as panels of 64 columns, in each the pairs of rows: [panel][rows / 2][64][2].
void Pack(const float* from, int64_t rows, int64_t columns, uint16_t* to) {
  const int64_t pairs = Even(rows) / 2;
  for (int64_t panel = 0; panel < Panels(columns); ++panel) {
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const float* low = from + 2 * pair * columns + panel * kPanel;
      for (int64_t column = 0; column < kPanel; column += 16, to += 32) {
        const __mmask16 lanes = Lanes(columns - panel * kPanel - column);
        const __mmask16 second = 2 * pair + 1 < rows ? lanes : 0;
        const __m512i lower = _mm512_cvtepu16_epi32(Rounded(_mm512_maskz_loadu_ps(lanes, low + column)));
        const __m512i upper = _mm512_cvtepu16_epi32(Rounded(_mm512_maskz_loadu_ps(second, low + columns + column)));
        _mm512_storeu_si512(to, _mm512_or_si512(lower, _mm512_slli_epi32(upper, 16)));
      }
    }
  }
}

// Rounds [rows, columns] to rows of an even number of values.
void Round(const float* from, int64_t rows, int64_t columns, uint16_t* to) {
  const int64_t width = Even(columns);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < width; column += 16) {
      const __m512 values = _mm512_maskz_loadu_ps(Lanes(columns - column), from + row * columns + column);
      _mm256_mask_storeu_epi16(to + row * width + column, Lanes(width - column), Rounded(values));
    }
  }
}

// Rounds the transpose of [rows, columns]: [columns, even rows], 16 by 16 values at a time.
void RoundTransposed(const float* from, int64_t rows, int64_t columns, uint16_t* to) {
  const int64_t width = Even(rows);
  alignas(64) uint16_t block[16][16];
  for (int64_t row = 0; row < width; row += 16) {
    for (int64_t column = 0; column < columns; column += 16) {
      const __mmask16 lanes = Lanes(columns - column);
      for (int64_t i = 0; i < 16; ++i) {
        const __mmask16 present = row + i < rows ? lanes : 0;
        const __m512 values = _mm512_maskz_loadu_ps(present, from + (row + i) * columns + column);
        _mm256_store_si256(reinterpret_cast<__m256i*>(block[i]), Rounded(values));
      }
      const int64_t high = std::min<int64_t>(16, columns - column), wide = std::min<int64_t>(16, width - row);
      for (int64_t j = 0; j < high; ++j) {
        uint16_t* line = to + (column + j) * width + row;
        for (int64_t i = 0; i < wide; ++i) line[i] = block[i][j];
      }
    }
  }
}

// A tile of the product: kRows rows by one panel.
template <int kRows>
void Tile(const uint16_t* rows, int64_t pairs, const uint16_t* panel, int64_t columns, int64_t left, const float* bias, float* to) {
  __m512 sums[kRows][4];
  for (int j = 0; j < 4; ++j) {
    const __m512 first = bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(Lanes(left - 16 * j), bias + 16 * j);
    for (int i = 0; i < kRows; ++i) sums[i][j] = first;
  }
  for (int64_t pair = 0; pair < pairs; ++pair) {
    __m512bh weights[4];
    for (int j = 0; j < 4; ++j) {
      weights[j] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(panel + (pair * kPanel + 16 * j) * 2));
    }
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      int32_t both;
      std::memcpy(&both, rows + (i * pairs + pair) * 2, sizeof(both));
      const __m512bh value = reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], value, weights[j]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < 4; ++j) _mm512_mask_storeu_ps(to + i * columns + 16 * j, Lanes(left - 16 * j), sums[i][j]);
  }
}

// `to` [rows, columns] = `left_side` [rows, inner], from Round, times `packed` [inner, columns], from Pack, plus the bias.
void Multiply(const uint16_t* left_side, const uint16_t* packed, int64_t rows, int64_t inner, int64_t columns, const float* bias,
              float* to) {
  const int64_t pairs = Even(inner) / 2;
  for (int64_t panel = 0; panel < Panels(columns); ++panel, packed += pairs * kPanel * 2) {
    const int64_t left = columns - panel * kPanel;
    const float* its = bias == nullptr ? nullptr : bias + panel * kPanel;
    int64_t row = 0;
    const auto next = [&](auto tile, int64_t count) {
      tile(left_side + row * pairs * 2, pairs, packed, columns, left, its, to + row * columns + panel * kPanel);
      row += count;
    };
    while (row + kTile <= rows) next(Tile<kTile>, kTile);
    if (rows - row == 5) next(Tile<5>, 5);
    if (rows - row == 4) next(Tile<4>, 4);
    if (rows - row == 3) next(Tile<3>, 3);
    if (rows - row == 2) next(Tile<2>, 2);
    if (rows - row == 1) next(Tile<1>, 1);
  }
}

Tensor Empty(const Shape& shape) { return paddle::empty(shape, DataType::FLOAT32, paddle::CPUPlace()); }
const uint16_t* Bits(const Tensor& packed) { return reinterpret_cast<const uint16_t*>(packed.data<int16_t>()); }

// Weights [in, out], packed for x W and, after that, their transpose for the gradient dy W^T.
std::vector<Tensor> PackWeights(const Tensor& weights) {
  const int64_t in = weights.shape()[0], out = weights.shape()[1];
  Tensor packed = paddle::empty({PackedSize(in, out) + PackedSize(out, in)}, DataType::INT16, paddle::CPUPlace());
  uint16_t* to = reinterpret_cast<uint16_t*>(packed.data<int16_t>());
  const float* from = weights.data<float>();
  Pack(from, in, out, to);
  std::vector<float> turned(in * out);
  for (int64_t i = 0; i < in; i += 16) {
    for (int64_t j = 0; j < out; j += 16) {
      for (int64_t row = i; row < std::min(in, i + 16); ++row) {
        for (int64_t column = j; column < std::min(out, j + 16); ++column) turned[column * in + row] = from[row * out + column];
      }
    }
  }
  Pack(turned.data(), out, in, to + PackedSize(in, out));
  return {packed};
}

std::vector<Tensor> Linear(const Tensor& x, const Tensor& weights, const Tensor& bias, const Tensor& packed) {
  const int64_t rows = x.shape()[0], in = weights.shape()[0], out = weights.shape()[1];
  Tensor y = Empty({rows, out});
  std::vector<uint16_t> rounded(rows * Even(in));
  Round(x.data<float>(), rows, in, rounded.data());
  Multiply(rounded.data(), Bits(packed), rows, in, out, bias.data<float>(), y.data<float>());
  return {y};
}

Tensor GradientOfInput(const Tensor& weights, const Tensor& packed, const Tensor& slope) {
  const int64_t rows = slope.shape()[0], in = weights.shape()[0], out = weights.shape()[1];
  Tensor found = Empty({rows, in});
  std::vector<uint16_t> rounded(rows * Even(out));
  Round(slope.data<float>(), rows, out, rounded.data());
  Multiply(rounded.data(), Bits(packed) + PackedSize(in, out), rows, out, in, nullptr, found.data<float>());
  return found;
}

std::vector<Tensor> LinearGradient(const Tensor& x, const Tensor& weights, const Tensor& packed, const Tensor& slope) {
  const int64_t rows = x.shape()[0], in = weights.shape()[0], out = weights.shape()[1];
  Tensor of_weights = Empty({in, out}), of_bias = Empty({out});
  std::vector<uint16_t> turned(in * Even(rows)), columns(PackedSize(rows, out));
  RoundTransposed(x.data<float>(), rows, in, turned.data());
  Pack(slope.data<float>(), rows, out, columns.data());
  Multiply(turned.data(), columns.data(), in, rows, out, nullptr, of_weights.data<float>());
  float* sums = of_bias.data<float>();
  std::fill(sums, sums + out, 0.0f);
  for (int64_t row = 0; row < rows; ++row) {
    const float* line = slope.data<float>() + row * out;
    for (int64_t column = 0; column < out; ++column) sums[column] += line[column];
  }
  return {GradientOfInput(weights, packed, slope), of_weights, of_bias};
}

std::vector<Tensor> FrozenGradient(const Tensor& weights, const Tensor& packed, const Tensor& slope) {
  return {GradientOfInput(weights, packed, slope)};
}

std::vector<Shape> PackedShape(const Shape& weights) {
  return {{PackedSize(weights[0], weights[1]) + PackedSize(weights[1], weights[0])}};
}
std::vector<DataType> PackedType(const DataType&) { return {DataType::INT16}; }
std::vector<Shape> LinearShape(const Shape& x, const Shape& weights, const Shape&, const Shape&) { return {{x[0], weights[1]}}; }
std::vector<Shape> GradientShape(const Shape& x, const Shape& weights, const Shape&, const Shape&) { return {x, weights, {weights[1]}}; }
std::vector<Shape> FrozenShape(const Shape& weights, const Shape&, const Shape& slope) { return {{slope[0], weights[0]}}; }
std::vector<DataType> LinearType(const DataType& x, const DataType&, const DataType&, const DataType&) { return {x}; }

}  // namespace

PD_BUILD_OP(hubflow_pack)
    .Inputs({"Weights"})
    .Outputs({"Packed"})
    .SetKernelFn(PD_KERNEL(PackWeights))
    .SetInferShapeFn(PD_INFER_SHAPE(PackedShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(PackedType));

PD_BUILD_OP(hubflow_linear)
    .Inputs({"X", "Weights", "Bias", "Packed"})
    .Outputs({"Y"})
    .SetKernelFn(PD_KERNEL(Linear))
    .SetInferShapeFn(PD_INFER_SHAPE(LinearShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(LinearType));
PD_BUILD_GRAD_OP(hubflow_linear)
    .Inputs({"X", "Weights", "Packed", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weights"), paddle::Grad("Bias")})
    .SetKernelFn(PD_KERNEL(LinearGradient))
    .SetInferShapeFn(PD_INFER_SHAPE(GradientShape));

// The same with weights and a bias that are not trained.
PD_BUILD_OP(hubflow_frozen_linear)
    .Inputs({"X", "Weights", "Bias", "Packed"})
    .Outputs({"Y"})
    .SetKernelFn(PD_KERNEL(Linear))
    .SetInferShapeFn(PD_INFER_SHAPE(LinearShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(LinearType));
PD_BUILD_GRAD_OP(hubflow_frozen_linear)
    .Inputs({"Weights", "Packed", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X")})
    .SetKernelFn(PD_KERNEL(FrozenGradient))
    .SetInferShapeFn(PD_INFER_SHAPE(FrozenShape));

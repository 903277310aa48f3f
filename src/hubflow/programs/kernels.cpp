// Operators of Paddle for text encoders on CPUs with AVX512-BF16: linear layers, layer normalisation and GELU.
//
// Linear layers round their factors to bfloat16 and sum in float32; the others compute in float32 throughout, as Paddle's do. Weights are laid out once a step (hubflow_pack), for the products of every sub-batch and for both directions. Each operator runs
// in one thread: sub-batches keep the cores busy. A sum is added up in one fixed order, so that the same factors give the same bits.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
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

// Lays out the transpose of [rows, columns] as Pack does. A pair of its rows is two neighbours in a row of the matrix.
void PackTransposed(const float* from, int64_t rows, int64_t columns, uint16_t* to) {
  const int64_t pairs = Even(columns) / 2;
  const __m512i step = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(16));
  alignas(64) int32_t block[16][16];
  for (int64_t panel = 0; panel < Panels(rows); ++panel) {
    for (int64_t row = panel * kPanel; row < (panel + 1) * kPanel; row += 16) {
      for (int64_t pair = 0; pair < pairs; pair += 16) {
        for (int64_t i = 0; i < 16; ++i) {
          const float* line = from + (row + i) * columns + 2 * pair;
          const int64_t left = row + i < rows ? columns - 2 * pair : 0;
          const __m512 low = _mm512_maskz_loadu_ps(Lanes(left), line), high = _mm512_maskz_loadu_ps(Lanes(left - 16), line + 16);
          _mm512_store_si512(block[i], reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
        }
        uint16_t* out = to + ((panel * pairs + pair) * kPanel + row - panel * kPanel) * 2;
        const int64_t wide = std::min<int64_t>(16, pairs - pair);
        for (int64_t j = 0; j < wide; ++j) _mm512_storeu_si512(out + j * kPanel * 2, _mm512_i32gather_epi32(step, &block[0][j], 4));
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
  Pack(weights.data<float>(), in, out, to);
  PackTransposed(weights.data<float>(), in, out, to + PackedSize(in, out));
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

// e to the power of x, within 2 units in the last place.
__m512 Exp(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-87.0f), _mm512_min_ps(_mm512_set1_ps(88.0f), x));
  const __m512 power = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(0.693359375f), x);
  rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(-2.12194440e-4f), rest);
  __m512 sum = _mm512_set1_ps(1.0f / 720);
  for (const float factor : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(factor));
  return _mm512_scalef_ps(sum, power);
}

// The normal distribution: how much of it is below x, within 1e-7 (Abramowitz and Stegun, 7.1.26), and its density at x.
void Normal(__m512 x, __m512* below, __m512* density) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 bell = Exp(_mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.5f)));
  const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.3275911f * 0.70710678f), one));
  __m512 sum = _mm512_set1_ps(1.061405429f);
  for (const float factor : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(factor));
  const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(sum, t), _mm512_mul_ps(bell, _mm512_set1_ps(0.5f)));
  *below = _mm512_mask_sub_ps(tail, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ), one, tail);
  *density = _mm512_mul_ps(bell, _mm512_set1_ps(0.39894228f));
}

// x times the share of the normal distribution below x (Hendrycks and Gimpel, arXiv:1606.08415).
std::vector<Tensor> Gelu(const Tensor& x) {
  Tensor y = Empty(x.shape());
  const float* from = x.data<float>();
  float* to = y.data<float>();
  for (int64_t i = 0, left = x.numel(); left > 0; i += 16, left -= 16) {
    const __m512 value = _mm512_maskz_loadu_ps(Lanes(left), from + i);
    __m512 below, density;
    Normal(value, &below, &density);
    _mm512_mask_storeu_ps(to + i, Lanes(left), _mm512_mul_ps(value, below));
  }
  return {y};
}

std::vector<Tensor> GeluGradient(const Tensor& x, const Tensor& slope) {
  Tensor found = Empty(x.shape());
  const float *from = x.data<float>(), *above = slope.data<float>();
  float* to = found.data<float>();
  for (int64_t i = 0, left = x.numel(); left > 0; i += 16, left -= 16) {
    const __m512 value = _mm512_maskz_loadu_ps(Lanes(left), from + i);
    __m512 below, density;
    Normal(value, &below, &density);
    const __m512 own = _mm512_fmadd_ps(value, density, below);
    _mm512_mask_storeu_ps(to + i, Lanes(left), _mm512_mul_ps(own, _mm512_maskz_loadu_ps(Lanes(left), above + i)));
  }
  return {found};
}

// Mean, and one over the standard deviation, of a row.
void Moments(const float* row, int64_t size, float epsilon, float* mean, float* scale) {
  __m512 sum = _mm512_setzero_ps(), squares = sum;
  for (int64_t i = 0; i < size; i += 16) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(Lanes(size - i), row + i));
  *mean = _mm512_reduce_add_ps(sum) / size;
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 lanes = Lanes(size - i);
    const __m512 away = _mm512_maskz_sub_ps(lanes, _mm512_maskz_loadu_ps(lanes, row + i), _mm512_set1_ps(*mean));
    squares = _mm512_fmadd_ps(away, away, squares);
  }
  *scale = 1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / size + epsilon);
}

// Layer normalisation of rows (Ba et al., arXiv:1607.06450).
std::vector<Tensor> LayerNorm(const Tensor& x, const Tensor& weight, const Tensor& bias, float epsilon) {
  const int64_t size = weight.numel(), rows = x.numel() / size;
  Tensor y = Empty(x.shape());
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = x.data<float>() + row * size;
    float* to = y.data<float>() + row * size;
    float mean, scale;
    Moments(from, size, epsilon, &mean, &scale);
    for (int64_t i = 0; i < size; i += 16) {
      const __mmask16 lanes = Lanes(size - i);
      const __m512 normal = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, from + i), _mm512_set1_ps(mean)), _mm512_set1_ps(scale));
      const __m512 weighted = _mm512_maskz_loadu_ps(lanes, weight.data<float>() + i), shift = _mm512_maskz_loadu_ps(lanes, bias.data<float>() + i);
      _mm512_mask_storeu_ps(to + i, lanes, _mm512_fmadd_ps(normal, weighted, shift));
    }
  }
  return {y};
}

std::vector<Tensor> LayerNormGradient(const Tensor& x, const Tensor& weight, const Tensor& slope, float epsilon) {
  const int64_t size = weight.numel(), rows = x.numel() / size;
  Tensor found = Empty(x.shape()), of_weight = Empty({size}), of_bias = Empty({size});
  float *weights = of_weight.data<float>(), *biases = of_bias.data<float>();
  std::fill(weights, weights + size, 0.0f);
  std::fill(biases, biases + size, 0.0f);
  for (int64_t row = 0; row < rows; ++row) {
    const float *from = x.data<float>() + row * size, *above = slope.data<float>() + row * size;
    float mean, scale;
    Moments(from, size, epsilon, &mean, &scale);
    const auto normal_of = [&](int64_t i, __mmask16 lanes) {
      const __m512 away = _mm512_maskz_sub_ps(lanes, _mm512_maskz_loadu_ps(lanes, from + i), _mm512_set1_ps(mean));
      return _mm512_mul_ps(away, _mm512_set1_ps(scale));
    };
    __m512 sum = _mm512_setzero_ps(), product = sum;
    for (int64_t i = 0; i < size; i += 16) {
      const __mmask16 lanes = Lanes(size - i);
      const __m512 normal = normal_of(i, lanes), given = _mm512_maskz_loadu_ps(lanes, above + i);
      const __m512 own = _mm512_mul_ps(given, _mm512_maskz_loadu_ps(lanes, weight.data<float>() + i));
      sum = _mm512_add_ps(sum, own);
      product = _mm512_fmadd_ps(own, normal, product);
      _mm512_mask_storeu_ps(weights + i, lanes, _mm512_fmadd_ps(given, normal, _mm512_maskz_loadu_ps(lanes, weights + i)));
      _mm512_mask_storeu_ps(biases + i, lanes, _mm512_add_ps(given, _mm512_maskz_loadu_ps(lanes, biases + i)));
    }
    const __m512 first = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / size), second = _mm512_set1_ps(_mm512_reduce_add_ps(product) / size);
    float* to = found.data<float>() + row * size;
    for (int64_t i = 0; i < size; i += 16) {
      const __mmask16 lanes = Lanes(size - i);
      const __m512 own = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, above + i), _mm512_maskz_loadu_ps(lanes, weight.data<float>() + i));
      const __m512 left = _mm512_fnmadd_ps(normal_of(i, lanes), second, _mm512_sub_ps(own, first));
      _mm512_mask_storeu_ps(to + i, lanes, _mm512_mul_ps(left, _mm512_set1_ps(scale)));
    }
  }
  return {found, of_weight, of_bias};
}

std::vector<Shape> PackedShape(const Shape& weights) {
  return {{PackedSize(weights[0], weights[1]) + PackedSize(weights[1], weights[0])}};
}
std::vector<DataType> PackedType(const DataType&) { return {DataType::INT16}; }
std::vector<Shape> LinearShape(const Shape& x, const Shape& weights, const Shape&, const Shape&) { return {{x[0], weights[1]}}; }
std::vector<Shape> GradientShape(const Shape& x, const Shape& weights, const Shape&, const Shape&) {
  return {x, weights, {weights[1]}};
}
std::vector<Shape> FrozenShape(const Shape& weights, const Shape&, const Shape& slope) { return {{slope[0], weights[0]}}; }
std::vector<DataType> LinearType(const DataType& x, const DataType&, const DataType&, const DataType&) { return {x}; }
std::vector<Shape> SameShape(const Shape& x) { return {x}; }
std::vector<DataType> SameType(const DataType& x) { return {x}; }
std::vector<Shape> NormShape(const Shape& x, const Shape&, const Shape&) { return {x}; }
std::vector<DataType> NormType(const DataType& x, const DataType&, const DataType&) { return {x}; }
std::vector<Shape> NormGradientShape(const Shape& x, const Shape& weight, const Shape&) { return {x, weight, weight}; }
std::vector<Shape> GeluGradientShape(const Shape& x, const Shape&) { return {x}; }

}  // namespace

PD_BUILD_OP(hubflow_gelu)
    .Inputs({"X"})
    .Outputs({"Y"})
    .SetKernelFn(PD_KERNEL(Gelu))
    .SetInferShapeFn(PD_INFER_SHAPE(SameShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(SameType));
PD_BUILD_GRAD_OP(hubflow_gelu)
    .Inputs({"X", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X")})
    .SetKernelFn(PD_KERNEL(GeluGradient))
    .SetInferShapeFn(PD_INFER_SHAPE(GeluGradientShape));

PD_BUILD_OP(hubflow_layer_norm)
    .Inputs({"X", "Weight", "Bias"})
    .Outputs({"Y"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(LayerNorm))
    .SetInferShapeFn(PD_INFER_SHAPE(NormShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(NormType));
PD_BUILD_GRAD_OP(hubflow_layer_norm)
    .Inputs({"X", "Weight", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weight"), paddle::Grad("Bias")})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(LayerNormGradient))
    .SetInferShapeFn(PD_INFER_SHAPE(NormGradientShape));

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

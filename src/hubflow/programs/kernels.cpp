// Operators of Paddle for text encoders on CPUs with AVX512-BF16: linear layers, attention, dropout, layer normalisation, GELU.
//
// Products round their factors to bfloat16 and sum in float32; all else is computed in float32, as Paddle's operators do.
// Weights are laid out once a step (hubflow_pack), for the products of every sub-batch and for both directions. Each operator
// runs in one thread: sub-batches keep the cores busy. A sum is added up in one fixed order, so that the same factors give the
// same bits.
#include "products.h"

namespace {

const uint16_t* Bits(const Tensor& packed) { return reinterpret_cast<const uint16_t*>(packed.data<int16_t>()); }

// Weights [in, out], packed for x W and, after that, their transpose for the gradient dy W^T.
std::vector<Tensor> PackWeights(const Tensor& weights) {
  const int64_t in = weights.shape()[0], out = weights.shape()[1];
  Tensor packed = paddle::empty({PackedSize(in, out) + PackedSize(out, in)}, DataType::INT16, paddle::CPUPlace());
  uint16_t* to = reinterpret_cast<uint16_t*>(packed.data<int16_t>());
  Pack({weights.data<float>(), in, out}, to);
  PackTransposed({weights.data<float>(), in, out}, to + PackedSize(in, out));
  return {packed};
}

std::vector<Tensor> Linear(const Tensor& x, const Tensor& weights, const Tensor& bias, const Tensor& packed) {
  const int64_t rows = x.shape()[0], in = weights.shape()[0], out = weights.shape()[1];
  Tensor y = Empty({rows, out});
  Buffer<uint16_t> rounded(rows * Even(in));
  Round({x.data<float>(), rows, in}, rounded.data());
  Multiply(rounded.data(), Bits(packed), rows, in, out, {y.data<float>(), out, bias.data<float>()});
  return {y};
}

Tensor GradientOfInput(const Tensor& weights, const Tensor& packed, const Tensor& slope) {
  const int64_t rows = slope.shape()[0], in = weights.shape()[0], out = weights.shape()[1];
  Tensor found = Empty({rows, in});
  Buffer<uint16_t> rounded(rows * Even(out));
  Round({slope.data<float>(), rows, out}, rounded.data());
  Multiply(rounded.data(), Bits(packed) + PackedSize(in, out), rows, out, in, {found.data<float>(), in});
  return found;
}

// The gradients of a linear layer; those of weights and bias are added to what is given.
std::vector<Tensor> AllGradients(const Tensor& x, const Tensor& weights, const Tensor& packed, const Tensor& slope,
                                 const float* weights_so_far, const float* bias_so_far) {
  const int64_t rows = x.shape()[0], in = weights.shape()[0], out = weights.shape()[1];
  Tensor of_weights = Empty({in, out}), of_bias = Empty({out});
  Buffer<uint16_t> turned(in * Even(rows)), columns(PackedSize(rows, out));
  RoundTransposed({x.data<float>(), rows, in}, turned.data());
  Pack({slope.data<float>(), rows, out}, columns.data());
  Multiply(turned.data(), columns.data(), in, rows, out, {of_weights.data<float>(), out, nullptr, weights_so_far});
  float* sums = of_bias.data<float>();
  if (bias_so_far == nullptr) {
    std::fill(sums, sums + out, 0.0f);
  } else {
    std::copy(bias_so_far, bias_so_far + out, sums);
  }
  const float* line = slope.data<float>();
  for (int64_t row = 0; row < rows; ++row, line += out) {
    for (int64_t column = 0; column < out; ++column) sums[column] += line[column];
  }
  return {GradientOfInput(weights, packed, slope), of_weights, of_bias};
}

std::vector<Tensor> LinearGradient(const Tensor& x, const Tensor& weights, const Tensor& packed, const Tensor& slope) {
  return AllGradients(x, weights, packed, slope, nullptr, nullptr);
}

// The same, added to the gradients of weights and bias from another sub-batch.
std::vector<Tensor> LinearGradientOnto(const Tensor& x, const Tensor& weights, const Tensor& packed, const Tensor& slope,
                                       const Tensor& of_weights, const Tensor& of_bias) {
  return AllGradients(x, weights, packed, slope, of_weights.data<float>(), of_bias.data<float>());
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
  for (const float factor : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(factor));
  return _mm512_scalef_ps(sum, power);
}

// Which elements a dropout keeps (Srivastava et al., 2014): a hash of the step's seed, its place in the program and their
// number.
class Kept {
 public:
  Kept(float seed, int place, float probability) : scale(1.0f / (1.0f - probability)) {
    uint64_t mixed = (static_cast<uint64_t>(place) << 32 | static_cast<uint32_t>(seed)) + 0x9e3779b97f4a7c15;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;  // splitmix64 (Steele, Lea and Flood, OOPSLA 2014)
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
    mixed ^= mixed >> 31;
    factor_ = static_cast<uint32_t>(mixed) | 1;
    shift_ = static_cast<uint32_t>(mixed >> 32);
    least_ = static_cast<uint32_t>(std::min(4294967295.0, std::ceil(probability * 4294967296.0)));
  }

  // Those kept of the 16 elements from number `first` on.
  __mmask16 From(uint32_t first) const {
    const __m512i steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i numbers = _mm512_add_epi32(_mm512_set1_epi32(first), steps);
    __m512i hash = _mm512_add_epi32(_mm512_mullo_epi32(numbers, _mm512_set1_epi32(factor_)), _mm512_set1_epi32(shift_));
    hash = _mm512_xor_si512(hash, _mm512_srli_epi32(hash, 16));  // the end of MurmurHash3
    hash = _mm512_mullo_epi32(hash, _mm512_set1_epi32(0x85ebca6b));
    hash = _mm512_xor_si512(hash, _mm512_srli_epi32(hash, 13));
    hash = _mm512_mullo_epi32(hash, _mm512_set1_epi32(0xc2b2ae35));
    hash = _mm512_xor_si512(hash, _mm512_srli_epi32(hash, 16));
    return _mm512_cmpge_epu32_mask(hash, _mm512_set1_epi32(least_));
  }

  const float scale;

 private:
  uint32_t factor_, shift_, least_;
};

// Drops out of `size` values, the first of which has the number `first`.
void DropOut(const float* from, int64_t size, const Kept& kept, uint32_t first, float* to) {
  for (int64_t i = 0; i < size; i += 16) {
    const __m512 values = _mm512_maskz_loadu_ps(Lanes(size - i) & kept.From(first + i), from + i);
    _mm512_mask_storeu_ps(to + i, Lanes(size - i), _mm512_mul_ps(values, _mm512_set1_ps(kept.scale)));
  }
}

std::vector<Tensor> Dropout(const Tensor& x, const Tensor& seed, float probability, int place) {
  Tensor y = Empty(x.shape());
  DropOut(x.data<float>(), x.numel(), {seed.data<float>()[0], place, probability}, 0, y.data<float>());
  return {y};
}

std::vector<Tensor> DropoutGradient(const Tensor& seed, const Tensor& slope, float probability, int place) {
  return Dropout(slope, seed, probability, place);
}

constexpr int64_t kQueries = 96;  // whose scores are computed at a time

// Attention of a batch of rows by heads: queries [batch * queries, hidden] from a context [batch * length, hidden].
struct Attended {
  const Tensor &query, &key, &value, &mask;
  int64_t batch, heads, queries, length, hidden, size;
  float scale;
  Kept kept;

  Attended(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask, const Tensor& seed, int heads,
           float probability, int place)
      : query(query),
        key(key),
        value(value),
        mask(mask),
        batch(mask.shape()[0]),
        heads(heads),
        queries(query.shape()[0] / batch),
        length(key.shape()[0] / batch),
        hidden(query.shape()[1]),
        size(hidden / heads),
        scale(1.0f / std::sqrt(static_cast<float>(size))),
        kept(seed.data<float>()[0], place, probability) {}

  // The part of a row of the batch and a head in a matrix [batch * rows, hidden].
  int64_t Start(int64_t row, int64_t head, int64_t rows) const { return row * rows * hidden + head * size; }
  Matrix Part(const Tensor& of, int64_t row, int64_t head, int64_t rows) const {
    return {of.data<float>() + Start(row, head, rows), rows, size, hidden};
  }

  // The number of the first weight of a query, for its dropout.
  uint32_t Number(int64_t row, int64_t head, int64_t of_query) const {
    return static_cast<uint32_t>(((row * heads + head) * queries + of_query) * length);
  }

  // Scores of a query, in place: its weights.
  void Softmax(float* scores, int64_t row) const {
    const float* own = mask.data<float>() + row * length;
    const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    __m512 most = lowest, sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < length; i += 16) {
      const __mmask16 lanes = Lanes(length - i);
      const __m512 given = _mm512_maskz_loadu_ps(lanes, own + i);
      const __m512 score = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, scores + i), _mm512_set1_ps(scale), given);
      _mm512_mask_storeu_ps(scores + i, lanes, score);
      most = _mm512_max_ps(most, _mm512_mask_mov_ps(lowest, lanes, score));
    }
    most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    for (int64_t i = 0; i < length; i += 16) {
      const __mmask16 lanes = Lanes(length - i);
      const __m512 weight = _mm512_maskz_mov_ps(lanes, Exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, scores + i), most)));
      _mm512_mask_storeu_ps(scores + i, lanes, weight);
      sum = _mm512_add_ps(sum, weight);
    }
    const __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
    for (int64_t i = 0; i < length; i += 16) {
      const __mmask16 lanes = Lanes(length - i);
      _mm512_mask_storeu_ps(scores + i, lanes, _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, scores + i), share));
    }
  }

  // Weights and slopes of a query's dropped weights, in place: those weights, and the slopes of its products with the keys.
  void ThroughSoftmax(float* weights, float* slopes, uint32_t number) const {
    __m512 sum = _mm512_setzero_ps();
    const auto kept_of = [&](int64_t i) -> __mmask16 { return Lanes(length - i) & kept.From(number + i); };
    for (int64_t i = 0; i < length; i += 16) {
      const __m512 slope = _mm512_mul_ps(_mm512_maskz_loadu_ps(kept_of(i), slopes + i), _mm512_set1_ps(kept.scale));
      _mm512_mask_storeu_ps(slopes + i, Lanes(length - i), slope);
      sum = _mm512_fmadd_ps(slope, _mm512_maskz_loadu_ps(Lanes(length - i), weights + i), sum);
    }
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum));
    for (int64_t i = 0; i < length; i += 16) {
      const __mmask16 lanes = Lanes(length - i);
      const __m512 weight = _mm512_maskz_loadu_ps(lanes, weights + i);
      const __m512 away = _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, slopes + i), mean);
      _mm512_mask_storeu_ps(slopes + i, lanes, _mm512_mul_ps(_mm512_mul_ps(weight, away), _mm512_set1_ps(scale)));
      _mm512_mask_storeu_ps(weights + i, lanes, _mm512_maskz_mul_ps(kept_of(i), weight, _mm512_set1_ps(kept.scale)));
    }
  }
};

// softmax(Q K^T / sqrt(size) + mask) V by head (Vaswani et al., arXiv:1706.03762), its weights dropped out.
std::vector<Tensor> Attention(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask,
                              const Tensor& seed, int heads, float probability, int place) {
  const Attended of(query, key, value, mask, seed, heads, probability, place);
  Tensor y = Empty(query.shape());
  Buffer<uint16_t> keys(PackedSize(of.size, of.length)), values(PackedSize(of.length, of.size));
  Buffer<uint16_t> rounded(kQueries * std::max(Even(of.size), Even(of.length)));
  Buffer<float> weights(kQueries * of.length);
  for (int64_t row = 0; row < of.batch; ++row) {
    for (int64_t head = 0; head < heads; ++head) {
      PackTransposed(of.Part(key, row, head, of.length), keys.data());
      Pack(of.Part(value, row, head, of.length), values.data());
      for (int64_t first = 0; first < of.queries; first += kQueries) {
        const int64_t count = std::min(kQueries, of.queries - first);
        Round(of.Part(query, row, head, of.queries).Rows(first, count), rounded.data());
        Multiply(rounded.data(), keys.data(), count, of.size, of.length, {weights.data(), of.length});
        for (int64_t i = 0; i < count; ++i) {
          float* own = weights.data() + i * of.length;
          of.Softmax(own, row);
          if (probability > 0) DropOut(own, of.length, of.kept, of.Number(row, head, first + i), own);
        }
        Round({weights.data(), count, of.length}, rounded.data());
        float* to = y.data<float>() + of.Start(row, head, of.queries) + first * of.hidden;
        Multiply(rounded.data(), values.data(), count, of.length, of.size, {to, of.hidden});
      }
    }
  }
  return {y};
}

// Weights are computed anew, not kept: they would be the largest part of what a step remembers.
std::vector<Tensor> AttentionGradient(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask,
                                      const Tensor& seed, const Tensor& slope, int heads, float probability, int place) {
  const Attended of(query, key, value, mask, seed, heads, probability, place);
  Tensor of_query = Empty(query.shape()), of_key = Empty(key.shape()), of_value = Empty(value.shape());
  const int64_t most = std::max(of.length, of.size);
  Buffer<uint16_t> keys(PackedSize(of.size, of.length)), keys_by_row(PackedSize(of.length, of.size));
  Buffer<uint16_t> values(PackedSize(of.size, of.length)), right(PackedSize(kQueries, of.size));
  Buffer<uint16_t> left(kQueries * Even(most));
  Buffer<float> weights(kQueries * of.length), slopes(kQueries * of.length);
  for (int64_t row = 0; row < of.batch; ++row) {
    for (int64_t head = 0; head < heads; ++head) {
      PackTransposed(of.Part(key, row, head, of.length), keys.data());
      Pack(of.Part(key, row, head, of.length), keys_by_row.data());
      PackTransposed(of.Part(value, row, head, of.length), values.data());
      const int64_t start = of.Start(row, head, of.length);
      for (int64_t first = 0; first < of.queries; first += kQueries) {
        const int64_t count = std::min(kQueries, of.queries - first);
        const Matrix queries = of.Part(query, row, head, of.queries).Rows(first, count);
        const Matrix above = of.Part(slope, row, head, of.queries).Rows(first, count);
        float *to_key = of_key.data<float>() + start, *to_value = of_value.data<float>() + start;
        Round(queries, left.data());
        Multiply(left.data(), keys.data(), count, of.size, of.length, {weights.data(), of.length});
        Round(above, left.data());
        Multiply(left.data(), values.data(), count, of.size, of.length, {slopes.data(), of.length});
        for (int64_t i = 0; i < count; ++i) {
          of.Softmax(weights.data() + i * of.length, row);
          of.ThroughSoftmax(weights.data() + i * of.length, slopes.data() + i * of.length, of.Number(row, head, first + i));
        }
        RoundTransposed({weights.data(), count, of.length}, left.data());
        Pack(above, right.data());
        Multiply(left.data(), right.data(), of.length, count, of.size,
                 {to_value, of.hidden, nullptr, first > 0 ? to_value : nullptr});
        RoundTransposed({slopes.data(), count, of.length}, left.data());
        Pack(queries, right.data());
        Multiply(left.data(), right.data(), of.length, count, of.size,
                 {to_key, of.hidden, nullptr, first > 0 ? to_key : nullptr});
        Round({slopes.data(), count, of.length}, left.data());
        float* to = of_query.data<float>() + of.Start(row, head, of.queries) + first * of.hidden;
        Multiply(left.data(), keys_by_row.data(), count, of.length, of.size, {to, of.hidden});
      }
    }
  }
  return {of_query, of_key, of_value};
}

// The normal distribution: how much of it is below x, within 1e-7 (Abramowitz and Stegun, 7.1.26), and its density at x.
void Normal(__m512 x, __m512* below, __m512* density) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 bell = Exp(_mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.5f)));
  const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.3275911f * 0.70710678f), one));
  __m512 sum = _mm512_set1_ps(1.061405429f);
  for (const float factor : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(factor));
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
  const float *from = x.data<float>(), *weights = weight.data<float>(), *biases = bias.data<float>();
  float* to = y.data<float>();
  for (int64_t row = 0; row < rows; ++row, from += size, to += size) {
    float mean, scale;
    Moments(from, size, epsilon, &mean, &scale);
    for (int64_t i = 0; i < size; i += 16) {
      const __mmask16 lanes = Lanes(size - i);
      const __m512 away = _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, from + i), _mm512_set1_ps(mean));
      const __m512 normal = _mm512_mul_ps(away, _mm512_set1_ps(scale));
      const __m512 shift = _mm512_maskz_loadu_ps(lanes, biases + i);
      _mm512_mask_storeu_ps(to + i, lanes, _mm512_fmadd_ps(normal, _mm512_maskz_loadu_ps(lanes, weights + i), shift));
    }
  }
  return {y};
}

std::vector<Tensor> LayerNormGradient(const Tensor& x, const Tensor& weight, const Tensor& slope, float epsilon) {
  const int64_t size = weight.numel(), rows = x.numel() / size;
  Tensor found = Empty(x.shape()), of_weight = Empty({size}), of_bias = Empty({size});
  const float *from = x.data<float>(), *above = slope.data<float>(), *factors = weight.data<float>();
  float *to = found.data<float>(), *weights = of_weight.data<float>(), *biases = of_bias.data<float>();
  std::fill(weights, weights + size, 0.0f);
  std::fill(biases, biases + size, 0.0f);
  for (int64_t row = 0; row < rows; ++row, from += size, above += size, to += size) {
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
      const __m512 own = _mm512_mul_ps(given, _mm512_maskz_loadu_ps(lanes, factors + i));
      sum = _mm512_add_ps(sum, own);
      product = _mm512_fmadd_ps(own, normal, product);
      _mm512_mask_storeu_ps(weights + i, lanes, _mm512_fmadd_ps(given, normal, _mm512_maskz_loadu_ps(lanes, weights + i)));
      _mm512_mask_storeu_ps(biases + i, lanes, _mm512_add_ps(given, _mm512_maskz_loadu_ps(lanes, biases + i)));
    }
    const __m512 first = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / size);
    const __m512 second = _mm512_set1_ps(_mm512_reduce_add_ps(product) / size);
    for (int64_t i = 0; i < size; i += 16) {
      const __mmask16 lanes = Lanes(size - i);
      const __m512 own = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, above + i), _mm512_maskz_loadu_ps(lanes, factors + i));
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
std::vector<Shape> LinearShape(const Shape& x, const Shape& weights, const Shape&, const Shape&) {
  return {{x[0], weights[1]}};
}
std::vector<Shape> GradientShape(const Shape& x, const Shape& weights, const Shape&, const Shape&) {
  return {x, weights, {weights[1]}};
}
std::vector<Shape> OntoShape(const Shape& x, const Shape& weights, const Shape&, const Shape&, const Shape&,
                             const Shape& bias) {
  return {x, weights, bias};
}
std::vector<DataType> OntoType(const DataType& x, const DataType&, const DataType&, const DataType&, const DataType&,
                               const DataType&) {
  return {x, x, x};
}
std::vector<Shape> FrozenShape(const Shape& weights, const Shape&, const Shape& slope) { return {{slope[0], weights[0]}}; }
std::vector<DataType> LinearType(const DataType& x, const DataType&, const DataType&, const DataType&) { return {x}; }
std::vector<Shape> SameShape(const Shape& x) { return {x}; }
std::vector<DataType> SameType(const DataType& x) { return {x}; }
std::vector<Shape> NormShape(const Shape& x, const Shape&, const Shape&) { return {x}; }
std::vector<DataType> NormType(const DataType& x, const DataType&, const DataType&) { return {x}; }
std::vector<Shape> NormGradientShape(const Shape& x, const Shape& weight, const Shape&) { return {x, weight, weight}; }
std::vector<Shape> GeluGradientShape(const Shape& x, const Shape&) { return {x}; }
std::vector<Shape> DropoutShape(const Shape& x, const Shape&) { return {x}; }
std::vector<DataType> DropoutType(const DataType& x, const DataType&) { return {x}; }
std::vector<Shape> DropoutGradientShape(const Shape&, const Shape& slope) { return {slope}; }
std::vector<Shape> AttentionShape(const Shape& query, const Shape&, const Shape&, const Shape&, const Shape&) {
  return {query};
}
std::vector<DataType> AttentionType(const DataType& query, const DataType&, const DataType&, const DataType&, const DataType&) {
  return {query};
}
std::vector<Shape> AttentionGradientShape(const Shape& query, const Shape& key, const Shape& value, const Shape&, const Shape&,
                                          const Shape&) {
  return {query, key, value};
}

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

PD_BUILD_OP(hubflow_linear_backward_onto)
    .Inputs({"X", "Weights", "Packed", "Slope", "WeightsSoFar", "BiasSoFar"})
    .Outputs({"OfX", "OfWeights", "OfBias"})
    .SetKernelFn(PD_KERNEL(LinearGradientOnto))
    .SetInferShapeFn(PD_INFER_SHAPE(OntoShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(OntoType));

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

PD_BUILD_OP(hubflow_dropout)
    .Inputs({"X", "Seed"})
    .Outputs({"Y"})
    .Attrs({"probability: float", "place: int"})
    .SetKernelFn(PD_KERNEL(Dropout))
    .SetInferShapeFn(PD_INFER_SHAPE(DropoutShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(DropoutType));
PD_BUILD_GRAD_OP(hubflow_dropout)
    .Inputs({"Seed", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X")})
    .Attrs({"probability: float", "place: int"})
    .SetKernelFn(PD_KERNEL(DropoutGradient))
    .SetInferShapeFn(PD_INFER_SHAPE(DropoutGradientShape));

PD_BUILD_OP(hubflow_attention)
    .Inputs({"Query", "Key", "Value", "Mask", "Seed"})
    .Outputs({"Y"})
    .Attrs({"heads: int", "probability: float", "place: int"})
    .SetKernelFn(PD_KERNEL(Attention))
    .SetInferShapeFn(PD_INFER_SHAPE(AttentionShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(AttentionType));
PD_BUILD_GRAD_OP(hubflow_attention)
    .Inputs({"Query", "Key", "Value", "Mask", "Seed", paddle::Grad("Y")})
    .Outputs({paddle::Grad("Query"), paddle::Grad("Key"), paddle::Grad("Value")})
    .Attrs({"heads: int", "probability: float", "place: int"})
    .SetKernelFn(PD_KERNEL(AttentionGradient))
    .SetInferShapeFn(PD_INFER_SHAPE(AttentionGradientShape));

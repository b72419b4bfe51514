/* One step of a Transformer decoder and the choice of its tokens, with int8 weights, in one call.

   What `graphs.py`, `output.py` and `chain.py` build as graphs is computed here by products of
   unsigned 8-bit activations and signed 8-bit weights (VNNI: four products and their sum in a
   32-bit lane), without the hundred and forty operators that a graph has in between.

   A row gets the same bits whatever is computed beside it: sums of integers are exact, and every
   other sum is taken in an order that depends on nothing but the row itself.

   Shapes: B sentences, N new slots, R = B N rows, C slots there is room for, S source tokens,
   D hidden size, H heads, E = D / H, V vocabulary up to whole panels. */

#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define KERNELS 1
#include <immintrin.h>
#include <pthread.h>
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")))
#define INLINE TARGET static inline __attribute__((always_inline))
#else
#define KERNELS 0
#endif

#define PANEL 64 /* outputs that are multiplied together */
#define ROWS 4   /* rows that are multiplied together: more do not fit into the registers */
#define MASKED (-FLT_MAX)
#define MOST_THREADS 64

/* Weights of O outputs and I inputs: [O / 64][I / 4][64][4]. An output is the integer sum times
   its `scale` plus its `offset`, which holds the bias and what the zero point of the inputs adds. */
typedef struct {
    const int8_t *weights;
    const float *scale;
    const float *offset;
    int32_t inputs;
    int32_t outputs;
} Matrix;

/* Layer normalisation; where its output is rounded, weight and bias are those of the integers. */
typedef struct {
    const float *weight;
    const float *bias;
    float epsilon;
} Norm;

/* A layer; `query` and `cross_output` are those of a decoder. */
typedef struct {
    Norm attention_norm, cross_norm, feedforward_norm;
    Matrix input, output, query, cross_output, widen, narrow;
    float attention_unit; /* integers per unit of what attention returns */
    float cross_unit;
} Layer;

typedef struct {
    const int8_t *embedding; /* [V, D] */
    const float *embedding_scale;
    const float *positions; /* [P, D] */
    const float *reaches;   /* [K, D], of a decoder */
    Norm final_norm;
    const Layer *layers;
    const Matrix *pairs; /* of an encoder: keys and values for each layer of the decoder */
    int32_t layer_count, pair_count, hidden, widened, heads;
    int32_t token_count, position_count, reach_count;
} Network;

/* Arrays of one pass, as the graphs read and write them. */
typedef struct {
    const int64_t *token, *position, *reach, *start; /* [B, N], `start` [B] */
    const float *bias;                               /* [1 or B, 1, N, C] */
    const int32_t *real;                             /* [B, S] */
    float *const *keys, *const *values;              /* [B, H, C, E] of each layer */
    float *const *cross_keys, *const *cross_values;  /* [B, H, S, E] of each layer */
    uint8_t *hidden;                                 /* [B, N, D] */
    void *scratch;
    int32_t rows, slots, room, source, bias_rows;
    int32_t first; /* the first sentence that is computed; `rows` of them are */
} Pass;

typedef struct {
    Matrix output;
    const uint8_t *previous; /* [V, M], or none */
    const float *previous_scale;
    Matrix following;
} Picker;

int ms_supported(void) {
#if KERNELS
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
#else
    return 0;
#endif
}

#if KERNELS

INLINE __m512 exponential(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
    __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    x = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
    x = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), x);
    __m512 y = _mm512_set1_ps(1.9875691500e-4f);
    y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(1.3981999507e-3f));
    y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(8.3334519073e-3f));
    y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(4.1665795894e-2f));
    y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(1.6666665459e-1f));
    y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(0.5f));
    y = _mm512_fmadd_ps(y, _mm512_mul_ps(x, x), _mm512_add_ps(x, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(y, whole);
}

/* Sums of up to ROWS rows and one panel, for a number of rows that is known when compiling. */
INLINE void multiplied(const uint8_t *rows, size_t stride, int count, const int8_t *weights,
                       int32_t inputs, __m512i sums[ROWS][4]) {
    for (int row = 0; row < count; row++)
        for (int part = 0; part < 4; part++) sums[row][part] = _mm512_setzero_si512();
    for (int32_t input = 0; input < inputs; input += 4, weights += 4 * PANEL) {
        __m512i column[4];
        for (int part = 0; part < 4; part++) column[part] = _mm512_load_si512(weights + 64 * part);
        for (int row = 0; row < count; row++) {
            int32_t four;
            memcpy(&four, rows + row * stride + input, 4);
            __m512i entry = _mm512_set1_epi32(four);
            for (int part = 0; part < 4; part++)
                sums[row][part] = _mm512_dpbusd_epi32(sums[row][part], entry, column[part]);
        }
    }
}

INLINE __m512 scaled(__m512i sum, const Matrix *matrix, int32_t output) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_load_ps(matrix->scale + output),
                           _mm512_load_ps(matrix->offset + output));
}

typedef enum { STORED, ADDED, ROUNDED } Use;

INLINE void used(Use use, const Matrix *matrix, int32_t first, int count, __m512i sums[ROWS][4],
                 void *to, size_t width) {
    for (int row = 0; row < count; row++)
        for (int part = 0; part < 4; part++) {
            int32_t output = first + 16 * part;
            __m512 value = scaled(sums[row][part], matrix, output);
            if (use == ROUNDED) { /* what is negative becomes zero */
                __m512i whole = _mm512_max_epi32(_mm512_cvtps_epi32(value), _mm512_setzero_si512());
                _mm_store_si128((__m128i *)((uint8_t *)to + row * width + output),
                                _mm512_cvtusepi32_epi8(whole));
            } else {
                float *place = (float *)to + row * width + output;
                if (use == ADDED) value = _mm512_add_ps(value, _mm512_load_ps(place));
                _mm512_store_ps(place, value);
            }
        }
}

#define OF_ROWS(count, call) \
    switch (count) {         \
    case 1: call(1); break;  \
    case 2: call(2); break;  \
    case 3: call(3); break;  \
    default: call(4);        \
    }

INLINE void product(Use use, const Matrix *matrix, const uint8_t *rows, int32_t count, void *to) {
    size_t entry = use == ROUNDED ? 1 : sizeof(float);
    for (int32_t first = 0; first < matrix->outputs; first += PANEL) {
        const int8_t *weights = matrix->weights + (size_t)first * matrix->inputs;
        for (int32_t row = 0; row < count; row += ROWS) {
            const uint8_t *some = rows + (size_t)row * matrix->inputs;
            void *place = (char *)to + (size_t)row * matrix->outputs * entry;
            __m512i sums[ROWS][4];
#define PART(number)                                                              \
    multiplied(some, matrix->inputs, number, weights, matrix->inputs, sums);      \
    used(use, matrix, first, number, sums, place, matrix->outputs)
            OF_ROWS(count - row, PART)
#undef PART
        }
    }
}

TARGET static void stored(const Matrix *matrix, const uint8_t *rows, int32_t count, float *to) {
    product(STORED, matrix, rows, count, to);
}

TARGET static void added(const Matrix *matrix, const uint8_t *rows, int32_t count, float *to) {
    product(ADDED, matrix, rows, count, to);
}

TARGET static void cut(const Matrix *matrix, const uint8_t *rows, int32_t count, uint8_t *to) {
    product(ROUNDED, matrix, rows, count, to);
}

INLINE __m128i rounded(__m512 value) {
    return _mm512_cvtusepi32_epi8(
        _mm512_max_epi32(_mm512_cvtps_epi32(value), _mm512_setzero_si512()));
}

TARGET static void normed(const Norm *norm, const float *rows, int32_t count, int32_t width,
                          uint8_t *to) {
    for (int32_t row = 0; row < count; row++, rows += width, to += width) {
        __m512 sum = _mm512_setzero_ps(), square = _mm512_setzero_ps();
        for (int32_t place = 0; place < width; place += 16)
            sum = _mm512_add_ps(sum, _mm512_load_ps(rows + place));
        __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)width);
        for (int32_t place = 0; place < width; place += 16) {
            __m512 off = _mm512_sub_ps(_mm512_load_ps(rows + place), mean);
            square = _mm512_fmadd_ps(off, off, square);
        }
        float variance = _mm512_reduce_add_ps(square) / (float)width;
        __m512 factor = _mm512_set1_ps(1.0f / sqrtf(variance + norm->epsilon));
        for (int32_t place = 0; place < width; place += 16) {
            __m512 off = _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(rows + place), mean), factor);
            __m512 value = _mm512_fmadd_ps(off, _mm512_load_ps(norm->weight + place),
                                           _mm512_load_ps(norm->bias + place));
            _mm_store_si128((__m128i *)(to + place), rounded(value));
        }
    }
}

/* Return the products of a query with 16 keys that begin `stride` entries after each other; past
   the first `count` of them the last is repeated. */
INLINE __m512 dots(const float *query, const float *keys, int32_t count, int32_t width) {
    __m512 sums[16];
    for (int key = 0; key < 16; key++) {
        const float *other = keys + (size_t)(key < count ? key : count - 1) * width;
        __m512 sum = _mm512_mul_ps(_mm512_loadu_ps(query), _mm512_loadu_ps(other));
        for (int32_t place = 16; place < width; place += 16)
            sum = _mm512_fmadd_ps(_mm512_loadu_ps(query + place), _mm512_loadu_ps(other + place),
                                  sum);
        sums[key] = sum;
    }
    for (int key = 0; key < 16; key += 2) /* halves of each four lanes, of two keys in turns */
        sums[key] = _mm512_add_ps(_mm512_unpacklo_ps(sums[key], sums[key + 1]),
                                  _mm512_unpackhi_ps(sums[key], sums[key + 1]));
    for (int key = 0; key < 16; key += 4) { /* each four lanes, of four keys in turns */
        __m512d one = _mm512_castps_pd(sums[key]), other = _mm512_castps_pd(sums[key + 2]);
        sums[key] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(one, other)),
                                  _mm512_castpd_ps(_mm512_unpackhi_pd(one, other)));
    }
    for (int key = 0; key < 16; key += 8)
        sums[key] = _mm512_add_ps(_mm512_shuffle_f32x4(sums[key], sums[key + 4], 0x88),
                                  _mm512_shuffle_f32x4(sums[key], sums[key + 4], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(sums[0], sums[8], 0x88),
                         _mm512_shuffle_f32x4(sums[0], sums[8], 0xdd));
}

/* Turn scores, whole vectors of them, into weights that sum to one; those at MASKED weigh nothing. */
INLINE void softmax(float *scores, int32_t whole) {
    __m512 most = _mm512_load_ps(scores);
    for (int32_t place = 16; place < whole; place += 16)
        most = _mm512_max_ps(most, _mm512_load_ps(scores + place));
    __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(most)), sum = _mm512_setzero_ps();
    for (int32_t place = 0; place < whole; place += 16) {
        __m512 score = _mm512_load_ps(scores + place);
        __mmask16 seen = _mm512_cmp_ps_mask(score, _mm512_set1_ps(MASKED), _CMP_GT_OQ);
        __m512 weight = _mm512_maskz_mov_ps(seen, exponential(_mm512_sub_ps(score, largest)));
        _mm512_store_ps(scores + place, weight);
        sum = _mm512_add_ps(sum, weight);
    }
    __m512 factor = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
    for (int32_t place = 0; place < whole; place += 16)
        _mm512_store_ps(scores + place, _mm512_mul_ps(_mm512_load_ps(scores + place), factor));
}

/* Mix values [C, E] by weights and round them. */
INLINE void mixed(const float *weights, const float *values, int32_t count, int32_t width,
                  float scale, uint8_t *to) {
    for (int32_t first = 0; first < width; first += 64) {
        int parts = width - first < 64 ? (width - first) / 16 : 4;
        __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                          _mm512_setzero_ps()};
        for (int32_t place = 0; place < count; place++) {
            __m512 weight = _mm512_set1_ps(weights[place]);
            const float *value = values + (size_t)place * width + first;
            for (int part = 0; part < parts; part++)
                sums[part] = _mm512_fmadd_ps(weight, _mm512_loadu_ps(value + 16 * part), sums[part]);
        }
        for (int part = 0; part < parts; part++) {
            __m512 value = _mm512_fmadd_ps(sums[part], _mm512_set1_ps(scale), _mm512_set1_ps(128));
            _mm_storeu_si128((__m128i *)(to + first + 16 * part), rounded(value));
        }
    }
}

/* What queries may see: entries of `bias` [1 or B, N, most] that are not MASKED, or `real` ones. */
typedef struct {
    const float *bias;
    const int32_t *real; /* [B, most] */
    int32_t bias_rows, most;
} Sight;

/* Attend with the queries of all slots [R, stride] to keys and values [B, H, most, E]. */
TARGET static void attended(const Network *network, const Pass *pass, const float *queries,
                            size_t stride, const float *keys, const float *values, Sight sight,
                            float scale, float *scores, uint8_t *to) {
    int32_t heads = network->heads, width = network->hidden / heads, most = sight.most;
    __m512 factor = _mm512_set1_ps(1.0f / sqrtf((float)width));
    for (int32_t index = 0; index < pass->rows; index++)
        for (int32_t slot = 0; slot < pass->slots; slot++, queries += stride) {
            size_t row = (size_t)pass->first + index;
            const float *seen = 0;
            const int32_t *real = 0;
            int32_t count = most;
            if (sight.bias) {
                seen = sight.bias + ((sight.bias_rows > 1 ? row : 0) * pass->slots + slot) * most;
                while (count > 1 && seen[count - 1] == MASKED) count--;
            } else {
                real = sight.real + row * most;
                while (count > 1 && !real[count - 1]) count--;
            }
            for (int32_t head = 0; head < heads; head++, to += width) {
                size_t first = (row * heads + head) * most * width;
                for (int32_t place = 0; place < count; place += 16) {
                    int32_t left = count - place < 16 ? count - place : 16;
                    __mmask16 there = (__mmask16)((1u << left) - 1), visible;
                    if (seen)
                        visible = _mm512_mask_cmp_ps_mask(
                            there, _mm512_maskz_loadu_ps(there, seen + place),
                            _mm512_set1_ps(MASKED), _CMP_GT_OQ);
                    else
                        visible = _mm512_mask_test_epi32_mask(
                            there, _mm512_maskz_loadu_epi32(there, real + place),
                            _mm512_set1_epi32(-1));
                    __m512 products = dots(queries + head * width,
                                           keys + first + (size_t)place * width, left, width);
                    _mm512_store_ps(scores + place, _mm512_mask_mul_ps(_mm512_set1_ps(MASKED),
                                                                       visible, products, factor));
                }
                softmax(scores, (count + 15) & ~15);
                mixed(scores, values + first, count, width, scale, to);
            }
        }
}

static size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

static size_t widest(const Network *network) {
    return network->widened > network->hidden ? network->widened : network->hidden;
}

/* Scratch memory of a pass. */
typedef struct {
    float *hidden;           /* [R, D] */
    float *parts;            /* [R, 3 D] */
    uint8_t *rows, *widened; /* [R, D or the feed-forward width] */
    float *scores;           /* [C or S, up to whole vectors] */
    float *keys, *values;    /* [B, H, S, E], of an encoder */
    size_t bytes;
} Scratch;

static void *taken(char *memory, size_t *bytes, size_t more) {
    char *place = memory + *bytes;
    *bytes += aligned(more);
    return place;
}

static Scratch scratch_of(const Network *network, const Pass *pass) {
    size_t count = (size_t)pass->rows * pass->slots, hidden = network->hidden;
    size_t longest = pass->room > pass->source ? pass->room : pass->source;
    size_t pairs = network->pair_count ? 4 * count * hidden : 0;
    char *memory = (char *)aligned((size_t)pass->scratch);
    Scratch scratch;
    scratch.bytes = 0;
    scratch.hidden = taken(memory, &scratch.bytes, 4 * count * hidden);
    scratch.parts = taken(memory, &scratch.bytes, 4 * count * 3 * hidden);
    scratch.rows = taken(memory, &scratch.bytes, count * widest(network));
    scratch.widened = taken(memory, &scratch.bytes, count * widest(network));
    scratch.scores = taken(memory, &scratch.bytes, 4 * (longest + 16));
    scratch.keys = taken(memory, &scratch.bytes, pairs);
    scratch.values = taken(memory, &scratch.bytes, pairs);
    return scratch;
}

/* Return the nearest index of a table of `count` rows. */
static int64_t within(int64_t index, int64_t count) {
    return index < 0 ? 0 : index < count ? index : count - 1;
}

TARGET static void embedded(const Network *network, const Pass *pass, float *hidden) {
    int32_t width = network->hidden;
    size_t first = (size_t)pass->first * pass->slots, end = first + (size_t)pass->rows * pass->slots;
    for (size_t row = first; row < end; row++, hidden += width) {
        int64_t token = within(pass->token[row], network->token_count);
        int64_t position = pass->position ? pass->position[row] : (int64_t)(row % pass->slots);
        position = within(position, network->position_count);
        const int8_t *entry = network->embedding + (size_t)token * width;
        const float *place = network->positions + (size_t)position * width;
        __m512 scale = _mm512_set1_ps(network->embedding_scale[token]);
        for (int32_t part = 0; part < width; part += 16) {
            __m512i whole = _mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)(entry + part)));
            __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), scale);
            _mm512_store_ps(hidden + part, _mm512_add_ps(value, _mm512_load_ps(place + part)));
        }
        if (!network->reaches) continue;
        int64_t reach = within(pass->reach[row], network->reach_count);
        const float *further = network->reaches + (size_t)reach * width;
        for (int32_t part = 0; part < width; part += 16)
            _mm512_store_ps(hidden + part, _mm512_add_ps(_mm512_load_ps(hidden + part),
                                                         _mm512_load_ps(further + part)));
    }
}

/* Copy keys and values, which begin `offset` entries after each other's `rows` of a `stride`, to
   [B, H, room, E], behind the `start` slots that a sentence has (0: none). `from` and `rows` count
   from the first sentence of the pass, `keys` and `values` from the first there is. */
TARGET static void kept(const Network *network, const Pass *pass, const float *from, size_t stride,
                        const int64_t *start, size_t room, size_t first, float *keys,
                        float *values) {
    size_t heads = network->heads, hidden = network->hidden, width = hidden / heads;
    for (int32_t row = 0; row < pass->rows; row++)
        for (int32_t slot = 0; slot < pass->slots; slot++, from += stride) {
            size_t place = (start ? (size_t)start[pass->first + row] : 0) + slot;
            for (size_t head = 0; head < heads; head++) {
                size_t entry = (((first + row) * heads + head) * room + place) * width;
                for (size_t part = 0; part < width; part += 16) {
                    _mm512_storeu_ps(keys + entry + part,
                                     _mm512_loadu_ps(from + head * width + part));
                    _mm512_storeu_ps(values + entry + part,
                                     _mm512_loadu_ps(from + hidden + head * width + part));
                }
            }
        }
}

/* The feed-forward layer, added to its input. */
TARGET static void forward(const Layer *layer, const Scratch *scratch, int32_t count,
                           int32_t width) {
    normed(&layer->feedforward_norm, scratch->hidden, count, width, scratch->rows);
    cut(&layer->widen, scratch->rows, count, scratch->widened);
    added(&layer->narrow, scratch->widened, count, scratch->hidden);
}

/* Compute the states of new slots, whose keys and values join the others. */
TARGET static void decoded(const Network *network, const Pass *pass) {
    int32_t count = pass->rows * pass->slots, width = network->hidden;
    Scratch scratch = scratch_of(network, pass);
    Sight text = {pass->bias, 0, pass->bias_rows, pass->room};
    Sight source = {0, pass->real, 1, pass->source};
    embedded(network, pass, scratch.hidden);
    for (int32_t index = 0; index < network->layer_count; index++) {
        const Layer *layer = network->layers + index;
        normed(&layer->attention_norm, scratch.hidden, count, width, scratch.rows);
        stored(&layer->input, scratch.rows, count, scratch.parts);
        kept(network, pass, scratch.parts + width, 3 * width, pass->start, pass->room, pass->first,
             pass->keys[index], pass->values[index]);
        attended(network, pass, scratch.parts, 3 * width, pass->keys[index], pass->values[index],
                 text, layer->attention_unit, scratch.scores, scratch.rows);
        added(&layer->output, scratch.rows, count, scratch.hidden);
        normed(&layer->cross_norm, scratch.hidden, count, width, scratch.rows);
        stored(&layer->query, scratch.rows, count, scratch.parts);
        attended(network, pass, scratch.parts, width, pass->cross_keys[index],
                 pass->cross_values[index], source, layer->cross_unit, scratch.scores,
                 scratch.rows);
        added(&layer->cross_output, scratch.rows, count, scratch.hidden);
        forward(layer, &scratch, count, width);
    }
    normed(&network->final_norm, scratch.hidden, count, width,
           pass->hidden + (size_t)pass->first * pass->slots * width);
}

/* Compute the keys and values of sources for every layer of the decoder. */
TARGET static void encoded(const Network *network, const Pass *pass) {
    int32_t count = pass->rows * pass->slots, width = network->hidden;
    Scratch scratch = scratch_of(network, pass);
    Pass own = *pass; /* its keys and values are in scratch memory, from the first sentence on */
    own.first = 0;
    Sight source = {0, pass->real + (size_t)pass->first * pass->source, 1, pass->source};
    embedded(network, pass, scratch.hidden);
    for (int32_t index = 0; index < network->layer_count; index++) {
        const Layer *layer = network->layers + index;
        normed(&layer->attention_norm, scratch.hidden, count, width, scratch.rows);
        stored(&layer->input, scratch.rows, count, scratch.parts);
        kept(network, &own, scratch.parts + width, 3 * width, 0, pass->source, 0, scratch.keys,
             scratch.values);
        attended(network, &own, scratch.parts, 3 * width, scratch.keys, scratch.values, source,
                 layer->attention_unit, scratch.scores, scratch.rows);
        added(&layer->output, scratch.rows, count, scratch.hidden);
        forward(layer, &scratch, count, width);
    }
    normed(&network->final_norm, scratch.hidden, count, width, scratch.rows);
    for (int32_t index = 0; index < network->pair_count; index++) {
        stored(network->pairs + index, scratch.rows, count, scratch.parts);
        kept(network, pass, scratch.parts, 2 * width, 0, pass->source, pass->first,
             pass->cross_keys[index], pass->cross_values[index]);
    }
}

/* The work of one thread. */
typedef struct Share {
    void (*run)(const struct Share *);
    const void *weights; /* a `Network` or a `Picker` */
    Pass pass;
    const uint8_t *hidden;
    int64_t *tokens;
    float *log_probabilities;
    void *scratch;
    int32_t sentences, size;
} Share;

static void *started(void *argument) {
    const Share *share = argument;
    share->run(share);
    return 0;
}

/* Run shares, the first in this thread, the others in threads of their own. */
static void run_all(const Share *shares, int32_t count) {
    pthread_t threads[MOST_THREADS];
    int others[MOST_THREADS];
    for (int32_t index = 1; index < count; index++)
        others[index] = !pthread_create(threads + index, 0, started, (void *)(shares + index));
    shares->run(shares);
    for (int32_t index = 1; index < count; index++) {
        if (others[index])
            pthread_join(threads[index], 0);
        else
            shares[index].run(shares + index);
    }
}

/* Return how many threads are worth their start: each has at least 2^24 products to compute. */
static int32_t worthwhile(int32_t threads, int32_t sentences, size_t products) {
    size_t most = 1 + (products >> 24);
    if ((size_t)threads > most) threads = (int32_t)most;
    if (threads > sentences) threads = sentences;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    return threads < 1 ? 1 : threads;
}

static int32_t cut_at(int32_t sentences, int32_t part, int32_t parts) {
    return (int32_t)((int64_t)sentences * part / parts);
}

static void pass_of(const Share *share) {
    const Network *network = share->weights;
    if (network->pair_count)
        encoded(network, &share->pass);
    else
        decoded(network, &share->pass);
}

static int32_t threads_of(const Network *network, const Pass *pass, int32_t threads) {
    size_t layer = (size_t)network->hidden * (6 * (size_t)network->hidden + 2 * (size_t)network->widened);
    size_t count = (size_t)pass->rows * pass->slots;
    return worthwhile(threads, pass->rows, count * layer * network->layer_count);
}

/* Split a pass by sentences; return the bytes of scratch memory that all shares take. */
static size_t shared(const Network *network, const Pass *pass, int32_t threads, Share *shares) {
    size_t bytes = 0;
    for (int32_t index = 0; index < threads; index++) {
        Share *share = shares + index;
        share->run = pass_of;
        share->weights = network;
        share->pass = *pass;
        share->pass.first = cut_at(pass->rows, index, threads);
        share->pass.rows = cut_at(pass->rows, index + 1, threads) - share->pass.first;
        share->pass.scratch = (char *)pass->scratch + bytes;
        bytes += 64 + scratch_of(network, &share->pass).bytes;
    }
    return bytes;
}

/* Return the bytes of scratch memory that a pass needs. */
size_t ms_scratch(const Network *network, const Pass *pass, int32_t threads) {
    Share shares[MOST_THREADS];
    return shared(network, pass, threads_of(network, pass, threads), shares);
}

/* Run a pass of a decoder, or of an encoder, in up to `threads` threads. */
void ms_run(const Network *network, const Pass *pass, int32_t threads) {
    Share shares[MOST_THREADS];
    threads = threads_of(network, pass, threads);
    shared(network, pass, threads, shares);
    run_all(shares, threads);
}

/* The largest logit of a row so far, where it was, and the sum of exponentials below it. */
typedef struct {
    __m512 sum;
    float most;
    int32_t token;
} Best;

INLINE void searched(Best *best, const __m512 logits[4], int32_t first) {
    __m512 most = _mm512_max_ps(_mm512_max_ps(logits[0], logits[1]),
                                _mm512_max_ps(logits[2], logits[3]));
    float largest = _mm512_reduce_max_ps(most);
    if (largest > best->most) {
        __m512 every = _mm512_set1_ps(largest);
        uint64_t where = 0;
        for (int part = 3; part >= 0; part--)
            where = where << 16 | _mm512_cmp_ps_mask(logits[part], every, _CMP_EQ_OQ);
        best->sum = _mm512_mul_ps(best->sum, exponential(_mm512_set1_ps(best->most - largest)));
        best->most = largest;
        best->token = first + __builtin_ctzll(where);
    }
    __m512 top = _mm512_set1_ps(best->most);
    for (int part = 0; part < 4; part++) {
        __mmask16 near = _mm512_cmp_ps_mask(logits[part], _mm512_sub_ps(top, _mm512_set1_ps(30)),
                                            _CMP_GT_OQ);
        if (near)
            best->sum = _mm512_add_ps(
                best->sum, _mm512_maskz_mov_ps(near, exponential(_mm512_sub_ps(logits[part], top))));
    }
}

INLINE Best begun(void) {
    Best best = {_mm512_setzero_ps(), -INFINITY, 0};
    return best;
}

INLINE void finished(const Best *best, int64_t *token, float *log_probability) {
    *token = best->token;
    *log_probability = -logf(_mm512_reduce_add_ps(best->sum));
}

INLINE void searched_rows(const Matrix *matrix, int32_t first, int count, __m512i sums[ROWS][4],
                          Best *best) {
    for (int row = 0; row < count; row++) {
        __m512 logits[4];
        for (int part = 0; part < 4; part++)
            logits[part] = scaled(sums[row][part], matrix, first + 16 * part);
        searched(best + row, logits, first);
    }
}

/* Pick the most probable token of each row of `hidden` [R, D]. `best` has room for R rows. */
TARGET static void picked(const Matrix *output, const uint8_t *hidden, int32_t count, Best *best) {
    for (int32_t row = 0; row < count; row++) best[row] = begun();
    for (int32_t first = 0; first < output->outputs; first += PANEL) {
        const int8_t *weights = output->weights + (size_t)first * output->inputs;
        for (int32_t row = 0; row < count; row += ROWS) {
            const uint8_t *some = hidden + (size_t)row * output->inputs;
            __m512i sums[ROWS][4];
#define PART(number)                                                          \
    multiplied(some, output->inputs, number, weights, output->inputs, sums);  \
    searched_rows(output, first, number, sums, best + row)
            OF_ROWS(count - row, PART)
#undef PART
        }
    }
}

INLINE void corrected(const Matrix *following, int32_t first, int count, __m512i sums[ROWS][4],
                      const float *factors, const float *plain, size_t stride, Best *best) {
    for (int row = 0; row < count; row++) {
        __m512 logits[4], factor = _mm512_set1_ps(factors[row]);
        for (int part = 0; part < 4; part++) {
            int32_t output = first + 16 * part;
            logits[part] = _mm512_fmadd_ps(factor, scaled(sums[row][part], following, output),
                                           _mm512_load_ps(plain + row * stride + output));
        }
        searched(best + row, logits, first);
    }
}

/* Pick the most probable token of each row of `hidden` [R, D]. */
TARGET static void greedy(const Share *share) {
    const Picker *picker = share->weights;
    Best *best = (Best *)aligned((size_t)share->scratch);
    picked(&picker->output, share->hidden, share->sentences, best);
    for (int32_t row = 0; row < share->sentences; row++)
        finished(best + row, share->tokens + row, share->log_probabilities + row);
}

/* Search the first slots of groups whose `logits` begin `stride` entries after each other. */
TARGET static void searched_first(const float *logits, size_t stride, int32_t width,
                                  int32_t sentences, Best *best) {
    for (int32_t row = 0; row < sentences; row++)
        for (int32_t first = 0; first < width; first += PANEL) {
            __m512 all[4];
            for (int part = 0; part < 4; part++)
                all[part] = _mm512_load_ps(logits + row * stride + first + 16 * part);
            searched(best + row, all, first);
        }
}

/* Search other slots, whose logits are corrected by the rows `before` of the previous tokens. */
TARGET static void searched_next(const Matrix *following, const uint8_t *before,
                                 const float *factors, const float *logits, size_t stride,
                                 int32_t sentences, Best *best) {
    int32_t rank = following->inputs;
    for (int32_t first = 0; first < following->outputs; first += PANEL) {
        const int8_t *weights = following->weights + (size_t)first * rank;
        for (int32_t row = 0; row < sentences; row += ROWS) {
            const uint8_t *some = before + (size_t)row * rank;
            const float *plain = logits + row * stride;
            __m512i sums[ROWS][4];
#define PART(number)                                                                          \
    multiplied(some, rank, number, weights, rank, sums);                                      \
    corrected(following, first, number, sums, factors + row, plain, stride, best + row)
            OF_ROWS(sentences - row, PART)
#undef PART
        }
    }
}

/* Pick the tokens of groups of `hidden` [B, K, D]: each after the first given the one before. */
TARGET static void chained(const Share *share) {
    const Picker *picker = share->weights;
    int32_t sentences = share->sentences, size = share->size, rank = picker->following.inputs;
    size_t width = picker->output.outputs, bytes = 0;
    char *memory = (char *)aligned((size_t)share->scratch);
    Best *best = taken(memory, &bytes, sentences * sizeof(Best));
    float *logits = taken(memory, &bytes, 4 * (size_t)sentences * size * width);
    uint8_t *before = taken(memory, &bytes, (size_t)sentences * rank);
    float *factors = taken(memory, &bytes, 4 * (size_t)sentences);
    stored(&picker->output, share->hidden, sentences * size, logits);
    for (int32_t slot = 0; slot < size; slot++, logits += width) {
        int64_t *tokens = share->tokens + slot;
        for (int32_t row = 0; row < sentences; row++) {
            best[row] = begun();
            if (slot == 0) continue;
            int64_t token = tokens[(size_t)row * size - 1];
            memcpy(before + (size_t)row * rank, picker->previous + token * rank, rank);
            factors[row] = picker->previous_scale[token];
        }
        if (slot == 0)
            searched_first(logits, size * width, width, sentences, best);
        else
            searched_next(&picker->following, before, factors, logits, size * width, sentences,
                          best);
        for (int32_t row = 0; row < sentences; row++)
            finished(best + row, tokens + (size_t)row * size,
                     share->log_probabilities + (size_t)row * size + slot);
    }
}

static size_t picking_bytes(const Picker *picker, int32_t sentences, int32_t size) {
    size_t bytes = 64 + aligned(sentences * sizeof(Best));
    if (size > 1)
        bytes += aligned(4 * (size_t)sentences * size * picker->output.outputs) +
                 aligned((size_t)sentences * picker->following.inputs) +
                 aligned(4 * (size_t)sentences);
    return bytes;
}

static int32_t picking_threads(const Picker *picker, int32_t sentences, int32_t size,
                               int32_t threads) {
    size_t matrix = (size_t)picker->output.inputs * picker->output.outputs;
    return worthwhile(threads, sentences, (size_t)sentences * size * matrix);
}

/* Return the bytes of scratch memory that picking needs. */
size_t ms_pick_scratch(const Picker *picker, int32_t sentences, int32_t size, int32_t threads) {
    size_t bytes = 0;
    threads = picking_threads(picker, sentences, size, threads);
    for (int32_t index = 0; index < threads; index++)
        bytes += picking_bytes(
            picker, cut_at(sentences, index + 1, threads) - cut_at(sentences, index, threads), size);
    return bytes;
}

/* Pick tokens and their log-probabilities [B, K] in `hidden` [B, K, D]: each by itself if K is 1,
   else each after the first given the one before; in up to `threads` threads. */
void ms_pick(const Picker *picker, const uint8_t *hidden, int32_t sentences, int32_t size,
             int64_t *tokens, float *log_probabilities, char *scratch, int32_t threads) {
    Share shares[MOST_THREADS];
    threads = picking_threads(picker, sentences, size, threads);
    for (int32_t index = 0; index < threads; index++) {
        Share *share = shares + index;
        size_t first = cut_at(sentences, index, threads);
        share->run = size > 1 ? chained : greedy;
        share->weights = picker;
        share->sentences = cut_at(sentences, index + 1, threads) - (int32_t)first;
        share->size = size;
        share->hidden = hidden + first * size * picker->output.inputs;
        share->tokens = tokens + first * size;
        share->log_probabilities = log_probabilities + first * size;
        share->scratch = scratch;
        scratch += picking_bytes(picker, share->sentences, size);
    }
    run_all(shares, threads);
}

#endif

/* The module holds nothing: `library.py` calls the functions above by ctypes. */
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "kernels", 0, -1, 0, 0, 0, 0, 0};

PyMODINIT_FUNC PyInit_kernels(void) { return PyModule_Create(&module); }

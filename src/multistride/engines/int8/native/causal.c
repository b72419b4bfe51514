/* Causal models that were converted (Llama's layout): a pass of the decoder and the choice of
   tokens, with weights and activations in blocks of 64 that share a scale, as `blocks.py` has them.

   Weights are unsigned (128 is zero) and activations signed, so that what the zero point adds is a
   number of the row and block alone. */

#include "kernels.h"

#define BLOCK 64 /* inputs that share a scale */

/* Weights: [O / 64][I / 64][16][64][4], their scales [O / 64][I / 64][64], and biases or none. */
typedef struct {
    const uint8_t *weights;
    const float *scale;
    const float *bias;
    int32_t inputs;
    int32_t outputs;
} Blocked;

typedef struct {
    const float *attention_norm, *feedforward_norm; /* [D] */
    const float *query_norm, *key_norm;             /* [E], or none */
    Blocked input, output, widen, narrow;           /* `widen`: the gate, then what it multiplies */
} CausalLayer;

typedef struct {
    const int8_t *embedding; /* [V, D] */
    const float *embedding_scale;
    const float *starts;        /* [K, D]: added to start symbols before the first */
    const float *reaches;       /* [K, D] */
    const float *cosine, *sine; /* [P, E / 2] */
    const float *final_norm;
    const CausalLayer *layers;
    float epsilon;
    int32_t layer_count, hidden, widened, heads, groups, width;
    int32_t token_count, position_count, start_count, reach_count;
} Causal;

#if KERNELS

/* Rows in 8 bits: integers [R, I], and of each block the scale and -128 times the sum [R, I / 64]. */
typedef struct {
    int8_t *integers;
    float *scale;
    int32_t *offset;
} Rows;

INLINE void rounded_block(const float *from, int8_t *to, float *scale, int32_t *offset) {
    __m512 parts[4], most = _mm512_setzero_ps();
    for (int part = 0; part < 4; part++) {
        parts[part] = _mm512_loadu_ps(from + 16 * part);
        most = _mm512_max_ps(most, _mm512_abs_ps(parts[part]));
    }
    float largest = _mm512_reduce_max_ps(most);
    __m512 factor = _mm512_set1_ps(largest > 0 ? 127.0f / largest : 0.0f);
    __m512i sum = _mm512_setzero_si512();
    for (int part = 0; part < 4; part++) {
        __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(parts[part], factor));
        sum = _mm512_add_epi32(sum, whole);
        _mm_storeu_si128((__m128i *)(to + 16 * part), _mm512_cvtsepi32_epi8(whole));
    }
    *scale = largest / 127.0f;
    *offset = -128 * _mm512_reduce_add_epi32(sum);
}

/* Round a row of `width` entries. */
INLINE void rounded_row(const float *from, int32_t width, const Rows *to, size_t row) {
    size_t blocks = width / BLOCK;
    for (size_t block = 0; block < blocks; block++)
        rounded_block(from + block * BLOCK, to->integers + row * width + block * BLOCK,
                      to->scale + row * blocks + block, to->offset + row * blocks + block);
}

/* Outputs of up to ROWS rows and one panel, for a number of rows that is known when compiling. */
INLINE void multiplied(const Rows *rows, size_t row, int count, const Blocked *matrix,
                       int32_t panel, __m512 values[ROWS][4]) {
    size_t inputs = matrix->inputs, blocks = inputs / BLOCK;
    const uint8_t *weights = matrix->weights + (size_t)panel * PANEL * inputs;
    const float *scale = matrix->scale + (size_t)panel * PANEL * blocks;
    for (int each = 0; each < count; each++)
        for (int part = 0; part < 4; part++)
            values[each][part] = matrix->bias
                                     ? _mm512_loadu_ps(matrix->bias + panel * PANEL + 16 * part)
                                     : _mm512_setzero_ps();
    for (size_t block = 0; block < blocks; block++, scale += PANEL) {
        __m512i sums[ROWS][4];
        const int8_t *entries[ROWS];
        for (int each = 0; each < count; each++) {
            entries[each] = rows->integers + (row + each) * inputs + block * BLOCK;
            for (int part = 0; part < 4; part++)
                sums[each][part] = _mm512_set1_epi32(rows->offset[(row + each) * blocks + block]);
        }
        for (int input = 0; input < BLOCK; input += 4, weights += 4 * PANEL) {
            __m512i column[4];
            for (int part = 0; part < 4; part++)
                column[part] = _mm512_load_si512(weights + 64 * part);
            for (int each = 0; each < count; each++) {
                int32_t four;
                memcpy(&four, entries[each] + input, 4);
                __m512i entry = _mm512_set1_epi32(four);
                for (int part = 0; part < 4; part++)
                    sums[each][part] = _mm512_dpbusd_epi32(sums[each][part], column[part], entry);
            }
        }
        for (int each = 0; each < count; each++) {
            __m512 factor = _mm512_set1_ps(rows->scale[(row + each) * blocks + block]);
            for (int part = 0; part < 4; part++)
                values[each][part] = _mm512_fmadd_ps(
                    _mm512_cvtepi32_ps(sums[each][part]),
                    _mm512_mul_ps(factor, _mm512_load_ps(scale + 16 * part)), values[each][part]);
        }
    }
}

INLINE void multiplied_some(const Rows *rows, size_t row, int count, const Blocked *matrix,
                            int32_t panel, __m512 values[ROWS][4]) {
#define PART(number) multiplied(rows, row, number, matrix, panel, values)
    OF_ROWS(count, PART)
#undef PART
}

/* Multiply rows to [R, O], which is overwritten or added to. */
INLINE void product(const Blocked *matrix, const Rows *rows, int32_t count, float *to, int adds,
                    const Team *team, int32_t me) {
    int32_t groups = (count + ROWS - 1) / ROWS;
    Range range = part_of(team, me, (int64_t)(matrix->outputs / PANEL) * groups);
    for (int32_t index = range.first; index < range.end; index++) {
        int32_t panel = index / groups, row = index % groups * ROWS;
        int32_t some = count - row < ROWS ? count - row : ROWS;
        __m512 values[ROWS][4];
        multiplied_some(rows, row, some, matrix, panel, values);
        for (int32_t each = 0; each < some; each++)
            for (int part = 0; part < 4; part++) {
                float *place = to + (size_t)(row + each) * matrix->outputs + panel * PANEL + 16 * part;
                __m512 value = values[each][part];
                if (adds) value = _mm512_add_ps(value, _mm512_load_ps(place));
                _mm512_store_ps(place, value);
            }
    }
    meet(team);
}

TARGET static void stored(const Blocked *matrix, const Rows *rows, int32_t count, float *to,
                          const Team *team, int32_t me) {
    product(matrix, rows, count, to, 0, team, me);
}

TARGET static void added(const Blocked *matrix, const Rows *rows, int32_t count, float *to,
                         const Team *team, int32_t me) {
    product(matrix, rows, count, to, 1, team, me);
}

/* Normalise a row by its root mean square. */
INLINE void normed_row(const float *weight, float epsilon, const float *from, int32_t width,
                       float *to) {
    __m512 square = _mm512_setzero_ps();
    for (int32_t place = 0; place < width; place += 16) {
        __m512 value = _mm512_loadu_ps(from + place);
        square = _mm512_fmadd_ps(value, value, square);
    }
    float mean = _mm512_reduce_add_ps(square) / (float)width;
    __m512 factor = _mm512_set1_ps(1.0f / sqrtf(mean + epsilon));
    for (int32_t place = 0; place < width; place += 16)
        _mm512_storeu_ps(to + place,
                         _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(from + place), factor),
                                       _mm512_loadu_ps(weight + place)));
}

/* Scratch memory of a pass. */
typedef struct {
    float *hidden; /* [R, D] */
    float *parts;  /* [R, (H + 2 G) E or twice the feed-forward width] */
    float *mixed;  /* [R, H E] */
    Rows rows;     /* of the widest input */
    float *scores; /* [threads, C up to whole vectors] */
    float *row;    /* [threads, the widest input] */
    size_t bytes, each, widest;
} Scratch;

static size_t largest(size_t one, size_t other) { return one > other ? one : other; }

static Scratch scratch_of(const Causal *network, const Pass *pass, int32_t threads) {
    size_t count = (size_t)pass->rows * pass->slots, hidden = network->hidden;
    size_t queries = (size_t)network->heads * network->width;
    size_t parts = queries + 2 * (size_t)network->groups * network->width;
    char *memory = (char *)aligned((size_t)pass->scratch);
    Scratch scratch;
    scratch.bytes = 0;
    scratch.each = aligned((size_t)pass->room + 16);
    scratch.widest = largest(largest(hidden, queries), network->widened);
    scratch.hidden = taken(memory, &scratch.bytes, 4 * count * hidden);
    scratch.parts = taken(memory, &scratch.bytes,
                          4 * count * largest(parts, 2 * (size_t)network->widened));
    scratch.mixed = taken(memory, &scratch.bytes, 4 * count * queries);
    scratch.rows.integers = taken(memory, &scratch.bytes, count * scratch.widest);
    scratch.rows.scale = taken(memory, &scratch.bytes, 4 * count * scratch.widest / BLOCK);
    scratch.rows.offset = taken(memory, &scratch.bytes, 4 * count * scratch.widest / BLOCK);
    scratch.scores = taken(memory, &scratch.bytes, 4 * scratch.each * threads);
    scratch.row = taken(memory, &scratch.bytes, 4 * aligned(scratch.widest) * threads);
    return scratch;
}

/* Normalise and round rows. */
TARGET static void normed(const Causal *network, const float *weight, const Scratch *scratch,
                          int32_t count, const Team *team, int32_t me) {
    int32_t width = network->hidden;
    float *one = scratch->row + me * aligned(scratch->widest);
    Range range = part_of(team, me, count);
    for (int32_t row = range.first; row < range.end; row++) {
        normed_row(weight, network->epsilon, scratch->hidden + (size_t)row * width, width, one);
        rounded_row(one, width, &scratch->rows, row);
    }
    meet(team);
}

TARGET static void embedded(const Causal *network, const Pass *pass, float *hidden,
                            const Team *team, int32_t me) {
    int32_t width = network->hidden;
    Range range = part_of(team, me, (int64_t)pass->rows * pass->slots);
    for (int32_t row = range.first; row < range.end; row++) {
        float *to = hidden + (size_t)row * width;
        int64_t token = within(pass->token[row], network->token_count);
        int64_t back = within(pass->reach[row] - pass->position[row] - 1, network->start_count);
        int64_t reach = within(pass->reach[row], network->reach_count);
        const int8_t *entry = network->embedding + (size_t)token * width;
        const float *start = network->starts + (size_t)back * width;
        const float *further = network->reaches + (size_t)reach * width;
        __m512 scale = _mm512_set1_ps(network->embedding_scale[token]);
        for (int32_t part = 0; part < width; part += 16) {
            __m512i whole = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(entry + part)));
            __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), scale);
            value = _mm512_add_ps(value, _mm512_loadu_ps(start + part));
            _mm512_store_ps(to + part, _mm512_add_ps(value, _mm512_loadu_ps(further + part)));
        }
    }
    meet(team);
}

/* Turn a head: its halves are the coordinates of points. */
INLINE void turned(float *head, const float *cosine, const float *sine, int32_t width) {
    float *other = head + width / 2;
    for (int32_t place = 0; place < width / 2; place += 16) {
        __mmask16 there = (__mmask16)(width / 2 - place < 16 ? (1u << (width / 2 - place)) - 1 : 0xffff);
        __m512 x = _mm512_maskz_loadu_ps(there, head + place);
        __m512 y = _mm512_maskz_loadu_ps(there, other + place);
        __m512 c = _mm512_maskz_loadu_ps(there, cosine + place);
        __m512 s = _mm512_maskz_loadu_ps(there, sine + place);
        _mm512_mask_storeu_ps(head + place, there,
                              _mm512_fmsub_ps(x, c, _mm512_mul_ps(y, s)));
        _mm512_mask_storeu_ps(other + place, there,
                              _mm512_fmadd_ps(y, c, _mm512_mul_ps(x, s)));
    }
}

/* Normalise, where the model does, and turn the queries and keys of all slots. */
TARGET static void placed(const Causal *network, const CausalLayer *layer, const Pass *pass,
                          float *parts, size_t stride, const Team *team, int32_t me) {
    int32_t width = network->width, heads = network->heads + network->groups;
    Range range = part_of(team, me, (int64_t)pass->rows * pass->slots);
    for (int32_t row = range.first; row < range.end; row++) {
        size_t position = (size_t)within(pass->position[row], network->position_count);
        for (int32_t index = 0; index < heads; index++) {
            float *head = parts + row * stride + (size_t)index * width;
            const float *norm = index < network->heads ? layer->query_norm : layer->key_norm;
            if (norm) normed_row(norm, network->epsilon, head, width, head);
            turned(head, network->cosine + position * (width / 2),
                   network->sine + position * (width / 2), width);
        }
    }
    meet(team);
}

/* Round rows of `width` entries. */
TARGET static void rounded(const float *from, int32_t count, int32_t width, const Rows *to,
                           const Team *team, int32_t me) {
    Range range = part_of(team, me, count);
    for (int32_t row = range.first; row < range.end; row++)
        rounded_row(from + (size_t)row * width, width, to, row);
    meet(team);
}

/* Multiply what was widened by its gate, x / (1 + exp(-x)), and round it. */
TARGET static void gated(const Causal *network, const Scratch *scratch, int32_t count,
                         const Team *team, int32_t me) {
    int32_t width = network->widened;
    float *one = scratch->row + me * aligned(scratch->widest);
    Range range = part_of(team, me, count);
    for (int32_t row = range.first; row < range.end; row++) {
        const float *gate = scratch->parts + (size_t)row * 2 * width, *wide = gate + width;
        for (int32_t place = 0; place < width; place += 16) {
            __m512 x = _mm512_load_ps(gate + place), y = _mm512_load_ps(wide + place);
            __m512 below = exponential(_mm512_sub_ps(_mm512_setzero_ps(), x));
            below = _mm512_add_ps(below, _mm512_set1_ps(1));
            _mm512_store_ps(one + place, _mm512_mul_ps(_mm512_div_ps(x, below), y));
        }
        rounded_row(one, width, &scratch->rows, row);
    }
    meet(team);
}

TARGET static void decoded(const Team *team, int32_t me) {
    const Causal *network = team->weights;
    const Pass *pass = team->arrays;
    int32_t count = pass->rows * pass->slots, width = network->hidden;
    int32_t queries = network->heads * network->width;
    size_t stride = queries + 2 * (size_t)network->groups * network->width;
    Scratch scratch = scratch_of(network, pass, team->threads);
    Mixed to = {0, scratch.mixed, 0};
    Attention over = {0};
    over.queries = scratch.parts;
    over.stride = stride;
    over.count = count;
    over.slots = pass->slots;
    over.heads = network->heads;
    over.groups = network->groups;
    over.width = network->width;
    over.bias = pass->bias;
    over.bias_rows = pass->bias_rows;
    over.most = pass->room;
    embedded(network, pass, scratch.hidden, team, me);
    for (int32_t index = 0; index < network->layer_count; index++) {
        const CausalLayer *layer = network->layers + index;
        normed(network, layer->attention_norm, &scratch, count, team, me);
        stored(&layer->input, &scratch.rows, count, scratch.parts, team, me);
        placed(network, layer, pass, scratch.parts, stride, team, me);
        over.keys = pass->keys[index];
        over.values = pass->values[index];
        kept(&over, team, me, scratch.parts + queries, pass->start, pass->keys[index],
             pass->values[index]);
        meet(team);
        attended(&over, team, me, scratch.scores + me * scratch.each, &to);
        meet(team);
        rounded(scratch.mixed, count, queries, &scratch.rows, team, me);
        added(&layer->output, &scratch.rows, count, scratch.hidden, team, me);
        normed(network, layer->feedforward_norm, &scratch, count, team, me);
        stored(&layer->widen, &scratch.rows, count, scratch.parts, team, me);
        gated(network, &scratch, count, team, me);
        added(&layer->narrow, &scratch.rows, count, scratch.hidden, team, me);
    }
    Range range = part_of(team, me, count);
    for (int32_t row = range.first; row < range.end; row++)
        normed_row(network->final_norm, network->epsilon, scratch.hidden + (size_t)row * width,
                   width, (float *)pass->hidden + (size_t)row * width);
    meet(team);
}

/* What is picked from: `hidden` [R, D]. */
typedef struct {
    const float *hidden;
    int64_t *tokens;
    float *log_probabilities;
    void *scratch;
    int32_t rows;
} Picking;

static size_t picking_places(const Blocked *output, int32_t rows, void *scratch, Rows *integers,
                             Best **bests) {
    size_t bytes = 0, width = output->inputs;
    char *memory = (char *)aligned((size_t)scratch);
    *bests = taken(memory, &bytes, (size_t)rows * chunks_of(output->outputs) * sizeof(Best));
    integers->integers = taken(memory, &bytes, rows * width);
    integers->scale = taken(memory, &bytes, 4 * rows * width / BLOCK);
    integers->offset = taken(memory, &bytes, 4 * rows * width / BLOCK);
    return bytes;
}

TARGET static void greedy(const Team *team, int32_t me) {
    const Blocked *output = team->weights;
    const Picking *picking = team->arrays;
    int32_t rows = picking->rows, chunks = chunks_of(output->outputs);
    int32_t groups = (rows + ROWS - 1) / ROWS;
    Rows integers;
    Best *bests;
    picking_places(output, rows, picking->scratch, &integers, &bests);
    rounded(picking->hidden, rows, output->inputs, &integers, team, me);
    Range range = part_of(team, me, (int64_t)chunks * groups);
    for (int32_t index = range.first; index < range.end; index++) {
        int32_t chunk = index / groups, row = index % groups * ROWS;
        int32_t some = rows - row < ROWS ? rows - row : ROWS;
        int32_t end = (chunk + 1) * CHUNK < output->outputs ? (chunk + 1) * CHUNK : output->outputs;
        Best best[ROWS];
        for (int32_t each = 0; each < ROWS; each++) best[each] = begun();
        for (int32_t first = chunk * CHUNK; first < end; first += PANEL) {
            __m512 values[ROWS][4];
            multiplied_some(&integers, row, some, output, first / PANEL, values);
            for (int32_t each = 0; each < some; each++) searched(best + each, values[each], first);
        }
        for (int32_t each = 0; each < some; each++)
            bests[(size_t)(row + each) * chunks + chunk] = best[each];
    }
    meet(team);
    range = part_of(team, me, rows);
    for (int32_t row = range.first; row < range.end; row++)
        finished(bests + (size_t)row * chunks, chunks, picking->tokens + row,
                 picking->log_probabilities + row);
}

/* Return the bytes of scratch memory that a pass needs. */
size_t ms_causal_scratch(const Causal *network, const Pass *pass, int32_t threads) {
    return 64 + scratch_of(network, pass, threads < MOST_THREADS ? threads : MOST_THREADS).bytes;
}

/* Run a pass in up to `threads` threads. */
void ms_causal_run(const Causal *network, const Pass *pass, int32_t threads) {
    double queries = 2.0 * (network->heads + network->groups) * network->width;
    double layer = network->hidden * (queries + 3.0 * network->widened);
    together(decoded, network, pass, threads,
             layer * network->layer_count * pass->rows * pass->slots);
}

/* Return the bytes of scratch memory that picking needs. */
size_t ms_causal_pick_scratch(const Blocked *output, int32_t rows, int32_t size) {
    (void)size;
    Rows integers;
    Best *bests;
    return 64 + picking_places(output, rows, 0, &integers, &bests);
}

/* Pick the most probable token of each row of `hidden` [R, D], in up to `threads` threads. There is
   no Markov head: `size` is 1. */
void ms_causal_pick(const Blocked *output, const float *hidden, int32_t rows, int32_t size,
                    int64_t *tokens, float *log_probabilities, void *scratch, int32_t threads) {
    (void)size;
    Picking picking = {hidden, tokens, log_probabilities, scratch, rows};
    together(greedy, output, &picking, threads,
             (double)output->inputs * output->outputs * rows);
}

#endif

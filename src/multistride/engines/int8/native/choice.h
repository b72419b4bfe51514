/* The choice of tokens from the states of slots: each the most probable one by itself (`picked`), or
   chained by a Markov head, or the most probable group that a beam finds (`choice.c`).

   Shapes: B sentences, N slots of each, R = B N rows, V vocabulary, W the same up to whole panels,
   M rank of the Markov head. */

#ifndef CHOICE_H
#define CHOICE_H

#include "kernels.h"

/* Weights: [O / 64 rounded up][I / 4][64][4]; of inputs there is a multiple of 4, of outputs one of
   16. An output is the integer sum times its `scale` plus its `offset`, which holds the bias and what
   the zero point of the inputs adds. */
typedef struct {
    const int8_t *weights;
    const float *scale;
    const float *offset;
    int32_t inputs;
    int32_t outputs;
} Matrix;

/* The head that corrects logits by the token before. */
typedef struct {
    const uint8_t *previous; /* [V, M], 128 is zero; none where a model has no head */
    const float *previous_scale;
    Matrix following;
} Markov;

/* What is picked from, and where to. Tokens and their log-probabilities [B, N] are those of the first
   `clean` slots of each sentence, each by itself; `logits` [B, N - clean, W] are those of the slots
   after them, for `ms_chain`. */
typedef struct {
    const void *hidden; /* [B, N, D] */
    int64_t *tokens;
    float *log_probabilities;
    float *logits;
    void *scratch;
    int32_t sentences, slots, clean;
} Picking;

/* Groups that are searched: the best of each sentence goes to `tokens` and `log_probabilities`
   [B, N]. Behind one of the `ends` a group is filled with it, at no cost. */
typedef struct {
    const float *logits; /* [B, N, W] */
    int64_t *tokens;
    float *log_probabilities;
    const int64_t *ends;
    void *scratch;
    int32_t sentences, slots, end_count, beam;
} Searching;

#if KERNELS

/* The largest logit so far, the token it belongs to, and the sum of exponentials below it. */
typedef struct {
    F32 sum;
    float most;
    int32_t token;
} Best;

INLINE Best begun(void) {
    Best best = {f32_zero(), -INFINITY, 0};
    return best;
}

INLINE void searched(Best *best, const F32 logits[4], int32_t first) {
    F32 most = f32_max(f32_max(logits[0], logits[1]),
                       f32_max(logits[2], logits[3]));
    float largest = f32_largest(most);
    if (largest > best->most) {
        F32 every = f32_all(largest);
        uint64_t where = 0;
        for (int part = 3; part >= 0; part--)
            where = where << 16 | mask_bits(f32_equal(logits[part], every));
        best->sum = f32_mul(best->sum, exponential(f32_all(best->most - largest)));
        best->most = largest;
        best->token = first + __builtin_ctzll(where);
    }
    F32 top = f32_all(best->most);
    for (int part = 0; part < 4; part++) { /* what is far below adds nothing */
        Mask near = f32_greater(logits[part], f32_sub(top, f32_all(30)));
        if (mask_bits(near))
            best->sum = f32_add(
                best->sum, f32_only(near, exponential(f32_sub(logits[part], top))));
    }
}

#define CHUNK 1024 /* outputs that are searched by one thread; a multiple of PANEL */
#define STRIPE (4 * ROWS) /* rows that are searched together: they read a panel of weights once */

static inline int32_t chunks_of(int32_t outputs) { return (outputs + CHUNK - 1) / CHUNK; }

/* Choose among the best of `count` chunks. */
INLINE void finished(const Best *chunks, int32_t count, int64_t *token, float *log_probability) {
    Best best = chunks[0];
    for (int32_t index = 1; index < count; index++) {
        const Best *other = chunks + index;
        float top = other->most > best.most ? other->most : best.most;
        F32 less = exponential(f32_all(best.most - top));
        F32 other_less = exponential(f32_all(other->most - top));
        best.sum = f32_mul_add(other->sum, other_less, f32_mul(best.sum, less));
        if (other->most > best.most) best.token = other->token;
        best.most = top;
    }
    *token = best.token;
    *log_probability = -logf(f32_sum(best.sum));
}

/* A chunk of the outputs, and up to STRIPE rows. */
typedef struct {
    int32_t first, end, row, count;
} Stripe;

static Stripe stripe_of(int32_t index, int32_t rows, int32_t outputs) {
    int32_t blocks = (rows + STRIPE - 1) / STRIPE, first = index / blocks * CHUNK;
    int32_t row = index % blocks * STRIPE, left = rows - row;
    Stripe stripe = {first, first + CHUNK < outputs ? first + CHUNK : outputs, row,
                     left < STRIPE ? left : STRIPE};
    return stripe;
}

static int64_t stripes(int32_t rows, int32_t outputs) {
    return (int64_t)((rows + STRIPE - 1) / STRIPE) * chunks_of(outputs);
}

/* Sums of up to ROWS rows and one panel, for a number of rows that is known when compiling. */
INLINE void multiplied(const uint8_t *rows, size_t stride, int count, const int8_t *weights,
                       int32_t inputs, I32 sums[ROWS][4]) {
    UNROLLED for (int row = 0; row < count; row++)
        UNROLLED for (int part = 0; part < 4; part++) sums[row][part] = i32_zero();
    products_added(rows, stride, count, weights, inputs, 1, sums);
}

INLINE F32 scaled(I32 sum, const Matrix *matrix, int32_t output) {
    return f32_mul_add(f32_of_i32(sum), f32_load(matrix->scale + output),
                       f32_load(matrix->offset + output));
}

/* The outputs of up to ROWS rows and one panel. Among other vectors, or indexed by a number that is
   not known when compiling, the sums would not stay in registers, which halves the speed. */
TARGET __attribute__((noinline, unused)) static void
scaled_rows(const uint8_t *rows, int32_t count, const Matrix *matrix, int32_t panel,
            F32 values[ROWS][4]) {
    size_t inputs = matrix->inputs;
    const int8_t *weights = matrix->weights + (size_t)panel * PANEL * inputs;
    I32 sums[ROWS][4];
#define PART(number)                                                 \
    multiplied(rows, inputs, number, weights, matrix->inputs, sums); \
    UNROLLED for (int row = 0; row < number; row++)                  \
        UNROLLED for (int part = 0; part < 4; part++)                \
            values[row][part] = scaled(sums[row][part], matrix, panel * PANEL + 16 * part)
    OF_ROWS(count, PART)
#undef PART
}

/* Compute the outputs of `count` rows and one panel, with the `matrix` of a kind of model. */
typedef void (*Outputs)(const void *rows, int32_t row, int32_t count, const void *matrix,
                        int32_t panel, F32 values[ROWS][4]);

/* Pick tokens by their logits, of which there are `outputs`. */
INLINE void picked(const Picking *picking, Outputs outputs_of, const void *rows, const void *matrix,
                   int32_t outputs, Best *bests, const Team *team, int32_t me) {
    int32_t slots = picking->slots, clean = picking->clean, count = picking->sentences * slots;
    int32_t chunks = chunks_of(outputs);
    Range range = part_of(team, me, stripes(count, outputs));
    for (int32_t index = range.first; index < range.end; index++) {
        Stripe stripe = stripe_of(index, count, outputs);
        Best best[STRIPE];
        for (int32_t each = 0; each < stripe.count; each++) best[each] = begun();
        for (int32_t first = stripe.first; first < stripe.end; first += PANEL)
            for (int32_t next = 0; next < stripe.count; next += ROWS) {
                int32_t left = stripe.count - next, row = stripe.row + next;
                F32 values[ROWS][4];
                outputs_of(rows, row, left < ROWS ? left : ROWS, matrix, first / PANEL, values);
                for (int32_t each = 0; each < left && each < ROWS; each++, row++) {
                    size_t place = (size_t)(row / slots) * (slots - clean) + row % slots - clean;
                    if (row % slots < clean)
                        searched(best + next + each, values[each], first);
                    else for (int part = 0; part < 4; part++)
                        f32_storeu(picking->logits + place * outputs + first + 16 * part,
                                   values[each][part]);
                }
            }
        for (int32_t each = 0; each < stripe.count; each++)
            bests[(size_t)(stripe.row + each) * chunks + stripe.first / CHUNK] = best[each];
    }
    meet(team);
    range = part_of(team, me, count);
    for (int32_t row = range.first; row < range.end; row++)
        if (row % slots < clean)
            finished(bests + (size_t)row * chunks, chunks, picking->tokens + row,
                     picking->log_probabilities + row);
    meet(team);
}

#endif
#endif

/* Tokens of groups, each corrected by the one before: what `chain.py` builds as a graph. */

#include "choice.h"

#if KERNELS

INLINE void corrected(const Matrix *following, int32_t first, int count, __m512i sums[ROWS][4],
                      const float *factors, const float *plain, size_t stride, Best *best) {
    for (int row = 0; row < count; row++) {
        __m512 logits[4], factor = _mm512_set1_ps(factors[row]);
        for (int part = 0; part < 4; part++) {
            int32_t output = first + 16 * part;
            logits[part] = _mm512_fmadd_ps(factor, scaled(sums[row][part], following, output),
                                           _mm512_loadu_ps(plain + row * stride + output));
        }
        searched(best + row, logits, first);
    }
}

/* Scratch memory: the best of every chunk [B, chunks], and of the tokens before
   their rows in the table [B, M] and the scales of those [B]. */
typedef struct {
    Best *bests;
    uint8_t *before;
    float *factors;
    size_t bytes;
} Links;

static inline Links links_of(const Markov *markov, int32_t sentences, void *scratch) {
    char *memory = (char *)aligned((size_t)scratch);
    int32_t chunks = chunks_of(markov->following.outputs);
    Links links = {0};
    links.bests = taken(memory, &links.bytes, (size_t)sentences * chunks * sizeof(Best));
    links.before = taken(memory, &links.bytes, (size_t)sentences * markov->following.inputs);
    links.factors = taken(memory, &links.bytes, 4 * (size_t)sentences);
    return links;
}

/* Pick the tokens of slots after the first of groups, each given the one before. */
TARGET static void chained(const Team *team, int32_t me) {
    const Markov *markov = team->weights;
    const Picking *picking = team->arrays;
    const Matrix *following = &markov->following;
    int32_t sentences = picking->sentences, size = picking->slots, rank = following->inputs;
    int32_t width = following->outputs, chunks = chunks_of(width);
    size_t stride = (size_t)(size - 1) * width;
    const float *logits = picking->logits;
    Links links = links_of(markov, sentences, picking->scratch);
    for (int32_t slot = 1; slot < size; slot++, logits += width) {
        int64_t *tokens = picking->tokens + slot;
        Range range = part_of(team, me, sentences);
        for (int32_t row = range.first; row < range.end; row++) {
            int64_t token = tokens[(size_t)row * size - 1];
            memcpy(links.before + (size_t)row * rank, markov->previous + token * rank, rank);
            links.factors[row] = markov->previous_scale[token];
        }
        meet(team);
        range = part_of(team, me, stripes(sentences, width));
        for (int32_t index = range.first; index < range.end; index++) {
            Stripe stripe = stripe_of(index, sentences, width);
            Best best[ROWS];
            for (int32_t row = 0; row < ROWS; row++) best[row] = begun();
            const float *plain = logits + stripe.row * stride;
            const uint8_t *some = links.before + (size_t)stripe.row * rank;
            for (int32_t first = stripe.first; first < stripe.end; first += PANEL) {
                const int8_t *weights = following->weights + (size_t)first * rank;
                __m512i sums[ROWS][4];
#define PART(number)                                      \
    multiplied(some, rank, number, weights, rank, sums);  \
    corrected(following, first, number, sums, links.factors + stripe.row, plain, stride, best)
                OF_ROWS(stripe.count, PART)
#undef PART
            }
            for (int32_t row = 0; row < stripe.count; row++)
                links.bests[(size_t)(stripe.row + row) * chunks + stripe.first / CHUNK] = best[row];
        }
        meet(team);
        range = part_of(team, me, sentences);
        for (int32_t row = range.first; row < range.end; row++)
            finished(links.bests + (size_t)row * chunks, chunks, tokens + (size_t)row * size,
                     picking->log_probabilities + (size_t)row * size + slot);
        meet(team);
    }
}

/* Return the bytes of scratch memory that chaining needs. */
size_t ms_chain_scratch(const Markov *markov, int32_t sentences) {
    return 64 + links_of(markov, sentences, 0).bytes;
}

/* Pick the tokens of groups [B, N] after the first, which are given: each by its `logits`
   [B, N - 1, W] and the token before; in up to `threads` threads. `hidden` and `clean` are not read. */
void ms_chain(const Markov *markov, const Picking *picking, int32_t threads) {
    double matrix = (double)markov->following.inputs * markov->following.outputs;
    together(chained, markov, picking, threads, matrix * picking->sentences * picking->slots);
}

#endif

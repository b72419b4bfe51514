/* Tokens of groups, each corrected by the one before: what `chain.py` builds as a graph. */

#include "choice.h"

#if KERNELS

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
            Best best[STRIPE];
            for (int32_t row = 0; row < stripe.count; row++) best[row] = begun();
            for (int32_t first = stripe.first; first < stripe.end; first += PANEL)
                for (int32_t next = 0; next < stripe.count; next += ROWS) {
                    int32_t left = stripe.count - next, row = stripe.row + next;
                    const uint8_t *some = links.before + (size_t)row * rank;
                    F32 values[ROWS][4];
                    scaled_rows(some, left < ROWS ? left : ROWS, following, first / PANEL, values);
                    for (int32_t each = 0; each < left && each < ROWS; each++, row++) {
                        F32 factor = f32_all(links.factors[row]);
                        const float *plain = logits + row * stride + first;
                        for (int part = 0; part < 4; part++)
                            values[each][part] = f32_mul_add(
                                factor, values[each][part], f32_loadu(plain + 16 * part));
                        searched(best + next + each, values[each], first);
                    }
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
   [B, N - 1, W] and the token before; in up to `threads` threads. Nothing else is read. */
void ms_chain(const Markov *markov, const Picking *picking, int32_t threads) {
    double matrix = (double)markov->following.inputs * markov->following.outputs;
    together(chained, markov, picking, threads, matrix * picking->sentences * picking->slots);
}

#endif

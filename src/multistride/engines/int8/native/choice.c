/* Tokens of groups, each corrected by the one before: what `chain.py` builds as a graph, and the
   search of groups by a beam (`decode/markov.py`). */

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

#define WIDEST 8 /* groups of a beam (`library.WIDEST`) */
#define NEVER (-1e30f) /* tokens with lower logits are barred, or beyond the vocabulary */

/* What `Best` holds, and the largest logits of a beam, the larger and then the first before others. */
typedef struct {
    Best best;
    float logits[WIDEST];
    int32_t tokens[WIDEST];
} Top;

/* Groups of a sentence as far as they are picked; after them, best first, come tokens [beam, N] and
   their log-probabilities. */
typedef struct {
    float sums[WIDEST];
    int32_t counts[WIDEST]; /* tokens up to the end of the text */
    uint8_t over[WIDEST];
} Groups;

/* Scratch memory of a search: the tops of every chunk [B beam, chunks], of the tokens before their
   rows in the table [B beam, M] and the scales of those, the groups [2, B] and their tokens and
   log-probabilities [2, B, beam, N]. */
typedef struct {
    Top *tops;
    uint8_t *before;
    float *factors;
    Groups *groups;
    int64_t *tokens;
    float *values;
    size_t bytes;
} Found;

static inline Found found_of(const Markov *markov, int32_t sentences, int32_t slots, int32_t beam,
                             void *scratch) {
    char *memory = (char *)aligned((size_t)scratch);
    size_t rows = (size_t)sentences * beam, chunks = chunks_of(markov->following.outputs);
    Found found = {0};
    found.tops = taken(memory, &found.bytes, rows * chunks * sizeof(Top));
    found.before = taken(memory, &found.bytes, rows * markov->following.inputs);
    found.factors = taken(memory, &found.bytes, 4 * rows);
    found.groups = taken(memory, &found.bytes, 2 * sentences * sizeof(Groups));
    found.tokens = taken(memory, &found.bytes, 2 * rows * slots * sizeof(int64_t));
    found.values = taken(memory, &found.bytes, 2 * rows * slots * sizeof(float));
    return found;
}

INLINE Top nothing(void) {
    Top top = {begun(), {0}, {0}};
    for (int place = 0; place < WIDEST; place++) top.logits[place] = NEVER;
    return top;
}

/* Put a token where its logit belongs; return 0 if it is none of the largest. */
static int placed(float *logits, int32_t *tokens, int32_t beam, float logit, int32_t token) {
    int32_t place = beam - 1;
    if (!(logit > logits[place])) return 0;
    for (; place > 0 && logit > logits[place - 1]; place--) {
        logits[place] = logits[place - 1];
        tokens[place] = tokens[place - 1];
    }
    logits[place] = logit;
    tokens[place] = token;
    return 1;
}

INLINE void noted(Top *top, const F32 logits[4], int32_t first, int32_t beam) {
    searched(&top->best, logits, first);
    F32 least = f32_all(top->logits[beam - 1]);
    for (int part = 0; part < 4; part++) {
        uint64_t where = mask_bits(f32_greater(logits[part], least));
        if (!where) continue;
        float some[16];
        f32_storeu(some, logits[part]);
        for (; where; where &= where - 1) {
            int lane = __builtin_ctzll(where);
            placed(top->logits, top->tokens, beam, some[lane], first + 16 * part + lane);
        }
        least = f32_all(top->logits[beam - 1]);
    }
}

/* Join the tops of `count` chunks in the first; return the logarithm of the sum of exponentials. */
INLINE float joined_tops(Top *chunks, int32_t count, int32_t beam) {
    Best best = chunks[0].best;
    for (int32_t index = 1; index < count; index++) {
        const Top *other = chunks + index;
        float top = other->best.most > best.most ? other->best.most : best.most;
        F32 less = exponential(f32_all(best.most - top));
        F32 other_less = exponential(f32_all(other->best.most - top));
        best.sum = f32_mul_add(other->best.sum, other_less, f32_mul(best.sum, less));
        best.most = top;
        for (int32_t place = 0; place < beam; place++)
            if (!placed(chunks->logits, chunks->tokens, beam, other->logits[place],
                        other->tokens[place]))
                break;
    }
    return best.most + logf(f32_sum(best.sum));
}

static int ends_text(const Searching *searching, int64_t token) {
    for (int32_t index = 0; index < searching->end_count; index++)
        if (searching->ends[index] == token) return 1;
    return 0;
}

/* Continue the groups of a sentence by the token of one more slot and keep the best of them. */
TARGET static void grown(const Searching *searching, const Found *found, int32_t sentence,
                         int32_t slot, int32_t chunks) {
    int32_t beam = searching->beam, slots = searching->slots, parents = slot ? beam : 1;
    size_t old = (size_t)(slot % 2) * searching->sentences + sentence;
    size_t new = (size_t)((slot + 1) % 2) * searching->sentences + sentence;
    const Groups *before = found->groups + old;
    Groups *after = found->groups + new;
    float ranks[WIDEST], values[WIDEST * WIDEST];
    int32_t places[WIDEST], tokens[WIDEST * WIDEST];
    for (int32_t place = 0; place < beam; place++) ranks[place] = -INFINITY, places[place] = 0;
    for (int32_t parent = 0; parent < parents; parent++) {
        if (slot && before->over[parent]) {
            values[parent * beam] = 0;
            placed(ranks, places, beam, before->sums[parent] / (float)before->counts[parent],
                   parent * beam);
            continue;
        }
        Top *top = found->tops + ((size_t)sentence * parents + parent) * chunks;
        float all = joined_tops(top, chunks, beam), sum = slot ? before->sums[parent] : 0;
        float count = (float)(slot ? before->counts[parent] + 1 : 1);
        for (int32_t each = 0; each < beam; each++) {
            int32_t place = parent * beam + each;
            values[place] = top->logits[each] - all;
            tokens[place] = top->tokens[each];
            placed(ranks, places, beam, (sum + values[place]) / count, place);
        }
    }
    for (int32_t place = 0; place < beam; place++) {
        int32_t parent = places[place] / beam, over = slot && before->over[parent];
        size_t from = (old * beam + parent) * slots, to = (new * beam + place) * slots;
        float value = values[places[place]];
        for (int32_t earlier = 0; earlier < slot; earlier++) {
            found->tokens[to + earlier] = found->tokens[from + earlier];
            found->values[to + earlier] = found->values[from + earlier];
        }
        int64_t token = over ? found->tokens[from + slot - 1] : tokens[places[place]];
        found->tokens[to + slot] = token;
        found->values[to + slot] = value;
        after->sums[place] = slot ? before->sums[parent] + value : value;
        after->counts[place] = slot ? before->counts[parent] + !over : 1;
        after->over[place] = (uint8_t)(over || ends_text(searching, token));
    }
}

/* Search the most probable group of every sentence by its log-probability per token. */
TARGET static void beamed(const Team *team, int32_t me) {
    const Markov *markov = team->weights;
    const Searching *searching = team->arrays;
    const Matrix *following = &markov->following;
    int32_t sentences = searching->sentences, slots = searching->slots, beam = searching->beam;
    int32_t rank = following->inputs, width = following->outputs, chunks = chunks_of(width);
    Found found = found_of(markov, sentences, slots, beam, searching->scratch);
    for (int32_t slot = 0; slot < slots; slot++) {
        int32_t each_has = slot ? beam : 1, rows = sentences * each_has;
        size_t half = (size_t)(slot % 2) * sentences * beam * slots;
        Range range = part_of(team, me, slot ? rows : 0);
        for (int32_t row = range.first; row < range.end; row++) {
            int64_t token = found.tokens[half + (size_t)row * slots + slot - 1];
            memcpy(found.before + (size_t)row * rank, markov->previous + token * rank, rank);
            found.factors[row] = markov->previous_scale[token];
        }
        meet(team);
        range = part_of(team, me, stripes(rows, width));
        for (int32_t index = range.first; index < range.end; index++) {
            Stripe stripe = stripe_of(index, rows, width);
            Top top[STRIPE];
            for (int32_t row = 0; row < stripe.count; row++) top[row] = nothing();
            for (int32_t first = stripe.first; first < stripe.end; first += PANEL)
                for (int32_t next = 0; next < stripe.count; next += ROWS) {
                    int32_t left = stripe.count - next, row = stripe.row + next;
                    const uint8_t *some = found.before + (size_t)row * rank;
                    F32 values[ROWS][4];
                    if (slot)
                        scaled_rows(some, left < ROWS ? left : ROWS, following, first / PANEL,
                                    values);
                    for (int32_t each = 0; each < left && each < ROWS; each++, row++) {
                        size_t place = (size_t)(row / each_has) * slots + slot;
                        const float *plain = searching->logits + place * width + first;
                        for (int part = 0; part < 4; part++) {
                            F32 own = f32_loadu(plain + 16 * part);
                            values[each][part] =
                                slot ? f32_mul_add(f32_all(found.factors[row]), values[each][part], own)
                                     : own;
                        }
                        noted(top + next + each, values[each], first, beam);
                    }
                }
            for (int32_t row = 0; row < stripe.count; row++)
                found.tops[(size_t)(stripe.row + row) * chunks + stripe.first / CHUNK] = top[row];
        }
        meet(team);
        range = part_of(team, me, sentences);
        for (int32_t sentence = range.first; sentence < range.end; sentence++)
            grown(searching, &found, sentence, slot, chunks);
        meet(team);
    }
    Range range = part_of(team, me, sentences);
    for (int32_t sentence = range.first; sentence < range.end; sentence++) {
        size_t from = (size_t)((slots % 2) * sentences + sentence) * beam * slots;
        size_t to = (size_t)sentence * slots;
        memcpy(searching->tokens + to, found.tokens + from, slots * sizeof(int64_t));
        memcpy(searching->log_probabilities + to, found.values + from, slots * sizeof(float));
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

/* Return the bytes of scratch memory that a search needs. */
size_t ms_search_scratch(const Markov *markov, const Searching *searching) {
    const Searching *each = searching;
    return 64 + found_of(markov, each->sentences, each->slots, each->beam, 0).bytes;
}

/* Search groups (`Searching`), in up to `threads` threads. */
void ms_search(const Markov *markov, const Searching *searching, int32_t threads) {
    double matrix = (double)markov->following.inputs * markov->following.outputs;
    double rows = (double)searching->sentences * searching->beam;
    together(beamed, markov, searching, threads, matrix * rows * searching->slots);
}

#endif

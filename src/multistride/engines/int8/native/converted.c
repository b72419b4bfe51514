/* Models of every layout that is converted (Llama, Gemma, GPT-2, Marian, BART, T5 and others): a pass
   of the encoder or decoder and the choice of tokens, with activations that are rounded row by row or
   in blocks of 64 (`linear.h`). */

#include "choice.h"
#include "linear.h"

/* A normalisation: LayerNorm, RMSNorm where there is no bias, and none where there is no weight. */
typedef struct {
    const float *weight, *bias;
} Around;

/* The normalisations of what a sublayer reads, of what it returns, and of the sum of both. */
typedef struct {
    Around before, of_output, after;
} Norms;

typedef struct {
    Norms attention, cross, forward;
    Around query_norm, key_norm;                                /* [E] of each head, or all [H E] */
    Linear input, output, query, cross_output, widen, narrow; /* `widen`: the gate, if any, first */
    int32_t slides;                                             /* it has the sliding window */
} ConvertedLayer;

typedef enum { RELU, GELU, GELU_TANH, SILU } Activation;

typedef struct {
    const int8_t *embedding; /* [V, D] */
    const float *embedding_scale;
    const float *positions;     /* [P, D], or none */
    const float *starts;        /* [K, D]: added to start symbols before the first, or none */
    const float *reaches;       /* [K, D], of a decoder */
    const float *cosine, *sine; /* [P, E / 2], or none */
    const float *sliding_cosine, *sliding_sine; /* of layers with the window, if these have any */
    const float *distances;                     /* [H, 2 F + 1] (`Attention`), or none */
    Around embedding_norm, final_norm;
    const ConvertedLayer *layers;
    const Linear *pairs; /* of an encoder: keys and values for each layer of the decoder */
    float epsilon, cap;
    int32_t layer_count, pair_count, hidden, widened, heads, groups, width;
    int32_t token_count, position_count, start_count, reach_count, rotation_count;
    int32_t block;      /* inputs that share a scale; 0: all of a row */
    int32_t activation; /* `Activation` */
    int32_t gated, parallel, all_heads, window, furthest;
} Converted;

/* What tokens are picked by; `barred` [W] is added to logits where these are capped. */
typedef struct {
    Linear output;
    Markov markov;
    const float *barred;
    float cap;
    int32_t block;
} ConvertedPicker;

#if KERNELS

/* ---- Normalisation ---- */

/* Normalise a row, which may be written in its own place, or copy it. */
INLINE void normed_row(const Around *norm, float epsilon, const float *from, int32_t width,
                       float *to) {
    F32 square = f32_zero(), mean = f32_zero();
    if (!norm->weight) {
        if (from != to) memcpy(to, from, 4 * (size_t)width);
        return;
    }
    if (norm->bias) {
        F32 sum = f32_zero();
        for (int32_t place = 0; place < width; place += 16)
            sum = f32_add(sum, f32_loadu(from + place));
        mean = f32_all(f32_sum(sum) / (float)width);
    }
    for (int32_t place = 0; place < width; place += 16) {
        F32 off = f32_sub(f32_loadu(from + place), mean);
        square = f32_mul_add(off, off, square);
    }
    float variance = f32_sum(square) / (float)width;
    F32 factor = f32_all(1.0f / sqrtf(variance + epsilon));
    for (int32_t place = 0; place < width; place += 16) {
        F32 off = f32_mul(f32_sub(f32_loadu(from + place), mean), factor);
        F32 bias = norm->bias ? f32_loadu(norm->bias + place) : f32_zero();
        f32_storeu(to + place, f32_mul_add(off, f32_loadu(norm->weight + place),
                                           bias));
    }
}

/* ---- A pass ---- */

/* Scratch memory of a pass. */
typedef struct {
    float *hidden;         /* [R, D] */
    float *parts;          /* [R, (H + 2 G) E, or the feed-forward width, twice if gated] */
    float *mixed;          /* [R, H E] */
    float *aside;          /* [R, D]: what a sublayer returns, where it is not added at once */
    float *keys, *values;  /* [B, G, S, E], of an encoder */
    int32_t *places;       /* [R]: the tokens of the sources among their padding */
    Rows rows;             /* of the widest input */
    float *scores;         /* [threads, `attention_scratch` of C or S] */
    float *row;            /* [threads, the widest input] */
    size_t bytes, each, widest;
} Scratch;

static size_t largest(size_t one, size_t other) { return one > other ? one : other; }

static Scratch scratch_of(const Converted *network, const Pass *pass, int32_t threads) {
    size_t count = (size_t)pass->rows * pass->slots, hidden = network->hidden;
    size_t queries = (size_t)network->heads * network->width;
    size_t keys = (size_t)network->groups * network->width, wide = network->widened;
    size_t pairs = network->pair_count ? 4 * count * keys : 0;
    char *memory = (char *)aligned((size_t)pass->scratch);
    Scratch scratch;
    scratch.bytes = 0;
    scratch.each = attention_scratch(largest(pass->room, pass->source));
    scratch.widest = largest(largest(hidden, queries), wide);
    scratch.hidden = taken(memory, &scratch.bytes, 4 * count * hidden);
    scratch.parts = taken(memory, &scratch.bytes,
                          4 * count * largest(queries + 2 * keys, (1 + network->gated) * wide));
    scratch.mixed = taken(memory, &scratch.bytes, 4 * count * queries);
    scratch.aside = taken(memory, &scratch.bytes, 4 * count * hidden);
    scratch.keys = taken(memory, &scratch.bytes, pairs);
    scratch.values = taken(memory, &scratch.bytes, pairs);
    scratch.places = taken(memory, &scratch.bytes, pairs ? 4 * count : 0);
    scratch.rows.block = network->block;
    scratch.rows.integers = taken(memory, &scratch.bytes, count * scratch.widest);
    size_t blocks = network->block ? scratch.widest / SMALL_BLOCK : 1;
    scratch.rows.scale = taken(memory, &scratch.bytes, 4 * count * blocks);
    scratch.rows.offset = taken(memory, &scratch.bytes, 4 * count * blocks);
    scratch.rows.sum = taken(memory, &scratch.bytes, 4 * count * blocks);
    scratch.scores = taken(memory, &scratch.bytes, 4 * scratch.each * threads);
    scratch.row = taken(memory, &scratch.bytes, 4 * aligned(scratch.widest) * threads);
    return scratch;
}

/* Round the states that the `matrix` of a sublayer reads, normalised before where the model does so. */
TARGET static void entered(const Converted *network, const Around *norm, const Linear *matrix,
                           const Scratch *scratch, int32_t count, const Team *team, int32_t me) {
    int32_t width = network->hidden;
    Rows rows = rows_for(&scratch->rows, matrix);
    float *one = scratch->row + me * aligned(scratch->widest);
    Range range = part_of(team, me, count);
    for (int32_t row = range.first; row < range.end; row++) {
        const float *state = scratch->hidden + (size_t)row * width;
        if (norm->weight) normed_row(norm, network->epsilon, state, width, one);
        rounded_row(norm->weight ? one : state, width, &rows, row);
    }
    meet(team);
}

INLINE void summed_row(float *to, const float *more, int32_t width) {
    for (int32_t place = 0; place < width; place += 16)
        f32_store(to + place,
                  f32_add(f32_load(to + place), f32_loadu(more + place)));
}

/* Add what a sublayer returns to the states, with the normalisations that follow it. */
TARGET static void left(const Converted *network, const Norms *norms, const Linear *matrix,
                        const Scratch *scratch, int32_t count, const Team *team, int32_t me) {
    int32_t width = network->hidden;
    int aside = norms->of_output.weight != 0;
    if (aside)
        stored(matrix, &scratch->rows, count, scratch->aside, team, me);
    else
        added(matrix, &scratch->rows, count, scratch->hidden, team, me);
    if (!aside && !norms->after.weight) return;
    Range range = part_of(team, me, count);
    for (int32_t row = range.first; row < range.end; row++) {
        float *state = scratch->hidden + (size_t)row * width;
        float *more = scratch->aside + (size_t)row * width;
        if (aside) {
            normed_row(&norms->of_output, network->epsilon, more, width, more);
            summed_row(state, more, width);
        }
        normed_row(&norms->after, network->epsilon, state, width, state);
    }
    meet(team);
}

/* Embed all tokens, or those at `count` places. */
TARGET static void embedded(const Converted *network, const Pass *pass, const int32_t *places,
                            int32_t count, float *hidden, const Team *team, int32_t me) {
    int32_t width = network->hidden;
    Range range = part_of(team, me, count);
    for (int32_t index = range.first; index < range.end; index++) {
        int32_t row = places ? places[index] : index;
        float *to = hidden + (size_t)index * width;
        int64_t token = within(pass->token[row], network->token_count);
        int64_t position = pass->position ? pass->position[row] : row % pass->slots;
        const int8_t *entry = network->embedding + (size_t)token * width;
        F32 scale = f32_all(network->embedding_scale[token]);
        for (int32_t part = 0; part < width; part += 16) {
            I32 whole = i32_of_bytes(entry + part);
            f32_store(to + part, f32_mul(f32_of_i32(whole), scale));
        }
        if (network->positions)
            summed_row(to, network->positions + within(position, network->position_count) * width,
                       width);
        if (network->starts)
            summed_row(to, network->starts +
                               within(pass->reach[row] - position - 1, network->start_count) * width,
                       width);
        if (network->reaches)
            summed_row(to, network->reaches +
                               within(pass->reach[row], network->reach_count) * width, width);
        normed_row(&network->embedding_norm, network->epsilon, to, width, to);
    }
    meet(team);
}

/* Turn a head: its halves are the coordinates of points. */
INLINE void turned(float *head, const float *cosine, const float *sine, int32_t width) {
    float *other = head + width / 2;
    for (int32_t place = 0; place < width / 2; place += 16) {
        int32_t some = width / 2 - place;
        Mask there = mask_first(some);
        F32 x = f32_load_some(there, head + place);
        F32 y = f32_load_some(there, other + place);
        F32 c = f32_load_some(there, cosine + place);
        F32 s = f32_load_some(there, sine + place);
        f32_store_some(head + place, there,
                       f32_mul_sub(x, c, f32_mul(y, s)));
        f32_store_some(other + place, there,
                       f32_mul_add(y, c, f32_mul(x, s)));
    }
}

/* Normalise the queries and keys of a row, or each of their heads. */
INLINE void normed_heads(const Converted *network, const ConvertedLayer *layer, float *row) {
    int32_t width = network->width, queries = network->heads * width;
    int32_t keys = network->groups * width, each = network->all_heads ? queries : width;
    for (int32_t place = 0; layer->query_norm.weight && place < queries; place += each)
        normed_row(&layer->query_norm, network->epsilon, row + place, each, row + place);
    each = network->all_heads ? keys : width;
    for (int32_t place = 0; layer->key_norm.weight && place < keys; place += each)
        normed_row(&layer->key_norm, network->epsilon, row + queries + place, each,
                   row + queries + place);
}

/* Normalise, where the model does, and turn the queries and keys of the slots of `over`. */
TARGET static void placed(const Converted *network, const ConvertedLayer *layer, const Pass *pass,
                          const Attention *over, float *parts, const Team *team, int32_t me) {
    int32_t width = network->width, heads = network->heads + network->groups;
    int own = layer->slides && network->sliding_cosine;
    const float *cosine = own ? network->sliding_cosine : network->cosine;
    const float *sine = own ? network->sliding_sine : network->sine;
    Range range = part_of(team, me, over->count);
    if (!cosine && !layer->query_norm.weight) return;
    for (int32_t index = range.first; index < range.end; index++) {
        int32_t where = over->places ? over->places[index] : index;
        float *row = parts + index * over->stride;
        normed_heads(network, layer, row);
        if (!cosine) continue;
        int64_t position = pass->position ? pass->position[where] : where % over->slots;
        size_t place = (size_t)within(position, network->rotation_count) * (width / 2);
        for (int32_t head = 0; head < heads; head++)
            turned(row + (size_t)head * width, cosine + place, sine + place, width);
    }
    meet(team);
}

/* Return x times the share of a normal distribution below it (Abramowitz and Stegun, 7.1.26). */
INLINE F32 gelu(F32 x) {
    F32 half = f32_all(0.5f), one = f32_all(1.0f);
    F32 size = f32_mul(f32_abs(x), f32_all(0.70710678f));
    F32 t = f32_div(one, f32_mul_add(size, f32_all(0.3275911f), one));
    F32 y = f32_all(1.061405429f);
    y = f32_mul_add(y, t, f32_all(-1.453152027f));
    y = f32_mul_add(y, t, f32_all(1.421413741f));
    y = f32_mul_add(y, t, f32_all(-0.284496736f));
    y = f32_mul(f32_mul_add(y, t, f32_all(0.254829592f)), t);
    F32 square = f32_mul(size, size);
    y = f32_mul(f32_mul(y, half),
                exponential(f32_sub(f32_zero(), square)));
    Mask negative = f32_less(x, f32_zero());
    return f32_mul(x, f32_where(negative, y, f32_sub(one, y)));
}

INLINE F32 activated(int32_t activation, F32 x) {
    switch (activation) {
    case RELU: return f32_max(x, f32_zero());
    case GELU: return gelu(x);
    case GELU_TANH: { /* tanh by a logistic function of twice as much */
        F32 cube = f32_mul(f32_mul(x, x), x);
        F32 inner = f32_mul_add(cube, f32_all(0.044715f), x);
        return gated_by(x, f32_mul(inner, f32_all(1.59576912f)));
    }
    default: return gated_by(x, x);
    }
}

/* Apply the nonlinearity to what was widened, multiply what it gates, and round it for a matrix. */
TARGET static void bent(const Converted *network, const Linear *matrix, const Scratch *scratch,
                        int32_t count, const Team *team, int32_t me) {
    int32_t width = network->widened, gated = network->gated;
    Rows rows = rows_for(&scratch->rows, matrix);
    float *one = scratch->row + me * aligned(scratch->widest);
    Range range = part_of(team, me, count);
    for (int32_t row = range.first; row < range.end; row++) {
        const float *first = scratch->parts + (size_t)row * (1 + gated) * width;
        for (int32_t place = 0; place < width; place += 16) {
            F32 value = activated(network->activation, f32_load(first + place));
            if (gated) value = f32_mul(value, f32_load(first + width + place));
            f32_store(one + place, value);
        }
        rounded_row(one, width, &rows, row);
    }
    meet(team);
}

static Attention attention_of(const Converted *network, const Pass *pass, const Scratch *scratch) {
    Attention over = {0};
    over.queries = scratch->parts;
    over.count = pass->rows * pass->slots;
    over.slots = pass->slots;
    over.heads = network->heads;
    over.groups = network->groups;
    over.width = network->width;
    over.cap = network->cap;
    return over;
}

/* Attend, and round what attention returns for a matrix. */
TARGET static void mixed_rows(const Attention *over, const Linear *matrix, const Scratch *scratch,
                              const Team *team, int32_t me) {
    Mixed to = {0, scratch->mixed, 0};
    attended(over, team, me, scratch->scores + me * scratch->each, &to);
    meet(team);
    rounded(scratch->mixed, over->count, matrix, &scratch->rows, team, me);
}

/* Self-attention; keys and values join those in `keys` and `values`. */
TARGET static void attended_self(const Converted *network, const ConvertedLayer *layer,
                                 const Pass *pass, const Scratch *scratch, Attention over,
                                 float *keys, float *values, const Team *team, int32_t me) {
    entered(network, &layer->attention.before, &layer->input, scratch, over.count, team, me);
    stored(&layer->input, &scratch->rows, over.count, scratch->parts, team, me);
    placed(network, layer, pass, &over, scratch->parts, team, me);
    kept(&over, team, me, scratch->parts + network->heads * network->width, pass->start, keys,
         values);
    meet(team);
    over.keys = keys;
    over.values = values;
    over.window = layer->slides ? network->window : 0;
    mixed_rows(&over, &layer->output, scratch, team, me);
    if (network->parallel)
        stored(&layer->output, &scratch->rows, over.count, scratch->aside, team, me);
    else
        left(network, &layer->attention, &layer->output, scratch, over.count, team, me);
}

/* The feed-forward layer; attention beside it has left its output aside. */
TARGET static void forward(const Converted *network, const ConvertedLayer *layer,
                           const Scratch *scratch, int32_t count, const Team *team, int32_t me) {
    int32_t width = network->hidden;
    entered(network, &layer->forward.before, &layer->widen, scratch, count, team, me);
    stored(&layer->widen, &scratch->rows, count, scratch->parts, team, me);
    bent(network, &layer->narrow, scratch, count, team, me);
    left(network, &layer->forward, &layer->narrow, scratch, count, team, me);
    Range range = part_of(team, me, network->parallel ? count : 0);
    for (int32_t row = range.first; row < range.end; row++)
        summed_row(scratch->hidden + (size_t)row * width, scratch->aside + (size_t)row * width,
                   width);
    if (network->parallel) meet(team);
}

/* Compute the states of new slots, whose keys and values join the others. */
TARGET static void decoded(const Team *team, int32_t me) {
    const Converted *network = team->weights;
    const Pass *pass = team->arrays;
    int32_t count = pass->rows * pass->slots, width = network->hidden;
    int32_t queries = network->heads * network->width;
    Scratch scratch = scratch_of(network, pass, team->threads);
    Attention text = attention_of(network, pass, &scratch), source = text;
    text.stride = queries + 2 * (size_t)network->groups * network->width;
    text.bias = pass->bias;
    text.bias_rows = pass->bias_rows;
    text.most = pass->room;
    text.position = pass->position;
    text.place = pass->place;
    text.distances = network->distances;
    text.furthest = network->furthest;
    source.stride = queries;
    source.real = pass->real;
    source.most = pass->source;
    Range range = part_of(team, me, pass->place ? count : 0);
    for (int32_t row = range.first; row < range.end; row++) {
        size_t sentence = row / pass->slots;
        size_t slot = (size_t)pass->start[sentence] + row % pass->slots;
        pass->place[sentence * pass->room + slot] = (float)pass->position[row];
    }
    embedded(network, pass, 0, count, scratch.hidden, team, me);
    for (int32_t index = 0; index < network->layer_count; index++) {
        const ConvertedLayer *layer = network->layers + index;
        attended_self(network, layer, pass, &scratch, text, pass->keys[index], pass->values[index],
                      team, me);
        if (layer->query.weights) {
            entered(network, &layer->cross.before, &layer->query, &scratch, count, team, me);
            stored(&layer->query, &scratch.rows, count, scratch.parts, team, me);
            source.keys = pass->cross_keys[index];
            source.values = pass->cross_values[index];
            mixed_rows(&source, &layer->cross_output, &scratch, team, me);
            left(network, &layer->cross, &layer->cross_output, &scratch, count, team, me);
        }
        forward(network, layer, &scratch, count, team, me);
    }
    range = part_of(team, me, count);
    for (int32_t row = range.first; row < range.end; row++)
        normed_row(&network->final_norm, network->epsilon, scratch.hidden + (size_t)row * width,
                   width, (float *)pass->hidden + (size_t)row * width);
    meet(team);
}

/* Compute the keys and values of sources for every layer of the decoder; those of padding, which
   nothing reads, are left as they are. */
TARGET static void encoded(const Team *team, int32_t me) {
    const Converted *network = team->weights;
    const Pass *pass = team->arrays;
    int32_t count = 0, all = pass->rows * pass->slots;
    size_t queries = (size_t)network->heads * network->width;
    Scratch scratch = scratch_of(network, pass, team->threads);
    Attention source = attention_of(network, pass, &scratch);
    for (int32_t place = 0; place < all; place++) count += pass->real[place] != 0;
    for (int32_t place = 0, next = 0; me == 0 && place < all; place++)
        if (pass->real[place]) scratch.places[next++] = place;
    meet(team);
    source.places = scratch.places;
    source.count = count;
    source.real = pass->real;
    source.most = pass->source;
    source.stride = 3 * queries;
    source.distances = network->distances;
    source.furthest = network->furthest;
    embedded(network, pass, scratch.places, count, scratch.hidden, team, me);
    for (int32_t index = 0; index < network->layer_count; index++) {
        const ConvertedLayer *layer = network->layers + index;
        attended_self(network, layer, pass, &scratch, source, scratch.keys, scratch.values, team,
                      me);
        forward(network, layer, &scratch, count, team, me);
    }
    entered(network, &network->final_norm, network->pairs, &scratch, count, team, me);
    source.stride = 2 * queries;
    for (int32_t index = 0; index < network->pair_count; index++) {
        stored(network->pairs + index, &scratch.rows, count, scratch.parts, team, me);
        kept(&source, team, me, scratch.parts, 0, pass->cross_keys[index],
             pass->cross_values[index]);
        meet(team);
    }
}

/* ---- The choice of tokens ---- */

TARGET static void outputs_of(const void *rows, int32_t row, int32_t count, const void *matrix,
                              int32_t panel, F32 values[ROWS][4]) {
    const ConvertedPicker *picker = matrix;
    multiplied_some(rows, row, count, &picker->output, panel, values);
    if (picker->cap == 0) return;
    for (int32_t each = 0; each < count; each++)
        for (int part = 0; part < 4; part++)
            values[each][part] = f32_add(
                capped(values[each][part], picker->cap),
                f32_loadu(picker->barred + panel * PANEL + 16 * part));
}

static size_t picking_places(const ConvertedPicker *picker, int32_t rows, void *scratch,
                             Rows *integers, Best **bests) {
    size_t bytes = 0, width = picker->output.inputs;
    size_t blocks = picker->block ? width / SMALL_BLOCK : 1;
    char *memory = (char *)aligned((size_t)scratch);
    integers->block = picker->block;
    *bests = taken(memory, &bytes,
                   (size_t)rows * chunks_of(picker->output.outputs) * sizeof(Best));
    integers->integers = taken(memory, &bytes, rows * width);
    integers->scale = taken(memory, &bytes, 4 * rows * blocks);
    integers->offset = taken(memory, &bytes, 4 * rows * blocks);
    integers->sum = taken(memory, &bytes, 4 * rows * blocks);
    return bytes;
}

TARGET static void picked_of(const Team *team, int32_t me) {
    const ConvertedPicker *picker = team->weights;
    const Picking *picking = team->arrays;
    int32_t rows = picking->sentences * picking->slots;
    Rows integers;
    Best *bests;
    picking_places(picker, rows, picking->scratch, &integers, &bests);
    rounded(picking->hidden, rows, &picker->output, &integers, team, me);
    picked(picking, outputs_of, &integers, picker, picker->output.outputs, bests, team, me);
}

/* Return the bytes of scratch memory that a pass needs. */
size_t ms_converted_scratch(const Converted *network, const Pass *pass, int32_t threads) {
    return 64 + scratch_of(network, pass, threads < MOST_THREADS ? threads : MOST_THREADS).bytes;
}

/* Run a pass of a decoder, or of an encoder, in up to `threads` threads. */
void ms_converted_run(const Converted *network, const Pass *pass, int32_t threads) {
    double attention = 2.0 * (network->heads + network->groups) * network->width;
    double layer = network->hidden * (attention + (2.0 + network->gated) * network->widened);
    together(network->pair_count ? encoded : decoded, network, pass, threads,
             layer * network->layer_count * pass->rows * pass->slots);
}

/* Return the bytes of scratch memory that picking needs. */
size_t ms_converted_pick_scratch(const ConvertedPicker *picker, int32_t rows) {
    Rows integers;
    Best *bests;
    return 64 + picking_places(picker, rows, 0, &integers, &bests);
}

/* Pick tokens of slots (`Picking`, with float32 states), in up to `threads` threads. */
void ms_converted_pick(const ConvertedPicker *picker, const Picking *picking, int32_t threads) {
    double matrix = (double)picker->output.inputs * picker->output.outputs;
    together(picked_of, picker, picking, threads, matrix * picking->sentences * picking->slots);
}

#endif

/* Translation models: a pass of the encoder or decoder, and the choice of tokens, with int8 weights.

   What `graphs.py`, `output.py` and `chain.py` build as graphs is computed here by products of
   unsigned 8-bit activations, whose scale belongs to their place in the model, and signed 8-bit
   weights with one scale for each output (VNNI: four products and their sum in a 32-bit lane). */

#include "choice.h"

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

typedef struct {
    Matrix output;
    Markov markov;
} Picker;

#if KERNELS

typedef enum { STORED, ADDED, ROUNDED } Use;

INLINE void used(Use use, const Matrix *matrix, int32_t first, int count, I32 sums[ROWS][4],
                 void *to, size_t width) {
    UNROLLED for (int row = 0; row < count; row++)
        UNROLLED for (int part = 0; part < 4; part++) {
            int32_t output = first + 16 * part;
            if (output >= matrix->outputs) break; /* the last panel may be in part empty */
            F32 value = scaled(sums[row][part], matrix, output);
            if (use == ROUNDED) { /* what is negative becomes zero */
                u8_store((uint8_t *)to + row * width + output, value);
            } else {
                float *place = (float *)to + row * width + output;
                if (use == ADDED) value = f32_add(value, f32_load(place));
                f32_store(place, value);
            }
        }
}

/* Multiply rows [R, I] to [R, O]; this thread takes its part of the pairs of panel and rows. */
INLINE void product(Use use, const Matrix *matrix, const uint8_t *rows, int32_t count, void *to,
                    const Team *team, int32_t me) {
    size_t entry = use == ROUNDED ? 1 : sizeof(float);
    int32_t blocks = (count + ROWS - 1) / ROWS, panels = (matrix->outputs + PANEL - 1) / PANEL;
    Range range = part_of(team, me, (int64_t)panels * blocks);
    for (int32_t index = range.first; index < range.end; index++) {
        int32_t first = index / blocks * PANEL, row = index % blocks * ROWS;
        const int8_t *weights = matrix->weights + (size_t)first * matrix->inputs;
        const uint8_t *some = rows + (size_t)row * matrix->inputs;
        void *place = (char *)to + (size_t)row * matrix->outputs * entry;
        I32 sums[ROWS][4];
#define PART(number)                                                         \
    multiplied(some, matrix->inputs, number, weights, matrix->inputs, sums); \
    used(use, matrix, first, number, sums, place, matrix->outputs)
        OF_ROWS(count - row, PART)
#undef PART
    }
    meet(team);
}

TARGET static void stored(const Matrix *matrix, const uint8_t *rows, int32_t count, float *to,
                          const Team *team, int32_t me) {
    product(STORED, matrix, rows, count, to, team, me);
}

TARGET static void added(const Matrix *matrix, const uint8_t *rows, int32_t count, float *to,
                         const Team *team, int32_t me) {
    product(ADDED, matrix, rows, count, to, team, me);
}

TARGET static void cut(const Matrix *matrix, const uint8_t *rows, int32_t count, uint8_t *to,
                       const Team *team, int32_t me) {
    product(ROUNDED, matrix, rows, count, to, team, me);
}

TARGET static void normed(const Norm *norm, const float *rows, int32_t count, int32_t width,
                          uint8_t *to, const Team *team, int32_t me) {
    Range range = part_of(team, me, count);
    for (int32_t index = range.first; index < range.end; index++) {
        const float *row = rows + (size_t)index * width;
        F32 sum = f32_zero(), square = f32_zero();
        for (int32_t place = 0; place < width; place += 16)
            sum = f32_add(sum, f32_load(row + place));
        F32 mean = f32_all(f32_sum(sum) / (float)width);
        for (int32_t place = 0; place < width; place += 16) {
            F32 off = f32_sub(f32_load(row + place), mean);
            square = f32_mul_add(off, off, square);
        }
        float variance = f32_sum(square) / (float)width;
        F32 factor = f32_all(1.0f / sqrtf(variance + norm->epsilon));
        for (int32_t place = 0; place < width; place += 16) {
            F32 off = f32_mul(f32_sub(f32_load(row + place), mean), factor);
            F32 value = f32_mul_add(off, f32_load(norm->weight + place),
                                    f32_load(norm->bias + place));
            u8_store(to + (size_t)index * width + place, value);
        }
    }
    meet(team);
}

static size_t widest(const Network *network) {
    return network->widened > network->hidden ? network->widened : network->hidden;
}

/* Scratch memory of a pass. */
typedef struct {
    float *hidden;           /* [R, D] */
    float *parts;            /* [R, 3 D] */
    uint8_t *rows, *widened; /* [R, D or the feed-forward width] */
    float *scores;           /* [threads, `attention_scratch` of C or S] */
    float *keys, *values;    /* [B, H, S, E], of an encoder */
    int32_t *places;         /* [R]: the tokens of the sources among their padding */
    size_t bytes, each;      /* `each`: entries of `scores` for one thread */
} Scratch;

static Scratch scratch_of(const Network *network, const Pass *pass, int32_t threads) {
    size_t count = (size_t)pass->rows * pass->slots, hidden = network->hidden;
    size_t longest = pass->room > pass->source ? pass->room : pass->source;
    size_t pairs = network->pair_count ? 4 * count * hidden : 0;
    char *memory = (char *)aligned((size_t)pass->scratch);
    Scratch scratch;
    scratch.bytes = 0;
    scratch.each = attention_scratch(longest);
    scratch.hidden = taken(memory, &scratch.bytes, 4 * count * hidden);
    scratch.parts = taken(memory, &scratch.bytes, 4 * count * 3 * hidden);
    scratch.rows = taken(memory, &scratch.bytes, count * widest(network));
    scratch.widened = taken(memory, &scratch.bytes, count * widest(network));
    scratch.scores = taken(memory, &scratch.bytes, 4 * scratch.each * threads);
    scratch.keys = taken(memory, &scratch.bytes, pairs);
    scratch.values = taken(memory, &scratch.bytes, pairs);
    scratch.places = taken(memory, &scratch.bytes, pairs ? 4 * count : 0);
    return scratch;
}

/* Embed all tokens, or those at `count` places. */
TARGET static void embedded(const Network *network, const Pass *pass, const int32_t *places,
                            int32_t count, float *hidden, const Team *team, int32_t me) {
    int32_t width = network->hidden;
    Range range = part_of(team, me, count);
    for (int32_t index = range.first; index < range.end; index++) {
        int32_t row = places ? places[index] : index;
        float *to = hidden + (size_t)index * width;
        int64_t token = within(pass->token[row], network->token_count);
        int64_t position = pass->position ? pass->position[row] : row % pass->slots;
        position = within(position, network->position_count);
        const int8_t *entry = network->embedding + (size_t)token * width;
        const float *place = network->positions + (size_t)position * width;
        F32 scale = f32_all(network->embedding_scale[token]);
        for (int32_t part = 0; part < width; part += 16) {
            I32 whole = i32_of_bytes(entry + part);
            F32 value = f32_mul(f32_of_i32(whole), scale);
            f32_store(to + part, f32_add(value, f32_load(place + part)));
        }
        if (!network->reaches) continue;
        int64_t reach = within(pass->reach[row], network->reach_count);
        const float *further = network->reaches + (size_t)reach * width;
        for (int32_t part = 0; part < width; part += 16)
            f32_store(to + part, f32_add(f32_load(to + part),
                                         f32_load(further + part)));
    }
    meet(team);
}

/* Self-attention, added to its input; keys and values join those in `keys` and `values`. */
TARGET static void attended_self(const Network *network, const Layer *layer,
                                 const Scratch *scratch, Attention over, const int64_t *start,
                                 float *keys, float *values, const Team *team, int32_t me) {
    int32_t count = over.count, width = network->hidden;
    Mixed to = {scratch->rows, 0, layer->attention_unit};
    normed(&layer->attention_norm, scratch->hidden, count, width, scratch->rows, team, me);
    stored(&layer->input, scratch->rows, count, scratch->parts, team, me);
    kept(&over, team, me, scratch->parts + width, start, keys, values);
    meet(team);
    over.keys = keys;
    over.values = values;
    attended(&over, team, me, scratch->scores + me * scratch->each, &to);
    meet(team);
    added(&layer->output, scratch->rows, count, scratch->hidden, team, me);
}

/* The feed-forward layer, added to its input. */
TARGET static void forward(const Layer *layer, const Scratch *scratch, int32_t count, int32_t width,
                           const Team *team, int32_t me) {
    normed(&layer->feedforward_norm, scratch->hidden, count, width, scratch->rows, team, me);
    cut(&layer->widen, scratch->rows, count, scratch->widened, team, me);
    added(&layer->narrow, scratch->widened, count, scratch->hidden, team, me);
}

static Attention attention_of(const Network *network, const Pass *pass, const Scratch *scratch) {
    Attention over = {0};
    over.queries = scratch->parts;
    over.count = pass->rows * pass->slots;
    over.slots = pass->slots;
    over.heads = over.groups = network->heads;
    over.width = network->hidden / network->heads;
    return over;
}

/* Compute the states of new slots, whose keys and values join the others. */
TARGET static void decoded(const Team *team, int32_t me) {
    const Network *network = team->weights;
    const Pass *pass = team->arrays;
    int32_t count = pass->rows * pass->slots, width = network->hidden;
    Scratch scratch = scratch_of(network, pass, team->threads);
    Attention text = attention_of(network, pass, &scratch), source = text;
    text.bias = pass->bias;
    text.bias_rows = pass->bias_rows;
    text.most = pass->room;
    text.stride = 3 * width;
    source.real = pass->real;
    source.most = pass->source;
    source.stride = width;
    embedded(network, pass, 0, count, scratch.hidden, team, me);
    for (int32_t index = 0; index < network->layer_count; index++) {
        const Layer *layer = network->layers + index;
        Mixed to = {scratch.rows, 0, layer->cross_unit};
        attended_self(network, layer, &scratch, text, pass->start, pass->keys[index],
                      pass->values[index], team, me);
        normed(&layer->cross_norm, scratch.hidden, count, width, scratch.rows, team, me);
        stored(&layer->query, scratch.rows, count, scratch.parts, team, me);
        source.keys = pass->cross_keys[index];
        source.values = pass->cross_values[index];
        attended(&source, team, me, scratch.scores + me * scratch.each, &to);
        meet(team);
        added(&layer->cross_output, scratch.rows, count, scratch.hidden, team, me);
        forward(layer, &scratch, count, width, team, me);
    }
    normed(&network->final_norm, scratch.hidden, count, width, pass->hidden, team, me);
}

/* Compute the keys and values of sources for every layer of the decoder; those of padding, which
   nothing reads, are left as they are. */
TARGET static void encoded(const Team *team, int32_t me) {
    const Network *network = team->weights;
    const Pass *pass = team->arrays;
    int32_t count = 0, all = pass->rows * pass->slots, width = network->hidden;
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
    source.stride = 3 * width;
    embedded(network, pass, scratch.places, count, scratch.hidden, team, me);
    for (int32_t index = 0; index < network->layer_count; index++) {
        const Layer *layer = network->layers + index;
        attended_self(network, layer, &scratch, source, 0, scratch.keys, scratch.values, team, me);
        forward(layer, &scratch, count, width, team, me);
    }
    normed(&network->final_norm, scratch.hidden, count, width, scratch.rows, team, me);
    source.stride = 2 * width;
    for (int32_t index = 0; index < network->pair_count; index++) {
        stored(network->pairs + index, scratch.rows, count, scratch.parts, team, me);
        kept(&source, team, me, scratch.parts, 0, pass->cross_keys[index],
             pass->cross_values[index]);
        meet(team);
    }
}

INLINE void outputs_of(const void *rows, int32_t row, int32_t count, const void *matrix,
                       int32_t panel, F32 values[ROWS][4]) {
    const Matrix *output = matrix;
    scaled_rows((const uint8_t *)rows + (size_t)row * output->inputs, count, output, panel, values);
}

TARGET static void picked_of(const Team *team, int32_t me) {
    const Matrix *output = team->weights;
    const Picking *picking = team->arrays;
    Best *bests = (Best *)aligned((size_t)picking->scratch);
    picked(picking, outputs_of, picking->hidden, output, output->outputs, bests, team, me);
}

/* Return the bytes of scratch memory that a pass needs. */
size_t ms_scratch(const Network *network, const Pass *pass, int32_t threads) {
    return 64 + scratch_of(network, pass, threads < MOST_THREADS ? threads : MOST_THREADS).bytes;
}

/* Run a pass of a decoder, or of an encoder, in up to `threads` threads. */
void ms_run(const Network *network, const Pass *pass, int32_t threads) {
    double hidden = network->hidden, layer = hidden * (6 * hidden + 2.0 * network->widened);
    together(network->pair_count ? encoded : decoded, network, pass, threads,
             layer * network->layer_count * pass->rows * pass->slots);
}

/* Return the bytes of scratch memory that picking needs. */
size_t ms_pick_scratch(const Picker *picker, int32_t rows) {
    return 64 + (size_t)rows * chunks_of(picker->output.outputs) * sizeof(Best);
}

/* Pick tokens of slots (`Picking`), in up to `threads` threads. */
void ms_pick(const Picker *picker, const Picking *picking, int32_t threads) {
    double matrix = (double)picker->output.inputs * picker->output.outputs;
    together(picked_of, &picker->output, picking, threads,
             matrix * picking->sentences * picking->slots);
}

#endif

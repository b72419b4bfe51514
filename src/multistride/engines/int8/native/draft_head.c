/* Draft heads (`decode/draft_head.py`): from the last state of a causal model and the token just
   written an estimate of the next state, the most probable token by it, and so on.

   Shapes: R rows, D hidden size, V tokens the head knows, N drafts. */

#include "choice.h"
#include "linear.h"

/* `widen` reads a state and the row of a token side by side; the outputs of `output` beyond V have a
   bias that leaves them no probability. */
typedef struct {
    const int8_t *table;        /* [V, D] */
    const float *table_scale;   /* [V] */
    const float *gain, *into, *keep; /* [D] */
    Linear widen, narrow, output;
    int32_t hidden, known;
} Head;

/* Drafts [N, R] behind tokens by their places in the table (V: not there), with the log-probability
   of each. Only the first `made` are there: those behind them are less than `least` (also a
   logarithm) likely to stand in any row. */
typedef struct {
    const float *states;    /* [R, D] */
    const int64_t *written; /* [R] */
    int64_t *drafts;
    float *log_probabilities;
    void *scratch;
    float least;
    int32_t rows, count, made;
} Drafting;

#if KERNELS

typedef struct {
    float *states;  /* [R, D] */
    float *wide;    /* [R, the outputs of `widen`] */
    float *more;    /* [R, the outputs of `narrow`] */
    float *row;     /* [threads, 2 D] */
    Rows rows;      /* of the widest input */
    Best *bests;
} DraftScratch;

static size_t draft_places(const Head *head, int32_t count, int32_t threads, void *at,
                           DraftScratch *to) {
    size_t bytes = 0, rows = count, hidden = head->hidden;
    size_t widest = 2 * hidden > (size_t)head->widen.outputs ? 2 * hidden
                                                             : (size_t)head->widen.outputs;
    char *memory = (char *)aligned((size_t)at);
    to->states = taken(memory, &bytes, 4 * rows * hidden);
    to->wide = taken(memory, &bytes, 4 * rows * head->widen.outputs);
    to->more = taken(memory, &bytes, 4 * rows * head->narrow.outputs);
    to->row = taken(memory, &bytes, 4 * (size_t)threads * 2 * hidden);
    to->rows.block = 0;
    to->rows.integers = taken(memory, &bytes, rows * widest);
    to->rows.scale = taken(memory, &bytes, 4 * rows);
    to->rows.offset = taken(memory, &bytes, 4 * rows);
    to->bests = taken(memory, &bytes, rows * chunks_of(head->output.outputs) * sizeof(Best));
    return bytes;
}

/* Round a normalised state and the row of the token behind it, side by side. */
INLINE void joined_row(const Head *head, const float *state, int64_t token, float *one,
                       const Rows *to, size_t row) {
    int32_t width = head->hidden;
    int known = token >= 0 && token < head->known;
    F32 square = f32_zero(), scale = f32_zero();
    for (int32_t place = 0; place < width; place += 16) {
        F32 value = f32_loadu(state + place);
        square = f32_mul_add(value, value, square);
    }
    F32 factor = f32_all(1.0f / sqrtf(f32_sum(square) / (float)width + 1e-5f));
    if (known) scale = f32_all(head->table_scale[token]);
    const int8_t *entry = head->table + (known ? (size_t)token * width : 0);
    for (int32_t place = 0; place < width; place += 16) {
        F32 value = f32_mul(f32_loadu(state + place), factor);
        I32 whole = i32_of_bytes(entry + place);
        F32 read = f32_mul(f32_of_i32(whole), scale);
        f32_storeu(one + place, f32_mul(value, f32_loadu(head->gain + place)));
        f32_storeu(one + width + place,
                   f32_mul(read, f32_loadu(head->into + place)));
    }
    rounded_row(one, 2 * width, to, row);
}

TARGET static void drafted_outputs(const void *rows, int32_t row, int32_t count, const void *matrix,
                                   int32_t panel, F32 values[ROWS][4]) {
    multiplied_some(rows, row, count, matrix, panel, values);
}

/* Return 1 if some row's drafts up to `last` may all stand. */
static int likely(const Drafting *drafting, int32_t last) {
    for (int32_t row = 0; row < drafting->rows; row++) {
        float sum = 0;
        for (int32_t draft = 0; draft <= last; draft++)
            sum += drafting->log_probabilities[(size_t)draft * drafting->rows + row];
        if (sum >= drafting->least) return 1;
    }
    return 0;
}

TARGET static void drafted(const Team *team, int32_t me) {
    const Head *head = team->weights;
    const Drafting *drafting = team->arrays;
    int32_t rows = drafting->rows, width = head->hidden, wide = head->widen.outputs;
    Range range = part_of(team, me, rows);
    DraftScratch to;
    draft_places(head, rows, team->threads, drafting->scratch, &to);
    float *one = to.row + (size_t)me * 2 * width;
    for (int32_t row = range.first; row < range.end; row++)
        memcpy(to.states + (size_t)row * width, drafting->states + (size_t)row * width,
               4 * (size_t)width);
    const int64_t *tokens = drafting->written;
    for (int32_t draft = 0; draft < drafting->count; draft++) {
        Picking picking = {0};
        for (int32_t row = range.first; row < range.end; row++)
            joined_row(head, to.states + (size_t)row * width, tokens[row], one, &to.rows, row);
        meet(team);
        stored(&head->widen, &to.rows, rows, to.wide, team, me);
        for (int32_t row = range.first; row < range.end; row++) {
            float *values = to.wide + (size_t)row * wide;
            for (int32_t place = 0; place < wide; place += 16) {
                F32 value = f32_load(values + place);
                f32_store(values + place, gated_by(value, value));
            }
            rounded_row(values, wide, &to.rows, row);
        }
        meet(team);
        stored(&head->narrow, &to.rows, rows, to.more, team, me);
        for (int32_t row = range.first; row < range.end; row++) {
            float *state = to.states + (size_t)row * width;
            const float *more = to.more + (size_t)row * head->narrow.outputs;
            for (int32_t place = 0; place < width; place += 16)
                f32_storeu(state + place,
                           f32_mul_add(f32_loadu(state + place),
                                       f32_loadu(head->keep + place),
                                       f32_loadu(more + place)));
            rounded_row(state, width, &to.rows, row);
        }
        meet(team);
        picking.tokens = drafting->drafts + (size_t)draft * rows;
        picking.log_probabilities = drafting->log_probabilities + (size_t)draft * rows;
        picking.sentences = rows;
        picking.slots = picking.clean = 1;
        picked(&picking, drafted_outputs, &to.rows, &head->output, head->output.outputs, to.bests,
               team, me);
        tokens = picking.tokens;
        if (!likely(drafting, draft)) break;
        if (me == 0) ((Drafting *)drafting)->made = draft + 1;
    }
}

/* Return the bytes of scratch memory that drafts of `rows` rows need. */
size_t ms_draft_scratch(const Head *head, int32_t rows, int32_t threads) {
    DraftScratch to;
    return 64 + draft_places(head, rows, threads < MOST_THREADS ? threads : MOST_THREADS, 0, &to);
}

/* Draft (`Drafting`) in up to `threads` threads. */
void ms_draft(const Head *head, Drafting *drafting, int32_t threads) {
    double widen = (double)head->widen.inputs * head->widen.outputs;
    double narrow = (double)head->narrow.inputs * head->narrow.outputs;
    double output = (double)head->output.inputs * head->output.outputs;
    drafting->made = 0;
    together(drafted, head, drafting, threads,
             (widen + narrow + output) * drafting->rows * drafting->count);
}

#endif

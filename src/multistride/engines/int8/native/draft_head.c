/* Draft heads (`decode/draft_head.py`): from the last state of a causal model and the token just
   written an estimate of the next state, the most probable token by it, and so on; or the most
   probable tokens, each of which others may follow: a tree.

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

#define BRANCHES 4 /* drafts behind a token, and tokens of one depth that others follow */

/* A tree of drafts behind a token, by its place in the table (V: not there), the most probable
   first: what each is, the draft that it stands behind (-1: the token), and the log-probability that
   it stands, with all before it. There are `made`, none less likely than `least`. */
typedef struct {
    const float *state; /* [D] */
    int64_t *drafts;    /* [N] */
    int32_t *parents;
    float *log_probabilities;
    void *scratch;
    int64_t written;
    float least;
    int32_t count, made;
} Growing;

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
    to->rows.sum = taken(memory, &bytes, 4 * rows);
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

/* Replace states by estimates of those behind some tokens, and round these for the output. */
INLINE void followed(const Head *head, const DraftScratch *to, const int64_t *tokens, int32_t rows,
                     const Team *team, int32_t me) {
    int32_t width = head->hidden, wide = head->widen.outputs;
    Range range = part_of(team, me, rows);
    float *one = to->row + (size_t)me * 2 * width;
    for (int32_t row = range.first; row < range.end; row++)
        joined_row(head, to->states + (size_t)row * width, tokens[row], one, &to->rows, row);
    meet(team);
    stored(&head->widen, &to->rows, rows, to->wide, team, me);
    for (int32_t row = range.first; row < range.end; row++) {
        float *values = to->wide + (size_t)row * wide;
        for (int32_t place = 0; place < wide; place += 16) {
            F32 value = f32_load(values + place);
            f32_store(values + place, gated_by(value, value));
        }
        rounded_row(values, wide, &to->rows, row);
    }
    meet(team);
    stored(&head->narrow, &to->rows, rows, to->more, team, me);
    for (int32_t row = range.first; row < range.end; row++) {
        float *state = to->states + (size_t)row * width;
        const float *more = to->more + (size_t)row * head->narrow.outputs;
        for (int32_t place = 0; place < width; place += 16)
            f32_storeu(state + place,
                       f32_mul_add(f32_loadu(state + place),
                                   f32_loadu(head->keep + place),
                                   f32_loadu(more + place)));
        rounded_row(state, width, &to->rows, row);
    }
    meet(team);
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
    int32_t rows = drafting->rows, width = head->hidden;
    Range range = part_of(team, me, rows);
    DraftScratch to;
    draft_places(head, rows, team->threads, drafting->scratch, &to);
    for (int32_t row = range.first; row < range.end; row++)
        memcpy(to.states + (size_t)row * width, drafting->states + (size_t)row * width,
               4 * (size_t)width);
    const int64_t *tokens = drafting->written;
    for (int32_t draft = 0; draft < drafting->count; draft++) {
        Picking picking = {0};
        followed(head, &to, tokens, rows, team, me);
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

/* ---- Trees ---- */

/* A draft that may become part of a tree, and where what follows it is computed from. */
typedef struct {
    int64_t token;
    float log_probability;
    int32_t parent, depth;
    int32_t state; /* of the estimate that it was picked from */
    int32_t place; /* among the best, or -1 */
} Node;

typedef struct {
    DraftScratch draft;
    float *logits;   /* [BRANCHES, the outputs of `output`] */
    float *states;   /* [1 + BRANCHES N, D]: the estimates */
    Node *nodes;     /* [BRANCHES (1 + BRANCHES N)] */
    int32_t *best;   /* [N + 1]: nodes, the most probable first */
    Node *tops;      /* [BRANCHES, BRANCHES]: the most probable tokens of each row */
    int64_t *tokens; /* [BRANCHES]: those whose followers are computed */
    int32_t *open;   /* [BRANCHES]: their nodes */
    int32_t *counts; /* [3]: nodes, best ones, and rows of the next depth */
} TreeScratch;

static size_t tree_places(const Head *head, int32_t count, int32_t threads, void *at,
                          TreeScratch *to) {
    char *memory = (char *)aligned((size_t)at);
    size_t bytes = 64 + draft_places(head, BRANCHES, threads, memory, &to->draft);
    size_t estimates = 1 + (size_t)BRANCHES * count;
    bytes = aligned(bytes);
    to->logits = taken(memory, &bytes, 4 * (size_t)BRANCHES * head->output.outputs);
    to->states = taken(memory, &bytes, 4 * estimates * head->hidden);
    to->nodes = taken(memory, &bytes, BRANCHES * estimates * sizeof(Node));
    to->best = taken(memory, &bytes, 4 * ((size_t)count + 1));
    to->tops = taken(memory, &bytes, BRANCHES * BRANCHES * sizeof(Node));
    to->tokens = taken(memory, &bytes, 8 * BRANCHES);
    to->open = taken(memory, &bytes, 4 * BRANCHES);
    to->counts = taken(memory, &bytes, 4 * 3);
    return bytes;
}

/* Find the most probable tokens of a row of logits, and their log-probabilities. */
INLINE void topmost(const float *logits, int32_t outputs, Node top[BRANCHES]) {
    F32 sum = f32_zero();
    for (int each = 0; each < BRANCHES; each++) top[each].log_probability = -INFINITY;
    for (int32_t first = 0; first < outputs; first += 16) {
        float lowest = top[BRANCHES - 1].log_probability;
        uint32_t above = mask_bits(f32_greater(f32_load(logits + first), f32_all(lowest)));
        for (; above; above &= above - 1) {
            int32_t token = first + __builtin_ctz(above), place = BRANCHES - 1;
            if (!(logits[token] > top[place].log_probability)) continue;
            for (; place > 0 && logits[token] > top[place - 1].log_probability; place--)
                top[place] = top[place - 1];
            top[place].token = token;
            top[place].log_probability = logits[token];
        }
    }
    F32 largest = f32_all(top[0].log_probability);
    for (int32_t first = 0; first < outputs; first += 16)
        sum = f32_add(sum, exponential(f32_sub(f32_load(logits + first), largest)));
    float total = top[0].log_probability + logf(f32_sum(sum));
    for (int each = 0; each < BRANCHES; each++) top[each].log_probability -= total;
}

/* Put a node among the best, if it belongs there; the one it takes the place of leaves them. */
static void ranked(Node *nodes, int32_t node, int32_t *best, int32_t *made, int32_t most) {
    int32_t place = *made;
    float value = nodes[node].log_probability;
    for (; place > 0 && nodes[best[place - 1]].log_probability < value; place--) {
        best[place] = best[place - 1];
        nodes[best[place]].place = place;
    }
    best[place] = node;
    nodes[node].place = place;
    if (*made < most)
        ++*made;
    else
        nodes[best[most]].place = -1;
}

/* Add the most probable followers of the rows of one depth; return the rows of the next. */
static void branched(const Growing *growing, const TreeScratch *to, int32_t depth, int32_t rows) {
    int32_t *made = to->counts, *ranks = to->counts + 1, *next = to->counts + 2, first = *made;
    for (int32_t row = 0; row < rows; row++) {
        float before = depth ? to->nodes[to->open[row]].log_probability : 0;
        for (int each = 0; each < BRANCHES; each++) {
            const Node *top = to->tops + row * BRANCHES + each;
            Node node = {top->token, before + top->log_probability, depth ? to->open[row] : -1,
                         depth + 1, BRANCHES * depth + row, -1};
            if (!(node.log_probability >= growing->least)) break;
            to->nodes[*made] = node;
            ranked(to->nodes, (*made)++, to->best, ranks, growing->count);
        }
    }
    *next = 0;
    for (int32_t rank = 0; rank < *ranks && *next < BRANCHES; rank++)
        if (to->best[rank] >= first && depth + 1 < growing->count)
            to->open[(*next)++] = to->best[rank];
}

TARGET static void grown(const Team *team, int32_t me) {
    const Head *head = team->weights;
    const Growing *growing = team->arrays;
    size_t width = head->hidden, outputs = head->output.outputs;
    TreeScratch to;
    tree_places(head, growing->count, team->threads, growing->scratch, &to);
    if (me == 0) {
        memset(to.counts, 0, 4 * 3);
        memcpy(to.draft.states, growing->state, 4 * width);
        to.tokens[0] = growing->written;
    }
    meet(team);
    for (int32_t depth = 0, rows = 1; rows; depth++) {
        followed(head, &to.draft, to.tokens, rows, team, me);
        stored(&head->output, &to.draft.rows, rows, to.logits, team, me);
        Range range = part_of(team, me, rows);
        for (int32_t row = range.first; row < range.end; row++) {
            topmost(to.logits + row * outputs, (int32_t)outputs, to.tops + row * BRANCHES);
            memcpy(to.states + (BRANCHES * depth + row) * width, to.draft.states + row * width,
                   4 * width);
        }
        meet(team);
        if (me == 0) {
            branched(growing, &to, depth, rows);
            for (int32_t row = 0; row < to.counts[2]; row++) {
                const Node *node = to.nodes + to.open[row];
                memcpy(to.draft.states + row * width, to.states + node->state * width, 4 * width);
                to.tokens[row] = node->token;
            }
        }
        meet(team);
        rows = to.counts[2];
    }
    if (me != 0) return;
    for (int32_t rank = 0; rank < to.counts[1]; rank++) {
        const Node *node = to.nodes + to.best[rank];
        growing->drafts[rank] = node->token;
        growing->parents[rank] = node->parent < 0 ? -1 : to.nodes[node->parent].place;
        growing->log_probabilities[rank] = node->log_probability;
    }
    ((Growing *)growing)->made = to.counts[1];
}

static double products_of(const Head *head) {
    double widen = (double)head->widen.inputs * head->widen.outputs;
    double narrow = (double)head->narrow.inputs * head->narrow.outputs;
    return widen + narrow + (double)head->output.inputs * head->output.outputs;
}

/* Return the bytes of scratch memory that drafts of `rows` rows need. */
size_t ms_draft_scratch(const Head *head, int32_t rows, int32_t threads) {
    DraftScratch to;
    return 64 + draft_places(head, rows, threads < MOST_THREADS ? threads : MOST_THREADS, 0, &to);
}

/* Draft (`Drafting`) in up to `threads` threads. */
void ms_draft(const Head *head, Drafting *drafting, int32_t threads) {
    drafting->made = 0;
    together(drafted, head, drafting, threads,
             products_of(head) * drafting->rows * drafting->count);
}

/* Return the bytes of scratch memory that a tree of `count` drafts needs. */
size_t ms_grow_scratch(const Head *head, int32_t count, int32_t threads) {
    TreeScratch to;
    return 64 + tree_places(head, count, threads < MOST_THREADS ? threads : MOST_THREADS, 0, &to);
}

/* Grow a tree of drafts (`Growing`) in up to `threads` threads. */
void ms_grow(const Head *head, Growing *growing, int32_t threads) {
    growing->made = 0;
    together(grown, head, growing, threads, products_of(head) * growing->count);
}

#endif

/* What the kernels of all models share: vectors, attention, and threads that compute one pass.

   A row gets the same bits whatever is computed beside it, and in however many threads: sums of
   integers are exact, and every other sum is taken in an order that depends on nothing but the row.

   Shapes: B sentences, N new slots, R = B N rows, C slots there is room for, S source tokens,
   D hidden size, H heads, G heads of keys and values, E width of a head, O outputs, I inputs. */

#ifndef KERNELS_H
#define KERNELS_H

#define PANEL 64 /* outputs that are multiplied together */
#define MASKED (-FLT_MAX)
#define MOST_THREADS 64

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if (defined(__x86_64__) || (defined(__aarch64__) && !defined(AVX2))) && defined(__GNUC__)
#define KERNELS 1
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

/* A loop over rows or parts whose sums are to stay in registers. */
#define UNROLLED _Pragma("GCC unroll 8")

/* A loop over inputs that is not unrolled: unrolled whole, as GCC does where it knows their number,
   products of few rows wait for memory longer. */
#define IN_TURN _Pragma("GCC unroll 1")

#ifdef __aarch64__
#include "neon.h"
#define RELAX __asm__ volatile("yield")
#else
#include <immintrin.h>
#define RELAX _mm_pause()
#ifdef AVX2
#include "avx2.h"
#else
#include "avx512.h"
#endif
#endif
#define UNUSED TARGET __attribute__((unused)) /* by some of the files that it is part of */
#else
#define KERNELS 0
#endif

/* Number that changes whenever structures or the order of arrays do (`library.VERSION`). */
#define VERSION 6

/* Arrays of one pass, as the graphs read and write them. */
typedef struct {
    const int64_t *token, *position, *reach, *start; /* [B, N], `start` [B] */
    const float *bias;                               /* [1 or B, 1, N, C] */
    const int32_t *real;                             /* [B, S] */
    float *place; /* [B, C]: positions of slots, where attention depends on distances */
    float *const *keys, *const *values;              /* [B, G, C, E] of each layer */
    float *const *cross_keys, *const *cross_values;  /* [B, H, S, E] of each layer */
    void *hidden;                                    /* [B, N, D], uint8 or float32 */
    void *scratch;
    int32_t rows, slots, room, source, bias_rows;
} Pass;

#if KERNELS

/* ---- Threads ---- */

/* Threads that run the same function, each on its share, and meet after every stage. */
typedef struct Team {
    void (*run)(const struct Team *, int32_t);
    const void *weights, *arrays;
    int32_t threads;
    atomic_int *arrived, *turn;
} Team;

typedef struct {
    int32_t first, end;
} Range;

/* Return the part of `count` things that thread `me` computes. */
static inline Range part_of(const Team *team, int32_t me, int64_t count) {
    Range range = {(int32_t)(count * me / team->threads),
                   (int32_t)(count * (me + 1) / team->threads)};
    return range;
}

/* Wait until all threads are here. */
static inline void meet(const Team *team) {
    if (team->threads == 1) return;
    int turn = atomic_load_explicit(team->turn, memory_order_acquire);
    if (atomic_fetch_add_explicit(team->arrived, 1, memory_order_acq_rel) == team->threads - 1) {
        atomic_store_explicit(team->arrived, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(team->turn, 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(team->turn, memory_order_acquire) == turn; spins++) {
        if (spins < 4096)
            RELAX;
        else /* there are more threads than CPUs */
            sched_yield();
    }
}

typedef struct {
    Team *team;
    atomic_int *ready;
    int32_t me;
} Member;

static void *joined(void *argument) {
    const Member *member = argument;
    while (!atomic_load_explicit(member->ready, memory_order_acquire)) sched_yield();
    member->team->run(member->team, member->me);
    return 0;
}

/* Run a function in this thread and in others, which live as long as it takes. A thread is worth its
   start from 2^24 products on. */
static void together(void (*run)(const Team *, int32_t), const void *weights, const void *arrays,
                     int32_t threads, double products) {
    atomic_int arrived = 0, turn = 0, ready = 0;
    Team team = {run, weights, arrays, 1, &arrived, &turn};
    pthread_t others[MOST_THREADS];
    Member members[MOST_THREADS];
    double most = 1 + products / (1 << 24);
    if (threads > most) threads = (int32_t)most;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    for (; team.threads < threads; team.threads++) {
        Member member = {&team, &ready, team.threads};
        members[team.threads] = member;
        if (pthread_create(others + team.threads, 0, joined, members + team.threads)) break;
    }
    atomic_store_explicit(&ready, 1, memory_order_release);
    run(&team, 0);
    for (int32_t index = 1; index < team.threads; index++) pthread_join(others[index], 0);
}

/* ---- Memory ---- */

static inline size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

/* Return the next place of scratch memory, and count what it takes. */
static inline void *taken(char *memory, size_t *bytes, size_t more) {
    char *place = memory + *bytes;
    *bytes += aligned(more);
    return place;
}

/* Return the nearest index of a table of `count` rows. */
static inline int64_t within(int64_t index, int64_t count) {
    return index < 0 ? 0 : index < count ? index : count - 1;
}

/* ---- Vectors ---- */

INLINE F32 exponential(F32 x) {
    x = f32_max(x, f32_all(-87.0f));
    x = f32_min(x, f32_all(88.0f));
    F32 whole = f32_rounded(f32_mul(x, f32_all(1.44269504f)));
    x = f32_less_mul(whole, f32_all(0.693359375f), x);
    x = f32_less_mul(whole, f32_all(-2.12194440e-4f), x);
    F32 y = f32_all(1.9875691500e-4f);
    y = f32_mul_add(y, x, f32_all(1.3981999507e-3f));
    y = f32_mul_add(y, x, f32_all(8.3334519073e-3f));
    y = f32_mul_add(y, x, f32_all(4.1665795894e-2f));
    y = f32_mul_add(y, x, f32_all(1.6666665459e-1f));
    y = f32_mul_add(y, x, f32_all(0.5f));
    y = f32_mul_add(y, f32_mul(x, x), f32_add(x, f32_all(1.0f)));
    return f32_times_power(y, whole);
}

/* Return cap tanh(x / cap). */
INLINE F32 capped(F32 x, float cap) {
    F32 two = f32_all(2.0f), top = f32_all(cap);
    F32 above = exponential(f32_mul(x, f32_all(2.0f / cap)));
    F32 below = f32_div(two, f32_add(above, f32_all(1.0f)));
    return f32_less_mul(below, top, top);
}

/* Do something with a number of rows that is known when compiling. */
#define OF_ROWS(count, call) \
    switch (count) {         \
    case 1: call(1); break;  \
    case 2: call(2); break;  \
    case 3: call(3); break;  \
    case 4: call(4); break;  \
    case 5: call(5); break;  \
    case 6: call(6); break;  \
    default: call(ROWS);     \
    }

/* ---- Attention ---- */

/* Return the products of a query with 16 keys, those at `places` if there are any; past the first
   `count` the last is repeated. */
INLINE F32 dots(const float *query, const float *keys, const int32_t *places, int32_t count,
                int32_t width) {
    int32_t whole = width & ~15;
    Mask rest = mask_first(width - whole);
    F32 sums[16];
    for (int key = 0; key < 16; key++) {
        int32_t place = key < count ? key : count - 1;
        const float *other = keys + (size_t)(places ? places[place] : place) * width;
        F32 sum = f32_zero();
        for (int32_t place = 0; place < whole; place += 16)
            sum = f32_mul_add(f32_loadu(query + place), f32_loadu(other + place),
                              sum);
        if (whole < width)
            sum = f32_mul_add(f32_load_some(rest, query + whole),
                              f32_load_some(rest, other + whole), sum);
        sums[key] = sum;
    }
    return f32_sums(sums);
}

/* Turn scores, whole vectors of them, into weights that sum to one; those at MASKED weigh nothing. */
INLINE void softmax(float *scores, int32_t whole) {
    F32 most = f32_load(scores);
    for (int32_t place = 16; place < whole; place += 16)
        most = f32_max(most, f32_load(scores + place));
    F32 largest = f32_all(f32_largest(most)), sum = f32_zero();
    for (int32_t place = 0; place < whole; place += 16) {
        F32 score = f32_load(scores + place);
        Mask seen = f32_greater(score, f32_all(MASKED));
        F32 weight = f32_only(seen, exponential(f32_sub(score, largest)));
        f32_store(scores + place, weight);
        sum = f32_add(sum, weight);
    }
    float total = f32_sum(sum); /* none where padding sees nothing */
    F32 factor = f32_all(total > 0 ? 1.0f / total : 0.0f);
    for (int32_t place = 0; place < whole; place += 16)
        f32_store(scores + place, f32_mul(f32_load(scores + place), factor));
}

/* Where mixed values go: rounded to integers of which `unit` make one, or as they are. */
typedef struct {
    uint8_t *integers;
    float *plain;
    float unit;
} Mixed;

/* The keys that a query sees: the first `whole`, and those at `places` up to `count` in all. */
typedef struct {
    const int32_t *places;
    int32_t whole, count;
} Seen;

INLINE void weighed(float weight, const float *value, int parts, Mask last, F32 sums[4]) {
    UNROLLED for (int part = 0; part < parts; part++) {
        F32 some = part < parts - 1 ? f32_loadu(value + 16 * part)
                                    : f32_load_some(last, value + 16 * part);
        sums[part] = f32_mul_add(f32_all(weight), some, sums[part]);
    }
}

/* Mix `parts` vectors of values, of the last of which there are `last` numbers; rows of them are
   `width` apart. */
INLINE void mixed_parts(const float *weights, const float *values, const Seen *seen, int32_t width,
                        int parts, Mask last, const Mixed *to, size_t into) {
    F32 sums[4];
    UNROLLED for (int part = 0; part < parts; part++) sums[part] = f32_zero();
    for (int32_t entry = 0; entry < seen->whole; entry++)
        weighed(weights[entry], values + (size_t)entry * width, parts, last, sums);
    for (int32_t entry = seen->whole; entry < seen->count; entry++) {
        size_t place = seen->places[entry - seen->whole];
        weighed(weights[entry], values + place * width, parts, last, sums);
    }
    UNROLLED for (int part = 0; part < parts; part++, into += 16) {
        Mask there = part < parts - 1 ? mask_first(16) : last;
        if (to->integers) {
            F32 value = f32_mul_add(sums[part], f32_all(to->unit),
                                    f32_all(128));
            u8_store_some(to->integers + into, there, value);
        } else {
            f32_store_some(to->plain + into, there, sums[part]);
        }
    }
}

/* Mix values [C, E] by the weights of those that are seen. */
INLINE void mixed(const float *weights, const float *values, const Seen *seen, int32_t width,
                  const Mixed *to, size_t place) {
    for (int32_t first = 0; first < width; first += 64) {
        int32_t left = width - first < 64 ? width - first : 64, parts = (left + 15) / 16;
        Mask last = mask_first(left - 16 * (parts - 1));
#define PARTS(number) \
    mixed_parts(weights, values + first, seen, width, number, last, to, place + first)
        switch (parts) { /* sums stay in registers if their number is known when compiling */
        case 1: PARTS(1); break;
        case 2: PARTS(2); break;
        case 3: PARTS(3); break;
        default: PARTS(4);
        }
#undef PARTS
    }
}

/* What attention reads: `count` queries, `stride` entries after each other, keys and values
   [B, G, most, E], and which of them may be seen: entries of `bias` [1 or B, N, most] that are not
   MASKED, or `real` ones [B, most]. The queries are those of all slots [B, N], or of `places`.

   Distances are those of the `position` [B, N] of a query from the `place` [B, most] of a key; none:
   of their indices. A query sees keys less than `window` back (0: all); what stands in the table
   `distances` [H, 2 F + 1], from -F to F, is added to scores; these lie below `cap` (0: anywhere). */
typedef struct {
    const float *queries, *keys, *values, *bias;
    const int32_t *real, *places;
    const int64_t *position;
    const float *place, *distances;
    size_t stride;
    float cap;
    int32_t count, slots, heads, groups, width, most, bias_rows, window, furthest;
} Attention;

/* Return the scores of `count` keys, those at `places` or else from `first` on, with what their
   distances change; what is too far back is no more `visible`. */
INLINE F32 at_distances(const Attention *over, F32 scores, int32_t where, int32_t head,
                        int32_t first, const int32_t *places, int32_t count, Mask *visible) {
    const float *place = over->place + (over->place ? where / over->slots * (size_t)over->most : 0);
    F32 own = f32_all(over->position ? (float)over->position[where]
                                     : (float)(where % over->slots));
    F32 others = f32_of_i32(i32_add(i32_all(first), i32_counted()));
    if (over->place && places) {
        float each[16] = {0};
        for (int key = 0; key < count; key++) each[key] = place[places[key]];
        others = f32_loadu(each);
    } else if (over->place) {
        others = f32_load_some(mask_first(count), place + first);
    }
    F32 distance = f32_sub(own, others);
    if (over->window)
        *visible = f32_less_in(*visible, distance, f32_all((float)over->window));
    if (!over->distances) return scores;
    I32 most = i32_all(over->furthest), index = i32_of_f32(distance);
    index = i32_add(i32_min(index, most), most);
    index = i32_max(index, i32_zero());
    const float *table = over->distances + (size_t)head * (2 * over->furthest + 1);
    return f32_add(scores, f32_gather(table, index));
}

/* Return the entries of scratch memory that attention to up to `most` keys needs in a thread. */
static inline size_t attention_scratch(size_t most) { return 2 * aligned(most + 16); }

/* Return what a slot sees of up to `count` keys; all of them up to the last that it sees, where none
   between them is hidden. Else those from a multiple of 16 on are listed, so that the sums over them
   are those that they would be without the hidden ones. */
INLINE Seen seen_of(const float *bias, int32_t count, int32_t *places) {
    Seen seen = {places, 0, 0};
    while (count > 1 && bias[count - 1] == MASKED) count--;
    while (seen.whole + 16 <= count &&
           mask_bits(f32_greater(f32_loadu(bias + seen.whole), f32_all(MASKED))) == 0xffff)
        seen.whole += 16;
    for (int32_t place = seen.whole; place < count; place++)
        if (bias[place] != MASKED) places[seen.count++] = place;
    seen.count += seen.whole;
    if (!seen.count || seen.count == count) seen.whole = seen.count = count;
    return seen;
}

/* Attend with every head of every slot, of which this thread takes its part; `scores` has as many
   entries as `attention_scratch` says. */
INLINE void attended(const Attention *over, const Team *team, int32_t me, float *scores,
                     const Mixed *to) {
    int32_t width = over->width, most = over->most, shared = over->heads / over->groups, last = -1;
    int32_t *places = (int32_t *)(scores + aligned(most + 16));
    F32 factor = f32_all(1.0f / sqrtf((float)width));
    Range range = part_of(team, me, (int64_t)over->count * over->heads);
    Seen seen = {places, 0, 0};
    for (int32_t index = range.first; index < range.end; index++) {
        int32_t head = index % over->heads, query = index / over->heads;
        int32_t where = over->places ? over->places[query] : query;
        size_t row = where / over->slots, slot = where % over->slots;
        size_t biased = (over->bias_rows > 1 ? row : 0) * over->slots + slot;
        const float *bias = over->bias ? over->bias + biased * most : 0;
        const int32_t *real = over->real + (bias ? 0 : row * most);
        if (query != last && bias) {
            seen = seen_of(bias, most, places);
        } else if (query != last) {
            for (seen.count = most; seen.count > 1 && !real[seen.count - 1];) seen.count--;
            seen.whole = seen.count;
        }
        last = query;
        size_t first = (row * over->groups + head / shared) * most * width;
        const float *own = over->queries + (size_t)query * over->stride + (size_t)head * width;
        for (int32_t place = 0; place < seen.count; place += 16) {
            int32_t left = seen.count - place < 16 ? seen.count - place : 16;
            const int32_t *listed = place < seen.whole ? 0 : places + place - seen.whole;
            Mask there = mask_first(left), visible = there;
            F32 products;
            if (listed)
                products = dots(own, over->keys + first, listed, left, width);
            else
                products = dots(own, over->keys + first + (size_t)place * width, 0, left, width);
            if (!bias)
                visible = i32_nonzero_in(there, real + place);
            else if (!listed)
                visible = f32_greater_in(there, f32_load_some(there, bias + place),
                                         f32_all(MASKED));
            products = f32_mul(products, factor);
            if (over->cap > 0) products = capped(products, over->cap);
            if (over->window || over->distances)
                products = at_distances(over, products, where, head, place, listed, left, &visible);
            f32_store(scores + place, f32_where(visible, products, f32_all(MASKED)));
        }
        softmax(scores, (seen.count + 15) & ~15);
        mixed(scores, over->values + first, &seen, width, to, (size_t)index * width);
    }
}

/* Copy keys and values to [B, G, room, E], behind the `start` slots that a sentence has (0: none).
   Those of a row follow each other, and rows `stride` entries after each other. */
INLINE void kept(const Attention *of, const Team *team, int32_t me, const float *from,
                 const int64_t *start, float *keys, float *values) {
    size_t groups = of->groups, width = of->width;
    Range range = part_of(team, me, of->count);
    for (int32_t index = range.first; index < range.end; index++) {
        int32_t where = of->places ? of->places[index] : index;
        size_t row = where / of->slots;
        size_t place = (start ? (size_t)start[row] : 0) + where % of->slots;
        const float *key = from + index * of->stride, *value = key + groups * width;
        for (size_t group = 0; group < groups; group++, key += width, value += width) {
            size_t entry = ((row * groups + group) * of->most + place) * width;
            memcpy(keys + entry, key, width * sizeof(float));
            memcpy(values + entry, value, width * sizeof(float));
        }
    }
}

#endif
#endif

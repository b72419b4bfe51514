/* What the kernels of all models share: vectors, attention, and threads that compute one pass.

   A row gets the same bits whatever is computed beside it, and in however many threads: sums of
   integers are exact, and every other sum is taken in an order that depends on nothing but the row.

   Shapes: B sentences, N new slots, R = B N rows, C slots there is room for, S source tokens,
   D hidden size, H heads, G heads of keys and values, E width of a head, O outputs, I inputs. */

#ifndef KERNELS_H
#define KERNELS_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define KERNELS 1
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")))
#define INLINE TARGET static inline __attribute__((always_inline, unused))
#define UNUSED TARGET __attribute__((unused)) /* by some of the files that it is part of */
#else
#define KERNELS 0
#endif

/* Number that changes whenever structures or the order of arrays do (`library.VERSION`). */
#define VERSION 3

#define PANEL 64 /* outputs that are multiplied together */
#define MASKED (-FLT_MAX)
#define MOST_THREADS 64

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
            _mm_pause();
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

INLINE __m512 exponential(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
    x = _mm512_min_ps(x, _mm512_set1_ps(88.0f));
    __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    x = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
    x = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), x);
    __m512 y = _mm512_set1_ps(1.9875691500e-4f);
    y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(1.3981999507e-3f));
    y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(8.3334519073e-3f));
    y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(4.1665795894e-2f));
    y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(1.6666665459e-1f));
    y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(0.5f));
    y = _mm512_fmadd_ps(y, _mm512_mul_ps(x, x), _mm512_add_ps(x, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(y, whole);
}

/* Return cap tanh(x / cap). */
INLINE __m512 capped(__m512 x, float cap) {
    __m512 two = _mm512_set1_ps(2.0f), top = _mm512_set1_ps(cap);
    __m512 above = exponential(_mm512_mul_ps(x, _mm512_set1_ps(2.0f / cap)));
    __m512 below = _mm512_div_ps(two, _mm512_add_ps(above, _mm512_set1_ps(1.0f)));
    return _mm512_fnmadd_ps(below, top, top);
}

INLINE __m128i in_8_bits(__m512 value) { /* 0 to 255 */
    return _mm512_cvtusepi32_epi8(
        _mm512_max_epi32(_mm512_cvtps_epi32(value), _mm512_setzero_si512()));
}

/* ---- Rows ---- */

/* Add four products of unsigned with signed bytes to each sum. Written as an intrinsic, GCC copies
   every sum from register to register. */
#define MULTIPLY(sum, bytes, signed_bytes) \
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(signed_bytes))

/* A loop over rows or parts whose sums are to stay in registers. */
#define UNROLLED _Pragma("GCC unroll 8")

#define ROWS 7 /* rows that are multiplied together: more do not fit into the registers */

/* Do something with a number of rows that is known when compiling. */
#define OF_ROWS(count, call) \
    switch (count) {         \
    case 1: call(1); break;  \
    case 2: call(2); break;  \
    case 3: call(3); break;  \
    case 4: call(4); break;  \
    case 5: call(5); break;  \
    case 6: call(6); break;  \
    default: call(7);        \
    }

/* ---- Attention ---- */

/* Return which of the next 16 numbers there are, where `left` are left. */
INLINE __mmask16 lanes(int32_t left) {
    return left < 16 ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff;
}

/* Return the products of a query with 16 keys; past the first `count` the last is repeated. */
INLINE __m512 dots(const float *query, const float *keys, int32_t count, int32_t width) {
    int32_t whole = width & ~15;
    __mmask16 rest = lanes(width - whole);
    __m512 sums[16];
    for (int key = 0; key < 16; key++) {
        const float *other = keys + (size_t)(key < count ? key : count - 1) * width;
        __m512 sum = _mm512_setzero_ps();
        for (int32_t place = 0; place < whole; place += 16)
            sum = _mm512_fmadd_ps(_mm512_loadu_ps(query + place), _mm512_loadu_ps(other + place),
                                  sum);
        if (rest)
            sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(rest, query + whole),
                                  _mm512_maskz_loadu_ps(rest, other + whole), sum);
        sums[key] = sum;
    }
    for (int key = 0; key < 16; key += 2) /* halves of each four lanes, of two keys in turns */
        sums[key] = _mm512_add_ps(_mm512_unpacklo_ps(sums[key], sums[key + 1]),
                                  _mm512_unpackhi_ps(sums[key], sums[key + 1]));
    for (int key = 0; key < 16; key += 4) { /* each four lanes, of four keys in turns */
        __m512d one = _mm512_castps_pd(sums[key]), other = _mm512_castps_pd(sums[key + 2]);
        sums[key] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(one, other)),
                                  _mm512_castpd_ps(_mm512_unpackhi_pd(one, other)));
    }
    for (int key = 0; key < 16; key += 8)
        sums[key] = _mm512_add_ps(_mm512_shuffle_f32x4(sums[key], sums[key + 4], 0x88),
                                  _mm512_shuffle_f32x4(sums[key], sums[key + 4], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(sums[0], sums[8], 0x88),
                         _mm512_shuffle_f32x4(sums[0], sums[8], 0xdd));
}

/* Turn scores, whole vectors of them, into weights that sum to one; those at MASKED weigh nothing. */
INLINE void softmax(float *scores, int32_t whole) {
    __m512 most = _mm512_load_ps(scores);
    for (int32_t place = 16; place < whole; place += 16)
        most = _mm512_max_ps(most, _mm512_load_ps(scores + place));
    __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(most)), sum = _mm512_setzero_ps();
    for (int32_t place = 0; place < whole; place += 16) {
        __m512 score = _mm512_load_ps(scores + place);
        __mmask16 seen = _mm512_cmp_ps_mask(score, _mm512_set1_ps(MASKED), _CMP_GT_OQ);
        __m512 weight = _mm512_maskz_mov_ps(seen, exponential(_mm512_sub_ps(score, largest)));
        _mm512_store_ps(scores + place, weight);
        sum = _mm512_add_ps(sum, weight);
    }
    float total = _mm512_reduce_add_ps(sum); /* none where padding sees nothing */
    __m512 factor = _mm512_set1_ps(total > 0 ? 1.0f / total : 0.0f);
    for (int32_t place = 0; place < whole; place += 16)
        _mm512_store_ps(scores + place, _mm512_mul_ps(_mm512_load_ps(scores + place), factor));
}

/* Where mixed values go: rounded to integers of which `unit` make one, or as they are. */
typedef struct {
    uint8_t *integers;
    float *plain;
    float unit;
} Mixed;

/* Mix `parts` vectors of values, of the last of which there are `last` numbers; rows of them are
   `width` apart. */
INLINE void mixed_parts(const float *weights, const float *values, int32_t count, int32_t width,
                        int parts, __mmask16 last, const Mixed *to, size_t into) {
    __m512 sums[4];
    UNROLLED for (int part = 0; part < parts; part++) sums[part] = _mm512_setzero_ps();
    for (int32_t entry = 0; entry < count; entry++) {
        __m512 weight = _mm512_set1_ps(weights[entry]);
        const float *value = values + (size_t)entry * width;
        UNROLLED for (int part = 0; part < parts; part++) {
            __mmask16 there = part < parts - 1 ? 0xffff : last;
            sums[part] = _mm512_fmadd_ps(
                weight, _mm512_maskz_loadu_ps(there, value + 16 * part), sums[part]);
        }
    }
    UNROLLED for (int part = 0; part < parts; part++, into += 16) {
        __mmask16 there = part < parts - 1 ? 0xffff : last;
        if (to->integers) {
            __m512 value = _mm512_fmadd_ps(sums[part], _mm512_set1_ps(to->unit),
                                           _mm512_set1_ps(128));
            _mm_mask_storeu_epi8(to->integers + into, there, in_8_bits(value));
        } else {
            _mm512_mask_storeu_ps(to->plain + into, there, sums[part]);
        }
    }
}

/* Mix values [C, E] by weights. */
INLINE void mixed(const float *weights, const float *values, int32_t count, int32_t width,
                  const Mixed *to, size_t place) {
    for (int32_t first = 0; first < width; first += 64) {
        int32_t left = width - first < 64 ? width - first : 64, parts = (left + 15) / 16;
        __mmask16 last = lanes(left - 16 * (parts - 1));
#define PARTS(number) \
    mixed_parts(weights, values + first, count, width, number, last, to, place + first)
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

/* Return scores with what their distances change; what is too far back is no more `visible`. */
INLINE __m512 at_distances(const Attention *over, __m512 scores, int32_t where, int32_t head,
                           int32_t first, __mmask16 there, __mmask16 *visible) {
    size_t row = where / over->slots;
    __m512 own = _mm512_set1_ps(over->position ? (float)over->position[where]
                                               : (float)(where % over->slots));
    __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512 others = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_set1_epi32(first), lanes));
    if (over->place) others = _mm512_maskz_loadu_ps(there, over->place + row * over->most + first);
    __m512 distance = _mm512_sub_ps(own, others);
    if (over->window)
        *visible = _mm512_mask_cmp_ps_mask(*visible, distance, _mm512_set1_ps((float)over->window),
                                           _CMP_LT_OQ);
    if (!over->distances) return scores;
    __m512i most = _mm512_set1_epi32(over->furthest), index = _mm512_cvtps_epi32(distance);
    index = _mm512_add_epi32(_mm512_min_epi32(index, most), most);
    index = _mm512_max_epi32(index, _mm512_setzero_si512());
    const float *table = over->distances + (size_t)head * (2 * over->furthest + 1);
    return _mm512_add_ps(scores, _mm512_i32gather_ps(index, table, 4));
}

/* Attend with every head of every slot, of which this thread takes its part. */
INLINE void attended(const Attention *over, const Team *team, int32_t me, float *scores,
                     const Mixed *to) {
    int32_t width = over->width, most = over->most, shared = over->heads / over->groups;
    __m512 factor = _mm512_set1_ps(1.0f / sqrtf((float)width));
    Range range = part_of(team, me, (int64_t)over->count * over->heads);
    for (int32_t index = range.first; index < range.end; index++) {
        int32_t head = index % over->heads, query = index / over->heads;
        int32_t where = over->places ? over->places[query] : query;
        size_t row = where / over->slots, slot = where % over->slots;
        const float *seen = 0;
        const int32_t *real = 0;
        int32_t count = most;
        if (over->bias) {
            seen = over->bias + ((over->bias_rows > 1 ? row : 0) * over->slots + slot) * most;
            while (count > 1 && seen[count - 1] == MASKED) count--;
        } else {
            real = over->real + row * most;
            while (count > 1 && !real[count - 1]) count--;
        }
        size_t first = (row * over->groups + head / shared) * most * width;
        for (int32_t place = 0; place < count; place += 16) {
            int32_t left = count - place < 16 ? count - place : 16;
            __mmask16 there = lanes(left), visible;
            if (seen)
                visible = _mm512_mask_cmp_ps_mask(there, _mm512_maskz_loadu_ps(there, seen + place),
                                                  _mm512_set1_ps(MASKED), _CMP_GT_OQ);
            else
                visible = _mm512_mask_test_epi32_mask(
                    there, _mm512_maskz_loadu_epi32(there, real + place), _mm512_set1_epi32(-1));
            __m512 products = dots(over->queries + (size_t)query * over->stride + (size_t)head * width,
                                   over->keys + first + (size_t)place * width, left, width);
            products = _mm512_mul_ps(products, factor);
            if (over->cap > 0) products = capped(products, over->cap);
            if (over->window || over->distances)
                products = at_distances(over, products, where, head, place, there, &visible);
            _mm512_store_ps(scores + place,
                            _mm512_mask_mov_ps(_mm512_set1_ps(MASKED), visible, products));
        }
        softmax(scores, (count + 15) & ~15);
        mixed(scores, over->values + first, count, width, to, (size_t)index * width);
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

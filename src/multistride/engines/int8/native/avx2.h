/* Vectors of 16 numbers, two registers each, on CPUs with AVX2 and FMA (`avx512.h`: one register).

   `F32` and `I32` hold 16 numbers, `Mask` says which of them. `load` and `store` take addresses that
   are multiples of 64, `loadu` and `storeu` any. What ends in `some` reads or writes those of a mask
   and no other memory; others are zero. What ends in `in` is true in this mask only. */

#ifndef AVX2_H
#define AVX2_H

#define TARGET __attribute__((target("avx2,fma,f16c,bmi,bmi2,popcnt")))
#define INLINE TARGET static inline __attribute__((always_inline, unused))

typedef struct {
    __m256 low, high;
} F32;
typedef struct {
    __m256i low, high;
} I32;
typedef struct {
    __m256i low, high; /* lanes of ones or zeros */
} Mask;

static inline int cpu_fits(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("popcnt");
}

/* ---- Numbers ---- */

INLINE F32 f32_all(float x) {
    F32 all = {_mm256_set1_ps(x), _mm256_set1_ps(x)};
    return all;
}

INLINE F32 f32_zero(void) { return f32_all(0.0f); }

INLINE F32 f32_loadu(const float *from) {
    F32 read = {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
    return read;
}

INLINE F32 f32_load(const float *from) {
    F32 read = {_mm256_load_ps(from), _mm256_load_ps(from + 8)};
    return read;
}

INLINE void f32_storeu(float *to, F32 x) {
    _mm256_storeu_ps(to, x.low);
    _mm256_storeu_ps(to + 8, x.high);
}

INLINE void f32_store(float *to, F32 x) {
    _mm256_store_ps(to, x.low);
    _mm256_store_ps(to + 8, x.high);
}

#define LANEWISE(kind, name, operation)                                         \
    INLINE kind name(kind x, kind y) {                                         \
        kind made = {operation(x.low, y.low), operation(x.high, y.high)};      \
        return made;                                                           \
    }
LANEWISE(F32, f32_add, _mm256_add_ps)
LANEWISE(F32, f32_sub, _mm256_sub_ps)
LANEWISE(F32, f32_mul, _mm256_mul_ps)
LANEWISE(F32, f32_div, _mm256_div_ps)
LANEWISE(F32, f32_max, _mm256_max_ps)
LANEWISE(F32, f32_min, _mm256_min_ps)
LANEWISE(I32, i32_add, _mm256_add_epi32)
LANEWISE(I32, i32_max, _mm256_max_epi32)
LANEWISE(I32, i32_min, _mm256_min_epi32)
#undef LANEWISE

#define LANEWISE(name, operation)                                              \
    INLINE F32 name(F32 x, F32 y, F32 z) {                                     \
        F32 made = {operation(x.low, y.low, z.low), operation(x.high, y.high, z.high)}; \
        return made;                                                           \
    }
LANEWISE(f32_mul_add, _mm256_fmadd_ps)   /* x y + z */
LANEWISE(f32_mul_sub, _mm256_fmsub_ps)   /* x y - z */
LANEWISE(f32_less_mul, _mm256_fnmadd_ps) /* z - x y */
#undef LANEWISE

INLINE F32 f32_abs(F32 x) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    F32 made = {_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
    return made;
}

/* Return the nearest whole numbers, of two as near the even one. */
INLINE F32 f32_rounded(F32 x) {
    F32 made = {_mm256_round_ps(x.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                _mm256_round_ps(x.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
    return made;
}

/* Return x times 2 to whole powers from -126 to 127. */
INLINE F32 f32_times_power(F32 x, F32 power) {
    __m256i bias = _mm256_set1_epi32(127);
    __m256i low = _mm256_add_epi32(_mm256_cvtps_epi32(power.low), bias);
    __m256i high = _mm256_add_epi32(_mm256_cvtps_epi32(power.high), bias);
    F32 factor = {_mm256_castsi256_ps(_mm256_slli_epi32(low, 23)),
                  _mm256_castsi256_ps(_mm256_slli_epi32(high, 23))};
    return f32_mul(x, factor);
}

/* Read numbers of 16 bits. */
INLINE F32 f32_of_16(const uint16_t *from) {
    F32 read = {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)),
                _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 8)))};
    return read;
}

INLINE float f32_sum(F32 x) {
    __m256 eight = _mm256_add_ps(x.low, x.high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

INLINE float f32_largest(F32 x) {
    __m256 eight = _mm256_max_ps(x.low, x.high);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

/* Return the sum of each vector; `of` is overwritten. */
INLINE F32 f32_sums(F32 of[16]) {
    __m256 halves[4];
    for (int first = 0; first < 4; first++) {
        __m256 each[4];
        for (int next = 0; next < 4; next++)
            each[next] = _mm256_add_ps(of[4 * first + next].low, of[4 * first + next].high);
        halves[first] = _mm256_hadd_ps(_mm256_hadd_ps(each[0], each[1]),
                                       _mm256_hadd_ps(each[2], each[3]));
    }
    F32 sums = {_mm256_add_ps(_mm256_permute2f128_ps(halves[0], halves[1], 0x20),
                              _mm256_permute2f128_ps(halves[0], halves[1], 0x31)),
                _mm256_add_ps(_mm256_permute2f128_ps(halves[2], halves[3], 0x20),
                              _mm256_permute2f128_ps(halves[2], halves[3], 0x31))};
    return sums;
}

/* ---- Integers ---- */

INLINE I32 i32_all(int32_t x) {
    I32 all = {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
    return all;
}

INLINE I32 i32_zero(void) { return i32_all(0); }

/* Return 0 to 15. */
INLINE I32 i32_counted(void) {
    I32 made = {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
    return made;
}

INLINE int32_t i32_sum(I32 x) {
    __m256i eight = _mm256_add_epi32(x.low, x.high);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

INLINE int32_t i32_largest(I32 x) {
    __m256i eight = _mm256_max_epi32(x.low, x.high);
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

INLINE I32 i32_of_f32(F32 x) {
    I32 made = {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)};
    return made;
}

INLINE F32 f32_of_i32(I32 x) {
    F32 made = {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)};
    return made;
}

INLINE I32 f32_bits(F32 x) {
    I32 made = {_mm256_castps_si256(x.low), _mm256_castps_si256(x.high)};
    return made;
}

/* Return 16 signed bytes. */
INLINE I32 i32_of_bytes(const int8_t *from) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)from);
    I32 made = {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
    return made;
}

/* Return the entries of a table with these indices. */
INLINE F32 f32_gather(const float *table, I32 index) {
    F32 made = {_mm256_i32gather_ps(table, index.low, 4), _mm256_i32gather_ps(table, index.high, 4)};
    return made;
}

INLINE __m128i in_16_bits(__m256i x) {
    return _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}

/* ---- Masks ---- */

/* Return the first `count` lanes. */
INLINE Mask mask_first(int32_t count) {
    I32 lane = i32_counted();
    __m256i end = _mm256_set1_epi32(count);
    Mask mask = {_mm256_cmpgt_epi32(end, lane.low), _mm256_cmpgt_epi32(end, lane.high)};
    return mask;
}

/* Return a bit for each lane. */
INLINE uint32_t mask_bits(Mask mask) {
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(mask.low)) |
           (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(mask.high)) << 8;
}

INLINE Mask mask_both(Mask x, Mask y) {
    Mask mask = {_mm256_and_si256(x.low, y.low), _mm256_and_si256(x.high, y.high)};
    return mask;
}

#define COMPARED(name, kind)                                                   \
    INLINE Mask name(F32 x, F32 y) {                                           \
        Mask mask = {_mm256_castps_si256(_mm256_cmp_ps(x.low, y.low, kind)),   \
                     _mm256_castps_si256(_mm256_cmp_ps(x.high, y.high, kind))}; \
        return mask;                                                           \
    }                                                                          \
    INLINE Mask name##_in(Mask mask, F32 x, F32 y) { return mask_both(mask, name(x, y)); }
COMPARED(f32_greater, _CMP_GT_OQ)
COMPARED(f32_less, _CMP_LT_OQ)
COMPARED(f32_equal, _CMP_EQ_OQ)
#undef COMPARED

/* Return x in the lanes of a mask, y in others. */
INLINE F32 f32_where(Mask mask, F32 x, F32 y) {
    F32 made = {_mm256_blendv_ps(y.low, x.low, _mm256_castsi256_ps(mask.low)),
                _mm256_blendv_ps(y.high, x.high, _mm256_castsi256_ps(mask.high))};
    return made;
}

/* Return x in the lanes of a mask, zero in others. */
INLINE F32 f32_only(Mask mask, F32 x) {
    F32 made = {_mm256_and_ps(x.low, _mm256_castsi256_ps(mask.low)),
                _mm256_and_ps(x.high, _mm256_castsi256_ps(mask.high))};
    return made;
}

INLINE F32 f32_load_some(Mask mask, const float *from) {
    F32 read = {_mm256_maskload_ps(from, mask.low), _mm256_maskload_ps(from + 8, mask.high)};
    return read;
}

INLINE void f32_store_some(float *to, Mask mask, F32 x) {
    _mm256_maskstore_ps(to, mask.low, x.low);
    _mm256_maskstore_ps(to + 8, mask.high, x.high);
}

INLINE Mask i32_nonzero_in(Mask mask, const int32_t *from) {
    __m256i zero = _mm256_setzero_si256();
    __m256i low = _mm256_maskload_epi32(from, mask.low);
    __m256i high = _mm256_maskload_epi32(from + 8, mask.high);
    Mask made = {_mm256_andnot_si256(_mm256_cmpeq_epi32(low, zero), mask.low),
                 _mm256_andnot_si256(_mm256_cmpeq_epi32(high, zero), mask.high)};
    return made;
}

/* ---- Bytes ---- */

INLINE __m128i in_8_bits(F32 x) {
    I32 whole = i32_of_f32(x);
    return _mm_packus_epi16(in_16_bits(whole.low), in_16_bits(whole.high));
}

/* Store numbers as unsigned bytes, rounded; what is below 0 or above 255 becomes that. */
INLINE void u8_store(uint8_t *to, F32 x) { _mm_storeu_si128((__m128i *)to, in_8_bits(x)); }

/* Store those of a mask, which are the first ones. */
INLINE void u8_store_some(uint8_t *to, Mask mask, F32 x) {
    uint8_t bytes[16];
    u8_store(bytes, x);
    memcpy(to, bytes, (size_t)__builtin_popcount(mask_bits(mask)));
}

/* Store integers as signed bytes; what is below -128 or above 127 becomes that. */
INLINE void s8_store(int8_t *to, I32 x) {
    _mm_storeu_si128((__m128i *)to, _mm_packs_epi16(in_16_bits(x.low), in_16_bits(x.high)));
}

/* ---- Products of bytes ---- */

#define ROWS 6 /* rows that are multiplied together: more do not fit into the registers */

#define INPUTS 32 /* of rows that are widened together */
#define AHEAD 2048 /* bytes between the weights that are read and those that are fetched meanwhile */

/* Add to a sum. Written as an intrinsic, GCC copies sums from register to register and to memory. */
#define SUMMED(sum, more) __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(more))

INLINE __m256i in_16(__m128i bytes, int are_signed) {
    return are_signed ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes);
}

/* Widen bytes, of which there is a multiple of 4, to 16 bits. */
INLINE void widened_row(const char *from, int32_t count, int are_signed, int16_t *to) {
    int32_t place = 0;
    for (; place + 16 <= count; place += 16)
        _mm256_store_si256((__m256i *)(to + place),
                           in_16(_mm_loadu_si128((const __m128i *)(from + place)), are_signed));
    for (; place < count; place += 4) {
        int32_t four;
        memcpy(&four, from + place, 4);
        __m128i wide = _mm256_castsi256_si128(in_16(_mm_cvtsi32_si128(four), are_signed));
        _mm_storel_epi64((__m128i *)(to + place), wide);
    }
}

/* Add products of rows and a panel to their sums: `inputs` of each row, which begin `stride` bytes
   after each other, with weights [inputs / 4][64][4]. Either the weights are signed bytes and the
   rows unsigned ones, or the other way round.

   Bytes are widened to 16 bits, since pairs of products of bytes (`vpmaddubsw`) do not fit into 16:
   each output then has two sums, next to each other. A register has those of four outputs, and as
   many registers are summed at once as there are. */
INLINE void products_added(const void *rows, size_t stride, int count, const void *weights,
                           int32_t inputs, int signed_weights, I32 sums[ROWS][4]) {
    const int fours = count == 1 ? 8 : count == 2 ? 4 : 2;
    _Alignas(32) int16_t entries[ROWS][INPUTS];
    for (int32_t from = 0; from < inputs; from += INPUTS) {
        int32_t some = inputs - from < INPUTS ? inputs - from : INPUTS;
        UNROLLED for (int row = 0; row < count; row++)
            widened_row((const char *)rows + row * stride + from, some, !signed_weights,
                        entries[row]);
        for (int first = 0; first < PANEL / 4; first += fours) {
            const char *columns = (const char *)weights + (size_t)PANEL * from + 16 * first;
            __m256i pairs[ROWS][8];
            UNROLLED for (int row = 0; row < count; row++)
                UNROLLED for (int four = 0; four < fours; four++)
                    pairs[row][four] = _mm256_setzero_si256();
            IN_TURN for (int32_t input = 0; input < some; input += 4, columns += 4 * PANEL) {
                __m256i column[8];
                UNROLLED for (int line = 0; line < (fours + 3) / 4; line++)
                    _mm_prefetch(columns + AHEAD + 64 * line, _MM_HINT_T0);
                UNROLLED for (int four = 0; four < fours; four++)
                    column[four] = in_16(_mm_load_si128((const __m128i *)(columns + 16 * four)),
                                         signed_weights);
                UNROLLED for (int row = 0; row < count; row++) {
                    int64_t four_entries;
                    memcpy(&four_entries, entries[row] + input, 8);
                    __m256i entry = _mm256_set1_epi64x(four_entries);
                    UNROLLED for (int four = 0; four < fours; four++)
                        SUMMED(pairs[row][four], _mm256_madd_epi16(column[four], entry));
                }
            }
            UNROLLED for (int row = 0; row < count; row++)
                UNROLLED for (int four = 0; four < fours; four += 2) {
                    __m256i eight = _mm256_hadd_epi32(pairs[row][four], pairs[row][four + 1]);
                    __m256i *sum = (__m256i *)sums[row] + (first + four) / 2;
                    *sum = _mm256_add_epi32(*sum, _mm256_permute4x64_epi64(eight, 0xd8));
                }
        }
    }
}

#define PARTS_OF(count) 4 /* of a panel whose weights of 4 bits are multiplied in one go */

/* Add to sums of 16 bits (`SUMMED`). */
#define SUMMED_16(sum, more) __asm__("vpaddw %1, %0, %0" : "+x"(sum) : "x"(more))

/* Multiply 32 inputs of rows with unsigned weights of 4 bits [4][64][4], the inputs by fours and the
   next four in the upper half of each byte: the first `parts` of 16 outputs.

   Pairs of such products fit into 16 bits, and so do the sums of eight of them: 16 * 15 * 128 is less
   than 32,768. A register has those of eight outputs, and as many registers are summed at once as
   there are. */
INLINE void halves_multiplied(const int8_t *rows, size_t stride, int count, const uint8_t *weights,
                              int parts, I32 sums[ROWS][4]) {
    const int eights = count == 1 ? 8 : count == 2 ? 4 : 2;
    const __m256i low = _mm256_set1_epi8(15), one = _mm256_set1_epi16(1);
    for (int first = 0; first < 2 * parts; first += eights) {
        __m256i pairs[ROWS][8];
        UNROLLED for (int row = 0; row < count; row++)
            UNROLLED for (int each = 0; each < eights; each++)
                pairs[row][each] = _mm256_setzero_si256();
        const uint8_t *columns = weights + 32 * first;
        IN_TURN for (int eight = 0; eight < 4; eight++, columns += 4 * PANEL) {
            UNROLLED for (int line = 0; line < (eights + 1) / 2; line++)
                _mm_prefetch((const char *)columns + AHEAD + 64 * line, _MM_HINT_T0);
            UNROLLED for (int half = 0; half < 2; half++) {
                __m256i column[8];
                UNROLLED for (int each = 0; each < eights; each++) {
                    __m256i both = _mm256_load_si256((const __m256i *)(columns + 32 * each));
                    if (half) both = _mm256_srli_epi16(both, 4);
                    column[each] = _mm256_and_si256(both, low);
                }
                UNROLLED for (int row = 0; row < count; row++) {
                    int32_t four;
                    memcpy(&four, rows + row * stride + 8 * eight + 4 * half, 4);
                    __m256i entry = _mm256_set1_epi32(four);
                    UNROLLED for (int each = 0; each < eights; each++)
                        SUMMED_16(pairs[row][each], _mm256_maddubs_epi16(column[each], entry));
                }
            }
        }
        UNROLLED for (int row = 0; row < count; row++)
            UNROLLED for (int each = 0; each < eights; each++)
                ((__m256i *)sums[row])[first + each] = _mm256_madd_epi16(pairs[row][each], one);
    }
}

#endif

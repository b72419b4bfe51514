/* Vectors of 16 numbers, one register each, on CPUs with AVX-512 and VNNI. What each name does is
   said in `avx2.h`, where it takes several instructions. */

#ifndef AVX512_H
#define AVX512_H

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")))
#define INLINE TARGET static inline __attribute__((always_inline, unused))

typedef __m512 F32;
typedef __m512i I32;
typedef __mmask16 Mask;

static inline int cpu_fits(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

#define f32_zero _mm512_setzero_ps
#define f32_all _mm512_set1_ps
#define f32_load _mm512_load_ps
#define f32_loadu _mm512_loadu_ps
#define f32_load_some _mm512_maskz_loadu_ps
#define f32_store _mm512_store_ps
#define f32_storeu _mm512_storeu_ps
#define f32_store_some _mm512_mask_storeu_ps
#define f32_add _mm512_add_ps
#define f32_sub _mm512_sub_ps
#define f32_mul _mm512_mul_ps
#define f32_div _mm512_div_ps
#define f32_max _mm512_max_ps
#define f32_min _mm512_min_ps
#define f32_abs _mm512_abs_ps
#define f32_mul_add _mm512_fmadd_ps
#define f32_mul_sub _mm512_fmsub_ps
#define f32_less_mul _mm512_fnmadd_ps
#define f32_rounded(x) _mm512_roundscale_ps(x, 8)
#define f32_times_power _mm512_scalef_ps
#define f32_sum _mm512_reduce_add_ps
#define f32_largest _mm512_reduce_max_ps
#define f32_greater(x, y) _mm512_cmp_ps_mask(x, y, _CMP_GT_OQ)
#define f32_less(x, y) _mm512_cmp_ps_mask(x, y, _CMP_LT_OQ)
#define f32_equal(x, y) _mm512_cmp_ps_mask(x, y, _CMP_EQ_OQ)
#define f32_greater_in(mask, x, y) _mm512_mask_cmp_ps_mask(mask, x, y, _CMP_GT_OQ)
#define f32_less_in(mask, x, y) _mm512_mask_cmp_ps_mask(mask, x, y, _CMP_LT_OQ)
#define f32_where(mask, x, y) _mm512_mask_mov_ps(y, mask, x)
#define f32_only _mm512_maskz_mov_ps
#define f32_gather(table, index) _mm512_i32gather_ps(index, table, 4)
#define f32_of_i32 _mm512_cvtepi32_ps
#define f32_of_16(from) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from)))
#define f32_bits _mm512_castps_si512

#define i32_zero _mm512_setzero_si512
#define i32_all _mm512_set1_epi32
#define i32_counted() _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define i32_add _mm512_add_epi32
#define i32_max _mm512_max_epi32
#define i32_min _mm512_min_epi32
#define i32_sum _mm512_reduce_add_epi32
#define i32_largest _mm512_reduce_max_epi32
#define i32_of_f32 _mm512_cvtps_epi32
#define i32_of_bytes(from) _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(from)))
#define i32_nonzero_in(mask, from) \
    _mm512_mask_test_epi32_mask(mask, _mm512_maskz_loadu_epi32(mask, from), _mm512_set1_epi32(-1))

#define mask_bits(mask) ((uint32_t)(mask))

INLINE Mask mask_first(int32_t count) {
    return count < 16 ? (__mmask16)((1u << count) - 1) : (__mmask16)0xffff;
}

INLINE __m128i in_8_bits(F32 value) {
    return _mm512_cvtusepi32_epi8(i32_max(i32_of_f32(value), i32_zero()));
}

#define u8_store(to, value) _mm_storeu_si128((__m128i *)(to), in_8_bits(value))
#define u8_store_some(to, mask, value) _mm_mask_storeu_epi8(to, mask, in_8_bits(value))
#define s8_store(to, value) _mm_storeu_si128((__m128i *)(to), _mm512_cvtsepi32_epi8(value))

INLINE F32 f32_sums(F32 of[16]) {
    for (int each = 0; each < 16; each += 2) /* halves of each four lanes, of two in turns */
        of[each] = f32_add(_mm512_unpacklo_ps(of[each], of[each + 1]),
                           _mm512_unpackhi_ps(of[each], of[each + 1]));
    for (int each = 0; each < 16; each += 4) { /* each four lanes, of four in turns */
        __m512d one = _mm512_castps_pd(of[each]), other = _mm512_castps_pd(of[each + 2]);
        of[each] = f32_add(_mm512_castpd_ps(_mm512_unpacklo_pd(one, other)),
                           _mm512_castpd_ps(_mm512_unpackhi_pd(one, other)));
    }
    for (int each = 0; each < 16; each += 8)
        of[each] = f32_add(_mm512_shuffle_f32x4(of[each], of[each + 4], 0x88),
                           _mm512_shuffle_f32x4(of[each], of[each + 4], 0xdd));
    return f32_add(_mm512_shuffle_f32x4(of[0], of[8], 0x88),
                   _mm512_shuffle_f32x4(of[0], of[8], 0xdd));
}

/* ---- Products of bytes ---- */

#define ROWS 7 /* rows that are multiplied together: more do not fit into the registers */

#define AHEAD 2048 /* bytes between the weights that are read and those that are fetched meanwhile */

/* Add four products of unsigned with signed bytes to each sum. Written as an intrinsic, GCC copies
   every sum from register to register. */
#define MULTIPLY(sum, bytes, signed_bytes) \
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(signed_bytes))

/* Add the products of four inputs of each row; `entries` are those of the first row. */
INLINE void four_added(const char *entries, size_t stride, int count, const char *columns,
                       int signed_weights, I32 sums[ROWS][4]) {
    __m512i column[4];
    UNROLLED for (int part = 0; part < 4; part++)
        column[part] = _mm512_load_si512(columns + 64 * part);
    UNROLLED for (int row = 0; row < count; row++) {
        int32_t four;
        memcpy(&four, entries + row * stride, 4);
        __m512i entry = _mm512_set1_epi32(four);
        UNROLLED for (int part = 0; part < 4; part++) {
            if (signed_weights)
                MULTIPLY(sums[row][part], entry, column[part]);
            else
                MULTIPLY(sums[row][part], column[part], entry);
        }
    }
}

/* Parts of a panel whose sums, and the values they are added to, fit into the registers. */
#define PARTS_OF(count) ((count) > 4 ? 2 : 4)

/* Four bytes, wherever they are. */
typedef struct {
    char bytes[4];
} Four;

/* The same with all four bytes in memory, which takes no register. */
#define MULTIPLY_ALL(sum, bytes, four) \
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(bytes), "m"(four))

/* Multiply 32 inputs of rows with unsigned weights of 4 bits [4][64][4], the inputs by fours and the
   next four in the upper half of each byte: the first `parts` of 16 outputs. */
INLINE void halves_multiplied(const int8_t *rows, size_t stride, int count, const uint8_t *weights,
                              int parts, I32 sums[ROWS][4]) {
    __m512i low = _mm512_set1_epi8(15);
    UNROLLED for (int row = 0; row < count; row++)
        UNROLLED for (int part = 0; part < parts; part++) sums[row][part] = i32_zero();
    UNROLLED for (int eight = 0; eight < 4; eight++, weights += 4 * PANEL)
        UNROLLED for (int part = 0; part < parts; part++) {
            __m512i both = _mm512_load_si512(weights + 64 * part);
            __m512i first = _mm512_and_si512(both, low);
            __m512i second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
            UNROLLED for (int row = 0; row < count; row++) {
                const Four *four = (const Four *)(rows + row * stride + 8 * eight);
                MULTIPLY_ALL(sums[row][part], first, four[0]);
                MULTIPLY_ALL(sums[row][part], second, four[1]);
            }
        }
}

/* The products of one row only wait for memory: fetching ahead, and not unrolled, they take four
   fifths of the time. Those of several rows take longer for it. */
INLINE void products_added(const void *rows, size_t stride, int count, const void *weights,
                           int32_t inputs, int signed_weights, I32 sums[ROWS][4]) {
    const char *entries = rows, *columns = weights;
    if (count > 1) {
        for (int32_t input = 0; input < inputs; input += 4, columns += 4 * PANEL)
            four_added(entries + input, stride, count, columns, signed_weights, sums);
        return;
    }
    IN_TURN for (int32_t input = 0; input < inputs; input += 4, columns += 4 * PANEL) {
        UNROLLED for (int part = 0; part < 4; part++)
            _mm_prefetch(columns + AHEAD + 64 * part, _MM_HINT_T1);
        four_added(entries + input, stride, count, columns, signed_weights, sums);
    }
}

#endif

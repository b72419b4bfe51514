/* Vectors of 16 numbers, four registers each, on ARM CPUs with dot products of bytes (all of Apple's
   since 2020, most servers and phones since 2018). What each name does is said in `avx2.h`. */

#ifndef NEON_H
#define NEON_H

#include <arm_neon.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif

#ifdef __ARM_FEATURE_DOTPROD
#define TARGET
#else
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define INLINE TARGET static inline __attribute__((always_inline, unused))

typedef struct {
    float32x4_t of[4];
} F32;
typedef struct {
    int32x4_t of[4];
} I32;
typedef struct {
    uint32x4_t of[4]; /* lanes of ones or zeros */
} Mask;

static inline int cpu_fits(void) {
#ifdef __linux__
    return (getauxval(AT_HWCAP) >> 20) & 1; /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
    return 1; /* no Mac lacks them */
#else
    return 0;
#endif
}

#define EACH UNROLLED for (int four = 0; four < 4; four++)

/* ---- Numbers ---- */

INLINE F32 f32_all(float x) {
    F32 made;
    EACH made.of[four] = vdupq_n_f32(x);
    return made;
}

INLINE F32 f32_zero(void) { return f32_all(0.0f); }

INLINE F32 f32_loadu(const float *from) {
    F32 read;
    EACH read.of[four] = vld1q_f32(from + 4 * four);
    return read;
}

INLINE F32 f32_load(const float *from) { return f32_loadu(from); }

INLINE void f32_storeu(float *to, F32 x) { EACH vst1q_f32(to + 4 * four, x.of[four]); }

INLINE void f32_store(float *to, F32 x) { f32_storeu(to, x); }

/* The second number where one of them is none (NaN), as on x86: `vmaxq_f32` returns NaN. */
#define LARGER(x, y) vbslq_f32(vcgtq_f32(x, y), x, y)
#define SMALLER(x, y) vbslq_f32(vcltq_f32(x, y), x, y)

#define LANEWISE(kind, name, operation)                              \
    INLINE kind name(kind x, kind y) {                               \
        kind made;                                                   \
        EACH made.of[four] = operation(x.of[four], y.of[four]);      \
        return made;                                                 \
    }
LANEWISE(F32, f32_add, vaddq_f32)
LANEWISE(F32, f32_sub, vsubq_f32)
LANEWISE(F32, f32_mul, vmulq_f32)
LANEWISE(F32, f32_div, vdivq_f32)
LANEWISE(F32, f32_max, LARGER)
LANEWISE(F32, f32_min, SMALLER)
LANEWISE(I32, i32_add, vaddq_s32)
LANEWISE(I32, i32_max, vmaxq_s32)
LANEWISE(I32, i32_min, vminq_s32)
LANEWISE(Mask, mask_both, vandq_u32)
#undef LANEWISE

INLINE F32 f32_mul_add(F32 x, F32 y, F32 z) { /* x y + z */
    EACH z.of[four] = vfmaq_f32(z.of[four], x.of[four], y.of[four]);
    return z;
}

INLINE F32 f32_mul_sub(F32 x, F32 y, F32 z) { /* x y - z */
    EACH z.of[four] = vfmaq_f32(vnegq_f32(z.of[four]), x.of[four], y.of[four]);
    return z;
}

INLINE F32 f32_less_mul(F32 x, F32 y, F32 z) { /* z - x y */
    EACH z.of[four] = vfmsq_f32(z.of[four], x.of[four], y.of[four]);
    return z;
}

INLINE F32 f32_abs(F32 x) {
    EACH x.of[four] = vabsq_f32(x.of[four]);
    return x;
}

INLINE F32 f32_rounded(F32 x) {
    EACH x.of[four] = vrndnq_f32(x.of[four]);
    return x;
}

INLINE F32 f32_times_power(F32 x, F32 power) {
    EACH {
        int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(power.of[four]), vdupq_n_s32(127));
        x.of[four] = vmulq_f32(x.of[four], vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
    }
    return x;
}

/* Read numbers of 16 bits. */
INLINE F32 f32_of_16(const uint16_t *from) {
    F32 read;
    EACH read.of[four] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + 4 * four)));
    return read;
}

INLINE float f32_sum(F32 x) {
    return vaddvq_f32(vaddq_f32(vaddq_f32(x.of[0], x.of[2]), vaddq_f32(x.of[1], x.of[3])));
}

INLINE float f32_largest(F32 x) {
    float32x4_t most = LARGER(LARGER(x.of[0], x.of[2]), LARGER(x.of[1], x.of[3]));
    float32x4_t others = vextq_f32(most, most, 2);
    most = LARGER(most, others);
    others = vrev64q_f32(most);
    return vgetq_lane_f32(LARGER(most, others), 0);
}

INLINE F32 f32_sums(F32 of[16]) {
    F32 sums;
    EACH {
        float32x4_t each[4];
        UNROLLED for (int next = 0; next < 4; next++) {
            const float32x4_t *x = of[4 * four + next].of;
            each[next] = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
        }
        sums.of[four] = vpaddq_f32(vpaddq_f32(each[0], each[1]), vpaddq_f32(each[2], each[3]));
    }
    return sums;
}

/* ---- Integers ---- */

INLINE I32 i32_all(int32_t x) {
    I32 made;
    EACH made.of[four] = vdupq_n_s32(x);
    return made;
}

INLINE I32 i32_zero(void) { return i32_all(0); }

INLINE I32 i32_counted(void) {
    static const int32_t lanes[4] = {0, 1, 2, 3};
    I32 made;
    EACH made.of[four] = vaddq_s32(vld1q_s32(lanes), vdupq_n_s32(4 * four));
    return made;
}

INLINE int32_t i32_sum(I32 x) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(x.of[0], x.of[2]), vaddq_s32(x.of[1], x.of[3])));
}

INLINE int32_t i32_largest(I32 x) {
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.of[0], x.of[2]), vmaxq_s32(x.of[1], x.of[3])));
}

INLINE I32 i32_of_f32(F32 x) {
    I32 made;
    EACH made.of[four] = vcvtnq_s32_f32(x.of[four]);
    return made;
}

INLINE F32 f32_of_i32(I32 x) {
    F32 made;
    EACH made.of[four] = vcvtq_f32_s32(x.of[four]);
    return made;
}

INLINE I32 f32_bits(F32 x) {
    I32 made;
    EACH made.of[four] = vreinterpretq_s32_f32(x.of[four]);
    return made;
}

INLINE I32 i32_of_bytes(const int8_t *from) {
    int8x16_t bytes = vld1q_s8(from);
    int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    I32 made = {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)),
                 vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))}};
    return made;
}

INLINE F32 f32_gather(const float *table, I32 index) {
    int32_t indices[16];
    float values[16];
    EACH vst1q_s32(indices + 4 * four, index.of[four]);
    for (int lane = 0; lane < 16; lane++) values[lane] = table[indices[lane]];
    return f32_loadu(values);
}

/* ---- Masks ---- */

INLINE Mask mask_first(int32_t count) {
    I32 lane = i32_counted();
    Mask mask;
    EACH mask.of[four] = vcltq_s32(lane.of[four], vdupq_n_s32(count));
    return mask;
}

INLINE uint32_t mask_bits(Mask mask) {
    uint16x8_t low = vcombine_u16(vmovn_u32(mask.of[0]), vmovn_u32(mask.of[1]));
    uint16x8_t high = vcombine_u16(vmovn_u32(mask.of[2]), vmovn_u32(mask.of[3]));
    static const uint8_t powers[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t bits = vandq_u8(vcombine_u8(vmovn_u16(low), vmovn_u16(high)), vld1q_u8(powers));
    return (uint32_t)vaddv_u8(vget_low_u8(bits)) | (uint32_t)vaddv_u8(vget_high_u8(bits)) << 8;
}

#define COMPARED(name, operation)                                    \
    INLINE Mask name(F32 x, F32 y) {                                 \
        Mask mask;                                                   \
        EACH mask.of[four] = operation(x.of[four], y.of[four]);      \
        return mask;                                                 \
    }                                                                \
    INLINE Mask name##_in(Mask mask, F32 x, F32 y) { return mask_both(mask, name(x, y)); }
COMPARED(f32_greater, vcgtq_f32)
COMPARED(f32_less, vcltq_f32)
COMPARED(f32_equal, vceqq_f32)
#undef COMPARED

INLINE F32 f32_where(Mask mask, F32 x, F32 y) {
    EACH y.of[four] = vbslq_f32(mask.of[four], x.of[four], y.of[four]);
    return y;
}

INLINE F32 f32_only(Mask mask, F32 x) { return f32_where(mask, x, f32_zero()); }

INLINE F32 f32_load_some(Mask mask, const float *from) {
    uint32_t bits = mask_bits(mask);
    if (bits == 0xffff) return f32_loadu(from);
    float read[16] = {0};
    for (int lane = 0; lane < 16; lane++)
        if (bits >> lane & 1) read[lane] = from[lane];
    return f32_loadu(read);
}

INLINE void f32_store_some(float *to, Mask mask, F32 x) {
    uint32_t bits = mask_bits(mask);
    float values[16];
    f32_storeu(values, x);
    for (int lane = 0; lane < 16; lane++)
        if (bits >> lane & 1) to[lane] = values[lane];
}

INLINE Mask i32_nonzero_in(Mask mask, const int32_t *from) {
    uint32_t bits = mask_bits(mask);
    int32_t read[16] = {0};
    for (int lane = 0; lane < 16; lane++)
        if (bits >> lane & 1) read[lane] = from[lane];
    Mask made;
    EACH {
        int32x4_t some = vld1q_s32(read + 4 * four);
        made.of[four] = vtstq_s32(some, some);
    }
    return made;
}

/* ---- Bytes ---- */

INLINE uint8x16_t in_8_bits(F32 x) {
    I32 whole = i32_of_f32(x);
    int16x8_t low = vcombine_s16(vqmovn_s32(whole.of[0]), vqmovn_s32(whole.of[1]));
    int16x8_t high = vcombine_s16(vqmovn_s32(whole.of[2]), vqmovn_s32(whole.of[3]));
    return vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
}

INLINE void u8_store(uint8_t *to, F32 x) { vst1q_u8(to, in_8_bits(x)); }

INLINE void u8_store_some(uint8_t *to, Mask mask, F32 x) {
    uint8_t bytes[16];
    u8_store(bytes, x);
    memcpy(to, bytes, (size_t)__builtin_popcount(mask_bits(mask)));
}

INLINE void s8_store(int8_t *to, I32 x) {
    int16x8_t low = vcombine_s16(vqmovn_s32(x.of[0]), vqmovn_s32(x.of[1]));
    int16x8_t high = vcombine_s16(vqmovn_s32(x.of[2]), vqmovn_s32(x.of[3]));
    vst1q_s8(to, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}

/* ---- Products of bytes ---- */

#define ROWS 6 /* rows that are multiplied together: more do not fit into the registers */

/* The instruction multiplies signed with signed bytes. So of those that are unsigned 128 is taken,
   and 128 times the sum of the others added: of each output's weights, or of each row. */
INLINE void products_added(const void *rows, size_t stride, int count, const void *weights,
                           int32_t inputs, int signed_weights, I32 sums[ROWS][4]) {
    const int fours = count > 2 ? 4 : 8;
    const int8x16_t one = vdupq_n_s8(1), half = vdupq_n_s8(-128);
    for (int first = 0; first < PANEL / 4; first += fours) {
        int32x4_t sum[ROWS][8], of_weights[8], of_row[ROWS];
        UNROLLED for (int four = 0; four < fours; four++) of_weights[four] = vdupq_n_s32(0);
        UNROLLED for (int row = 0; row < count; row++) {
            of_row[row] = vdupq_n_s32(0);
            UNROLLED for (int four = 0; four < fours; four++) sum[row][four] = vdupq_n_s32(0);
        }
        const int8_t *columns = (const int8_t *)weights + 16 * first;
        for (int32_t input = 0; input < inputs; input += 4, columns += 4 * PANEL) {
            int8x16_t entry[ROWS];
            UNROLLED for (int row = 0; row < count; row++) {
                int32_t bytes;
                memcpy(&bytes, (const char *)rows + row * stride + input, 4);
                entry[row] = vreinterpretq_s8_s32(vdupq_n_s32(bytes));
                if (signed_weights)
                    entry[row] = veorq_s8(entry[row], half);
                else
                    of_row[row] = vdotq_s32(of_row[row], entry[row], one);
            }
            UNROLLED for (int four = 0; four < fours; four++) {
                int8x16_t column = vld1q_s8(columns + 16 * four);
                if (signed_weights)
                    of_weights[four] = vdotq_s32(of_weights[four], column, one);
                else
                    column = veorq_s8(column, half);
                UNROLLED for (int row = 0; row < count; row++)
                    sum[row][four] = vdotq_s32(sum[row][four], column, entry[row]);
            }
        }
        UNROLLED for (int row = 0; row < count; row++)
            UNROLLED for (int four = 0; four < fours; four++) {
                int32x4_t *whole = (int32x4_t *)sums[row] + first + four;
                int32x4_t others = signed_weights ? of_weights[four] : of_row[row];
                *whole = vaddq_s32(*whole, vmlaq_n_s32(sum[row][four], others, 128));
            }
    }
}

#define PARTS_OF(count) 4 /* of a panel whose weights of 4 bits are multiplied in one go */

/* Multiply 32 inputs of rows with unsigned weights of 4 bits [4][64][4], the inputs by fours and the
   next four in the upper half of each byte: the first `parts` of 16 outputs. */
INLINE void halves_multiplied(const int8_t *rows, size_t stride, int count, const uint8_t *weights,
                              int parts, I32 sums[ROWS][4]) {
    const int fours = count > 2 ? 4 : 8;
    const uint8x16_t low = vdupq_n_u8(15);
    for (int first = 0; first < 4 * parts; first += fours) {
        int32x4_t sum[ROWS][8];
        UNROLLED for (int row = 0; row < count; row++)
            UNROLLED for (int four = 0; four < fours; four++) sum[row][four] = vdupq_n_s32(0);
        const uint8_t *columns = weights + 16 * first;
        for (int eight = 0; eight < 4; eight++, columns += 4 * PANEL)
            UNROLLED for (int half = 0; half < 2; half++) {
                int8x16_t entry[ROWS];
                UNROLLED for (int row = 0; row < count; row++) {
                    int32_t bytes;
                    memcpy(&bytes, rows + row * stride + 8 * eight + 4 * half, 4);
                    entry[row] = vreinterpretq_s8_s32(vdupq_n_s32(bytes));
                }
                UNROLLED for (int four = 0; four < fours; four++) {
                    uint8x16_t both = vld1q_u8(columns + 16 * four);
                    uint8x16_t own = half ? vshrq_n_u8(both, 4) : vandq_u8(both, low);
                    int8x16_t column = vreinterpretq_s8_u8(own);
                    UNROLLED for (int row = 0; row < count; row++)
                        sum[row][four] = vdotq_s32(sum[row][four], column, entry[row]);
                }
            }
        UNROLLED for (int row = 0; row < count; row++)
            UNROLLED for (int four = 0; four < fours; four++)
                ((int32x4_t *)sums[row])[first + four] = sum[row][four];
    }
}

#undef EACH
#endif

/* Linear layers whose inputs are rounded row by row, or in blocks of 64 (`forms.py`, `blocks.py`), or
   in blocks of 32 where the weights have 4 bits (`steps.py`).

   Weights are unsigned (128 is zero) and activations signed, so that what the zero point adds is a
   number of the row and block alone.

   Shapes: R rows, O outputs, I inputs. */

#ifndef LINEAR_H
#define LINEAR_H

#include "kernels.h"

#define BLOCK 64 /* inputs that share a scale, where not all of a row do */

#define SMALL_BLOCK 32 /* inputs whose weights of 4 bits share a step */

/* Weights [O / 64][I / 4][64][4], their scales [O / 64][I / 64 or 1][64], and biases [O] or none.

   Of 4 bits, weights are [O / 64][I / 8][64][4]: the inputs by fours, the next four in the upper half
   of each byte. A weight is its integer times the `step` of its block, in 16 bits, plus the `least`
   weight of it, both [O / 64][I / 32][64]; there is no `scale`. */
typedef struct {
    const uint8_t *weights;
    const float *scale;
    const uint16_t *step, *least;
    const float *bias;
    int32_t inputs;
    int32_t outputs;
} Linear;

#if KERNELS

/* Rows in 8 bits: integers [R, I], and of each block the scale, -128 times the sum of the integers,
   and the sum of what they stand for. */
typedef struct {
    int8_t *integers;
    float *scale;
    int32_t *offset;
    float *sum;
    int32_t block;
} Rows;

/* Return the rows as a matrix wants them rounded. */
static inline Rows rows_for(const Rows *rows, const Linear *matrix) {
    Rows made = *rows;
    if (matrix->step) made.block = SMALL_BLOCK;
    return made;
}

/* Round the block of a row that has this number among all blocks. */
INLINE void rounded_block(const float *from, int32_t size, int8_t *to, const Rows *rows,
                          size_t number) {
    I32 most = i32_zero(); /* as integers: a NaN is larger than all numbers */
    for (int32_t place = 0; place < size; place += 16)
        most = i32_max(
            most, f32_bits(f32_abs(f32_loadu(from + place))));
    int32_t bits = i32_largest(most);
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    F32 factor = f32_all(largest > 0 ? 127.0f / largest : 0.0f);
    I32 sum = i32_zero();
    for (int32_t place = 0; place < size; place += 16) {
        I32 whole = i32_of_f32(f32_mul(f32_loadu(from + place), factor));
        sum = i32_add(sum, whole);
        s8_store(to + place, whole);
    }
    int32_t all = i32_sum(sum);
    rows->scale[number] = largest / 127.0f;
    rows->offset[number] = (int32_t)(-128u * (uint32_t)all); /* a row with a NaN may overflow */
    rows->sum[number] = largest / 127.0f * (float)all;
}

/* Round a row of `width` entries. */
INLINE void rounded_row(const float *from, int32_t width, const Rows *to, size_t row) {
    int32_t size = to->block ? to->block : width;
    size_t blocks = width / size;
    for (size_t block = 0; block < blocks; block++)
        rounded_block(from + block * size, size, to->integers + row * width + block * size, to,
                      row * blocks + block);
}

/* Outputs of up to ROWS rows and one panel, for a number of rows and, where a row has several, a size
   of blocks that are known when compiling. */
INLINE void multiplied_rows(const Rows *rows, size_t row, int count, const Linear *matrix,
                            int32_t panel, int32_t size, F32 values[ROWS][4]) {
    size_t inputs = matrix->inputs, blocks = inputs / size;
    const uint8_t *weights = matrix->weights + (size_t)panel * PANEL * inputs;
    const float *scale = matrix->scale + (size_t)panel * PANEL * blocks;
    UNROLLED for (int each = 0; each < count; each++)
        UNROLLED for (int part = 0; part < 4; part++)
            values[each][part] = matrix->bias
                                     ? f32_loadu(matrix->bias + panel * PANEL + 16 * part)
                                     : f32_zero();
    for (size_t block = 0; block < blocks; block++, scale += PANEL) {
        I32 sums[ROWS][4];
        UNROLLED for (int each = 0; each < count; each++)
            UNROLLED for (int part = 0; part < 4; part++)
                sums[each][part] = i32_all(rows->offset[(row + each) * blocks + block]);
        products_added(rows->integers + row * inputs + block * size, inputs, count, weights, size, 0,
                       sums);
        weights += (size_t)PANEL * size;
        UNROLLED for (int each = 0; each < count; each++) {
            F32 factor = f32_all(rows->scale[(row + each) * blocks + block]);
            UNROLLED for (int part = 0; part < 4; part++)
                values[each][part] = f32_mul_add(
                    f32_of_i32(sums[each][part]),
                    f32_mul(factor, f32_load(scale + 16 * part)), values[each][part]);
        }
    }
}

/* The same for some parts of a panel, and weights of 4 bits. */
INLINE void multiplied_steps(const Rows *rows, size_t row, int count, const Linear *matrix,
                             int32_t panel, int first, int parts, F32 values[ROWS][4]) {
    size_t inputs = matrix->inputs, blocks = inputs / SMALL_BLOCK;
    int32_t output = panel * PANEL + 16 * first;
    const uint8_t *weights = matrix->weights + (size_t)panel * PANEL * inputs / 2 + 64 * first;
    const uint16_t *step = matrix->step + (size_t)panel * PANEL * blocks + 16 * first;
    const uint16_t *least = matrix->least + (size_t)panel * PANEL * blocks + 16 * first;
    F32 some[ROWS][4];
    UNROLLED for (int each = 0; each < count; each++)
        UNROLLED for (int part = 0; part < parts; part++)
            some[each][part] = matrix->bias ? f32_loadu(matrix->bias + output + 16 * part)
                                            : f32_zero();
    for (size_t block = 0; block < blocks; block++, step += PANEL, least += PANEL) {
        I32 sums[ROWS][4];
        halves_multiplied(rows->integers + row * inputs + block * SMALL_BLOCK, inputs, count,
                          weights, parts, sums);
        weights += PANEL * SMALL_BLOCK / 2;
        UNROLLED for (int part = 0; part < parts; part++) {
            F32 one = f32_of_16(step + 16 * part), lowest = f32_of_16(least + 16 * part);
            UNROLLED for (int each = 0; each < count; each++) {
                size_t place = (row + each) * blocks + block;
                F32 factor = f32_mul(f32_all(rows->scale[place]), one);
                some[each][part] = f32_mul_add(lowest, f32_all(rows->sum[place]),
                                               some[each][part]);
                some[each][part] = f32_mul_add(f32_of_i32(sums[each][part]), factor,
                                               some[each][part]);
            }
        }
    }
    UNROLLED for (int each = 0; each < count; each++)
        UNROLLED for (int part = 0; part < parts; part++)
            values[each][first + part] = some[each][part];
}

INLINE void multiplied_some(const Rows *rows, size_t row, int count, const Linear *matrix,
                            int32_t panel, F32 values[ROWS][4]) {
    if (matrix->step) {
#define PART(number)                                                            \
    UNROLLED for (int first = 0; first < 4; first += PARTS_OF(number))          \
        multiplied_steps(rows, row, number, matrix, panel, first, PARTS_OF(number), values)
        OF_ROWS(count, PART)
#undef PART
    } else if (rows->block) {
#define PART(number) multiplied_rows(rows, row, number, matrix, panel, BLOCK, values)
        OF_ROWS(count, PART)
#undef PART
    } else {
#define PART(number) multiplied_rows(rows, row, number, matrix, panel, matrix->inputs, values)
        OF_ROWS(count, PART)
#undef PART
    }
}

/* Multiply rows to [R, O], which is overwritten or added to. */
INLINE void product(const Linear *matrix, const Rows *rows, int32_t count, float *to, int adds,
                    const Team *team, int32_t me) {
    int32_t groups = (count + ROWS - 1) / ROWS;
    /* As many rows in each group where weights have 4 bits: there a row alone costs most. */
    int32_t most = matrix->step ? (count + groups - 1) / groups : ROWS;
    Range range = part_of(team, me, (int64_t)(matrix->outputs / PANEL) * groups);
    for (int32_t index = range.first; index < range.end; index++) {
        int32_t panel = index / groups, row = index % groups * most;
        int32_t some = count - row < most ? count - row : most;
        F32 values[ROWS][4];
        multiplied_some(rows, row, some, matrix, panel, values);
        for (int32_t each = 0; each < some; each++)
            for (int part = 0; part < 4; part++) {
                size_t output = (size_t)panel * PANEL + 16 * part;
                float *place = to + (size_t)(row + each) * matrix->outputs + output;
                F32 value = values[each][part];
                if (adds) value = f32_add(value, f32_load(place));
                f32_store(place, value);
            }
    }
    meet(team);
}

UNUSED static void stored(const Linear *matrix, const Rows *rows, int32_t count, float *to,
                          const Team *team, int32_t me) {
    product(matrix, rows, count, to, 0, team, me);
}

UNUSED static void added(const Linear *matrix, const Rows *rows, int32_t count, float *to,
                         const Team *team, int32_t me) {
    product(matrix, rows, count, to, 1, team, me);
}

/* Round rows that a matrix reads. */
UNUSED static void rounded(const float *from, int32_t count, const Linear *matrix, const Rows *rows,
                           const Team *team, int32_t me) {
    Rows to = rows_for(rows, matrix);
    Range range = part_of(team, me, count);
    for (int32_t row = range.first; row < range.end; row++)
        rounded_row(from + (size_t)row * matrix->inputs, matrix->inputs, &to, row);
    meet(team);
}

/* Return x / (1 + exp(-y)). */
INLINE F32 gated_by(F32 x, F32 y) {
    F32 below = exponential(f32_sub(f32_zero(), y));
    return f32_div(x, f32_add(below, f32_all(1.0f)));
}

#endif
#endif

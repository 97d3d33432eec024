/* Transposing a LANES x LANES tile in registers; included once per float type, whose elements stand for any of their
 * size: they are moved, never computed with. */
#if REAL == 32
FG_INLINE void F(transpose_tile)(T *o, int64_t so, const T *x, int64_t sx)
{
    V r[8], t[8];
    for (int k = 0; k < 8; k++)
        r[k] = F(load)(x + k * sx);
    for (int k = 0; k < 8; k += 2) { /* pairs of rows, then fours, then all */
        t[k] = __builtin_shufflevector(r[k], r[k + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        t[k + 1] = __builtin_shufflevector(r[k], r[k + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int k = 0; k < 8; k += 4)
        for (int h = 0; h < 2; h++) {
            r[k + 2 * h] = __builtin_shufflevector(t[k + h], t[k + 2 + h], 0, 1, 8, 9, 4, 5, 12, 13);
            r[k + 2 * h + 1] = __builtin_shufflevector(t[k + h], t[k + 2 + h], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int k = 0; k < 4; k++) {
        F(store)(o + k * so, __builtin_shufflevector(r[k], r[k + 4], 0, 1, 2, 3, 8, 9, 10, 11));
        F(store)(o + (k + 4) * so, __builtin_shufflevector(r[k], r[k + 4], 4, 5, 6, 7, 12, 13, 14, 15));
    }
}
#else
FG_INLINE void F(transpose_tile)(T *o, int64_t so, const T *x, int64_t sx)
{
    V r[4], t[4];
    for (int k = 0; k < 4; k++)
        r[k] = F(load)(x + k * sx);
    for (int k = 0; k < 4; k += 2) {
        t[k] = __builtin_shufflevector(r[k], r[k + 1], 0, 4, 2, 6);
        t[k + 1] = __builtin_shufflevector(r[k], r[k + 1], 1, 5, 3, 7);
    }
    for (int k = 0; k < 2; k++) {
        F(store)(o + k * so, __builtin_shufflevector(t[k], t[k + 2], 0, 1, 4, 5));
        F(store)(o + (k + 2) * so, __builtin_shufflevector(t[k], t[k + 2], 2, 3, 6, 7));
    }
}
#endif

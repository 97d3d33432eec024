/* The loops around the micro-kernels, for one float type: gemm.c includes this once per type, after gemm_tile.h. */

typedef struct {
    int64_t m, n, k;
    const T *a, *b, *bias;
    T *c;
    int64_t rsa, csa, rsb, csb, ldc, bias_row, bias_col;
    int flags, exchanged; /* Note [Transposed gemv]: a and b are the call's B and A */
} F(problem);

BLOCKS(sigmoids, LOGISTIC_NEAR, sigmoid_near, vsigmoid)
BLOCKS(tanhs, INFINITY, vtanh, vtanh)

static void F(activate)(T *c, int64_t n, int flags)
{
    if ((flags & FG_ACT_MASK) == FG_ACT_SIGMOID)
        F(sigmoids)(c, c, n);
    else if ((flags & FG_ACT_MASK) == FG_ACT_TANH)
        F(tanhs)(c, c, n);
    else
        for (int64_t i = 0; i < n; i++)
            c[i] = c[i] < 0 ? 0 : c[i];
}

/* Adds the bias and applies the activation to a block of C that is complete and still in the cache. */
static void F(finish)(const PROBLEM *g, int64_t i, int64_t rows, int64_t j, int64_t columns)
{
    T *c = g->c + i * g->ldc + j;
    if (g->bias)
        for (int64_t y = 0; y < rows; y++) {
            const T *bias = g->bias + (i + y) * g->bias_row + j * g->bias_col;
            if (g->bias_col == 1)
                for (int64_t x = 0; x < columns; x++)
                    c[y * g->ldc + x] += bias[x];
            else
                for (int64_t x = 0; x < columns; x++)
                    c[y * g->ldc + x] += bias[x * g->bias_col];
        }
    if (!(g->flags & FG_ACT_MASK))
        return;
    if (columns == g->ldc)
        columns *= rows, rows = 1;
    for (int64_t y = 0; y < rows; y++)
        F(activate)(c + y * g->ldc, columns, g->flags);
}

/* How many vectors wide the next panel is, for m rows and the columns that are left: Note [Tile shapes]. */
static inline int F(panel_vectors)(int64_t m, int64_t columns)
{
    static const signed char widest[13] = {0, 8, 4, 3, 3, 2, 2, 3, 3, 2, 2, 2, 2};
    int v = m > 12 ? PANEL_VECTORS : widest[m];
    while (v > 1 && (v - 1) * W >= columns)
        v -= v == 8 ? 4 : 1;
    return v;
}

/* All m rows of one panel of C, in tiles of nearly the same height: Note [Tile shapes]. */
static inline void F(sweep)(TILE *t, int64_t m, int columns, const T *a, const T *b, T *c)
{
    const int vectors = (columns + W - 1) / W;
    t->lanes = columns - (vectors - 1) * W;
    const int last = t->lanes == W ? FULL : VECTOR_BYTES == 64 && t->lanes <= W / 2 ? HALF : PARTIAL;
    const F(micro_fn) *const micro = F(micros)[last][vectors];
    const int most = t->tile_step ? TILE_ROWS : tallest[vectors];
    if (m <= most) {
        micro[m](t, a, b, c);
        return;
    }
    int64_t tiles = (m + most - 1) / most, rows = m / tiles, taller = m % tiles;
    for (; tiles > 0; tiles--, taller--) {
        int64_t height = rows + (taller > 0);
        micro[height](t, a, b, c);
        a += t->tile_step ? t->tile_step : height * t->rsa, c += height * t->ldc;
    }
}

/* C = A B where B has contiguous rows and everything stays in the cache. */
static void F(multiply_small)(const PROBLEM *g)
{
    TILE t = {
        .k = g->k, .rsa = g->rsa, .csa = g->csa, .ldb = g->rsb, .ldc = g->ldc, .resume = g->flags & FG_ACCUMULATE};
    int64_t j = 0;
    do {
        const int columns = (int)min(g->n - j, W * F(panel_vectors)(g->m, g->n - j));
        F(sweep)(&t, g->m, columns, g->a, g->b + j, g->c + j);
        j += columns;
    } while (j < g->n);
    if (g->bias || g->flags & FG_ACT_MASK)
        F(finish)(g, 0, g->m, 0, g->n);
}

/* Note [One row] */
static inline int F(is_row)(const PROBLEM *g)
{
    return g->m == 1 && g->csb == 1 && g->n * (int64_t)sizeof(T) >= ROW_BYTES && g->k > 0;
}

static void F(multiply_row)(const PROBLEM *g)
{
    const int64_t n = g->n, whole = n / (2 * W) * (2 * W);
    T *const c = g->c;
    for (int64_t p = 0; p < g->k; p += ROWS_AT_ONCE) {
        const int rows = (int)min(ROWS_AT_ONCE, g->k - p);
        const T *a = g->a + p * g->csa, *b = g->b + p * g->rsb;
        const int starts = p == 0 && !(g->flags & FG_ACCUMULATE);
        VEC x[ROWS_AT_ONCE];
        UNROLL for (int i = 0; i < ROWS_AT_ONCE; i++) x[i] = SPLAT(a[(i < rows ? i : 0) * g->csa]);
        if (rows == ROWS_AT_ONCE)
            for (int64_t j = 0; j < whole; j += 2 * W) {
                VEC u = starts ? (VEC){0} : LOAD(c + j), v = starts ? (VEC){0} : LOAD(c + j + W);
                UNROLL for (int i = 0; i < ROWS_AT_ONCE; i++)
                {
                    u = F(FMA)(x[i], LOAD(b + i * g->rsb + j), u);
                    v = F(FMA)(x[i], LOAD(b + i * g->rsb + j + W), v);
                }
                STORE(c + j, u);
                STORE(c + j + W, v);
            }
        for (int64_t j = rows == ROWS_AT_ONCE ? whole : 0; j < n; j += W) {
            const int lanes = (int)min(W, n - j);
            VEC u = {0};
            if (!starts)
                u = lanes == W ? LOAD(c + j) : F(load_lanes)(c + j, lanes);
            for (int i = 0; i < rows; i++) {
                const T *at = b + i * g->rsb + j;
                u = F(FMA)(SPLAT(a[i * g->csa]), lanes == W ? LOAD(at) : F(load_lanes)(at, lanes), u);
            }
            if (lanes == W)
                STORE(c + j, u);
            else
                F(store_lanes)(c + j, u, lanes);
        }
    }
    if (g->bias || g->flags & FG_ACT_MASK)
        F(finish)(g, 0, 1, 0, n);
}

/* Note [Transposed gemv] */
static inline int F(is_gemv)(const PROBLEM *g)
{
    return g->m == 1 && g->rsb == 1 && g->csb != 1 && g->n >= TURN;
}

static void F(multiply_gemv)(const PROBLEM *g)
{
    enum { RUN = GEMV_RUN_BYTES / sizeof(T), APART = RUN + QUAD };
    const int vectors = g->n >= GEMV_VECTORS * TURN ? GEMV_VECTORS : 1, columns = vectors * TURN;
    const int gather = g->csb * (int64_t)sizeof(T) % 1024 == 0 && vectors > 1;
    const int64_t step = gather ? RUN : g->k;
    _Alignas(64) T near[GEMV_VECTORS * TURN * APART];
    for (int64_t j = 0; j < g->n; j += columns) {
        const int64_t at =
            min(j, g->n - columns); /* the last columns are a full tile too, of which the end is stored */
        T sums[GEMV_VECTORS * TURN] = {0};
        if (g->flags & FG_ACCUMULATE)
            F(copy)(sums, g->c + at, columns);
        for (int64_t p = 0; p < g->k; p += step) {
            const int64_t k = min(step, g->k - p);
            const T *a = g->a + p * g->csa, *b = g->b + at * g->csb + p;
            for (int i = 0; gather && i < columns; i++)
                F(copy)(near + i * APART, b + i * g->csb, k);
            if (vectors == 1)
                F(gemv)(1, k, a, g->csa, b, g->csb, sums);
            else
                F(gemv)(GEMV_VECTORS, k, a, g->csa, gather ? near : b, gather ? APART : g->csb, sums);
        }
        if (j == at)
            for (int i = 0; i < columns; i += TURN)
                STORE_TURNED(g->c + j + i, LOAD_TURNED(sums + i));
        else
            F(copy)(g->c + j, sums + (j - at), columns - (j - at));
    }
    if (g->bias || g->flags & FG_ACT_MASK)
        F(finish)(g, 0, 1, 0, g->n);
}

/* What is packed, and the extents of the blocks: Note [Packing]. */
typedef struct {
    int64_t m, kc, mc, nc;
    int pack_a;
    int pack_b;              /* NO_PACK ... ALL */
    size_t a_items, b_items; /* scratch memory of one thread */
} F(plan);

static PLAN F(make_plan)(const PROBLEM *g)
{
    PLAN p = {.m = g->m, .kc = g->k, .mc = g->m, .nc = g->n};
    const int64_t kc = fg_blocks.kc, row = kc * (int64_t)sizeof(T), mc_max = fg_blocks.a / row,
                  nc_max = fg_blocks.b / row;
    const int few = g->m <= FEW_ROWS;
    if (g->csb != 1 && g->n > 1)
        p.pack_b = PANEL;
    else if (!few && g->n * g->k * (int64_t)sizeof(T) > fg_blocks.direct_b)
        p.pack_b = RING;
    if (p.pack_b && g->m > mc_max)
        p.pack_b = ALL;
    if (p.pack_b == PANEL) {
        const int v = F(panel_vectors)(g->m, g->n);
        p.kc = even_share(g->k, v > PANEL_VECTORS ? kc * PANEL_VECTORS / v : kc, 8);
    } else if (!few) {
        p.kc = even_share(g->k, kc, 8);
        p.mc = even_share(g->m, mc_max, 2 * TILE_ROWS);
    }
    if (p.pack_b == ALL)
        p.nc = even_share(g->n, nc_max, NR);
    if (p.pack_b == RING || p.pack_b == ALL)
        p.b_items = (size_t)round_up(p.kc * round_up(p.pack_b == RING ? min(p.nc, GROUP * NR) : p.nc, NR), 16);
    if (g->n > 2 * NR && g->m > 8 && g->m * g->k * (int64_t)sizeof(T) > fg_blocks.direct_a) {
        p.pack_a = 1;
        p.mc = even_share(g->m, mc_max, 2 * TILE_ROWS);
        p.a_items = (size_t)round_up((p.kc + ROW_PAD) * (p.mc + TILE_ROWS), 16);
    }
    return p;
}

/* C = A B on one thread. */
static void F(multiply)(const PROBLEM *g, const PLAN *plan, T *work)
{
    if (F(is_gemv)(g)) {
        F(multiply_gemv)(g);
        return;
    }
    if (F(is_row)(g)) {
        F(multiply_row)(g);
        return;
    }
    _Alignas(64) T stack[FG_MOST_KC * NR];
    T *const work_a = work, *const work_b = work + plan->a_items;
    TILE t = {.ldc = g->ldc};
    for (int64_t jc = 0; jc < g->n; jc += plan->nc) {
        const int64_t nc = min(plan->nc, g->n - jc);
        int64_t pc = 0;
        do {
            int64_t kc = min(plan->kc, g->k - pc);
            const int last = pc + kc == g->k;
            for (int64_t ic = 0; ic < g->m; ic += plan->mc) {
                const int64_t mc = min(plan->mc, g->m - ic);
                const T *a = g->a + ic * g->rsa + pc * g->csa;
                t.rsa = g->rsa, t.csa = g->csa;
                if (plan->pack_a) {
                    if (g->csa == 1) {
                        t.rsa = plan->kc + ROW_PAD, t.csa = 1;
                        for (int64_t i = 0; i < mc; i++)
                            F(copy)(work_a + i * t.rsa, a + i * g->rsa, kc);
                    } else {
                        t.rsa = 1, t.csa = TILE_ROWS, t.tile_step = TILE_ROWS * kc;
                        F(pack_tiles)(work_a, a, g->csa, mc, kc);
                    }
                    a = work_a;
                }
                int columns;
                int64_t finished = 0; /* columns; in groups, so that rows are long */
                for (int64_t j = 0; j < nc; j += columns) {
                    columns = (int)min(nc - j,
                                       W * (plan->pack_b >= RING ? PANEL_VECTORS : F(panel_vectors)(plan->m, nc - j)));
                    const T *b = g->b + pc * g->rsb + (jc + j) * g->csb;
                    t.ldb = g->rsb;
                    if (plan->pack_b == PANEL) {
                        t.ldb = (columns + W - 1) / W * W;
                        F(pack_columns)(stack, t.ldb, b, g->rsb, g->csb, kc, columns);
                        b = stack;
                    } else if (plan->pack_b) {
                        T *panel = work_b + (plan->pack_b == ALL ? j : j % (GROUP * NR)) * plan->kc;
                        t.ldb = NR;
                        if (ic == 0 && g->csb != 1)
                            F(pack_columns)(panel, NR, b, g->rsb, g->csb, kc, columns);
                        else if (ic == 0 && j % (GROUP * NR) == 0)
                            F(pack_rows)(panel, plan->kc * NR, b, g->rsb, kc, min(nc - j, GROUP * NR));
                        b = panel;
                    }
                    T *c = g->c + ic * g->ldc + jc + j;
                    t.k = kc, t.resume = pc > 0 || g->flags & FG_ACCUMULATE;
                    F(sweep)(&t, mc, columns, a, b, c);
                    const int64_t ready = j + columns - finished;
                    if (last && (g->bias || g->flags & FG_ACT_MASK) && (ready >= GROUP * NR || j + columns == nc)) {
                        F(finish)(g, ic, mc, jc + finished, ready);
                        finished += ready;
                    }
                }
            }
            pc += kc;
        } while (pc < g->k);
    }
}

static inline void F(set_problem)(PROBLEM *g, const fg_call *call)
{
    *g = (PROBLEM){.m = call->dim[0],
                   .n = call->dim[1],
                   .k = call->dim[2],
                   .c = call->ptr[0],
                   .a = call->ptr[1],
                   .b = call->ptr[2],
                   .bias = call->ptr[3],
                   .ldc = call->stride[0][0],
                   .flags = call->flags,
                   .rsa = call->stride[1][0],
                   .csa = call->stride[1][1],
                   .rsb = call->stride[2][0],
                   .csb = call->stride[2][1],
                   .bias_row = call->stride[3][0],
                   .bias_col = call->stride[3][1]};
    if (g->n == 1 && g->ldc == 1) { /* Note [Transposed gemv] */
        const PROBLEM s = *g;
        g->m = 1, g->n = s.m, g->a = s.b, g->rsa = s.csb, g->csa = s.rsb, g->b = s.a, g->rsb = s.csa, g->csb = s.rsa;
        g->bias_row = s.bias_col, g->bias_col = s.bias_row, g->exchanged = 1;
    }
}

/* The part of the problem that is task (row, column) of a grid, in whole tiles. */
static inline void F(cut)(PROBLEM *g, int64_t rows, int64_t columns, int64_t row, int64_t column)
{
    const int64_t i = row * rows, j = column * columns;
    g->m = min(rows, g->m - i), g->n = min(columns, g->n - j); /* <= 0: nothing is left */
    g->a += i * g->rsa, g->b += j * g->csb, g->c += i * g->ldc + j;
    if (g->bias)
        g->bias += i * g->bias_row + j * g->bias_col;
}

static void F(run_task)(const fg_call *call, const PROBLEM *whole, const grid *s, const PLAN *plan, int64_t task,
                        int thread)
{
    PROBLEM g = *whole;
    const int a = g.exchanged ? 2 : 1; /* which operand of the call g.a is */
    int64_t index = task / s->cuts;
    for (int d = call->ndim + 2; d > 2; d--) {
        const int64_t at = index % call->dim[d];
        index /= call->dim[d];
        g.c += at * call->stride[0][d], g.a += at * call->stride[a][d], g.b += at * call->stride[3 - a][d];
        if (g.bias)
            g.bias += at * call->stride[3][d];
    }
    if (s->cuts > 1)
        F(cut)(&g, s->rows, s->columns, task % s->cuts / s->column_cuts, task % s->cuts % s->column_cuts);
    if (g.m > 0 && g.n > 0)
        F(multiply)(&g, plan, (T *)call->work + (size_t)thread * (plan->a_items + plan->b_items));
}

static size_t F(workspace)(const fg_call *call)
{
    PROBLEM g;
    F(set_problem)(&g, call);
    const grid s = make_grid(call, g.m, g.n, g.k, NR);
    F(cut)(&g, s.rows, s.columns, 0, 0);
    const PLAN p = F(make_plan)(&g);
    return (size_t)s.threads * sizeof(T) * (p.a_items + p.b_items);
}

static void F(matmul)(const fg_call *call)
{
    PROBLEM g;
    F(set_problem)(&g, call);
    if (call->ndim == 0 && g.csb == 1 && g.m > 0 && g.n > 0 && (g.m | g.n | g.k) < 4096 &&
        g.m * g.n * g.k < (g.m == 1 && call->threads > 1 ? ROW_WORK : SMALL_WORK)) {
        if (F(is_row)(&g))
            F(multiply_row)(&g);
        else
            F(multiply_small)(&g);
        return;
    }
    if (call->ndim == 0 && F(is_gemv)(&g) && (g.n | g.k) < 4096 && g.n * g.k < SMALL_WORK) {
        F(multiply_gemv)(&g);
        return;
    }
    const grid s = make_grid(call, g.m, g.n, g.k, NR);
    if (s.tasks == 0)
        return;
    PROBLEM first = g;
    F(cut)(&first, s.rows, s.columns, 0, 0);
    const PLAN plan = F(make_plan)(&first);
    if (s.tasks == 1)
        F(multiply)(&g, &plan, call->work);
    else if (s.threads == 1)
        for (int64_t task = 0; task < s.tasks; task++)
            F(run_task)(call, &g, &s, &plan, task, 0);
    else {
#pragma omp parallel for num_threads(s.threads) schedule(static)
        for (int64_t task = 0; task < s.tasks; task++)
            F(run_task)(call, &g, &s, &plan, task, thread_number());
    }
}

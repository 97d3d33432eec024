/* Runs every kernel over a range of sizes, and prints a digest of the bits of each result, so that two instruction sets
 * can be compared with diff: tests/arm64.sh. Usage: kernels [INSTRUCTION SET]. The arguments come from integer arithmetic
 * alone. Every NaN counts as the same number. Exit status 1: threads have changed a bit, or a kernel is not known here.
 */
#include "dispatch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 1 << 20, OPERANDS = 5 };
static _Alignas(64) char buffer[OPERANDS][MOST * 8], work[1 << 24];
static int isa, failures;

static uint64_t state;
static uint32_t next(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

/* In [-4, 4), every fourth a special one, every fourth a half */
static double number(int special)
{
    static const double specials[] = {0.0, -0.0, INFINITY, -INFINITY, NAN,   1e-320, -1e-40, 1e-300, 1.0,  -1.0,
                                      2.0, 3.0,  -2.0,     0.5,       1e300, 88.8,   -104.0, 1e7,    -1e30};
    const double x = (int32_t)next() * 0x1p-29;
    const uint32_t kind = next() % 4, which = next() % (sizeof specials / sizeof *specials);
    return !special ? x : kind == 0 ? specials[which] : kind == 1 ? floor(x * 2) / 2 : x;
}

static void fill(int f64, int operand, int special)
{
    state = 12345 + (uint64_t)operand;
    for (int i = 0; i < MOST; i++)
        if (f64)
            ((double *)buffer[operand])[i] = number(special);
        else
            ((float *)buffer[operand])[i] = (float)number(special);
}

static uint64_t digest(const void *data, int64_t n, int size)
{
    uint64_t hash = 1469598103934665603u;
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits = 0;
        memcpy(&bits, (const char *)data + i * size, (size_t)size);
        if (size == 4 && (bits & 0x7fffffff) > 0x7f800000)
            bits = 0x7fc00000;
        if (size == 8 && (bits & 0x7fffffffffffffff) > 0x7ff0000000000000)
            bits = 0x7ff8000000000000;
        hash = (hash ^ bits) * 1099511628211u;
    }
    return hash;
}

/* Runs a call on one thread, and as if for three; prints the digest of n elements of the outputs. */
static void run(const char *name, int f64, fg_call *call, int outputs, int64_t n, const int *size, const char *what)
{
    const fg_entry *entry = fg_find(isa, name);
    static char before[4][MOST * 8];
    uint64_t found[2] = {0, 0};
    for (int i = 0; i < outputs; i++)
        memcpy(before[i], buffer[i], sizeof before[i]);
    call->fn = entry->fn[f64];
    call->work = work;
    for (int pass = 0; pass < 2; pass++) {
        call->threads = pass ? 3 : 1;
        if (entry->workspace[f64] && entry->workspace[f64](call) > sizeof work)
            abort();
        call->fn(call);
        for (int i = 0; i < outputs; i++) {
            found[pass] = found[pass] * 31 + digest(buffer[i], n, size[i]);
            memcpy(buffer[i], before[i], sizeof before[i]);
        }
    }
    if (found[0] != found[1]) {
        fprintf(stderr, "%s %s: threads change the result\n", name, what);
        failures++;
    }
    printf("%s f%d %s %016llx\n", name, f64 ? 64 : 32, what, (unsigned long long)found[0]);
}

static fg_call new_call(void)
{
    fg_call call;
    memset(&call, 0, sizeof call);
    for (int i = 0; i < OPERANDS; i++)
        call.ptr[i] = buffer[i];
    return call;
}

static const int sizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 15, 16, 17, 31, 33, 64, 100, 1000, 1025, 5003, 200003};
#define EACH(i, list) for (size_t i = 0; i < sizeof(list) / sizeof *(list); i++)

static void elementwise(const char *name, int f64, int operands, const int *size)
{
    char what[64];
    EACH(s, sizes)
    {
        fg_call call = new_call();
        call.ndim = 1;
        call.dim[0] = sizes[s];
        for (int k = 0; k < operands; k++)
            call.stride[k][0] = 1;
        snprintf(what, sizeof what, "%d", sizes[s]);
        run(name, f64, &call, 1, sizes[s], size, what);
    }
    fg_call call = new_call(); /* rows of 37, of which the first input is transposed and the last one a column */
    call.ndim = 2;
    call.dim[0] = 53, call.dim[1] = 37;
    for (int k = 0; k < operands; k++)
        call.stride[k][0] = 37, call.stride[k][1] = 1;
    call.stride[1][0] = 1, call.stride[1][1] = 53;
    if (operands > 2)
        call.stride[operands - 1][1] = 0;
    run(name, f64, &call, 1, 53 * 37, size, "strided");
    static const double numbers[] = {0, 1, 2, 3, -1, 0.5, 1.7};
    if (strncmp(name, "pow", 3) == 0)
        EACH(i, numbers)
        {
            const int last = operands - 1;
            call.ptr[last] = &call.scalar[last];
            call.stride[last][0] = 0;
            if (f64)
                call.scalar[last].f64 = numbers[i];
            else
                call.scalar[last].f32 = (float)numbers[i];
            snprintf(what, sizeof what, "exponent %g", numbers[i]);
            run(name, f64, &call, 1, 53 * 37, size, what);
        }
}

static void along(const char *name, int f64, int outputs, int keeps, const int *size)
{
    static const int shapes[][3] = {{3, 1, 1}, {3, 5, 1},  {4, 33, 1},    {2, 1025, 1}, {1, 400003, 1}, {3, 3, 2},
                                    {2, 7, 5}, {1, 33, 8}, {2, 1030, 70}, {1, 3000, 9}, {5, 40, 130}};
    char what[64];
    EACH(s, shapes)
    {
        fg_call call = new_call();
        int64_t n = 1;
        for (int d = 0; d < 3; d++)
            n *= call.dim[d] = shapes[s][d];
        snprintf(what, sizeof what, "%d %d %d", shapes[s][0], shapes[s][1], shapes[s][2]);
        run(name, f64, &call, outputs, keeps ? n : n / shapes[s][1], size, what);
    }
}

static void matmul(int f64)
{
    static const int shapes[][3] = {{1, 1, 1},     {2, 5, 1},      {5, 17, 0},    {7, 33, 20},
                                    {13, 64, 128}, {65, 130, 385}, {33, 90, 999}, {64, 256, 256},
                                    {40, 1, 512},  {40, 1, 777},   {1, 50, 512},  {1, 300, 900}};
    static const int flags[] = {0, FG_ACCUMULATE, FG_ACT_RELU, FG_ACT_SIGMOID, FG_ACT_TANH};
    const int size[] = {f64 ? 8 : 4};
    char what[64];
    EACH(s, shapes)
    EACH(f, flags) for (int form = 0; form < 8; form++)
    {
        const int m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
        fg_call call = new_call();
        call.dim[0] = m, call.dim[1] = n, call.dim[2] = k, call.flags = flags[f];
        call.stride[0][0] = n, call.stride[0][1] = 1;
        call.stride[1][0] = form & 1 ? 1 : k, call.stride[1][1] = form & 1 ? m : 1;
        call.stride[2][0] = form & 2 ? 1 : n, call.stride[2][1] = form & 2 ? k : 1;
        call.stride[3][1] = 1;
        if (!(form & 4)) /* no bias */
            call.ptr[3] = NULL;
        snprintf(what, sizeof what, "%d %d %d flags %d form %d", m, n, k, flags[f], form);
        run("matmul", f64, &call, 1, (int64_t)m * n, size, what);
    }
}

static void sgd(int f64)
{
    static const double hyper[][7] = {{0.1}, {0.1, 0.9, 0.3, 0.01}, {0.1, 0.9, 0, 0.01, 1}, {0.1, 0, 0, 0.01, 0, 1}};
    const int size[] = {f64 ? 8 : 4, f64 ? 8 : 4};
    char what[64];
    EACH(h, hyper)
    EACH(s, sizes)
    {
        fg_call call = new_call();
        call.ndim = 1;
        call.dim[0] = sizes[s];
        call.ptr[3] = (void *)hyper[h];
        if (h == 0)
            call.ptr[1] = NULL;
        snprintf(what, sizeof what, "%d %d", (int)h, sizes[s]);
        run("sgd", f64, &call, 2, sizes[s], size, what);
    }
}

static const double settings[][8] = {/* maximize, lr, eps, weight_decay, decoupled, and the rule's own */
                                     {0, 0.1, 1e-8, 0, 0, 0.9, 0.99, 0.004},
                                     {1, 0.01, 1e-6, 0.1, 0, 0.5, 0.9, 0.1},
                                     {0, 0.01, 1e-6, 0.1, 1, 0.8, 0.999, 0}};

static void coefficients(void)
{
    const int size[] = {8, 4, 4};
    char what[64];
    EACH(s, settings)
    for (int rule = 0; rule < 7; rule++)
        for (int step = 0; step < 9; step += 4) {
            double hyper[9] = {rule};
            fg_call call = new_call();
            call.ndim = 1, call.dim[0] = 10;
            memcpy(hyper + 1, settings[s], sizeof settings[s]);
            call.ptr[3] = hyper;
            ((float *)buffer[1])[0] = (float)step;
            ((float *)buffer[2])[0] = 0.75f;
            snprintf(what, sizeof what, "%d rule %d step %d", (int)s, rule, step);
            run("coefficients", 1, &call, 3, 10, size, what);
        }
}

static void update(int f64)
{
    const int bytes = f64 ? 8 : 4, size[] = {bytes, bytes, bytes, bytes};
    char what[64];
    EACH(s, sizes)
    for (int rule = 0; rule < 7; rule++)
        for (int third = 0; third < 2; third++) {
            const double c[] = {rule, third ? -1 : 1, 0.1 * third, third ? 0.9 : 1, 1e-8, 0.1, 0.9, 0.3, 0.01, 1.25};
            fg_call call = new_call();
            call.ndim = 1, call.dim[0] = sizes[s];
            if (!third)
                call.ptr[3] = NULL;
            call.ptr[5] = (void *)c;
            snprintf(what, sizeof what, "%d rule %d with %d", sizes[s], rule, third);
            run("update", f64, &call, 4, sizes[s], size, what);
        }
}

#define UNARY(name, cost, expression) {#name, 2, 0},
#define UNARY_NEAR(name, cost, near, fast, any) {#name, 2, 0},
#define BINARY(name, cost, expression) {#name, 3, 0},
#define SCALED(name, expression) {#name, 4, 0},
#define POWER(name, expression) {#name, 3, 0},
#define POWER_BACKWARD(name, expression) {#name, 4, 0},
#define FIXED_POWER(...)
#define FIXED_POWER_BACKWARD(...)
#define COMPARE(name, expression) {#name, 3, 1},
static const struct {
    const char *name;
    int operands, compares;
} operations[] = {
#include "elementwise_list.h"
};

static int test(const char *name, int f64)
{
    static const struct {
        const char *name;
        int to; /* bytes; 0: of the type */
    } moves[] = {{"copy1", 1},        {"copy2", 2},   {"copy4", 4},    {"copy8", 8},   {"cast_f32_f64", 8},
                 {"cast_f64_f32", 4}, {"cast_u8", 0}, {"cast_i32", 0}, {"cast_i64", 0}};
    static const char *const reductions[] = {"sum", "mean", "amax", "amin"};
    static const char *const indexed[] = {"max_index", "min_index"};
    static const char *const rowwise[] = {"softmax", "log_softmax", "softmax_backward", "log_softmax_backward"};
    const int size = f64 ? 8 : 4;
    for (int i = 0; i < OPERANDS; i++)
        fill(strncmp(name, "cast_f", 6) == 0 ? name[6] == '6' : f64, i,
             !strstr(name, "softmax") && strcmp(name, "matmul"));
    EACH(i, operations) if (strcmp(name, operations[i].name) == 0)
    {
        elementwise(name, f64, operations[i].operands, &(int){operations[i].compares ? 1 : size});
        return 1;
    }
    EACH(i, moves) if (strcmp(name, moves[i].name) == 0)
    {
        elementwise(name, f64, 2, &(int){moves[i].to ? moves[i].to : size});
        return 1;
    }
    EACH(i, reductions) if (strcmp(name, reductions[i]) == 0) return along(name, f64, 1, 0, &size), 1;
    EACH(i, indexed) if (strcmp(name, indexed[i]) == 0) return along(name, f64, 2, 0, (int[]){size, 8}), 1;
    EACH(i, rowwise) if (strcmp(name, rowwise[i]) == 0) return along(name, f64, 1, 1, &size), 1;
    if (strcmp(name, "where") == 0) {
        for (int i = 0; i < MOST; i++)
            buffer[1][i] = next() % 2;
        return elementwise(name, f64, 4, &size), 1;
    }
    if (strcmp(name, "sgd") == 0)
        return sgd(f64), 1;
    if (strcmp(name, "update") == 0)
        return update(f64), 1;
    if (strcmp(name, "coefficients") == 0)
        return f64 ? coefficients() : (void)0, 1;
    if (strcmp(name, "matmul") == 0)
        return matmul(f64), 1;
    return 0;
}

static void checksums(void)
{
    fill(0, 0, 1);
    for (int64_t nbytes = 1; nbytes <= MOST * 8; nbytes = nbytes * 5 / 2 + 3) {
        const uint64_t one = fg_checksum_of(isa)(buffer[0], 1, &nbytes, (int64_t[]){1}, 1, 1);
        if (fg_checksum_of(isa)(buffer[0], 1, &nbytes, (int64_t[]){1}, 1, 3) != one)
            failures++;
        printf("checksum %lld %016llx\n", (long long)nbytes, (unsigned long long)one);
    }
}

int main(int argc, char **argv)
{
    for (isa = fg_isa_count() - 1; isa > 0; isa--)
        if (argc > 1 ? strcmp(fg_isa_name(isa), argv[1]) == 0 : fg_isa_supported(isa))
            break;
    if (argc > 1 && strcmp(fg_isa_name(isa), argv[1]) != 0) {
        fprintf(stderr, "no instruction set is named %s\n", argv[1]);
        return 1;
    }
    const fg_entry *entry;
    for (int i = 0; (entry = fg_entry_at(isa, i)); i++)
        for (int f64 = 0; f64 < 2; f64++)
            if (entry->fn[f64] && !test(entry->name, f64)) {
                fprintf(stderr, "%s: what it takes is not known here\n", entry->name);
                failures++;
            }
    checksums();
    return failures != 0;
}

/* The updates of optimisers, of one float type, over contiguous memory; included by elementwise_real.h.
 *
 * Note [Two launches]: what an adaptive optimiser's step multiplies by depends on the number of steps so far and on
 * values that may have changed, and is the same for all elements of a parameter. `coefficients` counts the step and
 * writes those numbers to memory; `update` reads them. So both can be replayed as they are.
 */

/* The update of torch.optim.SGD, with its order of operations; contiguous. ptr: parameter, momentum buffer or NULL,
 * gradient, and double[7]: lr, momentum, dampening, weight_decay, nesterov, maximize, first_step. */
static void F(sgd_range)(const fg_call *call, MAYBE const void *context, int64_t begin, int64_t end)
{
    T *p = (T *)call->ptr[0] + begin, *buffer = call->ptr[1] ? (T *)call->ptr[1] + begin : NULL;
    const T *g = (const T *)call->ptr[2] + begin;
    const double *hyper = (const double *)call->ptr[3];
    const V rate = F(splat)((T)-hyper[0]), momentum = F(splat)((T)hyper[1]), kept = F(splat)((T)(1 - hyper[2]));
    const V decay = F(splat)((T)hyper[3]);
    const V sign = F(splat)(hyper[5] != 0 ? -1 : 1);
    const int decays = hyper[3] != 0, nesterov = hyper[4] != 0, first = hyper[6] != 0;
    const int64_t n = end - begin;
    SWEEP({
        V x = TAKE(p);
        V d = TAKE(g) * sign;
        if (decays)
            d = F(fma)(decay, x, d);
        if (buffer) {
            V b = first ? d : F(fma)(kept, d, TAKE(buffer) * momentum);
            PUT(buffer, b);
            d = nesterov ? F(fma)(momentum, b, d) : b;
        }
        PUT(p, F(fma)(rate, d, x));
    });
}

/* All elements, in spans. */
static void F(run_spans)(const fg_call *call, fg_range range, int64_t pays_from)
{
    int64_t n = 1;
    for (int d = 0; d < call->ndim; d++)
        n *= call->dim[d];
    fg_run(call, NULL, range, n, 64, n, pays_from);
}

static void F(sgd)(const fg_call *call)
{
    F(run_spans)(call, F(sgd_range), CHEAP);
}

/* How they are numbered in hyper[0]; optim/adaptive.py has the same list. */
#ifndef FG_UPDATES
#define FG_UPDATES
enum { ADAM, ADAMAX, NADAM, RADAM, RMSPROP, ADAGRAD, ADADELTA };
enum { RULE, SIGN, DECAY, SHRINK, EPS, C0, C1, C2, C3, C4, COEFFICIENTS };
#endif

#if REAL == 64
static double power(double x, double y)
{
    return F(vpow)(F(splat)(x), F(splat)(y))[0];
}

/* ptr: double[COEFFICIENTS] for `update`, the steps so far (float32), NAdam's product (float32) or NULL, and the
 * optimiser's double[9]: rule, maximize, lr, eps, weight_decay, is the decay decoupled, and up to three more. */
static void coefficients(const fg_call *call)
{
    double *c = (double *)call->ptr[0];
    float *step = (float *)call->ptr[1], *product = (float *)call->ptr[2];
    const double *hyper = (const double *)call->ptr[3];
    const double lr = hyper[2], decay = hyper[4], a = hyper[6], b = hyper[7];
    const double t = *step += 1;
    c[RULE] = hyper[0];
    c[SIGN] = hyper[1] != 0 ? -1 : 1;
    c[DECAY] = hyper[5] != 0 ? 0 : decay;
    c[SHRINK] = hyper[5] != 0 ? 1 - lr * decay : 1;
    c[EPS] = hyper[3];
    c[C0] = 1 - a;
    c[C1] = b;
    c[C2] = 1 - b;
    switch ((int)hyper[0]) {
    case ADAM:
        c[C3] = lr / (1 - power(a, t));
        c[C4] = 1 / __builtin_sqrt(1 - power(b, t));
        break;
    case ADAMAX:
        c[C3] = lr / (1 - power(a, t));
        break;
    case NADAM: {
        const double now = a * (1 - 0.5 * power(0.96, t * hyper[8]));
        const double after = a * (1 - 0.5 * power(0.96, (t + 1) * hyper[8]));
        *product *= (float)now;
        c[C2] = 1 / (1 - power(b, t));
        c[C3] = lr * (1 - now) / (1 - (double)*product);
        c[C4] = lr * after / (1 - (double)*product * after);
        break;
    }
    case RADAM: {
        const double left = power(b, t), most = 2 / (1 - b) - 1, rho = most - 2 * t * left / (1 - left);
        c[C3] = lr / (1 - power(a, t));
        c[C4] =
            rho > 5 ? __builtin_sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho) * (1 - left)) : 0;
        break;
    }
    case RMSPROP: /* alpha, momentum, centered */
        c[C1] = a;
        c[C2] = b;
        c[C3] = lr;
        break;
    case ADAGRAD: /* lr_decay */
        c[C3] = lr / (1 + (t - 1) * a);
        break;
    case ADADELTA: /* rho */
        c[C1] = a;
        c[C3] = lr;
        break;
    }
}
#endif

/* ptr: parameter; up to three buffers of the optimiser's, in the order of adaptive.py; gradient; coefficients. The
 * operations are PyTorch's, in its order. */
static void F(update_range)(const fg_call *call, MAYBE const void *context, int64_t begin, int64_t end)
{
    T *p = (T *)call->ptr[0] + begin, *s[3];
    for (int k = 0; k < 3; k++)
        s[k] = call->ptr[k + 1] ? (T *)call->ptr[k + 1] + begin : NULL;
    T *const first = s[0], *const second = s[1], *const third = s[2];
    const T *grad = (const T *)call->ptr[4] + begin;
    const double *c = (const double *)call->ptr[5];
    const V sign = F(splat)((T)c[SIGN]), decay = F(splat)((T)c[DECAY]), shrink = F(splat)((T)c[SHRINK]);
    const V eps = F(splat)((T)c[EPS]), c0 = F(splat)((T)c[C0]), c1 = F(splat)((T)c[C1]), c2 = F(splat)((T)c[C2]);
    const V rate = F(splat)((T)-c[C3]), c4 = F(splat)((T)c[C4]);
    const int decays = c[DECAY] != 0, rectifies = c[C4] != 0;
    const int64_t n = end - begin;
#define UPDATE(...) \
    SWEEP({ \
        V x = TAKE(p), g = TAKE(grad) * sign; \
        if (decays) \
            g = F(fma)(decay, x, g); \
        x = x * shrink; \
        __VA_ARGS__; \
        PUT(p, x); \
    }); \
    break

#define MOMENTS(kept) /* the moving averages of g and of its square, 1 - c1 being `kept` */ \
    V m = TAKE(first), v = TAKE(second); \
    m = F(fma)(c0, g - m, m); \
    v = F(fma)((kept) * g, g, v * c1); \
    PUT(first, m); \
    PUT(second, v)

    switch ((int)c[RULE]) {
    case ADAM: /* m, v, with amsgrad the largest v */
        UPDATE({
            MOMENTS(c2);
            if (third) {
                const V before = TAKE(third);
                v = F(choose)(v != v, v, F(maxv)(before, v));
                PUT(third, v);
            }
            x = F(fma)(rate, m / F(fma)(F(sqrtv)(v), c4, eps), x);
        });
    case ADAMAX: /* m, the largest decayed |g| */
        UPDATE({
            V m = TAKE(first), u = TAKE(second) * c1;
            const V size = F(absv)(g) + eps;
            m = F(fma)(c0, g - m, m);
            u = F(choose)(size != size, size, F(maxv)(u, size));
            PUT(first, m);
            PUT(second, u);
            x = F(fma)(rate, m / u, x);
        });
    case NADAM: { /* m, v */
        const V kept = F(splat)((T)(1 - c[C1]));
        UPDATE({
            MOMENTS(kept);
            const V below = F(sqrtv)(v * c2) + eps;
            x = F(fma)(rate, g / below, x);
            x = F(fma)(-c4, m / below, x);
        });
    }
    case RADAM: /* m, v */
        UPDATE({
            MOMENTS(c2);
            x = F(fma)(rate, rectifies ? m * (c4 / (F(sqrtv)(v) + eps)) : m, x);
        });
    case RMSPROP: /* v, the momentum's buffer, the mean gradient */
        UPDATE({
            V v = F(fma)(c0 * g, g, TAKE(first) * c1);
            PUT(first, v);
            if (third) {
                V mean = TAKE(third);
                mean = F(fma)(c0, g - mean, mean);
                PUT(third, mean);
                v = F(fma)(-mean, mean, v);
            }
            V d = g / (F(sqrtv)(v) + eps);
            if (second) {
                d = F(fma)(TAKE(second), c2, d);
                PUT(second, d);
            }
            x = F(fma)(rate, d, x);
        });
    case ADAGRAD: /* the sum of squares */
        UPDATE({
            const V sum = F(fma)(g, g, TAKE(first));
            PUT(first, sum);
            x = F(fma)(rate, g / (F(sqrtv)(sum) + eps), x);
        });
    case ADADELTA: /* v, the same of the changes */
        UPDATE({
            V v = F(fma)(c0 * g, g, TAKE(first) * c1), u = TAKE(second);
            const V d = F(sqrtv)(u + eps) / F(sqrtv)(v + eps) * g;
            u = F(fma)(c0 * d, d, u * c1);
            PUT(first, v);
            PUT(second, u);
            x = F(fma)(rate, d, x);
        });
    }
#undef UPDATE
#undef MOMENTS
}

static void F(update)(const fg_call *call)
{
    F(run_spans)(call, F(update_range), COSTLY);
}

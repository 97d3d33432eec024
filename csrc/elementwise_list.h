/* The elementwise kernels: one line each. An expression is over vectors x, y, z of T; EACH(f) calls the C library
 * lane by lane. The cost says from how many elements on two threads are faster than one (loop.h).
 *
 *       name              cost    expression
 */
UNARY(neg, CHEAP, -x)
UNARY(abs, CHEAP, F(vabs)(x))
UNARY(sign, CHEAP, F(choose)(x > 0, F(splat)(1), F(choose)(x < 0, F(splat)(-1), F(choose)(x == 0, F(splat)(0), x))))
UNARY(square, CHEAP, x *x)
UNARY(sqrt, CHEAP, F(vsqrt)(x))
UNARY(rsqrt, CHEAP, 1 / F(vsqrt)(x))
UNARY(reciprocal, CHEAP, 1 / x)
UNARY(relu, CHEAP, F(choose)(x < 0, F(splat)(0), x))
UNARY(exp, COSTLY, F(vexp)(x))
UNARY(log, COSTLY, F(vlog)(x))
UNARY(tanh, COSTLY, F(vtanh)(x))
UNARY(sigmoid, COSTLY, F(vsigmoid)(x))
UNARY(floor, CHEAP, EACH(floor))
UNARY(expm1, COSTLY, EACH(expm1))
UNARY(log1p, COSTLY, EACH(log1p))
UNARY(sin, COSTLY, EACH(sin))
UNARY(cos, COSTLY, EACH(cos))
UNARY(erf, COSTLY, EACH(erf))

BINARY(add, CHEAP, x + y)
BINARY(sub, CHEAP, x - y)
BINARY(mul, CHEAP, x *y)
BINARY(div, CHEAP, x / y)
BINARY(maximum, CHEAP, F(choose)((x > y) | (x != x), x, y))
BINARY(minimum, CHEAP, F(choose)((x < y) | (x != x), x, y))
BINARY(pow, COSTLY, F(vpow)(x, y))
BINARY(sigmoid_backward, CHEAP, x *y *(1 - y))
BINARY(tanh_backward, CHEAP, x *(1 - y * y))
BINARY(relu_backward, CHEAP, F(choose)(y > 0, x, F(splat)(0)))

TERNARY(pow_backward, COSTLY, F(choose)(z == 0, F(splat)(0), x *z *F(vpow)(y, z - 1)))

COMPARE(eq, x == y)
COMPARE(ne, x != y)
COMPARE(lt, x < y)
COMPARE(le, x <= y)
COMPARE(gt, x > y)
COMPARE(ge, x >= y)

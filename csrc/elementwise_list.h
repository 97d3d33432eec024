/* The elementwise kernels: one line each. An expression is over vectors x, y, z of T. The cost says from how many
 * elements on two threads are faster than one (loop.h). UNARY_NEAR names functions of vmath.h instead.
 *
 *       name                 cost    expression
 */
/* clang-format off: it reads x * x as a declaration */
UNARY(neg, CHEAP, -x)
UNARY(abs, CHEAP, F(absv)(x))
UNARY(sign, CHEAP, F(choose)(x > 0, F(splat)(1), F(choose)(x < 0, F(splat)(-1), F(splat)(0))))
UNARY(square, CHEAP, x * x)
UNARY(sqrt, CHEAP, F(sqrtv)(x))
UNARY(rsqrt, CHEAP, 1 / F(sqrtv)(x))
UNARY(reciprocal, CHEAP, 1 / x)
UNARY(relu, CHEAP, F(maxv)(F(splat)(0), x))
UNARY(floor, CHEAP, F(vfloor)(x))
UNARY_NEAR(exp, COSTLY, EXP_NEAR, exp_near, vexp)
UNARY_NEAR(expm1, COSTLY, INFINITY, vexpm1, vexpm1)
UNARY(log, COSTLY, F(vlog)(x))
UNARY(log1p, COSTLY, F(vlog1p)(x))
UNARY(sin, COSTLY, F(vsin)(x))
UNARY(cos, COSTLY, F(vcos)(x))
UNARY_NEAR(tanh, COSTLY, INFINITY, vtanh, vtanh)
UNARY_NEAR(sigmoid, COSTLY, LOGISTIC_NEAR, sigmoid_near, vsigmoid)
UNARY(erf, COSTLY, F(verf)(x))

BINARY(add, CHEAP, x + y)
BINARY(sub, CHEAP, x - y)
BINARY(mul, CHEAP, x * y)
BINARY(div, CHEAP, x / y)
BINARY(maximum, CHEAP, F(choose)(x != x, x, F(maxv)(x, y)))
BINARY(minimum, CHEAP, F(choose)(x != x, x, F(minv)(x, y)))
BINARY(sigmoid_backward, CHEAP, x * y * (1 - y))
BINARY(tanh_backward, CHEAP, x * (1 - y * y))
BINARY(relu_backward, CHEAP, F(choose)(y <= 0, F(splat)(0), x))

/* x^y, and its derivative y x^(y-1) times x; an exponent that is one number takes the lines below, if it is there */
POWER(pow, F(vpow)(x, y))
POWER_BACKWARD(pow_backward, F(choose)(z == 0, F(splat)(0), x * (z * F(vpow)(y, z - 1))))

/*          name               exponent  expression */
FIXED_POWER(pow_zero, 0, F(splat)(1))
FIXED_POWER(pow_one, 1, x)
FIXED_POWER(pow_two, 2, x * x)
FIXED_POWER(pow_three, 3, x * x * x)
FIXED_POWER(pow_minus_one, -1, 1 / x)
FIXED_POWER(pow_half, C(0.5), F(choose)(x == -INFINITY, F(splat)(INFINITY), F(sqrtv)(x + 0)))

FIXED_POWER_BACKWARD(pow_zero_backward, 0, F(splat)(0))
FIXED_POWER_BACKWARD(pow_one_backward, 1, x)
FIXED_POWER_BACKWARD(pow_two_backward, 2, x * (y + y))
FIXED_POWER_BACKWARD(pow_three_backward, 3, x * (y * y * 3))
FIXED_POWER_BACKWARD(pow_half_backward, C(0.5), x * (C(0.5) / F(sqrtv)(y + 0)))
FIXED_POWER_BACKWARD(pow_minus_one_backward, -1, -x * ((1 / y) * (1 / y)))

/* A multiple added or subtracted, the product rounded first: what a recorded program makes of two launches */
SCALED(add_scaled, x + y * z)
SCALED(sub_scaled, x - y * z)

COMPARE(eq, x == y)
COMPARE(ne, x != y)
COMPARE(lt, x < y)
COMPARE(le, x <= y)
COMPARE(gt, x > y)
COMPARE(ge, x >= y)

// Beyond ±10 tanh is ±1 in f32, and a driver's own may overflow to NaN.
fn tanh_safe(x: f32) -> f32 {
    return 1.0 - 2.0 / (exp(2.0 * clamp(x, -10.0, 10.0)) + 1.0);
}

fn silu(x: f32) -> f32 {
    // exp(88) is still finite.
    return x / (1.0 + exp(min(-x, 88.0)));
}

// The tanh approximation.
fn gelu(x: f32) -> f32 {
    return 0.5 * x * (1.0 + tanh_safe(0.7978846 * (x + 0.044715 * x * x * x)));
}

// x · Φ(x) = max(x, 0) − |x| · Φ(−|x|), Φ from formula 7.1.26 of Abramowitz and Stegun.
fn gelu_erf(x: f32) -> f32 {
    let size = abs(x);
    let t = 1.0 / (1.0 + 0.23164189 * size);
    let sum = t * (0.2548296 + t * (-0.28449674 + t * (1.4214137 + t * (-1.453152 + t * 1.0614054))));
    return max(x, 0.0) - 0.5 * size * sum * exp(max(-0.5 * x * x, -87.0));
}

fn activation(x: f32) -> f32 {
#ifdef GELU
    return gelu(x);
#else
#ifdef GELU_ERF
    return gelu_erf(x);
#else
#ifdef SQUARED_RELU
    return max(x, 0.0) * max(x, 0.0);
#else
    return silu(x);
#endif
#endif
#endif
}

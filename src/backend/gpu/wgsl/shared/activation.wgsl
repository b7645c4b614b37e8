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

fn activation(x: f32) -> f32 {
#ifdef GELU
    return gelu(x);
#else
    return silu(x);
#endif
}

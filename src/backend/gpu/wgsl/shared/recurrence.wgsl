// What kernels with a state have in common: row `r` of the sequence that a workgroup works on is `first + r`.
#import shared/step

fn softplus(x: f32) -> f32 {
    // exp(20) is far from overflowing, and log(1 + x) is x there.
    return select(log(1.0 + exp(min(x, 20.0))), x, x > 20.0);
}

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(min(-x, 88.0)));
}

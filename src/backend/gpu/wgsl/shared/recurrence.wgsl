// What kernels with a state have in common: row `r` of the sequence that a workgroup works on is `first + r`.
#import shared/step

fn softplus(x: f32) -> f32 {
    // exp(20) is far from overflowing. Near 1 a logarithm is only as exact as 1 is: a series is better there.
    let e = exp(min(x, 20.0));
    let small = e * (1.0 - e * (0.5 - e * (0.33333334 - 0.25 * e)));
    return select(select(log(1.0 + e), small, e < 0.03), x, x > 20.0);
}

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(min(-x, 88.0)));
}

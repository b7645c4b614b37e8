// What becomes of four rows of a token, at the end of the products of many tokens.
#import shared/activation

fn store(matrix: Matrix, row: u32, token: u32, values: vec4<f32>) {
    if token >= params.tokens {
        return;
    }
    for (var r = 0u; r < 4u && row + r < matrix.rows; r++) {
        var y = values[r];
        if matrix.bias != NONE {
            let b = matrix.bias + row + r;
            y += vectors[b >> 2u][b & 3u];
        }
#ifdef ACTIVATE
        y = activation(y);
#endif
#ifdef SOFTCAP
        y = params.softcap * tanh_safe(y / params.softcap);
#endif
        let at = matrix.out + token * matrix.out_stride + row + r;
#ifdef ADD
        out[at] += y;
#else
        out[at] = y;
#endif
    }
}

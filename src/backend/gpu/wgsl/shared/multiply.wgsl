// The loop of the products for a few tokens: a lane takes every LANES-th block of 32 columns of ROWS rows
// of MATRICES matrices and TOKENS tokens.
//
// The norm costs no pass of its own: W·norm(x) = (W·(scale ∘ x)) / rms(x), so lanes multiply by the
// scale on the way and sum the squares of what they read.
#import shared/product
#import format/{FORMAT}

// Sums of (matrix M, row R, token T) at (M·ROWS + R)·TOKENS + T, then the tokens' sums of squares.
const SQUARES: u32 = MATRICES * ROWS * TOKENS;

fn multiply(m: array<Matrix, MATRICES>, first_row: u32, lane: u32) -> array<f32, VALUES> {
    var values: array<f32, VALUES>;
#unroll M MATRICES
#unroll R ROWS
    // Rows past the end repeat the last one; nobody stores them.
    let row{M}_{R} = min(first_row + {R}u, m[{M}].rows - 1u) * params.blocks;
#end
#end
    for (var b = lane; b < params.blocks; b += LANES) {
#unroll M MATRICES
#unroll R ROWS
        let w{M}_{R} = load(m[{M}], row{M}_{R} + b);
#end
#end
#ifdef ONE_TOKEN
        // d and m stay out of the inner products: w·x = d·(q·x) + m·Σx, for each 16 columns.
#unroll H 2
#unroll M MATRICES
#unroll R ROWS
        var dot{H}_{M}_{R} = 0.0;
#end
#end
        var sum{H} = vec4<f32>();
#end
#unroll J 8
        {
            var x = x_values[params.x + 8u * b + {J}u];
#ifdef NORM
            values[SQUARES] += dot(x, x);
            x *= vectors[params.norm + 8u * b + {J}u];
#endif
            sum{J/4} += x;
#unroll M MATRICES
#unroll R ROWS
            dot{J/4}_{M}_{R} += dot(quant(w{M}_{R}, {J}u), x);
#end
#end
        }
#end
        let total0 = dot(sum0, vec4<f32>(1.0));
        let total1 = dot(sum1, vec4<f32>(1.0));
#unroll M MATRICES
#unroll R ROWS
        values[{M} * ROWS + {R}] += dot(scales(w{M}_{R}), vec4<f32>(dot0_{M}_{R}, dot1_{M}_{R}, total0, total1));
#end
#end
#else
#unroll M MATRICES
#unroll R ROWS
        let s{M}_{R} = scales(w{M}_{R});
#end
#end
#unroll J 8
        {
#unroll M MATRICES
#unroll R ROWS
            let q{M}_{R} = s{M}_{R}[{J/4}] * quant(w{M}_{R}, {J}u) + s{M}_{R}[2 + {J/4}];
#end
#end
#ifdef NORM
            let scale = vectors[params.norm + 8u * b + {J}u];
#endif
#unroll T TOKENS
            {
                var x = x_values[params.x + {T}u * params.x_stride + 8u * b + {J}u];
#ifdef NORM
                values[SQUARES + {T}] += dot(x, x);
                x *= scale;
#endif
#unroll M MATRICES
#unroll R ROWS
                values[({M} * ROWS + {R}) * TOKENS + {T}] += dot(q{M}_{R}, x);
#end
#end
            }
#end
        }
#end
#endif
    }
    return values;
}

// 1 / rms(x) of a token.
fn factor(group: u32, token: u32) -> f32 {
#ifdef NORM
    return inverseSqrt(total(group, SQUARES + token) * params.inverse_columns + params.epsilon);
#else
    return 1.0;
#endif
}

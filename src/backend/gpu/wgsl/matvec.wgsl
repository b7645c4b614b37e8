// matvec: out = W·norm(x) + b, or out += W·x + b, for 1 to TOKENS tokens; up to three matrices of the
// same format and slab in one dispatch.
//
// A workgroup has WG / LANES runs of lanes; each run computes ROWS rows. Many lanes a row keep
// loads coalesced and give short matrices enough threads; several rows a lane share the loads of x.
#import shared/multiply
#import shared/reduce
#import shared/activation

// tokens × blocks · 32
@group(0) @binding(4) var<storage, read> x_values: array<vec4<f32>>;
// tokens × rows, one for each matrix
@group(0) @binding(5) var<storage, read_write> out0: array<f32>;
#ifdef OUT1
@group(0) @binding(6) var<storage, read_write> out1: array<f32>;
#endif
#ifdef OUT2
@group(0) @binding(7) var<storage, read_write> out2: array<f32>;
#endif

@compute @workgroup_size(WG)
fn matvec(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
#ifdef SUBGROUPS
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_invocation_id) subgroup_thread: u32,
#endif
) {
    let index = workgroup.x + workgroup.y * workgroups.x;
    var which = 0u;
#ifdef OUT1
    which += u32(index >= params.matrices[1].first_group);
#endif
#ifdef OUT2
    which += u32(index >= params.matrices[2].first_group);
#endif
    let matrix = params.matrices[which];
    let first_row = (index - matrix.first_group) * (WG / LANES * ROWS);
    let values = multiply(array<Matrix, 1>(matrix), first_row + thread / LANES * ROWS, thread % LANES);
#ifdef SUBGROUPS
    reduce(values, thread, subgroup_size, subgroup_thread);
#else
    reduce(values, thread, 0u, 0u);
#endif

    for (var v = thread; v < WG / LANES * ROWS * TOKENS; v += WG) {
        let token = v / (WG / LANES * ROWS);
        let place = v % (WG / LANES * ROWS);
        let row = first_row + place;
        if row >= matrix.rows || token >= params.tokens {
            continue;
        }
        let group = place / ROWS;
        var y = total(group, place % ROWS * TOKENS + token) * factor(group, token);
        if matrix.bias != NONE {
            let b = matrix.bias + row;
            y += vectors[b >> 2u][b & 3u];
        }
#ifdef SOFTCAP
        y = params.softcap * tanh_safe(y / params.softcap);
#endif
#ifdef ACTIVATE
        y = activation(y);
#endif
        let at = matrix.out + token * matrix.out_stride + row;
#ifdef OUT2
        if which == 2u {
            out2[at] = y;
            continue;
        }
#endif
#ifdef OUT1
        if which == 1u {
            out1[at] = y;
            continue;
        }
#endif
#ifdef ADD
        out0[at] += y;
#else
        out0[at] = y;
#endif
    }
}

// argmax: the place of the highest number of each row, the first of equals, in two dispatches: every workgroup finds
// the best of its stretch, then (LAST) one workgroup a row the best of those, and writes it where embed reads it.
// A number that is NaN or infinite beats all others under the place INVALID, and ends as a mark after the id.
struct Params {
    // Of `scores`, or of `best` where LAST.
    count: u32,
    // Numbers of a workgroup's stretch.
    stretch: u32,
    // From row to row of what is read, and of what is written.
    stride: u32,
    out_stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
#ifdef LAST
// rows × count × (number, place)
@group(0) @binding(1) var<storage, read> best: array<vec2<u32>>;
// rows × (place, 1 if a number was not finite, else 0)
@group(0) @binding(2) var<storage, read_write> chosen: array<vec2<u32>>;
#else
// rows × count
@group(0) @binding(1) var<storage, read> scores: array<f32>;
// rows × workgroups × (number, place)
@group(0) @binding(2) var<storage, read_write> best: array<vec2<u32>>;
#endif

const NONE = 0xffffffffu;
const INVALID = 0xfffffffeu;
const LARGEST = 3.4028234e38;

var<workgroup> numbers: array<f32, 256>;
var<workgroup> places: array<u32, 256>;

@compute @workgroup_size(256)
fn argmax(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    var number = -LARGEST;
    var place = NONE;
    let first = workgroup.x * params.stretch;
    let row = workgroup.y * params.stride;
    for (var i = first + thread; i < min(first + params.stretch, params.count); i += 256u) {
#ifdef LAST
        let candidate = bitcast<f32>(best[row + i].x);
        let its_place = best[row + i].y;
#else
        // By its bits: compilers may take it that no number is NaN. −∞ is no token's, but no fault either.
        let bits = bitcast<u32>(scores[row + i]);
        let invalid = (bits & 0x7fffffffu) > 0x7f800000u || bits == 0x7f800000u;
        let candidate = select(scores[row + i], LARGEST, invalid);
        let its_place = select(i, INVALID, invalid);
#endif
        if candidate > number || (candidate == number && its_place < place) {
            number = candidate;
            place = its_place;
        }
    }
    numbers[thread] = number;
    places[thread] = place;
    workgroupBarrier();
    for (var stride = 128u; stride > 0u; stride >>= 1u) {
        if thread < stride {
            let other = numbers[thread + stride];
            let its_place = places[thread + stride];
            if other > numbers[thread] || (other == numbers[thread] && its_place < places[thread]) {
                numbers[thread] = other;
                places[thread] = its_place;
            }
        }
        workgroupBarrier();
    }
    if thread == 0u {
#ifdef LAST
        let invalid = places[0] >= INVALID;
        chosen[workgroup.y] = select(vec2<u32>(places[0], 0u), vec2<u32>(0u, 1u), invalid);
#else
        best[workgroup.y * params.out_stride + workgroup.x] = vec2<u32>(bitcast<u32>(numbers[0]), places[0]);
#endif
    }
}

// argmax: the place of the highest number, the first of equals, in two dispatches: every workgroup finds the
// best of its stretch, then (LAST) one workgroup the best of those, and writes it where embed reads it.
// A number that is NaN or infinite beats all others under the place INVALID, and ends as a mark after the id.
struct Params {
    // Of `scores`, or of `best` where LAST.
    count: u32,
    // Numbers of a workgroup's stretch.
    stretch: u32,
    // Of `ids`, where the place goes, and after it 1 if a number was not finite, else 0.
    slot: u32,
    _pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
#ifdef LAST
// count × (number, place)
@group(0) @binding(1) var<storage, read> best: array<vec2<u32>>;
// Token ids.
@group(0) @binding(2) var<storage, read_write> ids: array<u32>;
#else
// count
@group(0) @binding(1) var<storage, read> scores: array<f32>;
// workgroups × (number, place)
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
    for (var i = first + thread; i < min(first + params.stretch, params.count); i += 256u) {
#ifdef LAST
        let candidate = bitcast<f32>(best[i].x);
        let its_place = best[i].y;
#else
        // By its bits: compilers may take it that no number is NaN. −∞ is no token's, but no fault either.
        let bits = bitcast<u32>(scores[i]);
        let invalid = (bits & 0x7fffffffu) > 0x7f800000u || bits == 0x7f800000u;
        let candidate = select(scores[i], LARGEST, invalid);
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
        ids[params.slot] = select(places[0], 0u, invalid);
        ids[params.slot + 1u] = select(0u, 1u, invalid);
#else
        best[workgroup.x] = vec2<u32>(bitcast<u32>(numbers[0]), places[0]);
#endif
    }
}

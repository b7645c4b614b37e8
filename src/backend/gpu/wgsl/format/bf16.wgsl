// BF16: two numbers a word, the lower one shifted up and the upper one as it stands.
#import shared/pairs

fn numbers(a: u32, b: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
}

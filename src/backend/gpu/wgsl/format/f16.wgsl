// F16: two numbers a word.
#import shared/half
#import shared/pairs

fn numbers(a: u32, b: u32) -> vec4<f32> {
    return vec4<f32>(halves(a), halves(b));
}

//! Logits against transformers', for every architecture and every weight type.

use crate::allocator::allocations;
use crate::fixtures::{all_logits, decoder, json, kl_divergence, tokens};
use candlewick::backend::Step;
use candlewick::backend::cpu::Cpu;
use serde_json::Value;

/// Of the logits' range, as the largest difference from transformers' float32 forward.
const F32_TOLERANCE: f32 = 1e-3;

pub(crate) fn golden_rows(rows: &Value) -> Vec<(usize, Vec<f32>)> {
    let rows = rows.as_object().unwrap();
    rows.iter().map(|(at, row)| (at.parse().unwrap(), serde_json::from_value(row.clone()).unwrap())).collect()
}

fn range(row: &[f32]) -> f32 {
    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let lowest = row.iter().copied().fold(f32::INFINITY, f32::min);
    highest - lowest
}

/// The largest difference as a share of the golden's range.
pub(crate) fn deviation(row: &[f32], golden: &[f32]) -> f32 {
    assert_eq!(row.len(), golden.len());
    let largest = row.iter().zip(golden).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    largest / range(golden)
}

fn agrees_with_transformers(name: &str, context: usize) {
    let golden = json(&format!("goldens/{name}.json"));
    let model = golden["model"].as_str().unwrap();
    let tokens = tokens(&golden);
    let mut largest = 0.0f32;
    for step in [1, 7, 64] {
        let mut decoder = decoder(model, Cpu::new(), context);
        let rows = all_logits(&mut decoder, &tokens, step);
        for (position, expected) in golden_rows(&golden["logits"]) {
            let deviation = deviation(&rows[position], &expected);
            largest = largest.max(deviation);
            assert!(
                deviation <= F32_TOLERANCE,
                "{name}, steps of {step}, position {position}: {deviation:.2e} of the range"
            );
        }
        for (position, top) in golden["top5"].as_array().unwrap().iter().enumerate() {
            let best = rows[position].iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            let tie = top[0][1].as_f64().unwrap() - top[1][1].as_f64().unwrap() < 1e-2;
            assert!(tie || top[0][0] == best, "{name}: token {best} leads at {position}");
        }
    }
    println!("{name}: {largest:.1e} of the range");
}

macro_rules! architectures {
    ($($test:ident $name:literal $context:literal,)*) => {
        $(
            #[test]
            fn $test() {
                agrees_with_transformers($name, $context);
            }
        )*
    };
}
architectures! {
    llama "llama" 64,
    llama_tied "llama-tied" 64,
    llama_rope_linear "llama-rope-linear" 256,
    llama_rope_llama3 "llama-rope-llama3" 256,
    llama_rope_yarn "llama-rope-yarn" 256,
    mistral "mistral" 64,
    qwen2 "qwen2" 64,
    qwen3 "qwen3" 64,
    phi3 "phi3" 64,
    phi3_sliding_window "phi3-swa" 64,
    phi4_mini "phi4-mini" 64,
    phi3_longrope_short "phi3-longrope-short" 256,
    phi3_longrope_long "phi3-longrope-long" 512,
    gemma "gemma" 64,
    gemma2 "gemma2" 64,
    gemma3 "gemma3" 64,
    gemma3_rope_linear "gemma3-rope-linear" 256,
    starcoder2 "starcoder2" 64,
    gpt2 "gpt2" 64,
    granite "granite" 64,
    olmo2 "olmo2" 64,
    smollm3 "smollm3" 64,
    olmo "olmo" 64,
    olmo3 "olmo3" 256,
    glm4 "glm4" 64,
    hunyuan_dense "hunyuan-dense" 64,
    exaone4 "exaone4" 64,
    cohere "cohere" 64,
    cohere2 "cohere2" 64,
    arcee "arcee" 64,
    seed_oss "seed_oss" 64,
    ernie4_5 "ernie4_5" 64,
    ministral3 "ministral3" 256,
    stablelm "stablelm" 64,
    phi2 "phi2" 64,
    nemotron "nemotron" 64,
    gptneox "gptneox" 64,
    gptneox_serial "gptneox-serial" 64,
    falcon "falcon" 64,
    falcon_40b "falcon-40b" 64,
    starcoder "starcoder" 64,
    lfm2 "lfm2" 128,
    qwen35 "qwen35" 192,
    mamba2 "mamba2" 192,
    granitehybrid "granitehybrid" 192,
    nemotron_h "nemotron_h" 192,
    mixtral "mixtral" 64,
    qwen3moe "qwen3moe" 64,
    olmoe "olmoe" 64,
    granitemoe "granitemoe" 64,
    lfm2moe "lfm2moe" 128,
    qwen35moe "qwen35moe" 128,
    ernie4_5_moe "ernie4_5-moe" 64,
}

/// Our rounding of activations may cost at most this much more than llama.cpp's.
const KL_ALLOWANCE: f64 = 1.2;

#[test]
fn quantized_weights() {
    let golden = json("goldens/quant.json");
    let tokens = tokens(&golden);
    assert!(tokens.len() >= 512);
    for (model, expected) in golden["files"].as_object().unwrap() {
        let mut reference = decoder(model, Cpu::reference(), tokens.len());
        let reference = all_logits(&mut reference, &tokens, 64);
        for (position, expected) in golden_rows(&expected["positions"]) {
            let deviation = deviation(&reference[position], &expected);
            assert!(deviation <= F32_TOLERANCE, "{model}, dequantized, position {position}: {deviation:.2e}");
        }

        let limit = KL_ALLOWANCE * expected["llama_cpp_mean_kl"].as_f64().unwrap();
        for step in [1, 64] {
            let mut quantized = decoder(model, Cpu::new(), tokens.len());
            let rows = all_logits(&mut quantized, &tokens, step);
            let divergences = reference.iter().zip(&rows).map(|(r, q)| kl_divergence(r, q));
            let mean = divergences.sum::<f64>() / tokens.len() as f64;
            println!(
                "{model}, steps of {step}: mean KL {mean:.3e}, {:.2} of llama.cpp's",
                mean / limit * KL_ALLOWANCE
            );
            assert!(mean <= limit, "{model}, steps of {step}: mean KL {mean:.3e} is above {limit:.3e}");
        }
    }
}

/// What it costs to keep keys and values in 8 bits, beside what the weights' types cost.
#[test]
fn keys_and_values_in_8_bits() {
    let golden = json("goldens/quant.json");
    let tokens = tokens(&golden);
    for model in ["quant-f16.gguf", "quant-q8_0.gguf", "quant-q4_k.gguf", "gemma3.gguf", "qwen3.gguf"] {
        let context = tokens.len().min(512);
        let tokens: Vec<u32> = tokens[..context].iter().map(|token| token % 280).collect();
        let reference = all_logits(&mut decoder(model, Cpu::reference(), context), &tokens, 64);
        let mean = |cpu: Cpu| {
            let rows = all_logits(&mut decoder(model, cpu, context), &tokens, 64);
            let divergences = reference.iter().zip(&rows).map(|(r, q)| kl_divergence(r, q));
            divergences.sum::<f64>() / tokens.len() as f64
        };
        let (full, eight) = (mean(Cpu::new()), mean(Cpu::new().with_kv_8bit(true)));
        println!(
            "{model}: mean KL from the weights in F32 {full:.2e}, with keys and values in 8 bits {eight:.2e}"
        );
        assert!(eight <= 1.25 * full + 1e-3, "{model}: mean KL {eight:.2e} in place of {full:.2e}");
    }
}

#[test]
fn a_token_allocates_nothing() {
    for model in ["quant-q4_k.gguf", "quant-f16.gguf", "qwen3.gguf"] {
        let mut decoder = decoder(model, Cpu::new(), 64);
        let (mut counts, mut chosen) = (Vec::new(), Vec::new());
        for position in 0..32 {
            let step = Step::single([7], position, 1);
            let ((), count) = allocations(|| {
                decoder.run(&step).unwrap();
                decoder.choose(usize::MAX).unwrap();
            });
            counts.push(count);
            pollster::block_on(decoder.chosen(&mut chosen)).unwrap();
        }
        // The first token makes room.
        assert_eq!(counts[1..], [0; 31], "{model}");
    }
}

//! Whole models on the GPU against the CPU's reference, and the published story.

use crate::fixtures::{all_logits, decoder, json, kl_divergence, tokens};
use candlewick::backend::cpu::Cpu;
use candlewick::backend::gpu::{Gpu, Options};

const MODELS: &[&str] = &[
    "llama",
    "llama-tied",
    "llama-rope-linear",
    "llama-rope-llama3",
    "llama-rope-yarn",
    "mistral",
    "qwen2",
    "qwen3",
    "phi3",
    "phi3-swa",
    "phi3-longrope",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3-rope-linear",
    "quant-f16",
    "quant-bf16",
    "quant-q4_0",
    "quant-q4_1",
    "quant-q5_0",
    "quant-q5_1",
    "quant-q8_0",
    "quant-q2_k",
    "quant-q3_k",
    "quant-q4_k",
    "quant-q5_k",
    "quant-q6_k",
    "quant-mixed-q4_k_m",
];

fn gpu(options: Options) -> Gpu {
    pollster::block_on(Gpu::open(options)).unwrap()
}

/// Mean KL(CPU reference ‖ GPU) over a prompt that goes in steps of `step` tokens.
fn mean_kl(model: &str, options: Options, step: usize, count: usize) -> f64 {
    let file = format!("{model}.gguf");
    let golden = match model.strip_prefix("quant-") {
        Some(_) => "quant".to_owned(),
        None if model == "phi3-longrope" => "phi3-longrope-short".to_owned(),
        None => model.to_owned(),
    };
    let mut ids = tokens(&json(&format!("goldens/{golden}.json")));
    ids.truncate(count);
    let reference = all_logits(&mut decoder(&file, Cpu::reference(), 256), &ids, 64);
    let ours = all_logits(&mut decoder(&file, gpu(options), 256), &ids, step);
    reference.iter().zip(&ours).map(|(r, o)| kl_divergence(r, o)).sum::<f64>() / ids.len() as f64
}

#[test]
fn every_model_agrees_with_the_cpu() {
    let mut wrong = Vec::new();
    // With steps of 1, 3 and many tokens the products go through different kernels.
    let steps: &[(usize, usize)] = if crate::short() { &[(1, 8)] } else { &[(1, 16), (3, 9), (64, 40)] };
    for (index, model) in MODELS.iter().enumerate() {
        if crate::short() && index % 4 != 0 {
            continue;
        }
        for &(step, count) in steps {
            let kl = mean_kl(model, Options::from_env(), step, count);
            println!("{model}, steps of {step}: mean KL {kl:.2e}");
            if !(kl <= 1e-4) {
                wrong.push(format!("{model}, steps of {step}: {kl:.2e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The published story, each token chosen on the device and read a step late.
#[test]
fn stories260k_tells_its_story() {
    let golden = json("goldens/stories260K.golden.json");
    let ids = |key: &str| -> Vec<u32> { serde_json::from_value(golden[key].clone()).unwrap() };
    let (prompt, expected) = (ids("prompt_ids"), ids("greedy_ids"));
    let model = "../../../www/models/stories260K.gguf";
    let mut decoder = decoder(model, gpu(Options::from_env()), 512);
    decoder.forward(&prompt, 0).unwrap();
    decoder.choose(prompt.len() - 1, usize::MAX).unwrap();
    for (index, &expected) in expected.iter().enumerate() {
        decoder.forward_chosen(prompt.len() + index).unwrap();
        decoder.choose(0, usize::MAX).unwrap();
        assert_eq!(pollster::block_on(decoder.chosen()).unwrap(), expected, "token {index}");
    }
}

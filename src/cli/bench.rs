//! `candlewick bench`: tokens per second.

use super::arguments::{BenchArguments, Common};
use super::{Outcome, load};
use crate::Result;
use crate::engine::{Engine, Prompt, Settings, Timings};
use crate::sampling::Sampling;
use serde::Serialize;
use std::io::Write;

/// Of several rounds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Spread { median, min: values[0], max: values[values.len() - 1] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:.1} tokens/s ({:.1} to {:.1})", self.median, self.min, self.max)
    }
}

pub async fn bench(arguments: &BenchArguments, common: &Common) -> Outcome {
    let engine = load(&arguments.model, common).await?;
    let (prompt, predict) = (arguments.prompt.get(), arguments.predict.get());
    let mut rounds = Vec::new();
    for round in 0..=arguments.rounds.get() {
        let timings = measure(&engine, round, prompt, predict).await?;
        // The first one warms caches and threads up.
        if round > 0 {
            rounds.push(timings);
        }
    }
    let prompt_per_second = Spread::of(rounds.iter().map(|t| t.prompt_per_second).collect());
    let predicted_per_second = Spread::of(rounds.iter().map(|t| t.predicted_per_second).collect());
    let mut stdout = std::io::stdout().lock();
    if arguments.json {
        let result = serde_json::json!({
            "device": engine.info().device,
            "threads": engine.info().threads,
            "prompt_per_second": prompt_per_second,
            "predicted_per_second": predicted_per_second,
        });
        writeln!(stdout, "{result}")?;
    } else {
        let threads = engine.info().threads.map_or_else(String::new, |count| format!(", {count} threads"));
        writeln!(stdout, "device  {}{threads}", engine.info().device)?;
        writeln!(stdout, "prompt  {prompt_per_second}, {prompt} tokens")?;
        writeln!(stdout, "answer  {predicted_per_second}, {predict} tokens")?;
    }
    Ok(())
}

async fn measure(engine: &Engine, round: usize, prompt: usize, predict: usize) -> Result<Timings> {
    // Every round begins with another token, so that none finds its prompt in the KV cache.
    let vocabulary = engine.language().tokenizer.len();
    let tokens = (0..prompt).map(|index| ((round + index * 7919) % vocabulary) as u32).collect();
    let settings = Settings {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens: predict,
        ignore_eos: true,
        ..Settings::default()
    };
    let mut generation = engine.generate(Prompt::Tokens(tokens), settings).await?;
    while generation.next().await?.is_some() {}
    Ok(generation.timings())
}

//! Attention against the CPU's: rotation, norms of heads, windows, pages of several sequences.

use crate::pair::{Pair, variants};
use candlewick::backend::gpu::Options;
use candlewick::backend::op::{Attend, Attention, Heads, KvCache, Rope, RopePairing};
use candlewick::backend::{PAGE, Span, Step, Token, pages};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Normed {
    Before,
    Rotated,
}

#[derive(Debug)]
struct AttentionTest {
    heads: Heads,
    pairing: RopePairing,
    rotated: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    normed: Option<Normed>,
    causal: bool,
}

impl AttentionTest {
    /// With a cache of so many pages, for steps of at most `most` rows.
    fn operation(&self, pair: &mut Pair, pages: usize, most: usize, causal: bool) -> Attend {
        let heads = self.heads;
        let cache: KvCache = pair.program.cache(pages, heads);
        let rope = Rope {
            pairing: self.pairing,
            frequencies: (0..self.rotated / 2).map(|i| 0.5f32.powi(i as i32)).collect(),
            magnitude: 1.1,
        };
        let norms = self.normed.map(|_| [pair.norm(heads.size), pair.norm(heads.size)]);
        // A norm that follows takes the magnitude out again.
        let norms_rotated = self.normed == Some(Normed::Rotated);
        let rope = if norms_rotated { Rope { magnitude: 1.0, ..rope } } else { rope };
        let attention = Attention {
            heads,
            scale: 1.0 / (heads.size as f32).sqrt() / 10.0,
            softcap: self.softcap,
            window: self.window,
            causal,
        };
        let (q_width, kv_width) = (heads.query * heads.size, heads.kv * heads.size);
        let [query, key, value, out] =
            [q_width, kv_width, kv_width, q_width].map(|width| pair.empty(most, width));
        Attend { query, key, value, norms, norms_rotated, rope, cache, attention, out }
    }
}

/// Random queries, keys and values; a step; and what comes out.
fn attend_once(pair: &mut Pair, attend: &Attend, step: &Step, tolerance: f32, what: &str) {
    let (rows, heads) = (step.rows(), attend.attention.heads);
    let (q_width, kv_width) = (heads.query * heads.size, heads.kv * heads.size);
    pair.fill(attend.query, rows, q_width);
    pair.fill(attend.key, rows, kv_width);
    pair.fill(attend.value, rows, kv_width);
    pair.step(attend.clone(), step);
    pair.compare(what, attend.query, rows * q_width, tolerance);
    pair.compare(what, attend.out, rows * q_width, tolerance);
}

fn attend(pair: &mut Pair, test: &AttentionTest, steps: &[usize], tolerance: f32) {
    let most = *steps.iter().max().unwrap();
    let attend = test.operation(pair, pages(steps.iter().sum()), most, test.causal);
    let mut position = 0;
    for &rows in steps {
        let what = format!("attend of {rows} at {position}, {test:?}");
        attend_once(pair, &attend, &Step::single(vec![0; rows], position, 0), tolerance, &what);
        position += rows;
    }
}

/// Steps of several sequences, whose pages lie anywhere: prompts beside single tokens, long ones beside short ones.
fn attend_together(pair: &mut Pair, test: &AttentionTest, tolerance: f32) {
    const SEQUENCES: usize = 5;
    const PAGES: usize = 8;
    let attend = test.operation(pair, SEQUENCES * PAGES, 80, true);
    let mut lengths = [0usize; SEQUENCES];
    for rows in [
        [70, 0, 0, 0, 0],
        [70, 3, 1, 1, 0],
        [70, 0, 1, 0, 1],
        [1, 60, 1, 1, 1],
        [1; 5],
        [1; 5],
        [60, 1, 1, 1, 2],
    ] {
        let mut step = Step::default();
        for (sequence, &rows) in rows.iter().enumerate().filter(|(_, rows)| **rows > 0) {
            let position = lengths[sequence];
            lengths[sequence] += rows;
            let pages =
                (0..lengths[sequence].div_ceil(PAGE)).map(|page| (page * SEQUENCES + sequence) as u32);
            step.spans.push(Span { pages: pages.collect(), position, rows, ..Span::default() });
            step.tokens.extend(vec![Token::Known(0); rows]);
        }
        attend_once(pair, &attend, &step, tolerance, &format!("attend of {rows:?}, {test:?}"));
    }
}

#[test]
fn attention() {
    let heads = |query, kv, size| Heads { query, kv, size };
    let plain = |heads: Heads| AttentionTest {
        heads,
        pairing: RopePairing::Halves,
        rotated: heads.size,
        window: None,
        softcap: None,
        normed: None,
        causal: true,
    };
    let tests = [
        plain(heads(1, 1, 8)),
        AttentionTest { pairing: RopePairing::Interleaved, ..plain(heads(4, 2, 16)) },
        AttentionTest { window: Some(7), ..plain(heads(7, 1, 64)) },
        AttentionTest { softcap: Some(2.0), ..plain(heads(9, 3, 64)) },
        AttentionTest { normed: Some(Normed::Before), rotated: 60, ..plain(heads(4, 4, 90)) },
        AttentionTest { normed: Some(Normed::Rotated), rotated: 18, ..plain(heads(4, 2, 36)) },
        AttentionTest { window: Some(150), normed: Some(Normed::Before), ..plain(heads(8, 1, 128)) },
        AttentionTest { pairing: RopePairing::Interleaved, softcap: Some(1.0), ..plain(heads(2, 1, 256)) },
        plain(heads(26, 2, 12)),
        AttentionTest { causal: false, rotated: 0, ..plain(heads(12, 12, 32)) },
        AttentionTest { causal: false, ..plain(heads(4, 4, 20)) },
    ];
    let f32_cache = |(name, options): (&'static str, Options)| (name, Options { kv_f32: true, ..options });
    for (variant, options) in variants().into_iter().map(f32_cache) {
        let mut pair = Pair::new(variant, &options);
        let usual = variant == "default";
        let steps: &[usize] = if usual { &[1, 1, 5, 33, 127, 1, 65, 63, 1, 1] } else { &[1, 33, 1] };
        for test in &tests {
            attend(&mut pair, test, steps, 1e-4);
            if test.causal {
                attend_together(&mut pair, test, 1e-4);
            }
        }
    }
    if crate::short() {
        return;
    }
    let mut pair = Pair::new("f16 cache", &Options::from_env());
    for test in &tests {
        attend(&mut pair, test, &[1, 1, 5, 33, 127, 1, 65, 63, 1, 1], 5e-3);
    }
    attend(&mut pair, &tests[1], &[512, 512, 512, 1, 1], 5e-3);
    // Long enough for many splits of the keys.
    attend(&mut pair, &tests[0], &[512, 512, 512, 512, 512, 512, 512, 512, 1, 1, 3], 5e-3);
}

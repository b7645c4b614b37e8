//! What a sampler looks up in the scores of a vocabulary.

/// What to look up in many scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// How many of the highest; from 1 to [`Wanted::MOST`].
    pub count: usize,
    /// Places whose scores to give, whatever they are; at most [`Wanted::MOST`].
    pub places: Vec<u32>,
    /// Whether [`Top::sum`] is of interest.
    pub sum: bool,
}

impl Wanted {
    /// Beyond it, reading all scores costs little more.
    pub const MOST: usize = 512;
}

/// The highest of many scores, and what a sampler has to know of the others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Top {
    /// (place, score), the highest first, of equals the first place.
    pub best: Vec<(u32, f32)>,
    /// The scores at the places that were asked for.
    pub picked: Vec<f32>,
    /// `Σ exp(score − highest score)` over all scores, where it was asked for.
    pub sum: f64,
    /// Whether no score is NaN or +∞; otherwise nothing else here counts.
    pub finite: bool,
}

impl Top {
    /// How far [`Top::sum`] may be off, as a share of it. WGSL lets `exp(x)` err by 3 + 2·|x| units in the
    /// last place.
    pub const SUM_ERROR: f64 = 1e-4;
}

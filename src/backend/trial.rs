//! Operations tried on small data, the same on every device: how one is compared with another, and which
//! kernels a model will need.

use super::excerpt::{Cutter, Excerpt, Numbers};
use super::op::{Buffer, Operation};
use super::{Backend, Program, Random, Shape, Step, Top, Wanted};
use crate::Result;
use std::rc::Rc;

/// Tokens of the steps that are tried: decode, a few tokens, a part of a prompt.
pub(super) const TOKENS: [usize; 3] = [1, 3, 20];
/// Rows of a trial's buffers: one more than the longest step has.
const ROWS: usize = 21;
/// Scores of a vocabulary, at most.
const SCORES: usize = 3001;
/// Scores that are looked up: what `top_p` alone makes a sampler ask for.
const CANDIDATES: usize = 192;
const SEED: u64 = 0x1234_5678_9abc_def1;
/// A device is wrong where a number is further off than this share of the largest beside it. Activations of
/// 8 bits and keys of 16 stay below a third of that.
const TOLERANCE: f32 = 1e-2;

/// What an operation gave: numbers of one size together, because small ones would drown among large ones.
pub(super) type Outcome = Vec<Vec<f32>>;

/// What is tried of a model.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Trial {
    /// One of its operations.
    Operation(Box<Excerpt>),
    /// How the next token is found: the one with the highest of so many scores, and the highest ones.
    Choice(usize),
}

/// Each of a program's operations once, as far as kernels see a difference.
pub(super) fn trials(program: &Program) -> Vec<Trial> {
    let mut trials = Vec::new();
    for operation in &program.operations {
        let excerpt = Trial::Operation(Box::new(Cutter::cut(program, operation, ROWS)));
        if !trials.contains(&excerpt) {
            trials.push(excerpt);
        }
        if let Operation::Score(score) = operation {
            trials.push(Trial::Choice(program.width(score.out).min(SCORES)));
        }
    }
    trials
}

impl Trial {
    /// In words.
    pub(super) fn describe(&self) -> String {
        match self {
            Trial::Operation(excerpt) => excerpt.operation().describe(&excerpt.program),
            Trial::Choice(_) => "argmax".to_owned(),
        }
    }

    /// Runs it on an empty device in a step of `tokens` tokens without a look at what it gives.
    pub(super) async fn ask(&self, device: &mut dyn Backend, tokens: usize) -> Result<()> {
        match self {
            Trial::Operation(excerpt) => {
                excerpt.prepare(device)?;
                excerpt.steps(tokens).iter().try_for_each(|(step, _)| device.run(step))
            }
            Trial::Choice(len) => {
                let scores = enqueue_choice(device, *len, tokens)?;
                // What it gives may make no sense.
                _ = look_up(device, scores, *len).await;
                Ok(())
            }
        }
    }

    /// Runs it and reads what it gives.
    pub(super) async fn run(&self, device: &mut dyn Backend, tokens: usize) -> Result<Outcome> {
        let mut outcome = Vec::new();
        match self {
            Trial::Operation(excerpt) => {
                excerpt.prepare(device)?;
                for (step, looked_at) in excerpt.steps(tokens) {
                    excerpt.fill(device)?;
                    device.run(&step)?;
                    if looked_at {
                        excerpt.read(device, &step, &mut outcome).await?;
                    }
                }
            }
            Trial::Choice(len) => {
                let scores = enqueue_choice(device, *len, tokens)?;
                let mut chosen = Vec::new();
                device.chosen(&mut chosen).await?;
                outcome.push(chosen.into_iter().map(|token| token as f32).collect());
                let Top { best, picked, sum, finite } = look_up(device, scores, *len).await?;
                outcome.extend(best.iter().map(|(place, _)| vec![*place as f32]));
                outcome.push(best.iter().map(|(_, score)| *score).chain(picked).collect());
                outcome.push(vec![sum as f32, f32::from(u8::from(finite))]);
            }
        }
        Ok(outcome)
    }
}

/// Scores, and what follows each of `rows` rows of them.
fn enqueue_choice(device: &mut dyn Backend, len: usize, rows: usize) -> Result<Buffer> {
    let rows = rows.min(3);
    let mut program = Program::default();
    let scores = program.buffer(rows, len);
    device.prepare(&Rc::new(program))?;
    device.write(scores, &Random(SEED).numbers(rows * len))?;
    device.choose(scores, rows, len)?;
    Ok(scores)
}

async fn look_up(device: &mut dyn Backend, scores: Buffer, len: usize) -> Result<Top> {
    let mut top = Top::default();
    let places = (0..len as u32).step_by(7).take(20).collect();
    let wanted = Wanted { count: CANDIDATES.min(len), places, sum: true };
    device.top_k(scores, 0, len, &wanted, &mut top).await?;
    Ok(top)
}

impl Excerpt {
    fn operation(&self) -> &Operation {
        &self.program.operations[0]
    }

    fn steps(&self, tokens: usize) -> Vec<(Step, bool)> {
        self.operation().steps(&self.program, tokens)
    }

    /// Brings it and its weights to an empty device. Every other row of a matrix is so small that the scales of
    /// quantized ones are subnormal.
    fn prepare(&self, device: &mut dyn Backend) -> Result<()> {
        device.prepare(&Rc::new(self.program.clone()))?;
        let mut random = Random(SEED);
        for (index, Shape { rows, columns, kind }) in self.program.matrices.iter().copied().enumerate() {
            for row in 0..rows {
                let size = if row % 2 == 0 { 1.0 } else { 1e-3 };
                let weights = random.weights(kind, columns, |_| size);
                device.write_rows(super::op::Matrix(index), row, &weights)?;
            }
        }
        let biases: Vec<_> = self.operation().products().iter().filter_map(|linear| linear.bias).collect();
        for (index, &len) in self.program.vectors.iter().enumerate() {
            let vector = super::op::Vector(index);
            let numbers: Vec<f32> = match biases.contains(&vector) {
                true => numbers(&mut random, Numbers::Alternating, len, len),
                false => (0..len).map(|_| 1.0 + 0.5 * random.number()).collect(),
            };
            device.write_vector(vector, &numbers)?;
        }
        Ok(())
    }

    /// Fills what the operation reads.
    fn fill(&self, device: &mut dyn Backend) -> Result<()> {
        let mut random = Random(SEED);
        for &(buffer, kind) in &self.inputs {
            let shape = self.program.buffers[buffer.0];
            let numbers = numbers(&mut random, kind, shape.rows * shape.width, shape.width);
            device.write(buffer, &numbers)?;
        }
        Ok(())
    }

    async fn read(&self, device: &mut dyn Backend, step: &Step, outcome: &mut Outcome) -> Result<()> {
        let rows = match self.operation() {
            Operation::Score(_) => step.scored,
            _ => step.rows(),
        };
        for &buffer in &self.outputs {
            let (mut numbers, width) = (Vec::new(), self.program.width(buffer));
            device.read(buffer, 0, rows, &mut numbers).await?;
            for parity in [0, 1] {
                let numbers = numbers.iter().enumerate().filter(|(at, _)| at % width % 2 == parity);
                outcome.push(numbers.map(|(_, number)| *number).collect());
            }
        }
        Ok(())
    }
}

/// `len` numbers in rows of `width`.
fn numbers(random: &mut Random, kind: Numbers, len: usize, width: usize) -> Vec<f32> {
    let number = |at: usize| match kind {
        Numbers::Within(amplitude) => amplitude * random.number(),
        Numbers::Routes(experts) if (at % width).is_multiple_of(2) => {
            // Each of a row's is another one.
            ((at / width + at % width / 2) % experts) as f32
        }
        Numbers::Routes(_) => random.number().abs(),
        Numbers::Alternating if (at % width).is_multiple_of(2) => random.number(),
        Numbers::Alternating => 0.0,
    };
    (0..len).map(number).collect()
}

/// Where `found` is wrong, in words.
pub(super) fn difference(expected: &Outcome, found: &Outcome) -> Option<String> {
    for (expected, found) in expected.iter().zip(found) {
        let largest = expected.iter().fold(0.0f32, |largest, number| largest.max(number.abs()));
        // What is not a number is wrong too.
        let right = |a: f32, b: f32| (a - b).abs() <= TOLERANCE * largest;
        let wrong = |(expected, found): &(&f32, &f32)| !right(**expected, **found);
        if let Some((expected, found)) = expected.iter().zip(found).find(wrong) {
            return Some(format!("{found} instead of {expected}"));
        }
    }
    (expected.len() != found.len()).then(|| "numbers are missing".to_owned())
}

//! Keys and values of the tokens so far: as they are, or in 8 bits.

use super::super::PAGE;
use super::super::op::Heads;
use super::{no_memory, zeros};
use crate::Result;
use std::cell::RefCell;

/// Numbers that a kernel takes of a row at once: positions of keys, elements of values.
pub(super) const PANEL: usize = 8;
/// Positions whose scores are computed before their values are read.
pub(super) const BLOCK: usize = PAGE;

/// A layer's keys and values, page after page.
pub(super) struct Cache {
    pub heads: Heads,
    /// `pages × kv heads × panels × head size × PANEL`: of each panel's positions element 0, then element 1, ….
    keys: Numbers,
    /// `pages × kv heads × panels of a head × BLOCK × PANEL`: a block's values in the order in which they are read,
    /// which from memory is nearly twice as fast as position after position.
    values: Numbers,
}

enum Numbers {
    Full(Vec<f32>),
    /// Each is a whole number from −127 to 127 times the scale of its position and head.
    Eight {
        quants: Vec<i8>,
        /// `pages × kv heads × BLOCK`
        scales: Vec<f32>,
    },
}

thread_local! {
    /// A block of 8 bits as floats.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Numbers {
    /// For so many positions of so many numbers.
    fn new(positions: usize, width: usize, eight: bool) -> Result<Numbers> {
        // What does not fit a number does not fit the memory.
        let count = positions.saturating_mul(width);
        if !eight {
            return Ok(Numbers::Full(zeros(count)?));
        }
        Vec::<i8>::new().try_reserve_exact(count).map_err(|_| no_memory(count / 4))?;
        Ok(Numbers::Eight { quants: vec![0; count], scales: zeros(positions)? })
    }

    /// Puts the numbers of a position, each at the place that `place` gives for its index.
    fn store(&mut self, position: usize, numbers: &[f32], place: impl Fn(usize) -> usize) {
        match self {
            Numbers::Full(all) => {
                for (index, number) in numbers.iter().enumerate() {
                    all[place(index)] = *number;
                }
            }
            Numbers::Eight { quants, scales } => {
                let largest = numbers.iter().fold(0.0f32, |largest, number| largest.max(number.abs()));
                let scale = largest / 127.0;
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                scales[position] = scale;
                for (index, number) in numbers.iter().enumerate() {
                    // A cast of what is no number gives 0.
                    quants[place(index)] = (number * inverse).round() as i8;
                }
            }
        }
    }

    fn copy(&mut self, from: usize, to: usize, positions: usize, width: usize) {
        let range = |width: usize| from * positions * width..(from + 1) * positions * width;
        match self {
            Numbers::Full(numbers) => numbers.copy_within(range(width), to * positions * width),
            Numbers::Eight { quants, scales } => {
                quants.copy_within(range(width), to * positions * width);
                scales.copy_within(range(1), to * positions);
            }
        }
    }

    /// Adds the bytes of a page.
    fn read(&self, page: usize, positions: usize, width: usize, out: &mut Vec<u8>) {
        let floats = |numbers: &[f32], out: &mut Vec<u8>| {
            out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        };
        let of = |width: usize| page * positions * width..(page + 1) * positions * width;
        match self {
            Numbers::Full(numbers) => floats(&numbers[of(width)], out),
            Numbers::Eight { quants, scales } => {
                out.extend(quants[of(width)].iter().map(|quant| *quant as u8));
                floats(&scales[of(1)], out);
            }
        }
    }

    /// Puts as many bytes as a page has, and gives those that are left.
    fn write<'a>(&mut self, page: usize, positions: usize, width: usize, bytes: &'a [u8]) -> &'a [u8] {
        fn floats<'a>(numbers: &mut [f32], bytes: &'a [u8]) -> &'a [u8] {
            let (now, rest) = bytes.split_at(size_of_val(numbers));
            let now = now.as_chunks().0.iter();
            numbers.iter_mut().zip(now).for_each(|(number, bytes)| *number = f32::from_le_bytes(*bytes));
            rest
        }
        let of = |width: usize| page * positions * width..(page + 1) * positions * width;
        match self {
            Numbers::Full(numbers) => floats(&mut numbers[of(width)], bytes),
            Numbers::Eight { quants, scales } => {
                let (now, rest) = bytes.split_at(positions * width);
                quants[of(width)].iter_mut().zip(now).for_each(|(quant, byte)| *quant = *byte as i8);
                floats(&mut scales[of(1)], rest)
            }
        }
    }

    fn page_size(&self, positions: usize, width: usize) -> usize {
        match self {
            Numbers::Full(_) => positions * width * size_of::<f32>(),
            Numbers::Eight { .. } => positions * (width + size_of::<f32>()),
        }
    }
}

impl Cache {
    pub(super) fn new(pages: usize, heads: Heads, eight: bool) -> Result<Self> {
        let positions = pages.saturating_mul(BLOCK * heads.kv);
        let keys = Numbers::new(positions, heads.size, eight)?;
        Ok(Cache { heads, keys, values: Numbers::new(positions, width(heads), eight)? })
    }

    /// Writes a position that is in `page`: `kv heads × head size` numbers each.
    pub(super) fn store(&mut self, page: u32, position: usize, keys: &[f32], values: &[f32]) {
        let (size, width) = (self.heads.size, width(self.heads));
        let position = position % BLOCK;
        for head in 0..self.heads.kv {
            let block = (page as usize * self.heads.kv + head) * BLOCK;
            let panel = (block + position / PANEL * PANEL) * size + position % PANEL;
            self.keys.store(block + position, &keys[head * size..][..size], |e| panel + e * PANEL);
            let place = |e: usize| block * width + (e / PANEL * BLOCK + position) * PANEL + e % PANEL;
            self.values.store(block + position, &values[head * size..][..size], place);
        }
    }

    /// Both with their numbers a position.
    fn both(&mut self) -> [(&mut Numbers, usize); 2] {
        let widths = (self.heads.size, width(self.heads));
        [(&mut self.keys, widths.0), (&mut self.values, widths.1)]
    }

    pub(super) fn copy_page(&mut self, from: u32, to: u32) {
        let positions = BLOCK * self.heads.kv;
        for (numbers, width) in self.both() {
            numbers.copy(from as usize, to as usize, positions, width);
        }
    }

    /// Bytes of a page.
    pub(super) fn page_size(&self) -> usize {
        let positions = BLOCK * self.heads.kv;
        self.keys.page_size(positions, self.heads.size) + self.values.page_size(positions, width(self.heads))
    }

    /// Adds its keys, then its values.
    pub(super) fn read_page(&self, page: u32, out: &mut Vec<u8>) {
        let positions = BLOCK * self.heads.kv;
        self.keys.read(page as usize, positions, self.heads.size, out);
        self.values.read(page as usize, positions, width(self.heads), out);
    }

    /// `bytes` are as many as a page has.
    pub(super) fn write_page(&mut self, page: u32, bytes: &[u8]) {
        let positions = BLOCK * self.heads.kv;
        let mut rest = bytes;
        for (numbers, width) in self.both() {
            rest = numbers.write(page as usize, positions, width, rest);
        }
    }

    /// Room for [`Cache::keys`] and [`Cache::values`], this thread's own.
    pub(super) fn scratch(&self) -> Vec<f32> {
        match self.keys {
            Numbers::Full(_) => Vec::new(),
            Numbers::Eight { .. } => SCRATCH.take(),
        }
    }

    pub(super) fn put_back(&self, scratch: Vec<f32>) {
        if let Numbers::Eight { .. } = self.keys {
            SCRATCH.set(scratch);
        }
    }

    /// The first `panels` panels of the keys of a block, which is one head's page: `head size × PANEL` numbers each.
    pub(super) fn keys<'a>(
        &'a self,
        block: usize,
        panels: usize,
        scratch: &'a mut Vec<f32>,
    ) -> impl Iterator<Item = &'a [f32]> {
        let size = self.heads.size;
        let all = match &self.keys {
            Numbers::Full(numbers) => &numbers[block * BLOCK * size..][..panels * PANEL * size],
            Numbers::Eight { quants, scales } => {
                let quants = &quants[block * BLOCK * size..][..panels * PANEL * size];
                unpack_keys(quants, &scales[block * BLOCK..][..BLOCK], size, scratch);
                scratch.as_slice()
            }
        };
        all.chunks_exact(size * PANEL)
    }

    /// The values of a block.
    pub(super) fn values<'a>(&'a self, block: usize, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        let count = BLOCK * width(self.heads);
        match &self.values {
            Numbers::Full(numbers) => &numbers[block * count..][..count],
            Numbers::Eight { quants, scales } => {
                let quants = &quants[block * count..][..count];
                unpack_values(quants, &scales[block * BLOCK..][..BLOCK], scratch);
                scratch
            }
        }
    }
}

/// Not inlined, as its callers are compiled for each number of queries.
#[inline(never)]
fn unpack_keys(quants: &[i8], scales: &[f32], size: usize, out: &mut Vec<f32>) {
    out.resize(quants.len(), 0.0);
    let panels = out.chunks_exact_mut(size * PANEL).zip(quants.chunks_exact(size * PANEL));
    for ((out, quants), scales) in panels.zip(scales.as_chunks::<PANEL>().0) {
        for (out, quants) in out.as_chunks_mut::<PANEL>().0.iter_mut().zip(quants.as_chunks::<PANEL>().0) {
            for lane in 0..PANEL {
                out[lane] = f32::from(quants[lane]) * scales[lane];
            }
        }
    }
}

#[inline(never)]
fn unpack_values(quants: &[i8], scales: &[f32], out: &mut Vec<f32>) {
    out.resize(quants.len(), 0.0);
    let eights = out.as_chunks_mut::<PANEL>().0.iter_mut().zip(quants.as_chunks::<PANEL>().0);
    for ((out, quants), scale) in eights.zip(scales.iter().cycle()) {
        for lane in 0..PANEL {
            out[lane] = f32::from(quants[lane]) * scale;
        }
    }
}

/// Elements of a value with its padding.
fn width(heads: Heads) -> usize {
    heads.size.next_multiple_of(PANEL)
}

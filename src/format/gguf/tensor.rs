//! How tensors are stored.

/// The encoding of a tensor's elements that candlewick can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, non_camel_case_types, reason = "the names are ggml's")]
pub enum TensorType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl TensorType {
    /// All there are, each with its `ggml_type`: nothing else is read.
    const IDS: [(u32, TensorType); 13] = [
        (0, TensorType::F32),
        (1, TensorType::F16),
        (2, TensorType::Q4_0),
        (3, TensorType::Q4_1),
        (6, TensorType::Q5_0),
        (7, TensorType::Q5_1),
        (8, TensorType::Q8_0),
        (10, TensorType::Q2_K),
        (11, TensorType::Q3_K),
        (12, TensorType::Q4_K),
        (13, TensorType::Q5_K),
        (14, TensorType::Q6_K),
        (30, TensorType::BF16),
    ];

    /// All there are.
    pub fn all() -> impl Iterator<Item = TensorType> {
        Self::IDS.into_iter().map(|(_, kind)| kind)
    }

    /// `id` is a `ggml_type`.
    pub(super) fn from_id(id: u32) -> Option<Self> {
        Self::IDS.into_iter().find(|(known, _)| *known == id).map(|(_, kind)| kind)
    }

    /// Elements and bytes of one block.
    pub fn block(self) -> (u64, u64) {
        match self {
            TensorType::F32 => (1, 4),
            TensorType::F16 | TensorType::BF16 => (1, 2),
            TensorType::Q4_0 => (32, 18),
            TensorType::Q4_1 => (32, 20),
            TensorType::Q5_0 => (32, 22),
            TensorType::Q5_1 => (32, 24),
            TensorType::Q8_0 => (32, 34),
            TensorType::Q2_K => (256, 84),
            TensorType::Q3_K => (256, 110),
            TensorType::Q4_K => (256, 144),
            TensorType::Q5_K => (256, 176),
            TensorType::Q6_K => (256, 210),
        }
    }

    /// As users know it: `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            TensorType::F32 => "F32",
            TensorType::F16 => "F16",
            TensorType::BF16 => "BF16",
            TensorType::Q4_0 => "Q4_0",
            TensorType::Q4_1 => "Q4_1",
            TensorType::Q5_0 => "Q5_0",
            TensorType::Q5_1 => "Q5_1",
            TensorType::Q8_0 => "Q8_0",
            TensorType::Q2_K => "Q2_K",
            TensorType::Q3_K => "Q3_K",
            TensorType::Q4_K => "Q4_K",
            TensorType::Q5_K => "Q5_K",
            TensorType::Q6_K => "Q6_K",
        }
    }
}

/// What a `ggml_type` that candlewick does not read is called, for messages.
pub(super) fn foreign_type_name(id: u32) -> Option<&'static str> {
    Some(match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return None,
    })
}

/// An entry of the tensor directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// As in `blk.0.attn_q.weight`.
    pub name: String,
    /// Row length first: a matrix is `[columns, rows]`. There is at least one; behind it, none of 1 at the end.
    pub dimensions: Vec<u64>,
    /// How the elements are stored.
    pub kind: TensorType,
    /// From the start of the file, in bytes.
    pub offset: u64,
    /// In bytes.
    pub size: u64,
}

impl TensorInfo {
    /// Of that index; 1 where the tensor has fewer.
    pub fn dimension(&self, index: usize) -> u64 {
        self.dimensions.get(index).copied().unwrap_or(1)
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.dimensions.iter().product()
    }
}

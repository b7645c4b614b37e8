//! How tensors are stored.

macro_rules! tensor_types {
    ($($name:ident = $id:literal: $elements:literal in $bytes:literal;)*) => {
        /// The encoding of a tensor's elements that candlewick can read.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, non_camel_case_types, reason = "the names are ggml's")]
        pub enum TensorType {
            $($name,)*
        }

        impl TensorType {
            /// All there are.
            pub const ALL: &[TensorType] = &[$(TensorType::$name),*];

            /// `id` is a `ggml_type`.
            pub(super) fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(TensorType::$name),)*
                    _ => None,
                }
            }

            /// Elements and bytes of one block.
            pub fn block(self) -> (u64, u64) {
                match self {
                    $(TensorType::$name => ($elements, $bytes),)*
                }
            }

            /// As users know it: `Q4_K`.
            pub fn name(self) -> &'static str {
                match self {
                    $(TensorType::$name => stringify!($name),)*
                }
            }
        }
    };
}
// `ggml_type`, and the elements of a block in so many bytes. Source: ggml.h and ggml-common.h of llama.cpp.
tensor_types! {
    F32 = 0: 1 in 4;
    F16 = 1: 1 in 2;
    BF16 = 30: 1 in 2;
    Q4_0 = 2: 32 in 18;
    Q4_1 = 3: 32 in 20;
    Q5_0 = 6: 32 in 22;
    Q5_1 = 7: 32 in 24;
    Q8_0 = 8: 32 in 34;
    Q2_K = 10: 256 in 84;
    Q3_K = 11: 256 in 110;
    Q4_K = 12: 256 in 144;
    Q5_K = 13: 256 in 176;
    Q6_K = 14: 256 in 210;
    Q1_0 = 41: 128 in 18;
    Q2_0 = 42: 64 in 18;
    TQ1_0 = 34: 256 in 54;
    TQ2_0 = 35: 256 in 66;
    IQ4_NL = 20: 32 in 18;
    IQ4_XS = 23: 256 in 136;
    MXFP4 = 39: 32 in 17;
    NVFP4 = 40: 64 in 36;
    IQ3_XXS = 18: 256 in 98;
    IQ3_S = 21: 256 in 110;
    IQ2_XXS = 16: 256 in 66;
    IQ2_XS = 17: 256 in 74;
    IQ2_S = 22: 256 in 82;
    IQ1_S = 19: 256 in 50;
    IQ1_M = 29: 256 in 56;
}

/// What a `ggml_type` that candlewick does not read is called, for messages.
pub(super) fn foreign_type_name(id: u32) -> Option<&'static str> {
    Some(match id {
        9 => "Q8_1",
        15 => "Q8_K",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
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

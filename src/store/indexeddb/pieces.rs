//! The pieces of a content: which there are, and where the bytes of each are.

use super::connection::{PIECES, array, done, failure};
use crate::Result;
use crate::store::{Key, Written};
use js_sys::{Array, Uint8Array};
use std::ops::Range;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Blob, IdbCursor, IdbCursorDirection, IdbKeyRange, IdbObjectStore, IdbTransaction};

/// One of a content's pieces.
pub(super) struct Piece {
    pub id: JsValue,
    pub range: Range<u64>,
    /// Its bytes are in the content's file, else they are here.
    pub in_file: bool,
}

/// The last part of the ids of those whose bytes are in a file.
const IN_FILE: &str = "file";

impl Piece {
    pub(super) fn of(id: JsValue) -> Option<Piece> {
        let parts = Array::from(&id);
        let number = |index| parts.get(index).as_f64().map(|number| number as u64);
        let range = number(2)?..number(3)?;
        let in_file = parts.get(4).as_string().is_some_and(|place| place == IN_FILE);
        Some(Piece { id, range, in_file })
    }

    /// Where its bytes are.
    pub(super) async fn held(&self, pieces: &IdbObjectStore) -> Result<Held> {
        if self.in_file {
            return Ok(Held::InFile);
        }
        done(pieces.get(&self.id)).await.map(Held::Here).map_err(failure)
    }
}

/// Where a piece's bytes are.
pub(super) enum Held {
    /// In the content's file in the private file system, at the same place as in the content.
    InFile,
    /// Here: a `Blob`, or a buffer where the database takes no Blobs.
    Here(JsValue),
}

impl Held {
    /// Where a part of them is.
    pub(super) fn part(&self, part: Range<u64>) -> Result<Held, JsValue> {
        let Held::Here(value) = self else { return Ok(Held::InFile) };
        Ok(Held::Here(match value.dyn_ref::<Blob>() {
            Some(blob) => blob.slice_with_f64_and_f64(part.start as f64, part.end as f64)?.into(),
            None => Uint8Array::new(value).slice(part.start as u32, part.end as u32).into(),
        }))
    }

    /// Keeps them as the piece `range`.
    pub(super) fn put(&self, pieces: &IdbObjectStore, key: &Key, range: &Range<u64>) -> Result<(), JsValue> {
        let piece = id(key, [range.start, range.end]);
        let value = match self {
            Held::InFile => {
                piece.push(&IN_FILE.into());
                &JsValue::TRUE
            }
            Held::Here(value) => value,
        };
        pieces.put_with_key(value, &piece).map(drop)
    }
}

/// The bytes themselves. They are on their way when this returns.
pub(super) fn bytes_of(here: JsValue) -> impl Future<Output = Result<Uint8Array, JsValue>> {
    let reading = here.dyn_ref::<Blob>().map(|blob| JsFuture::from(blob.array_buffer()));
    async {
        let buffer = match reading {
            Some(reading) => reading.await?,
            None => here,
        };
        Ok(Uint8Array::new(&buffer))
    }
}

/// All of a content's pieces, in order. None lies over another.
pub(super) async fn all(transaction: &IdbTransaction, key: &Key) -> Result<Vec<Piece>> {
    listed(transaction, all_ids(key)).await
}

/// Those of a content's pieces that have a part in `range`, in order.
pub(super) async fn within(
    transaction: &IdbTransaction,
    key: &Key,
    range: &Range<u64>,
) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    // Of those that begin before, only the last can reach into it.
    let before = IdbKeyRange::bound(&id(key, []), &id(key, [range.start]));
    let before = before.and_then(|ids| {
        let pieces = transaction.object_store(PIECES)?;
        pieces.open_key_cursor_with_range_and_direction(&ids, IdbCursorDirection::Prev)
    });
    if let Ok(cursor) = done(before).await.map_err(failure)?.dyn_into::<IdbCursor>() {
        let piece = Piece::of(cursor.key().map_err(failure)?);
        pieces.extend(piece.filter(|piece| range.start < piece.range.end));
    }
    let inside = IdbKeyRange::bound(&id(key, [range.start]), &id(key, [range.end]));
    pieces.extend(listed(transaction, inside).await?);
    Ok(pieces)
}

async fn listed(transaction: &IdbTransaction, ids: Result<IdbKeyRange, JsValue>) -> Result<Vec<Piece>> {
    let pieces = transaction.object_store(PIECES);
    let request = ids.and_then(|ids| pieces?.get_all_keys_with_key(&ids));
    let ids = Array::from(&done(request).await.map_err(failure)?);
    Ok(ids.iter().filter_map(Piece::of).collect())
}

/// What of the content they are.
pub(super) fn written(pieces: &[Piece]) -> Written {
    let mut written = Written::default();
    pieces.iter().for_each(|piece| written.add(piece.range.clone()));
    written
}

/// The ids of all of a content's pieces.
pub(super) fn all_ids(key: &Key) -> Result<IdbKeyRange, JsValue> {
    let last = array([key.repo.as_str(), &key.etag]);
    // Arrays come after all numbers.
    last.push(&Array::new());
    IdbKeyRange::bound(&id(key, []), &last)
}

/// An id as far as `numbers` say; those that go on come after it.
fn id<const N: usize>(key: &Key, numbers: [u64; N]) -> Array {
    let id = array([key.repo.as_str(), &key.etag]);
    for number in numbers {
        id.push(&(number as f64).into());
    }
    id
}
